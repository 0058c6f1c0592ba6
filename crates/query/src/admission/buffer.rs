//! A shared budget of bytes, and the rule that chooses which holder is evicted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use service::connection::Peer;
use tokio::sync::Notify;

use crate::access::Client;

/// How late a holder may be before it is evicted for a waiting one, and how long a holder waits before it may evict a
/// client that holds more than its share. Longer than the stalls of a healthy network.
const PATIENCE: Duration = Duration::from_millis(250);
/// The same for a holder whose client holds less than the waiting client would.
const LONG_PATIENCE: Duration = Duration::from_secs(2);
/// A body that arrives slower than this is late. Bytes per second.
const BODY_RATE: f64 = (1 << 20) as f64;
/// How often a waiting holder looks for one to evict.
const LOOK: Duration = Duration::from_millis(25);

/// A holder of bytes.
#[derive(Debug, Clone)]
pub(crate) enum Holder {
    /// A body that is being read, of at most so many bytes.
    Body(u64),
    /// An answer that is being sent to this peer.
    Answer(Peer),
    /// Bytes that wait for this daemon: nobody can be evicted for them.
    Waiting,
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
    leaving: usize,
}

#[derive(Debug)]
struct Entry {
    holder: Holder,
    client: Client,
    bytes: u64,
    since: Instant,
    /// Its place in the order in which the holders got their first bytes.
    turn: Option<u64>,
    /// Total time it waited for room. This time does not count as lateness.
    waited: Duration,
    /// What it waits for now.
    waits_for: Option<Wanted>,
    evicted: Arc<Evicted>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    since: Instant,
    bytes: u64,
    /// How many bytes must be free in the room for it to get them; `None` while its client's share is full.
    free: Option<u64>,
}

/// Whether a holder was evicted.
#[derive(Debug, Default)]
struct Evicted {
    flag: AtomicBool,
    notify: Notify,
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Buffer>,
    id: u64,
    evicted: Arc<Evicted>,
}

/// The holder was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GivenUp;

impl Buffer {
    /// The share of a client is half of the budget, and at least `largest`, the size of the largest holder.
    pub(super) fn new(total: u64, largest: u64) -> Arc<Self> {
        let share = (total / 2).max(largest);
        Arc::new(Self { total, share, state: Mutex::default(), freed: Notify::new() })
    }

    /// A place with 0 bytes.
    pub(super) fn enter(self: &Arc<Self>, holder: Holder, client: Client) -> Place {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        let evicted = Arc::<Evicted>::default();
        let entry = Entry {
            holder,
            client,
            bytes: 0,
            since: Instant::now(),
            turn: None,
            waited: Duration::ZERO,
            waits_for: None,
            evicted: evicted.clone(),
        };
        state.holders.insert(id, entry);
        Place { room: self.clone(), id, evicted }
    }

    /// Takes the bytes and returns true, or evicts at most one holder and returns false.
    fn try_grow(&self, id: u64, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let Some(client) = state.holders.get(&id).map(|own| own.client) else { return false };
        let held = state.bytes_of(client);
        // A full room is asked many times a second, so it is not searched.
        let is_full = state.used + bytes > self.total || held + bytes > self.share;
        let (kept_of_client, kept) = if is_full { (0, 0) } else { state.kept_for_earlier(id) };
        let free = bytes + kept;
        let is_share = held + bytes + kept_of_client <= self.share;
        let fits = state.used + free <= self.total;
        if fits && is_share && !state.has_smaller_waiting(client, bytes, self.total) {
            state.used += bytes;
            *state.by_client.entry(client).or_default() += bytes;
            let turn = state.next;
            state.next += 1;
            if let Some(own) = state.holders.get_mut(&id) {
                own.turn.get_or_insert(turn);
                own.bytes += bytes;
                own.waited += own.waits(Instant::now());
                own.waits_for = None;
            }
            return true;
        }
        if let Some(own) = state.holders.get_mut(&id) {
            let since = own.waits_for.map_or_else(Instant::now, |wanted| wanted.since);
            own.waits_for = Some(Wanted { since, bytes, free: is_share.then_some(free) });
        }
        if let Some(entry) = state.in_the_way(id, bytes, is_share) {
            entry.evict();
            state.leaving += 1;
        }
        false
    }
}

impl State {
    fn bytes_of(&self, client: Client) -> u64 {
        self.by_client.get(&client).copied().unwrap_or_default()
    }

    /// How many bytes the holder must leave free, of its client's share and of the whole, so that each body that began
    /// before it can be finished. Without this, bodies that each hold a part could fill the room and wait for each other.
    fn kept_for_earlier(&self, id: u64) -> (u64, u64) {
        let mut kept = (0, 0);
        let Some(own) = self.holders.get(&id) else { return kept };
        for other in self.holders.values() {
            if other.turn.is_some_and(|turn| own.turn.is_none_or(|own| turn < own)) {
                let rest = other.rest();
                kept.1 = rest.max(kept.1);
                if other.client == own.client {
                    kept.0 = rest.max(kept.0);
                }
            }
        }
        kept
    }

    fn leave(&mut self, id: u64) {
        let Some(entry) = self.holders.remove(&id) else { return };
        self.used -= entry.bytes;
        self.leaving -= usize::from(entry.evicted.flag.load(Ordering::Relaxed));
        if let Some(held) = self.by_client.get_mut(&entry.client) {
            *held -= entry.bytes;
            if *held == 0 {
                self.by_client.remove(&entry.client);
            }
        }
    }

    /// Whether another holder waits, fits, and belongs to a client that would hold less. Such a holder goes first.
    fn has_smaller_waiting(&self, client: Client, bytes: u64, total: u64) -> bool {
        let mut waiting = self
            .holders
            .values()
            .filter(|other| other.client != client)
            .filter_map(|other| Some((other.client, other.waits_for?)))
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

    /// The holder to evict for this one: the latest; else one of the client that holds the most, when this holder has
    /// waited long enough and its client would hold less. `None` while an evicted holder has not left yet.
    fn in_the_way(&self, id: u64, bytes: u64, is_share: bool) -> Option<&Entry> {
        if self.leaving > 0 {
            return None;
        }
        let now = Instant::now();
        let own = self.holders.get(&id)?;
        let others = || {
            self.holders.iter().filter(|(other, entry)| {
                **other != id
                    && entry.bytes > 0
                    && !matches!(entry.holder, Holder::Waiting)
                    && (is_share || entry.client == own.client)
            })
        };
        let wanted = self.bytes_of(own.client) + bytes;
        // Clients that take less room than the waiting one get more time, because on a busy machine every holder is late.
        let patience = |entry: &Entry| {
            let takes = self.bytes_of(entry.client) + entry.rest();
            if takes < wanted { LONG_PATIENCE } else { PATIENCE }
        };
        let late = others().map(|(_, entry)| (entry.late(now), entry));
        let late = late.filter(|(late, _)| *late >= PATIENCE);
        let latest = late.filter(|(late, entry)| *late >= patience(entry));
        if let Some((_, entry)) = latest.max_by_key(|(late, _)| *late) {
            return Some(entry);
        }
        if !is_share || own.waited + own.waits(now) < PATIENCE {
            return None;
        }
        let most = others()
            .map(|(_, entry)| (self.bytes_of(entry.client), entry.bytes, entry))
            .max_by_key(|&(of_client, bytes, _)| (of_client, bytes));
        most.filter(|&(of_client, _, _)| of_client > wanted).map(|(_, _, entry)| entry)
    }
}

impl Entry {
    /// The bytes that a body may still get, which others leave free for it.
    fn rest(&self) -> u64 {
        match self.holder {
            Holder::Body(most) => most.saturating_sub(self.bytes),
            Holder::Answer(_) | Holder::Waiting => 0,
        }
    }

    /// How long it has been waiting now.
    fn waits(&self, now: Instant) -> Duration {
        self.waits_for.map_or(Duration::ZERO, |wanted| now.saturating_duration_since(wanted.since))
    }

    fn late(&self, now: Instant) -> Duration {
        match &self.holder {
            Holder::Answer(peer) => peer.behind(),
            Holder::Waiting => Duration::ZERO,
            Holder::Body(_) => {
                let due = Duration::from_secs_f64(self.bytes as f64 / BODY_RATE);
                let here = now.saturating_duration_since(self.since);
                here.saturating_sub(self.waited + self.waits(now) + due)
            }
        }
    }

    fn evict(&self) {
        match &self.holder {
            Holder::Answer(peer) => peer.cut(),
            Holder::Body(_) => self.evicted.notify.notify_one(),
            Holder::Waiting => {}
        }
        self.evicted.flag.store(true, Ordering::Relaxed);
    }
}

impl Place {
    /// Takes `bytes` more if there is room now.
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        self.room.try_grow(self.id, bytes)
    }

    /// Waits until there is room for `bytes` more, or until this holder is evicted.
    pub(crate) async fn grow(&mut self, bytes: u64) -> Result<(), GivenUp> {
        loop {
            let freed = self.room.freed.notified();
            if self.evicted.flag.load(Ordering::Relaxed) {
                return Err(GivenUp);
            }
            if self.room.try_grow(self.id, bytes) {
                return Ok(());
            }
            // Try again in both cases, after a release and after the timeout.
            let _ = tokio::time::timeout(LOOK, freed).await;
        }
    }

    /// The body has arrived. From now on it waits for this daemon, and is not evicted.
    pub(crate) fn arrived(&mut self) -> Result<(), GivenUp> {
        let mut state = self.room.state.lock();
        if self.evicted.flag.load(Ordering::Relaxed) {
            return Err(GivenUp);
        }
        let mut rest = 0;
        if let Some(own) = state.holders.get_mut(&self.id) {
            rest = own.rest();
            own.holder = Holder::Waiting;
        }
        drop(state);
        if rest > 0 {
            // It was shorter than it might have been, and what was kept free for it is free.
            self.room.freed.notify_waiters();
        }
        Ok(())
    }

    /// Whether it ever waited for room.
    pub(crate) fn has_waited(&self) -> bool {
        let state = self.room.state.lock();
        state.holders.get(&self.id).is_some_and(|own| !own.waited.is_zero())
    }

    /// Waits until this holder is evicted.
    pub(crate) async fn is_evicted(&self) {
        self.evicted.notify.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.state.lock().leave(self.id);
        self.room.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::client;
    use tokio::time::timeout;

    async fn fits(place: &mut Place, bytes: u64) -> bool {
        timeout(Duration::from_millis(60), place.grow(bytes)).await == Ok(Ok(()))
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_no_more() {
        let room = Buffer::new(100, 10);
        let mut first = room.enter(Holder::Body(50), client(1));
        let mut second = room.enter(Holder::Body(50), client(1));
        let mut other = room.enter(Holder::Body(50), client(2));
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
            let room = Buffer::new(100, 10);
            let mut bodies = tokio::task::JoinSet::new();
            for number in 0..30 {
                let mut place = room.enter(Holder::Body(10), client(number % clients));
                bodies.spawn(async move {
                    for _ in 0..5 {
                        place.grow(2).await?;
                        tokio::task::yield_now().await;
                    }
                    place.arrived()
                });
            }
            let finished = timeout(Duration::from_secs(5), bodies.join_all()).await.unwrap();
            assert_eq!(finished, [Ok(()); 30], "{clients} clients");
        }
    }

    #[tokio::test]
    async fn a_body_that_was_announced_and_not_begun_takes_no_room() {
        let room = Buffer::new(100, 100);
        let _announced = room.enter(Holder::Body(100), client(1));
        let mut begun = room.enter(Holder::Body(100), client(1));
        assert!(fits(&mut begun, 1).await);
        let mut later = room.enter(Holder::Body(100), client(1));
        assert!(!fits(&mut later, 1).await, "the rest of the first is kept free");
        assert!(fits(&mut begun, 99).await);
    }

    #[tokio::test]
    async fn a_body_that_keeps_room_free_and_stalls_gives_way_soon() {
        let room = Buffer::new(100, 100);
        let mut stalled = room.enter(Holder::Body(100), client(1));
        assert!(fits(&mut stalled, 1).await);
        let mut waiting = room.enter(Holder::Body(10), client(2));
        let growing = tokio::spawn(async move { waiting.grow(10).await });
        let soon = LONG_PATIENCE / 2;
        timeout(soon, stalled.is_evicted()).await.unwrap();
        drop(stalled);
        assert_eq!(timeout(soon, growing).await.unwrap().unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn who_holds_the_most_gives_way_to_who_has_waited() {
        let room = Buffer::new(100, 100);
        let mut large = room.enter(Holder::Body(100), client(1));
        assert!(fits(&mut large, 60).await);
        let mut small = room.enter(Holder::Body(25), client(2));
        // Both are waiting, so neither is late.
        let more = tokio::spawn(async move { large.grow(60).await });
        let growing = tokio::spawn(async move { small.grow(25).await });
        assert_eq!(timeout(Duration::from_secs(5), more).await.unwrap().unwrap(), Err(GivenUp));
        assert_eq!(timeout(Duration::from_secs(5), growing).await.unwrap().unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn who_is_late_gives_way_to_who_waits() {
        let room = Buffer::new(100, 100);
        let mut slow = room.enter(Holder::Body(100), client(1));
        assert!(fits(&mut slow, 100).await);
        let mut waiting = room.enter(Holder::Body(100), client(2));
        let growing = tokio::spawn(async move { waiting.grow(80).await });
        timeout(Duration::from_secs(5), slow.is_evicted()).await.unwrap();
        assert!(!growing.is_finished());
        // A late holder is evicted also while it waits for more itself.
        assert_eq!(slow.grow(1).await, Err(GivenUp));
        drop(slow);
        assert_eq!(timeout(Duration::from_secs(5), growing).await.unwrap().unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_body_that_has_arrived_is_not_evicted_in_the_place_of_a_slow_one() {
        let room = Buffer::new(100, 100);
        let mut whole = room.enter(Holder::Body(100), client(1));
        assert!(fits(&mut whole, 60).await);
        whole.arrived().unwrap();
        let mut slow = room.enter(Holder::Body(100), client(2));
        assert!(fits(&mut slow, 40).await);
        let mut waiting = room.enter(Holder::Body(100), client(3));
        let growing = tokio::spawn(async move { waiting.grow(30).await });
        timeout(Duration::from_secs(5), slow.is_evicted()).await.unwrap();
        assert_eq!(slow.arrived(), Err(GivenUp));
        drop(slow);
        assert_eq!(timeout(Duration::from_secs(5), growing).await.unwrap().unwrap(), Ok(()));
    }
}
