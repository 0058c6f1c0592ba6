//! Checks, when a daemon starts, for database objects that this program cannot work with.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use crate::Error;

/// Refuses, by name, objects that would cause a silent failure later: a table with rules, which `COPY` bypasses;
/// unlogged tables, which a crash empties; and a database whose table is in another schema than the configured one.
///
/// # Errors
/// [`Error::Fatal`] with the object's name.
pub(crate) async fn inspect(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    let rules = "SELECT string_agg(rulename::text, ', ' ORDER BY rulename) FROM pg_rules \
                 WHERE schemaname = $1 AND tablename = 'publication'";
    let rules: Option<String> =
        sqlx::query_scalar(rules).bind(schema).fetch_one(&mut *connection).await?;
    if let Some(rules) = rules {
        return Err(Error::fatal(format!(
            "the table publication has rules ({rules}), which rows by COPY pass by: drop them, or make triggers of them"
        )));
    }
    let unlogged = "SELECT string_agg(c.relname::text, ', ' ORDER BY c.relname) FROM pg_class c \
                    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relpersistence = 'u' \
                    AND (c.relname IN ('publication', 'ingest_position') OR c.oid IN \
                    (SELECT relid FROM pg_partition_tree(to_regclass(format('%I.publication', $1)))))";
    let unlogged: Option<String> =
        sqlx::query_scalar(unlogged).bind(schema).fetch_one(&mut *connection).await?;
    if let Some(tables) = unlogged {
        return Err(Error::fatal(format!(
            "unlogged are {tables}, which a crash empties: ALTER TABLE … SET LOGGED"
        )));
    }
    let elsewhere = "SELECT array_agg(n.nspname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'event_identity' \
                     WHERE c.relname = 'publication' AND c.relkind IN ('r', 'p')";
    let schemas: Option<Vec<String>> =
        sqlx::query(AssertSqlSafe(elsewhere)).fetch_one(&mut *connection).await?.try_get(0)?;
    let schemas = schemas.unwrap_or_default();
    if schemas.is_empty() || schemas.iter().any(|found| found == schema) {
        return Ok(());
    }
    Err(Error::fatal(format!(
        "the table publication is in schema {}, and store.schema is {schema}: name the one that holds the rows",
        schemas.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    #[tokio::test]
    async fn an_unlogged_partition_of_a_partition_is_refused_by_name() {
        let url = testkit::postgres().database().await.url;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let tables =
            "CREATE TABLE publication (name text, event_identity bytea) PARTITION BY HASH (name);
            CREATE TABLE whole PARTITION OF publication FOR VALUES WITH (MODULUS 1, REMAINDER 0)
                PARTITION BY LIST (name);
            CREATE TABLE rest PARTITION OF whole DEFAULT";
        sqlx::raw_sql(tables).execute(&mut connection).await.unwrap();
        inspect(&mut connection, "public").await.unwrap();
        sqlx::raw_sql("ALTER TABLE rest SET UNLOGGED").execute(&mut connection).await.unwrap();
        let error = inspect(&mut connection, "public").await.unwrap_err();
        assert!(error.to_string().contains("unlogged are rest,"), "{error}");
    }
}
