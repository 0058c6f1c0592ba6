//! The interface by which the group member informs the daemon, which is above this module: health, lag and metrics.

use crate::pipeline::ports::AssignmentId;
use crate::record::Record;

/// The conditions that reading waits for. The group member reports when each is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GroupWait {
    /// No broker is connected.
    Broker,
    /// The topic does not exist.
    Topic,
    /// The group's coordinator has been unreachable for longer than a session.
    Coordinator,
    /// The group refuses this member.
    Membership,
    /// The broker no longer allows this user to read.
    Permission,
    /// Assigned partitions have no leader.
    Leader,
    /// The start offsets of assigned partitions are unknown, because the coordinator or a leader does not answer, or the
    /// database does not answer the claim of its account.
    StartOffsets,
}

/// The broker's state of a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionEnd {
    /// The partition.
    pub(crate) partition: i32,
    /// The high watermark that was seen last: one more than the last offset that a consumer can reach. `None` before
    /// the first.
    pub(crate) end: Option<i64>,
    /// Whether everything before the end was read. Some offsets have no record: transaction markers, records of aborted
    /// transactions, and records that compaction removed.
    pub(crate) is_read: bool,
    /// The group's committed offset; negative where there is none.
    pub(crate) committed: i64,
    /// The first offset of the partition.
    pub(crate) start: i64,
}

/// The observer of the group member's state. The poll thread calls it.
pub(crate) trait GroupObserver: Send + Sync {
    /// The poll thread is alive.
    fn polled(&self);

    /// The membership state in librdkafka's statistics (`cgrp.join_state`).
    fn membership(&self, join_state: &str);

    /// Partitions were assigned.
    fn assigned(&self);

    /// Partitions are being revoked.
    fn revoking(&self);

    /// Reading waits, for this reason. Returns whether the reason is new and should be logged.
    fn waits_for(&self, what: GroupWait, reason: String) -> bool;

    /// Reading does not wait, or no longer waits, for this condition.
    fn has(&self, what: GroupWait);

    /// Records were lost before they were read.
    fn lost(&self, records: u64);

    /// The database went back in time and lacks this many written records.
    fn went_back(&self, records: u64);

    /// The number of the last replay that was finished when the group's offset was committed.
    fn committed_replay(&self, last: i64);

    /// The number of the last finished replay that is known. It is committed with the offsets.
    fn last_replay(&self) -> Option<i64>;

    /// The partition is read from offset `next` on.
    fn started(&self, partition: i32, next: i64, assignment: AssignmentId);

    /// Records were read, ordered by partition.
    fn read(&self, records: &[Record]);

    /// The ends of all assigned partitions. A partition that is not in the list is not assigned.
    fn ends(&self, ends: &[PartitionEnd]);
}

/// The evidence by which each partition is settled. It is committed with the offset, so that it survives a restart.
pub(crate) trait SettledEvidence: Send + Sync {
    /// A partition starts. `has_history`: records of it were read before. `fingerprint`: the fingerprint of the
    /// evidence in the commit or the account, if there is one.
    fn assigned(&self, partition: i32, has_history: bool, fingerprint: Option<&str>);

    /// A partition was revoked.
    fn revoked(&self, partition: i32);

    /// The fingerprint of the evidence by which the partition is settled, to be committed with its offset.
    fn fingerprint(&self, partition: i32) -> Option<String>;
}
