//! The settings and faults of a seed. Each step has its own seed, so that leaving out a step changes no other step.

use crate::pick;
use crate::random::Random;
pub(crate) use crate::settings::Settings;
pub(crate) use crate::steps::{Schedule, Step};

/// The database fault of a step. It ends with the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Nothing,
    ConnectionsCut,
    ConnectionsRefused,
    ConnectionsSlow,
    ConnectionsMute,
    OpenConnectionsMute,
    AnswersLost,
    Restarted,
    Crashed,
    Promoted,
    SessionsEnded,
    TooManyConnections,
    TableLocked,
    ReadOnly,
    RightTaken,
    ColumnRenamed,
    FileLocked,
    FileReplaced,
    FileAway,
}

const POSTGRES: [Fault; 16] = [
    Fault::Nothing,
    Fault::ConnectionsCut,
    Fault::ConnectionsRefused,
    Fault::ConnectionsSlow,
    Fault::ConnectionsMute,
    Fault::OpenConnectionsMute,
    Fault::AnswersLost,
    Fault::Restarted,
    Fault::Crashed,
    Fault::Promoted,
    Fault::SessionsEnded,
    Fault::TooManyConnections,
    Fault::TableLocked,
    Fault::ReadOnly,
    Fault::RightTaken,
    Fault::ColumnRenamed,
];
const SQLITE: [Fault; 5] =
    [Fault::Nothing, Fault::FileLocked, Fault::FileReplaced, Fault::FileAway, Fault::ColumnRenamed];

impl Fault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::ConnectionsCut => "connections cut",
            Self::ConnectionsRefused => "connections refused",
            Self::ConnectionsSlow => "connections slow",
            Self::ConnectionsMute => "connections mute",
            Self::OpenConnectionsMute => "open connections mute, new ones not",
            Self::AnswersLost => "answers lost",
            Self::Restarted => "the server restarted",
            Self::Crashed => "the server crashed",
            Self::Promoted => "the standby promoted",
            Self::SessionsEnded => "sessions ended",
            Self::TooManyConnections => "too many connections",
            Self::TableLocked => "the table locked",
            Self::ReadOnly => "the database read-only",
            Self::RightTaken => "the right to read taken",
            Self::ColumnRenamed => "a column renamed",
            Self::FileLocked => "the file locked by a writer",
            Self::FileReplaced => "the file replaced",
            Self::FileAway => "the file away",
        }
    }

    /// Whether readers may notice the fault.
    pub(crate) const fn hurts(self) -> bool {
        !matches!(self, Self::Nothing | Self::ReadOnly | Self::FileLocked)
    }
}

impl Schedule {
    /// The settings and `length` steps of a seed.
    pub(crate) fn of(seed: u64, length: usize) -> Self {
        let mut random = Random::new(seed);
        let settings = Settings::of(&mut random);
        let faults: &[Fault] = if settings.sqlite { &SQLITE } else { &POSTGRES };
        let steps = (0..length).map(|number| {
            let seed = random.below(u64::MAX);
            Step { number, seed, fault: pick(&mut random, faults) }
        });
        let steps = steps.collect();
        Self { seed, settings, steps }
    }
}
