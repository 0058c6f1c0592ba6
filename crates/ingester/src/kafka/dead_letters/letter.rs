//! The content of dead letters, and their reduced forms (crates/ingester/README.md, Dead letters). Pure.

use model::Timestamp;
use rdkafka::error::RDKafkaErrorCode;

use crate::decode::rejection::Rejection;
use crate::record::Record;

/// The longest `__connect.errors.exception.message`, in bytes.
const MAX_MESSAGE_BYTES: usize = 500;
/// The number of dead letters of the same record, this one included.
const ATTEMPTS: &str = "publication.error.attempts";
/// The record's own timestamp in milliseconds since 1970, where the letter has another one.
const TIMESTAMP: &str = "publication.record.timestamp";

/// The headers that show what a letter lacks: the record's headers, its value, its key.
const OMITTED: [&str; 3] =
    ["publication.headers.omitted", "publication.value.omitted", "publication.key.omitted"];

/// Whether a header describes how a letter differs from its record.
fn is_ours(header: &str) -> bool {
    let is = |name: &str| header.eq_ignore_ascii_case(name);
    is(TIMESTAMP) || OMITTED.into_iter().any(is)
}

/// The changes of a letter to its record. Each is made only after a letter without it was refused when sent alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The current time instead of the record's timestamp.
    pub(super) timestamp: bool,
    /// Without the record's own headers.
    pub(super) headers: bool,
    /// An empty value.
    pub(super) value: bool,
    /// `topic/partition/offset` as the key.
    pub(super) key: bool,
}

/// The reduced letters in the order in which they are tried after the whole letter was refused alone: the smallest loss
/// first. A change costs more than all changes before it together, so no unnecessary change is made.
pub(super) fn reduced(record: &Record) -> impl Iterator<Item = Changes> {
    let whole = needed(record);
    let can_change_time = record.timestamp.is_some() && !whole.timestamp;
    let can_lose_headers = !record.headers.is_empty();
    (1_u8..16).filter_map(move |weight| {
        let [timestamp, headers, value, key] = [1, 2, 4, 8].map(|bit| weight & bit != 0);
        let is_possible = (can_change_time || !timestamp) && (can_lose_headers || !headers);
        let timestamp = timestamp || whole.timestamp;
        is_possible.then_some(Changes { timestamp, headers, value, key })
    })
}

/// The changes of a whole letter. librdkafka takes the timestamp 0 for "none" and sends the current time.
pub(super) fn needed(record: &Record) -> Changes {
    Changes { timestamp: record.timestamp == Some(0), ..Changes::default() }
}

/// Whether the broker may have refused the letter for its content, so that a reduced one can pass. All other errors come
/// from the environment.
pub(super) fn is_letter_fault(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::MessageBatchTooLarge
            | Code::InvalidTimestamp
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::InvalidRequest
            | Code::UnsupportedForMessageFormat
            | Code::PolicyViolation
            | Code::InvalidArgument
            | Code::BadMessage
            | Code::Unknown
    )
}

/// A letter that is ready to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter<'r> {
    /// Milliseconds since 1970; `None`: the current time.
    pub(super) timestamp: Option<i64>,
    /// `None`: no key.
    pub(super) key: Option<std::borrow::Cow<'r, [u8]>>,
    /// `None`: a tombstone, like the record.
    pub(super) value: Option<&'r [u8]>,
    /// Names and values, the record's own first.
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl<'r> Letter<'r> {
    /// The letter of a rejected record, with these changes; `group` is the consumer group, `now` the current time.
    pub(super) fn new(
        (record, rejection): (&'r Record, &Rejection),
        changes: Changes,
        group: &str,
        now: Timestamp,
    ) -> Self {
        let at = &record.position;
        let place = || format!("{}/{}/{}", at.topic, at.partition, at.offset).into_bytes();
        let key =
            if changes.key { Some(place().into()) } else { record.key.as_deref().map(Into::into) };
        let value = if changes.value { Some(&b""[..]) } else { record.value.as_deref() };
        // A record may be a copied letter, or have headers of these names: they would speak of this letter.
        let own = record.headers.iter().filter(|header| !changes.headers && !is_ours(&header.name));
        let own = own.map(|header| {
            (header.name.to_string(), header.value.as_ref().map(|value| value.to_vec()))
        });
        let mut headers: Vec<_> = own.collect();
        let text = |(name, value): (&str, String)| (name.to_owned(), Some(value.into_bytes()));
        headers.extend(described(record, rejection, group, now).map(text));
        // Where a part is missing, the time shows later whether a record is the letter's original.
        let says_time = changes.timestamp || changes.value || changes.headers;
        if let Some(timestamp) = record.timestamp.filter(|_| says_time) {
            headers.push(text((TIMESTAMP, timestamp.to_string())));
        }
        let is_omitted =
            [changes.headers && !record.headers.is_empty(), changes.value, changes.key];
        let omitted = OMITTED.into_iter().zip(is_omitted).filter(|(_, is_omitted)| *is_omitted);
        headers.extend(omitted.map(|(name, _)| text((name, "true".to_owned()))));
        let timestamp = record.timestamp.filter(|_| !changes.timestamp);
        Self { timestamp, key, value, headers }
    }
}

/// The error headers: those of Kafka Connect's convention, and our own.
fn described(
    record: &Record,
    rejection: &Rejection,
    group: &str,
    now: Timestamp,
) -> impl Iterator<Item = (&'static str, String)> {
    let at = &record.position;
    let attempts =
        record.header(ATTEMPTS).and_then(|text| str::from_utf8(text).ok()?.parse::<u32>().ok());
    [
        ("__connect.errors.topic", at.topic.to_string()),
        ("__connect.errors.partition", at.partition.to_string()),
        ("__connect.errors.offset", at.offset.to_string()),
        ("__connect.errors.connector.name", group.to_owned()),
        ("__connect.errors.stage", rejection.code.stage().to_owned()),
        ("__connect.errors.exception.message", truncated(&rejection.message).to_owned()),
        ("publication.error.code", rejection.code.as_str().to_owned()),
        (ATTEMPTS, attempts.unwrap_or(0).saturating_add(1).to_string()),
        ("publication.error.at", now.to_rfc3339_millis()),
        ("publication.ingester.version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
    .into_iter()
}

fn truncated(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)]
}

#[cfg(test)]
mod tests {
    use model::Position;

    use super::*;
    use crate::decode::rejection::Code;
    use crate::record::Header;

    fn record(timestamp: Option<i64>, headers: &[&str]) -> Record {
        let header = |name: &&str| Header { name: (*name).into(), value: Some("v".into()) };
        Record {
            position: Position { topic: "t".into(), partition: 3, offset: 7 },
            timestamp,
            key: Some("k".into()),
            value: Some("{".into()),
            headers: headers.iter().map(header).collect(),
        }
    }

    fn letter(record: &Record, changes: Changes) -> Letter<'_> {
        let rejection = Rejection::new(Code::NotJson, "no JSON");
        Letter::new((record, &rejection), changes, "g", Timestamp::from_micros(0))
    }

    fn header(letter: &Letter<'_>, name: &str) -> Option<String> {
        let found = letter.headers.iter().rev().find(|(other, _)| other == name)?;
        Some(String::from_utf8(found.1.clone()?).unwrap())
    }

    #[test]
    fn a_letter_is_the_whole_record_where_the_broker_takes_it() {
        let record = record(Some(5), &["a", ATTEMPTS, TIMESTAMP, "Publication.Value.Omitted"]);
        let letter = letter(&record, needed(&record));
        assert_eq!((letter.timestamp, letter.value), (Some(5), Some(&b"{"[..])));
        assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(header(&letter, "a").as_deref(), Some("v"));
        assert_eq!(header(&letter, "__connect.errors.offset").as_deref(), Some("7"));
        assert_eq!(header(&letter, ATTEMPTS).as_deref(), Some("1"), "no number before");
        let is_omitted = |name: &str| name.to_lowercase().ends_with(".omitted");
        assert!(letter.headers.iter().all(|(name, _)| !is_omitted(name)));
        assert_eq!(
            header(&letter, TIMESTAMP),
            None,
            "the record's own says nothing of this letter"
        );
    }

    #[test]
    fn the_least_loss_is_tried_first_and_everything_last() {
        let record = record(Some(5), &["a"]);
        let tried: Vec<Changes> = reduced(&record).collect();
        let shown = |changes: &Changes| {
            let said = [changes.timestamp, changes.headers, changes.value, changes.key];
            said.iter().zip("thvk".chars()).filter(|(is, _)| **is).map(|(_, c)| c).collect()
        };
        let shown: Vec<String> = tried.iter().map(shown).collect();
        assert_eq!(shown[..5], ["t", "h", "th", "v", "tv"]);
        assert_eq!((shown.len(), shown[7].as_str(), shown[14].as_str()), (15, "k", "thvk"));
        let least = letter(&record, tried[14]);
        assert_eq!((least.timestamp, least.value), (None, Some(&b""[..])), "empty, never null");
        assert_eq!(least.key.as_deref(), Some(&b"t/3/7"[..]));
        assert_eq!(header(&least, TIMESTAMP).as_deref(), Some("5"));
        for name in ["headers", "value", "key"] {
            let said = header(&least, &format!("publication.{name}.omitted"));
            assert_eq!(said.as_deref(), Some("true"));
        }
        assert_eq!(header(&least, "a"), None);
        // Without the value, the time shows whether another record is the original.
        let without_value = letter(&record, tried[3]);
        assert_eq!(without_value.timestamp, Some(5));
        assert_eq!(header(&without_value, TIMESTAMP).as_deref(), Some("5"));
        assert_eq!(header(&least, "publication.error.code").as_deref(), Some("not_json"));
    }

    #[test]
    fn what_changes_nothing_is_not_tried() {
        let plain = record(None, &[]);
        assert!(reduced(&plain).all(|changes| !changes.headers && !changes.timestamp));
        assert_eq!(reduced(&plain).count(), 3);
    }

    #[test]
    fn the_timestamp_0_is_kept_in_a_header() {
        let record = record(Some(0), &[]);
        let letter = letter(&record, needed(&record));
        assert_eq!(letter.timestamp, None);
        assert_eq!(header(&letter, TIMESTAMP).as_deref(), Some("0"));
        assert!(reduced(&record).all(|changes| changes.timestamp));
        assert_eq!(reduced(&record).count(), 3);
    }

    #[test]
    fn a_long_message_is_cut_at_a_letter() {
        assert_eq!(truncated(&"ü".repeat(300)).len(), 500);
        assert_eq!(truncated(&format!("a{}", "ü".repeat(300))).len(), 499);
    }
}
