//! Small look-ups of several callers in one statement, as a group commit does it for writes. A statement by one key
//! costs its way to the server and back and the start of its plan, ten times what another key in it costs.
//!
//! A look-up leaves at once, by itself, where a flight is free, so that nobody ever waits for company. While all are
//! out it waits, with the others that come, for the first to land: a task then takes them all, and goes on for as long
//! as somebody waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Publication, PublicationId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::read::Lookup;
use crate::Error;

/// Statements on their way at the same time. While one is with the server, the other is filled and its answers are
/// given out; more of them only leave with fewer look-ups each.
const FLIGHTS: usize = 2;
/// Keys in a statement that several share. The server has them in two milliseconds: so long those behind them wait.
const SEATS: usize = 256;

type Answer = Result<Vec<Option<Publication>>, Error>;

/// Look-ups that share statements.
#[derive(Debug)]
pub(super) struct Flights {
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
    flying: usize,
}

/// A caller's look-up that waits.
#[derive(Debug)]
struct Call {
    ids: Vec<PublicationId>,
    answer: oneshot::Sender<Answer>,
}

impl Flights {
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
    /// Queues a look-up where all flights are out; else it has one.
    fn wait(&self, ids: &[PublicationId]) -> Option<oneshot::Receiver<Answer>> {
        let mut queue = self.lock();
        if queue.flying < FLIGHTS {
            queue.flying += 1;
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
    /// Gives a flight up. Who still waits behind the last one is told: a call that is dropped fails.
    fn land(&mut self) {
        self.flying -= 1;
        if self.flying == 0 {
            self.waiting.clear();
        }
    }
}

/// A flight with one look-up, in its caller's own hands.
struct Alone<'a>(&'a Arc<Shared>);

/// Also when the caller gives up.
impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        match Handle::try_current() {
            Ok(runtime) if !queue.waiting.is_empty() => {
                drop(queue);
                // A task, since a caller that gives up must not end what others wait for.
                runtime.spawn(Flight { shared: self.0.clone(), landed: false }.run());
            }
            _ => queue.land(),
        }
    }
}

/// A flight with those that waited.
#[derive(Debug)]
struct Flight {
    shared: Arc<Shared>,
    landed: bool,
}

impl Flight {
    async fn run(mut self) {
        loop {
            // Requests that have arrived and are not read yet come along: this waits for what is ready, not for time.
            tokio::task::yield_now().await;
            match self.board() {
                Some(calls) => self.fly(calls).await,
                None => break,
            }
        }
    }

    /// Takes whom it has seats for; nobody when nobody waits, which ends the flight.
    fn board(&mut self) -> Option<Vec<Call>> {
        let mut queue = self.shared.lock();
        let (mut calls, mut keys) = (Vec::new(), 0);
        let fits = |call: &Call, keys: usize| keys == 0 || keys + call.ids.len() <= SEATS;
        while let Some(call) = queue.waiting.pop_front_if(|call| fits(call, keys)) {
            // Who gave up while waiting is not looked up.
            if !call.answer.is_closed() {
                keys += call.ids.len();
                calls.push(call);
            }
        }
        if calls.is_empty() {
            // Under the same lock, so that the next call finds either a flight that will look again or a free one.
            queue.land();
            self.landed = true;
            return None;
        }
        Some(calls)
    }

    async fn fly(&self, calls: Vec<Call>) {
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
                    let _ = answer.send(Err(error.duplicate()));
                }
            }
        }
    }
}

/// It panicked, or the runtime ends. Another flight takes who waits.
impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            self.shared.lock().land();
        }
    }
}

#[cfg(test)]
mod tests;
