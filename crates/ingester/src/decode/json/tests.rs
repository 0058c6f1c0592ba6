//! Compares the reader with serde_json.

use proptest::prelude::*;
use proptest::sample::select;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::*;

object! {
    /// A field of each kind.
    Probe {
        "flag" => flag: bool,
        "number" => number: f64,
        "text" => text: Cow<'de, str>,
        "list" => list: Vec<Cow<'de, str>>,
        "inner" => inner: Box<Probe<'de>>,
    }
}

const WRONG: &str = "of the wrong type";

fn shown<T>(field: Field<T>, value: impl FnOnce(T) -> Value) -> Value {
    match field {
        Field::Missing => Value::Null,
        Field::Wrong => json!(WRONG),
        Field::There(there) => json!([value(there)]),
    }
}

fn shown_probe(probe: Probe<'_>) -> Value {
    json!([
        shown(probe.flag, |flag| json!(flag)),
        shown(probe.number, |number| json!(digits(number))),
        shown(probe.text, |text| json!(text)),
        shown(probe.list, |list| json!(list)),
        shown(probe.inner, |inner| shown_probe(*inner)),
    ])
}

/// The expected result of [`shown_probe`], from serde_json's value of the text.
fn expected(value: &Value, is_right: fn(&Value) -> bool) -> Value {
    match value {
        Value::Null => Value::Null,
        value if is_right(value) => json!([value]),
        _ => json!(WRONG),
    }
}

/// Twelve digits of a number, because serde_json's result may differ from the nearest binary64 in the last bit.
fn digits(number: f64) -> String {
    format!("{number:.11e}")
}

fn expected_number(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!([digits(number.as_f64().unwrap())]),
        other => expected(other, Value::is_number),
    }
}

fn expected_probe(value: &Value) -> Value {
    let Value::Object(fields) = value else { return expected(value, Value::is_object) };
    let field = |name, is_right| expected(fields.get(name).unwrap_or(&Value::Null), is_right);
    let is_list =
        |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    json!([[
        field("flag", Value::is_boolean),
        expected_number(fields.get("number").unwrap_or(&Value::Null)),
        field("text", Value::is_string),
        field("list", is_list),
        fields.get("inner").map_or(Value::Null, expected_probe),
    ]])
}

fn agrees_with_serde_json(text: &str) {
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    assert_eq!(check(text).is_ok(), is_json, "{text:?}");
    let mut probe = Field::<Probe<'_>>::Missing;
    assert_eq!(read(text, &mut probe).is_ok(), is_json, "{text:?}");
    // Half surrogate pairs and numbers out of range are valid JSON, but serde_json cannot represent them.
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        assert_eq!(shown(probe, shown_probe), expected_probe(&value), "{text:?}");
    }
}

/// Pieces of JSON, and of text that is nearly JSON.
const PIECES: [&str; 54] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    " ",
    "\n",
    "\t",
    "\r",
    "\u{b}",
    "\u{0}",
    "-",
    "+",
    ".",
    "0",
    "1",
    "12",
    "e",
    "E3",
    "1e5",
    "-0",
    "01",
    "1.",
    "18446744073709551616",
    "true",
    "false",
    "null",
    "nul",
    "t",
    "\\n",
    "\\u0061",
    "\\u00e",
    "\\ud83d\\ude00",
    "\\ud800",
    "\\x",
    "é",
    "\u{7f}",
    "😀",
    "\"flag\":",
    "\"number\":",
    "\"text\":",
    "\"list\":",
    "\"inner\":{",
    "\"fl\\u0061g\":true",
    "\"text\":\"a\"",
    "\"number\":7",
    "\"list\":[\"a\",\"b\"]",
    "\"list\":[1]",
    "\"unknown\":{\"a\":[1.5e-3]}",
    "\"a longer text\"",
    "{\"text\":\"",
];

fn json_value() -> impl Strategy<Value = Value> {
    let key = select(vec!["flag", "number", "text", "list", "inner", "other", "\u{7f}\"\\ \u{1}"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z\"\\\\\u{0}-\u{20}]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, move |value| {
        prop_oneof![
            prop::collection::vec(value.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), value), 0..6).prop_map(|fields| fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn pieces_are_read_as_serde_json_reads_them(pieces in prop::collection::vec(select(&PIECES[..]), 0..12)) {
        agrees_with_serde_json(&pieces.concat());
    }

    #[test]
    fn fields_of_pieces_are_read_as_serde_json_reads_them(pieces in prop::collection::vec(select(&PIECES[..]), 0..8)) {
        agrees_with_serde_json(&format!("{{{}}}", pieces.join(",")));
        agrees_with_serde_json(&format!("{{\"text\":\"{}\"}}", pieces.concat()));
        agrees_with_serde_json(&format!("{{\"number\":{}}}", pieces.concat()));
    }

    #[test]
    fn values_are_read_as_serde_json_reads_them(value in json_value(), is_pretty in any::<bool>()) {
        let text = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        agrees_with_serde_json(&text.unwrap());
    }

    #[test]
    fn a_changed_value_is_read_as_serde_json_reads_it(value in json_value(), at in any::<prop::sample::Index>(), piece in select(&PIECES[..])) {
        let mut text = value.to_string();
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let at = places[at.index(places.len())];
        text.insert_str(at, piece);
        agrees_with_serde_json(&text);
        text.truncate(at);
        agrees_with_serde_json(&text);
    }
}

#[test]
fn each_character_is_known_wherever_it_stands_in_a_string() {
    for character in ('\0'..='\u{ff}').chain(['\u{2028}', '😀']) {
        for at in 0..20 {
            let before = "a".repeat(at);
            agrees_with_serde_json(&format!("{{\"text\":\"{before}{character}b\"}}"));
            agrees_with_serde_json(&format!(
                "{{\"text\":\"{before}{character}b\",\"number\": 12345678}}"
            ));
        }
    }
}

#[test]
fn nesting_is_counted_also_where_it_is_ignored() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(check(&nested(128)), Ok(()));
    assert_eq!(check(&nested(129)), Err(NotJson::TooDeep));
    assert_eq!(check(&format!("[{},{}]", nested(127), nested(127))), Ok(()));
    assert_eq!(check(&"{\"a\":".repeat(100_000)), Err(NotJson::TooDeep));
}
