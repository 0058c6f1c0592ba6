//! `cargo xtask bench peers`: this build beside others that do the same work, and beside the limits of what all of them stand on,
//! in turn on the same servers and records.
//!
//! Every contender runs once a round, and each round has another order (the first that of the table), so that what slows the machine down for a while, or
//! what one leaves behind for the next, does not always hit the same. A peer that cannot be fetched or started is reported as
//! not measured; everything else that fails ends the run.

mod connect;
mod mercurius;
mod requests;
mod rows;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use model::Timestamp;

use crate::args::Args;
use crate::exits::Made;
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

/// The contenders of a round, in an order that the round alone decides: as they are listed in the first.
fn order<T: Copy>(contenders: &[T], round: u32) -> Vec<T> {
    let mut left = contenders.to_vec();
    if round == 0 {
        return left;
    }
    let mut made = Made::new(round.into());
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        // Below the length of what is left.
        let index = usize::try_from(made.below(left.len() as u64)).unwrap_or_default();
        order.push(left.swap_remove(index));
    }
    order
}

/// A folder for peers beside this program's own: what was fetched once is there for the next run.
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
