//! Runs schedules, and reduces a failing one to the shortest that still fails.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::run::Run;
use crate::schedule::Schedule;
use crate::servers::Servers;

/// The name of the test of the reduction itself.
pub(crate) const TEST: &str = "the_shortest_schedule_is_found";

/// The result of a schedule.
pub(crate) struct Outcome {
    /// How many of its steps passed.
    pub(crate) held: usize,
    /// The failure of the next step, or at the end.
    pub(crate) wrong: Option<String>,
}

/// The servers, started on first use and replaced after a failure.
pub(crate) struct Runner {
    runtime: tokio::runtime::Runtime,
    servers: Option<Servers>,
}

impl Runner {
    pub(crate) fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build();
        Self { runtime: runtime.expect("a runtime can be made"), servers: None }
    }

    pub(crate) fn run(&mut self, schedule: &Schedule) -> Outcome {
        let mut held = 0;
        let servers = self.servers.get_or_insert_with(Servers::start);
        let running = || {
            self.runtime.block_on(async {
                let mut run = Run::set(servers, schedule).await;
                for step in &schedule.steps {
                    eprintln!("  step {}: {}", step.number, step.fault.name());
                    run.step(*step).await;
                    held += 1;
                }
                run.end().await;
            });
        };
        let wrong = catch_unwind(AssertUnwindSafe(running)).err().map(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default()
        });
        if wrong.is_some() {
            self.servers = None;
        }
        Outcome { held, wrong }
    }
}

/// The fewest steps found that still fail. Timing differs between runs, so a schedule may fail once and pass later. A
/// step is only left out if the rest fails without it.
pub(crate) fn shortest(runner: &mut Runner, schedule: &Schedule, failed: &Outcome) -> Vec<usize> {
    let mut numbers = schedule.numbers();
    numbers.truncate(failed.held + 1);
    minimal(numbers, &mut |numbers| runner.run(&schedule.only(numbers)).wrong.is_some())
}

/// Delta debugging (Zeller, Hildebrandt: Simplifying and isolating failure-inducing input, 2002): leaves out halves,
/// then quarters, and so on, while the rest still fails.
fn minimal(mut numbers: Vec<usize>, fails: &mut dyn FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut parts = 2;
    while numbers.len() > 1 {
        let size = numbers.len().div_ceil(parts);
        let rest = (0..numbers.len()).step_by(size).find_map(|from| {
            let until = (from + size).min(numbers.len());
            let rest = [&numbers[..from], &numbers[until..]].concat();
            fails(&rest).then_some(rest)
        });
        match rest {
            Some(rest) => {
                numbers = rest;
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts *= 2,
        }
    }
    numbers
}

/// Tests [`minimal`].
pub(crate) fn test() {
    let mut tried = 0;
    let found = minimal((0..24).collect(), &mut |numbers| {
        tried += 1;
        numbers.contains(&3) && numbers.contains(&17)
    });
    assert_eq!(found, [3, 17], "the two that are needed");
    assert!(tried < 60, "{tried} schedules were tried");
    assert_eq!(minimal(vec![5, 6, 7], &mut |numbers| !numbers.is_empty()), [7]);
    assert_eq!(minimal(vec![5, 6], &mut |_| false), [5, 6], "none can be left out");
}
