//! Reads all rows of packages, for their histories. Each package is one result row, in which the values of a column are
//! joined: a protocol message for each version, or an array element for each value, would take most of the time.

use futures_util::TryStreamExt;
use model::{PackageName, Past, PublishMethod};
use sqlx::postgres::{PgConnection, PgRow};

use super::lookup::value;
use super::values::Time;
use crate::{EachPackage, Error, RowsRead};

/// No version and no user name has a control character, so a line feed can separate them, and a tab can stand for a null.
/// The method is one letter per row; [`method`] reads it. All aggregates see the rows in the same order, whatever it is.
const SQL: &str = "SELECT i.name, h.versions, h.usernames, h.created, h.methods \
    FROM unnest($1::text[]) WITH ORDINALITY AS i(name, place) CROSS JOIN LATERAL ( \
        SELECT string_agg(version, E'\\n') AS versions, \
            string_agg(coalesce(username, E'\\t'), E'\\n') AS usernames, \
            string_agg(timestamptz_send(created), NULL) AS created, \
            string_agg(CASE WHEN tfa THEN 's' WHEN credential = 'oidc' THEN 'o' WHEN NOT tfa THEN 'f' ELSE 'u' END, NULL) \
                AS methods \
        FROM (SELECT version, username, created, tfa, credential FROM publication AS p \
            WHERE p.name = i.name LIMIT $2) AS p \
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
        let Some((name, past)) = package(&row).map_err(Ended::Row)? else { continue };
        if rows + past.len() as u64 > limit {
            return Err(Ended::Limit(RowsRead { rows, is_complete: false }));
        }
        rows += past.len() as u64;
        each(&name, &past);
    }
    Ok(RowsRead { rows, is_complete: true })
}

/// A package and its rows, from a row of the result; `None` for a package without rows.
fn package(row: &PgRow) -> Result<Option<(PackageName, Vec<Past<'_>>)>, Error> {
    // No rows: the aggregates are null.
    let Some(versions): Option<&str> = value(row, 1)? else { return Ok(None) };
    let (name, usernames, methods): (&str, &str, &str) =
        (value(row, 0)?, value(row, 2)?, value(row, 4)?);
    let created: &[u8] = value(row, 3)?;
    let (created, rest) = created.as_chunks();
    let (mut versions, mut usernames) = (versions.split('\n'), usernames.split('\n'));
    let mut past = Vec::with_capacity(methods.len());
    for (created, method) in created.iter().zip(methods.bytes()) {
        let (version, username) =
            versions.next().zip(usernames.next()).ok_or_else(Error::inconsistent)?;
        let username = (username != "\t").then_some(username);
        let (created, method) = (Time::from_wire(*created).0, self::method(method)?);
        past.push(Past::new(version, created, method, username)?);
    }
    let is_whole = rest.is_empty() && created.len() == methods.len();
    if !is_whole || versions.next().is_some() || usernames.next().is_some() {
        return Err(Error::inconsistent());
    }
    Ok(Some((PackageName::new(name)?, past)))
}

/// The method for a letter of the statement, which computes [`PublishMethod::of`] in SQL.
fn method(letter: u8) -> Result<PublishMethod, Error> {
    Ok(match letter {
        b's' => PublishMethod::SecondFactor,
        b'o' => PublishMethod::TrustedPublisher,
        b'f' => PublishMethod::SingleFactor,
        b'u' => PublishMethod::Unknown,
        _ => return Err(Error::inconsistent()),
    })
}
