//! CloudEvents 1.0 in the Kafka binding: detects a record's mode, and separates its attributes from its data.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use model::EventIdentity;

use super::fields;
use super::json::{self, Field};
use crate::decode::rejection::{Code, Rejection};
use crate::record::Record;

const MEDIA_TYPE: &[u8] = b"application/cloudevents";
/// The suffix of the media type of a batch.
const BATCH: &[u8] = b"-batch";

/// Parses attributes and data into `place`, in either mode; `None` for another event type.
///
/// # Errors
/// `not_json`, `not_cloudevent`.
pub(super) fn read<'a, 'p>(
    record: &'a Record,
    value: &'a [u8],
    event_type: &str,
    place: &'p mut Field<fields::Event<'a>>,
) -> Result<Option<(EventIdentity, &'p mut fields::Event<'a>)>, Rejection> {
    let content_type = record.header("content-type").unwrap_or_default();
    let is_structured = begins_with(content_type, MEDIA_TYPE);
    if !is_structured
        && record.headers.iter().any(|header| is_attribute(&header.name, "specversion"))
    {
        let event = place.object("the event")?;
        event.specversion = attribute(record, "specversion");
        event.id = attribute(record, "id");
        event.source = attribute(record, "source");
        event.kind = attribute(record, "type");
        let Some(identity) = identity(event, event_type)? else { return Ok(None) };
        json::read(text(value)?, &mut event.data)?;
        event.subject = attribute(record, "subject");
        event.time = attribute(record, "time");
        return Ok(Some((identity, event)));
    }
    let text = text(value)?;
    if is_structured && begins_with(&content_type[MEDIA_TYPE.len()..], BATCH) {
        json::check(text)?;
        return Err(not_cloudevent("a batch is not an event"));
    }
    json::read(text, place)?;
    let Field::There(event) = place else {
        return Err(not_cloudevent("the value is not a JSON object"));
    };
    Ok(identity(event, event_type)?.map(|identity| (identity, event)))
}

/// The header of an attribute. A header that is not UTF-8 counts as a wrong type.
fn attribute<'a>(record: &'a Record, name: &str) -> Field<Cow<'a, str>> {
    let Some(header) = record.headers.iter().rev().find(|header| is_attribute(&header.name, name))
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

/// Checks `specversion`, `id`, `source` and `type`; `None` for another event type.
fn identity(
    event: &fields::Event<'_>,
    event_type: &str,
) -> Result<Option<EventIdentity>, Rejection> {
    if !matches!(&event.specversion, Field::There(version) if version == "1.0") {
        return Err(Rejection::of_field(Code::NotCloudevent, "specversion", "is not 1.0"));
    }
    let id = required(&event.id, "id")?;
    let source = required(&event.source, "source")?;
    let kind = required(&event.kind, "type")?;
    Ok((kind == event_type).then(|| EventIdentity::new(source, id)))
}

fn required<'e>(field: &'e Field<Cow<'_, str>>, name: &'static str) -> Result<&'e str, Rejection> {
    match field {
        Field::There(text) if !text.is_empty() => Ok(text),
        _ => {
            let problem = "is missing, empty or not a string";
            Err(Rejection::of_field(Code::NotCloudevent, name, problem))
        }
    }
}

/// The data as text, decoded from `data_base64` (CloudEvents JSON format 1.0, section 3.1.1); `None` if there is no
/// such member.
///
/// # Errors
/// `not_cloudevent` if the member is not a string, or if there is `data` too; `not_json` if it is not canonical base64
/// (RFC 4648, section 4) of UTF-8 text.
pub(super) fn data_in_base64(event: &fields::Event<'_>) -> Result<Option<String>, Rejection> {
    let not_cloudevent =
        |problem| Err(Rejection::of_field(Code::NotCloudevent, "data_base64", problem));
    let encoded = match &event.data_base64 {
        Field::Missing => return Ok(None),
        Field::Wrong => return not_cloudevent("is not a string"),
        Field::There(encoded) => encoded,
    };
    if !matches!(event.data, Field::Missing) {
        return not_cloudevent("stands beside data");
    }
    let not_json = |problem| Rejection::of_field(Code::NotJson, "data_base64", problem);
    let bytes = BASE64.decode(&**encoded).map_err(|_| not_json("is not canonical base64"))?;
    String::from_utf8(bytes).map(Some).map_err(|_| not_json("is not UTF-8 text in base64"))
}

fn not_cloudevent(message: &'static str) -> Rejection {
    Rejection::new(Code::NotCloudevent, message)
}

fn text(value: &[u8]) -> Result<&str, Rejection> {
    str::from_utf8(value).map_err(|_| Rejection::new(Code::NotJson, "the value is not UTF-8"))
}

fn begins_with(bytes: &[u8], prefix: &[u8]) -> bool {
    // Most producers write the prefix in lower case; the comparison that ignores case is slower.
    bytes
        .get(..prefix.len())
        .is_some_and(|head| head == prefix || head.eq_ignore_ascii_case(prefix))
}
