//! The allowed dependencies between the rooms: the top modules of the ingester.

use super::Graph;
use crate::tidy::violation::Violation;

/// The crate that is divided into rooms.
pub(in crate::tidy) const CRATE: &str = "ingester";

/// The rooms that each room may use, as drawn in `crates/README.md`. Every top module has a line.
const ARROWS: &[(&str, &[&str])] = &[
    ("record", &[]),
    ("decode", &["record"]),
    ("settings", &["record", "decode"]),
    ("pipeline", &["record", "decode", "settings"]),
    ("kafka", &["record", "decode", "settings", "pipeline"]),
    ("evidence", &["record", "decode", "settings", "pipeline", "kafka"]),
    ("daemon", &["record", "decode", "settings", "pipeline", "kafka", "evidence"]),
    ("commands", &["record", "decode", "settings", "pipeline", "kafka", "evidence"]),
    (
        "cli",
        &["record", "decode", "settings", "pipeline", "kafka", "evidence", "daemon", "commands"],
    ),
];

/// Names of other crates that a room must not use: the loop knows no concrete store and no Kafka client; decoding has
/// no clock, no log and no I/O. A name that ends in `*` is a prefix.
const NEVER: &[(&str, &[&str])] = &[
    ("pipeline", &["rdkafka", "sqlx", "rusqlite", "Postgres*", "Sqlite*", "open_*", "ureq"]),
    ("decode", &["rdkafka", "store", "tokio", "tracing", "SystemTime", "Instant", "fs", "net"]),
];

/// Maximum number of files directly in `src`.
const FLAT_FILES: usize = 8;

/// Checks a crate's module graph against the rooms' rules.
pub(in crate::tidy) fn check(graph: &Graph) -> Vec<Violation> {
    let mut violations = Vec::new();
    for arrow in &graph.arrows {
        // The crate's root is not a room: it lists the rooms, and no room may use it.
        let Some(from) = arrow.from.first() else { continue };
        let to = arrow.to.first().map_or("the crate's root", String::as_str);
        let allowed =
            ARROWS.iter().find(|(room, _)| room == from).map_or(&[][..], |(_, uses)| uses);
        if from != to && !allowed.contains(&to) {
            let used = if arrow.to.is_empty() { to.to_owned() } else { arrow.to.join("::") };
            let rule = format!("room {from} must not use {used}");
            violations.push(Violation::new(&arrow.file, arrow.line, rule));
        }
    }
    for (module, file, mention) in graph.mentions() {
        let never =
            NEVER.iter().filter(|(room, _)| module.first().is_some_and(|from| from == room));
        let named = never.flat_map(|(room, names)| names.iter().map(move |name| (room, name)));
        for (room, name) in named.filter(|(_, name)| mention.path.iter().any(|part| is(part, name)))
        {
            let rule = format!("room {room} must not name {name}");
            violations.push(Violation::new(file, mention.line, rule));
        }
    }
    violations
}

/// Checks the number of files directly in the crate's `src`.
pub(in crate::tidy) fn check_files<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Violation> {
    let folder = format!("crates/{CRATE}/src");
    let flat = paths
        .filter(|path| path.rsplit_once('/').is_some_and(|(above, _)| above == folder))
        .count();
    let rule = format!("{flat} files lie beside the rooms, more than {FLAT_FILES}");
    (flat > FLAT_FILES).then(|| Violation::new(&folder, 1, rule)).into_iter().collect()
}

fn is(part: &str, name: &str) -> bool {
    name.strip_suffix('*').map_or(part == name, |begin| part.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The violations of an ingester with one file per room, with these texts.
    fn said(texts: &[(&str, &str)]) -> Vec<String> {
        let read = |path: &str| {
            let room = path.strip_prefix("src/")?.strip_suffix(".rs")?;
            if room == "lib" {
                return Some(ARROWS.iter().map(|(room, _)| format!("mod {room};")).collect());
            }
            ARROWS.iter().find(|(name, _)| *name == room)?;
            let text = texts.iter().find(|(name, _)| *name == room).map_or("", |(_, text)| text);
            Some(format!("{text}\npub struct Thing;\n"))
        };
        let graph = Graph::read("src/lib.rs", &read).unwrap();
        check(&graph).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_rooms_as_drawn_are_right_and_have_an_order() {
        let texts: Vec<(&str, String)> = ARROWS
            .iter()
            .map(|(room, uses)| {
                (*room, uses.iter().map(|used| format!("use crate::{used}::Thing;\n")).collect())
            })
            .collect();
        let texts: Vec<(&str, &str)> =
            texts.iter().map(|(room, text)| (*room, text.as_str())).collect();
        assert_eq!(said(&texts), Vec::<String>::new());
        for (index, (_, uses)) in ARROWS.iter().enumerate() {
            let before: Vec<&str> = ARROWS[..index].iter().map(|(room, _)| *room).collect();
            assert!(uses.iter().all(|used| before.contains(used)));
        }
    }

    #[test]
    fn a_forbidden_arrow_is_named() {
        assert_eq!(
            said(&[("pipeline", "use crate::decode::Thing;\nuse crate::kafka::Thing as T;\n")]),
            ["src/pipeline.rs:2: room pipeline must not use kafka"]
        );
        assert_eq!(
            said(&[("decode", "fn f(_: super::pipeline::Thing) {}")]),
            ["src/decode.rs:1: room decode must not use pipeline"]
        );
        for glob in [
            "use crate::kafka::*;",
            "use crate::kafka; use kafka::*;",
            "use crate::{decode::Thing, kafka::{*}};",
        ] {
            assert_eq!(
                said(&[("pipeline", glob)]),
                ["src/pipeline.rs:1: room pipeline must not use kafka"]
            );
        }
        assert_eq!(
            said(&[("kafka", "use crate::evidence::Thing;")]),
            ["src/kafka.rs:1: room kafka must not use evidence"]
        );
    }

    #[test]
    fn the_loop_names_no_concrete_store() {
        assert_eq!(
            said(&[("pipeline", "use store::{Error, PublicationWriter};")]),
            Vec::<String>::new()
        );
        assert_eq!(
            said(&[("pipeline", "use store::{PostgresWriter};\nfn f() { store::open_reader() }")]),
            [
                "src/pipeline.rs:1: room pipeline must not name Postgres*",
                "src/pipeline.rs:2: room pipeline must not name open_*"
            ]
        );
        assert_eq!(said(&[("daemon", "use store::open_reader;")]), Vec::<String>::new());
    }

    #[test]
    fn decoding_reads_no_clock() {
        assert_eq!(
            said(&[("decode", "fn f() { std::time::Instant::now(); }")]),
            ["src/decode.rs:1: room decode must not name Instant"]
        );
    }

    #[test]
    fn few_files_lie_beside_the_rooms() {
        let paths = |count: usize| -> Vec<String> {
            (0..count)
                .map(|name| format!("crates/{CRATE}/src/{name}.rs"))
                .chain([format!("crates/{CRATE}/src/kafka/a.rs")])
                .collect()
        };
        assert_eq!(check_files(paths(8).iter().map(String::as_str)), []);
        assert_eq!(check_files(paths(9).iter().map(String::as_str)).len(), 1);
    }
}
