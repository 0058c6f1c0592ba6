//! The rows of a run: generated from the seed and inserted by SQL, with all values that the daemon may return. Rows are
//! only added, so a state of the table is a number of rows.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::random::Random;
use crate::{index, one_in, pick};

/// A row as it is inserted.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) username: Option<&'static str>,
    /// RFC 3339 in UTC with microseconds, which sorts as text.
    pub(crate) created: String,
    pub(crate) tor: (Option<bool>, &'static str),
    pub(crate) tfa: (Option<bool>, &'static str),
    pub(crate) settled: bool,
    pub(crate) credential: &'static str,
    pub(crate) actor: &'static str,
    pub(crate) disputed: bool,
    pub(crate) integrity: Option<&'static str>,
}

const NAMES: [&str; 12] = [
    "pg",
    "Pg",
    "pg-",
    "pg_pool",
    "@scope/x",
    "@scope/X",
    "@s/pg",
    "JSONStream",
    "jsonstream",
    "q\"uo'te\\",
    "a b",
    "é<b>&",
];
const VERSIONS: [&str; 6] = ["", "-rc.1", "-rc.10", "-rc.2", "-alpha", "+build"];
const ODD_VERSIONS: [&str; 5] = ["1.0", "v1.0.0", "01.0.0", "latest & <last>", "1.0.0-01"];
const USERS: [Option<&str>; 6] =
    [None, Some("brianc"), Some("Brianc"), Some("o'neil \"<x>\""), Some("é"), Some("ci bot")];
const TOR: [(Option<bool>, &str); 11] = [
    (Some(true), "anonymous_ip"),
    (None, "bad_address"),
    (Some(true), "edge"),
    (Some(true), "exit_list"),
    (None, "listed_after"),
    (None, "no_address"),
    (None, "no_coverage"),
    (None, "not_global"),
    (Some(false), "not_listed"),
    (Some(true), "prefix"),
    (Some(true), "snapshot"),
];
const TFA: [(Option<bool>, &str); 10] = [
    (Some(true), "acr"),
    (Some(false), "acr"),
    (Some(true), "amr"),
    (Some(false), "amr"),
    (Some(false), "no_human_factor"),
    (Some(false), "no_second_factor"),
    (None, "not_reported"),
    (Some(false), "password_only"),
    (Some(true), "second_factor"),
    (Some(false), "second_factor_rejected"),
];
const CREDENTIALS: [&str; 6] =
    ["automation_token", "granular_token", "oidc", "password", "session_token", "unknown"];
const INTEGRITY: [Option<&str>; 3] = [
    None,
    None,
    Some(
        "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
    ),
];

/// Row number `place` of a seed. Few days and names, so that times are equal and histories long.
fn row(random: &mut Random, place: usize) -> Row {
    let version = if one_in(random, 8) {
        format!("{}.{place}", pick(random, &ODD_VERSIONS))
    } else {
        // Two rows share a precedence. The build of the second distinguishes them.
        let (major, minor, patch) = (random.below(3), place / 12, place % 12 / 2);
        let build = if place % 2 == 1 { format!("+b{place}") } else { String::new() };
        format!("{major}.{minor}.{patch}{}{build}", pick(random, &VERSIONS))
    };
    // The name that sorts last has the most versions.
    let name = if one_in(random, 3) { "pg_pool" } else { pick(random, &NAMES) };
    let created = format!(
        "20{:02}-0{}-2{}T1{}:00:{}",
        20 + random.below(3),
        1 + random.below(9),
        random.below(8),
        random.below(10),
        pick(random, &["00.000000Z", "00.000001Z", "00.999999Z", "59.123456Z"]),
    );
    Row {
        name: name.to_owned(),
        version,
        username: pick(random, &USERS),
        created,
        tor: pick(random, &TOR),
        tfa: pick(random, &TFA),
        settled: one_in(random, 2),
        credential: pick(random, &CREDENTIALS),
        actor: pick(random, &["unknown", "user", "workflow"]),
        disputed: one_in(random, 4),
        integrity: pick(random, &INTEGRITY),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn maybe(text: Option<&str>) -> String {
    text.map_or("NULL".to_owned(), quoted)
}

const fn flag(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "TRUE",
        Some(false) => "FALSE",
        None => "NULL",
    }
}

/// A statement that inserts all rows or none, and can be repeated.
pub(crate) fn insert(rows: &[Row]) -> String {
    let values: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "({}, {}, {}, '{}', {}, {}, '{}', '{}', {}, '{}', '{}', 0, 0, X, {}, {})",
                quoted(&row.name),
                quoted(&row.version),
                maybe(row.username),
                row.created,
                flag(row.tor.0),
                flag(row.tfa.0),
                row.tor.1,
                row.tfa.1,
                flag(Some(row.settled)),
                row.credential,
                row.actor,
                flag(Some(row.disputed)),
                maybe(row.integrity),
            )
        })
        .collect();
    format!(
        "INSERT INTO publication (name, version, username, created, tor, tfa, tor_reason, tfa_reason, tor_settled, credential, \
         actor, revision, generation, event_identity, disputed, integrity) VALUES {} ON CONFLICT (name, version) DO NOTHING",
        values.join(", "),
    )
}

/// All rows of a run, and the current state: at least `there`, at most `under_way`.
pub(crate) struct Table {
    pub(crate) all: Vec<Row>,
    /// The number of rows in each state.
    pub(crate) states: Vec<usize>,
    there: AtomicUsize,
    under_way: AtomicUsize,
}

impl Table {
    /// A table with `more` states after the first.
    pub(crate) fn of(random: &mut Random, more: usize) -> Self {
        let first = pick(random, &[60, 150, 400]);
        let mut states = vec![first];
        for _ in 0..more {
            states.push(states[states.len() - 1] + 1 + index(random, 12));
        }
        let all = (0..states[more]).map(|place| row(random, place)).collect();
        Self { all, states, there: AtomicUsize::new(0), under_way: AtomicUsize::new(0) }
    }

    pub(crate) fn rows(&self, state: usize) -> &[Row] {
        &self.all[..self.states[state]]
    }

    /// The rows that the next state adds, which is then under way; `None` after the last state.
    pub(crate) fn begin_next(&self) -> Option<&[Row]> {
        let next = self.there() + 1;
        let until = *self.states.get(next)?;
        self.under_way.store(next, Ordering::SeqCst);
        Some(&self.all[self.states[next - 1]..until])
    }

    /// Marks the state under way as reached.
    pub(crate) fn done(&self) {
        self.there.store(self.under_way(), Ordering::SeqCst);
    }

    pub(crate) fn there(&self) -> usize {
        self.there.load(Ordering::SeqCst)
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }
}
