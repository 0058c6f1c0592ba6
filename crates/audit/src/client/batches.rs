//! Many publications: in batches, several at the same time, in halves where a limit of the service asks for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::PublicationId;

use super::{Client, Failure, Unanswered};
use crate::answer::Package;

/// Publications in one request. The service takes 5,000 by default; smaller batches are answered at the same time.
const BATCH: usize = 1_000;
/// Requests at the same time.
const WORKERS: usize = 4;

/// What came back.
#[derive(Debug, Default)]
pub struct Answered {
    /// The answers; none where there is no record.
    pub packages: BTreeMap<PublicationId, Option<Package>>,
    /// What was not answered, and why.
    pub unanswered: BTreeMap<PublicationId, Unanswered>,
}

/// Asks about all publications. `progress` is called with how many more are done.
pub fn ask_all(
    client: &Client,
    ids: &[PublicationId],
    progress: &(dyn Fn(usize) + Sync),
) -> Answered {
    // Batches of one size: the last must not be a small rest that costs a request of its own.
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
    /// Why nothing more is asked.
    stop: Mutex<Option<Unanswered>>,
}

impl<'a> Job<'a> {
    fn work(&self) {
        loop {
            // The lock must not be held while the batch is asked about.
            let next = lock(&self.waiting).pop();
            let Some(ids) = next else { return };
            self.batch(ids);
        }
    }

    /// Asks about a batch; where it is too large, about its halves.
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

/// A worker that panicked leaves whole batches or nothing behind, so that the value can be used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
