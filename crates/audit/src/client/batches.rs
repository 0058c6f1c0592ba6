//! Requests for many publications: in parallel batches, which are halved when a limit of the service requires it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::PublicationId;

use super::{Client, Failure, Unanswered};
use crate::answer::Package;

/// Publications in one request. The service accepts 5,000 by default; smaller batches run in parallel.
const BATCH: usize = 1_000;
/// Requests in parallel.
const WORKERS: usize = 4;

/// The results for all publications.
#[derive(Debug, Default)]
pub struct Answered {
    /// The answers; `None` where there is no record.
    pub packages: BTreeMap<PublicationId, Option<Package>>,
    /// The publications without an answer, and the reasons.
    pub unanswered: BTreeMap<PublicationId, Unanswered>,
}

/// Requests all publications. `progress` is called with the number of publications that were just finished.
pub fn ask_all(
    client: &Client,
    ids: &[PublicationId],
    progress: &(dyn Fn(usize) + Sync),
) -> Answered {
    // Batches of equal size, so that no request is spent on a small rest.
    let batches = ids.len().div_ceil(BATCH).max(1);
    let size = ids.len().div_ceil(batches).max(1);
    let job = Job {
        client,
        progress,
        waiting: Mutex::new(ids.chunks(size).rev().collect()),
        done: Mutex::default(),
        stop: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(batches) {
            scope.spawn(|| job.work());
        }
    });
    job.done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Job<'a> {
    client: &'a Client,
    progress: &'a (dyn Fn(usize) + Sync),
    waiting: Mutex<Vec<&'a [PublicationId]>>,
    done: Mutex<Answered>,
    /// Why no more requests are sent.
    stop: Mutex<Option<Unanswered>>,
}

impl<'a> Job<'a> {
    fn work(&self) {
        loop {
            // Release the lock before the request.
            let next = lock(&self.waiting).pop();
            let Some(ids) = next else { return };
            self.batch(ids);
        }
    }

    /// Requests a batch, or its two halves when it is too large.
    fn batch(&self, ids: &'a [PublicationId]) {
        let stop = lock(&self.stop).clone();
        let result = match stop {
            Some(why) => Err(Failure::Final(why)),
            None => self.client.packages(ids),
        };
        match result {
            Ok(packages) => {
                lock(&self.done).packages.extend(ids.iter().cloned().zip(packages));
                (self.progress)(ids.len());
            }
            Err(Failure::TooLarge(_)) if ids.len() > 1 => {
                let (one, other) = ids.split_at(ids.len() / 2);
                self.batch(one);
                self.batch(other);
            }
            Err(failure) => {
                let why = match failure {
                    Failure::TooLarge(limit) => Unanswered::Limit(limit),
                    Failure::Final(why) | Failure::Passing(why, _) => why,
                };
                if why.is_for_all() {
                    lock(&self.stop).get_or_insert_with(|| why.clone());
                }
                let missing = ids.iter().map(|id| (id.clone(), why.clone()));
                lock(&self.done).unanswered.extend(missing);
                (self.progress)(ids.len());
            }
        }
    }
}

/// Ignores poisoning, because a worker that panics leaves no partial entry.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
