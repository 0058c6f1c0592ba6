//! A semaphore that is fair among clients.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::access::Client;

/// A semaphore in whose queue every client has one request at most; its other requests wait for that one. So a client waits
/// for one request of each other client, and not for all requests that they have sent.
#[derive(Debug)]
pub(super) struct FairSemaphore {
    permits: Semaphore,
    /// The one slot of each client in the queue. Only clients that wait are here.
    slots: Mutex<HashMap<Client, Arc<Semaphore>>>,
}

/// The slot of a client. It is removed when the client's last request has left.
struct Queued<'a> {
    semaphore: &'a FairSemaphore,
    client: Client,
    slot: Arc<Semaphore>,
}

impl FairSemaphore {
    pub(super) fn new(permits: usize) -> Self {
        Self { permits: Semaphore::new(permits), slots: Mutex::default() }
    }

    /// Waits for one permit. `None` never happens, because the semaphore is never closed.
    pub(super) async fn acquire(&self, client: Client) -> Option<SemaphorePermit<'_>> {
        self.acquire_many(client, 1).await
    }

    /// Waits for so many permits.
    pub(super) async fn acquire_many(
        &self,
        client: Client,
        count: u32,
    ) -> Option<SemaphorePermit<'_>> {
        // This overtakes nobody, because no permit is free while others wait.
        if let Ok(permit) = self.permits.try_acquire_many(count) {
            return Some(permit);
        }
        let queued = self.queued(client);
        let _slot = queued.slot.acquire().await.ok();
        self.permits.acquire_many(count).await.ok()
    }

    fn queued(&self, client: Client) -> Queued<'_> {
        let mut slots = self.slots.lock();
        let slot = slots.entry(client).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        Queued { semaphore: self, client, slot }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut slots = self.semaphore.slots.lock();
        // One reference is in the map, the other is this.
        if Arc::strong_count(&self.slot) <= 2 {
            slots.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::client;
    use std::task::Poll;

    #[tokio::test]
    async fn a_client_waits_for_one_request_of_each_other_client() {
        let semaphore = FairSemaphore::new(2);
        let mut held = semaphore.acquire_many(client(1), 2).await;
        // Three requests of each of two clients, then one of a third.
        let numbers = [1, 1, 1, 2, 2, 2, 3];
        let mut waiting: Vec<_> = numbers
            .map(|number| (number, Box::pin(semaphore.acquire_many(client(number), 2))))
            .into();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let mut granted = None;
            for (place, (_, request)) in waiting.iter_mut().enumerate() {
                if let Poll::Ready(permit) = futures_util::poll!(request) {
                    granted = Some((place, permit));
                }
            }
            let Some((place, permit)) = granted else {
                held = None;
                continue;
            };
            assert!(held.is_none(), "granted while all permits are taken");
            order.push(waiting.remove(place).0);
            held = permit;
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1, 2]);
        assert!(semaphore.slots.lock().is_empty());
    }

    #[tokio::test]
    async fn a_request_that_gives_up_leaves_its_place_to_the_next() {
        let semaphore = FairSemaphore::new(1);
        let held = semaphore.acquire(client(1)).await;
        let mut first = Box::pin(semaphore.acquire(client(2)));
        let mut second = Box::pin(semaphore.acquire(client(2)));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(held);
        assert!(second.await.is_some());
        assert!(semaphore.slots.lock().is_empty());
    }
}
