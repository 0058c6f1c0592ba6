//! Combines small look-ups of several callers into one statement, as a group commit does for writes. A statement for one key
//! costs a round trip and the start of its plan, which is ten times the cost of a further key in the same statement.
//!
//! If a slot is free, a look-up is sent at once and alone, without waiting for others to join. While all slots are in use,
//! look-ups queue. The next free slot goes to a task, which sends the queued look-ups as one batch, and continues until the
//! queue is empty.

use std::collections::VecDeque;
use std::sync::Arc;

use model::{Publication, PublicationId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::lookup::Lookup;
use crate::Error;

/// The number of concurrent statements. While the server runs one statement, the task collects the next batch and hands
/// out the answers of the other. More slots would only make the batches smaller.
const SLOTS: usize = 2;
/// The maximum number of keys in a batch. The server needs two milliseconds for that many; the next look-ups wait as long.
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

/// A caller's queued look-up.
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
    /// Queues a look-up if no slot is free; else takes a slot and returns `None`.
    fn wait(&self, ids: &[PublicationId]) -> Option<oneshot::Receiver<Answer>> {
        let mut queue = self.queue.lock();
        if queue.used < SLOTS {
            queue.used += 1;
            return None;
        }
        let (answer, answered) = oneshot::channel();
        queue.waiting.push_back(Call { ids: ids.to_vec(), answer });
        Some(answered)
    }
}

impl Queue {
    /// Releases a slot. If it was the last one, waiting callers get an error, because dropping their calls fails them.
    fn release(&mut self) {
        self.used -= 1;
        if self.used == 0 {
            self.waiting.clear();
        }
    }
}

/// A slot with a single look-up, which the caller itself sends.
struct Alone<'a>(&'a Arc<Shared>);

/// Passes the slot on, also if the caller is cancelled.
impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        match Handle::try_current() {
            Ok(runtime) if !queue.waiting.is_empty() => {
                drop(queue);
                // A separate task, because the other look-ups must survive a caller that is cancelled.
                runtime.spawn(BatchTask { shared: self.0.clone(), is_released: false }.run());
            }
            _ => queue.release(),
        }
    }
}

/// A slot with the look-ups that waited.
#[derive(Debug)]
struct BatchTask {
    shared: Arc<Shared>,
    is_released: bool,
}

impl BatchTask {
    async fn run(mut self) {
        loop {
            // Let callers whose requests have arrived but are not read yet join: this yields to ready tasks, without a delay.
            tokio::task::yield_now().await;
            match self.take_batch() {
                Some(calls) => self.send(calls).await,
                None => break,
            }
        }
    }

    /// Takes as many waiting look-ups as fit into a batch. If there are none, releases the slot and returns `None`.
    fn take_batch(&mut self) -> Option<Vec<Call>> {
        let mut queue = self.shared.queue.lock();
        let (mut calls, mut keys) = (Vec::new(), 0);
        let fits = |call: &Call, keys: usize| keys == 0 || keys + call.ids.len() <= BATCH;
        while let Some(call) = queue.waiting.pop_front_if(|call| fits(call, keys)) {
            // Skip a caller that was cancelled while it waited.
            if !call.answer.is_closed() {
                keys += call.ids.len();
                calls.push(call);
            }
        }
        if calls.is_empty() {
            // Under the same lock, so that the next call finds either a task that checks the queue again or a free slot.
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
            // Dropping the statement closes its connection, which may be dead without an error.
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

/// If the task panicked or the runtime ends, the other slot takes the waiting look-ups.
impl Drop for BatchTask {
    fn drop(&mut self) {
        if !self.is_released {
            self.shared.queue.lock().release();
        }
    }
}

#[cfg(test)]
mod tests;
