//! Records for every way to be rejected, skipped, or barely accepted (crates/model/README.md, Rejections).

use serde_json::{Value, json};
use testkit::Record;

use crate::support::{binary, event, header, structured, with, without};

/// The timestamp of every record here: long ago, so that a dead letter with a timestamp of its own would be noticed.
pub(crate) const STAMPED: i64 = 1_564_078_200_000; // 2019-07-25T18:10:00Z
/// The publisher's address in every event here. It must not appear in a log line, metric or dead-letter header.
pub(crate) const ADDRESS: &str = "71.160.223.45";
/// A text in invalid values, which no message may quote.
pub(crate) const MARK: &str = "quoted";
/// The topic accepts larger values than the ingester.
pub(crate) const MAX_EVENT_BYTES: usize = 1024 * 1024;
/// A version that a CHECK in the test refuses.
pub(crate) const REFUSED_VERSION: &str = "6.6.6";

/// The expected result of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A row, with the columns that must have these values.
    Row(Vec<(&'static str, Option<&'static str>)>),
    Skipped,
    Rejected(&'static str),
}

/// A record and its expected result.
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) record: Record,
    pub(crate) expected: Expected,
}

/// The cases so far. Each has its own package, named after its number.
#[derive(Default)]
pub(crate) struct Cases(pub(crate) Vec<Case>);

/// The package name of a case.
pub(crate) fn name(number: usize) -> String {
    format!("@case/{number}")
}

/// The event id of a case.
pub(crate) fn id(number: usize) -> String {
    format!("case-{number}")
}

impl Cases {
    pub(crate) fn all() -> Self {
        let mut cases = Self::default();
        cases.size();
        cases.json();
        cases.nesting();
        cases.modes();
        cases.attributes();
        cases.skips();
        cases.names();
        cases.fields();
        cases.missing();
        cases.ecosystems_and_subjects();
        cases.times();
        cases.words();
        cases.refused_by_store();
        cases
    }

    /// An event for the next case, whose id has the case's number.
    pub(crate) fn event(&self) -> Value {
        let number = self.0.len();
        with(event(&name(number), "1.0.0"), "/id", json!(id(number)))
    }

    pub(crate) fn add(&mut self, what: &str, record: Record, expected: Expected) {
        let record = Record { timestamp: Some(STAMPED), ..record };
        self.0.push(Case { what: what.to_owned(), record, expected });
    }

    pub(crate) fn rejected(&mut self, code: &'static str, what: &str, record: Record) {
        self.add(what, record, Expected::Rejected(code));
    }

    fn raw(&mut self, code: &'static str, what: &str, value: impl Into<Vec<u8>>) {
        let record = Record { value: Some(value.into()), ..structured(&self.event()) };
        self.rejected(code, what, record);
    }

    /// Adds the event with one changed value, in both modes.
    fn changed(&mut self, pointer: &str, value: Value, expected: &Expected) {
        let shown = value.to_string().chars().take(60).collect::<String>();
        for mode in [structured, binary] {
            let record = mode(&with(self.event(), pointer, value.clone()));
            self.add(&format!("{pointer} = {shown}"), record, expected.clone());
        }
    }

    pub(crate) fn wrong(
        &mut self,
        code: &'static str,
        pointer: &str,
        values: impl IntoIterator<Item = Value>,
    ) {
        for value in values {
            self.changed(pointer, value, &Expected::Rejected(code));
        }
    }

    pub(crate) fn right(
        &mut self,
        pointer: &str,
        value: Value,
        columns: &[(&'static str, Option<&'static str>)],
    ) {
        self.changed(pointer, value, &Expected::Row(columns.to_vec()));
    }

    fn size(&mut self) {
        let padded = |event: Value, bytes: usize| {
            let empty = with(event, "/data/request/userAgent", json!(""));
            let padding = bytes - empty.to_string().len();
            with(empty, "/data/request/userAgent", json!("x".repeat(padding)))
        };
        let largest = structured(&padded(self.event(), MAX_EVENT_BYTES));
        self.add("the largest value", largest, Expected::Row(vec![]));
        let too_large = structured(&padded(self.event(), MAX_EVENT_BYTES + 1));
        self.rejected("too_large", "one byte more", too_large);
        self.raw("too_large", "size is checked before JSON", vec![b'x'; MAX_EVENT_BYTES + 1]);
    }

    fn json(&mut self) {
        self.raw("not_json", "an empty value", "");
        let empty = Record { value: Some(vec![]), ..binary(&self.event()) };
        self.rejected("not_json", "an empty value in binary mode", empty);
        let bare = Record { key: None, headers: vec![], value: Some(vec![]), ..Record::default() };
        self.rejected("not_json", "an empty value and nothing else", bare);
        let text = self.event().to_string();
        self.raw("not_json", "a text that is cut", &text[..text.len() - 1]);
        self.raw("not_json", "a text with something behind it", format!("{text}x"));
        self.raw("not_json", "prose", format!("{MARK} {ADDRESS}"));
        self.raw("not_json", "a single quote", text.replace('"', "'"));
        self.raw("not_json", "a trailing comma", text.replacen('}', ",}", 1));
        let mut invalid = text.clone().into_bytes();
        let place = text.find("brianc").expect("the name is there");
        invalid[place] = 0xff;
        self.raw("not_json", "invalid UTF-8 in a string", invalid);
        let latin = [b"{\"a\":\"".as_slice(), &[0xc0, 0x80], b"\"}"].concat();
        self.raw("not_json", "an overlong encoding", latin);
        let cut = Record { value: Some(b"{\"package\":".to_vec()), ..binary(&self.event()) };
        self.rejected("not_json", "a cut text in binary mode", cut);
    }

    /// The event is one level deep. `data` is two levels deep, in binary mode one.
    fn nesting(&mut self) {
        let nested = |arrays: usize| format!("{}{}", "[".repeat(arrays), "]".repeat(arrays));
        let inside = |event: Value, pointer: &str, arrays: usize| {
            let text = with(event, pointer, json!("here")).to_string();
            Record {
                value: Some(text.replace("\"here\"", &nested(arrays)).into()),
                ..structured(&event_headers())
            }
        };
        let row = Expected::Row(vec![]);
        self.add("128 levels", inside(self.event(), "/extension", 127), row.clone());
        self.rejected("not_json", "129 levels", inside(self.event(), "/extension", 128));
        self.add("128 levels in data", inside(self.event(), "/data/other", 126), row.clone());
        self.rejected("not_json", "129 levels in data", inside(self.event(), "/data/other", 127));
        let amr = inside(self.event(), "/data/auth/amr", 125);
        self.rejected("bad_field", "128 levels in a known field", amr);
        let amr = inside(self.event(), "/data/auth/amr", 126);
        self.rejected("not_json", "129 levels in a known field", amr);
        for (levels, expected) in [(127, row.clone()), (128, Expected::Rejected("not_json"))] {
            let text = with(self.event()["data"].clone(), "/other", json!("here")).to_string();
            let text = text.replace("\"here\"", &nested(levels));
            let record = Record { value: Some(text.into()), ..binary(&self.event()) };
            self.add(&format!("{levels} + 1 levels in binary mode"), record, expected);
        }
        let quoted = with(self.event(), "/data/request/userAgent", json!("[\\\"[".repeat(200)));
        self.add("brackets in a string do not nest", structured(&quoted), row);
    }

    fn modes(&mut self) {
        let row = Expected::Row(vec![]);
        for content_type in [
            "APPLICATION/CLOUDEVENTS+JSON",
            "application/cloudevents",
            "Application/CloudEvents+json; x=y",
        ] {
            let headers = vec![header("Content-Type", content_type)];
            let record = Record { headers, ..structured(&self.event()) };
            self.add(&format!("content type {content_type}"), record, row.clone());
        }
        let bare = Record { headers: vec![], ..structured(&self.event()) };
        self.add("structured without a content type", bare, row.clone());
        let plain = Record {
            headers: vec![header("content-type", "application/json")],
            ..structured(&self.event())
        };
        self.add("structured as plain JSON", plain, row.clone());
        let mut both = structured(&self.event());
        both.headers.push(header("ce_specversion", "0.1"));
        self.add("the content type decides before ce_specversion", both, row.clone());
        let mut repeated = structured(&self.event());
        repeated.headers.insert(0, header("content-type", "application/cloudevents-batch+json"));
        self.add("of repeated content types the last", repeated, row.clone());
        let mut upper = binary(&self.event());
        for (name, _) in &mut upper.headers {
            *name = name.to_ascii_uppercase();
        }
        self.add("binary headers in upper case", upper, row.clone());
        let mut last = binary(&self.event());
        last.headers.insert(0, header("ce_type", "another.type"));
        last.headers.insert(0, header("CE_ID", ""));
        self.add("of repeated ce_ headers the last", last, row);
        let mut batch_last = structured(&self.event());
        batch_last.headers.push(header("Content-Type", "application/CloudEvents-batch+JSON"));
        self.rejected("not_cloudevent", "the last content type says batch", batch_last);
        let batch = |value: String| Record {
            headers: vec![header("content-type", "application/cloudevents-batch+json")],
            value: Some(value.into()),
            ..Record::default()
        };
        self.rejected("not_cloudevent", "a batch", batch(format!("[{}]", self.event())));
        self.rejected("not_cloudevent", "an empty batch", batch("[]".into()));
        self.rejected("not_json", "a batch that is no JSON", batch("[".into()));
        let whole = Record { value: structured(&self.event()).value, ..binary(&self.event()) };
        self.rejected("missing_field", "a whole event as binary data", whole);
        let mut data_alone = structured(&self.event());
        data_alone.value = Some(self.event()["data"].to_string().into());
        self.rejected("not_cloudevent", "data alone in structured mode", data_alone);
        let lone = Record { headers: vec![], ..binary(&self.event()) };
        self.rejected("not_cloudevent", "an object without specversion", lone);
        for value in ["[]", "1", "null", "\"text\"", "true"] {
            self.raw("not_cloudevent", &format!("the value {value}"), value);
            let bare = Record { value: Some(value.into()), ..Record::default() };
            self.rejected("not_cloudevent", &format!("nothing but the value {value}"), bare);
        }
    }

    fn attributes(&mut self) {
        for attribute in ["specversion", "id", "source", "type"] {
            let pointer = format!("/{attribute}");
            for value in [json!(null), json!(""), json!(1), json!(1.0), json!(["1.0"])] {
                let record = structured(&with(self.event(), &pointer, value.clone()));
                self.rejected("not_cloudevent", &format!("{attribute} = {value}"), record);
            }
            for mode in [structured, binary] {
                let record = mode(&without(self.event(), &pointer));
                // Without `specversion`, a binary event counts as a structured one without attributes.
                self.rejected("not_cloudevent", &format!("no {attribute}"), record);
            }
            for value in [None, Some(vec![]), Some(vec![0xff])] {
                let mut record = binary(&self.event());
                record.headers.push((format!("ce_{attribute}"), value.clone()));
                self.rejected("not_cloudevent", &format!("ce_{attribute} = {value:?}"), record);
            }
        }
        for version in ["1.1", "0.3", "1", " 1.0"] {
            self.wrong("not_cloudevent", "/specversion", [json!(version)]);
        }
        let no_id = without(with(self.event(), "/type", json!("another.type")), "/id");
        self.rejected("not_cloudevent", "attributes come before the type", structured(&no_id));
        let mut headers_first = binary(&without(self.event(), "/id"));
        headers_first.value = Some(b"{".to_vec());
        self.rejected("not_cloudevent", "headers come before the value", headers_first);
    }

    fn skips(&mut self) {
        for record in [Record::default(), structured(&self.event()), binary(&self.event())] {
            self.add("a tombstone", Record { value: None, ..record }, Expected::Skipped);
        }
        self.changed("/type", json!("registry.package.unpublished.v1"), &Expected::Skipped);
        self.changed("/type", json!("REGISTRY.PACKAGE.PUBLISHED.V1"), &Expected::Skipped);
        let other = with(with(self.event(), "/type", json!("another")), "/data/package", json!(1));
        self.add("another type with a bad field", structured(&other), Expected::Skipped);
        let mut no_json = binary(&with(self.event(), "/type", json!("another")));
        no_json.value = Some(b"{".to_vec());
        self.add("another type and no JSON", no_json, Expected::Skipped);
    }
}

/// An event that is only used for its headers.
fn event_headers() -> Value {
    event("headers", "0.0.0")
}
