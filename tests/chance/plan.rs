//! What a run by chance was told on its command line.

use std::ops::Range;

/// What is run.
pub(crate) struct Plan {
    pub(crate) seeds: Option<Range<u64>>,
    pub(crate) steps: usize,
    pub(crate) only: Option<Vec<usize>>,
    names: Vec<String>,
    exact: bool,
}

impl Plan {
    /// Flags of the usual test harness, which cargo may hand to every test binary, are passed over.
    pub(crate) fn from_arguments(steps: usize) -> Self {
        let mut plan = Self { seeds: None, steps, only: None, names: Vec::new(), exact: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().expect("the flag needs a value");
            match argument.as_str() {
                "--exact" => plan.exact = true,
                "--seeds" => plan.seeds = Some(range(&value()).expect("--seeds needs A..B")),
                "--steps" => plan.steps = value().parse().expect("--steps needs a number"),
                "--only" => {
                    let numbers = value();
                    let numbers = numbers.split(',').map(|number| number.parse().ok());
                    plan.only = Some(numbers.collect::<Option<_>>().expect("--only needs N,N"));
                }
                flag if flag.starts_with('-') => {}
                name => plan.names.push(name.to_owned()),
            }
        }
        plan
    }

    /// Whether a test of this name was asked for.
    pub(crate) fn wants(&self, test: &str) -> bool {
        let named = |name: &String| if self.exact { name == test } else { test.contains(name) };
        self.names.is_empty() || self.names.iter().any(named)
    }
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, until) = text.split_once("..")?;
    Some(from.parse().ok()?..until.parse().ok()?)
}
