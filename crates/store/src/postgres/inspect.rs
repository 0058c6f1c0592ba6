//! Looks for database objects that this program cannot work with.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use crate::Error;
use crate::columns::{COLUMNS, Column, Kind};

/// The SQL of the oid of `publication` and of each of its partitions, for `WITH RECURSIVE partitions AS (…)`. It waits for no lock
/// on them, unlike `pg_partition_tree`.
pub(super) const PARTITIONS: &str = "SELECT to_regclass('publication')::oid AS relid UNION ALL \
    SELECT inhrelid FROM pg_inherits JOIN partitions ON inhparent = relid";

/// Refuses, by name, objects that would cause a silent failure later:
///
/// - a table with rules, which `COPY` bypasses;
/// - unlogged tables, which a crash empties;
/// - a database whose table is in another schema than the configured one;
/// - a table without its unique index, such as of a restored dump, in which `COPY` would write rows twice;
/// - hash partitions that are not complete, so that some rows have none;
/// - a column of a type that changes values, or under whose collation different values are equal; a key column whose
///   collation is not bytewise, as pages and searches compare.
///
/// # Errors
/// [`Error::Fatal`] with the object's name.
pub(crate) async fn inspect(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    let sql = format!(
        "WITH RECURSIVE partitions AS ({PARTITIONS}) \
         SELECT ({RULES}), ({UNLOGGED}), ({SCHEMAS}), ({INCOMPLETE}), ({}), ({KEYLESS})",
        misfits(&COLUMNS)
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(schema)
        .persistent(false)
        .fetch_one(connection)
        .await?;
    problem(&found, schema)?.map_or(Ok(()), |problem| Err(Error::fatal(problem)))
}

const RULES: &str = "SELECT string_agg(rulename::text, ', ' ORDER BY rulename) FROM pg_rules \
    WHERE schemaname = $1 AND tablename = 'publication'";

const UNLOGGED: &str = "SELECT string_agg(relname::text, ', ' ORDER BY relname) FROM pg_class \
    WHERE relpersistence = 'u' AND (oid IN (SELECT relid FROM partitions) OR oid = to_regclass('ingest_position')::oid)";

const SCHEMAS: &str = "SELECT array_agg(n.nspname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'event_identity' \
    WHERE c.relname = 'publication' AND c.relkind IN ('r', 'p')";

/// Partitions with the moduli m are complete if the sum of 1/m is 1. PostgreSQL's function that shows a bound waits for a lock.
const INCOMPLETE: &str = "SELECT string_agg(relname, ', ' ORDER BY relname) FROM ( \
    SELECT whole.relname::text FROM partitions \
    JOIN pg_partitioned_table ON partrelid = relid AND partstrat = 'h' JOIN pg_class AS whole ON whole.oid = relid \
    LEFT JOIN pg_inherits ON inhparent = relid LEFT JOIN pg_class AS part ON part.oid = inhrelid \
    GROUP BY whole.oid, whole.relname \
    HAVING coalesce(sum(1 / substring(part.relpartbound::text FROM ':modulus ([0-9]+)')::numeric), 0) < 0.999999999 \
    ) AS incomplete";

/// The index of a partitioned table is valid if each partition has its own. `to_regclass` finds what was committed since the
/// statement began, for example by the migration of another process; only a table of the statement's own snapshot counts, as
/// its index is looked for there.
const KEYLESS: &str = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('publication')) \
    AND NOT EXISTS (SELECT FROM pg_index \
    WHERE indrelid = to_regclass('publication') AND indisunique AND indisvalid AND indimmediate \
    AND indpred IS NULL AND indnkeyatts = 2 AND (SELECT count(*) = 2 FROM pg_attribute \
    WHERE attrelid = indrelid AND attnum IN (indkey[0], indkey[1]) AND attname IN ('name', 'version')))";

/// The SQL of the collations, and whether each is bytewise; `default` is the database's.
const COLLATIONS: &str = "SELECT pg_collation.oid, collname, collisdeterministic, \
        provider = 'b' OR provider = 'c' AND locale IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8') AS is_bytewise \
    FROM pg_collation, pg_database, LATERAL (SELECT \
        CASE collprovider WHEN 'd' THEN datlocprovider ELSE collprovider END, \
        CASE collprovider WHEN 'd' THEN datcollate ELSE collcollate END) AS own (provider, locale) \
    WHERE datname = current_database()";

/// Whether the collation serves the column; merges compare the other columns bytewise whatever theirs is.
const FITS: &str = "coalesce(CASE WHEN attribute IN ('name', 'version') THEN is_bytewise ELSE collisdeterministic END, true)";

/// The SQL of those of the columns that do not keep what is written to them, or compare it in another way.
pub(super) fn misfits(columns: &[Column]) -> String {
    let types: Vec<String> =
        columns.iter().map(|it| format!("('{}', '{}')", it.name, types(it.kind))).collect();
    // The lengths of varchar and the digits of a time are those of the column or of its domain; -1 is no limit.
    format!(
        "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)) || coalesce(' COLLATE ' || \
             CASE WHEN NOT {FITS} THEN quote_ident(collname) END, ''), ', ' ORDER BY attname) \
         FROM (VALUES {}) AS wanted (attribute, types) \
         JOIN pg_attribute ON attname = attribute AND attrelid = to_regclass('publication') AND NOT attisdropped \
         JOIN pg_type AS own ON own.oid = atttypid \
         JOIN pg_type AS base ON base.oid = CASE own.typtype WHEN 'd' THEN own.typbasetype ELSE own.oid END \
         LEFT JOIN ({COLLATIONS}) AS ordering ON ordering.oid = attcollation \
         WHERE base.typtype <> 'd' AND NOT base.typname = ANY(string_to_array(types, ' ')) OR NOT {FITS} \
             OR base.typname = 'timestamptz' AND greatest(atttypmod, own.typtypmod) NOT IN (-1, 6)",
        types.join(", ")
    )
}

/// The types that keep a column's values.
const fn types(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text varchar",
        Kind::Time => "timestamptz",
        Kind::Flag => "bool",
        Kind::Word(words, _) => words,
        Kind::Number => "int4",
        Kind::Bytes => "bytea",
    }
}

/// The first problem among what was found.
fn problem(found: &PgRow, schema: &str) -> Result<Option<String>, Error> {
    if let Some(rules) = found.try_get::<Option<&str>, _>(0)? {
        return Ok(Some(format!(
            "the table publication has rules ({rules}), which rows by COPY pass by: drop them, or make triggers of them"
        )));
    }
    if let Some(tables) = found.try_get::<Option<&str>, _>(1)? {
        return Ok(Some(format!(
            "unlogged are {tables}, which a crash empties: ALTER TABLE … SET LOGGED"
        )));
    }
    let schemas: Vec<String> = found.try_get::<Option<_>, _>(2)?.unwrap_or_default();
    if !schemas.is_empty() && schemas.iter().all(|found| found != schema) {
        return Ok(Some(format!(
            "the table publication is in schema {}, and store.schema is {schema}: name the one that holds the rows",
            schemas.join(", ")
        )));
    }
    if let Some(tables) = found.try_get::<Option<&str>, _>(3)? {
        return Ok(Some(format!(
            "a hash partition is missing from {tables}, so that some rows have none: ATTACH PARTITION"
        )));
    }
    if let Some(columns) = found.try_get::<Option<&str>, _>(4)? {
        return Ok(Some(format!(
            "columns of the table publication do not keep what is written to them, or are not compared bytewise (COLLATE \"C\"): {columns}"
        )));
    }
    Ok(found.try_get::<bool, _>(5)?.then(|| {
        "the table publication has no valid unique index on (name, version), without which rows are written twice: \
         ALTER TABLE publication ADD PRIMARY KEY (name, version)"
            .into()
    }))
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    #[tokio::test]
    async fn a_table_that_is_created_meanwhile_is_not_refused() {
        let url = testkit::postgres().database().await.url;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let mut other = PgConnection::connect(&url).await.unwrap();
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1";
        sqlx::raw_sql(begin).execute(&mut connection).await.unwrap();
        crate::postgres::MIGRATOR.run(&mut other).await.unwrap();
        inspect(&mut connection, "public").await.unwrap();
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
        inspect(&mut connection, "public").await.unwrap();
        let drop = "ALTER TABLE publication DROP CONSTRAINT publication_pkey";
        sqlx::raw_sql(drop).execute(&mut other).await.unwrap();
        let error = inspect(&mut connection, "public").await.unwrap_err();
        assert!(error.to_string().contains("no valid unique index"), "{error}");
    }

    #[tokio::test]
    async fn an_unlogged_partition_of_a_partition_is_refused_by_name() {
        let url = testkit::postgres().database().await.url;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let tables =
            "CREATE TABLE publication (name text COLLATE \"C\", version text COLLATE \"C\", event_identity bytea,
                PRIMARY KEY (name, version)) PARTITION BY HASH (name);
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
