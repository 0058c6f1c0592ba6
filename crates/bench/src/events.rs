//! Publish events, generated from a seed: a few packages with many publications, and many with few.

use std::collections::HashMap;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use model::Timestamp;

use crate::exits::{HOUR, Random};

const WORDS: [&str; 32] = [
    "react", "node", "type", "web", "core", "data", "form", "graph", "http", "cache", "stream",
    "parse", "style", "build", "test", "log", "query", "router", "state", "theme", "table",
    "chart", "auth", "file", "event", "queue", "proxy", "schema", "token", "utils", "plugin",
    "loader",
];
/// A quarter of all versions belong to these few packages.
const HOT_PACKAGES: u64 = 200;
/// Average number of publications of the other packages.
const VERSIONS: u64 = 4;

/// The key and the value of a record.
pub(crate) struct Event {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// An iterator of `count` events, each of another publication.
pub(crate) struct Events {
    random: Random,
    exits: Vec<IpAddr>,
    versions: HashMap<u64, u64>,
    first_major: u64,
    /// The time of the first event. The others follow evenly within an hour.
    first: Timestamp,
    count: u64,
    next: u64,
}

impl Events {
    /// Publications in the hour that begins five hours before `last`, the time of the newest exit list. They are
    /// settled, like most of a backlog. Series whose first major versions are far apart share no publication.
    pub(crate) fn new(count: u32, last: Timestamp, exits: Vec<IpAddr>, first_major: u64) -> Self {
        let first = Timestamp::from_micros(last.as_micros() - 5 * HOUR);
        Self {
            random: Random::new(8),
            exits,
            versions: HashMap::new(),
            first_major,
            first,
            count: count.into(),
            next: 0,
        }
    }

    fn package(&mut self) -> (String, String) {
        let hot = self.random.below(4) == 0;
        let names = if hot { HOT_PACKAGES } else { self.count / VERSIONS + 1 };
        let index = self.random.below(names);
        let nth = self.versions.entry(index).or_default();
        let mut version =
            format!("{}.{}.{}", self.first_major + *nth / 50, *nth / 5 % 10, *nth % 5);
        if index % 9 == 4 {
            version.push_str("-beta.1");
        }
        *nth += 1;
        (name(index), version)
    }

    /// A digest as npm's lockfiles write it: SHA-512 in base64, which compresses as badly as a real one.
    fn integrity(&mut self) -> String {
        let digest: [u8; 64] = std::array::from_fn(|_| self.random.below(256).to_le_bytes()[0]);
        format!("sha512-{}", BASE64_STANDARD.encode(digest))
    }

    fn auth(&mut self, at: &str) -> (&'static str, String) {
        match self.random.below(20) {
            0..12 => (
                "user",
                format!(
                    r#""credential":"session_token","amr":["pwd","otp","mfa"],"secondFactor":{{"presented":true,"verified":true,"method":"totp","verifiedAt":"{at}"}}"#
                ),
            ),
            12..15 => (
                "user",
                r#""credential":"granular_token","bypass2fa":true,"secondFactor":null"#.to_owned(),
            ),
            15..18 => ("workflow", r#""credential":"oidc","bypass2fa":false"#.to_owned()),
            _ => ("user", r#""credential":"password","amr":["pwd"]"#.to_owned()),
        }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.next == self.count {
            return None;
        }
        let share = i64::try_from(self.next * 3_600_000 / self.count).unwrap_or_default();
        let at = Timestamp::from_micros(self.first.as_micros() + share * 1_000).to_rfc3339_millis();
        self.next += 1;
        let (name, version) = self.package();
        let (kind, auth) = self.auth(&at);
        let user = self.random.below(20_000);
        let username = format!("{}{user}", WORDS[usize::try_from(user % 32).unwrap_or_default()]);
        let ip = if self.random.below(40) == 0 {
            *self.random.pick(&self.exits)
        } else {
            self.random.address()
        };
        let integrity = self.integrity();
        let key = format!("pkg:npm/{}", name.replacen('@', "%40", 1));
        let value = format!(
            concat!(
                r#"{{"specversion":"1.0","id":"01J3YQ{:010X}","source":"/registry/npm/publish","#,
                r#""type":"registry.package.published.v1","time":"{at}","#,
                r#""data":{{"package":{{"ecosystem":"npm","name":"{name}","version":"{version}","integrity":"{integrity}"}},"publishedAt":"{at}","#,
                r#""actor":{{"kind":"{kind}","username":"{username}"}},"request":{{"ip":"{ip}"}},"auth":{{{auth}}}}}}}"#
            ),
            self.next,
            at = at,
            name = name,
            version = version,
            integrity = integrity,
            kind = kind,
            username = username,
            ip = ip,
            auth = auth,
        );
        Some(Event { key, value })
    }
}

/// The unique name of the package with this number.
fn name(index: u64) -> String {
    let word =
        |place: u32| WORDS[usize::try_from(index / 32_u64.pow(place) % 32).unwrap_or_default()];
    let mut name = format!("{}-{}-{}", word(0), word(1), word(2));
    if index >= 32_768 {
        name = format!("{name}{}", index / 32_768);
    }
    if index % 5 < 2 { format!("@{}/{name}", word(1)) } else { name }
}
