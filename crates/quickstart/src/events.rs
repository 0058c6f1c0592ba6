//! Publish events as a registry would send them: structured CloudEvents with the purl without version as key.

use model::Purl;
use serde_json::json;

use crate::exit_lists::ExitLists;
use crate::made_up;
use crate::random::Random;
use crate::releases::{EXAMPLE, Release};

/// The purl type of the registry.
pub(crate) const ECOSYSTEM: &str = "npm";
/// The seed of the generated data. Any number works.
const SEED: u64 = 0x7075_626c_6973_6821;

/// A record to produce.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The key, so that a package stays in one partition.
    pub(crate) key: String,
    /// The event.
    pub(crate) value: String,
}

/// The event of a release. It depends only on the arguments, so it is the same in every run.
pub(crate) fn record(number: usize, release: &Release, lists: &ExitLists) -> Record {
    let subject = Purl::canonical(ECOSYSTEM, &release.id);
    let key = key(&subject);
    if release.is_example() {
        return Record { key, value: EXAMPLE.to_owned() };
    }
    let mut random = Random::new(SEED ^ number as u64);
    let time = release.created.to_rfc3339_millis();
    let ip = made_up::address(&mut random, release.created, lists);
    let (actor, auth) = made_up::authentication(&mut random, release.created);
    let event = json!({
        "specversion": "1.0",
        "id": format!("quickstart-{number:05}"),
        "source": "/registry/npm/publish",
        "type": "registry.package.published.v1",
        "subject": subject,
        "time": time,
        "datacontenttype": "application/json",
        "data": {
            "package": {
                "ecosystem": ECOSYSTEM,
                "name": release.id.name.as_str(),
                "version": release.id.version.as_str(),
            },
            "publishedAt": time,
            "revision": 0,
            "actor": { "kind": actor, "username": release.username },
            "request": { "ip": ip, "edgeTor": null },
            "auth": auth,
            "staged": null,
        },
    });
    Record { key, value: event.to_string() }
}

/// The purl without its version, in which `@` is encoded.
pub(crate) fn key(purl: &str) -> String {
    purl.rsplit_once('@').map_or(purl, |(package, _)| package).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{releases, stories};
    use enrich::{Library, Source, SourcePaths};
    use ingester::decode::decode;
    use ingester::{Evaluator, Header, Outcome, Record as KafkaRecord, Settings};
    use model::{Position, Publication, TfaReason, TorReason};
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::time::Duration;

    /// So late after the last publication that no list is refused as too new.
    const DAY: Duration = Duration::from_secs(86_400);

    fn envelope(record: Record) -> KafkaRecord {
        KafkaRecord {
            position: Position { topic: Arc::from("t"), partition: 0, offset: 0 },
            timestamp: None,
            key: Some(record.key.into()),
            value: Some(record.value.into()),
            headers: vec![Header {
                name: "content-type".into(),
                value: Some("application/cloudevents+json".into()),
            }],
        }
    }

    /// The ingester's results for all events and lists.
    fn evaluated() -> (Vec<Release>, Vec<Publication>) {
        let releases = releases::load().unwrap();
        let lists = ExitLists::plan(releases.iter().map(|release| release.created));
        let folder = tempfile::tempdir().unwrap();
        lists.write(folder.path()).unwrap();
        let settings = Settings::default();
        let paths = SourcePaths::only(Source::Snapshot, folder.path().to_owned());
        let mut library = Library::new(paths, settings.tor_rules().unwrap());
        library.refresh(releases.last().unwrap().created.after(DAY)).unwrap();
        let evaluator = Evaluator {
            decode: settings.decode_rules(),
            history: Arc::new(library.history().clone()),
            tfa: settings.tfa_rules(),
            generation: 0,
        };
        let rows = releases.iter().enumerate().map(|(number, release)| {
            match evaluator.evaluate(&envelope(record(number, release, &lists))) {
                Outcome::Row(publication) => publication,
                other => panic!("{other:?}"),
            }
        });
        let rows = rows.collect();
        (releases, rows)
    }

    #[test]
    fn every_event_is_a_row_and_every_kind_of_answer_is_there() {
        let (releases, rows) = evaluated();
        for (release, row) in releases.iter().zip(&rows) {
            assert_eq!(row.id, release.id);
            assert_eq!(row.info.created, release.created);
            assert_eq!(row.info.username.as_ref().map(|n| n.as_str()), release.username.as_deref());
        }
        let share = |of: &dyn Fn(&Publication) -> bool| {
            rows.iter().filter(|row| of(row)).count() as f64 / rows.len() as f64
        };
        let over_tor = share(&|row| row.info.tor == Some(true));
        assert!((0.018..0.022).contains(&over_tor), "{over_tor}");
        let unknown = share(&|row| row.info.tor.is_none());
        assert!((0.02..0.08).contains(&unknown), "{unknown}");
        use TorReason::{ListedAfter, NoAddress, NoCoverage, NotGlobal, NotListed, Snapshot};
        for reason in [ListedAfter, NoAddress, NoCoverage, NotGlobal, NotListed, Snapshot] {
            assert!(share(&|row| row.info.tor_reason == reason) > 0.0, "{reason}");
        }
        for &reason in TfaReason::ALL.iter().filter(|&&reason| reason != TfaReason::Acr) {
            assert!(share(&|row| row.info.tfa_reason == reason) > 0.0, "{reason}");
        }
        assert!(rows.iter().all(|row| row.info.tor_settled));
        let example = rows.iter().find(|row| row.id.name.as_str() == "pg").unwrap();
        assert_eq!((example.info.tor, example.info.tfa), (Some(false), Some(true)));
    }

    #[test]
    fn every_story_is_a_row_and_the_lockfile_depends_on_them() {
        let (rules, stories) = (Settings::default().decode_rules(), stories::records().unwrap());
        let mut names = HashSet::new();
        for story in stories {
            let record = envelope(story);
            let Ok(Some(event)) = decode(&record, &rules) else { panic!("{record:?}") };
            names.insert((event.id.name.as_str().to_owned(), event.id.version.as_str().to_owned()));
        }
        let lockfile: serde_json::Value =
            serde_json::from_str(&stories::lockfile("registry.example")).unwrap();
        let packages = lockfile["packages"].as_object().unwrap();
        let locked = packages.iter().filter(|(path, _)| !path.is_empty());
        let locked: Vec<_> = locked
            .map(|(path, package)| {
                let name = path.trim_start_matches("node_modules/").to_owned();
                (name, package["version"].as_str().unwrap().to_owned())
            })
            .collect();
        assert_eq!(locked.len(), 5);
        let is_example = |name: &str, version: &str| (name, version) == ("pg", "7.12.0");
        for (name, version) in locked {
            let is_there = names.contains(&(name.clone(), version.clone()));
            assert!(is_there || is_example(&name, &version), "{name} {version}");
        }
    }

    #[test]
    fn the_same_events_come_out_every_time() {
        let releases = releases::load().unwrap();
        let lists = ExitLists::plan(releases.iter().map(|release| release.created));
        let second = ExitLists::plan(releases.iter().map(|release| release.created));
        for (number, release) in releases.iter().enumerate().step_by(500) {
            assert_eq!(record(number, release, &lists), record(number, release, &second));
        }
        let scoped = releases.iter().find(|r| r.id.name.as_str().starts_with('@')).unwrap();
        assert!(record(0, scoped, &lists).key.starts_with("pkg:npm/%40"));
    }
}
