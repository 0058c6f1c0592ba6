use std::sync::Arc;

use model::{Actor, EventIdentity, Position};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::record::Header;

fn rules() -> DecodeRules {
    DecodeRules {
        ecosystem: "npm".into(),
        event_type: "registry.package.published.v1".into(),
        max_event_bytes: 1 << 20,
    }
}

fn record(value: impl Into<Vec<u8>>) -> Record {
    Record {
        position: Position { topic: Arc::from("t"), partition: 0, offset: 0 },
        timestamp: None,
        key: None,
        value: Some(value.into().into()),
        headers: Vec::new(),
    }
}

fn with_headers(mut record: Record, headers: &[(&str, &str)]) -> Record {
    let header = |(name, value): &(&str, &str)| Header {
        name: (*name).into(),
        value: Some((*value).to_owned().into()),
    };
    record.headers.extend(headers.iter().map(header));
    record
}

/// The example of crates/model/README.md, Publish event.
fn example() -> Value {
    serde_json::from_str(model::EXAMPLE_EVENT).unwrap()
}

/// The example with the value at a JSON pointer replaced; null removes it.
fn changed(pointer: &str, value: Value) -> Value {
    let mut event = example();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap()[key] = value;
    event
}

fn code(record: &Record) -> &'static str {
    match decode(record, &rules()) {
        Ok(Some(_)) => "event",
        Ok(None) => "skipped",
        Err(rejection) => rejection.code.as_str(),
    }
}

fn code_of(event: &Value) -> &'static str {
    code(&record(event.to_string()))
}

#[test]
fn the_example_is_read_whole() {
    let record = record(example().to_string());
    let Ok(Some(event)) = decode(&record, &rules()) else { panic!("no event") };
    assert_eq!(event.identity, EventIdentity::new("/registry/npm/publish", "01J3YQ6M2C"));
    assert_eq!(event.id, PublicationId::new("pg", "7.12.0").unwrap());
    assert_eq!(event.act.at, Timestamp::parse("2019-07-25T18:09:11.204Z").unwrap());
    assert_eq!(event.act.username.unwrap().as_str(), "brianc");
    assert_eq!((event.act.actor, event.act.edge_tor), (Actor::User, None));
    assert_eq!(event.act.address.unwrap().as_str(), "71.160.223.45");
    assert_eq!(event.act.auth.amr, ["pwd", "otp", "mfa"]);
    let factor = event.act.auth.second_factor.unwrap();
    assert_eq!(
        (factor.presented, factor.verified, factor.method.as_deref()),
        (Some(true), Some(true), Some("totp"))
    );
    assert_eq!((event.revision, event.staged, event.integrity), (0, None, None));
    let told = changed("/data/package/integrity", json!("sha512-YQ=="));
    let record = self::record(told.to_string());
    let Ok(Some(event)) = decode(&record, &rules()) else { panic!("no event") };
    assert_eq!(event.integrity.unwrap().as_str(), "sha512-YQ==");
}

const BINARY: [(&str, &str); 4] = [
    ("ce_specversion", "1.0"),
    ("ce_id", "01J3YQ6M2C"),
    ("ce_source", "/registry/npm/publish"),
    ("ce_type", "registry.package.published.v1"),
];

#[test]
fn binary_and_structured_mode_say_the_same() {
    let structured = record(example().to_string());
    let binary = with_headers(record(example()["data"].to_string()), &BINARY);
    assert_eq!(decode(&binary, &rules()), decode(&structured, &rules()));
    let named = with_headers(
        record(example().to_string()),
        &[("Content-Type", "Application/CloudEvents+json; charset=utf-8")],
    );
    assert_eq!(decode(&named, &rules()), decode(&structured, &rules()));
    // The content type decides first: the value is the whole event, whatever the other headers are.
    let both = with_headers(named, &[("ce_specversion", "0.3")]);
    assert_eq!(decode(&both, &rules()), decode(&structured, &rules()));
}

#[test]
fn header_names_are_read_in_any_case_and_the_last_counts() {
    let data = example()["data"].to_string();
    let headers = [&[("CE_SpecVersion", "0.3"), ("ce_type", "other")], &BINARY[..]].concat();
    assert_eq!(code(&with_headers(record(data.clone()), &headers)), "event");
    let headers = [&BINARY[..], &[("CE_TYPE", "other")]].concat();
    assert_eq!(code(&with_headers(record(data.clone()), &headers)), "skipped");
    let mut not_text = with_headers(record(data), &BINARY);
    not_text.headers.push(Header { name: "ce_id".into(), value: Some(vec![0xff].into()) });
    assert_eq!(code(&not_text), "not_cloudevent");
}

#[test]
fn in_binary_mode_headers_come_before_the_value() {
    assert_eq!(
        code(&with_headers(record("{not json"), &[("ce_specversion", "1.0")])),
        "not_cloudevent"
    );
    let other = [&BINARY[..3], &[("ce_type", "other")]].concat();
    assert_eq!(code(&with_headers(record("{not json"), &other)), "skipped");
    assert_eq!(code(&with_headers(record("{not json"), &BINARY)), "not_json");
    assert_eq!(code(&with_headers(record("[]"), &BINARY)), "bad_field");
    assert_eq!(code(&with_headers(record("null"), &BINARY)), "missing_field");
    let time = [&BINARY[..], &[("ce_time", "2019-07-25T18:09:11Z")]].concat();
    let mut data = example()["data"].clone();
    data["publishedAt"] = Value::Null;
    assert_eq!(code(&with_headers(record(data.to_string()), &time)), "event");
    let subject = [&BINARY[..], &[("ce_subject", "pkg:npm/other@7.12.0")]].concat();
    assert_eq!(
        code(&with_headers(record(example()["data"].to_string()), &subject)),
        "subject_mismatch"
    );
}

#[test]
fn tombstones_and_other_types_are_passed_over() {
    let mut tombstone = with_headers(record(""), &BINARY);
    tombstone.value = None;
    assert_eq!(code(&tombstone), "skipped");
    assert_eq!(code_of(&changed("/type", json!("other"))), "skipped");
    let mut wrong = changed("/type", json!("other"));
    wrong["data"] = json!(5);
    assert_eq!(code_of(&wrong), "skipped", "the type comes before the fields");
}

#[test]
fn what_is_no_json_text() {
    for value in [
        &b""[..],
        b" ",
        b"{",
        b"{\"a\":\xff}",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
        b"nul",
        b"[1,]",
    ] {
        assert_eq!(code(&record(value)), "not_json", "{}", String::from_utf8_lossy(value));
    }
    let nested = |depth: usize| {
        let mut event = example().to_string();
        event.pop();
        // The event's own object is one level.
        record(format!("{event},\"x\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1)))
    };
    assert_eq!(code(&nested(128)), "event");
    assert_eq!(code(&nested(129)), "not_json");
    assert_eq!(code(&nested(100_000)), "not_json");
    let brackets_in_text = changed("/data/request/userAgent", json!("[{\"".repeat(500)));
    assert_eq!(code_of(&brackets_in_text), "event");
}

#[test]
fn what_is_no_cloudevent() {
    for attribute in ["specversion", "id", "source", "type"] {
        for value in [json!(null), json!(""), json!(1), json!(["1.0"])] {
            assert_eq!(
                code_of(&changed(&format!("/{attribute}"), value)),
                "not_cloudevent",
                "{attribute}"
            );
        }
    }
    assert_eq!(code_of(&changed("/specversion", json!("0.3"))), "not_cloudevent");
    assert_eq!(code_of(&json!([example()])), "not_cloudevent");
    assert_eq!(code_of(&json!("1.0")), "not_cloudevent");
    assert_eq!(code_of(&json!({})), "not_cloudevent");
    let batch = with_headers(
        record(example().to_string()),
        &[("content-type", "application/cloudevents-batch+json")],
    );
    assert_eq!(code(&batch), "not_cloudevent");
    let mut outranks = changed("/id", json!(null));
    outranks["data"]["revision"] = json!(-1);
    assert_eq!(code_of(&outranks), "not_cloudevent");
}

#[test]
fn fields_of_the_wrong_type_or_out_of_bounds() {
    let wrong = [
        ("/subject", json!(1)),
        ("/time", json!(1)),
        ("/datacontenttype", json!([])),
        ("/data", json!("x")),
        ("/data/package", json!([])),
        ("/data/package/ecosystem", json!(1)),
        ("/data/package/name", json!(1)),
        ("/data/package/name", json!("")),
        ("/data/package/name", json!(" pg")),
        ("/data/package/name", json!("p\u{0}g")),
        ("/data/package/name", json!("a".repeat(513))),
        ("/data/package/version", json!("1".repeat(257))),
        ("/data/package/integrity", json!(5)),
        ("/data/package/integrity", json!("")),
        ("/data/package/integrity", json!("sha512-x ")),
        ("/data/package/integrity", json!("a".repeat(1_025))),
        ("/data/publishedAt", json!(1_564_078_151)),
        ("/data/revision", json!(-1)),
        ("/data/revision", json!(1.5)),
        ("/data/revision", json!("1")),
        ("/data/revision", json!(2_147_483_648_u64)),
        ("/data/actor", json!("brianc")),
        ("/data/actor/kind", json!(true)),
        ("/data/actor/username", json!("")),
        ("/data/actor/username", json!("a".repeat(257))),
        ("/data/request/ip", json!(5)),
        ("/data/request/edgeTor", json!("true")),
        ("/data/request/userAgent", json!(5)),
        ("/data/auth", json!([])),
        ("/data/auth/credential", json!(1)),
        ("/data/auth/bypass2fa", json!(0)),
        ("/data/auth/amr", json!("pwd")),
        ("/data/auth/amr", json!(["pwd", 1])),
        ("/data/auth/amr", json!(["pwd", null])),
        ("/data/auth/acr", json!(2)),
        ("/data/auth/secondFactor", json!(true)),
        ("/data/auth/secondFactor/verifiedAt", json!(1)),
        ("/data/staged", json!(true)),
        ("/data/staged", json!({"at": 5})),
        ("/data/staged", json!({"actor": {"username": " x"}})),
    ];
    for (pointer, value) in wrong {
        assert_eq!(code_of(&changed(pointer, value.clone())), "bad_field", "{pointer} {value}");
    }
    let mut outranks = changed("/data/package/name", json!(null));
    outranks["data"]["revision"] = json!(-1);
    assert_eq!(code_of(&outranks), "bad_field", "before missing_field");
}

fn revision_of(number: &str) -> Option<u32> {
    let text = example().to_string().replace("\"revision\":0", &format!("\"revision\":{number}"));
    let record = record(text);
    match decode(&record, &rules()) {
        Ok(Some(event)) => Some(event.revision),
        _ => None,
    }
}

#[test]
fn a_revision_is_an_integer_however_it_is_written() {
    let integers = [
        ("1", 1),
        ("1.0", 1),
        ("1e0", 1),
        ("10E-1", 1),
        ("-0", 0),
        ("-0.0", 0),
        ("2147483647.0", 2_147_483_647),
        ("2.147483647e9", 2_147_483_647),
        // The nearest binary64 of this number is an integer.
        ("1.00000000000000000001", 1),
        ("1e-400", 0),
    ];
    for (text, number) in integers {
        assert_eq!(revision_of(text), Some(number), "{text}");
    }
    for text in ["1.5", "-1", "2147483648", "2147483647.5", "1e10", "1e999", "\"1\""] {
        assert_eq!(revision_of(text), None, "{text}");
    }
}

/// The event with its data in `data_base64`, as the Python and JavaScript SDKs write binary data.
fn in_base64(mut event: Value, data: &[u8]) -> Value {
    use base64::Engine as _;
    event["data"] = Value::Null;
    event["data_base64"] = json!(base64::prelude::BASE64_STANDARD.encode(data));
    event
}

#[test]
fn data_in_base64_is_the_same_data() {
    let event = in_base64(example(), example()["data"].to_string().as_bytes());
    let plain = record(example().to_string());
    assert_eq!(decode(&record(event.to_string()), &rules()), decode(&plain, &rules()));
    let mut without_null = event.clone();
    without_null.as_object_mut().unwrap().remove("data");
    assert_eq!(decode(&record(without_null.to_string()), &rules()), decode(&plain, &rules()));
    // In binary mode the value is the data, in which `data_base64` is an unknown field.
    let mut data = example()["data"].clone();
    data["data_base64"] = json!(5);
    assert_eq!(code(&with_headers(record(data.to_string()), &BINARY)), "event");
}

#[test]
fn what_is_wrong_with_data_in_base64() {
    let data = example()["data"].to_string();
    let good = in_base64(example(), data.as_bytes());
    let with = |pointer: &str, value: Value| {
        let mut event = good.clone();
        event[pointer] = value;
        code_of(&event)
    };
    assert_eq!(with("data", json!({})), "not_cloudevent", "both");
    assert_eq!(with("data", json!("x")), "not_cloudevent", "both, whatever the other one is");
    assert_eq!(with("data_base64", json!(5)), "not_cloudevent");
    assert_eq!(with("data_base64", json!({})), "not_cloudevent");
    assert_eq!(with("data_base64", json!("")), "not_json");
    for not_canonical in ["e30", "e30==", "e31=", "e3 0=", "e30=\n", "_w==", "=", "*"] {
        assert_eq!(with("data_base64", json!(not_canonical)), "not_json", "{not_canonical}");
    }
    assert_eq!(with("data_base64", json!("e30=")), "missing_field");
    assert_eq!(with("data_base64", json!("bnVsbA==")), "missing_field", "null");
    assert_eq!(with("data_base64", json!("W10=")), "bad_field", "an array");
    assert_eq!(code_of(&in_base64(example(), b"\xff")), "not_json");
    assert_eq!(code_of(&in_base64(example(), b"{")), "not_json");
    let deep = |depth: usize| {
        let mut data = data.clone();
        data.pop();
        format!("{data},\"x\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
    };
    assert_eq!(code_of(&in_base64(example(), deep(128).as_bytes())), "event");
    assert_eq!(code_of(&in_base64(example(), deep(129).as_bytes())), "not_json");
    // The checks of the envelope and of the type come first.
    let mut other = good.clone();
    other["data_base64"] = json!(5);
    other["type"] = json!("other");
    assert_eq!(code_of(&other), "skipped");
    let mut no_id = good.clone();
    no_id["data_base64"] = json!("*");
    no_id["id"] = json!("");
    assert_eq!(code_of(&no_id), "not_cloudevent");
    let mut too_new = good;
    too_new["subject"] = json!("pkg:npm/other@1.0.0");
    assert_eq!(code_of(&too_new), "subject_mismatch");
}

/// The rejection of an event: its message, and the JSON pointer of its field.
fn rejection(record: &Record) -> (String, Option<String>) {
    let Err(rejection) = decode(record, &rules()) else { panic!("no rejection") };
    (rejection.message.into_owned(), rejection.path.map(rejection::Path::pointer))
}

#[test]
fn a_rejection_points_to_its_field() {
    let pointer = |event: Value| rejection(&record(event.to_string())).1;
    for at in [
        "/specversion",
        "/id",
        "/subject",
        "/data/package/name",
        "/data/revision",
        "/data/publishedAt",
        "/data/request/ip",
        "/data/auth/secondFactor/method",
    ] {
        assert_eq!(pointer(changed(at, json!([]))).as_deref(), Some(at));
    }
    for at in ["/data/staged/at", "/data/staged/actor/kind", "/data/staged/auth/amr"] {
        let key = at.rsplit('/').next().unwrap();
        let staged = match at.split('/').count() {
            4 => json!({key: 5}),
            _ => json!({at.split('/').nth(3).unwrap(): {key: 5}}),
        };
        assert_eq!(pointer(changed("/data/staged", staged)).as_deref(), Some(at));
    }
    assert_eq!(pointer(json!([])), None);
    for missing in ["/data", "/data/package", "/data/package/ecosystem", "/data/package/version"] {
        let event = changed(missing, Value::Null);
        assert_eq!(pointer(event).as_deref(), Some(missing));
    }
}

#[test]
fn a_rejection_names_the_time_that_stands_for_the_publication() {
    let mut event = changed("/data/publishedAt", Value::Null);
    for (time, staged, problem) in [
        ("2019-07-25", None, "time is "),
        ("2019-07-25T18:09:11Z", None, "time is more than 5 minutes after the record's timestamp"),
        ("2019-07-25T18:09:11Z", Some("2019-07-25T18:09:12Z"), "data.staged.at is after time"),
    ] {
        event["time"] = json!(time);
        event["data"]["staged"] = json!({"at": staged});
        let mut record = record(event.to_string());
        record.timestamp = Some(0);
        let pointer = if staged.is_some() { "/data/staged/at" } else { "/time" };
        let (message, path) = rejection(&record);
        assert!(message.starts_with(problem), "{message}");
        assert_eq!(path.as_deref(), Some(pointer), "{message}");
    }
}

#[test]
fn a_rejection_of_data_in_base64_points_to_it() {
    for (data, problem) in
        [("{".to_owned(), "is not a JSON text"), ("[".repeat(129), "is nested deeper than 128")]
    {
        let (message, path) = rejection(&record(in_base64(example(), data.as_bytes()).to_string()));
        assert_eq!(message, format!("data_base64 {problem} when decoded"));
        assert_eq!(path.as_deref(), Some("/data_base64"));
    }
}

#[test]
fn numbers_and_strings_that_nothing_can_hold_are_fields_and_not_syntax() {
    let text = example().to_string();
    assert_eq!(code(&record(text.replace("\"revision\":0", "\"revision\":1e999"))), "bad_field");
    assert_eq!(code(&record(text.replace("\"brianc\"", "\"\\ud800\""))), "bad_field");
    assert_eq!(code(&record(text.replace("\"01J3YQ6M2C\"", "1e999"))), "not_cloudevent");
    assert_eq!(
        code(&record(
            text.replace("\"revision\":0", "\"revision\":0,\"unknown\":[1e999,\"\\ud800\"]")
        )),
        "event"
    );
    // Also in the name of an unknown field.
    for head in ["{", "\"revision\":0,"] {
        let unknown = format!("{head}\"\\ud800\":{{\"\\udc00\":1}},");
        assert_eq!(code(&record(text.replacen(head, &unknown, 1))), "event", "{head}");
    }
}

#[test]
fn the_last_of_repeated_keys_counts() {
    let text = example().to_string();
    let repeated = text.replace("\"revision\":0", "\"revision\":\"x\",\"revision\":7");
    let repeated = record(repeated);
    let Ok(Some(event)) = decode(&repeated, &rules()) else { panic!("no event") };
    assert_eq!(event.revision, 7);
    assert_eq!(
        code(&record(text.replace("\"revision\":0", "\"revision\":7,\"revision\":\"x\""))),
        "bad_field"
    );
}

#[test]
fn bounds_are_inclusive_and_null_is_missing() {
    let fits = [
        ("/data/package/name", json!("@scope/x"), "subject_mismatch"),
        ("/data/revision", json!(2_147_483_647), "event"),
        ("/data/revision", json!(null), "event"),
        ("/data/revision", json!(7.0), "event"),
        ("/data/package/integrity", json!("a".repeat(1_024)), "event"),
        ("/data/package/integrity", json!("not SRI"), "event"),
        ("/data/package/integrity", json!(null), "event"),
        ("/data/actor", json!(null), "event"),
        ("/data/actor", json!({"kind": "User", "username": "a".repeat(256)}), "event"),
        ("/data/request", json!(null), "event"),
        ("/data/request/ip", json!("not an address"), "event"),
        ("/data/auth", json!({}), "event"),
        ("/data/auth/credential", json!(""), "event"),
        ("/data/auth/amr", json!([]), "event"),
        ("/data/auth/secondFactor/verifiedAt", json!("never"), "event"),
        ("/data/publishedAt", json!(null), "event"),
        ("/time", json!("never"), "event"),
        ("/subject", json!(null), "event"),
        ("/data/package/name", json!(null), "missing_field"),
        ("/data/package/version", json!(null), "missing_field"),
        ("/data/package/ecosystem", json!(null), "missing_field"),
        ("/data/package", json!(null), "missing_field"),
        ("/data", json!(null), "missing_field"),
        ("/data/package/ecosystem", json!("NPM"), "wrong_ecosystem"),
        ("/data/package/ecosystem", json!(""), "wrong_ecosystem"),
        ("/subject", json!(""), "subject_mismatch"),
        ("/subject", json!("pg@7.12.0"), "subject_mismatch"),
        ("/subject", json!("pkg:npm/pg"), "subject_mismatch"),
        ("/subject", json!("pkg:npm/pg@7.12.1"), "subject_mismatch"),
        ("/subject", json!("pkg:pypi/pg@7.12.0"), "subject_mismatch"),
        ("/data/publishedAt", json!(""), "invalid_time"),
        ("/data/publishedAt", json!("2019-07-25T18:09:60Z"), "invalid_time"),
        ("/data/staged", json!({"at": "2019-07-25T18:09:11.204001Z"}), "invalid_time"),
        ("/data/staged", json!({"at": "2019-07-25T18:09:11.204Z"}), "event"),
        ("/data/staged", json!({"at": "yesterday"}), "invalid_time"),
        ("/data/staged", json!({}), "event"),
    ];
    for (pointer, value, expected) in fits {
        assert_eq!(code_of(&changed(pointer, value.clone())), expected, "{pointer} {value}");
    }
    let mut neither = changed("/time", json!(null));
    neither["data"]["publishedAt"] = json!(null);
    assert_eq!(code_of(&neither), "missing_field");
}

#[test]
fn a_subject_may_be_encoded_or_not() {
    for subject in [
        "pkg:npm/%40scope/x@1.0.0%2Bb",
        "pkg:npm/@scope/x@1.0.0+b",
        "pkg:npm/%40scope%2Fx@1.0.0+b?q=1#s",
    ] {
        let mut event = changed("/subject", json!(subject));
        event["data"]["package"] =
            json!({"ecosystem": "npm", "name": "@scope/x", "version": "1.0.0+b"});
        assert_eq!(code_of(&event), "event", "{subject}");
    }
}

#[test]
fn a_subject_is_compared_by_the_rules_of_its_type() {
    let named = |subject: &str, name: &str, version: &str| {
        let mut event = changed("/subject", json!(subject));
        let ecosystem = subject[4..].split('/').next().unwrap();
        event["data"]["package"] =
            json!({"ecosystem": ecosystem, "name": name, "version": version});
        let record = record(event.to_string());
        match decode(&record, &DecodeRules { ecosystem: ecosystem.into(), ..rules() }) {
            Ok(Some(event)) => {
                assert_eq!((event.id.name.as_str(), event.id.version.as_str()), (name, version));
                "event"
            }
            Err(rejection) => rejection.code.as_str(),
            Ok(None) => "skipped",
        }
    };
    for (subject, name, version) in [
        ("pkg:pypi/django@5.0", "Django", "5.0"),
        ("pkg:pypi/Django@5.0", "Django", "5.0"),
        ("pkg:pypi/typing-extensions@4.9.0", "typing_extensions", "4.9.0"),
        ("pkg:pypi/zope-interface@6.1", "zope.interface", "6.1"),
        ("pkg:pypi/a-b@1", "A-_.b", "1"),
        ("pkg:gem/nokogiri@1.16.0?platform=x86_64-linux", "nokogiri", "1.16.0-x86_64-linux"),
        ("pkg:gem/nokogiri@1.16.0-x86_64-linux", "nokogiri", "1.16.0-x86_64-linux"),
        ("pkg:gem/nokogiri@1.16.0-java?platform=java", "nokogiri", "1.16.0-java"),
        ("pkg:gem/nokogiri@1.16.0?platform=ruby", "nokogiri", "1.16.0"),
        ("pkg:gem/nokogiri@1.16.0", "nokogiri", "1.16.0"),
        ("pkg:npm/pg@7.12.0?platform=java", "pg", "7.12.0"),
    ] {
        assert_eq!(named(subject, name, version), "event", "{subject} {name} {version}");
    }
    for (subject, name, version) in [
        ("pkg:pypi/django@5.0", "Django2", "5.0"),
        ("pkg:pypi/django@5.0", "Django", "5.0.0"),
        ("pkg:pypi/ab@1", "a-b", "1"),
        ("pkg:npm/jsonstream@1.0.0", "JSONStream", "1.0.0"),
        ("pkg:npm/a-b@1.0.0", "a_b", "1.0.0"),
        ("pkg:gem/nokogiri@1.16.0", "nokogiri", "1.16.0-java"),
        ("pkg:gem/nokogiri@1.16.0?platform=java", "nokogiri", "1.16.0"),
        ("pkg:gem/nokogiri@1.16.0?platform=java", "nokogiri", "1.16.0-x86_64-linux"),
        ("pkg:gem/nokogiri@1.16.0?platform=java", "Nokogiri", "1.16.0-java"),
        ("pkg:npm/pg@7.12.0?platform=java", "pg", "7.12.0-java"),
    ] {
        let expected = "subject_mismatch";
        assert_eq!(named(subject, name, version), expected, "{subject} {name} {version}");
    }
}

#[test]
fn the_future_begins_five_minutes_after_the_records_own_timestamp() {
    let at = Timestamp::parse("2019-07-25T18:09:11.204Z").unwrap().as_micros() / 1_000;
    let mut record = record(example().to_string());
    record.timestamp = Some(at - 300_000);
    assert_eq!(code(&record), "event");
    record.timestamp = Some(at - 300_001);
    assert_eq!(code(&record), "future_time");
}

#[test]
fn size_is_looked_at_first() {
    let mut record = record(vec![b'x'; 1 << 20]);
    assert_eq!(code(&record), "not_json");
    record.value = Some(vec![b'x'; (1 << 20) + 1].into());
    assert_eq!(code(&record), "too_large");
}

#[test]
fn no_message_quotes_a_value() {
    for event in [
        changed("/data/request/ip", json!({"secret": "198.51.100.7"})),
        changed("/data/actor/username", json!(" 198.51.100.7")),
        changed("/subject", json!("198.51.100.7")),
        changed("/data/publishedAt", json!("198.51.100.7")),
        changed("/data/package/ecosystem", json!("198.51.100.7")),
    ] {
        let record = record(event.to_string());
        let Err(rejection) = decode(&record, &rules()) else { panic!("no rejection") };
        assert!(
            !rejection.message.contains("198.51") && rejection.message.len() <= 500,
            "{}",
            rejection.message
        );
    }
}

/// JSON values near those that are valid in an event.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("npm".to_owned()),
        Just("1.0".to_owned()),
        "[ a\u{85}\u{a0}\u{feff}\u{200b}\u{0}\u{7f}]{0,3}",
        (254..258_usize, any::<bool>()).prop_map(|(length, wide)| {
            if wide { "\u{3b1}".repeat(length / 2) } else { "a".repeat(length) }
        }),
        (510..515_usize).prop_map(|length| "a".repeat(length)),
    ];
    let number = prop_oneof![
        Just(json!(0)),
        Just(json!(-0.0)),
        Just(json!(1.0)),
        Just(json!(1.5)),
        Just(json!(-1)),
        Just(json!(2_147_483_647.0)),
        Just(json!(2_147_483_648_u64)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number,
        text.prop_map(Value::String),
    ];
    prop_oneof![
        4 => leaf.clone(),
        1 => prop::collection::vec(leaf.clone(), 0..3).prop_map(Value::Array),
        1 => prop::collection::hash_map("[a-z]{1,3}", leaf, 0..2)
            .prop_map(|members| json!(members)),
    ]
}

/// The JSON pointers of all fields of an event.
fn pointers() -> Vec<String> {
    let act = |within: &str| {
        let of_act = [
            "actor",
            "actor/kind",
            "actor/username",
            "request",
            "request/ip",
            "request/edgeTor",
            "request/userAgent",
            "auth",
            "auth/credential",
            "auth/bypass2fa",
            "auth/amr",
            "auth/acr",
            "auth/secondFactor",
            "auth/secondFactor/presented",
            "auth/secondFactor/verified",
            "auth/secondFactor/method",
            "auth/secondFactor/verifiedAt",
        ];
        of_act.map(|rest| format!("{within}/{rest}"))
    };
    let others = [
        "/specversion",
        "/id",
        "/source",
        "/subject",
        "/time",
        "/datacontenttype",
        "/data",
        "/data_base64",
        "/data/package",
        "/data/package/integrity",
        "/data/package/ecosystem",
        "/data/package/name",
        "/data/package/version",
        "/data/publishedAt",
        "/data/revision",
        "/data/staged",
        "/data/staged/at",
        "/data/unknown",
    ];
    others.map(str::to_owned).into_iter().chain(act("/data")).chain(act("/data/staged")).collect()
}

/// Sets the value at a pointer if its parent is an object; `None` removes the member.
fn put(event: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let Some(Value::Object(members)) = event.pointer_mut(parent) else { return };
    match value {
        Some(value) => drop(members.insert(key.to_owned(), value)),
        None => drop(members.remove(key)),
    }
}

/// Whether the schema can express the limits of this event: it counts characters instead of bytes, and does not decode base64.
fn schema_can_tell(event: &Value) -> bool {
    let fits = |pointer: &str, max: usize| {
        event
            .pointer(pointer)
            .and_then(Value::as_str)
            .is_none_or(|text| text.len() <= max || text.chars().count() > max)
    };
    fits("/data/package/name", 512)
        && fits("/data/package/version", 256)
        && fits("/data/actor/username", 256)
        && fits("/data/staged/actor/username", 256)
        && !event["data_base64"].is_string()
}

fn schema() -> Value {
    serde_json::from_str(EVENT_SCHEMA).unwrap()
}

#[test]
fn the_schema_has_the_limits_and_words_of_the_decoder() {
    let schema = schema();
    let at = |pointer: &str| &schema["$defs"][pointer]["properties"];
    let package = &at("data")["package"]["properties"];
    let username = &at("actor")["username"];
    for (field, max) in [
        (&package["name"], PackageName::MAX_BYTES),
        (&package["version"], PackageVersion::MAX_BYTES),
        (&package["integrity"], Integrity::MAX_BYTES),
        (username, Username::MAX_BYTES),
    ] {
        // The schema counts characters and the limit bytes: a text has at least as many bytes.
        assert_eq!(field["maxLength"], max, "{field}");
        // Other languages read `\u` in a pattern in other ways, or not at all: the characters stand there themselves.
        assert!(!field["not"]["pattern"].as_str().unwrap().contains('\\'), "{field}");
        assert_eq!(field["not"], username["not"], "{field}");
    }
    assert_eq!(at("data")["revision"]["maximum"], MAX_REVISION);
    let kinds: Vec<&str> = Actor::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(at("actor")["kind"]["examples"], json!(kinds));
    let credentials: Vec<&str> = Credential::ALL.iter().map(|one| one.as_str()).collect();
    assert_eq!(at("auth")["credential"]["examples"], json!(credentials));
}

#[test]
fn the_decoder_accepts_what_the_schema_accepts() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let pointers = pointers();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4_000));
    let change = (prop::sample::select(pointers), prop::option::weighted(0.9, any_json()));
    let accepted = std::cell::Cell::new(0_u32);
    runner
        .run(&prop::collection::vec(change, 1..4), |changes| {
            let mut event = changed(
                "/data/staged",
                json!({"at": "2019-07-25T18:09:11.204Z",
                "actor": {"kind": "user"}, "request": {}, "auth": {"secondFactor": {}}}),
            );
            for (pointer, value) in changes {
                put(&mut event, &pointer, value);
            }
            let code = code_of(&event);
            let decoder_accepts =
                !["not_json", "not_cloudevent", "bad_field", "missing_field"].contains(&code);
            if schema_can_tell(&event) {
                prop_assert_eq!(decoder_accepts, schema.is_valid(&event), "{} {}", code, event);
                accepted.set(accepted.get() + u32::from(decoder_accepts));
            }
            Ok(())
        })
        .unwrap();
    let accepted = accepted.get();
    assert!((400..3_600).contains(&accepted), "both happen often: {accepted}");
}

proptest! {
    #[test]
    fn any_bytes_are_decided_without_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&record(value.clone()), &rules());
        let _ = decode(&with_headers(record(value), &BINARY), &rules());
    }

    #[test]
    fn a_cut_or_changed_example_is_decided_without_panic(at in 0..900_usize, byte in any::<u8>(), cut in any::<bool>()) {
        let mut value = example().to_string().into_bytes();
        let at = at % value.len();
        if cut { value.truncate(at) } else { value[at] = byte }
        let _ = decode(&record(value), &rules());
    }
}
