//! Rules about single source files: length, and forbidden words.

use super::violation::Violation;

const LONGEST_FILE: usize = 500;
const LONGEST_MAIN: usize = 40;

/// The folders that may use Kafka's client.
const KAFKA_ROOMS: &[&str] = &[
    "crates/ingester/src/kafka/",
    "crates/ingester/src/kafka.rs",
    "crates/quickstart/",
    "crates/testkit/",
    "crates/bench/",
];

/// The only files with unsafe code: one reads librdkafka's records without a copy, one calls mallopt.
const UNSAFE_FILES: [&str; 2] =
    ["crates/ingester/src/kafka/ffi.rs", "crates/service/src/allocation.rs"];

/// These words are split, because this file is checked too.
const IGNORE: &str = concat!("#[", "ignore");
const SLEEP: &str = concat!("sleep", "(");
const UNSAFE: &[&str] = &[
    concat!("uns", "afe {"),
    concat!("uns", "afe fn"),
    concat!("uns", "afe impl"),
    concat!("uns", "afe extern"),
    concat!("uns", "afe trait"),
    concat!("uns", "afe_code"),
];
const KAFKA: &[&str] = &[concat!("rdkafka", "::"), concat!("rdkafka", "_sys")];
const VIRTUAL_TIME: &str = concat!("start_", "paused");
const MACHINE_PATHS: &[&str] =
    &[concat!("/", "work/"), concat!("/", "home/"), concat!("/", "root/"), concat!("/", "Users/")];

/// Checks one file by its path from the root and its text.
pub(crate) fn check(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = machine_paths(path, text);
    if path.ends_with(".rs") {
        violations.extend(words(path, text));
        violations.extend(shape(path, text));
    }
    violations
}

/// Paths of one developer's machine are not allowed.
fn machine_paths(path: &str, text: &str) -> Vec<Violation> {
    let lines = text.lines().enumerate();
    let named = lines.filter_map(|(index, line)| {
        Some((index, MACHINE_PATHS.iter().find(|word| has_word(line, word))?))
    });
    named
        .map(|(index, word)| {
            Violation::new(
                path,
                index + 1,
                format!("a path of one machine ({word}) in a shared file"),
            )
        })
        .collect()
}

fn words(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut say = |index: usize, rule: &str| violations.push(Violation::new(path, index + 1, rule));
    let tests = test_lines(path, text);
    let may_sleep = path.starts_with("crates/testkit/") || text.contains(VIRTUAL_TIME);
    let may_speak_kafka = KAFKA_ROOMS.iter().any(|room| path.starts_with(room));
    for (index, line) in
        text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
    {
        if line.contains(IGNORE) {
            say(index, "a test is ignored: make it work or take it out");
        }
        if !UNSAFE_FILES.contains(&path) && UNSAFE.iter().any(|word| has_word(line, word)) {
            say(
                index,
                "unsafe code stands in the ingester's kafka/ffi.rs and service's allocation.rs alone",
            );
        }
        if tests[index] && !may_sleep && has_word(line, SLEEP) {
            say(
                index,
                "a test sleeps: wait for a condition (testkit::eventually), or let time stand still",
            );
        }
        if !may_speak_kafka && KAFKA.iter().any(|word| has_word(line, word)) {
            say(index, "rdkafka is named outside of its rooms");
        }
    }
    violations
}

fn shape(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let code = test_lines(path, text).iter().filter(|test| !**test).count();
    if code > LONGEST_FILE {
        violations.push(Violation::new(
            path,
            LONGEST_FILE + 1,
            format!("{code} lines without tests, more than {LONGEST_FILE}"),
        ));
    }
    if path.ends_with("src/main.rs") && text.lines().count() > LONGEST_MAIN {
        violations.push(Violation::new(
            path,
            LONGEST_MAIN + 1,
            format!("a main.rs of more than {LONGEST_MAIN} lines"),
        ));
    }
    if path.ends_with("src/lib.rs") && !text.starts_with("//!") {
        violations.push(Violation::new(
            path,
            1,
            "a crate's docs are missing (`//!`): what it does and what it must not do",
        ));
    }
    violations
}

/// For each line, whether it is test code: a whole test file, or a `#[cfg(test)]` module.
fn test_lines(path: &str, text: &str) -> Vec<bool> {
    let whole = path.split('/').any(|part| ["tests", "tests.rs", "benches"].contains(&part));
    let mut end: Option<String> = None;
    let mut lines = text.lines().peekable();
    let mut tests = Vec::new();
    while let Some(line) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let opens = line.trim_start().starts_with("#[cfg(test)]")
            && lines.peek().is_some_and(|next| is_module(next));
        if end.is_none() && opens {
            end = Some(format!("{indent}}}"));
        }
        tests.push(whole || end.is_some());
        if end.as_deref() == Some(line) {
            end = None;
        }
    }
    tests
}

fn is_module(line: &str) -> bool {
    let line = line.trim();
    line.ends_with('{') && (line.starts_with("mod ") || line.starts_with("pub(crate) mod "))
}

/// Whether the line has `word`, and not as the end of a longer word or path.
fn has_word(line: &str, word: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || ['_', '-', '.', '~', '}'].contains(&c);
    let slash = |c: char| word.starts_with('/') && c == '/';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c| joins(c) || slash(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sleeping_is_for_production() {
        let text = format!(
            "fn f() {{\n    {SLEEP}1);\n}}\n#[cfg(test)]\nmod tests {{\n    fn t() {{ thread::{SLEEP}1) }}\n}}\nfn g() {{ {SLEEP}2) }}\n"
        );
        assert_eq!(said("crates/a/src/b.rs", &text).len(), 1);
        assert!(
            said("crates/a/src/b.rs", &text)[0].starts_with("crates/a/src/b.rs:6: a test sleeps")
        );
        assert_eq!(said("crates/a/tests/b.rs", &text).len(), 3);
        assert_eq!(said("crates/testkit/tests/b.rs", &text).len(), 0);
        assert_eq!(said("tests/it/b.rs", &format!("let q = \"SELECT pg_{SLEEP}1)\";\n")).len(), 0);
        assert_eq!(
            said("tests/it/b.rs", &format!("#[tokio::test({VIRTUAL_TIME} = true)]\n{SLEEP}1);\n"))
                .len(),
            0
        );
    }

    #[test]
    fn an_ignored_test_is_named() {
        let text = format!("#[test]\n{IGNORE}]\nfn t() {{}}\n// {IGNORE}]: a comment\n");
        let lines: Vec<usize> =
            check("crates/a/src/b.rs", &text).iter().map(|violation| violation.line).collect();
        assert_eq!(lines, [2]);
    }

    #[test]
    fn code_without_checks_has_one_place() {
        for word in UNSAFE {
            let text = format!("fn f() {{}}\n{word}\n");
            assert_eq!(said("crates/ingester/src/kafka/range.rs", &text).len(), 1, "{word}");
            assert_eq!(said(UNSAFE_FILES[0], &text), Vec::<String>::new());
        }
        assert_eq!(said("a.rs", "// It is unsafe.\n"), Vec::<String>::new());
    }

    #[test]
    fn kafka_stays_in_its_rooms() {
        let text = format!("use {}Message;\n", KAFKA[0]);
        assert_eq!(said("crates/ingester/src/kafka/poll.rs", &text).len(), 0);
        assert_eq!(
            said("crates/ingester/src/ingest.rs", &text),
            ["crates/ingester/src/ingest.rs:1: rdkafka is named outside of its rooms"]
        );
        assert_eq!(
            said("crates/a/src/b.rs", &format!("let version = lib{}version();\n", KAFKA[0])).len(),
            0
        );
    }

    #[test]
    fn files_and_mains_are_short() {
        let line = "fn f() {}\n";
        assert_eq!(said("crates/a/src/b.rs", &line.repeat(500)).len(), 0);
        assert_eq!(said("crates/a/src/b.rs", &line.repeat(501)).len(), 1);
        let tested =
            format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(500), line.repeat(300));
        assert_eq!(said("crates/a/src/b.rs", &tested).len(), 0);
        assert_eq!(said("crates/a/src/main.rs", &line.repeat(41)).len(), 1);
        assert_eq!(said("tests/it/main.rs", &line.repeat(41)).len(), 0);
    }

    #[test]
    fn a_crate_says_what_it_does() {
        assert_eq!(said("crates/a/src/lib.rs", "//! Adds.\n").len(), 0);
        assert_eq!(said("crates/a/src/lib.rs", "mod b;\n").len(), 1);
    }

    #[test]
    fn paths_of_one_machine_are_named_in_any_file() {
        let [work, ..] = MACHINE_PATHS else { panic!("there are some") };
        assert_eq!(said("README.md", &format!("\nsee {work}main\n")).len(), 1);
        assert_eq!(
            said(
                "README.md",
                &format!("https://example.com{work}main and docs{work}a and .{work}b\n")
            )
            .len(),
            0
        );
    }
}
