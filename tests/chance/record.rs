//! Random records: events, repeated events, corrections, other types, tombstones, and invalid records.

use serde_json::json;
use testkit::Record;

use crate::event::Event;
use crate::poison;
use crate::random::Random;
use crate::schedule::{index, one_in, pick};
use crate::support::{event, structured, with};

/// The expected result of a record.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// A row, or a change of one.
    Event(Box<Event>),
    /// A dead letter with this code.
    Rejected(&'static str),
    /// No result.
    Skipped,
}

/// A record to send.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) record: Record,
    pub(crate) expected: Expected,
}

/// The codecs that this build's client supports.
pub(crate) const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Larger values are `too_large`.
pub(crate) const MAX_EVENT: usize = 64 << 10;

/// Generates the records of a step. Some event names are unique to the step, others are common to all steps.
pub(crate) struct Maker {
    step: usize,
    made: usize,
    random: Random,
    before: Vec<Event>,
}

impl Maker {
    pub(crate) const fn new(step: usize, seed: u64) -> Self {
        Self { step, made: 0, random: Random::new(seed), before: Vec::new() }
    }

    /// `count` random records.
    pub(crate) fn records(&mut self, count: usize) -> Vec<Outgoing> {
        (0..count).map(|_| self.next()).collect()
    }

    /// `count` records that must all be rejected.
    pub(crate) fn rejected(&mut self, count: usize) -> Vec<Outgoing> {
        (0..count).map(|_| self.poison()).collect()
    }

    fn next(&mut self) -> Outgoing {
        match self.random.below(40) {
            0 => self.poison(),
            1 => self.skipped(),
            2..=5 if !self.before.is_empty() => self.again(),
            _ => self.event(),
        }
    }

    fn number(&mut self) -> usize {
        self.made += 1;
        self.step * 100_000 + self.made
    }

    fn event(&mut self) -> Outgoing {
        let number = self.number();
        let name = if one_in(&mut self.random, 10) {
            format!("shared-{}", self.random.below(6))
        } else {
            format!("@Chance/package-{number}")
        };
        let mut event = Event::random(&mut self.random, name, format!("event-{number}"));
        event.revision = pick(&mut self.random, &[0, 0, 0, 0, 1, 7]);
        self.outgoing(event)
    }

    /// A variant of an earlier event: the same one, a correction, or another event of the same publication.
    fn again(&mut self) -> Outgoing {
        let mut event = self.before[index(&mut self.random, self.before.len())].clone();
        let number = self.number();
        match self.random.below(4) {
            0 => {
                let revision = event.revision + 1;
                event = Event::random(&mut self.random, event.name, format!("event-{number}"));
                event.revision = revision;
            }
            1 => {
                let revision = event.revision;
                event = Event::random(&mut self.random, event.name, format!("event-{number}"));
                event.revision = revision;
            }
            // A producer's retry with a new id.
            2 => event.id = format!("event-{number}"),
            _ => {}
        }
        self.outgoing(event)
    }

    fn outgoing(&mut self, event: Event) -> Outgoing {
        let mut record = event.record(&mut self.random);
        let millis = event.created.div_euclid(1_000);
        // The record timestamp may be at most five minutes before the publication.
        record.timestamp =
            pick(&mut self.random, &[None, None, None, Some(millis + 1), Some(millis - 299_999)]);
        if one_in(&mut self.random, 5) {
            record.key = None;
        }
        self.before.push(event.clone());
        Outgoing { record, expected: Expected::Event(Box::new(event)) }
    }

    fn poison(&mut self) -> Outgoing {
        let number = self.number();
        let (code, mut record) = poison::record(number);
        if one_in(&mut self.random, 20) {
            record.value = Some(vec![b' '; MAX_EVENT + 1]);
            return Outgoing { record, expected: Expected::Rejected("too_large") };
        }
        if one_in(&mut self.random, 4) {
            record.headers.push(("x-trace".to_owned(), Some(vec![0xff, 0, 7])));
        }
        if code == "future_time" {
            // The limit depends on the record's timestamp. This event is one microsecond too late.
            let late = json!("2024-03-05T10:05:00.000001Z");
            let event = with(event(&format!("late-{number}"), "1.0.0"), "/data/publishedAt", late);
            record = Record { key: record.key, ..structured(&event) };
            record.timestamp = Some(crate::event::BASE / 1_000);
        }
        Outgoing { record, expected: Expected::Rejected(code) }
    }

    fn skipped(&mut self) -> Outgoing {
        let number = self.number();
        let record = if one_in(&mut self.random, 2) {
            Record { key: Some(format!("tombstone-{number}").into()), ..Record::default() }
        } else {
            let other = event(&format!("other-{number}"), "1.0.0");
            structured(&with(other, "/type", json!("registry.package.removed.v1")))
        };
        Outgoing { record, expected: Expected::Skipped }
    }
}
