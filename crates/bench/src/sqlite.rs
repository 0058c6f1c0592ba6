//! SQLite alone: the ingester's rows are inserted again by the C library, with one prepared statement.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

/// Rows per transaction, as in the ingester: `batch.max_rows` times `batch.in_flight`.
const TRANSACTION: usize = 20_000;

/// SQLite's version.
pub(crate) fn version() -> &'static str {
    rusqlite::version()
}

/// Copies the rows of the database `from` into a new one with the same schema. Returns rows per second.
pub(crate) fn bare_insert(from: &Path) -> Result<f64> {
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let target = Connection::open(from.with_extension("bare"))?;
    // As durable as the ingester's connection.
    target.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 32768",
    )?;
    let mut schema = source
        .prepare("SELECT sql FROM sqlite_schema WHERE tbl_name = 'publication' AND sql IS NOT NULL ORDER BY type DESC")?;
    for sql in schema.query_map([], |row| row.get::<_, String>(0))? {
        target.execute_batch(&sql?)?;
    }
    let rows = rows(&source)?;
    let columns = rows.first().map_or(0, Vec::len);
    let insert = format!("INSERT INTO publication VALUES ({})", vec!["?"; columns].join(", "));
    let mut statement = target.prepare(&insert)?;
    let began = Instant::now();
    for some in rows.chunks(TRANSACTION) {
        target.execute_batch("BEGIN IMMEDIATE")?;
        for row in some {
            statement.execute(params_from_iter(row))?;
        }
        target.execute_batch("COMMIT")?;
    }
    Ok(rows.len() as f64 / began.elapsed().as_secs_f64())
}

/// All rows in the order of their events, and within a transaction sorted by key, as the ingester writes them.
fn rows(source: &Connection) -> Result<Vec<Vec<Value>>> {
    let mut all = source.prepare("SELECT * FROM publication ORDER BY created")?;
    let columns = all.column_count();
    let rows = all.query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?;
    let mut rows: Vec<Vec<Value>> = rows.collect::<Result<_, _>>()?;
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        _ => String::new(),
    };
    for some in rows.chunks_mut(TRANSACTION) {
        some.sort_by_cached_key(|row| (text(&row[0]), text(&row[1])));
    }
    Ok(rows)
}
