//! `publication-ingester tor …`: shows the verdicts, the coverage and the refusals of the loaded history.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use enrich::{ExitHistory, Family, Library, Source, SourcePaths};
use model::Timestamp;

use crate::evidence;
use crate::settings::Settings;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum TorCommand {
    /// Say what the loaded lists say of an address at a time, and by which rule
    Explain {
        /// The address, as an event would carry it
        #[arg(long)]
        address: String,
        /// The time, RFC 3339
        #[arg(long, value_parser = Timestamp::parse)]
        at: Timestamp,
    },
    /// Show by day and family what the loaded lists cover, with the gaps
    Coverage,
    /// Check a directory or file and list what is refused; exit code 1 when anything is
    Verify(Verify),
}

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// What the files are
    #[arg(long, value_enum)]
    source: SourceArgument,
    /// The directory, or a database
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SourceArgument {
    ExitLists,
    Snapshots,
    AnonymousIp,
}

impl From<SourceArgument> for Source {
    fn from(argument: SourceArgument) -> Self {
        match argument {
            SourceArgument::ExitLists => Self::ExitList,
            SourceArgument::Snapshots => Self::Snapshot,
            SourceArgument::AnonymousIp => Self::AnonymousIp,
        }
    }
}

impl TorCommand {
    /// Prints the result. `false` if a file was refused.
    ///
    /// # Errors
    /// If a directory cannot be read, or the output cannot be written.
    pub(crate) fn run(&self, settings: &Settings, out: &mut impl Write) -> anyhow::Result<bool> {
        let rules = settings.tor_rules()?;
        let paths = match self {
            Self::Verify(verify) => SourcePaths::only(verify.source.into(), verify.path.clone()),
            Self::Explain { .. } | Self::Coverage => evidence::source_paths(settings),
        };
        let mut library = Library::new(paths, rules);
        library.refresh(evidence::now()).context("loading exit lists")?;
        match self {
            Self::Explain { address, at } => {
                explain(library.history(), address, *at, out).map(|()| true)
            }
            Self::Coverage => coverage(library.history(), out).map(|()| true),
            Self::Verify(verify) => verified(&library, verify.source.into(), out),
        }
    }
}

fn explain(
    history: &ExitHistory,
    address: &str,
    at: Timestamp,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let explanation = history.explain(address, at);
    let tor = explanation.tor.map_or("null", |tor| if tor { "true" } else { "false" });
    writeln!(out, "tor {tor}, by {}; {}", explanation.reason, settled(explanation.settled))?;
    writeln!(
        out,
        "evidence that names the address, from the window before {at} to the settling time after it:"
    )?;
    for evidence in &explanation.evidence {
        writeln!(
            out,
            "  {} {} {}",
            evidence.time,
            evidence.source.as_str(),
            evidence.path.display()
        )?;
    }
    if explanation.evidence.is_empty() {
        writeln!(out, "  none")?;
    }
    writeln!(out, "lists and databases that cover the time and the address's family:")?;
    for covering in &explanation.covering {
        writeln!(out, "  {} {}", covering.time, covering.source.as_str())?;
    }
    if explanation.covering.is_empty() {
        writeln!(out, "  none")?;
    }
    match explanation.evidence_until {
        Some(newest) => writeln!(out, "newest valid list or database: {newest}")?,
        None => writeln!(out, "no valid list or database is loaded")?,
    }
    Ok(())
}

const fn settled(settled: bool) -> &'static str {
    if settled { "later lists cannot change it" } else { "later lists can change it" }
}

fn coverage(history: &ExitHistory, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "day         family  exit_list  snapshot  anonymous_ip  covered")?;
    for day in history.coverage() {
        let date = day.day.to_rfc3339_millis();
        let [exit_list, snapshot, anonymous_ip] = day.lists;
        let percent = day.covered_micros as f64 / 864e6;
        writeln!(
            out,
            "{}  {:<6}  {exit_list:>9}  {snapshot:>8}  {anonymous_ip:>12}  {percent:>6.1}%",
            &date[..10],
            family(day.family)
        )?;
    }
    for one in Family::ALL {
        for gap in history.gaps(one) {
            writeln!(out, "gap {} from {} to {}", family(one), gap.first, gap.last)?;
        }
    }
    Ok(())
}

const fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn verified(library: &Library, source: Source, out: &mut impl Write) -> anyhow::Result<bool> {
    let refused = library.refused();
    for refused in &refused {
        writeln!(out, "{}: {}", refused.path.display(), refused.reason)?;
    }
    let valid = library.history().valid(source);
    writeln!(out, "{} files, {valid} valid, {} refused", library.files(source), refused.len())?;
    Ok(refused.is_empty())
}
