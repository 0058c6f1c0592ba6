//! Masks addresses in displayed records. The dead-letter topic has them, as the source topic does; a terminal must not.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

/// The text that replaces an address.
const MASK: &str = "[address]";
/// How deep JSON is read inside of JSON, in strings and in base64. Every layer takes its share of the stack, so a record
/// without end in it would end the command.
const LAYERS: u8 = 4;
/// The member of an event that has the data in base64.
const IN_BASE64: &str = "data_base64";

/// A part of a record as text, without addresses. In JSON, fields are masked by their names, and strings by their form;
/// other text is masked by its form.
pub(super) fn masked(bytes: &[u8]) -> String {
    layer(bytes, LAYERS)
}

/// The value of a member or of a header with this name, without addresses.
pub(super) fn masked_member(name: &str, bytes: &[u8]) -> String {
    if names_an_address(name) { MASK.to_owned() } else { masked(bytes) }
}

fn layer(bytes: &[u8], layers: u8) -> String {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(mut value @ (Value::Object(_) | Value::Array(_))) if layers > 0 => {
            mask(&mut value, layers - 1);
            value.to_string()
        }
        _ => scan(&without_base64(&String::from_utf8_lossy(bytes))),
    }
}

fn mask(value: &mut Value, layers: u8) {
    match value {
        Value::Object(members) => {
            let mut shown = Map::new();
            for (name, mut value) in std::mem::take(members) {
                mask_member(&name, &mut value, layers);
                let mut name = scan(&name);
                // Two addresses as names are still two members.
                while shown.contains_key(&name) {
                    name.push('\'');
                }
                shown.insert(name, value);
            }
            *members = shown;
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask(value, layers)),
        Value::String(text) => *text = layer(text.as_bytes(), layers),
        _ => {}
    }
}

fn mask_member(name: &str, value: &mut Value, layers: u8) {
    if value.is_null() {
        return;
    }
    if names_an_address(name) {
        *value = MASK.into();
    } else if name.eq_ignore_ascii_case(IN_BASE64) {
        let data = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        *value = data.map_or_else(|| MASK.to_owned(), |data| layer(&data, layers)).into();
    } else {
        mask(value, layers);
    }
}

fn names_an_address(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "ip" || ["address", "forwarded", "remote"].iter().any(|word| name.contains(word))
}

/// Text that is not JSON, for example because its end is missing, without the data in base64 that it may have: its
/// addresses have no form that [`scan`] sees.
fn without_base64(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    for (at, name) in lower.match_indices(IN_BASE64) {
        let behind = at + name.len();
        // In an error message the bare name stands, without a value.
        if at < from || !text[behind..].trim_start_matches('\\').starts_with(['"', '\'']) {
            continue;
        }
        let is_between = |c: char| c.is_whitespace() || matches!(c, '\\' | '"' | '\'' | ':');
        let value = text[behind..].trim_start_matches(is_between);
        shown.push_str(&text[from..text.len() - value.len()]);
        shown.push_str(MASK);
        from =
            text.len() - value.trim_start_matches(|c| !matches!(c, '"' | '\'' | ',' | '}')).len();
    }
    shown.push_str(&text[from..]);
    shown
}

/// Masks every part of the text that reads as an address, with or without a port.
fn scan(text: &str) -> String {
    // In "5%71.160.223.45" an escape that is none hides a digit, so the text is read as it stands too.
    scan_by(&scan_by(text, unescaped), plain)
}

/// Reads the next character: the character, and the number of bytes that stand for it.
type Read = fn(&str) -> Option<(char, usize)>;

fn plain(text: &str) -> Option<(char, usize)> {
    text.chars().next().map(|c| (c, c.len_utf8()))
}

/// As [`plain`], but an escape of URLs (also one that was escaped again) or of JSON is one character, and the zeros between
/// the characters of UTF-16 are passed over.
fn unescaped(text: &str) -> Option<(char, usize)> {
    let escapes = [("%", 2), ("\\u00", 2), ("\\x", 2)].into_iter();
    let escaped = |(prefix, digits): (&str, usize)| {
        let behind = text.strip_prefix(prefix)?;
        let behind = if prefix == "%" { behind.trim_start_matches("25") } else { behind };
        let byte = u8::from_str_radix(behind.get(..digits)?, 16).ok()?;
        Some((char::from(byte), text.len() - behind.len() + digits))
    };
    let (c, length) = escapes.filter_map(escaped).next().or_else(|| plain(text))?;
    let behind = &text[length..];
    Some((c, text.len() - behind.trim_start_matches('\0').len()))
}

fn scan_by(text: &str, read: Read) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, length)) = read(rest) {
        let (mut run, mut end) = (String::new(), 0);
        while let Some((c, length)) = read(&rest[end..]).filter(|(c, _)| belongs(*c)) {
            run.push(c);
            end += length;
        }
        if is_address(&run) {
            // The colon of "client:71.160.223.45" is not the address's.
            shown.push_str(if first == ':' { ":" } else { "" });
            shown.push_str(MASK);
        } else {
            end = end.max(length);
            shown.push_str(&rest[..end]);
        }
        rest = &rest[end..];
    }
    shown
}

fn belongs(c: char) -> bool {
    c.is_ascii_hexdigit() || c == '.' || c == ':'
}

fn is_address(run: &str) -> bool {
    let run = run.trim_matches('.').trim_end_matches(':');
    has_four_octets(run)
        || run.parse::<IpAddr>().is_ok()
        || run.parse::<SocketAddr>().is_ok()
        // Preceding letters may be hexadecimal digits too: "face::1" is cut from "surface::1".
        || (run.contains("::") && run.len() > 2)
        || run.matches(':').count() >= 5
}

/// Whether four numbers with dots between them stand anywhere. Letters and colons before and behind them do not matter:
/// "node71.160.223.45" is cut to "de71.160.223.45". Strict parsing refuses other addresses too, for example with leading
/// zeros, in which a reader sees an address.
fn has_four_octets(run: &str) -> bool {
    run.split(|c: char| !c.is_ascii_digit() && c != '.').any(|numbers| {
        let numbers: Vec<&str> = numbers.split('.').collect();
        numbers.windows(4).any(|four| four.iter().all(|number| !number.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_with(data: &str) -> String {
        serde_json::json!({"id": "1", IN_BASE64: BASE64_STANDARD.encode(data)}).to_string()
    }

    #[test]
    fn no_address_is_shown_wherever_it_stands() {
        let in_base64 = event_with(r#"{"request":{"ip":"71.160.223.45"}}"#);
        let cut = &in_base64[..in_base64.len() - 2];
        let cut_in_text = serde_json::json!({ "data": cut }).to_string();
        let in_text = serde_json::json!({"data": r#"{"ip":1194368813,"n":"71.160.223.45"}"#});
        let deep = (0..9).fold(in_base64.clone(), |data, _| event_with(&data));
        let utf16: String = r#"{"ip":"71.160.223.45"}"#.chars().flat_map(|c| [c, '\0']).collect();
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
            "client:71.160.223.45",
            "{ip:71.160.223.45}",
            r#"{"note":"client:71.160.223.45:443"}"#,
            "node71.160.223.45",
            "71.160.223.45and",
            "node0.71.160.223.45",
            "45.223.160.71.in-addr.arpa",
            "client:2001:db8::1",
            "face2001:db8:0:0:0:0:0:1",
            "[::ffff:71.160.223.45]:443",
            "64:ff9b::71.160.223.45",
            "fe80::160.223%eth0",
            r#"{"71.160.223.45":1,"071.160.223.45":2}"#,
            r#"{"seen":[{"[2001:db8::1]:443":1}]}"#,
            "?ip=71%2E160%2E223%2E45&x=1",
            "?at=%2071.160.223.45",
            "?to=http%253A%252F%252F71%252E160%252E223%252E45",
            "2001%3Adb8%3A%3A1",
            "5%71.160.223.45",
            r#"{"note":"\u0037\u0031\u002e160.223.45"#,
            r"71\x2e160\x2e223\x2e45",
            &utf16,
            &in_base64,
            cut,
            &cut_in_text,
            &in_text.to_string(),
            &deep,
            r#"{"Data_Base64":"NzEuMTYwLjIyMy40NQ"}"#,
            r#"{"data_base64":["NzEuMTYwLjIyMy40NQ=="]}"#,
            "{'data_base64': 'NzEuMTYwLjIyMy40NQ==', 'id': '1'",
        ] {
            let shown = masked(text.as_bytes());
            assert!(shown.contains(MASK), "{text} is shown as {shown}");
            let digits = shown.replace('\0', "");
            for part in ["160.223", "160%", "160\\", "223.160", "db8", "eyJ", "NzEu", "119436"] {
                assert!(!digits.contains(part), "{text} is shown as {shown}");
            }
        }
    }

    #[test]
    fn what_is_around_an_address_stays() {
        for (text, shown) in [
            ("client:71.160.223.45 at 18:09:11.204", "client:[address] at 18:09:11.204"),
            (r#"{"71.160.223.45":1,"71.160.223.46":2}"#, r#"{"[address]":1,"[address]'":2}"#),
            ("?ip=71%2E160%2E223%2E45&x=%20", "?ip=[address]&x=%20"),
            (r#"{"data_base64":"eyJh","id":"1"#, r#"{"data_base64":"[address]","id":"1"#),
        ] {
            assert_eq!(masked(text.as_bytes()), shown);
        }
        let data = r#"{"auth":{"amr":["pwd"]},"request":{"ip":"71.160.223.45"}}"#;
        let shown: Value = serde_json::from_str(&masked(event_with(data).as_bytes())).unwrap();
        assert_eq!(shown["id"], "1");
        assert_eq!(shown[IN_BASE64], data.replace("71.160.223.45", MASK));
        assert_eq!(masked_member("X-Forwarded-For", b"unknown"), MASK);
        assert_eq!(masked_member("via", b"1.1 host:71.160.223.45"), "1.1 host:[address]");
    }

    #[test]
    fn what_is_no_address_stays() {
        let text = r#"{"at":"2019-07-25T18:09:11.204Z","name":"pg","version":"7.12.0"}"#;
        assert_eq!(masked(text.as_bytes()), text);
        for text in [
            "at 18:09:11.204, a: b",
            "version:1.2.3",
            "node1.2.3",
            "v7.12.0-rc.1",
            "npm/6.9.0 node/v10.16.0 linux x64",
            "pkg:npm/%40babel/core@7.12.0",
            "100% of 1.2.3",
            "data_base64 is not canonical base64",
            "01J3YQ6M2C",
        ] {
            assert_eq!(masked(text.as_bytes()), text);
        }
        assert_eq!(masked(&[0xff, b'a']), "\u{fffd}a");
    }
}
