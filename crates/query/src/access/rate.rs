//! The rate limit: for each client a bucket of publications, which fills at a constant rate.
//!
//! One number is kept for each client (the generic cell rate algorithm): the time at which its bucket is full again. A
//! client whose time has passed needs no entry, so full buckets are removed first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use service::config::ConfigError;

use super::client::Client;
use crate::config::AccessSettings;

/// Factor between the quota of an IPv6 /48 network and that of one client: the network may be one customer or a campus.
const SITE: u64 = 16;

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct Limiter {
    quota: u64,
    window: Duration,
    /// Nanoseconds until one publication is refilled.
    interval: u64,
    /// Maximum number of clients in the table.
    capacity: usize,
    started: Instant,
    /// When each bucket is full again, in nanoseconds since the start.
    full_at: Mutex<HashMap<Client, u64>>,
}

/// The state of a client's bucket, for the header `RateLimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateStatus {
    /// Publications that the client can ask for now.
    pub(crate) remaining: u64,
    /// Seconds until the bucket is full.
    pub(crate) reset: u64,
}

impl Limiter {
    /// `None` when the rate is not limited.
    pub(super) fn new(settings: &AccessSettings) -> Result<Option<Self>, ConfigError> {
        if settings.rate_limit == 0 {
            return Ok(None);
        }
        let wrong =
            |key: &str, what: &str| Err(ConfigError::invalid(format!("access.{key}"), what));
        if settings.rate_window < Duration::from_secs(1) {
            return wrong("rate_window", "must not be below 1s");
        }
        if settings.rate_window > Duration::from_secs(31 * 24 * 3_600) {
            return wrong("rate_window", "must not be over 31d");
        }
        if settings.rate_clients == 0 {
            return wrong("rate_clients", "must not be 0");
        }
        let quota = u64::from(settings.rate_limit);
        Ok(Some(Self {
            quota,
            window: settings.rate_window,
            interval: (nanoseconds(settings.rate_window) / quota).max(1),
            capacity: settings.rate_clients,
            started: Instant::now(),
            full_at: Mutex::default(),
        }))
    }

    /// Takes `cost` publications from the client's bucket and from its /48 network's. On an error it returns the time
    /// until both have enough.
    pub(crate) fn take(&self, client: Client, cost: u64) -> Result<(), Duration> {
        self.take_at(client, cost, nanoseconds(self.started.elapsed()))
    }

    fn take_at(&self, client: Client, cost: u64, now: u64) -> Result<(), Duration> {
        // The request was paid before; meanwhile another request may have taken more than there was.
        if cost == 0 {
            return Ok(());
        }
        let mut table = self.full_at.lock();
        let buckets = self.buckets(&table, client, cost, now);
        let fullest = buckets.iter().flatten().map(|(_, after)| *after).max().unwrap_or(now);
        let missing = fullest.saturating_sub(self.latest(now));
        if missing > 0 {
            return Err(Duration::from_nanos(missing));
        }
        self.store(&mut table, buckets, cost, now);
        Ok(())
    }

    /// Takes `cost` publications for rows that were read already, also when the buckets have too few. The debt is at
    /// most the amount that is refilled within the window.
    pub(crate) fn take_afterwards(&self, client: Client, cost: u64) {
        self.take_afterwards_at(client, cost, nanoseconds(self.started.elapsed()));
    }

    fn take_afterwards_at(&self, client: Client, cost: u64, now: u64) {
        let mut table = self.full_at.lock();
        let mut buckets = self.buckets(&table, client, cost, now);
        for (_, after) in buckets.iter_mut().flatten() {
            *after = (*after).min(now + 2 * self.quota * self.interval);
        }
        self.store(&mut table, buckets, cost, now);
    }

    /// The buckets of the client and of its /48 network: key, and when the bucket is full after `cost` is taken.
    fn buckets(
        &self,
        table: &HashMap<Client, u64>,
        client: Client,
        cost: u64,
        now: u64,
    ) -> [Option<(Client, u64)>; 2] {
        of(client).map(|bucket| {
            let (own, times) = bucket?;
            let after = cost.saturating_mul(self.interval_of(times));
            Some((own, full_at(table, own, now).saturating_add(after)))
        })
    }

    /// The latest time at which a bucket that is not overdrawn is full again.
    fn latest(&self, now: u64) -> u64 {
        now + self.quota * self.interval
    }

    /// Nanoseconds until one publication is refilled in a bucket that is so many times as large as a client's.
    fn interval_of(&self, times: u64) -> u64 {
        (self.interval / times).max(1)
    }

    fn store(
        &self,
        table: &mut HashMap<Client, u64>,
        buckets: [Option<(Client, u64)>; 2],
        cost: u64,
        now: u64,
    ) {
        if cost == 0 {
            return;
        }
        table.extend(buckets.into_iter().flatten());
        if table.len() > self.capacity {
            forget(table, self.capacity, now);
        }
    }

    pub(crate) fn status(&self, client: Client) -> RateStatus {
        self.status_at(client, nanoseconds(self.started.elapsed()))
    }

    fn status_at(&self, client: Client, now: u64) -> RateStatus {
        let table = self.full_at.lock();
        let mut status = RateStatus { remaining: self.quota, reset: 0 };
        for (own, times) in of(client).into_iter().flatten() {
            let full_at = full_at(&table, own, now);
            let remaining = self.latest(now).saturating_sub(full_at) / self.interval_of(times);
            status.remaining = status.remaining.min(remaining);
            status.reset = status.reset.max((full_at - now).div_ceil(1_000_000_000));
        }
        status
    }

    /// The value of `RateLimit-Policy`.
    pub(crate) fn policy(&self) -> String {
        format!("\"publications\";q={};w={}", self.quota, self.window.as_secs())
    }

    /// How many clients are in the table.
    pub(crate) fn clients(&self) -> usize {
        self.full_at.lock().len()
    }
}

impl RateStatus {
    /// The value of `RateLimit`.
    pub(crate) fn header(self) -> String {
        format!("\"publications\";r={};t={}", self.remaining, self.reset)
    }
}

/// A client's buckets and their sizes, as multiples of the quota: its own, and that of its /48 network.
fn of(client: Client) -> [Option<(Client, u64)>; 2] {
    [Some((client, 1)), client.site().map(|site| (site, SITE))]
}

/// When a bucket is full.
fn full_at(table: &HashMap<Client, u64>, own: Client, now: u64) -> u64 {
    table.get(&own).map_or(now, |full_at| (*full_at).max(now))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Shrinks the table: first it removes clients with full buckets, then the half with the smallest use. The largest
/// users stay, so that a client cannot get its empty bucket removed by sending from many addresses.
fn forget(table: &mut HashMap<Client, u64>, capacity: usize, now: u64) {
    table.retain(|_, full_at| *full_at > now);
    if table.len() > capacity / 4 * 3 {
        let mut moments: Vec<u64> = table.values().copied().collect();
        let middle = moments.len() / 2;
        let (_, median, _) = moments.select_nth_unstable(middle);
        let median = *median;
        let mut spare = middle + 1;
        // Many clients can have the same time. Remove half of all, not more.
        table.retain(|_, full_at| {
            let goes = *full_at <= median && spare > 0;
            spare -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(quota: u32, seconds: u64, clients: usize) -> Limiter {
        let settings = AccessSettings {
            rate_limit: quota,
            rate_window: Duration::from_secs(seconds),
            rate_clients: clients,
            ..AccessSettings::default()
        };
        Limiter::new(&settings).unwrap().unwrap()
    }

    fn client(number: u32) -> Client {
        Client::of_address(Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn a_bucket_empties_and_fills_evenly() {
        let limiter = limiter(100, 100, 10);
        assert_eq!(limiter.take_at(client(1), 100, 0), Ok(()));
        assert_eq!(limiter.take_at(client(1), 1, 0), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take_at(client(1), 50, SECOND), Err(Duration::from_secs(49)));
        assert_eq!(limiter.take_at(client(2), 50, SECOND), Ok(()), "another client");
        let status = RateStatus { remaining: 10, reset: 90 };
        assert_eq!(limiter.status_at(client(1), 10 * SECOND), status);
        assert_eq!(limiter.take_at(client(1), 10, 10 * SECOND), Ok(()));
        assert_eq!(limiter.take_at(client(1), 1, 10 * SECOND), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take_at(client(1), 100, 500 * SECOND), Ok(()));
        assert_eq!(status.header(), "\"publications\";r=10;t=90");
        assert_eq!(limiter.policy(), "\"publications\";q=100;w=100");
    }

    #[test]
    fn what_was_read_already_is_owed_for_a_window_at_most() {
        let limiter = limiter(100, 100, 10);
        limiter.take_afterwards_at(client(1), 130, 0);
        assert_eq!(limiter.status_at(client(1), 0), RateStatus { remaining: 0, reset: 130 });
        assert_eq!(limiter.take_at(client(1), 1, 0), Err(Duration::from_secs(31)));
        assert_eq!(limiter.take_at(client(1), 0, 0), Ok(()), "nothing is asked for");
        limiter.take_afterwards_at(client(1), 1_000_000, 0);
        assert_eq!(limiter.take_at(client(1), 1, 0), Err(Duration::from_secs(101)));
        assert_eq!(limiter.take_at(client(1), 1, 101 * SECOND), Ok(()));
    }

    #[test]
    fn a_site_cannot_multiply_its_quota_by_its_networks() {
        let limiter = limiter(100, 100, 1_000);
        let of = |number: u128| {
            Client::of_address(std::net::Ipv6Addr::from_bits(0x2001 << 112 | number << 64).into())
        };
        for number in 0..16 {
            assert_eq!(limiter.take_at(of(number), 100, 0), Ok(()), "{number}");
        }
        // A /48 network of 16 quotas refills 16 publications a second, a client one.
        assert_eq!(limiter.take_at(of(16), 1, 0), Err(Duration::from_nanos(SECOND / 16)));
        assert_eq!(limiter.status_at(of(16), 0), RateStatus { remaining: 0, reset: 100 });
        assert_eq!(limiter.status_at(of(16), SECOND).remaining, 16);
        // One of its networks is emptied in addition: both have to have enough.
        assert_eq!(limiter.take_at(of(0), 2, SECOND), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take_at(of(1 << 16), 1, 0), Ok(()), "of another");
    }

    #[test]
    fn the_table_is_bounded_and_the_busiest_stay_in_it() {
        let limiter = limiter(100, 100, 50);
        assert_eq!(limiter.take_at(Client::Token(0), 100, 0), Ok(()));
        for number in 0..10_000 {
            assert_eq!(limiter.take_at(client(number), 1, 0), Ok(()));
            assert!(limiter.clients() <= 50);
        }
        assert!(limiter.take_at(Client::Token(0), 1, 0).is_err());
        // Full buckets are removed first.
        for number in 0..51 {
            let _ = limiter.take_at(client(number), 1, 200 * SECOND);
        }
        assert!(limiter.clients() <= 51);
    }

    #[test]
    fn a_limit_that_cannot_work_is_refused() {
        let with = |window: u64, rate_clients: usize| AccessSettings {
            rate_limit: 10,
            rate_window: Duration::from_secs(window),
            rate_clients,
            ..AccessSettings::default()
        };
        for settings in [with(0, 1), with(3_000_000, 1), with(1, 0)] {
            assert!(Limiter::new(&settings).is_err(), "{settings:?}");
        }
        assert!(Limiter::new(&AccessSettings::default()).unwrap().is_none());
    }
}
