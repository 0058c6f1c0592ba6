//! Writes on one connection, with one transaction per batch, and one prepared statement each for new and for existing rows.

use std::borrow::Cow;

use async_trait::async_trait;
use model::{COLUMN_COUNT, ColumnValue, Publication, Timestamp, merge_all};
use rusqlite::{Connection, OptionalExtension, Statement, Transaction, TransactionBehavior};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::connection::WriterConnection;
use super::{MIGRATOR, PRAGMAS, check_folder, of_file, time};
use crate::columns::{COLUMNS, names};
use crate::merge::SQLITE;
use crate::typical::typical_rows;
use crate::{Error, PublicationTable, PublicationWriter, Recorded};

/// Writes to SQLite.
#[derive(Debug)]
pub(crate) struct SqliteWriter {
    pub(super) connection: WriterConnection,
    /// Inserts a row if its key is new.
    insert: String,
    /// Merges a row into the existing row. Returns whether that is disputed then, and no row if nothing changes.
    merge: String,
    /// Whether a row would still change the table after it was written.
    unwritten: String,
}

impl SqliteWriter {
    pub(crate) fn open(options: SqliteConnectOptions) -> Self {
        let insert = format!(
            "INSERT INTO publication ({}) VALUES ({})",
            names(),
            ["?"; COLUMN_COUNT].join(", ")
        );
        let merge = format!("{insert} {} RETURNING disputed", SQLITE.on_conflict());
        let insert = format!("{insert} ON CONFLICT (name, version) DO NOTHING");
        let given: Vec<String> = COLUMNS.iter().map(|it| format!("? AS {}", it.name)).collect();
        let unwritten = format!(
            "SELECT kept.name IS NULL OR {} FROM (SELECT {}) AS incoming \
             LEFT JOIN publication AS kept USING (name, version)",
            SQLITE.changes("kept", "incoming"),
            given.join(", ")
        );
        Self { connection: WriterConnection::new(options), insert, merge, unwritten }
    }

    /// Begins an IMMEDIATE transaction, in which a value that was read stays true until the commit.
    pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
        connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }

    fn write(
        &self,
        transaction: &Transaction<'_>,
        rows: &[Cow<'_, Publication>],
    ) -> Result<Recorded, Error> {
        let mut recorded = Recorded::default();
        let mut insert = transaction.prepare_cached(&self.insert)?;
        let mut merge = transaction.prepare_cached(&self.merge)?;
        let mut disputed = transaction
            .prepare_cached("SELECT disputed FROM publication WHERE name = ? AND version = ?")?;
        for row in rows {
            bind_row(&mut insert, row)?;
            if insert.raw_execute()? == 1 {
                recorded.inserted += 1;
                recorded.disputed += u64::from(row.info.disputed);
                continue;
            }
            let key = (row.id.name.as_str(), row.id.version.as_str());
            let before = disputed.query_row(key, |row| row.get::<_, bool>(0)).optional()?;
            let Some(before) = before else { return Err(swallowed()) };
            bind_row(&mut merge, row)?;
            let mut changed = merge.raw_query();
            if let Some(after) = changed.next()? {
                recorded.updated += 1;
                recorded.disputed += u64::from(after.get(0)? && !before);
            }
        }
        look_for(transaction, &self.unwritten, rows)?;
        Ok(recorded)
    }
}

/// If the table has triggers, looks whether the rows are in it, because a trigger may change or remove a row after it was written.
fn look_for(
    transaction: &Transaction<'_>,
    unwritten: &str,
    rows: &[Cow<'_, Publication>],
) -> Result<(), Error> {
    let triggers = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'publication' COLLATE NOCASE)";
    let has_triggers: bool =
        transaction.prepare_cached(triggers)?.query_row([], |row| row.get(0))?;
    if !has_triggers {
        return Ok(());
    }
    let mut unwritten = transaction.prepare_cached(unwritten)?;
    for row in rows {
        bind_row(&mut unwritten, row)?;
        let mut found = unwritten.raw_query();
        let is_missing = found.next()?.map(|row| row.get::<_, bool>(0)).transpose()?;
        if is_missing != Some(false) {
            return Err(swallowed());
        }
    }
    Ok(())
}

/// The error for a row that is not there. Only a trigger can do that in SQLite.
fn swallowed() -> Error {
    let said =
        "a row is not in the table publication as it was written: a trigger drops or changes it";
    Error::Data(said.into())
}

#[async_trait]
impl PublicationWriter for SqliteWriter {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        if records.is_empty() {
            return Ok(Recorded::default());
        }
        let rows = merge_all(records);
        let write = |connection: &mut Connection| {
            let transaction = Self::begin(connection)?;
            let recorded = self.write(&transaction, &rows)?;
            transaction.commit()?;
            Ok(recorded)
        };
        let mut recorded = self.connection.with(write).await?;
        recorded.unchanged = records.len() as u64 - recorded.inserted - recorded.updated;
        Ok(recorded)
    }

    async fn probe(&self) -> Result<(), Error> {
        let rows = typical_rows()?;
        let try_it = |connection: &mut Connection| {
            // Dropping the transaction at the end rolls it back.
            let transaction = Self::begin(connection)?;
            rows.iter()
                .try_for_each(|row| self.write(&transaction, &[Cow::Borrowed(row)]).map(drop))
        };
        self.connection.with(try_it).await
    }

    fn is_serial(&self) -> bool {
        true
    }
}

#[async_trait]
impl PublicationTable for SqliteWriter {
    async fn migrate(&self) -> Result<(), Error> {
        check_folder(self.connection.options.get_filename())?;
        let options = self.connection.options.clone().create_if_missing(true);
        let options =
            PRAGMAS.into_iter().fold(options, |all, (name, value)| all.pragma(name, value));
        let path = options.get_filename().to_owned();
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let pool = pool.map_err(|error| of_file(error.into(), &path))?;
        // SQLite has no lock for the time between two migrations, so another process may have run the one that failed here.
        let mut known = 0;
        let migrated = loop {
            let Err(error) = MIGRATOR.run(&pool).await else { break Ok(()) };
            let count = "SELECT count(*) FROM _sqlx_migrations";
            let applied: i64 = sqlx::query_scalar(count).fetch_one(&pool).await.unwrap_or(0);
            if applied <= known {
                break Err(error);
            }
            known = applied;
        };
        pool.close().await;
        migrated.map_err(|error| of_file(error.into(), &path))
    }

    async fn generation(&self) -> Result<u32, Error> {
        let sql = "SELECT coalesce(max(generation), 0) FROM publication WHERE generation > 0";
        self.connection
            .with(|connection| Ok(connection.query_row(sql, [], |row| row.get(0))?))
            .await
    }

    async fn oldest_unsettled(&self, since: Timestamp) -> Result<Option<Timestamp>, Error> {
        let sql = "SELECT created FROM publication WHERE NOT tor_settled AND created >= ? \
                   ORDER BY created LIMIT 1";
        let since = since.to_rfc3339_micros();
        let find = |connection: &mut Connection| {
            Ok(connection.query_row(sql, [&since], |row| row.get::<_, String>(0)).optional()?)
        };
        let oldest: Option<String> = self.connection.with(find).await?;
        oldest.as_deref().map(time).transpose()
    }

    async fn answers(&self) -> Result<(), Error> {
        let sql = "SELECT 1 FROM publication LIMIT 0";
        self.connection.with(|connection| Ok(connection.execute_batch(sql)?)).await
    }
}

/// Binds the values of a row to the parameters, in the order of the columns.
fn bind_row(statement: &mut Statement<'_>, row: &Publication) -> rusqlite::Result<()> {
    for (place, value) in (1..).zip(row.columns()) {
        match value {
            ColumnValue::Text(text) => statement.raw_bind_parameter(place, text)?,
            ColumnValue::Time(time) => {
                statement.raw_bind_parameter(place, time.map(Timestamp::to_rfc3339_micros))?;
            }
            ColumnValue::Flag(flag) => statement.raw_bind_parameter(place, flag)?,
            ColumnValue::Word(word, _) => statement.raw_bind_parameter(place, word)?,
            ColumnValue::Number(number) => statement.raw_bind_parameter(place, number)?,
            ColumnValue::Bytes(bytes) => statement.raw_bind_parameter(place, bytes)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, SqliteConnection};

    use super::*;
    use crate::migrations::SQLITE;
    use crate::suite::row;

    const ROWS: [&str; 2] = [
        "INSERT INTO publication VALUES ('a', '1', NULL, '2022-03-01T12:00:00.000000Z', NULL, 1, 'no_coverage',
            'second_factor', NULL, 0, 'session_token', 'user', 2, 0, zeroblob(16), 1)",
        "INSERT INTO publication VALUES ('@b/c', '2-x', 'user', '2021-03-01T12:00:00.000001Z', 1, 0, 'listed', 'single_factor',
            '2021-03-02T00:00:00.000000Z', 1, 'granular_token', 'workflow', 0, 7, x'000102030405060708090A0B0C0D0E0F', 0)",
    ];
    /// Every column of the first layout.
    const VALUES: &str = "SELECT json_array(name, version, username, created, tor, tfa, tor_reason, tfa_reason,
        tor_evidence_until, tor_settled, credential, actor, revision, generation, hex(event_identity), disputed)
        FROM publication ORDER BY name";

    async fn values(connection: &mut SqliteConnection) -> Vec<String> {
        sqlx::query_scalar(VALUES).fetch_all(connection).await.unwrap()
    }

    #[tokio::test]
    async fn rows_of_the_first_layout_are_kept_by_every_migration() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let mut migrations = SQLITE.iter();
        let first = migrations.next().unwrap();
        sqlx::raw_sql(first.sql.clone()).execute(&mut connection).await.unwrap();
        for row in ROWS {
            sqlx::raw_sql(row).execute(&mut connection).await.unwrap();
        }
        let before = values(&mut connection).await;
        assert_eq!(before.len(), ROWS.len());
        for migration in migrations {
            sqlx::raw_sql(migration.sql.clone()).execute(&mut connection).await.unwrap();
            assert_eq!(values(&mut connection).await, before, "after {}", migration.version);
        }
        // What the first layout did not have is not known.
        let digests: Vec<Option<String>> = sqlx::query_scalar("SELECT integrity FROM publication")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        assert_eq!(digests, [None, None]);
        let duplicate = "INSERT INTO publication SELECT * FROM publication";
        let duplicate = sqlx::raw_sql(duplicate).execute(&mut connection).await;
        assert!(duplicate.unwrap_err().to_string().contains("UNIQUE"));
    }

    #[tokio::test]
    async fn the_words_of_a_trigger_are_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there.db");
        let writer = SqliteWriter::open(SqliteConnectOptions::new().filename(&path));
        writer.migrate().await.unwrap();
        let trigger = "CREATE TRIGGER block BEFORE INSERT ON publication WHEN NEW.name = 'bad' \
                       BEGIN SELECT RAISE(ABORT, 'user ' || NEW.name || ' is blocked'); END";
        Connection::open(&path).unwrap().execute_batch(trigger).unwrap();
        let error = writer.record(&[row("bad", 1)]).await.unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
        let said = error.to_string();
        assert!(said.contains("SQLITE_CONSTRAINT_TRIGGER") && !said.contains("bad"), "{said}");
        writer.record(&[row("good", 1)]).await.unwrap();
    }

    #[tokio::test]
    async fn a_table_that_keeps_no_row_or_no_change_fails_the_test() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there.db");
        let writer = SqliteWriter::open(SqliteConnectOptions::new().filename(&path));
        writer.migrate().await.unwrap();
        writer.probe().await.unwrap();
        for (when, what, word) in [
            (
                "AFTER INSERT",
                "DELETE FROM publication WHERE name = NEW.name",
                "drops or changes it",
            ),
            ("BEFORE UPDATE", "SELECT RAISE(IGNORE)", "drops or changes it"),
            ("BEFORE UPDATE", "SELECT RAISE(ABORT, 'no')", "CONSTRAINT_TRIGGER"),
        ] {
            let trigger = format!("CREATE TRIGGER meddle {when} ON publication BEGIN {what}; END");
            Connection::open(&path).unwrap().execute_batch(&trigger).unwrap();
            let error = writer.probe().await.unwrap_err();
            assert!(matches!(error, Error::Data(_)), "{error}");
            assert!(error.to_string().contains(word), "{error}");
            Connection::open(&path).unwrap().execute_batch("DROP TRIGGER meddle").unwrap();
        }
        writer.probe().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_that_migrate_a_new_file_at_once_both_succeed() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new.db");
            let migrations = [(); 2].map(|()| {
                let writer = SqliteWriter::open(SqliteConnectOptions::new().filename(&path));
                tokio::spawn(async move {
                    // The other may hold the lock; a command tries again then.
                    while let Err(error) = writer.migrate().await {
                        assert!(matches!(error, Error::Conflict(_)), "{error}");
                    }
                })
            });
            for migration in migrations {
                migration.await.unwrap();
            }
        }
    }
}
