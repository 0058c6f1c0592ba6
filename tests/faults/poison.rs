//! Sixteen kinds of invalid records, each with the expected rejection code.

use serde_json::json;
use testkit::Record;

use crate::support::{event, structured, with, without};

/// The number of kinds.
pub(crate) const KINDS: usize = 16;

/// The unique key of a record. The ingester does not read it.
pub(crate) fn key(number: usize) -> String {
    format!("poison-{number}")
}

/// A record of kind `number % KINDS`, and its code.
pub(crate) fn record(number: usize) -> (&'static str, Record) {
    let good = event(&format!("poison-{number}"), "1.0.0");
    let raw = |value: Vec<u8>| Record { value: Some(value), ..Record::default() };
    let changed = |pointer, value| structured(&with(good.clone(), pointer, value));
    let (code, record) = match number % KINDS {
        0 => ("not_json", raw(format!("no event {number}").into())),
        1 => ("not_json", raw(good.to_string().into_bytes()[..100].to_vec())),
        2 => ("not_json", raw(vec![b'{', 0xff, 0xfe, b'}'])),
        3 => ("not_json", raw(Vec::new())),
        4 => ("not_json", raw("[".repeat(10_000).into())),
        5 => ("not_cloudevent", raw(b"[]".to_vec())),
        6 => ("not_cloudevent", changed("/specversion", json!("0.3"))),
        7 => ("not_cloudevent", structured(&without(good.clone(), "/id"))),
        8 => ("bad_field", changed("/data/package/name", json!(7))),
        9 => ("bad_field", changed("/data/package/version", json!("1\u{0}0"))),
        10 => ("bad_field", changed("/data/revision", json!(-1))),
        11 => ("missing_field", structured(&without(good.clone(), "/data/package"))),
        12 => ("wrong_ecosystem", changed("/data/package/ecosystem", json!("pypi"))),
        13 => ("subject_mismatch", changed("/subject", json!("pkg:npm/other@1.0.0"))),
        14 => ("invalid_time", changed("/data/publishedAt", json!("yesterday"))),
        _ => ("future_time", changed("/data/publishedAt", json!("2999-01-01T00:00:00Z"))),
    };
    (code, Record { key: Some(key(number).into()), ..record })
}
