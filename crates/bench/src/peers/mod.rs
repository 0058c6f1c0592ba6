//! `cargo xtask bench peers`: compares this build with programs that do the same work, and with the limits of the
//! servers and libraries below them, on the same servers and records.
//!
//! Every contender runs once per round, in an order that differs in each round (the first uses the order of the table),
//! so that a slow period of the machine, or an effect of one contender on the next, does not always hit the same one. A
//! peer that cannot be downloaded or started is reported as not measured. Any other failure ends the run.

mod connect;
mod mercurius;
mod requests;
mod rows;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use model::Timestamp;

use crate::args::Args;
use crate::exits::Random;
use crate::report::Report;
use crate::workspace::Workspace;

/// Measures and reports.
pub(crate) fn run(
    workspace: &Workspace,
    report: &mut Report,
    args: &Args,
    now: Timestamp,
) -> Result<()> {
    report.fact("rounds", args.rounds.to_string());
    rows::run(workspace, report, args, now)?;
    requests::run(workspace, report, args)
}

/// The order of the contenders in a round, which depends only on the round. Round 0 has the order of the list.
fn order<T: Copy>(contenders: &[T], round: u32) -> Vec<T> {
    let mut left = contenders.to_vec();
    if round == 0 {
        return left;
    }
    let mut random = Random::new(round.into());
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        // The number is smaller than the length of `left`.
        let index = usize::try_from(random.below(left.len() as u64)).unwrap_or_default();
        order.push(left.swap_remove(index));
    }
    order
}

/// The folder of a peer below the target directory. It keeps downloads for later runs.
fn folder(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target =
        program.parent().and_then(Path::parent).context("this program lies in a folder")?;
    let folder = target.join("peers").join(name);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_round_has_all_contenders_in_another_order() {
        let contenders = [1, 2, 3, 4, 5, 6, 7];
        let rounds: Vec<_> = (0..3).map(|round| order(&contenders, round)).collect();
        for round in &rounds {
            assert_eq!(round.iter().copied().collect::<BTreeSet<_>>(), contenders.into());
        }
        assert_eq!(rounds.iter().collect::<BTreeSet<_>>().len(), 3, "{rounds:?}");
        assert_eq!(rounds[0], contenders);
        assert_eq!(order(&contenders, 1), rounds[1]);
    }
}
