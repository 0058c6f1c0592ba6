//! The columns of a row in the databases: their types, and a publication from a row's values.

use model::{
    Actor, COLUMN_COUNT, Credential, EventIdentity, Integrity, Publication, PublicationId,
    PublicationInfo, TfaReason, Timestamp, TorReason, Username,
};

use crate::Error;

/// The type of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Time,
    Flag,
    /// A word of an enumeration: the name of PostgreSQL's type, and a function that lists all its words in order.
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

fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> String {
    all.iter().map(|&value| word(value)).collect::<Vec<_>>().join(",")
}

/// The number of key columns, which come first.
pub(crate) const KEY: usize = 2;

const KINDS: [Kind; COLUMN_COUNT] = [
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Time,
    Kind::Flag,
    Kind::Flag,
    Kind::Word("tor_reason", || words(TorReason::ALL, TorReason::as_str)),
    Kind::Word("tfa_reason", || words(TfaReason::ALL, TfaReason::as_str)),
    Kind::Time,
    Kind::Flag,
    Kind::Word("publication_credential", || words(Credential::ALL, Credential::as_str)),
    Kind::Word("publication_actor", || words(Actor::ALL, Actor::as_str)),
    Kind::Number,
    Kind::Number,
    Kind::Bytes,
    Kind::Flag,
    Kind::Text,
];

/// The columns, in the order of [`Publication::columns`] and of [`publication`].
pub(crate) const COLUMNS: [Column; COLUMN_COUNT] = {
    let mut columns = [Column { name: "", kind: Kind::Text }; COLUMN_COUNT];
    let mut at = 0;
    while at < COLUMN_COUNT {
        columns[at] = Column { name: model::COLUMNS[at], kind: KINDS[at] };
        at += 1;
    }
    columns
};

/// The columns, separated by commas, each as formatted by `write`.
pub(crate) fn list(columns: &[Column], write: impl Fn(&Column) -> String) -> String {
    columns.iter().map(write).collect::<Vec<_>>().join(", ")
}

/// The columns' names.
pub(crate) fn names() -> String {
    list(&COLUMNS, |column| column.name.to_owned())
}

/// A row of a result. Columns count from 0, in the order of [`COLUMNS`].
pub(crate) trait Source {
    fn text(&self, column: usize) -> Result<Option<&str>, Error>;
    fn time(&self, column: usize) -> Result<Option<Timestamp>, Error>;
    fn flag(&self, column: usize) -> Result<Option<bool>, Error>;
    fn number(&self, column: usize) -> Result<u32, Error>;
    fn bytes(&self, column: usize) -> Result<&[u8], Error>;
}

/// The publication with the key `id`, from a row. An error names the row, so that an operator finds it.
pub(crate) fn publication(source: &impl Source, id: PublicationId) -> Result<Publication, Error> {
    let read = || {
        let name = source.text(2)?.map(Username::new).transpose()?;
        let identity = source.bytes(14)?.try_into().map_err(|_| null(14))?;
        let info = PublicationInfo {
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
            integrity: source.text(16)?.map(Integrity::new).transpose()?,
        };
        let [revision, generation] = [source.number(12)?, source.number(13)?];
        Ok((info, source.time(8)?, revision, generation, EventIdentity(identity)))
    };
    let read = read().map_err(|error| of_row(error, id.name.as_str(), id.version.as_str()));
    let (info, tor_evidence_until, revision, generation, identity) = read?;
    Ok(Publication { id, info, tor_evidence_until, revision, generation, identity })
}

/// Adds a row's key to an error.
pub(crate) fn of_row(error: Error, name: &str, version: &str) -> Error {
    error.within(&format!("the row of {name:?} {version:?}"))
}

/// The key of a row.
pub(crate) fn id(source: &impl Source) -> Result<PublicationId, Error> {
    let (name, version) = (there(source.text(0)?, 0)?, there(source.text(1)?, 1)?);
    Ok(PublicationId::new(name, version)?)
}

fn there<T>(value: Option<T>, column: usize) -> Result<T, Error> {
    value.ok_or_else(|| null(column))
}

fn null(column: usize) -> Error {
    let name = COLUMNS[column].name;
    Error::fatal(format!("a row's {name} holds what no event can have"))
}

#[cfg(test)]
mod tests {
    use model::ColumnValue;

    use super::*;
    use crate::suite::row;

    #[test]
    fn each_value_is_of_its_columns_kind() {
        for (column, value) in COLUMNS.iter().zip(row("a", 1).columns()) {
            let fits = matches!(
                (column.kind, value),
                (Kind::Text, ColumnValue::Text(_))
                    | (Kind::Time, ColumnValue::Time(_))
                    | (Kind::Flag, ColumnValue::Flag(_))
                    | (Kind::Word(..), ColumnValue::Word(..))
                    | (Kind::Number, ColumnValue::Number(_))
                    | (Kind::Bytes, ColumnValue::Bytes(_))
            );
            assert!(fits, "{}: {value:?}", column.name);
        }
    }
}
