//! The records that were sent, with the knowledge about each: whether the topic still has it, and whether a check has
//! seen its result.

use std::collections::BTreeMap;

use crate::event::Event;
use crate::record::{Expected, Outgoing};
use crate::rule::SentEvent;

/// A record that the broker has acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) outgoing: Outgoing,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Whether the topic still has it.
    pub(crate) there: bool,
    /// Whether an operator skipped it, and no reader has read it since.
    pub(crate) excused: bool,
    /// Whether any check has seen its result.
    pub(crate) ever_seen: bool,
    pub(crate) stored: Stored,
}

/// The database's state of a record.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stored {
    /// Whether a check has seen its result in this database.
    pub(crate) seen: bool,
    /// A lower bound of the generation that evaluated it last.
    pub(crate) generation: i32,
    /// A lower bound of the number of lists, in order of arrival, at its last evaluation.
    pub(crate) lists: usize,
}

/// All records that were sent.
#[derive(Debug, Default)]
pub(crate) struct SentRecords {
    pub(crate) records: Vec<Sent>,
}

/// The states in a copy of the database, for the records sent before it.
pub(crate) type Copied = Vec<Stored>;

impl SentRecords {
    pub(crate) fn add(&mut self, outgoing: Outgoing, place: (i32, i64), evaluated: Stored) {
        self.records.push(Sent {
            outgoing,
            partition: place.0,
            offset: place.1,
            there: true,
            excused: false,
            ever_seen: false,
            stored: evaluated,
        });
    }

    /// Marks records as no longer in the topic.
    pub(crate) fn gone(&mut self, mut which: impl FnMut(usize, &Sent) -> bool) {
        for (number, sent) in self.records.iter_mut().enumerate() {
            sent.there = sent.there && !which(number, sent);
        }
    }

    /// Marks the results of all expected records as seen, evaluated with `lists` lists where the topic still has the record.
    pub(crate) fn found(&mut self, lists: usize) {
        for sent in self.records.iter_mut().filter(|sent| sent.must()) {
            sent.stored.seen = true;
            sent.ever_seen = true;
            if sent.there {
                sent.stored.lists = lists;
            }
        }
    }

    /// Marks all records in the topic as read again with this generation. Reading by the group also produces dead letters.
    pub(crate) fn read_again(&mut self, generation: i32, by_group: bool) {
        for sent in self.records.iter_mut().filter(|sent| sent.there) {
            let rejected = matches!(sent.outgoing.expected, Expected::Rejected(_));
            sent.excused = sent.excused && rejected && !by_group;
            sent.stored.generation = generation;
        }
    }

    pub(crate) fn copied(&self) -> Copied {
        self.records.iter().map(|sent| sent.stored).collect()
    }

    /// The database was replaced by its copy. Missing records are read again if the topic still has them.
    pub(crate) fn put_back(&mut self, copied: &[Stored], generation: i32) {
        for (number, sent) in self.records.iter_mut().enumerate() {
            let now = Stored { generation, ..Stored::default() };
            sent.stored = copied.get(number).copied().filter(|stored| stored.seen).unwrap_or(now);
        }
    }

    /// The events by name and version.
    pub(crate) fn publications(&self, lists: usize) -> BTreeMap<(&str, &str), Vec<SentEvent<'_>>> {
        let mut by_key = BTreeMap::<_, Vec<SentEvent<'_>>>::new();
        for sent in &self.records {
            let Expected::Event(event) = &sent.outgoing.expected else { continue };
            let event: &Event = event;
            let all = by_key.entry((event.name.as_str(), event.version.as_str())).or_default();
            let sent_event = SentEvent {
                event,
                must: sent.must(),
                generation: if sent.must() { sent.stored.generation } else { 0 },
                lists: if sent.there { lists } else { sent.stored.lists },
            };
            match all.iter_mut().find(|other| other.event.id == event.id) {
                Some(same) => same.join(&sent_event),
                None => all.push(sent_event),
            }
        }
        by_key
    }
}

impl Sent {
    /// Whether a group that has caught up must have read it; otherwise it may have read it.
    pub(crate) const fn must(&self) -> bool {
        self.stored.seen || self.there && !self.excused
    }

    /// Whether it must have a dead letter, if it is an invalid record.
    pub(crate) const fn must_be_rejected(&self) -> bool {
        self.ever_seen || self.there && !self.excused
    }
}
