//! Values in PostgreSQL's binary protocol.

use model::{ColumnValue, Timestamp};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// PostgreSQL counts microseconds from 2000-01-01T00:00:00Z (its documentation, "Date/Time Types").
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The encoding of a word of an enumeration.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    /// The word itself, for a column of the enumeration's type.
    Text,
    /// The word's index in the enumeration, as an `int2`.
    Place,
}

/// A [`Timestamp`] as `timestamptz`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Timestamp);

impl Time {
    /// Microseconds since PostgreSQL's epoch, big endian.
    fn to_wire(self) -> [u8; 8] {
        self.0.as_micros().saturating_sub(EPOCH_MICROS).to_be_bytes()
    }

    /// The inverse of [`Time::to_wire`].
    pub(super) fn from_wire(bytes: [u8; 8]) -> Self {
        Self(Timestamp::from_micros(i64::from_be_bytes(bytes).saturating_add(EPOCH_MICROS)))
    }
}

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184)) // timestamptz, fixed in PostgreSQL's catalogue
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(&self.to_wire());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        Ok(Self::from_wire(bytes))
    }
}

/// Adds a column's value as a field; encodes a word of an enumeration as `word` says.
pub(super) fn column(buffer: &mut Vec<u8>, value: ColumnValue<'_>, word: Word) {
    match value {
        ColumnValue::Text(Some(text)) => field(buffer, text.as_bytes()),
        ColumnValue::Time(Some(time)) => field(buffer, &Time(time).to_wire()),
        ColumnValue::Flag(Some(flag)) => field(buffer, &[flag.into()]),
        ColumnValue::Word(text, place) => match word {
            Word::Text => field(buffer, text.as_bytes()),
            Word::Place => field(buffer, &i16::from(place).to_be_bytes()),
        },
        ColumnValue::Number(number) => field(buffer, &number.to_be_bytes()),
        ColumnValue::Bytes(bytes) => field(buffer, bytes),
        // A null's length is -1.
        ColumnValue::Text(None) | ColumnValue::Time(None) | ColumnValue::Flag(None) => {
            buffer.extend_from_slice(&(-1_i32).to_be_bytes());
        }
    }
}

/// Adds a field in PostgreSQL's binary format: its length, then its bytes.
fn field(buffer: &mut Vec<u8>, bytes: &[u8]) {
    // No value of a row is longer than 1,024 bytes (crates/model/README.md, Publish event).
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(bytes);
}
