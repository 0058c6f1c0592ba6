//! Reads all rows of packages, for their histories. Each package is one result row of arrays, because a protocol
//! message for each version would take most of the time.

use futures_util::TryStreamExt;
use model::{Credential, PackageName, Past, PublishMethod, Timestamp};
use sqlx::postgres::{PgConnection, PgRow, PgValueRef};
use sqlx::{Decode, Row};

use super::values::Time;
use crate::{EachPackage, Error, RowsRead};

const SQL: &str = "SELECT i.name, h.versions, h.created, h.tfa, h.oidc, h.usernames \
    FROM unnest($1::text[]) WITH ORDINALITY AS i(name, place) CROSS JOIN LATERAL ( \
        SELECT array_agg(version) AS versions, array_agg(created) AS created, array_agg(tfa) AS tfa, \
            array_agg(credential = 'oidc') AS oidc, array_agg(username) AS usernames \
        FROM (SELECT * FROM publication AS p WHERE p.name = i.name LIMIT $2) AS p \
    ) AS h ORDER BY i.place";

/// Why the read ended early.
pub(super) enum Ended {
    /// The session or the server failed.
    Database(sqlx::Error),
    /// A row has a value that no event can have produced.
    Row(Error),
    /// There are more rows than the limit.
    Limit(RowsRead),
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Passes the rows of each package to `each`. `names` are sorted and unique.
pub(super) async fn read(
    connection: &mut PgConnection,
    names: &[&str],
    limit: u64,
    each: EachPackage<'_>,
) -> Result<RowsRead, Ended> {
    // One row above the limit shows that there are more, and bounds the server's memory for a package.
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut packages = sqlx::query(SQL).bind(names).bind(most).fetch(connection);
    let mut rows = 0;
    while let Some(row) = packages.try_next().await? {
        let package = Package::of(&row).map_err(Ended::Row)?;
        let Some((name, past)) = package.past().map_err(Ended::Row)? else { continue };
        if rows + past.len() as u64 > limit {
            return Err(Ended::Limit(RowsRead { rows, is_complete: false }));
        }
        rows += past.len() as u64;
        each(&name, &past);
    }
    Ok(RowsRead { rows, is_complete: true })
}

/// A row of the result.
struct Package<'r> {
    name: &'r str,
    versions: Elements<'r>,
    created: Elements<'r>,
    tfa: Elements<'r>,
    oidc: Elements<'r>,
    usernames: Elements<'r>,
}

impl<'r> Package<'r> {
    fn of(row: &'r PgRow) -> Result<Self, Error> {
        let array = |column: usize| Elements::of(row.try_get_raw(column)?);
        Ok(Self {
            name: row.try_get_unchecked(0)?,
            versions: array(1)?,
            created: array(2)?,
            tfa: array(3)?,
            oidc: array(4)?,
            usernames: array(5)?,
        })
    }

    /// The package's rows; `None` for a package without rows.
    fn past(mut self) -> Result<Option<(PackageName, Vec<Past<'r>>)>, Error> {
        let mut past = Vec::with_capacity(self.versions.left);
        while let Some(version) = self.versions.next()? {
            let next = |array: &mut Elements<'r>| array.next().map(Option::flatten);
            let created = next(&mut self.created)?.and_then(|bytes| bytes.try_into().ok());
            let created = Time::from_wire(created.ok_or_else(inconsistent)?).0;
            let tfa = next(&mut self.tfa)?.map(|bytes| bytes == [1]);
            // The publish method needs this flag only; the credential's name would cost the server a look-up per row.
            let is_oidc = next(&mut self.oidc)?.ok_or_else(inconsistent)? == [1];
            let credential = if is_oidc { Credential::Oidc } else { Credential::Unknown };
            let username = text(next(&mut self.usernames)?)?;
            let version = text(version)?.ok_or_else(inconsistent)?;
            let method = PublishMethod::of(tfa, credential);
            past.push(row(version, created, method, username)?);
        }
        if past.is_empty() {
            return Ok(None);
        }
        Ok(Some((PackageName::new(self.name).map_err(|_| inconsistent())?, past)))
    }
}

fn row<'r>(
    version: &'r str,
    created: Timestamp,
    method: PublishMethod,
    username: Option<&'r str>,
) -> Result<Past<'r>, Error> {
    Past::new(version, created, method, username).map_err(|_| inconsistent())
}

fn text(bytes: Option<&[u8]>) -> Result<Option<&str>, Error> {
    bytes.map(std::str::from_utf8).transpose().map_err(|_| inconsistent())
}

fn inconsistent() -> Error {
    Error::fatal("a row holds a value that no event can have")
}

/// The elements of an array in PostgreSQL's binary format (`array_send`): the number of dimensions, a flag for nulls,
/// the element type; a length and a lower bound for each dimension; then each element as a field.
struct Elements<'r> {
    bytes: &'r [u8],
    left: usize,
}

impl<'r> Elements<'r> {
    fn of(value: PgValueRef<'r>) -> Result<Self, Error> {
        // A package without rows has null instead of an array.
        if sqlx::ValueRef::is_null(&value) {
            return Ok(Self { bytes: &[], left: 0 });
        }
        let bytes = <&[u8] as Decode<sqlx::Postgres>>::decode(value).map_err(|_| inconsistent())?;
        let mut array = Self { bytes, left: 0 };
        let dimensions = array.number()?;
        array.number()?;
        array.number()?;
        if dimensions == 1 {
            array.left = usize::try_from(array.number()?).map_err(|_| inconsistent())?;
            array.number()?;
        }
        Ok(array)
    }

    /// The next element, which may be null; `None` after the last.
    fn next(&mut self) -> Result<Option<Option<&'r [u8]>>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        // A length of -1 is null.
        let Ok(length) = usize::try_from(self.number()?) else { return Ok(Some(None)) };
        let (element, rest) = self.bytes.split_at_checked(length).ok_or_else(inconsistent)?;
        self.bytes = rest;
        Ok(Some(Some(element)))
    }

    fn number(&mut self) -> Result<i32, Error> {
        let (number, rest) = self.bytes.split_first_chunk().ok_or_else(inconsistent)?;
        self.bytes = rest;
        Ok(i32::from_be_bytes(*number))
    }
}
