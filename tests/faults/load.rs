//! The load, a constant flow of events, and the oracle, which knows the expected results.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use testkit::{ConsumedRecord, Producer, Record};

use crate::poison;
use crate::support::generated;

/// Events produced together, and the pause after them: two thousand events per second on an idle machine.
const CHUNK: usize = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// One of so many records is poison.
const POISON_EVERY: usize = 50;
/// The first number for events outside of the load.
const EXTRA: usize = 100_000_000;

/// The expected rows and dead letters, when everything has been read.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// By event number.
    pub(crate) rows: BTreeMap<usize, Expected>,
    /// By record key, which is unique: the code, and whether the topic still has the record.
    pub(crate) poison: BTreeMap<String, (&'static str, bool)>,
    next: usize,
    extra: usize,
}

/// The revisions that a row may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The highest revision that the topic still has. `None` when it lost all, which may have been read before.
    pub(crate) least: Option<u32>,
    /// The highest revision that was sent.
    pub(crate) most: u32,
}

/// A record of the load.
pub(crate) enum Made {
    Event { number: usize, revision: u32 },
    Poison { number: usize, code: &'static str },
}

impl Oracle {
    /// The broker has acknowledged these records.
    pub(crate) fn took(&mut self, made: &[Made]) {
        for made in made {
            match made {
                Made::Event { number, revision } => self.expect(*number, *revision),
                Made::Poison { number, code } => {
                    self.poison.insert(poison::key(*number), (code, true));
                }
            }
        }
    }

    /// Expects the higher revision. A repeated event changes nothing.
    fn expect(&mut self, number: usize, revision: u32) {
        let row = self.rows.entry(number).or_insert(Expected { least: None, most: revision });
        row.least = row.least.max(Some(revision));
        row.most = row.most.max(revision);
    }

    /// The topic has lost all records except these. Returns the number of publications that it lost completely.
    pub(crate) fn kept(&mut self, records: &[ConsumedRecord]) -> usize {
        self.rows.values_mut().for_each(|row| row.least = None);
        self.poison.values_mut().for_each(|(_, kept)| *kept = false);
        for record in records {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
            if let Some((_, kept)) = self.poison.get_mut(key.as_ref()) {
                *kept = true;
            } else if let Some((number, revision)) = event(record) {
                self.expect(number, revision);
            }
        }
        self.rows.values().filter(|row| row.least.is_none()).count()
    }

    /// The next records of the load: plain events, repeated events, corrections before and after the corrected event,
    /// poison.
    pub(crate) fn next(&mut self, count: usize) -> (Vec<Record>, Vec<Made>) {
        let mut records = Vec::new();
        let mut made = Vec::new();
        let mut event = |number, revision| {
            records.push(generated(number, revision));
            made.push(Made::Event { number, revision });
        };
        for number in self.next..self.next + count {
            let revisions: &[u32] = match number % 20 {
                3 => &[1, 0],
                13 => &[0, 1],
                7 => &[0, 0],
                _ => &[0],
            };
            revisions.iter().for_each(|revision| event(number, *revision));
        }
        for number in (self.next..self.next + count).filter(|n| n % POISON_EVERY == 11) {
            let (code, record) = poison::record(number);
            records.push(record);
            made.push(Made::Poison { number, code });
        }
        self.next += count;
        (records, made)
    }

    /// A number for an event outside of the load.
    pub(crate) fn extra_number(&mut self) -> usize {
        self.extra += 1;
        EXTRA + self.extra
    }
}

/// The number and the revision of an event of the load.
pub(crate) fn event(record: &ConsumedRecord) -> Option<(usize, u32)> {
    let event: serde_json::Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
    let name = event["data"]["package"]["name"].as_str()?;
    let revision = event["data"]["revision"].as_u64()?;
    Some((name.strip_prefix("package-")?.parse().ok()?, revision.try_into().ok()?))
}

/// The destination of records, with the oracle.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) producer: Arc<Producer>,
    pub(crate) topic: String,
    pub(crate) oracle: Arc<Mutex<Oracle>>,
}

impl Target {
    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Produces records of the load and waits for the broker. Returns their positions.
    pub(crate) async fn send(&self, count: usize) -> Vec<(i32, i64)> {
        let (records, made) = self.oracle().next(count);
        self.put(records, &made).await
    }

    /// Produces events outside of the load and waits for the broker. Returns their positions.
    pub(crate) async fn send_extra(&self, count: usize) -> Vec<(i32, i64)> {
        let (records, made) = self.extra_events(count);
        self.put(records, &made).await
    }

    /// Produces invalid records of all kinds, outside of the load, and waits for the broker.
    pub(crate) async fn send_poison(&self, count: usize) {
        let numbers = (0..count).map(|_| self.oracle().extra_number());
        let made = numbers.map(|number| {
            let (code, record) = poison::record(number);
            (record, Made::Poison { number, code })
        });
        let (records, made): (Vec<Record>, Vec<Made>) = made.unzip();
        self.put(records, &made).await;
    }

    /// Generates events outside of the load.
    pub(crate) fn extra_events(&self, count: usize) -> (Vec<Record>, Vec<Made>) {
        let mut oracle = self.oracle();
        let numbers = (0..count).map(|_| oracle.extra_number());
        let made = |number| (generated(number, 0), Made::Event { number, revision: 0 });
        numbers.map(made).unzip()
    }

    /// Produces these records and waits for the broker.
    pub(crate) async fn put(&self, records: Vec<Record>, made: &[Made]) -> Vec<(i32, i64)> {
        let positions = self.producer.produce(&self.topic, records).await;
        self.oracle().took(made);
        positions
    }
}

/// A thread that produces the load until it is stopped.
pub(crate) struct Load {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(target: Target) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || flow(&target, &stopped));
        Self { stop, thread }
    }

    /// Stops the load and waits until its last records are acknowledged.
    pub(crate) fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("the load goes on until it is stopped");
    }
}

fn flow(target: &Target, stopped: &Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        runtime.block_on(target.send(CHUNK));
    }
}
