//! Decodes a record into a publish event, or into the reason why it is not an event (crates/model/README.md, Publish
//! event). Pure: the same record and rules give the same result in a replay years later.

mod cloudevent;
mod fields;
mod json;
pub mod rejection;

use std::borrow::Cow;
use std::time::Duration;

use model::{
    Act, Address, Auth, Credential, EventIdentity, Integrity, PackageName, PackageVersion,
    PublicationId, PublishEvent,
};
use model::{Purl, SecondFactor, Timestamp, Username};

use crate::decode::rejection::{Code, Path, Rejection};
use crate::record::Record;
use json::Field;

/// The JSON Schema (draft 2020-12) of a publish event in structured mode, for producers; in binary mode the value is
/// `$defs/data`. Its descriptions have the rules that a schema cannot express.
pub const EVENT_SCHEMA: &str = include_str!("../../event.schema.json");
/// How far T may be ahead of the record's timestamp, because the clocks of a registry's hosts differ by less.
pub(crate) const FUTURE_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// The maximum revision, because the databases store a signed 32-bit number.
const MAX_REVISION: u32 = i32::MAX as u32;

/// The part of the configuration that affects decoding.
#[derive(Debug, Clone)]
pub struct DecodeRules {
    /// The registry's purl type.
    pub ecosystem: String,
    /// The one CloudEvents type that is decoded; other types are skipped.
    pub event_type: String,
    /// The maximum size of a value, in bytes.
    pub max_event_bytes: usize,
}

/// Decodes one record. `None` if it is skipped although it is not wrong: a tombstone, or an event of another type.
///
/// # Errors
/// The [`Rejection`] of a record that becomes a dead letter.
pub fn decode<'a>(
    record: &'a Record,
    rules: &DecodeRules,
) -> Result<Option<PublishEvent<'a>>, Rejection> {
    record.value.as_deref().map_or(Ok(None), |value| read(record, value, rules))
}

/// Decodes a value; `None` for an event of another type.
fn read<'a>(
    record: &'a Record,
    value: &'a [u8],
    rules: &DecodeRules,
) -> Result<Option<PublishEvent<'a>>, Rejection> {
    if value.len() > rules.max_event_bytes {
        let message =
            format!("the value is longer than limits.max_event_bytes ({})", rules.max_event_bytes);
        return Err(Rejection::new(Code::TooLarge, message));
    }
    let mut place = Field::Missing;
    let Some((identity, event)) = cloudevent::read(record, value, &rules.event_type, &mut place)?
    else {
        return Ok(None);
    };
    if let Some(data) = cloudevent::data_in_base64(event)? {
        return read_data(identity, event, &data, record, rules).map(Some);
    }
    Checked::new(identity, event)?.into_event(record, rules).map(Some)
}

/// Decodes an event whose data was in `data_base64`. The event owns its texts, because `data` is a temporary copy. Few
/// SDKs write events in this form.
#[cold]
fn read_data(
    identity: EventIdentity,
    event: &mut fields::Event<'_>,
    data: &str,
    record: &Record,
    rules: &DecodeRules,
) -> Result<PublishEvent<'static>, Rejection> {
    let mut copied = fields::Event {
        subject: std::mem::take(&mut event.subject),
        time: std::mem::take(&mut event.time),
        datacontenttype: std::mem::take(&mut event.datacontenttype),
        ..Default::default()
    };
    json::read(data, &mut copied.data).map_err(|error| {
        let problem = format_args!("{error} when decoded");
        Rejection::of_field(Code::NotJson, "data_base64", problem)
    })?;
    Ok(Checked::new(identity, &mut copied)?.into_event(record, rules)?.into_owned())
}

/// The fields after the checks for `bad_field`: of the right type and within their limits.
struct Checked<'a> {
    identity: EventIdentity,
    subject: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    /// What is missing if there is no ecosystem: it, or what would contain it.
    without_ecosystem: &'static str,
    ecosystem: Option<Cow<'a, str>>,
    name: Option<PackageName>,
    version: Option<PackageVersion>,
    integrity: Option<Integrity>,
    published_at: Option<Cow<'a, str>>,
    revision: u32,
    act: Act<'a>,
    staged: Option<(Option<Cow<'a, str>>, Box<Act<'a>>)>,
}

impl<'a> Checked<'a> {
    fn new(identity: EventIdentity, event: &mut fields::Event<'a>) -> Result<Self, Rejection> {
        event.datacontenttype.take("datacontenttype")?;
        let without_ecosystem = match &event.data {
            Field::Missing => "data",
            Field::There(data) if matches!(data.package, Field::Missing) => "data.package",
            _ => "data.package.ecosystem",
        };
        let data = event.data.object("data")?;
        let package = data.package.object("data.package")?;
        let staged = data.staged.take("data.staged")?;
        let staged = staged.map(|mut staged| {
            let at = staged.at.take("data.staged.at")?;
            let act = act("data.staged", &mut staged.actor, &mut staged.request, &mut staged.auth)?;
            Ok::<_, Rejection>((at, Box::new(act)))
        });
        Ok(Self {
            identity,
            subject: event.subject.take("subject")?,
            time: event.time.take("time")?,
            without_ecosystem,
            ecosystem: package.ecosystem.take("data.package.ecosystem")?,
            name: named(&mut package.name, "data.package.name", PackageName::new)?,
            version: named(&mut package.version, "data.package.version", PackageVersion::new)?,
            integrity: named(&mut package.integrity, "data.package.integrity", Integrity::new)?,
            published_at: data.published_at.take("data.publishedAt")?,
            revision: revision(data.revision.take("data.revision")?)?,
            act: act("data", &mut data.actor, &mut data.request, &mut data.auth)?,
            staged: staged.transpose()?,
        })
    }

    /// The checks after `bad_field`, in the order of crates/model/README.md, Rejections.
    fn into_event(
        self,
        record: &Record,
        rules: &DecodeRules,
    ) -> Result<PublishEvent<'a>, Rejection> {
        let missing = |path: &'static str| {
            move || Rejection::of_field(Code::MissingField, path, "is missing")
        };
        let ecosystem = self.ecosystem.ok_or_else(missing(self.without_ecosystem))?;
        let id = PublicationId {
            name: self.name.ok_or_else(missing("data.package.name"))?,
            version: self.version.ok_or_else(missing("data.package.version"))?,
        };
        let published_at = self.published_at.map(|text| (text, "data.publishedAt"));
        let (text, path) = published_at
            .or(self.time.map(|text| (text, "time")))
            .ok_or_else(missing("data.publishedAt"))?;
        if ecosystem != rules.ecosystem {
            let problem = format!("is not {}", rules.ecosystem);
            return Err(Rejection::of_field(
                Code::WrongEcosystem,
                "data.package.ecosystem",
                problem,
            ));
        }
        if let Some(subject) = &self.subject {
            check_subject(subject, &rules.ecosystem, &id)?;
        }
        let at = time(&text, path)?;
        let mut act = self.act;
        act.at = at;
        let staged = self
            .staged
            .map(|(staged_at, act)| staged_act(staged_at.as_deref(), act, (at, path)))
            .transpose()?;
        let newest =
            record.timestamp.map(|millis| Timestamp::from_millis(millis).after(FUTURE_TOLERANCE));
        if newest.is_some_and(|newest| at > newest) {
            let problem = "is more than 5 minutes after the record's timestamp";
            return Err(Rejection::of_field(Code::FutureTime, path, problem));
        }
        Ok(PublishEvent {
            identity: self.identity,
            id,
            integrity: self.integrity,
            revision: self.revision,
            act,
            staged,
        })
    }
}

fn check_subject(subject: &str, ecosystem: &str, id: &PublicationId) -> Result<(), Rejection> {
    if Purl::is_canonical(subject, ecosystem, id) {
        return Ok(());
    }
    let mismatch = |problem| Rejection::of_field(Code::SubjectMismatch, "subject", problem);
    let purl = Purl::parse(subject).map_err(|_| mismatch("is not a purl"))?;
    if purl.names(ecosystem, id) {
        Ok(())
    } else {
        Err(mismatch("names another package or version"))
    }
}

fn time(text: &str, path: &'static str) -> Result<Timestamp, Rejection> {
    Timestamp::parse(text)
        .map_err(|error| Rejection::of_field(Code::InvalidTime, path, format_args!("is {error}")))
}

fn staged_act<'a>(
    staged_at: Option<&str>,
    mut act: Box<Act<'a>>,
    (approved, path): (Timestamp, &str),
) -> Result<Box<Act<'a>>, Rejection> {
    act.at = staged_at.map_or(Ok(approved), |text| time(text, "data.staged.at"))?;
    if act.at > approved {
        let problem = format!("is after {path}");
        return Err(Rejection::of_field(Code::InvalidTime, "data.staged.at", problem));
    }
    Ok(act)
}

/// Parses an integer as JSON Schema defines it: `1`, `1.0` and `1e0` are the same number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is an integer within the bounds"
)]
fn revision(number: Option<f64>) -> Result<u32, Rejection> {
    let number = number.unwrap_or(0.0);
    if number.fract() == 0.0 && (0.0..=f64::from(MAX_REVISION)).contains(&number) {
        return Ok(number as u32);
    }
    let problem = format!("is not an integer from 0 to {MAX_REVISION}");
    Err(Rejection::of_field(Code::BadField, "data.revision", problem))
}

fn named<T>(
    field: &mut Field<Cow<'_, str>>,
    path: impl Into<Path>,
    name: fn(&str) -> Result<T, model::InvalidName>,
) -> Result<Option<T>, Rejection> {
    let path = path.into();
    let invalid = |error| {
        Rejection::of_field(Code::BadField, path, format_args!("cannot be a name: {error}"))
    };
    field.take(path)?.map(|text| name(&text).map_err(invalid)).transpose()
}

/// Builds an act; the caller sets its time. `within` is the path of the object with these three fields.
fn act<'a>(
    within: &'static str,
    actor: &mut Field<fields::Actor<'a>>,
    request: &mut Field<fields::Request<'a>>,
    auth: &mut Field<fields::Auth<'a>>,
) -> Result<Act<'a>, Rejection> {
    let path = |rest| Path::within(within, rest);
    let actor = actor.object(path("actor"))?;
    let request = request.object(path("request"))?;
    request.user_agent.take(path("request.userAgent"))?;
    let kind = actor.kind.take(path("actor.kind"))?;
    Ok(Act {
        at: Timestamp::from_micros(0),
        actor: word(kind, model::Actor::parse, model::Actor::Unknown),
        username: named(&mut actor.username, path("actor.username"), Username::new)?,
        address: request.ip.take(path("request.ip"))?.map(Address::new),
        edge_tor: request.edge_tor.take(path("request.edgeTor"))?,
        auth: self::auth(within, auth.object(path("auth"))?)?,
    })
}

fn auth<'a>(within: &'static str, auth: &mut fields::Auth<'a>) -> Result<Auth<'a>, Rejection> {
    let path = |rest| Path::within(within, rest);
    let factor = auth.second_factor.object(path("auth.secondFactor"))?;
    let factor = SecondFactor {
        presented: factor.presented.take(path("auth.secondFactor.presented"))?,
        verified: factor.verified.take(path("auth.secondFactor.verified"))?,
        method: factor.method.take(path("auth.secondFactor.method"))?,
        verified_at: factor.verified_at.take(path("auth.secondFactor.verifiedAt"))?,
    };
    let credential = auth.credential.take(path("auth.credential"))?;
    Ok(Auth {
        credential: word(credential, Credential::parse, Credential::Unknown),
        bypass2fa: auth.bypass2fa.take(path("auth.bypass2fa"))?,
        amr: auth.amr.take(path("auth.amr"))?.unwrap_or_default(),
        acr: auth.acr.take(path("auth.acr"))?,
        // A block without a known field counts as missing (crates/model/README.md, tfa).
        second_factor: Some(factor).filter(|factor| *factor != SecondFactor::default()),
    })
}

/// Parses a word; an unknown word counts as `unknown`.
fn word<T>(
    text: Option<Cow<'_, str>>,
    parse: fn(&str) -> Result<T, model::UnknownWord>,
    unknown: T,
) -> T {
    text.and_then(|text| parse(&text).ok()).unwrap_or(unknown)
}

#[cfg(test)]
mod tests;
