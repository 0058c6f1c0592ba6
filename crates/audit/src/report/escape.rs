//! Escaping of names, accounts and messages, which are not trusted, for each output format.

use std::fmt::Write as _;

use model::{is_hidden, visible};

/// The start of a command, anywhere in a line: `##[` for GitHub and Azure Pipelines, `##vso[` for the latter.
const COMMAND: &str = "##";

/// Escapes text for one line.
#[must_use]
pub fn line(text: &str) -> String {
    visible(text).replace(COMMAND, "#\\u{23}")
}

/// Escapes text whose line feeds were added by this program.
#[must_use]
pub fn text(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// Escapes the message of a workflow command.
#[must_use]
pub fn github_message(text: &str) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    line(&text)
}

/// Escapes a property of a workflow command.
#[must_use]
pub fn github_property(text: &str) -> String {
    github_message(text).replace(':', "%3A").replace(',', "%2C")
}

/// Escapes the text of a SARIF message, in which brackets are links and braces are placeholders.
#[must_use]
pub fn sarif(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in line(text).chars() {
        match letter {
            '\\' | '[' | ']' => escaped.extend(['\\', letter]),
            '{' | '}' => escaped.extend([letter, letter]),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Escapes hidden characters and commands in a finished JSON document. They occur only in strings.
#[must_use]
pub fn json(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for letter in document.chars() {
        if is_hidden(letter) && letter != '\n' {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(letter);
        }
    }
    escaped.replace(COMMAND, "#\\u0023")
}

/// Quotes text as a TOML basic string.
#[must_use]
pub fn toml(text: &str) -> String {
    let mut escaped = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            letter if is_hidden(letter) => {
                let _ = write!(escaped, "\\U{:08x}", u32::from(letter));
            }
            letter => escaped.push(letter),
        }
    }
    escaped.push('"');
    escaped.replace(COMMAND, "#\\u0023")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_a_line_or_moves_the_cursor() {
        assert_eq!(line("a\n::error::x\u{1b}[2J"), "a\\u{a}::error::x\\u{1b}[2J");
        assert_eq!(line("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(text("a\nb\r"), "a\nb\\u{d}");
        assert_eq!(line("##[a]###vso[b]"), "#\\u{23}[a]#\\u{23}#vso[b]");
        assert_eq!(line("пакет é \\"), "пакет é \\");
    }

    #[test]
    fn a_workflow_command_stays_one() {
        assert_eq!(github_message("50%\r\n::add-mask::x"), "50%25%0D%0A::add-mask::x");
        assert_eq!(github_property("a,b:c\n"), "a%2Cb%3Ac%0A");
        assert_eq!(github_message("\u{1b}"), "\\u{1b}");
    }

    #[test]
    fn sarif_messages_have_no_links_and_placeholders() {
        assert_eq!(sarif("[x](1) {0} \\"), "\\[x\\](1) {{0}} \\\\");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"a": "\u{9b}\u{202e}\u{e0041}\n\u{1b}é###[b]##vso[c]"});
        let document = json(&format!("{value:#}\n"));
        assert!(document.chars().all(|letter| letter == '\n' || !is_hidden(letter)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&document).unwrap(), value);
    }

    #[test]
    fn toml_strings_read_back() {
        for text in ["a\"b\\c", "a\nb", "###[b]##vso[c]", "\u{1b}é\u{202e}"] {
            let table: toml::Table = format!("x = {}", super::toml(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }
}
