//! Where a partition is read from: a pure decision. librdkafka may not choose (`auto.offset.reset=error`), and what a
//! start passes over is a gap, which is counted, named, and by `kafka.on_gap` ends the ingester.

use std::fmt::Write as _;

/// A place in a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// The next offset to read.
    pub(crate) offset: i64,
    /// The leader epoch of the record before it. With it a broker tells a log that was cut from one that grew (KIP-320).
    pub(crate) epoch: Option<i32>,
}

/// What a commit says beside the offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommitMetadata {
    /// The evidence fingerprint by which the verdicts of the partition are settled.
    pub(crate) settled_by: Option<String>,
    /// The cluster that the topic is in.
    pub(crate) cluster: Option<String>,
    /// The id of the topic. It shows that an offset belongs to a deleted topic of the same name.
    pub(crate) topic_id: Option<String>,
}

const SETTLED_BY: &str = "evidence=";
const CLUSTER: &str = "cluster=";
const TOPIC_ID: &str = "topic-id=";

impl CommitMetadata {
    /// Reads what [`Self::to_text`] wrote; what an earlier version or somebody else left out is none.
    pub(crate) fn parse(text: &str) -> Self {
        let value = |key| {
            let found = text.split(' ').find_map(|part| part.strip_prefix(key));
            found.map(str::to_owned)
        };
        Self { settled_by: value(SETTLED_BY), cluster: value(CLUSTER), topic_id: value(TOPIC_ID) }
    }

    /// One line, parts with a blank between them; empty where nothing is known.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let parts =
            [(SETTLED_BY, &self.settled_by), (CLUSTER, &self.cluster), (TOPIC_ID, &self.topic_id)];
        for (key, value) in parts {
            if let Some(value) = value {
                let blank = if text.is_empty() { "" } else { " " };
                // Writing to a string does not fail.
                let _ = write!(text, "{blank}{key}{value}");
            }
        }
        text
    }
}

/// Why librdkafka stopped reading a partition at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The broker says that the position is not in its log.
    OutOfRange,
    /// The log was cut: it holds other records from this offset on than those that were read.
    Cut(i64),
    /// The log has no record of the position's epoch or an earlier one.
    NoSuchEpoch,
}

/// All that a start depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Where reading was, in this ownership; none at its start.
    pub(crate) position: Option<LogPosition>,
    /// What the group has committed.
    pub(crate) committed: Option<LogPosition>,
    /// The next offset by the table's own account.
    pub(crate) account: Option<i64>,
    /// What the commit says beside the offset.
    pub(crate) metadata: CommitMetadata,
    /// Cluster and topic id as they are now.
    pub(crate) cluster: Option<String>,
    pub(crate) topic_id: Option<String>,
    /// The topic's id as it was when this process last read the partition.
    pub(crate) known_topic_id: Option<String>,
    /// The first offset and the one after the last, where they were asked for.
    pub(crate) watermarks: Option<(i64, i64)>,
    /// The greatest end that was seen of the topic as it was.
    pub(crate) known_end: Option<i64>,
    /// Why the position was refused.
    pub(crate) refusal: Option<Refusal>,
    /// Whether the position's epoch was checked by the broker before it was refused.
    pub(crate) validated: bool,
}

/// Why records are passed over or read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GapCause {
    /// The broker has deleted what was not read yet.
    Retention,
    /// The topic was deleted and made again.
    Recreated,
    /// The log was cut, and nobody knows where: all of it is read.
    CutSomewhere,
    /// The log was cut at the start of the gap's range.
    Cut,
    /// A batch is damaged or cannot be unpacked.
    Unreadable,
}

/// What a start passes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) cause: GapCause,
    /// The first offset that is lost, and the one after the last, as far as they are known.
    pub(crate) range: Option<(i64, i64)>,
}

/// A start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) position: LogPosition,
    pub(crate) gap: Option<Gap>,
    /// Whether what is known of the old log says nothing about the one that is read now.
    pub(crate) other_log: bool,
}

/// A start, or the question that is to be answered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Read from there.
    Start(Start),
    /// The watermarks decide: ask for them, then decide again.
    AskWatermarks,
}

impl Facts {
    /// Decides.
    pub(crate) fn decide(&self) -> Decision {
        if self.is_other_topic() {
            return self.from_first(|low| self.other_log(GapCause::Recreated, low, self.unread()));
        }
        match self.refusal {
            None => self.first_start(),
            Some(refusal) => self.with_watermarks(|low, high| self.after(refusal, low, high)),
        }
    }

    /// Where nothing was refused: as committed, or as the table says, the smaller of the two.
    fn first_start(&self) -> Decision {
        let committed = self.position.or(self.committed);
        match (committed, self.account) {
            (Some(committed), Some(account)) if account < committed.offset => {
                Decision::Start(Start::plain(LogPosition { offset: account, epoch: None }))
            }
            (Some(committed), _) => Decision::Start(Start::plain(committed)),
            (None, Some(account)) => {
                Decision::Start(Start::plain(LogPosition { offset: account, epoch: None }))
            }
            (None, None) => self.from_first(|low| Start::plain(LogPosition::unproved(low))),
        }
    }

    fn after(&self, refusal: Refusal, low: i64, high: i64) -> Start {
        let Some(next) = self.position.or(self.committed) else {
            return Start::plain(LogPosition::unproved(low));
        };
        if next.offset < low {
            let gap = Gap { cause: GapCause::Retention, range: Some((next.offset, low)) };
            return Start { gap: Some(gap), ..Start::plain(LogPosition::unproved(low)) };
        }
        match refusal {
            // The broker was asked between a change of leaders, or its log has grown since: no gap.
            Refusal::OutOfRange if next.offset <= high => Start::plain(next),
            // The epoch tells where the log was cut: librdkafka is to ask for it.
            Refusal::OutOfRange if next.epoch.is_some() && !self.validated => Start::plain(next),
            Refusal::OutOfRange => self.other_log(GapCause::CutSomewhere, low, self.unread()),
            Refusal::NoSuchEpoch if next.offset == low => {
                Start::plain(LogPosition::unproved(next.offset))
            }
            Refusal::NoSuchEpoch => self.cut(next.offset, low, low),
            Refusal::Cut(at) if at < next.offset => self.cut(next.offset, at, low),
            Refusal::Cut(_) => Start::plain(LogPosition::unproved(next.offset)),
        }
    }

    fn cut(&self, next: i64, at: i64, low: i64) -> Start {
        let end = self.known_end.unwrap_or(next).max(next);
        self.other_log(GapCause::Cut, at.max(low), Some((at, end)))
    }

    fn other_log(&self, cause: GapCause, from: i64, range: Option<(i64, i64)>) -> Start {
        let gap = Some(Gap { cause, range });
        Start { position: LogPosition::unproved(from), gap, other_log: true }
    }

    /// What was not read of the old log, as far as its end was seen.
    fn unread(&self) -> Option<(i64, i64)> {
        let next = self.position.or(self.committed)?.offset;
        self.known_end.filter(|&end| end > next).map(|end| (next, end))
    }

    /// Whether the position belongs to a topic of the same name that is gone. A commit that a mirror copied from another
    /// cluster names that cluster's topic; its offset was translated for this one and holds.
    fn is_other_topic(&self) -> bool {
        let Some(now) = &self.topic_id else { return false };
        match &self.metadata.topic_id {
            Some(of) if self.position.is_none() => {
                let clusters = (&self.metadata.cluster, &self.cluster);
                let is_mirrored = matches!(clusters, (Some(of), Some(now)) if of != now);
                of != now && !is_mirrored
            }
            _ => self.known_topic_id.as_ref().is_some_and(|known| known != now),
        }
    }

    fn from_first(&self, start: impl FnOnce(i64) -> Start) -> Decision {
        self.with_watermarks(|low, _| start(low))
    }

    fn with_watermarks(&self, start: impl FnOnce(i64, i64) -> Start) -> Decision {
        match self.watermarks {
            Some((low, high)) => Decision::Start(start(low, high)),
            None => Decision::AskWatermarks,
        }
    }
}

impl LogPosition {
    /// A position that no epoch proves.
    pub(crate) const fn unproved(offset: i64) -> Self {
        Self { offset, epoch: None }
    }
}

impl Start {
    const fn plain(position: LogPosition) -> Self {
        Self { position, gap: None, other_log: false }
    }
}

/// Reads where librdkafka refused a position, and why, out of its words: it gives them as text alone
/// (`rd_kafka_offset_reset` in rdkafka_offset.c). None where the text is another.
pub(crate) fn refusal(text: &str) -> Option<(i64, Refusal)> {
    let number = |before: &str| {
        let rest = &text[text.find(before)? + before.len()..];
        let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<i64>().ok()
    };
    if text.starts_with("Partition log truncation detected") {
        return Some((number("at offset ")?, Refusal::Cut(number("broker end offset is ")?)));
    }
    if text.starts_with("No epoch found") {
        return Some((number("equal to offset ")?, Refusal::NoSuchEpoch));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: i64) -> Option<LogPosition> {
        Some(LogPosition { offset, epoch: Some(3) })
    }

    fn topic(id: &str) -> Option<String> {
        Some(id.to_owned())
    }

    /// Offset, epoch, cause and range.
    type Seen = (i64, Option<i32>, Option<GapCause>, Option<(i64, i64)>);

    fn start(facts: &Facts) -> Seen {
        let Decision::Start(start) = facts.decide() else { panic!("{facts:?}") };
        let gap = start.gap;
        let Start { position, .. } = start;
        (position.offset, position.epoch, gap.map(|gap| gap.cause), gap.and_then(|gap| gap.range))
    }

    #[test]
    fn a_first_start_is_the_committed_offset_with_its_epoch() {
        let facts = Facts { committed: position(7), ..Facts::default() };
        assert_eq!(start(&facts), (7, Some(3), None, None));
        let behind = Facts { account: Some(5), ..facts.clone() };
        assert_eq!(start(&behind), (5, None, None, None));
        let ahead = Facts { account: Some(9), ..facts };
        assert_eq!(start(&ahead), (7, Some(3), None, None));
        let without = Facts { account: Some(9), ..Facts::default() };
        assert_eq!(start(&without), (9, None, None, None));
    }

    #[test]
    fn without_an_offset_the_first_record_is_the_start() {
        assert_eq!(Facts::default().decide(), Decision::AskWatermarks);
        let facts = Facts { watermarks: Some((7, 9)), ..Facts::default() };
        assert_eq!(start(&facts), (7, None, None, None));
    }

    #[test]
    fn an_offset_of_a_topic_that_is_gone_is_not_a_start() {
        let metadata = CommitMetadata { topic_id: topic("old"), ..CommitMetadata::default() };
        let facts = Facts {
            committed: position(20),
            metadata,
            topic_id: topic("new"),
            known_end: Some(25),
            ..Facts::default()
        };
        assert_eq!(facts.decide(), Decision::AskWatermarks);
        let facts = Facts { watermarks: Some((0, 50)), ..facts };
        assert_eq!(start(&facts), (0, None, Some(GapCause::Recreated), Some((20, 25))));
        let unseen = Facts { known_end: None, ..facts.clone() };
        assert_eq!(start(&unseen), (0, None, Some(GapCause::Recreated), None));
        // In mid-run: the position is known, the commit says nothing.
        let running = Facts {
            position: position(21),
            metadata: CommitMetadata::default(),
            known_topic_id: topic("old"),
            ..facts.clone()
        };
        assert_eq!(start(&running), (0, None, Some(GapCause::Recreated), Some((21, 25))));
        let no_answer = Facts { topic_id: None, ..facts };
        assert_eq!(start(&no_answer), (20, Some(3), None, None));
    }

    #[test]
    fn an_offset_that_a_mirror_copied_is_a_start() {
        let metadata = CommitMetadata {
            topic_id: topic("theirs"),
            cluster: topic("theirs"),
            ..CommitMetadata::default()
        };
        let facts = Facts {
            committed: position(20),
            metadata,
            topic_id: topic("ours"),
            cluster: topic("ours"),
            watermarks: Some((0, 50)),
            ..Facts::default()
        };
        assert_eq!(start(&facts), (20, Some(3), None, None));
    }

    #[test]
    fn a_refused_position_never_passes_over_records_without_a_gap() {
        let refused = |next, (low, high), refusal, known_end| {
            let facts = Facts {
                position: Some(LogPosition::unproved(next)),
                watermarks: Some((low, high)),
                refusal: Some(refusal),
                known_end,
                ..Facts::default()
            };
            let (offset, _, cause, range) = start(&facts);
            (offset, cause, range)
        };
        let out = Refusal::OutOfRange;
        assert_eq!(refused(3, (7, 9), out, Some(9)), (7, Some(GapCause::Retention), Some((3, 7))));
        assert_eq!(
            refused(20, (0, 9), out, Some(25)),
            (0, Some(GapCause::CutSomewhere), Some((20, 25)))
        );
        assert_eq!(refused(20, (0, 9), out, None), (0, Some(GapCause::CutSomewhere), None));
        assert_eq!(refused(20, (0, 9), out, Some(20)), (0, Some(GapCause::CutSomewhere), None));
        assert_eq!(refused(5, (0, 9), out, Some(9)), (5, None, None), "within the log");
        assert_eq!(refused(9, (0, 9), out, Some(9)), (9, None, None), "its end");
        let cut = Refusal::Cut(10);
        assert_eq!(refused(30, (0, 50), cut, None), (10, Some(GapCause::Cut), Some((10, 30))));
        assert_eq!(refused(30, (0, 50), cut, Some(35)), (10, Some(GapCause::Cut), Some((10, 35))));
        assert_eq!(refused(30, (12, 50), cut, None), (12, Some(GapCause::Cut), Some((10, 30))));
        assert_eq!(refused(10, (0, 50), cut, None), (10, None, None), "nothing was cut off");
        let none = Refusal::NoSuchEpoch;
        assert_eq!(refused(3, (7, 9), none, None), (7, Some(GapCause::Retention), Some((3, 7))));
        assert_eq!(refused(7, (7, 9), none, None), (7, None, None));
        assert_eq!(refused(9, (7, 99), none, None), (7, Some(GapCause::Cut), Some((7, 9))));
    }

    #[test]
    fn the_epoch_is_asked_once_where_a_log_was_cut() {
        let facts = Facts {
            position: position(20),
            watermarks: Some((0, 9)),
            refusal: Some(Refusal::OutOfRange),
            ..Facts::default()
        };
        assert_eq!(start(&facts), (20, Some(3), None, None));
        let asked = Facts { validated: true, ..facts };
        assert_eq!(start(&asked), (0, None, Some(GapCause::CutSomewhere), None));
    }

    #[test]
    fn what_a_commit_says_is_read_as_it_was_written() {
        let full = CommitMetadata {
            settled_by: Some("e".into()),
            cluster: Some("c".into()),
            topic_id: Some("t=".into()),
        };
        assert_eq!(full.to_text(), "evidence=e cluster=c topic-id=t=");
        assert_eq!(CommitMetadata::parse(&full.to_text()), full);
        assert_eq!(CommitMetadata::parse("").to_text(), "");
        assert_eq!(CommitMetadata::parse("somebody else's"), CommitMetadata::default());
        let earlier = CommitMetadata::parse("topic-id=t");
        assert_eq!((earlier.topic_id.as_deref(), earlier.cluster), (Some("t"), None));
    }

    #[test]
    fn librdkafkas_words_say_where_a_log_was_cut() {
        let cut = "Partition log truncation detected at offset 3000 (leader epoch 0): broker end offset is 1000 (offset \
                   leader epoch 0). Reset to INVALID.: Local: Partition log truncation detected (broker 1)";
        assert_eq!(refusal(cut), Some((3_000, Refusal::Cut(1_000))));
        let none = "No epoch found less or equal to offset 7 (leader epoch 2): broker end offset is -1 (offset leader \
                    epoch -1). Reset using configured policy.: Local: Partition log truncation detected (broker 1)";
        assert_eq!(refusal(none), Some((7, Refusal::NoSuchEpoch)));
        assert_eq!(
            refusal("fetch failed due to requested offset not available on the broker"),
            None
        );
    }
}
