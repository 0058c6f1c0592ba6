//! Checks the exit lists: they exist, are valid and recent enough.

use std::sync::Arc;
use std::time::Duration;

use enrich::{Library, Source};

use super::Findings;
use crate::evidence::{self, fetch::ListPoller};
use crate::settings::Settings;

pub(super) fn check(findings: &mut Findings, settings: &Settings) {
    if evidence::configured(settings).next().is_none() {
        findings.warning(
            "lists",
            "neither tor.exit_lists nor tor.snapshots nor tor.anonymous_ip is set: tor is null but where the edge or a prefix says otherwise",
        );
        return;
    }
    let rules = match settings.tor_rules() {
        Ok(rules) => rules,
        Err(error) => return findings.problem("lists", error.to_string()),
    };
    let mut library = Library::new(evidence::source_paths(settings), rules);
    if let Err(error) = library.refresh(evidence::now()) {
        // `{:#}` adds the operating system's error.
        return findings.problem("lists", format!("{:#}", anyhow::Error::from(error)));
    }
    for source in evidence::configured(settings) {
        age(findings, settings, &library, source);
    }
    if let Some(poller) = ListPoller::new(settings, Arc::new(()))
        && let Err(error) = poller.check(evidence::now())
    {
        findings.problem("lists.poll", format!("tor.poll_url: {error}"));
    }
    let refused = library.refused();
    if let Some(first) = refused.first() {
        let message = format!(
            "{} files are refused, first {}: {}",
            refused.len(),
            first.path.display(),
            first.reason
        );
        findings.warning("lists.refused", message);
    }
}

fn age(findings: &mut Findings, settings: &Settings, library: &Library, source: Source) {
    let (name, history) = (source.as_str(), library.history());
    let Some(newest) = history.newest(source) else {
        findings.warning("lists.missing", format!("{name}: no valid list"));
        return;
    };
    let covers =
        if source == Source::AnonymousIp { settings.tor.max_age } else { settings.tor.coverage };
    let seconds = evidence::now().micros_since(newest).max(0).unsigned_abs() / 1_000_000;
    let age = Duration::from_secs(seconds);
    let message = format!(
        "{name}: {} valid, the newest {} old",
        history.valid(source),
        humantime::format_duration(age)
    );
    if age > covers {
        let covers = humantime::format_duration(covers);
        findings.warning(
            "lists.stale",
            format!(
                "{message}; acts are covered for {covers}, so what is published now has no verdict"
            ),
        );
    } else {
        findings.ok("lists", message);
    }
}
