//! The columns of a row, once for both databases and for both ways.

use model::{
    Actor, Credential, EventIdentity, Integrity, InvalidName, PackageName, Publication,
    PublicationId, PublicationInfo, TfaReason, Timestamp, TorReason, Username,
};

use crate::Error;

/// What a column holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Time,
    Flag,
    /// A word of an enumeration: PostgreSQL's name of it, and all its words in their order.
    Word(&'static str, fn() -> String),
    Number,
    Bytes,
}

/// A column of `publication`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> String {
    all.iter().map(|&value| word(value)).collect::<Vec<_>>().join(",")
}

/// The key's columns, which stand first.
pub(crate) const KEY: usize = 2;

/// How many columns a row has.
pub(crate) const COUNT: usize = 17;

/// The columns, in the order of [`values`] and [`publication`].
pub(crate) const COLUMNS: [Column; COUNT] = [
    column("name", Kind::Text),
    column("version", Kind::Text),
    column("username", Kind::Text),
    column("created", Kind::Time),
    column("tor", Kind::Flag),
    column("tfa", Kind::Flag),
    column("tor_reason", Kind::Word("tor_reason", || words(TorReason::ALL, TorReason::as_str))),
    column("tfa_reason", Kind::Word("tfa_reason", || words(TfaReason::ALL, TfaReason::as_str))),
    column("tor_evidence_until", Kind::Time),
    column("tor_settled", Kind::Flag),
    column(
        "credential",
        Kind::Word("publication_credential", || words(Credential::ALL, Credential::as_str)),
    ),
    column("actor", Kind::Word("publication_actor", || words(Actor::ALL, Actor::as_str))),
    column("revision", Kind::Number),
    column("generation", Kind::Number),
    column("event_identity", Kind::Bytes),
    column("disputed", Kind::Flag),
    column("integrity", Kind::Text),
];

/// The columns' names, separated by commas, each as `write` has it.
pub(crate) fn list(columns: &[Column], write: impl Fn(&Column) -> String) -> String {
    columns.iter().map(write).collect::<Vec<_>>().join(", ")
}

/// The columns' names.
pub(crate) fn names() -> String {
    list(&COLUMNS, |column| column.name.to_owned())
}

/// A value of a row on its way into the database.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'r> {
    Text(Option<&'r str>),
    Time(Option<Timestamp>),
    Flag(Option<bool>),
    /// A word, and its place in its enumeration.
    Word(&'static str, u8),
    Number(u32),
    Bytes(&'r [u8]),
}

/// The values of a row.
pub(crate) fn values(row: &Publication) -> [Value<'_>; COUNT] {
    let info = &row.info;
    [
        Value::Text(Some(row.id.name.as_str())),
        Value::Text(Some(row.id.version.as_str())),
        Value::Text(info.username.as_ref().map(Username::as_str)),
        Value::Time(Some(info.created)),
        Value::Flag(info.tor),
        Value::Flag(info.tfa),
        Value::Word(info.tor_reason.as_str(), info.tor_reason as u8),
        Value::Word(info.tfa_reason.as_str(), info.tfa_reason as u8),
        Value::Time(row.tor_evidence_until),
        Value::Flag(Some(info.tor_settled)),
        Value::Word(info.credential.as_str(), info.credential as u8),
        Value::Word(info.actor.as_str(), info.actor as u8),
        Value::Number(row.revision),
        Value::Number(row.generation),
        Value::Bytes(&row.identity.0),
        Value::Flag(Some(info.disputed)),
        Value::Text(info.integrity.as_ref().map(Integrity::as_str)),
    ]
}

/// A row of an answer. Columns count from 0, in the order of [`COLUMNS`].
pub(crate) trait Source {
    fn text(&self, column: usize) -> Result<Option<&str>, Error>;
    fn time(&self, column: usize) -> Result<Option<Timestamp>, Error>;
    fn flag(&self, column: usize) -> Result<Option<bool>, Error>;
    fn number(&self, column: usize) -> Result<u32, Error>;
    fn bytes(&self, column: usize) -> Result<&[u8], Error>;
}

/// The publication of that key, from a row.
pub(crate) fn publication(source: &impl Source, id: PublicationId) -> Result<Publication, Error> {
    let name = source.text(2)?.map(Username::new).transpose().map_err(inconsistent)?;
    let identity = source.bytes(14)?.try_into().map_err(|_| null(14))?;
    Ok(Publication {
        id,
        info: PublicationInfo {
            username: name,
            created: there(source.time(3)?, 3)?,
            tor: source.flag(4)?,
            tfa: source.flag(5)?,
            tor_reason: TorReason::parse(there(source.text(6)?, 6)?)?,
            tfa_reason: TfaReason::parse(there(source.text(7)?, 7)?)?,
            tor_settled: there(source.flag(9)?, 9)?,
            credential: Credential::parse(there(source.text(10)?, 10)?)?,
            actor: Actor::parse(there(source.text(11)?, 11)?)?,
            disputed: there(source.flag(15)?, 15)?,
            integrity: source.text(16)?.map(Integrity::new).transpose().map_err(inconsistent)?,
        },
        tor_evidence_until: source.time(8)?,
        revision: source.number(12)?,
        generation: source.number(13)?,
        identity: EventIdentity(identity),
    })
}

/// The name of a package, as a row has it.
pub(crate) fn name(text: &str) -> Result<PackageName, Error> {
    PackageName::new(text).map_err(inconsistent)
}

/// The key of a row.
pub(crate) fn id(source: &impl Source) -> Result<PublicationId, Error> {
    let (name, version) = (there(source.text(0)?, 0)?, there(source.text(1)?, 1)?);
    PublicationId::new(name, version).map_err(inconsistent)
}

fn there<T>(value: Option<T>, column: usize) -> Result<T, Error> {
    value.ok_or_else(|| null(column))
}

fn null(column: usize) -> Error {
    let name = COLUMNS[column].name;
    Error::fatal(format!("a row's {name} holds what no event can have"))
}

fn inconsistent(_: InvalidName) -> Error {
    Error::fatal("a row holds a value that no event can have")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::row;

    #[test]
    fn each_value_is_of_its_columns_kind() {
        for (column, value) in COLUMNS.iter().zip(values(&row("a", 1))) {
            let fits = matches!(
                (column.kind, value),
                (Kind::Text, Value::Text(_))
                    | (Kind::Time, Value::Time(_))
                    | (Kind::Flag, Value::Flag(_))
                    | (Kind::Word(..), Value::Word(..))
                    | (Kind::Number, Value::Number(_))
                    | (Kind::Bytes, Value::Bytes(_))
            );
            assert!(fits, "{}: {value:?}", column.name);
        }
    }
}
