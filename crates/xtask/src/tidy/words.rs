//! The vocabulary: of two names for the same thing, only one is allowed.

use std::collections::BTreeMap;

use super::violation::Violation;

/// Words that no text and no name may have, with their replacements. They are split, because this file is checked too.
const WORDS: &[(&str, &str)] = &[
    (concat!("bra", "ke"), "rejection limit"),
    (concat!("led", "ger"), "BatchObserver, or counts"),
    (concat!("tal", "ly"), "counts"),
    (concat!("tal", "lies"), "counts"),
    (concat!("fli", "ghts"), "lookup coalescer"),
    (concat!("jud", "ge"), "evaluate"),
    (concat!("jud", "ges"), "evaluates"),
    (concat!("jud", "ged"), "evaluated"),
    (concat!("jud", "ging"), "evaluating"),
    (concat!("cop", "ier"), "record arena"),
    (concat!("wea", "ther"), "network fault"),
];

/// Phrases that no text may have, with their replacements. Names may have them.
const PHRASES: &[(&str, &str)] = &[(concat!("made", " again"), "recreated")];

/// Names that no type and no module of a crate may have, with their replacements. In sentences they are allowed.
const NAMES: &[(&str, &[(&str, &str)])] = &[
    (
        "crates/ingester/",
        &[
            ("Again", "Context"),
            ("again", "context"),
            ("Books", "BatchObserver"),
            ("books", "observe"),
            ("letters", "dead_letters"),
            ("starts", "start_offsets"),
            ("still", "stalled"),
            ("Known", "TopicState"),
            ("Shape", "BatchLimits"),
            ("Point", "Bound"),
            ("Spans", "OffsetRanges"),
            ("Pace", "RateLimit"),
        ],
    ),
    ("crates/enrich/", &[("mark", "fingerprint"), ("Mark", "EvidenceFingerprint")]),
    (
        "crates/query/",
        &[
            ("Terms", "RequestContext"),
            ("Turn", "Permit"),
            ("Visit", "Permit"),
            ("Held", "Permit"),
            ("Standing", "RateStatus"),
        ],
    ),
];

const TEXTS: &[&str] = &[".rs", ".md", ".toml", ".graphql", ".yaml", ".yml"];

/// Checks a file. Reports each word once, at its first line.
pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    if !TEXTS.iter().any(|end| path.ends_with(end)) {
        return Vec::new();
    }
    let named = NAMES.iter().filter(|(folder, _)| path.starts_with(folder));
    let names = named.flat_map(|(_, names)| *names).copied().collect::<Vec<_>>();
    let mut found: BTreeMap<String, (usize, &str, usize)> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let words = words(line).filter_map(|word| Some((instead(WORDS, &word)?, word)));
        let lower = line.to_lowercase();
        let phrases = PHRASES.iter().filter(|(phrase, _)| lower.contains(*phrase));
        let phrases = phrases.map(|&(phrase, instead)| (instead, phrase.to_owned()));
        let name = path.ends_with(".rs").then(|| defined_name(line)).flatten();
        let name = name.and_then(|name| Some((instead(&names, name)?, name.to_owned())));
        for (instead, word) in words.chain(phrases).chain(name) {
            found.entry(word).or_insert((index + 1, instead, 0)).2 += 1;
        }
    }
    let violation = |(word, (line, instead, count)): (String, (usize, &str, usize))| {
        let times = if count > 1 { format!(", {count} times") } else { String::new() };
        Violation::new(path, line, format!("`{word}` is not a word of the house: {instead}{times}"))
    };
    found.into_iter().map(violation).collect()
}

fn instead(table: &[(&str, &'static str)], word: &str) -> Option<&'static str> {
    table.iter().find(|(banned, _)| *banned == word).map(|(_, instead)| *instead)
}

/// The words of a line in lower case, including the parts of `snake_case` and `CamelCase` names.
fn words(line: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut after_small = false;
    for c in line.chars() {
        if !c.is_alphabetic() || (after_small && c.is_uppercase()) {
            words.push(String::new());
        }
        if c.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        after_small = c.is_lowercase();
    }
    words.into_iter().filter(|word| !word.is_empty())
}

/// The name of the type or module that a line defines.
fn defined_name(line: &str) -> Option<&str> {
    let mut words = line.split([' ', '<', '(', ')', ';', '{', ':']).filter(|word| !word.is_empty());
    let visibility = |word: &&str| ["pub", "crate", "super", "in"].contains(word);
    let kind = words.find(|word| !visibility(word))?;
    let defines = ["struct", "enum", "trait", "type", "mod"].contains(&kind);
    words.next().filter(|_| defines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_word_is_found_in_sentences_and_names() {
        let (word, instead) = WORDS[0];
        let camel = format!("{}{}Limit", word[..1].to_uppercase(), &word[1..]);
        for line in [
            format!("// a {word} here"),
            format!("fn the_{word}_of()"),
            format!("My{camel}"),
            camel,
        ] {
            assert_eq!(
                said("a.rs", &line),
                [format!("a.rs:1: `{word}` is not a word of the house: {instead}")],
                "{line}"
            );
        }
        assert_eq!(said("a.rs", &format!("{word}s and un{word}")), Vec::<String>::new());
        assert_eq!(said("a.md", &format!("\nThe {word}.\n")).len(), 1);
        assert_eq!(said("a.json", word), Vec::<String>::new());
    }

    #[test]
    fn a_phrase_is_found_in_sentences() {
        let (phrase, instead) = PHRASES[0];
        assert_eq!(
            said("a.rs", &format!("// It was {phrase}.\nfn {}() {{}}\n", phrase.replace(' ', "_"))),
            [format!("a.rs:1: `{phrase}` is not a word of the house: {instead}")]
        );
    }

    #[test]
    fn a_word_is_named_once_a_file() {
        let (word, instead) = WORDS[0];
        assert_eq!(
            said("a.md", &format!("\n{word}\n{word} {word}\n")),
            [format!("a.md:2: `{word}` is not a word of the house: {instead}, 3 times")]
        );
    }

    #[test]
    fn a_name_is_found_where_its_crate_defines_it() {
        let path = "crates/query/src/a.rs";
        assert_eq!(
            said(path, "pub(crate) struct Turn<'a> {"),
            [format!("{path}:1: `Turn` is not a word of the house: Permit")]
        );
        assert_eq!(said(path, "// Turn it off again, it starts still.").len(), 0);
        assert_eq!(said("crates/ingester/src/a.rs", "mod letters;").len(), 1);
        assert_eq!(said("crates/ingester/src/a.rs", "mod dead_letters;").len(), 0);
        assert_eq!(said("crates/query/src/a.rs", "mod letters;").len(), 0);
        assert_eq!(said("crates/query/README.md", "struct Turn").len(), 0);
    }
}
