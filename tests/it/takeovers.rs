//! The two large takeovers of 2026 as events: axios on 31 March, the packages of @mastra on 17 June. Both changed from
//! trusted publishing to a stolen token without a second factor. Names, days and the bad versions of axios are from
//! public reports; accounts, other versions and methods are invented.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::Record;

use crate::support::{Scene, event, structured, with};

#[derive(Clone, Copy)]
enum How {
    Robot,
    Factor(&'static str),
    Token(&'static str),
    NotReported(&'static str),
}

use How::{Factor, NotReported, Robot, Token};

struct Version {
    name: &'static str,
    version: &'static str,
    day: &'static str,
    how: How,
    weaker: Option<bool>,
    strongest: Option<&'static str>,
}

const fn version(
    (name, version): (&'static str, &'static str),
    day: &'static str,
    how: How,
    weaker: Option<bool>,
    strongest: Option<&'static str>,
) -> Version {
    Version { name, version, day, how, weaker, strongest }
}

const fn axios(
    own: &'static str,
    day: &'static str,
    how: How,
    weaker: Option<bool>,
    strongest: Option<&'static str>,
) -> Version {
    version(("axios", own), day, how, weaker, strongest)
}

/// The bad versions are those by a token since the day of each takeover.
const VERSIONS: &[Version] = &[
    // The first publication has nothing to compare with, and a publication by an unknown method cannot be compared.
    axios("0.1.0", "2014-08-29", NotReported("made-up-lead"), None, None),
    axios("0.27.0", "2022-04-25", Token("made-up-lead"), None, None),
    axios("0.30.0", "2025-03-26", Factor("made-up-lead"), Some(false), Some("0.27.0")),
    axios("1.0.0-alpha.1", "2025-04-01", Token("made-up-lead"), None, None),
    axios("1.0.0-alpha.2", "2025-04-02", Token("made-up-lead"), Some(false), Some("1.0.0-alpha.1")),
    axios("1.13.0", "2025-10-27", Robot, Some(false), Some("0.30.0")),
    // The maintenance line, published after the main line.
    axios("0.30.3", "2026-02-18", Robot, Some(false), Some("0.30.0")),
    axios("1.14.0", "2026-03-27", Robot, Some(false), Some("0.30.3")),
    axios("1.14.1", "2026-03-31", Token("made-up-lead"), Some(true), Some("1.14.0")),
    axios("0.30.4", "2026-03-31", Token("made-up-lead"), Some(true), Some("0.30.3")),
    axios("1.15.0", "2026-04-08", Robot, Some(false), Some("1.14.0")),
    version(("@mastra/core", "0.1.0"), "2025-02-10", Token("made-up-gone"), None, None),
    version(("@mastra/core", "1.0.0"), "2026-01-20", Robot, Some(false), Some("0.1.0")),
    version(("@mastra/core", "1.42.0-alpha.0"), "2026-06-12", Robot, None, None),
    version(("@mastra/core", "1.42.0"), "2026-06-16", Robot, Some(false), Some("1.0.0")),
    version(
        ("@mastra/core", "1.42.1"),
        "2026-06-17",
        Token("made-up-gone"),
        Some(true),
        Some("1.42.0"),
    ),
    version(("@mastra/memory", "nightly-1"), "2026-06-01", Robot, None, None),
    // A version that is not SemVer is compared by time only.
    version(
        ("@mastra/memory", "nightly-2"),
        "2026-06-17",
        Token("made-up-gone"),
        Some(true),
        Some("nightly-1"),
    ),
];

impl Version {
    fn record(&self) -> Record {
        let (kind, username, auth) = match self.how {
            Robot => ("workflow", "made-up-robot", json!({"credential": "oidc"})),
            Factor(name) => {
                let factor = json!({"presented": true, "verified": true, "method": "webauthn"});
                ("user", name, json!({"credential": "session_token", "secondFactor": factor}))
            }
            Token(name) => {
                ("user", name, json!({"credential": "granular_token", "bypass2fa": true}))
            }
            NotReported(name) => ("user", name, Value::Null),
        };
        let event = event(self.name, self.version);
        let event = with(event, "/data/publishedAt", json!(format!("{}T12:00:00Z", self.day)));
        let event = with(event, "/data/actor", json!({"kind": kind, "username": username}));
        structured(&with(event, "/data/auth", auth))
    }

    fn is_bad(&self) -> bool {
        matches!(self.how, Token(_)) && ["2026-03-31", "2026-06-17"].contains(&self.day)
    }
}

#[tokio::test]
async fn every_bad_version_is_weaker_and_no_good_one_is() {
    const QUERY: &str = "query($refs: [PackageRef!]!) { packages(refs: $refs) { history {
        earlier strongest { version publicationInfo { method } } weaker newPublisher publisherLast } } }";
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite://{}", folder.path().join("publications.db").display());
    for store in [testkit::postgres().database().await.url, sqlite] {
        let scene = Scene::without_topic("takeovers", store);
        scene.make_topic(1, &[]).await;
        let mut ingester = scene.ingester(&[]);
        // Newest first, because the order of the events makes no difference.
        scene.produce(VERSIONS.iter().rev().map(Version::record)).await;
        scene.caught_up(&mut ingester).await;
        ingester.stop();
        let query = scene.query();
        let refs = VERSIONS.iter().map(|own| json!({"name": own.name, "version": own.version}));
        let found = query.ask(QUERY, json!({"refs": refs.collect::<Vec<_>>()}));
        let mut histories = BTreeMap::new();
        for (own, found) in VERSIONS.iter().zip(found["packages"].as_array().unwrap()) {
            let (history, place) = (&found["history"], format!("{} {}", own.name, own.version));
            assert_eq!(history["weaker"], json!(own.weaker), "{place}: {history}");
            assert_eq!(history["weaker"] == true, own.is_bad(), "{place}");
            let strongest = history["strongest"]["version"].as_str();
            assert_eq!(strongest, own.strongest, "{place}: {history}");
            histories.insert((own.name, own.version), history);
        }
        let stolen = &histories[&("axios", "1.14.1")];
        assert_eq!(stolen["strongest"]["publicationInfo"]["method"], "TRUSTED_PUBLISHER");
        // The lead maintainer is not a new publisher, and neither is the @mastra account that was inactive for 16 months.
        assert_eq!(stolen["newPublisher"], false);
        assert_eq!(stolen["publisherLast"], "2025-04-02T12:00:00.000Z");
        let returned = &histories[&("@mastra/core", "1.42.1")];
        assert_eq!(returned["newPublisher"], false);
        assert_eq!(returned["publisherLast"], "2025-02-10T12:00:00.000Z");
        assert_eq!(histories[&("@mastra/memory", "nightly-2")]["newPublisher"], true);

        let (status, page) = testkit::http_get(&query.http, "/package/axios").unwrap();
        assert_eq!(status, 200);
        let rows = page.split("<tr role=\"row\">").skip(1);
        let rows: Vec<&str> = rows.filter(|row| row.contains("Weaker than before")).collect();
        assert_eq!(rows.len(), 2, "{page}");
        query.running.stop();
    }
}

#[tokio::test]
async fn the_histories_of_an_operation_are_one_statement() {
    const QUERY: &str = "query($refs: [PackageRef!]!) {
        all: packages(refs: $refs) { history { earlier } }
        one: package(name: \"axios\", version: \"1.14.1\") { history { earlier } }
        again: package(name: \"axios\", version: \"1.14.0\") { history { earlier } }
        purls: packagesByPurl(purls: [\"pkg:npm/%40mastra/core@1.42.1\"]) { history { earlier } }
        node(id: \"pkg:npm/axios@1.14.1\") { ... on Package { history { earlier } } }
        newest: publications(first: 3) { edges { node { history { earlier } } } }
        oldest: publications(first: 3, order: OLDEST_FIRST) { edges { node { history { earlier } } } } }";
    let scene = Scene::new("histories", 1).await;
    scene.produce(VERSIONS.iter().map(Version::record)).await;
    scene.ingest(&[]).await;
    let query = scene.query();
    let refs = VERSIONS.iter().map(|own| json!({"name": own.name, "version": own.version}));
    let refs = json!({"refs": refs.collect::<Vec<_>>()});
    for turn in [1.0, 2.0] {
        let found = query.ask(QUERY, refs.clone());
        let all = found["all"].as_array().unwrap();
        assert!(all.iter().all(|one| one["history"]["earlier"].is_number()), "{found}");
        assert_eq!(found["one"], found["node"], "{found}");
        assert_eq!(found["newest"]["edges"].as_array().unwrap().len(), 3, "{found}");
        let metrics = query.running.metrics();
        let count =
            |statement| metrics.get(&format!("store_seconds_count{{statement=\"{statement}\"}}"));
        let counts = ["history", "find", "list"].map(count);
        assert_eq!(counts, [Some(turn), Some(turn), Some(2.0 * turn)], "history, find, list");
    }
    query.running.stop();
}
