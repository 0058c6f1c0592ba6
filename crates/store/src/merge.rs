//! The merge rule of `model::merge` in SQL, written once for both databases, because both support row values, `ON
//! CONFLICT` and `excluded`. [`Dialect`] has the differences.

use crate::columns::COLUMNS;

/// The differences between the SQL of the two databases.
pub(crate) struct Dialect {
    /// A time before every other. It makes null lose where the later time is kept.
    pub(crate) before_all_times: &'static str,
    /// The function that returns the smaller of two texts.
    pub(crate) least: &'static str,
    /// Makes the comparison of a text bytewise, whatever collation its column got.
    pub(crate) bytewise: &'static str,
}

pub(crate) const POSTGRES: Dialect = Dialect {
    before_all_times: "timestamptz '-infinity'",
    least: "least",
    bytewise: " COLLATE \"C\"",
};
pub(crate) const SQLITE: Dialect = Dialect { before_all_times: "''", least: "min", bytewise: "" };

/// A value that the rule compares, as SQL for a row with the given alias.
type Value<'a> = &'a dyn Fn(&str) -> String;

/// The aliases of the stored row and of the new row in the clauses.
const KEPT: &str = "publication";
const INCOMING: &str = "excluded";

impl Dialect {
    /// `ON CONFLICT (name, version) DO UPDATE …`: changes the row only if the incoming record is kept, or disputes the
    /// stored row.
    pub(crate) fn on_conflict(&self) -> String {
        let wins = self.wins(KEPT, INCOMING);
        let assignments: Vec<String> = COLUMNS
            .iter()
            .map(|column| column.name)
            .filter(|column| !matches!(*column, "name" | "version" | "disputed" | "integrity"))
            .map(|column| {
                format!(
                    "{column} = CASE WHEN {wins} THEN {INCOMING}.{column} ELSE {KEPT}.{column} END"
                )
            })
            .collect();
        format!(
            "ON CONFLICT (name, version) DO UPDATE SET {}, disputed = {}, integrity = {} WHERE {}",
            assignments.join(", "),
            disputed(KEPT, INCOMING),
            self.integrity(KEPT, INCOMING),
            self.changes(KEPT, INCOMING)
        )
    }

    /// Whether merging `incoming` into `kept` changes the row.
    pub(crate) fn changes(&self, kept: &str, incoming: &str) -> String {
        let bytewise = self.bytewise;
        format!(
            "({} OR ({kept}.revision = {incoming}.revision AND (\
             NOT {kept}.disputed AND ({incoming}.disputed OR {}) \
             OR {incoming}.integrity IS NOT NULL AND ({kept}.integrity IS NULL OR {incoming}.integrity < {kept}.integrity{bytewise}))))",
            self.wins(kept, incoming),
            disagree(kept, incoming)
        )
    }

    /// The smaller `integrity` of the two rows if their revisions are equal, else that of the higher revision. It
    /// merges independently.
    fn integrity(&self, kept: &str, incoming: &str) -> String {
        let Self { least, bytewise, .. } = self;
        format!(
            "CASE WHEN {incoming}.revision > {kept}.revision THEN {incoming}.integrity \
             WHEN {incoming}.revision < {kept}.revision THEN {kept}.integrity \
             ELSE {least}(coalesce({kept}.integrity, {incoming}.integrity), coalesce({incoming}.integrity, {kept}.integrity){bytewise}) END"
        )
    }

    /// Whether `incoming` precedes `kept` (`model::Publication::precedence` is `Greater`), as one comparison of row
    /// values. For a column of which the greater value is kept, `kept` is on the left side; for the others, `incoming`.
    fn wins(&self, kept: &str, incoming: &str) -> String {
        let never = self.before_all_times;
        let knowledge = |row: &str| {
            format!(
                "CASE WHEN {row}.tor IS NULL THEN CASE WHEN {row}.tor_reason = 'listed_after' THEN 2 ELSE 0 END \
                 WHEN {row}.tor THEN 3 ELSE 1 END"
            )
        };
        let tfa = |row: &str| {
            format!("CASE WHEN {row}.tfa IS NULL THEN 0 WHEN {row}.tfa THEN 2 ELSE 1 END")
        };
        let evidence = |row: &str| format!("coalesce({row}.tor_evidence_until, {never})");
        let column = |name: &'static str| move |row: &str| format!("{row}.{name}");
        // True: the greater value is kept. False: the smaller. The order is that of crates/model/README.md, Merge.
        let steps: [(bool, Value<'_>); 14] = [
            (true, &column("revision")),
            (false, &column("created")),
            (false, &column("event_identity")),
            (true, &column("generation")),
            (true, &knowledge),
            (true, &evidence),
            (false, &column("tor_reason")),
            (true, &tfa),
            (false, &column("tfa_reason")),
            (false, &column("credential")),
            (false, &column("actor")),
            (false, &|row: &str| format!("({row}.username IS NOT NULL)")),
            (false, &|row: &str| format!("coalesce({row}.username, ''){}", self.bytewise)),
            (true, &column("tor_settled")),
        ];
        let side = |one: &str, other: &str| {
            let values: Vec<String> = steps
                .iter()
                .map(|(greater, value)| value(if *greater { one } else { other }))
                .collect();
            values.join(", ")
        };
        format!("(({}) < ({}))", side(kept, incoming), side(incoming, kept))
    }
}

fn disagree(kept: &str, incoming: &str) -> String {
    format!(
        "({kept}.created <> {incoming}.created OR {kept}.username IS DISTINCT FROM {incoming}.username \
         OR coalesce({kept}.integrity <> {incoming}.integrity, false))"
    )
}

fn disputed(kept: &str, incoming: &str) -> String {
    format!(
        "CASE WHEN {incoming}.revision > {kept}.revision THEN {incoming}.disputed \
         WHEN {incoming}.revision < {kept}.revision THEN {kept}.disputed \
         ELSE {kept}.disputed OR {incoming}.disputed OR {} END",
        disagree(kept, incoming)
    )
}
