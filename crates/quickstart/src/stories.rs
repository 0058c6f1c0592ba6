//! Packages with histories that show the API's features: a weaker publication, a new publisher, a disputed version, a
//! publication over Tor, and the versions of `pg` around the example. Packages, accounts, days and digests are
//! invented.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use model::{PackageName, PackageVersion, PublicationId, Purl, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::events::{self, ECOSYSTEM, Record};

/// The method of a publication.
#[derive(Clone, Copy)]
enum How {
    SecondFactor,
    TrustedPublisher,
    StolenToken,
    /// With a second factor, and the registry's edge saw Tor.
    OverTor,
}

/// An event of a story.
struct Chapter {
    name: &'static str,
    version: &'static str,
    at: &'static str,
    /// `None` when the registry did not report the account.
    account: Option<&'static str>,
    how: How,
}

const fn chapter(
    name: &'static str,
    version: &'static str,
    at: &'static str,
    account: &'static str,
    how: How,
) -> Chapter {
    Chapter { name, version, at, account: Some(account), how }
}

/// Sorted by time for each package. A version with two events is disputed.
const CHAPTERS: &[Chapter] = &[
    Chapter {
        name: "pg",
        version: "7.10.0",
        at: "2019-04-18T15:20:00Z",
        account: None,
        how: How::SecondFactor,
    },
    Chapter {
        name: "pg",
        version: "7.11.0",
        at: "2019-05-10T16:02:00Z",
        account: None,
        how: How::SecondFactor,
    },
    chapter("story-weaker", "1.13.0", "2022-01-10T09:00:00Z", "made-up-ana", How::SecondFactor),
    chapter(
        "story-weaker",
        "1.14.0",
        "2022-02-07T09:30:00Z",
        "made-up-robot",
        How::TrustedPublisher,
    ),
    chapter("story-weaker", "1.14.1", "2022-02-28T00:21:00Z", "made-up-ana", How::StolenToken),
    chapter(
        "story-new-publisher",
        "2.0.0",
        "2021-06-01T10:00:00Z",
        "made-up-ben",
        How::SecondFactor,
    ),
    chapter(
        "story-new-publisher",
        "2.0.1",
        "2021-11-15T10:00:00Z",
        "made-up-ben",
        How::SecondFactor,
    ),
    chapter(
        "story-new-publisher",
        "2.0.2",
        "2022-02-21T22:45:00Z",
        "made-up-cleo",
        How::SecondFactor,
    ),
    chapter("story-disputed", "0.3.0", "2022-02-22T08:00:00Z", "made-up-dora", How::SecondFactor),
    chapter("story-disputed", "0.3.0", "2022-02-22T08:00:00Z", "made-up-emil", How::SecondFactor),
    chapter("story-tor", "4.1.0", "2022-01-20T12:00:00Z", "made-up-finn", How::SecondFactor),
    chapter("story-tor", "4.1.1", "2022-02-23T03:10:00Z", "made-up-finn", How::OverTor),
];

/// The times of the stories, for which exit lists are written.
pub(crate) fn times() -> impl Iterator<Item = Timestamp> {
    CHAPTERS.iter().filter_map(|chapter| Timestamp::parse(chapter.at).ok())
}

/// The events of the stories.
///
/// # Errors
/// A name in this file is invalid.
pub(crate) fn records() -> anyhow::Result<Vec<Record>> {
    CHAPTERS.iter().enumerate().map(|(number, chapter)| chapter.record(number)).collect()
}

/// An npm lockfile (version 3) that depends on the stories, for `publication-audit`. The tarballs are on the host that
/// the quickstart's server names as its registry.
pub(crate) fn lockfile(host: &str) -> String {
    let locked = [
        ("pg", "7.12.0"),
        ("story-weaker", "1.14.1"),
        ("story-new-publisher", "2.0.2"),
        ("story-disputed", "0.3.0"),
        ("story-tor", "4.1.1"),
    ];
    let mut packages = serde_json::Map::new();
    let dependencies: Value = locked.iter().map(|&(name, version)| (name, version)).collect();
    packages.insert(
        String::new(),
        json!({"name": "sample", "version": "1.0.0", "dependencies": dependencies}),
    );
    for (name, version) in locked {
        let resolved = format!("https://{host}/{name}/-/{name}-{version}.tgz");
        let mut package = json!({"version": version, "resolved": resolved});
        if name != "pg" {
            package["integrity"] = json!(integrity(name, version));
        }
        packages.insert(format!("node_modules/{name}"), package);
    }
    let lockfile = json!({
        "name": "sample", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": packages,
    });
    format!("{lockfile:#}\n")
}

/// A digest in the format of Subresource Integrity. There is no artifact, so it is the digest of the version's name.
fn integrity(name: &str, version: &str) -> String {
    let digest = Sha512::digest(format!("made up: {name}@{version}"));
    format!("sha512-{}", BASE64_STANDARD.encode(digest))
}

impl Chapter {
    fn record(&self, number: usize) -> anyhow::Result<Record> {
        let id = PublicationId {
            name: PackageName::new(self.name)?,
            version: PackageVersion::new(self.version)?,
        };
        let subject = Purl::canonical(ECOSYSTEM, &id);
        let over_tor = matches!(self.how, How::OverTor);
        let kind = if matches!(self.how, How::TrustedPublisher) { "workflow" } else { "user" };
        let event = json!({
            "specversion": "1.0",
            "id": format!("quickstart-story-{number:02}"),
            "source": "/registry/npm/publish",
            "type": "registry.package.published.v1",
            "subject": subject,
            "time": self.at,
            "datacontenttype": "application/json",
            "data": {
                "package": {
                    "ecosystem": ECOSYSTEM,
                    "name": self.name,
                    "version": self.version,
                    "integrity": integrity(self.name, self.version),
                },
                "publishedAt": self.at,
                "actor": { "kind": kind, "username": self.account },
                // A public address that is in none of the generated exit lists.
                "request": { "ip": "71.160.223.46", "edgeTor": over_tor.then_some(true) },
                "auth": self.how.authentication(self.at),
            },
        });
        Ok(Record { key: events::key(&subject), value: event.to_string() })
    }
}

impl How {
    fn authentication(self, at: &str) -> Value {
        match self {
            Self::SecondFactor | Self::OverTor => json!({
                "credential": "session_token",
                "secondFactor": {
                    "presented": true, "verified": true, "method": "webauthn", "verifiedAt": at,
                },
            }),
            Self::TrustedPublisher => json!({ "credential": "oidc" }),
            Self::StolenToken => json!({
                "credential": "granular_token", "bypass2fa": true,
                "secondFactor": { "presented": false },
            }),
        }
    }
}
