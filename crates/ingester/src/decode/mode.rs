//! CloudEvents 1.0 over the Kafka binding: which mode a record is in, and its attributes and data apart.

use std::borrow::Cow;

use model::EventIdentity;
use serde::de::IgnoredAny;

use super::json::{self, Field};
use super::wire;
use crate::envelope::Envelope;
use crate::reject::{Code, Rejection};

/// The deepest nesting of arrays and objects that is read.
const MAX_DEPTH: usize = 128;
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
/// `not_json`, `not_cloudevent`; `bad_field` where a known field holds a number or a string that JSON can write and
/// nothing can hold.
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
    let text = json_text(value)?;
    if is_structured && begins_with(&content_type[MEDIA_TYPE.len()..], BATCH) {
        check_json(text)?;
        return Err(not_cloudevent("a batch is not an event"));
    }
    structured(text, event_type)
}

fn structured<'a>(text: &'a str, event_type: &str) -> Result<Split<'a>, Rejection> {
    let mut event: Field<wire::Structured<'a>> = Field::Missing;
    if json::read(text, &mut event).is_err() {
        return unreadable(text, event_type);
    }
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

/// A text that failed to be read into the fields: not JSON, or JSON with a known field that holds a number beyond every
/// range or half a surrogate pair. The attributes, and the type, still come first.
fn unreadable<'a>(text: &'a str, event_type: &str) -> Result<Split<'a>, Rejection> {
    check_json(text)?;
    let mut event: Field<wire::Attributes<'a>> = Field::Missing;
    let read = json::read(text, &mut event);
    let (Ok(()), Field::There(event)) = (read, event) else {
        return Err(not_cloudevent("an attribute cannot be read"));
    };
    let required = [event.specversion, event.id, event.source, event.kind];
    match identity(required, event_type)? {
        Some(_) => Err(unreadable_field()),
        None => Ok(None),
    }
}

fn unreadable_field() -> Rejection {
    Rejection::new(Code::BadField, "a known field holds a number or a string that cannot be read")
}

fn binary<'a>(
    envelope: &'a Envelope,
    value: &'a [u8],
    event_type: &str,
) -> Result<Split<'a>, Rejection> {
    let required = ["specversion", "id", "source", "type"].map(|name| attribute(envelope, name));
    let Some(identity) = identity(required, event_type)? else { return Ok(None) };
    let text = json_text(value)?;
    let mut data = Field::Missing;
    if json::read(text, &mut data).is_err() {
        check_json(text)?;
        return Err(unreadable_field());
    }
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

fn not_json(message: &'static str) -> Rejection {
    Rejection::new(Code::NotJson, message)
}

/// The value as text whose nesting is bounded.
fn json_text(value: &[u8]) -> Result<&str, Rejection> {
    let text = str::from_utf8(value).map_err(|_| not_json("the value is not UTF-8"))?;
    // Counting every bracket is cheaper than following the nesting, and settles all but the strangest values.
    let brackets: usize = value.chunks(LANES).map(brackets).sum();
    if brackets > MAX_DEPTH && depth(value) > MAX_DEPTH {
        return Err(not_json("the value is nested deeper than 128"));
    }
    Ok(text)
}

/// As many bytes as a byte can count, so that the compiler counts sixteen at a time.
const LANES: usize = 240;

fn brackets(some: &[u8]) -> usize {
    let opening = |byte: &u8| u8::from(*byte == b'{') + u8::from(*byte == b'[');
    usize::from(some.iter().map(opening).sum::<u8>())
}

/// The deepest nesting, following strings and their escapes; of a text that is no JSON any number.
fn depth(value: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in value {
        match (in_string, byte) {
            _ if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn check_json(text: &str) -> Result<(), Rejection> {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(not_json("the value is not a JSON text")),
    }
}

fn begins_with(bytes: &[u8], prefix: &[u8]) -> bool {
    // Nearly always it is written as we write it, and comparing without case takes each byte by itself.
    bytes
        .get(..prefix.len())
        .is_some_and(|head| head == prefix || head.eq_ignore_ascii_case(prefix))
}
