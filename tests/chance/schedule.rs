//! The settings and faults of a seed. Each step has its own seed, so that leaving out a step changes no other step.

pub(crate) use crate::choice::{index, one_in, pick};
use crate::random::Random;
pub(crate) use crate::steps::{Schedule, Step};

/// The fault of a step. It ends with the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Nothing,
    Kill,
    Terminate,
    Freeze,
    Scale,
    BrokerKilled,
    BrokerRestarted,
    BrokerFrozen,
    NetworkCut,
    NetworkSlow,
    NetworkMute,
    NetworkForgets,
    AnswersLost,
    DatabaseRestarted,
    DatabaseCrashed,
    DatabaseClosed,
    SessionsEnded,
    StatementsFail,
    ReadOnly,
    TableLocked,
    OpenTransaction,
    Poison,
    Retention,
    TopicRecreated,
    Partitions,
    LogCut,
    OffsetsDeleted,
    OffsetsReset,
    OffsetsForward,
    DatabasePutBack,
    TableEmptied,
    Replay,
    Redrive,
    Reconcile,
    Generation,
    Lists,
    OneBrokerKilled,
    OneBrokerFrozen,
    TwoBrokersAway,
    AllBrokersKilled,
    RollingRestart,
    ReplicasMoved,
    UncleanElection,
    AbandonedTransaction,
    Promoted,
    BothAtOnce,
    AddressMoved,
    ConnectionsUsedUp,
    ComeAndGo,
}

/// Each fault with its relative frequency, and whether it needs PostgreSQL.
const FAULTS: [(Fault, u64, bool); 36] = [
    (Fault::Nothing, 1, false),
    (Fault::Kill, 4, false),
    (Fault::Terminate, 3, false),
    (Fault::Freeze, 3, false),
    (Fault::Scale, 4, true),
    (Fault::BrokerKilled, 1, false),
    (Fault::BrokerRestarted, 1, false),
    (Fault::BrokerFrozen, 2, false),
    (Fault::NetworkCut, 3, false),
    (Fault::NetworkSlow, 2, false),
    (Fault::NetworkMute, 3, false),
    (Fault::NetworkForgets, 3, false),
    (Fault::AnswersLost, 3, false),
    (Fault::DatabaseRestarted, 3, true),
    (Fault::DatabaseCrashed, 3, true),
    (Fault::DatabaseClosed, 3, true),
    (Fault::SessionsEnded, 3, true),
    (Fault::StatementsFail, 4, true),
    (Fault::ReadOnly, 3, true),
    (Fault::TableLocked, 3, false),
    (Fault::OpenTransaction, 3, false),
    (Fault::Poison, 3, false),
    (Fault::Retention, 3, false),
    (Fault::TopicRecreated, 3, false),
    (Fault::Partitions, 3, false),
    (Fault::LogCut, 1, false),
    (Fault::OffsetsDeleted, 3, false),
    (Fault::OffsetsReset, 3, false),
    (Fault::OffsetsForward, 2, false),
    (Fault::DatabasePutBack, 4, false),
    (Fault::TableEmptied, 2, false),
    (Fault::Replay, 3, false),
    (Fault::Redrive, 2, false),
    (Fault::Reconcile, 3, false),
    (Fault::Generation, 3, false),
    (Fault::Lists, 5, false),
];

/// Faults of [`FAULTS`] that a cluster does not have: of the only broker, and of a record that only one broker has.
const ONLY_ONE_BROKER: [Fault; 4] =
    [Fault::BrokerKilled, Fault::BrokerRestarted, Fault::BrokerFrozen, Fault::LogCut];

/// Makes the random number that decides about the cluster another one than the first.
const CLUSTER: u64 = 0xc0;

/// The further faults of a cluster, with their relative frequency: about half of its faults.
const CLUSTER_FAULTS: [(Fault, u64); 13] = [
    (Fault::OneBrokerKilled, 16),
    (Fault::OneBrokerFrozen, 8),
    (Fault::TwoBrokersAway, 8),
    (Fault::AllBrokersKilled, 6),
    (Fault::RollingRestart, 5),
    (Fault::ReplicasMoved, 6),
    (Fault::UncleanElection, 14),
    (Fault::AbandonedTransaction, 5),
    (Fault::Promoted, 10),
    (Fault::BothAtOnce, 6),
    (Fault::AddressMoved, 8),
    (Fault::ConnectionsUsedUp, 5),
    (Fault::ComeAndGo, 6),
];

impl Fault {
    /// The name in the table and in messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Kill => "an ingester killed",
            Self::Terminate => "an ingester stopped",
            Self::Freeze => "an ingester frozen",
            Self::Scale => "another number of ingesters",
            Self::BrokerKilled => "the broker killed",
            Self::BrokerRestarted => "the broker restarted",
            Self::BrokerFrozen => "the broker frozen",
            Self::NetworkCut => "connections cut",
            Self::NetworkSlow => "connections slow",
            Self::NetworkMute => "connections mute",
            Self::NetworkForgets => "open connections mute, new ones not",
            Self::AnswersLost => "answers lost",
            Self::DatabaseRestarted => "the database restarted",
            Self::DatabaseCrashed => "the database crashed",
            Self::DatabaseClosed => "the database closed",
            Self::SessionsEnded => "sessions ended",
            Self::StatementsFail => "statements fail",
            Self::ReadOnly => "the database read-only",
            Self::TableLocked => "the table locked",
            Self::OpenTransaction => "a transaction left open",
            Self::Poison => "nothing but poison",
            Self::Retention => "retention",
            Self::TopicRecreated => "the topic recreated",
            Self::Partitions => "partitions added",
            Self::LogCut => "the log cut",
            Self::OffsetsDeleted => "the group deleted",
            Self::OffsetsReset => "offsets reset",
            Self::OffsetsForward => "offsets set forwards",
            Self::DatabasePutBack => "the database put back",
            Self::TableEmptied => "the table emptied",
            Self::Replay => "a replay",
            Self::Redrive => "dead letters redriven",
            Self::Reconcile => "reconcile",
            Self::Generation => "the generation raised",
            Self::Lists => "lists arrive",
            Self::OneBrokerKilled => "one of three brokers killed",
            Self::OneBrokerFrozen => "one of three brokers frozen",
            Self::TwoBrokersAway => "two of three brokers away",
            Self::AllBrokersKilled => "all brokers killed",
            Self::RollingRestart => "the brokers restarted in turn",
            Self::ReplicasMoved => "replicas moved",
            Self::UncleanElection => "an unclean election",
            Self::AbandonedTransaction => "a transaction abandoned",
            Self::Promoted => "the standby promoted",
            Self::BothAtOnce => "coordinator and primary killed",
            Self::AddressMoved => "the database's address moved",
            Self::ConnectionsUsedUp => "connections used up",
            Self::ComeAndGo => "a further ingester comes and goes",
        }
    }

    /// Whether records may be lost before they are read, or their rows may be lost. `kafka.on_gap` then decides.
    pub(crate) const fn loses(self) -> bool {
        matches!(
            self,
            Self::Retention
                | Self::TopicRecreated
                | Self::LogCut
                | Self::DatabasePutBack
                | Self::TableEmptied
                | Self::UncleanElection
                | Self::Promoted
                | Self::BothAtOnce
                | Self::AddressMoved
        )
    }

    /// Whether a record may be read a second time, so that a rejected one may have a second dead letter.
    pub(crate) const fn rereads(self) -> bool {
        !matches!(
            self,
            Self::Nothing
                | Self::Terminate
                | Self::Scale
                | Self::NetworkSlow
                | Self::DatabaseRestarted
                | Self::DatabaseCrashed
                | Self::SessionsEnded
                | Self::StatementsFail
                | Self::ReadOnly
                | Self::OpenTransaction
                | Self::Poison
                | Self::Retention
                | Self::Replay
                | Self::Redrive
                | Self::Reconcile
                | Self::Lists
                | Self::AbandonedTransaction
                | Self::ReplicasMoved
                | Self::ConnectionsUsedUp
                | Self::ComeAndGo
        )
    }
}

/// The configuration of a schedule's ingesters.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Whether there are three brokers, and a standby of the database.
    pub(crate) cluster: bool,
    pub(crate) sqlite: bool,
    /// Whether a pooler is in front of PostgreSQL.
    pub(crate) pooler: bool,
    pub(crate) partitions: i32,
    pub(crate) ingesters: usize,
    /// Whether the broker assigns the partitions.
    pub(crate) consumer_protocol: bool,
    pub(crate) stop_on_gap: bool,
    pub(crate) max_rows: u64,
    pub(crate) max_bytes: &'static str,
    pub(crate) in_flight: u64,
    pub(crate) linger: &'static str,
    pub(crate) commit_interval: &'static str,
}

impl Schedule {
    /// The settings and `length` steps of a seed.
    pub(crate) fn of(seed: u64, length: usize) -> Self {
        let mut random = Random::new(seed);
        let settings = Settings::random(&mut random, is_cluster(seed));
        let mut faults: Vec<(Fault, u64)> = FAULTS
            .into_iter()
            .filter(|(_, _, postgres)| !(settings.sqlite && *postgres))
            .map(|(fault, weight, _)| (fault, weight))
            .collect();
        if settings.cluster {
            faults.retain(|(fault, _)| !ONLY_ONE_BROKER.contains(fault));
            faults.extend(CLUSTER_FAULTS);
        }
        let all: u64 = faults.iter().map(|(_, weight)| weight).sum();
        let steps = (0..length).map(|number| {
            let mut place = random.below(all);
            let fault = faults.iter().find_map(|(fault, weight)| {
                let here = place < *weight;
                place = place.saturating_sub(*weight);
                here.then_some(*fault)
            });
            let fault = fault.expect("the place is within the weights");
            Step { number, seed: random.below(u64::MAX), fault }
        });
        let steps = steps.collect();
        Self { seed, settings, steps }
    }
}

/// Whether a seed has a cluster, one in four. Another random number decides it, so that the settings and faults of the
/// other seeds are those of the time before there was a cluster.
pub(crate) const fn is_cluster(seed: u64) -> bool {
    one_in(&mut Random::new(seed ^ CLUSTER), 4)
}

impl Settings {
    fn random(random: &mut Random, cluster: bool) -> Self {
        let sqlite = one_in(random, 4) && !cluster;
        Self {
            cluster,
            sqlite,
            pooler: one_in(random, 4) && !sqlite,
            partitions: pick(random, &[1, 2, 4]),
            ingesters: if sqlite { 1 } else { pick(random, &[1, 1, 2, 3]) },
            consumer_protocol: one_in(random, 2),
            stop_on_gap: one_in(random, 4),
            max_rows: pick(random, &[1, 7, 100, 5_000]),
            max_bytes: pick(random, &["64KiB", "8MiB"]),
            in_flight: pick(random, &[1, 2, 4, 8]),
            linger: pick(random, &["0ms", "4ms", "100ms"]),
            commit_interval: pick(random, &["20ms", "200ms", "2s"]),
        }
    }
}
