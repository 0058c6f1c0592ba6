//! The query daemon under requests and faults by chance: a seed chooses settings, rows, requests made from the schema, and what
//! happens to the database; a check that knows only the rows that were put in and the client's guide judges every answer.
//!
//! `cargo xtask test` runs the seeds of [`TESTS`], `cargo xtask faults --requests --seeds A..B` any others. Arguments: `--seeds
//! A..B`, `--steps N` (of each seed), `--only N,N` (of these steps alone), and names of tests.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a run that cannot go on ends with a panic, and its table is what it is for"
)]

#[path = "../chance/choice.rs"]
mod choice;
#[path = "../faults/harness.rs"]
mod harness;
#[path = "../faults/random.rs"]
mod random;

mod clients;
mod document;
mod expect;
mod faults;
mod http;
mod judge;
mod request;
mod rows;
mod run;
mod settings;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use choice::{index, one_in, pick};

use crate::run::{Schedule, Servers, Stage};

/// The seeds that are part of the tests: both databases.
const TESTS: [u64; 2] = [1, 2];
const TEST_STEPS: usize = 2;

fn main() -> ExitCode {
    let name = |seed: u64| format!("seed_{seed}");
    if harness::lists(&TESTS.map(name)) {
        return ExitCode::SUCCESS;
    }
    let (mut seeds, mut steps, mut only, mut names, mut exact) =
        (None, TEST_STEPS, None, Vec::new(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the flag needs a value");
        match argument.as_str() {
            "--exact" => exact = true,
            "--seeds" => {
                let range = value();
                let (from, until) = range.split_once("..").expect("--seeds needs A..B");
                seeds = Some(from.parse().expect("a number")..until.parse().expect("a number"));
            }
            "--steps" => steps = value().parse().expect("--steps needs a number"),
            "--only" => {
                only = Some(
                    value()
                        .split(',')
                        .map(|own| own.parse().expect("--only needs N,N"))
                        .collect::<Vec<usize>>(),
                );
            }
            flag if flag.starts_with('-') => {}
            own => names.push(own.to_owned()),
        }
    }
    let wants = |seed: &u64| {
        let own = name(*seed);
        names.is_empty()
            || names
                .iter()
                .any(|wanted| if exact { own == *wanted } else { own.contains(wanted.as_str()) })
    };
    let seeds: Vec<u64> =
        seeds.map_or_else(|| TESTS.into_iter().filter(wants).collect(), Iterator::collect);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime can be made");
    let (mut servers, mut counts, mut held, mut failed) =
        (None, BTreeMap::new(), BTreeMap::new(), Vec::new());
    // A failure is printed once, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    for seed in &seeds {
        let mut schedule = Schedule::of(*seed, steps);
        if let Some(only) = &only {
            schedule.steps.retain(|(number, ..)| only.contains(number));
        }
        eprintln!("seed {seed}: {:?}", schedule.settings);
        let mut at = None;
        let running = || {
            let servers = servers.get_or_insert_with(Servers::start);
            runtime.block_on(async {
                let mut stage = Stage::set(servers, &schedule).await;
                for step in &schedule.steps {
                    eprintln!("  step {}: {}", step.0, step.2.name());
                    at = Some(*step);
                    stage.step(*step).await;
                    *held.entry(step.2.name()).or_insert(0) += 1;
                }
                stage.end()
            })
        };
        match catch_unwind(AssertUnwindSafe(running)) {
            Ok(own) => {
                for (what, count) in own {
                    let all: &mut usize = counts.entry(what).or_default();
                    // What is measured is not added up.
                    *all = if what.contains(',') { count.max(*all) } else { *all + count };
                }
                eprintln!("seed {seed} held, {} s since the start", began.elapsed().as_secs());
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                let place = at.map_or("at its beginning".to_owned(), |(number, _, fault)| {
                    format!("at step {number}, \"{}\"", fault.name())
                });
                println!("seed {seed} failed {place}: {text}");
                println!(
                    "again: cargo xtask faults --requests --seeds {seed}..{} --steps {steps}",
                    seed + 1
                );
                failed.push(*seed);
                servers = None;
            }
        }
    }
    println!("\n| fault | times |\n| --- | --: |");
    for (fault, times) in &held {
        println!("| {fault} | {times} |");
    }
    for (what, count) in &counts {
        println!("{what}: {count}");
    }
    println!(
        "{} seeds, {} faults, {:.1} minutes, failed: {failed:?}",
        seeds.len(),
        held.values().sum::<i32>(),
        began.elapsed().as_secs_f64() / 60.0
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
