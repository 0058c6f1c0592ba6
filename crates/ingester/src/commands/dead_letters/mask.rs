//! Addresses taken out of what is shown: the dead-letter topic holds them as the source topic does, a terminal must not.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

/// What stands in an address's place.
const MASK: &str = "[address]";

/// The text of a record's part, without addresses. JSON is masked by the names of its fields and by what its strings
/// look like, anything else by what it looks like.
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

/// Puts the mask in the place of everything that reads as an address, with or without a port.
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
    // Also what strict parsing refuses, such as leading zeros: it is an address to who reads it.
    let octets = run.split(':').next().unwrap_or_default().split('.');
    let dotted = octets.clone().count() == 4
        && octets
            .clone()
            .all(|octet| !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit()));
    dotted
        || run.parse::<IpAddr>().is_ok()
        || run.parse::<SocketAddr>().is_ok()
        // A word of letters before it that are hexadecimal digits too: "face::1" cut from "surface::1".
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
