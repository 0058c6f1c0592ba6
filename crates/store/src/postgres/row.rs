//! A publication as a value of the type `publication_record` (migration 0004), which the upsert takes an array of.

use model::Publication;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use super::values::{Time, field, null};
use crate::columns::{COUNT, Value, values};

const TYPE: &str = "publication_record";
const FIELDS: i32 = COUNT as i32;

// Types' numbers, fixed in PostgreSQL's catalogue (`pg_type.dat`).
const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const TIMESTAMPTZ: u32 = 1184;

/// A row to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'r>(pub(super) &'r Publication);

impl Type<Postgres> for Row<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name(TYPE)
    }
}

impl PgHasArrayType for Row<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of(TYPE)
    }
}

impl Encode<'_, Postgres> for Row<'_> {
    /// The format that PostgreSQL's `record_recv` reads: how many fields, then for each its type, its length and its bytes.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&FIELDS.to_be_bytes());
        for value in values(self.0) {
            let kind = match value {
                Value::Text(_) => TEXT,
                Value::Time(_) => TIMESTAMPTZ,
                Value::Flag(_) => BOOL,
                Value::Word(..) => INT2,
                Value::Number(_) => INT4,
                Value::Bytes(_) => BYTEA,
            };
            buffer.extend_from_slice(&kind.to_be_bytes());
            match value {
                Value::Text(Some(text)) => field(buffer, text.as_bytes()),
                Value::Time(Some(time)) => field(buffer, &Time(time).to_wire()),
                Value::Flag(Some(flag)) => field(buffer, &[flag.into()]),
                Value::Word(_, place) => field(buffer, &i16::from(place).to_be_bytes()),
                Value::Number(number) => field(buffer, &number.to_be_bytes()),
                Value::Bytes(bytes) => field(buffer, bytes),
                Value::Text(None) | Value::Time(None) | Value::Flag(None) => null(buffer),
            }
        }
        Ok(IsNull::No)
    }
}
