//! A publication as a value of the type `publication_row` (migration 0003), which the upsert takes an array of.

use model::{Publication, Username};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use super::values::Time;

const TYPE: &str = "publication_row";
const FIELDS: i32 = 16;

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
        let (row, info) = (self.0, &self.0.info);
        let flag = |flag: bool| [u8::from(flag)];
        let word = |number: i16| number.to_be_bytes();
        buffer.extend_from_slice(&FIELDS.to_be_bytes());
        field(buffer, TEXT, row.id.name.as_str().as_bytes());
        field(buffer, TEXT, row.id.version.as_str().as_bytes());
        optional(buffer, TEXT, info.username.as_ref().map(Username::as_str));
        field(buffer, TIMESTAMPTZ, &Time(info.created).to_wire());
        optional(buffer, BOOL, info.tor.map(flag));
        optional(buffer, BOOL, info.tfa.map(flag));
        field(buffer, INT2, &word(info.tor_reason as i16));
        field(buffer, INT2, &word(info.tfa_reason as i16));
        optional(buffer, TIMESTAMPTZ, row.tor_evidence_until.map(|time| Time(time).to_wire()));
        field(buffer, BOOL, &flag(info.tor_settled));
        field(buffer, INT2, &word(info.credential as i16));
        field(buffer, INT2, &word(info.actor as i16));
        field(buffer, INT4, &row.revision.to_be_bytes());
        field(buffer, INT4, &row.generation.to_be_bytes());
        field(buffer, BYTEA, &row.identity.0);
        field(buffer, BOOL, &flag(info.disputed));
        Ok(IsNull::No)
    }
}

fn field(buffer: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    buffer.extend_from_slice(&kind.to_be_bytes());
    super::values::field(buffer, bytes);
}

fn optional(buffer: &mut Vec<u8>, kind: u32, bytes: Option<impl AsRef<[u8]>>) {
    buffer.extend_from_slice(&kind.to_be_bytes());
    super::values::optional(buffer, bytes);
}
