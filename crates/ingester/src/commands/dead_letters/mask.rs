//! Masks addresses in displayed records. The dead-letter topic has them, as the source topic does; a terminal must not.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

/// The text that replaces an address.
const MASK: &str = "[address]";

/// A part of a record as text, without addresses. In JSON, fields are masked by their names, and strings by their form;
/// other text is masked by its form.
pub(super) fn masked(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
            mask(&mut value);
            value.to_string()
        }
        _ => scan(&String::from_utf8_lossy(bytes)),
    }
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if names_an_address(name) && !value.is_null() {
                    *value = Value::from(MASK);
                } else {
                    mask(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        Value::String(text) => *text = scan(text),
        _ => {}
    }
}

fn names_an_address(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "ip" || ["address", "forwarded", "remote"].iter().any(|word| name.contains(word))
}

/// Masks every part of the text that reads as an address, with or without a port.
fn scan(text: &str) -> String {
    let belongs = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(belongs) {
        let (before, from) = rest.split_at(start);
        let (run, behind) = from.split_at(from.find(|c| !belongs(c)).unwrap_or(from.len()));
        shown.push_str(before);
        shown.push_str(if is_address(run) { MASK } else { run });
        rest = behind;
    }
    shown.push_str(rest);
    shown
}

fn is_address(run: &str) -> bool {
    let run = run.trim_matches('.').trim_end_matches(':');
    // Also addresses that strict parsing refuses, for example with leading zeros, because a reader sees an address.
    let octets = run.split(':').next().unwrap_or_default().split('.');
    let dotted = octets.clone().count() == 4
        && octets
            .clone()
            .all(|octet| !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit()));
    dotted
        || run.parse::<IpAddr>().is_ok()
        || run.parse::<SocketAddr>().is_ok()
        // Preceding letters may be hexadecimal digits too: "face::1" is cut from "surface::1".
        || (run.contains("::") && run.len() > 2)
        || run.matches(':').count() >= 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_shown_wherever_it_stands() {
        for text in [
            r#"{"data":{"request":{"ip":"71.160.223.45"},"staged":{"request":{"ip":["2001:db8::1"]}}}}"#,
            r#"{"note":"from 71.160.223.45, that is"}"#,
            r#"{"note":"\u0037\u0031.160.223.45"}"#,
            r#"{"request":{"ip":"071.160.223.045"}"#,
            "71.160.223.45:443",
            "ip=2001:0db8:0000:0000:0000:0000:0000:0001",
            "[2001:db8::1]:443",
            "::ffff:71.160.223.45.",
            r#"{"ip": "2001:db8::1"#,
        ] {
            let shown = masked(text.as_bytes());
            assert!(shown.contains(MASK), "{text} is shown as {shown}");
            for part in ["160.223", "db8", "0db8"] {
                assert!(!shown.contains(part), "{text} is shown as {shown}");
            }
        }
    }

    #[test]
    fn what_is_no_address_stays() {
        let text = r#"{"at":"2019-07-25T18:09:11.204Z","name":"pg","version":"7.12.0"}"#;
        assert_eq!(masked(text.as_bytes()), text);
        assert_eq!(masked(b"at 18:09:11.204, a: b"), "at 18:09:11.204, a: b");
        assert_eq!(masked(&[0xff, b'a']), "\u{fffd}a");
    }
}
