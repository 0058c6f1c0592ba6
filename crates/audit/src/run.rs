//! One run, from the command line to the exit code.

use std::collections::BTreeSet;
use std::fs;
use std::io::{IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use model::{PublicationId, Timestamp};

use crate::cli::{Cli, OutputFormat};
use crate::client::{Answered, Client, Endpoint, Unanswered, ask_all};
use crate::exit::Exit;
use crate::location::{Kind, Registry, RegistryHost, RegistryHosts};
use crate::lockfile::{self, DEFAULT_NAMES, Lockfile};
use crate::policy::Policy;
use crate::report::{self, Report};
use crate::rules;
use crate::select::{self, Base, Selection};
use crate::settings::{Environment, Settings};

/// The inputs and outputs of a run other than files.
pub struct Surroundings {
    /// The environment variables.
    pub environment: Environment,
    /// The current time.
    pub now: Timestamp,
    /// Standard input.
    pub input: Box<dyn Read>,
    /// Standard output.
    pub output: Box<dyn Write>,
    /// Standard error.
    pub errors: Box<dyn Write>,
}

/// No host of the deployment's registry is known, so no package may be requested.
#[derive(Debug, thiserror::Error)]
#[error("neither the service nor --registry names a host of the registry")]
struct NoHosts {
    /// The hosts in the lockfiles, in several lines that this program wrote.
    hint: String,
}

/// Runs the audit and returns its result. An output that cannot be written counts as wrong usage.
pub fn run(cli: &Cli, surroundings: &mut Surroundings) -> Exit {
    let report = remove_old_report(cli).and_then(|()| audit(cli, surroundings));
    match report.and_then(|report| write(cli, &report, surroundings)) {
        Ok(exit) => exit,
        Err(error) => {
            let hint = error.downcast_ref::<NoHosts>().map(|error| format!("\n{}", error.hint));
            let hint = hint.unwrap_or_default();
            let message = format!("{error:#}");
            // The message may quote a file. Escape it, because workflows read commands on this stream too.
            let text = report::escape::line(&message);
            let _ = writeln!(surroundings.errors, "publication-audit: {text}{hint}");
            if cli.format == OutputFormat::Github {
                let text = report::escape::github_message(&format!("{message}{hint}"));
                let _ = writeln!(surroundings.output, "::error title=publication-audit::{text}");
            }
            Exit::Usage
        }
    }
}

/// Removes the report of an earlier run, which would be taken for that of a run that ends without one.
fn remove_old_report(cli: &Cli) -> anyhow::Result<()> {
    let Some(path) = &cli.output else { return Ok(()) };
    let given = cli.files.iter().chain(&cli.base).chain(&cli.policy).chain(&cli.token_file);
    let mut inputs = given.map(PathBuf::as_path).chain(DEFAULT_NAMES.iter().map(Path::new));
    let place = path.canonicalize().ok();
    let name = || format!("--output {}", path.display());
    let is_input = place.is_some() && inputs.any(|input| input.canonicalize().ok() == place);
    anyhow::ensure!(!is_input, "{} is a file that is read", name());
    // Neither a device nor a link, as /dev/stdout is one.
    let is_file = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file { fs::remove_file(path).with_context(name) } else { Ok(()) }
}

fn audit(cli: &Cli, surroundings: &mut Surroundings) -> anyhow::Result<Report> {
    let address = cli.url.as_deref().filter(|url| !url.is_empty());
    let address = address.context("no service is named: give --url or PUBLICATION_INSIGHTS_URL")?;
    let token = cli.token_file.as_deref().map(token).transpose()?;
    let endpoint = Endpoint::new(address, token.as_deref(), &surroundings.environment)?;
    let hosts = cli
        .registry
        .iter()
        // Without the text, which may have a password.
        .map(|text| RegistryHost::parse(text).context("--registry"));
    let hosts = RegistryHosts(hosts.collect::<anyhow::Result<_>>()?);
    let policy = policy(cli.policy.as_deref(), surroundings.now)?;
    let mut lockfiles = lockfiles(cli, &mut surroundings.input)?;
    let mut report = Report::new(&lockfiles, cli.base.is_some(), policy);
    if let Some(path) = &cli.base {
        let folder = lockfiles.first().map_or(Path::new("."), |lockfile| &lockfile.folder);
        let base = lockfile::read_of(path, folder);
        let base = base.with_context(|| format!("--base {}", path.display()))?;
        let base = Base::of(&base);
        lockfiles.iter_mut().for_each(|lockfile| base.subtract_from(lockfile));
    }
    if !select::has_candidates(&lockfiles) {
        report.add_not_audited(&lockfiles);
        return Ok(report);
    }
    let settings: Vec<Settings> = lockfiles
        .iter()
        .map(|file| Settings::read(&file.folder, file.format, &surroundings.environment))
        .collect::<Result<_, _>>()?;
    // A lockfile that was found need not be the one that is installed from.
    if cli.files.is_empty()
        && let Some(key) = settings.iter().find_map(Settings::other_lockfile)
    {
        anyhow::bail!("the setting `{key}` names another lockfile or none: give the FILE");
    }
    let deadline = Instant::now() + Duration::from_secs(cli.timeout);
    let client = Client::new(endpoint, deadline);
    let Some(registry) = registry(&client, hosts, &lockfiles, &mut report)? else {
        return Ok(report);
    };
    report.ecosystem.clone_from(&registry.ecosystem);
    let mut selection = Selection::default();
    for (lockfile, settings) in lockfiles.iter().zip(&settings) {
        selection.add(lockfile, settings, &registry)?;
    }
    if selection.asked.is_empty() {
        report.hint = Some(hosts_hint(&lockfiles));
    }
    ask(&client, cli, selection, surroundings.now, &mut report);
    has_places(&report)?;
    Ok(report)
}

/// Refuses SBOMs of which nothing could be asked because they lead to sources. That is not the same as an SBOM without
/// packages of the registry.
fn has_places(report: &Report) -> anyhow::Result<()> {
    let has_sources = report.not_audited.iter().any(|entry| entry.kind == Kind::Sources);
    anyhow::ensure!(
        report.asked > 0 || report.is_diff || !has_sources,
        "the SBOM does not say where its packages come from, but where their sources are; audit the lockfile"
    );
    Ok(())
}

/// The deployment's registry. `None` when the service did not answer, which the report then records.
fn registry(
    client: &Client,
    mut hosts: RegistryHosts,
    lockfiles: &[Lockfile],
    report: &mut Report,
) -> anyhow::Result<Option<Registry>> {
    let named = match client.registry() {
        Ok(named) => named,
        Err(why) => {
            let hint = (why == Unanswered::TooOld).then(|| hosts_hint(lockfiles));
            report.failed(&why, hint);
            return Ok(None);
        }
    };
    hosts.0.extend(named.hosts.0);
    if hosts.is_empty() {
        return Err(NoHosts { hint: hosts_hint(lockfiles) }.into());
    }
    Ok(Some(Registry { hosts, ..named }))
}

/// Lists the hosts in the lockfiles with counts, and the option that would name each.
fn hosts_hint(lockfiles: &[Lockfile]) -> String {
    let (hosts, unsaid) = select::hosts_of(lockfiles);
    let mut by_count: Vec<_> = hosts.into_iter().collect();
    by_count.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let mut text = "The packages come from:".to_owned();
    for (host, count) in &by_count {
        text.push_str(&format!("\n  {count:>6}  {host}    --registry {host}"));
    }
    if unsaid > 0 {
        text.push_str(&format!("\n  {unsaid:>6}  (no location)"));
    }
    text
}

fn ask(client: &Client, cli: &Cli, selection: Selection, now: Timestamp, report: &mut Report) {
    let ids: Vec<PublicationId> = selection.asked.keys().cloned().collect();
    let progress = progress(cli, ids.len());
    let answered = match ids.is_empty() {
        true => Answered::default(),
        false => ask_all(client, &ids, &|more| progress.inc(more as u64)),
    };
    progress.finish_and_clear();
    for (id, occurrences) in &selection.asked {
        if let Some(package) = answered.packages.get(id) {
            let policy = &report.policy;
            let found = rules::evaluate(id, occurrences, package.as_ref(), policy, now);
            report.findings.extend(found);
        }
    }
    report.asked = ids.len();
    report.not_audited = selection.not_audited;
    report.unanswered = answered.unanswered.into_iter().collect();
    report.finish();
}

/// A progress bar on a terminal; hidden otherwise.
fn progress(cli: &Cli, length: usize) -> ProgressBar {
    if cli.format != OutputFormat::Text || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} packages, {elapsed}");
    let bar = ProgressBar::new(length as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn policy(path: Option<&Path>, now: Timestamp) -> anyhow::Result<Policy> {
    let Some(path) = path else { return Ok(Policy::default()) };
    let name = || format!("--policy {}", path.display());
    let text = fs::read_to_string(path).with_context(name)?;
    Policy::parse(&text, now).with_context(name)
}

fn token(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("--token-file {}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn lockfiles(cli: &Cli, input: &mut dyn Read) -> anyhow::Result<Vec<Lockfile>> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut known = BTreeSet::new();
    for file in &cli.files {
        if known.insert(file) {
            files.push(file.clone());
        }
    }
    if files.is_empty() {
        let names = DEFAULT_NAMES.iter().map(PathBuf::from);
        // Also a link that leads nowhere, because it is not the same as no lockfile.
        files.extend(names.filter(|name| name.symlink_metadata().is_ok()));
        // Without the other form, bun installs from this one, which ends the run.
        if Path::new("bun.lockb").exists() && !Path::new("bun.lock").exists() {
            files.push("bun.lockb".into());
        }
    }
    let read = |file: PathBuf, input: &mut dyn Read| {
        let lockfile = match file.as_os_str() == "-" {
            true => lockfile::read_purls(input),
            false => lockfile::read(&file),
        };
        lockfile.with_context(|| file.display().to_string())
    };
    files.into_iter().map(|file| read(file, input)).collect()
}

fn write(cli: &Cli, report: &Report, surroundings: &mut Surroundings) -> anyhow::Result<Exit> {
    let text = match cli.format {
        OutputFormat::Text => report::text::write(report, surroundings.now),
        OutputFormat::Json => report::json::write(report),
        OutputFormat::Sarif => report::sarif::write(report),
        OutputFormat::Github => report::github::write(report),
    };
    match &cli.output {
        None => surroundings.output.write_all(text.as_bytes()).context("standard output")?,
        Some(path) => {
            fs::write(path, &text).with_context(|| format!("--output {}", path.display()))?;
            if let Some(reason) = &report.failure {
                let reason = report::escape::text(reason);
                writeln!(surroundings.errors, "publication-audit: {reason}")?;
            }
        }
    }
    surroundings.output.flush().context("standard output")?;
    Ok(report.exit())
}
