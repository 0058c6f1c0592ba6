//! The open connections of a listener, and the choice of the connection to close for a new one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Bounds;

/// Heads up to this many bytes are included in the memory that is counted for every connection.
pub const SHORT_HEAD: usize = 4 * 1_024;

/// The request of a connection that is younger, or has been idle for less, may be on its way.
const FRESH: Duration = Duration::from_secs(1);

/// All connections of a listener.
#[derive(Debug)]
pub(super) struct ConnectionRegistry {
    pub(super) bounds: Bounds,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    long_heads: AtomicUsize,
}

/// An open connection and its state.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    /// The client's address, or its proxy's.
    pub address: IpAddr,
    /// The address; for IPv6 its /64 network, because a customer usually has a whole /64.
    network: IpAddr,
    rate: f64,
    most_behind: Duration,
    state: Mutex<Activity>,
    close: Notify,
}

#[derive(Debug)]
struct Activity {
    /// A request was read and its response is not ready yet.
    is_answering: bool,
    /// A part of the request's body is missing.
    is_receiving: bool,
    /// The client has not yet received all of the response that is ready.
    is_sending: bool,
    /// The last time when the connection was opened, a request or a part of a body was read, or a response was ready.
    since: Instant,
    /// Bytes received of the current head.
    head: usize,
    /// How far ahead of the minimum rate the client is, in bytes, and when that was computed.
    credit: f64,
    computed_at: Option<Instant>,
}

impl ConnectionRegistry {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            connections: Mutex::default(),
            next: AtomicU64::new(0),
            long_heads: AtomicUsize::new(0),
        }
    }

    /// Whether there is no place for another connection, because all are open and none waits for its client.
    pub(super) fn is_full(&self) -> bool {
        let all = self.connections.lock();
        all.len() >= self.bounds.max_connections
            && all.values().all(|other| other.waiting_since().is_none())
    }

    /// Adds a new connection, and if necessary closes another that waits for its client. `None` if its network has its
    /// maximum number of connections already and all of them are busy.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Arc<Connection>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, address, &self.bounds));
        let mut all = self.connections.lock();
        let share = self.bounds.max_per_address;
        let is_exempt = self.bounds.exempt.iter().any(|network| network.contains(&address));
        if all.len() >= share && !is_exempt {
            let same = || all.values().filter(|other| other.network == connection.network);
            if same().count() >= share {
                let id = oldest(same())?;
                all.remove(&id)?.close();
            }
        }
        if all.len() >= self.bounds.max_connections
            && let Some(id) = oldest(all.values())
            && let Some(other) = all.remove(&id)
        {
            other.close();
        }
        all.insert(id, connection.clone());
        Some(connection)
    }

    pub(super) fn remove(&self, connection: &Connection) {
        self.connections.lock().remove(&connection.id);
        self.head_ended(connection);
    }

    /// Counts bytes that arrived while no request is in progress, because they belong to a head. If there are too many
    /// long heads, closes the connection with the oldest of them.
    pub(super) fn head_grew(&self, connection: &Connection, bytes: usize) {
        let mut activity = connection.state.lock();
        if activity.is_answering {
            return;
        }
        let was_short = activity.head <= SHORT_HEAD;
        activity.head += bytes;
        let is_long = activity.head > SHORT_HEAD;
        drop(activity);
        if was_short && is_long {
            let before = self.long_heads.fetch_add(1, Ordering::Relaxed);
            if before >= self.bounds.max_long_heads {
                let all = self.connections.lock();
                let others = all.values().filter(|other| other.id != connection.id);
                let long = others.filter(|other| other.state.lock().head > SHORT_HEAD);
                if let Some(other) = oldest(long).and_then(|id| all.get(&id)) {
                    other.close();
                }
            }
        }
    }

    /// The head has become a request, or the connection ended before.
    pub(super) fn head_ended(&self, connection: &Connection) {
        let head = std::mem::take(&mut connection.state.lock().head);
        if head > SHORT_HEAD {
            self.long_heads.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The connection that has been idle for the longest; else, of those whose request may still be arriving (its body is
/// incomplete, or it has been idle for less than `FRESH`), the one that has sent nothing for the longest.
fn oldest<'a>(connections: impl Iterator<Item = &'a Arc<Connection>>) -> Option<u64> {
    let now = Instant::now();
    let waiting = connections.filter_map(|other| {
        let (is_receiving, since) = other.waiting_since()?;
        let may_send = is_receiving || now.saturating_duration_since(since) < FRESH;
        Some((may_send, since, other.id))
    });
    waiting.min().map(|(_, _, id)| id)
}

impl Connection {
    fn new(id: u64, address: IpAddr, bounds: &Bounds) -> Self {
        let network = match address {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        };
        let state = Activity {
            is_answering: false,
            is_receiving: false,
            is_sending: false,
            since: Instant::now(),
            head: 0,
            credit: 0.0,
            computed_at: None,
        };
        Self {
            id,
            address,
            network,
            rate: bounds.min_rate as f64,
            most_behind: bounds.write_timeout,
            state: Mutex::new(state),
            close: Notify::new(),
        }
    }

    /// Closes the connection at once.
    pub fn close(&self) {
        self.close.notify_one();
    }

    /// Waits until the connection is to be closed.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }

    /// A request was read.
    pub(super) fn request_read(&self) {
        let mut state = self.state.lock();
        state.is_answering = true;
        state.since = Instant::now();
        state.computed_at = None;
    }

    /// The response is ready.
    pub(super) fn response_ready(&self) {
        let mut state = self.state.lock();
        (state.is_answering, state.is_receiving) = (false, false);
        state.since = Instant::now();
    }

    /// Reports whether a part of the present request's body is missing. Meanwhile the connection may be closed for a
    /// new one.
    pub fn receives(&self, is_receiving: bool) {
        let mut state = self.state.lock();
        state.is_receiving = is_receiving;
        // A client that has just sent something is not the first to be closed.
        state.since = Instant::now();
    }

    /// Whether no request is in progress.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        !state.is_answering && !state.is_sending
    }

    /// Whether it waits for the rest of a body, and since when it is idle or the request was read; `None` while it does
    /// not wait for its client to send.
    fn waiting_since(&self) -> Option<(bool, Instant)> {
        let state = self.state.lock();
        let is_waiting = !state.is_answering || state.is_receiving;
        (is_waiting && !state.is_sending).then_some((state.is_receiving, state.since))
    }

    /// The client received this many bytes of its response.
    pub(super) fn sent(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.is_sending = false;
        if state.computed_at.is_some() {
            let credit = self.credit(&state) + bytes as f64;
            state.credit = credit.min(self.most_credit());
            state.computed_at = Some(Instant::now());
        }
    }

    /// The client does not receive bytes at present. Returns how far it is behind.
    pub(super) fn stalled(&self) -> Duration {
        let mut state = self.state.lock();
        state.is_sending = true;
        if state.computed_at.is_none() {
            state.credit = self.most_credit();
            state.computed_at = Some(Instant::now());
        }
        self.behind_by(&state)
    }

    /// How far the client is behind the minimum rate with the present response: the time in which it could catch up at
    /// that rate. Zero while no response waits for the client.
    #[must_use]
    pub fn behind(&self) -> Duration {
        let state = self.state.lock();
        if state.is_sending { self.behind_by(&state) } else { Duration::ZERO }
    }

    fn behind_by(&self, state: &Activity) -> Duration {
        let missing = self.most_credit() - self.credit(state);
        Duration::try_from_secs_f64(missing / self.rate).unwrap_or_default()
    }

    /// The present credit, which decreases at the minimum rate.
    fn credit(&self, state: &Activity) -> f64 {
        let elapsed = state.computed_at.map_or(Duration::ZERO, |computed_at| computed_at.elapsed());
        state.credit - elapsed.as_secs_f64() * self.rate
    }

    fn most_credit(&self) -> f64 {
        self.rate * self.most_behind.as_secs_f64()
    }

    /// How far behind the client may be.
    pub(super) const fn most_behind(&self) -> Duration {
        self.most_behind
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn of_two_bodies_the_one_that_has_stopped_is_closed() {
        let hour = Duration::from_secs(3_600);
        let registry = ConnectionRegistry::new(Bounds {
            max_connections: 2,
            max_per_address: 2,
            exempt: Arc::new([]),
            max_long_heads: 2,
            idle_timeout: hour,
            write_timeout: hour,
            min_rate: 1,
        });
        let admit = || registry.admit(Ipv4Addr::LOCALHOST.into()).unwrap();
        let both = [admit(), admit()];
        for connection in &both {
            connection.request_read();
            connection.receives(true);
        }
        both[0].receives(false);
        both[0].receives(true);
        let new = admit();
        let open: Vec<u64> = registry.connections.lock().keys().copied().collect();
        assert!(open.contains(&both[0].id) && open.contains(&new.id), "{open:?}");
        assert!(!open.contains(&both[1].id), "{open:?}");
    }
}
