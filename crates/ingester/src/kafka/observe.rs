//! What the member of the group tells the daemon, which is above this module: for health, lag and metrics.

use crate::pipeline::ports::AssignmentId;
use crate::record::Record;

/// What reading waits for. Each is over when the group says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GroupWait {
    /// No broker is connected.
    Broker,
    /// The topic is not there.
    Topic,
    /// The group's coordinator is away for longer than a session lasts.
    Coordinator,
    /// The group does not take this member.
    Membership,
    /// The broker does not let this user read any more.
    Permission,
    /// Assigned partitions have no leader.
    Leader,
    /// The start offsets of assigned partitions are not known, because the coordinator or a leader does not answer.
    StartOffsets,
}

/// What is known of a partition from the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionEnd {
    /// The partition.
    pub(crate) partition: i32,
    /// The high watermark: the last offset that a consumer can come to, and one. The last that was seen, and none where
    /// none was.
    pub(crate) end: Option<i64>,
    /// Whether all before the end was read. Some offsets have no record to read: the markers of transactions, what
    /// these took back, and what compaction removed.
    pub(crate) is_read: bool,
    /// The group's committed offset, negative where there is none.
    pub(crate) committed: i64,
    /// Its first offset.
    pub(crate) start: i64,
}

/// Is told what the member of the group does, from the poll thread.
pub(crate) trait GroupObserver: Send + Sync {
    /// The poll thread is alive.
    fn polled(&self);

    /// What librdkafka says of the membership (its statistics, `cgrp.join_state`).
    fn membership(&self, join_state: &str);

    /// Partitions were assigned.
    fn assigned(&self);

    /// Partitions are being revoked.
    fn revoking(&self);

    /// Reading waits, for the reason given. Whether that is news, to be logged.
    fn waits_for(&self, what: GroupWait, reason: String) -> bool;

    /// Reading does not wait for this, or no longer.
    fn has(&self, what: GroupWait);

    /// Records were lost before they were read.
    fn lost(&self, records: u64);

    /// A partition is read from this offset on.
    fn started(&self, partition: i32, next: i64, assignment: AssignmentId);

    /// What was read and written of the partition says nothing about its log any more.
    fn forget(&self, partition: i32);

    /// Records were read, in the order of their partitions.
    fn read(&self, records: &[Record]);

    /// Where the assigned partitions end now; no other partition is assigned.
    fn ends(&self, ends: &[PartitionEnd]);
}

/// By which evidence the partitions are settled; committed beside their offsets, so that it survives a restart.
pub(crate) trait SettledEvidence: Send + Sync {
    /// A partition starts. `has_history`: something of it was read before, and the commit that followed named this
    /// fingerprint of the evidence, or none.
    fn assigned(&self, partition: i32, has_history: bool, fingerprint: Option<&str>);

    /// A partition went.
    fn revoked(&self, partition: i32);

    /// The fingerprint of the evidence by which the partition is settled, to be committed with its offset.
    fn fingerprint(&self, partition: i32) -> Option<String>;
}
