//! A shared budget of bytes, and the rule that chooses which holder is evicted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use service::connection::Peer;
use tokio::sync::Notify;

use crate::access::Client;

/// How late a holder may be before it is evicted for a waiting one, and how long a holder waits before one of the
/// client that holds the most is evicted for it. Longer than the stalls of a healthy network.
const EVICTION_DELAY: Duration = Duration::from_millis(250);
/// The same for a holder whose client holds less than the waiting client would.
const LONG_EVICTION_DELAY: Duration = Duration::from_secs(2);
/// A body that arrives slower than this is late. Bytes per second.
const BODY_RATE: f64 = (1 << 20) as f64;
/// How often a waiting holder tries again, and looks for a holder to evict.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);

/// A holder of bytes.
#[derive(Debug, Clone)]
pub(crate) enum Holder {
    /// A body that is being read, of at most so many bytes.
    Body(u64),
    /// An answer that is being sent to this peer.
    Answer(Peer),
    /// Bytes that wait for this daemon and not for a client: this holder is never evicted.
    Pinned,
}

/// A total budget of bytes, and a share for each client.
#[derive(Debug)]
pub(super) struct Buffer {
    total: u64,
    share: u64,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Bytes by client, without clients that hold none.
    by_client: BTreeMap<Client, u64>,
    next: u64,
    holders: BTreeMap<u64, Entry>,
    /// Holders that were evicted and have not left yet. Every waiting holder reads this many times a second.
    evicted_count: usize,
}

#[derive(Debug)]
struct Entry {
    holder: Holder,
    client: Client,
    bytes: u64,
    since: Instant,
    /// Its number in the order in which the holders got their first bytes.
    order: Option<u64>,
    /// The total time for which it waited for space. This time does not count as lateness.
    waited: Duration,
    /// The bytes that it waits for now.
    request: Option<Request>,
    eviction: Arc<Eviction>,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    since: Instant,
    bytes: u64,
    /// How many bytes must be free in the buffer for it to get them; `None` while its client's share is full.
    free: Option<u64>,
}

/// Whether a holder was evicted.
#[derive(Debug, Default)]
struct Eviction {
    flag: AtomicBool,
    notify: Notify,
}

/// A reservation of bytes in a [`Buffer`]. Dropping it releases them.
#[derive(Debug)]
pub(crate) struct Reservation {
    buffer: Arc<Buffer>,
    id: u64,
    eviction: Arc<Eviction>,
}

/// The holder was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evicted;

impl Buffer {
    /// The share of a client is half of the budget, and at least `largest`, the size of the largest holder.
    pub(super) fn new(total: u64, largest: u64) -> Arc<Self> {
        let share = (total / 2).max(largest);
        Arc::new(Self { total, share, state: Mutex::default(), freed: Notify::new() })
    }

    /// Adds a holder, whose reservation has 0 bytes.
    pub(super) fn register(self: &Arc<Self>, holder: Holder, client: Client) -> Reservation {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        let eviction = Arc::<Eviction>::default();
        let entry = Entry {
            holder,
            client,
            bytes: 0,
            since: Instant::now(),
            order: None,
            waited: Duration::ZERO,
            request: None,
            eviction: eviction.clone(),
        };
        state.holders.insert(id, entry);
        Reservation { buffer: self.clone(), id, eviction }
    }

    /// Reserves the bytes and returns true, or evicts at most one holder and returns false.
    fn try_grow(&self, id: u64, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let Some(client) = state.holders.get(&id).map(|own| own.client) else { return false };
        let held = state.bytes_of(client);
        // This runs many times a second while the buffer is full, so the holders are not searched then.
        let is_full = state.used + bytes > self.total || held + bytes > self.share;
        let (reserved_of_client, reserved) =
            if is_full { (0, 0) } else { state.reserved_for_earlier(id) };
        let free = bytes + reserved;
        let is_in_share = held + bytes + reserved_of_client <= self.share;
        let fits = state.used + free <= self.total;
        if fits && is_in_share && !state.has_smaller_waiter(client, bytes, self.total) {
            state.used += bytes;
            *state.by_client.entry(client).or_default() += bytes;
            let order = state.next;
            state.next += 1;
            if let Some(own) = state.holders.get_mut(&id) {
                own.order.get_or_insert(order);
                own.bytes += bytes;
                own.waited += own.waiting_time(Instant::now());
                own.request = None;
            }
            return true;
        }
        if let Some(own) = state.holders.get_mut(&id) {
            let since = own.request.map_or_else(Instant::now, |wanted| wanted.since);
            own.request = Some(Request { since, bytes, free: is_in_share.then_some(free) });
        }
        if let Some(entry) = state.eviction_candidate(id, bytes, is_in_share) {
            entry.evict();
            state.evicted_count += 1;
        }
        false
    }
}

impl State {
    fn bytes_of(&self, client: Client) -> u64 {
        self.by_client.get(&client).copied().unwrap_or_default()
    }

    /// How many bytes the holder must leave free, of its client's share and of the whole, so that each body that began
    /// before it can be finished. Without this, bodies that each hold a part could fill the buffer and deadlock.
    fn reserved_for_earlier(&self, id: u64) -> (u64, u64) {
        let mut reserved = (0, 0);
        let Some(own) = self.holders.get(&id) else { return reserved };
        for other in self.holders.values() {
            if other.order.is_some_and(|order| own.order.is_none_or(|own| order < own)) {
                let remaining = other.remaining();
                reserved.1 = remaining.max(reserved.1);
                if other.client == own.client {
                    reserved.0 = remaining.max(reserved.0);
                }
            }
        }
        reserved
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.holders.remove(&id) else { return };
        self.used -= entry.bytes;
        self.evicted_count -= usize::from(entry.eviction.flag.load(Ordering::Relaxed));
        if let Some(held) = self.by_client.get_mut(&entry.client) {
            *held -= entry.bytes;
            if *held == 0 {
                self.by_client.remove(&entry.client);
            }
        }
    }

    /// Whether another holder waits, fits, and belongs to a client that would hold less. Such a holder goes first.
    fn has_smaller_waiter(&self, client: Client, bytes: u64, total: u64) -> bool {
        let mut waiting = self
            .holders
            .values()
            .filter(|other| other.client != client)
            .filter_map(|other| Some((other.client, other.request?)))
            .peekable();
        if waiting.peek().is_none() {
            return false;
        }
        let own = self.bytes_of(client) + bytes;
        waiting.any(|(other, wanted)| {
            wanted.free.is_some_and(|free| self.used + free <= total)
                && self.bytes_of(other) + wanted.bytes < own
        })
    }

    /// The holder to evict for this one: the one that is the most behind, if it is late; else the largest of the client
    /// that holds the most, if this holder has waited long enough and its client would hold less. `None` while an
    /// evicted holder has not left yet.
    fn eviction_candidate(&self, id: u64, bytes: u64, is_in_share: bool) -> Option<&Entry> {
        if self.evicted_count > 0 {
            return None;
        }
        let now = Instant::now();
        let own = self.holders.get(&id)?;
        let others = || {
            self.holders.iter().filter(|(other, entry)| {
                **other != id
                    && entry.bytes > 0
                    && !matches!(entry.holder, Holder::Pinned)
                    && (is_in_share || entry.client == own.client)
            })
        };
        let wanted = self.bytes_of(own.client) + bytes;
        // Clients that hold less than the waiting client get more time, because on a busy machine every holder is late.
        let delay = |entry: &Entry| {
            let demand = self.bytes_of(entry.client) + entry.remaining();
            if demand < wanted { LONG_EVICTION_DELAY } else { EVICTION_DELAY }
        };
        let late = others().map(|(_, entry)| (entry.lateness(now), entry));
        let late = late.filter(|(late, _)| *late >= EVICTION_DELAY);
        let latest = late.filter(|(late, entry)| *late >= delay(entry));
        if let Some((_, entry)) = latest.max_by_key(|(late, _)| *late) {
            return Some(entry);
        }
        if !is_in_share || own.waited + own.waiting_time(now) < EVICTION_DELAY {
            return None;
        }
        let most = others()
            .map(|(_, entry)| (self.bytes_of(entry.client), entry.bytes, entry))
            .max_by_key(|&(of_client, bytes, _)| (of_client, bytes));
        most.filter(|&(of_client, _, _)| of_client > wanted).map(|(_, _, entry)| entry)
    }
}

impl Entry {
    /// The bytes that a body may still need. Later holders leave them free.
    fn remaining(&self) -> u64 {
        match self.holder {
            Holder::Body(most) => most.saturating_sub(self.bytes),
            Holder::Answer(_) | Holder::Pinned => 0,
        }
    }

    /// How long it has been waiting for its present request.
    fn waiting_time(&self, now: Instant) -> Duration {
        self.request.map_or(Duration::ZERO, |wanted| now.saturating_duration_since(wanted.since))
    }

    /// How far the client is behind the rate at which it must send or receive.
    fn lateness(&self, now: Instant) -> Duration {
        match &self.holder {
            Holder::Answer(peer) => peer.behind(),
            Holder::Pinned => Duration::ZERO,
            Holder::Body(_) => {
                let due = Duration::from_secs_f64(self.bytes as f64 / BODY_RATE);
                let here = now.saturating_duration_since(self.since);
                here.saturating_sub(self.waited + self.waiting_time(now) + due)
            }
        }
    }

    fn evict(&self) {
        match &self.holder {
            Holder::Answer(peer) => peer.close(),
            Holder::Body(_) => self.eviction.notify.notify_one(),
            Holder::Pinned => {}
        }
        self.eviction.flag.store(true, Ordering::Relaxed);
    }
}

impl Reservation {
    /// Reserves `bytes` more if the buffer has the space now.
    pub(crate) fn try_grow(&mut self, bytes: u64) -> bool {
        self.buffer.try_grow(self.id, bytes)
    }

    /// Waits until the buffer has space for `bytes` more, or until this holder is evicted.
    pub(crate) async fn grow(&mut self, bytes: u64) -> Result<(), Evicted> {
        loop {
            let freed = self.buffer.freed.notified();
            if self.eviction.flag.load(Ordering::Relaxed) {
                return Err(Evicted);
            }
            if self.buffer.try_grow(self.id, bytes) {
                return Ok(());
            }
            // Try again in both cases, after a release and after the timeout.
            let _ = tokio::time::timeout(RETRY_INTERVAL, freed).await;
        }
    }

    /// The body has arrived. From now on it waits for this daemon, and is not evicted.
    pub(crate) fn complete(&mut self) -> Result<(), Evicted> {
        let mut state = self.buffer.state.lock();
        if self.eviction.flag.load(Ordering::Relaxed) {
            return Err(Evicted);
        }
        let mut remaining = 0;
        if let Some(own) = state.holders.get_mut(&self.id) {
            remaining = own.remaining();
            own.holder = Holder::Pinned;
        }
        drop(state);
        if remaining > 0 {
            // The body was shorter than it might have been, so the space that was left free for it is available.
            self.buffer.freed.notify_waiters();
        }
        Ok(())
    }

    /// Whether it ever waited for space.
    pub(crate) fn has_waited(&self) -> bool {
        let state = self.buffer.state.lock();
        state.holders.get(&self.id).is_some_and(|own| !own.waited.is_zero())
    }

    /// Waits until this holder is evicted.
    pub(crate) async fn evicted(&self) {
        self.eviction.notify.notified().await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.buffer.state.lock().remove(self.id);
        self.buffer.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::client;
    use tokio::time::timeout;

    async fn fits(reservation: &mut Reservation, bytes: u64) -> bool {
        timeout(Duration::from_millis(60), reservation.grow(bytes)).await == Ok(Ok(()))
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_no_more() {
        let buffer = Buffer::new(100, 10);
        let mut first = buffer.register(Holder::Body(50), client(1));
        let mut second = buffer.register(Holder::Body(50), client(1));
        let mut other = buffer.register(Holder::Body(50), client(2));
        assert!(fits(&mut first, 50).await);
        assert!(!fits(&mut second, 1).await);
        assert!(fits(&mut other, 50).await);
        assert!(!fits(&mut other, 1).await);
        drop(first);
        assert!(fits(&mut second, 50).await);
    }

    #[tokio::test]
    async fn bodies_that_fill_the_room_together_are_all_finished() {
        for clients in [1, 30] {
            let buffer = Buffer::new(100, 10);
            let mut bodies = tokio::task::JoinSet::new();
            for number in 0..30 {
                let mut reservation = buffer.register(Holder::Body(10), client(number % clients));
                bodies.spawn(async move {
                    for _ in 0..5 {
                        reservation.grow(2).await?;
                        tokio::task::yield_now().await;
                    }
                    reservation.complete()
                });
            }
            let finished = timeout(Duration::from_secs(5), bodies.join_all()).await.unwrap();
            assert_eq!(finished, [Ok(()); 30], "{clients} clients");
        }
    }

    #[tokio::test]
    async fn a_body_that_was_announced_and_not_begun_takes_no_room() {
        let buffer = Buffer::new(100, 100);
        let _announced = buffer.register(Holder::Body(100), client(1));
        let mut begun = buffer.register(Holder::Body(100), client(1));
        assert!(fits(&mut begun, 1).await);
        let mut later = buffer.register(Holder::Body(100), client(1));
        assert!(!fits(&mut later, 1).await, "the rest of the first is kept free");
        assert!(fits(&mut begun, 99).await);
    }

    #[tokio::test]
    async fn a_body_that_keeps_room_free_and_stalls_gives_way_soon() {
        let buffer = Buffer::new(100, 100);
        let mut stalled = buffer.register(Holder::Body(100), client(1));
        assert!(fits(&mut stalled, 1).await);
        let mut waiting = buffer.register(Holder::Body(10), client(2));
        let growing = tokio::spawn(async move { waiting.grow(10).await });
        let soon = LONG_EVICTION_DELAY / 2;
        timeout(soon, stalled.evicted()).await.unwrap();
        drop(stalled);
        assert_eq!(timeout(soon, growing).await.unwrap().unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn who_holds_the_most_gives_way_to_who_has_waited() {
        let buffer = Buffer::new(100, 100);
        let mut large = buffer.register(Holder::Body(100), client(1));
        assert!(fits(&mut large, 60).await);
        let mut small = buffer.register(Holder::Body(25), client(2));
        // Both are waiting, so neither is late.
        let more = tokio::spawn(async move { large.grow(60).await });
        let growing = tokio::spawn(async move { small.grow(25).await });
        assert_eq!(timeout(Duration::from_secs(5), more).await.unwrap().unwrap(), Err(Evicted));
        assert_eq!(timeout(Duration::from_secs(5), growing).await.unwrap().unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn who_is_late_gives_way_to_who_waits() {
        let buffer = Buffer::new(100, 100);
        let mut slow = buffer.register(Holder::Body(100), client(1));
        assert!(fits(&mut slow, 100).await);
        let mut waiting = buffer.register(Holder::Body(100), client(2));
        let growing = tokio::spawn(async move { waiting.grow(80).await });
        timeout(Duration::from_secs(5), slow.evicted()).await.unwrap();
        assert!(!growing.is_finished());
        // A late holder is evicted also while it waits for more itself.
        assert_eq!(slow.grow(1).await, Err(Evicted));
        drop(slow);
        assert_eq!(timeout(Duration::from_secs(5), growing).await.unwrap().unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_body_that_has_arrived_is_not_evicted_in_the_place_of_a_slow_one() {
        let buffer = Buffer::new(100, 100);
        let mut whole = buffer.register(Holder::Body(100), client(1));
        assert!(fits(&mut whole, 60).await);
        whole.complete().unwrap();
        let mut slow = buffer.register(Holder::Body(100), client(2));
        assert!(fits(&mut slow, 40).await);
        let mut waiting = buffer.register(Holder::Body(100), client(3));
        let growing = tokio::spawn(async move { waiting.grow(30).await });
        timeout(Duration::from_secs(5), slow.evicted()).await.unwrap();
        assert_eq!(slow.complete(), Err(Evicted));
        drop(slow);
        assert_eq!(timeout(Duration::from_secs(5), growing).await.unwrap().unwrap(), Ok(()));
    }
}
