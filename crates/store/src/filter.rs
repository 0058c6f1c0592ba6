//! The filter of a listing, and the SQL conditions that both databases share.

use model::{PackageName, PublicationId, Timestamp, Username};
use serde::Deserialize;

/// A flag with three states, as the API filters by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Flag {
    /// True.
    Yes,
    /// False: determined to be false.
    No,
    /// Null: not determined.
    Unknown,
}

/// Selects and orders the publications of a listing; a part that is `None` does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The package's name, byte for byte.
    pub name: Option<PackageName>,
    /// The publisher's name, byte for byte.
    pub username: Option<Username>,
    /// Whether the publisher's address was a Tor exit.
    pub tor: Option<Flag>,
    /// Whether a second factor was verified.
    pub tfa: Option<Flag>,
    /// Whether events disagree.
    pub disputed: Option<bool>,
    /// Only times later than this, exclusive.
    pub created_after: Option<Timestamp>,
    /// Only times earlier than this, exclusive.
    pub created_before: Option<Timestamp>,
    /// The order of the rows.
    pub order: Order,
}

/// The order of a listing by (created, name, version); each order is the exact reverse of the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Order {
    /// The latest first.
    #[default]
    NewestFirst,
    /// The earliest first. A row that is written later with an earlier time is missed by a cursor that has passed that time.
    OldestFirst,
}

/// The end of a page: the key of its last row in the listing's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The last row's time.
    pub created: Timestamp,
    /// The last row's key.
    pub id: PublicationId,
}

/// A value bound to a condition.
pub(crate) enum Bound<'a> {
    Text(&'a str),
    Time(Timestamp),
}

/// The SQL of a listing over `publication AS p`, with the placeholders `$1`, `$2`, … of its values. Both databases parse it.
pub(crate) fn listing<'a>(
    columns: &str,
    filter: &'a Filter,
    after: Option<&'a Cursor>,
    first: u32,
) -> (String, Vec<Bound<'a>>) {
    let mut values = Vec::new();
    let mut conditions = Vec::new();
    let mut compare = |condition: &str, value| {
        values.push(value);
        conditions.push(format!("{condition} ${}", values.len()));
    };
    filter.name.iter().for_each(|name| compare("p.name =", Bound::Text(name.as_str())));
    filter.username.iter().for_each(|name| compare("p.username =", Bound::Text(name.as_str())));
    filter.created_after.iter().for_each(|&time| compare("p.created >", Bound::Time(time)));
    filter.created_before.iter().for_each(|&time| compare("p.created <", Bound::Time(time)));
    let (behind, direction) = match filter.order {
        Order::NewestFirst => ('<', "DESC"),
        Order::OldestFirst => ('>', "ASC"),
    };
    if let Some(Cursor { created, id }) = after {
        // The row comparison implies this plain bound, which lets the database use the index on `created`.
        compare(&format!("p.created {behind}="), Bound::Time(*created));
        let at = values.len();
        values.push(Bound::Text(id.name.as_str()));
        values.push(Bound::Text(id.version.as_str()));
        conditions.push(format!(
            "(p.created, p.name, p.version) {behind} (${at}, ${}, ${})",
            at + 1,
            at + 2
        ));
    }
    let flags = [
        filter.tor.map(|flag| flag_condition(flag, ["p.tor", "NOT p.tor", "p.tor IS NULL"])),
        filter.tfa.map(|flag| flag_condition(flag, ["p.tfa", "NOT p.tfa", "p.tfa IS NULL"])),
        filter.disputed.map(|disputed| if disputed { "p.disputed" } else { "NOT p.disputed" }),
    ];
    conditions.extend(flags.into_iter().flatten().map(str::to_owned));
    let condition =
        if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
    let sql = format!(
        "SELECT {columns} FROM publication AS p WHERE {condition} \
         ORDER BY p.created {direction}, p.name {direction}, p.version {direction} LIMIT {first}"
    );
    (sql, values)
}

fn flag_condition(flag: Flag, [yes, no, unknown]: [&'static str; 3]) -> &'static str {
    match flag {
        Flag::Yes => yes,
        Flag::No => no,
        Flag::Unknown => unknown,
    }
}
