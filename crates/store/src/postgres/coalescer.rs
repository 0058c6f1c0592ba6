//! Small look-ups of several callers in one statement, as a group commit does it for writes. A statement by one key
//! costs its way to the server and back and the start of its plan, ten times what another key in it costs.
//!
//! A look-up is sent at once, by itself, where a slot is free: no look-up waits for others to join it. While all slots are in
//! use it waits, with the others that come. The first slot that is free again goes to a task, which sends all that wait as one
//! batch, and goes on for as long as look-ups wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Publication, PublicationId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::lookup::Lookup;
use crate::Error;

/// Statements that are sent at the same time. While one is with the server, the next batch is collected and the answers of
/// the other are handed out; with more slots each batch only has fewer look-ups.
const SLOTS: usize = 2;
/// Keys in a batch. The server needs two milliseconds for so many, which is how long the next look-ups wait.
const BATCH: usize = 256;

type Answer = Result<Vec<Option<Publication>>, Error>;

/// Look-ups that share statements.
#[derive(Debug)]
pub(super) struct LookupCoalescer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lookup: Arc<Lookup>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Call>,
    used: usize,
}

/// A caller's look-up that waits.
#[derive(Debug)]
struct Call {
    ids: Vec<PublicationId>,
    answer: oneshot::Sender<Answer>,
}

impl LookupCoalescer {
    pub(super) fn new(lookup: Arc<Lookup>) -> Self {
        Self { shared: Arc::new(Shared { lookup, queue: Mutex::default() }) }
    }

    pub(super) async fn find(&self, ids: &[PublicationId]) -> Answer {
        if let Some(answered) = self.shared.wait(ids) {
            return answered.await.unwrap_or_else(|_| Err(Error::transient("a look-up was lost")));
        }
        let _alone = Alone(&self.shared);
        self.shared.lookup.find(ids.iter()).await?.into_iter().collect()
    }
}

impl Shared {
    /// Queues a look-up where no slot is free; else the look-up takes one.
    fn wait(&self, ids: &[PublicationId]) -> Option<oneshot::Receiver<Answer>> {
        let mut queue = self.lock();
        if queue.used < SLOTS {
            queue.used += 1;
            return None;
        }
        let (answer, answered) = oneshot::channel();
        queue.waiting.push_back(Call { ids: ids.to_vec(), answer });
        Some(answered)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Releases a slot. If it was the last one, waiting callers get an error: a call that is dropped fails.
    fn release(&mut self) {
        self.used -= 1;
        if self.used == 0 {
            self.waiting.clear();
        }
    }
}

/// A slot with one look-up, which the caller itself sends.
struct Alone<'a>(&'a Arc<Shared>);

/// Also when the caller gives up.
impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        match Handle::try_current() {
            Ok(runtime) if !queue.waiting.is_empty() => {
                drop(queue);
                // A task, since a caller that gives up must not end what others wait for.
                runtime.spawn(BatchTask { shared: self.0.clone(), is_released: false }.run());
            }
            _ => queue.release(),
        }
    }
}

/// A slot with those that waited.
#[derive(Debug)]
struct BatchTask {
    shared: Arc<Shared>,
    is_released: bool,
}

impl BatchTask {
    async fn run(mut self) {
        loop {
            // Requests that have arrived and are not read yet come along: this waits for what is ready, not for time.
            tokio::task::yield_now().await;
            match self.take_batch() {
                Some(calls) => self.send(calls).await,
                None => break,
            }
        }
    }

    /// Takes as many waiting look-ups as fit into a batch; none when none waits, which releases the slot.
    fn take_batch(&mut self) -> Option<Vec<Call>> {
        let mut queue = self.shared.lock();
        let (mut calls, mut keys) = (Vec::new(), 0);
        let fits = |call: &Call, keys: usize| keys == 0 || keys + call.ids.len() <= BATCH;
        while let Some(call) = queue.waiting.pop_front_if(|call| fits(call, keys)) {
            // A caller that gave up while waiting is left out.
            if !call.answer.is_closed() {
                keys += call.ids.len();
                calls.push(call);
            }
        }
        if calls.is_empty() {
            // Under the same lock, so that the next call finds either a task that will look again or a free slot.
            queue.release();
            self.is_released = true;
            return None;
        }
        Some(calls)
    }

    async fn send(&self, calls: Vec<Call>) {
        let (keys, mut answers): (Vec<_>, Vec<_>) =
            calls.into_iter().map(|call| (call.ids, call.answer)).unzip();
        let all_gave_up = async {
            for answer in &mut answers {
                answer.closed().await;
            }
        };
        let found = tokio::select! {
            biased;
            found = self.shared.lookup.find(keys.iter().flatten()) => found,
            // The connection goes with the statement: it may be dead without a word.
            () = all_gave_up => return,
        };
        match found {
            Ok(mut found) => {
                for (ids, answer) in keys.iter().zip(answers) {
                    let _ = answer.send(found.drain(..ids.len()).collect());
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// The task panicked, or the runtime ends. The other slot takes the look-ups that wait.
impl Drop for BatchTask {
    fn drop(&mut self) {
        if !self.is_released {
            self.shared.lock().release();
        }
    }
}

#[cfg(test)]
mod tests;
