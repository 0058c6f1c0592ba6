//! The schedule of a seed.

use crate::schedule::{Fault, Settings};

/// A step: a fault, with the seed of all its random choices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Its number in the whole schedule.
    pub(crate) number: usize,
    pub(crate) seed: u64,
    pub(crate) fault: Fault,
}

/// The settings and the steps of a seed.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) steps: Vec<Step>,
}

impl Schedule {
    /// The schedule with only these steps.
    pub(crate) fn only(&self, numbers: &[usize]) -> Self {
        let mut only = self.clone();
        only.steps.retain(|step| numbers.contains(&step.number));
        only
    }

    /// The numbers of its steps.
    pub(crate) fn numbers(&self) -> Vec<usize> {
        self.steps.iter().map(|step| step.number).collect()
    }
}
