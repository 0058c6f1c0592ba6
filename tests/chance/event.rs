//! Random publish events and their encodings. `rule.rs` has the expected results.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use testkit::Record;

use crate::random::Random;
use crate::schedule::{one_in, pick};
use crate::support::{binary, header, structured};

/// The lists have times around this one: 2024-03-05T10:00:00Z, in microseconds since 1970.
pub(crate) const BASE: i64 = 1_709_632_800_000_000;
pub(crate) const MINUTE: i64 = 60_000_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
/// Number of publishers' addresses that lists may contain. Only records and lists may contain such an address.
pub(crate) const EXITS: u64 = 12;

/// The data of a publish event, named as in crates/model/README.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) id: String,
    pub(crate) revision: i32,
    /// Microseconds since 1970.
    pub(crate) created: i64,
    pub(crate) username: Option<String>,
    pub(crate) kind: Option<&'static str>,
    pub(crate) integrity: Option<String>,
    pub(crate) act: Act,
    pub(crate) staged: Option<(i64, Act)>,
}

/// The address, the credential and the authentication of an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Act {
    pub(crate) address: Option<String>,
    pub(crate) edge: Option<bool>,
    pub(crate) credential: Option<&'static str>,
    pub(crate) bypass: bool,
    pub(crate) amr: Vec<&'static str>,
    pub(crate) acr: Option<&'static str>,
    pub(crate) second: Option<Second>,
}

/// A second factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Second {
    pub(crate) presented: Option<bool>,
    pub(crate) verified: Option<bool>,
    pub(crate) method: Option<&'static str>,
    pub(crate) verified_at: VerifiedAt,
}

/// The time at which a second factor was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VerifiedAt {
    Missing,
    Unusable,
    /// Microseconds since 1970.
    At(i64),
}

pub(crate) const SOURCE: &str = "/registry/npm/publish";
pub(crate) const ACR: &str = "urn:example:strong";

/// RFC 3339 with microseconds.
pub(crate) fn written(time: i64) -> String {
    let time = Timestamp::from_microsecond(time).expect("a time of the run is in the range");
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A publisher's address that lists may contain.
pub(crate) fn exit(number: u64) -> String {
    format!("193.218.118.{}", 100 + number)
}

impl Event {
    /// A publication of `name` with random data.
    pub(crate) fn random(random: &mut Random, name: String, id: String) -> Self {
        let minutes = i64::try_from(random.below(8 * 60)).unwrap_or(0) - 4 * 60;
        let created = match random.below(12) {
            0 => BASE - 20 * 365 * 24 * HOUR,
            1 => BASE,
            _ => BASE + minutes * MINUTE + i64::try_from(random.below(1_000_000)).unwrap_or(0),
        };
        let staged = one_in(random, 8).then(|| {
            let before = i64::try_from(random.below(5 * 60)).unwrap_or(0) * MINUTE;
            (created - before, Act::random(random, created - before))
        });
        let integrity = pick(random, &[None, None, Some("sha512-YWFh"), Some("sha512-YmJi")]);
        Self {
            name,
            version: "1.0.0".to_owned(),
            id,
            revision: 0,
            created,
            username: pick(random, &[Some("anna"), Some("bert"), Some("Zoë \"x\""), None])
                .map(str::to_owned),
            kind: pick(random, &[Some("user"), Some("workflow"), Some("robot"), None]),
            integrity: integrity.map(str::to_owned),
            act: Act::random(random, created),
            staged,
        }
    }

    /// The event as a record, in one of the forms that the binding allows.
    pub(crate) fn record(&self, random: &mut Random) -> Record {
        let event = self.json(random);
        match random.below(4) {
            0 => binary(&event),
            1 => {
                // Without a content type, the mode follows from the value.
                Record { headers: vec![header("x-trace", "7")], ..structured(&event) }
            }
            2 => structured(&in_base64(event)),
            _ => structured(&event),
        }
    }

    fn json(&self, random: &mut Random) -> Value {
        let package = json!({"ecosystem": "npm", "name": self.name, "version": self.version,
            "integrity": self.integrity, "later": "an unknown field"});
        let mut data = self.act.json();
        data.insert("package".into(), package);
        data.insert("actor".into(), json!({"kind": self.kind, "username": self.username}));
        data.insert("revision".into(), json!(self.revision));
        if let Some((at, act)) = &self.staged {
            let mut staged = act.json();
            staged.insert("at".into(), json!(written(*at)));
            data.insert("staged".into(), Value::Object(staged));
        }
        let mut event = json!({"specversion": "1.0", "id": self.id, "source": SOURCE,
            "type": "registry.package.published.v1", "datacontenttype": "application/json"});
        let time = json!(spelled(self.created, random));
        if one_in(random, 3) {
            event["time"] = time;
        } else {
            data.insert("publishedAt".into(), time);
        }
        event["data"] = Value::Object(data);
        event
    }
}

/// The time in one of the allowed formats.
fn spelled(time: i64, random: &mut Random) -> String {
    let plain = written(time);
    match random.below(3) {
        // Digits below a microsecond are truncated.
        0 => plain.replace('Z', "999Z"),
        1 => written(time + 2 * HOUR).replace('Z', "+02:00").replace('T', "t"),
        _ => plain,
    }
}

fn in_base64(mut event: Value) -> Value {
    use base64::Engine as _;
    let data = event["data"].take().to_string();
    let event_fields = event.as_object_mut().expect("an event is an object");
    event_fields.remove("data");
    let text = base64::engine::general_purpose::STANDARD.encode(data);
    event_fields.insert("data_base64".into(), json!(text));
    event
}

impl Act {
    fn random(random: &mut Random, time: i64) -> Self {
        let address = match random.below(10) {
            0 => None,
            1 => Some("not an address".to_owned()),
            2 => Some("10.1.2.3".to_owned()),
            3 => Some("2620:7:6001::101".to_owned()),
            4 => Some("2405:8100:8000::7".to_owned()),
            5 => Some(format!("::ffff:{}", exit(random.below(EXITS)))),
            _ => Some(exit(random.below(EXITS))),
        };
        let credentials =
            [Some("session_token"), Some("automation_token"), Some("oidc"), Some("password"), None];
        Self {
            address,
            edge: pick(random, &[None, None, None, Some(false), Some(true)]),
            credential: pick(random, &credentials),
            bypass: one_in(random, 12),
            amr: pick(
                random,
                &[&[][..], &[], &["pwd"], &["pwd", "otp"], &["mfa"], &["user"], &["hwk", "sms"]],
            )
            .to_vec(),
            acr: pick(random, &[None, Some(ACR), Some("urn:example:other")]),
            second: Second::random(random, time),
        }
    }

    fn json(&self) -> Map<String, Value> {
        let mut auth = json!({"credential": self.credential, "bypass2fa": self.bypass,
            "amr": self.amr, "acr": self.acr});
        if let Some(second) = &self.second {
            let verified_at = match second.verified_at {
                VerifiedAt::Missing => Value::Null,
                VerifiedAt::Unusable => json!("yesterday"),
                VerifiedAt::At(time) => json!(written(time)),
            };
            auth["secondFactor"] = json!({"presented": second.presented,
                "verified": second.verified, "method": second.method, "verifiedAt": verified_at});
        }
        let request = json!({"ip": self.address, "edgeTor": self.edge, "userAgent": "npm/6.9.0"});
        Map::from_iter([("auth".to_owned(), auth), ("request".to_owned(), request)])
    }
}

impl Second {
    fn random(random: &mut Random, time: i64) -> Option<Self> {
        if one_in(random, 3) {
            return None;
        }
        let times = [
            VerifiedAt::Missing,
            VerifiedAt::Unusable,
            VerifiedAt::At(time),
            VerifiedAt::At(time - 5 * MINUTE),
            VerifiedAt::At(time - 5 * MINUTE - 1),
            VerifiedAt::At(time + 1),
        ];
        Some(Self {
            presented: pick(random, &[None, Some(true), Some(true), Some(false)]),
            verified: pick(random, &[None, Some(true), Some(true), Some(false)]),
            method: pick(
                random,
                &[Some("totp"), Some("webauthn"), Some("remembered_device"), Some("TOTP"), None],
            ),
            verified_at: pick(random, &times),
        })
    }
}
