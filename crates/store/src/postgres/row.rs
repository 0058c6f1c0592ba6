//! A publication as a value of the type `publication_record` (migration 0004), of which the upsert takes an array.

use model::{COLUMN_COUNT, ColumnValue, Publication};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use super::values::{Word, column};

const TYPE: &str = "publication_record";
const FIELDS: i32 = 17;
const _: () = assert!(FIELDS as usize == COLUMN_COUNT);

// Type OIDs, fixed in PostgreSQL's catalogue (`pg_type.dat`).
const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const TIMESTAMPTZ: u32 = 1184;

/// A row to be written.
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
    /// The format that PostgreSQL's `record_recv` reads: the number of fields, then for each its type, its length and
    /// its bytes.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&FIELDS.to_be_bytes());
        for value in self.0.columns() {
            let kind = match value {
                ColumnValue::Text(_) => TEXT,
                ColumnValue::Time(_) => TIMESTAMPTZ,
                ColumnValue::Flag(_) => BOOL,
                ColumnValue::Word(..) => INT2,
                ColumnValue::Number(_) => INT4,
                ColumnValue::Bytes(_) => BYTEA,
            };
            buffer.extend_from_slice(&kind.to_be_bytes());
            column(buffer, value, Word::Place);
        }
        Ok(IsNull::No)
    }
}
