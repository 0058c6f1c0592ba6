//! Decides where to start reading a partition; pure. librdkafka must not choose (`auto.offset.reset=error`). Offsets that
//! a start skips are a gap, which is counted and logged, and ends the ingester where `kafka.on_gap` says so.

use crate::kafka::commit_metadata::CommitMetadata;
use crate::kafka::damage::number_after;

/// A position in a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// The next offset to read.
    pub(crate) offset: i64,
    /// The leader epoch of the record before it. The broker uses it to detect that the log was truncated (KIP-320).
    pub(crate) epoch: Option<i32>,
}

/// The reason why librdkafka stopped reading a partition at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The broker says that the position is not in its log.
    OutOfRange,
    /// The log was truncated: from this offset on it has other records than those that were read.
    Cut(i64),
    /// The log has no record with the position's epoch or an earlier one.
    NoSuchEpoch,
}

/// All inputs of the decision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The position of the reader in this ownership; `None` at its start.
    pub(crate) position: Option<LogPosition>,
    /// The offset that the group has committed.
    pub(crate) committed: Option<LogPosition>,
    /// The position in the table's account; `None` where the account has no position.
    pub(crate) account: Option<LogPosition>,
    /// Whether the table keeps an account, and this member has claimed it.
    pub(crate) is_account_kept: bool,
    /// The evidence fingerprint in the account.
    pub(crate) evidence: Option<String>,
    /// The position up to which the account was correct, where it was doubted while the partition was read.
    pub(crate) proved: Option<LogPosition>,
    /// The values in the commit's metadata.
    pub(crate) metadata: CommitMetadata,
    /// The present ids of the cluster and the topic.
    pub(crate) cluster: Option<String>,
    pub(crate) topic_id: Option<String>,
    /// The topic's id when this process last read the partition.
    pub(crate) known_topic_id: Option<String>,
    /// The first offset and one more than the last, if the broker was asked.
    pub(crate) watermarks: Option<(i64, i64)>,
    /// The largest end seen of the log that was read.
    pub(crate) known_end: Option<i64>,
    /// The reason why the position was refused.
    pub(crate) refusal: Option<Refusal>,
    /// Whether the broker checked the position's epoch before it refused the position.
    pub(crate) validated: bool,
}

/// The reason why records are skipped or read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GapCause {
    /// The broker deleted records before they were read.
    Retention,
    /// The topic was deleted and created again.
    Recreated,
    /// The log was truncated at an unknown offset: all of it is read.
    CutSomewhere,
    /// The log was truncated at the first offset of the gap.
    Cut,
    /// A batch is damaged or cannot be unpacked.
    Unreadable,
}

/// The offsets that a start skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) cause: GapCause,
    /// The first lost offset and one more than the last, if they are known.
    pub(crate) range: Option<(i64, i64)>,
}

impl Gap {
    /// The part of this gap that is not in `last`, the gap that was reported last; `None` if nothing is new. A
    /// partition that is revoked before an offset after the gap is committed has the gap again, and retention may have
    /// deleted more by then.
    pub(crate) fn beyond(self, last: Option<Self>) -> Option<Self> {
        let Some(last) = last.filter(|last| last.cause == self.cause) else { return Some(self) };
        let (Some((from, to)), Some((last_from, last_to))) = (self.range, last.range) else {
            return self.range.filter(|_| last.range.is_none()).map(|_| self);
        };
        if from != last_from {
            return Some(self);
        }
        (to > last_to).then_some(Self { range: Some((last_to, to)), ..self })
    }
}

/// The result of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) position: LogPosition,
    pub(crate) gap: Option<Gap>,
    /// Whether facts about the old log do not apply to the log that is read now.
    pub(crate) other_log: bool,
    /// The note to log about the start, if any.
    pub(crate) note: Option<Note>,
}

/// The reason why a start is not at the group's offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// The database went back in time: it lacks the rows from the first offset up to the second.
    WentBack { from: i64, to: i64 },
    /// The database no longer has the account: it was emptied, or it is another database.
    AccountGone { from: i64, to: i64 },
    /// Another program has set the group's offset from the first to the second.
    Reset { from: i64, to: i64 },
}

impl Facts {
    /// Decides by the facts; pure. `None`: ask the broker for the watermarks, then decide again.
    pub(crate) fn decide(&self) -> Option<Start> {
        if self.is_other_topic() {
            return self
                .first_record(|low| self.other_log(GapCause::Recreated, low, self.unread()));
        }
        match self.refusal {
            // The account decides first: a database that went back lacks rows from before the refused position. If the log does
            // not have the account's offset either, that position is refused next.
            Some(refusal) if self.proved.is_none() => {
                self.with_watermarks(|low, high| self.after(refusal, low, high))
            }
            _ => self.first_start(),
        }
    }

    /// The start where no position was refused: the smaller of the committed offset and the table's account. An offset
    /// that another program committed is used as it is.
    fn first_start(&self) -> Option<Start> {
        if let Some(proved) = self.proved {
            return self.after_doubt(proved);
        }
        if let Some(position) = self.position {
            return Some(Start::plain(position));
        }
        let Some(committed) = self.committed else {
            return match self.account {
                Some(account) => Some(Start::plain(account)),
                None => self.first_record(|low| Start::plain(LogPosition::unproved(low))),
            };
        };
        let is_authoritative = !self.metadata.is_own() || self.is_mirrored();
        match self.account {
            Some(account) if is_authoritative && account.offset != committed.offset => {
                let note = Note::Reset { from: account.offset, to: committed.offset };
                Some(Start { note: Some(note), ..Start::plain(committed) })
            }
            Some(account) if !is_authoritative && account.is_before(committed) => {
                let note = Note::WentBack { from: account.offset, to: committed.offset };
                Some(Start { note: Some(note), ..Start::plain(account) })
            }
            None if self.is_account_kept && self.metadata.has_account && !is_authoritative => {
                self.first_record(|low| Start::without_account(low, committed.offset))
            }
            _ => Some(Start::plain(committed)),
        }
    }

    /// The start after the account was claimed again: now it describes the present database.
    fn after_doubt(&self, proved: LogPosition) -> Option<Start> {
        let read = self.position.unwrap_or(proved).offset;
        match self.account {
            Some(account) if account.is_before(proved) => {
                let note = Note::WentBack { from: account.offset, to: read };
                Some(Start { note: Some(note), ..Start::plain(account) })
            }
            Some(account) => Some(Start::plain(account)),
            None => self.first_record(|low| Start::without_account(low, read)),
        }
    }

    /// The evidence by which the partition is settled. The account's has priority: it was stored with the rows.
    pub(crate) fn settled_by(&self, note: Option<Note>) -> Option<String> {
        match note {
            Some(Note::WentBack { .. } | Note::AccountGone { .. }) => None,
            _ if self.account.is_some() => self.evidence.clone(),
            _ => self.metadata.settled_by.clone(),
        }
    }

    /// The offset before which everything is written when the partition starts. During reading it is not the start,
    /// because records before it may still be in a batch; `known` is the offset that was written before.
    pub(crate) fn written_before(&self, start: Start, known: Option<i64>) -> Option<i64> {
        let at = start.position.offset;
        let is_recreated = start.gap.is_some_and(|gap| gap.cause == GapCause::Recreated);
        if self.position.is_none() || self.proved.is_some() || is_recreated {
            return Some(at);
        }
        known.map(|known| known.min(at))
    }

    /// Whether the start is the position of the group or the account, so that everything before it is written.
    pub(crate) fn is_written_before(&self, start: Start) -> bool {
        let is_asked = self.position.is_none() || self.proved.is_some();
        let known = [self.committed, self.account].into_iter().flatten();
        is_asked && start.gap.is_none() && known.into_iter().any(|it| it == start.position)
    }

    /// The offsets that a start skips: the first behind what was read, and the one to read next. Of another log nothing is before
    /// the start.
    pub(crate) fn skipped(&self, start: Start) -> Option<(i64, i64)> {
        let at = start.position.offset;
        let lost = start.gap?.range.filter(|_| !start.other_log).map_or(at, |(from, _)| from);
        Some((self.position.map_or(lost, |position| position.offset.min(lost)), at))
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
            // The broker was asked during a change of leaders, or its log has grown since: no gap.
            Refusal::OutOfRange if next.offset <= high => Start::plain(next),
            // The epoch shows where the log was truncated: a start with it makes librdkafka ask the broker.
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
        Start { gap, other_log: true, ..Start::plain(LogPosition::unproved(from)) }
    }

    /// The unread offsets of the old log, up to the largest end that was seen.
    fn unread(&self) -> Option<(i64, i64)> {
        let next = self.position.or(self.committed)?.offset;
        self.known_end.filter(|&end| end > next).map(|end| (next, end))
    }

    /// Whether the position belongs to a deleted topic of the same name. A commit that a mirror copied from another
    /// cluster has that cluster's topic id; its offset was translated for this cluster and is valid.
    fn is_other_topic(&self) -> bool {
        let Some(now) = &self.topic_id else { return false };
        match &self.metadata.topic_id {
            Some(committed) if self.position.is_none() => committed != now && !self.is_mirrored(),
            _ => self.known_topic_id.as_ref().is_some_and(|known| known != now),
        }
    }

    /// Whether a mirror copied the commit from another cluster.
    pub(crate) fn is_mirrored(&self) -> bool {
        let clusters = (&self.metadata.cluster, &self.cluster);
        matches!(clusters, (Some(committed), Some(now)) if committed != now)
    }

    fn first_record(&self, start: impl FnOnce(i64) -> Start) -> Option<Start> {
        self.with_watermarks(|low, _| start(low))
    }

    fn with_watermarks(&self, start: impl FnOnce(i64, i64) -> Start) -> Option<Start> {
        self.watermarks.map(|(low, high)| start(low, high))
    }
}

impl LogPosition {
    /// Whether less was written at this position than at the other. A position of an earlier epoch counts as less
    /// whatever its offset, because the log may have been truncated since; the broker detects that by the epoch.
    fn is_before(self, other: Self) -> bool {
        let is_of_earlier_epoch =
            matches!((self.epoch, other.epoch), (Some(own), Some(other)) if own < other);
        self.offset < other.offset || is_of_earlier_epoch
    }

    /// A position without an epoch, which the broker cannot check.
    pub(crate) const fn unproved(offset: i64) -> Self {
        Self { offset, epoch: None }
    }
}

impl Start {
    const fn plain(position: LogPosition) -> Self {
        Self { position, gap: None, other_log: false, note: None }
    }

    const fn without_account(low: i64, to: i64) -> Self {
        let note = Note::AccountGone { from: low, to };
        Self { note: Some(note), ..Self::plain(LogPosition::unproved(low)) }
    }
}

/// Reads the refused offset and the reason from librdkafka's error text (`rd_kafka_offset_reset` in rdkafka_offset.c),
/// because librdkafka gives them only there. `None` for any other text.
pub(crate) fn refusal(text: &str) -> Option<(i64, Refusal)> {
    let number = |words| number_after(text, words);
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
        let Some(start) = facts.decide() else { panic!("{facts:?}") };
        let gap = start.gap;
        let Start { position, .. } = start;
        (position.offset, position.epoch, gap.map(|gap| gap.cause), gap.and_then(|gap| gap.range))
    }

    #[test]
    fn a_gap_that_was_told_is_told_again_only_where_it_grew() {
        let gap = |cause, range| Gap { cause, range };
        let cut = |to| gap(GapCause::Cut, Some((60, to)));
        assert_eq!(cut(100).beyond(None), Some(cut(100)));
        assert_eq!(cut(100).beyond(Some(cut(100))), None);
        assert_eq!(cut(100).beyond(Some(cut(120))), None);
        let grown = Some(gap(GapCause::Cut, Some((100, 130))));
        assert_eq!(cut(130).beyond(Some(cut(100))), grown);
        let other = [
            gap(GapCause::Cut, Some((70, 100))),
            gap(GapCause::Retention, Some((60, 100))),
            gap(GapCause::Recreated, None),
        ];
        for reported in other {
            assert_eq!(cut(100).beyond(Some(reported)), Some(cut(100)), "{reported:?}");
        }
        let unknown = gap(GapCause::Recreated, None);
        assert_eq!(unknown.beyond(Some(unknown)), None);
        assert_eq!(unknown.beyond(Some(gap(GapCause::Recreated, Some((60, 100))))), None);
    }

    #[test]
    fn a_first_start_is_the_smaller_of_committed_offset_and_account() {
        let own = CommitMetadata { has_account: true, ..CommitMetadata::default() };
        let facts = Facts {
            committed: position(7),
            metadata: own,
            is_account_kept: true,
            watermarks: Some((2, 20)),
            ..Facts::default()
        };
        let noted = |facts: &Facts| {
            let Some(start) = facts.decide() else { panic!("{facts:?}") };
            (start.position.offset, start.note)
        };
        let at = |account| Facts { account: position(account), ..facts.clone() };
        assert_eq!(start(&at(7)), (7, Some(3), None, None));
        assert_eq!(start(&at(5)), (5, Some(3), None, None));
        assert_eq!(noted(&at(5)), (5, Some(Note::WentBack { from: 5, to: 7 })));
        assert_eq!(noted(&at(9)), (7, None), "a crash between account and commit");
        let before_a_cut = Some(LogPosition { offset: 9, epoch: Some(2) });
        let cut = Facts { account: before_a_cut, ..facts.clone() };
        assert_eq!(start(&cut), (9, Some(2), None, None), "the broker says where it was cut");
        assert_eq!(noted(&facts), (2, Some(Note::AccountGone { from: 2, to: 7 })));
        assert_eq!(noted(&Facts { is_account_kept: false, ..facts.clone() }), (7, None));
        assert_eq!(start(&Facts { committed: None, ..at(9) }), (9, Some(3), None, None));
        // An earlier version kept no account, but its commits count as the ingester's own.
        let earlier = CommitMetadata { topic_id: topic("t"), ..CommitMetadata::default() };
        let by = |metadata: &CommitMetadata, facts: Facts| Facts {
            metadata: metadata.clone(),
            topic_id: topic("t"),
            ..facts
        };
        assert_eq!(noted(&by(&earlier, facts.clone())), (7, None));
        assert_eq!(noted(&by(&earlier, at(5))), (5, Some(Note::WentBack { from: 5, to: 7 })));
        // A commit of another program is used as it is.
        let none = CommitMetadata::default();
        assert_eq!(noted(&by(&none, at(5))), (7, Some(Note::Reset { from: 5, to: 7 })));
        assert_eq!(noted(&by(&none, at(9))), (7, Some(Note::Reset { from: 9, to: 7 })));
        assert_eq!(noted(&by(&none, at(7))), (7, None));
        assert_eq!(noted(&by(&none, facts)), (7, None));
    }

    #[test]
    fn a_doubted_account_starts_where_it_was_right() {
        let doubted_and = |account: Option<i64>, refusal: Option<Refusal>| {
            let facts = Facts {
                position: position(20),
                proved: position(15),
                refusal,
                account: account.and_then(position),
                is_account_kept: true,
                evidence: topic("lists"),
                watermarks: Some((2, 20)),
                ..Facts::default()
            };
            let Some(start) = facts.decide() else { panic!("{facts:?}") };
            (start.position.offset, start.note, facts.settled_by(start.note))
        };
        let doubted = |account| doubted_and(account, None);
        let back = Some(Note::WentBack { from: 10, to: 20 });
        assert_eq!(doubted(Some(10)), (10, back, None));
        for refusal in [Refusal::OutOfRange, Refusal::Cut(12)] {
            assert_eq!(doubted_and(Some(10), Some(refusal)), (10, back, None), "both went back");
        }
        assert_eq!(doubted(Some(15)), (15, None, topic("lists")), "another server");
        assert_eq!(doubted(Some(18)), (18, None, topic("lists")), "another member's");
        assert_eq!(doubted(None), (2, Some(Note::AccountGone { from: 2, to: 20 }), None));
    }

    #[test]
    fn without_an_offset_the_first_record_is_the_start() {
        assert_eq!(Facts::default().decide(), None);
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
        assert_eq!(facts.decide(), None);
        let facts = Facts { watermarks: Some((0, 50)), ..facts };
        assert_eq!(start(&facts), (0, None, Some(GapCause::Recreated), Some((20, 25))));
        let unseen = Facts { known_end: None, ..facts.clone() };
        assert_eq!(start(&unseen), (0, None, Some(GapCause::Recreated), None));
        // During reading the position is known and the commit's metadata is empty.
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
            has_account: true,
            replay: Some(7),
        };
        assert_eq!(full.to_text(), "evidence=e cluster=c topic-id=t= account=kept replay=7");
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
