//! A simulation of the loop under virtual time: the real loop, writer, retries, queue of written offsets and choice of
//! start offsets, with a simulated broker, table and dead-letter topic. The seed decides everything that happens; the
//! same seed gives the same schedule. `cargo xtask simulate --seeds A..B` runs any number of seeds.
//!
//! The invariants: no record is lost; the rows are the records merged by the merge rule; a statement has only rows of one
//! batch; rows that a restored table lacks are read again; dead letters are exactly the rejected records, repeated only
//! for a record that was read again or a letter that was not acknowledged; a commit never exceeds the written offset, and
//! decreases only if the table or the log went back.
#![expect(
    clippy::disallowed_methods,
    reason = "which seeds to run is told to a test by the environment"
)]

mod member;
mod process;
mod rng;
mod schedule;
mod topic;
mod world;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use schedule::{Kind, Outcome};

/// The seeds to run, as `A..B`; `cargo xtask simulate` sets it.
const SEEDS: &str = "SIMULATE_SEEDS";
/// The seeds of the test command.
const SCHEDULES: Range<u64> = 0..10_000;
/// Each kind of event must happen in at least one of this many schedules.
const ONE_OF: u64 = 20;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var(SEEDS) else { return SCHEDULES };
    let bounds = text.split_once("..").map(|(first, end)| (first.parse(), end.parse()));
    let Some((Ok(first), Ok(end))) = bounds else { panic!("{SEEDS} is not A..B: {text}") };
    first..end
}

/// The result of several schedules.
#[derive(Debug, Default)]
struct Summary {
    schedules: u64,
    steps: u64,
    /// The number of schedules in which each kind happened.
    kinds: Vec<u64>,
    failed: Vec<(u64, String)>,
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.schedules += 1;
        self.steps += outcome.steps;
        self.kinds.resize(Kind::ALL.len(), 0);
        for (all, one) in self.kinds.iter_mut().zip(&outcome.kinds) {
            *all += u64::from(*one > 0);
        }
        self.failed.extend(outcome.violation.map(|what| (seed, what)));
    }
}

/// Runs the seeds on all cores.
fn simulate(seeds: Range<u64>) -> Summary {
    let (next, summary) = (AtomicU64::new(seeds.start), Mutex::new(Summary::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = schedule::run(seed);
                    summary.lock().add(seed, outcome);
                }
            });
        }
    });
    let mut summary = summary.into_inner();
    summary.failed.sort_unstable();
    summary
}

#[test]
fn no_schedule_breaks_a_promise() {
    let seeds = seeds();
    let began = std::time::Instant::now();
    let summary = simulate(seeds.clone());
    let took = began.elapsed().as_secs_f64();
    let Summary { schedules, steps, kinds, failed } = &summary;
    println!("{schedules} schedules, {steps} steps, {took:.1} s");
    for (kind, count) in Kind::ALL.iter().zip(kinds) {
        println!("{count:>8} schedules with {kind:?}");
    }
    for (seed, what) in failed.iter().take(10) {
        println!("seed {seed} fails: {what}");
    }
    assert!(
        failed.is_empty(),
        "{} of {schedules} fail; the first is seed {}",
        failed.len(),
        failed[0].0
    );
    // A few schedules need not have every kind.
    if *schedules >= 1_000 {
        for (&kind, &count) in Kind::ALL.iter().zip(kinds) {
            assert!(count * ONE_OF >= *schedules, "{kind:?} is in {count} of {schedules}");
        }
    }
}

#[test]
fn a_seed_is_a_schedule() {
    let run = |seed| format!("{:?}", schedule::run(seed));
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
