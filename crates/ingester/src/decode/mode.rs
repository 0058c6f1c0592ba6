//! CloudEvents 1.0 over the Kafka binding: which mode a record is in, and its attributes and data apart.

use std::borrow::Cow;

use model::EventIdentity;

use super::json::{self, Field};
use super::wire;
use crate::envelope::Envelope;
use crate::reject::{Code, Rejection};

const MEDIA_TYPE: &[u8] = b"application/cloudevents";
/// What follows it for a batch.
const BATCH: &[u8] = b"-batch";

/// The attributes of a CloudEvent of the type that is read; the optional ones not yet judged.
pub(super) struct Attributes<'a> {
    pub(super) identity: EventIdentity,
    pub(super) subject: Field<Cow<'a, str>>,
    pub(super) time: Field<Cow<'a, str>>,
    pub(super) datacontenttype: Field<Cow<'a, str>>,
}

type Split<'a> = Option<(Attributes<'a>, Field<wire::Data<'a>>)>;

/// Takes attributes and data apart; `None` for another event type.
///
/// # Errors
/// `not_json`, `not_cloudevent`.
pub(super) fn split<'a>(
    envelope: &'a Envelope,
    value: &'a [u8],
    event_type: &str,
) -> Result<Split<'a>, Rejection> {
    let content_type = envelope.header("content-type").unwrap_or_default();
    let is_structured = begins_with(content_type, MEDIA_TYPE);
    if !is_structured
        && envelope.headers.iter().any(|header| is_attribute(&header.name, "specversion"))
    {
        return binary(envelope, value, event_type);
    }
    let text = text(value)?;
    if is_structured && begins_with(&content_type[MEDIA_TYPE.len()..], BATCH) {
        json::check(text)?;
        return Err(not_cloudevent("a batch is not an event"));
    }
    structured(text, event_type)
}

fn structured<'a>(text: &'a str, event_type: &str) -> Result<Split<'a>, Rejection> {
    let mut event: Field<wire::Structured<'a>> = Field::Missing;
    json::read(text, &mut event)?;
    let Field::There(event) = event else {
        return Err(not_cloudevent("the value is not a JSON object"));
    };
    let required = [event.specversion, event.id, event.source, event.kind];
    let Some(identity) = identity(required, event_type)? else { return Ok(None) };
    let attributes = Attributes {
        identity,
        subject: event.subject,
        time: event.time,
        datacontenttype: event.datacontenttype,
    };
    Ok(Some((attributes, event.data)))
}

fn binary<'a>(
    envelope: &'a Envelope,
    value: &'a [u8],
    event_type: &str,
) -> Result<Split<'a>, Rejection> {
    let required = ["specversion", "id", "source", "type"].map(|name| attribute(envelope, name));
    let Some(identity) = identity(required, event_type)? else { return Ok(None) };
    let mut data = Field::Missing;
    json::read(text(value)?, &mut data)?;
    let [subject, time] = ["subject", "time"].map(|name| attribute(envelope, name));
    Ok(Some((Attributes { identity, subject, time, datacontenttype: Field::Missing }, data)))
}

/// The header of an attribute. A header without text is of the wrong type.
fn attribute<'a>(envelope: &'a Envelope, name: &str) -> Field<Cow<'a, str>> {
    let Some(header) =
        envelope.headers.iter().rev().find(|header| is_attribute(&header.name, name))
    else {
        return Field::Missing;
    };
    match &header.value {
        None => Field::Missing,
        Some(bytes) => {
            str::from_utf8(bytes).map_or(Field::Wrong, |text| Field::There(Cow::Borrowed(text)))
        }
    }
}

fn is_attribute(header: &str, name: &str) -> bool {
    let prefixed =
        header.split_at_checked(3).filter(|(prefix, _)| prefix.eq_ignore_ascii_case("ce_"));
    prefixed.is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(name))
}

/// Checks `specversion`, `id`, `source` and `type`; `None` for another type.
fn identity(
    required: [Field<Cow<'_, str>>; 4],
    event_type: &str,
) -> Result<Option<EventIdentity>, Rejection> {
    let [specversion, id, source, kind] = required.map(|field| match field {
        Field::There(text) if !text.is_empty() => Some(text),
        _ => None,
    });
    if specversion.as_deref() != Some("1.0") {
        return Err(not_cloudevent("specversion is not 1.0"));
    }
    let (Some(id), Some(source), Some(kind)) = (id, source, kind) else {
        return Err(not_cloudevent("id, source or type is missing, empty or not a string"));
    };
    Ok((kind == event_type).then(|| EventIdentity::new(&source, &id)))
}

fn not_cloudevent(message: &'static str) -> Rejection {
    Rejection::new(Code::NotCloudevent, message)
}

fn text(value: &[u8]) -> Result<&str, Rejection> {
    str::from_utf8(value).map_err(|_| Rejection::new(Code::NotJson, "the value is not UTF-8"))
}

fn begins_with(bytes: &[u8], prefix: &[u8]) -> bool {
    // Nearly always it is written as we write it, and comparing without case takes each byte by itself.
    bytes
        .get(..prefix.len())
        .is_some_and(|head| head == prefix || head.eq_ignore_ascii_case(prefix))
}
