//! The migrations, compiled in.
//!
//! sqlx's own macro would list the folder itself. But a procedural macro is compiled for the build machine, and compiles all of
//! sqlx, SQLite, rustls and tokio a second time: a fifth of the time that a fresh clone takes to compile.
//!
//! A merged migration is never edited, because sqlx stores its checksum in the database; so its comments keep the words of
//! their time.

use std::sync::LazyLock;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The number of a migration, its description, and its SQL.
type File = (i64, &'static str, &'static str);

macro_rules! file {
    ($number:literal, $about:literal, $path:literal) => {
        ($number, $about, include_str!(concat!("../migrations/", $path)))
    };
}

/// The migrations of PostgreSQL.
pub(crate) static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        file!(1, "publication", "postgres/0001_publication.sql"),
        file!(2, "replay job", "postgres/0002_replay_job.sql"),
        file!(3, "row", "postgres/0003_row.sql"),
        file!(4, "integrity and positions", "postgres/0004_integrity_and_positions.sql"),
        file!(5, "indexes", "postgres/0005_indexes.sql"),
    ])
});

/// The migrations of SQLite.
pub(crate) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        file!(1, "publication", "sqlite/0001_publication.sql"),
        file!(2, "replay job", "sqlite/0002_replay_job.sql"),
        file!(3, "rowid", "sqlite/0003_rowid.sql"),
        file!(4, "unjournaled", "sqlite/0004_unjournaled.sql"),
        file!(5, "integrity and positions", "sqlite/0005_integrity_and_positions.sql"),
        file!(6, "indexes", "sqlite/0006_indexes.sql"),
    ])
});

fn migrator(files: &[File]) -> Migrator {
    let migration = |&(number, about, sql): &File| {
        let without_transaction = false;
        Migration::new(
            number,
            about.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            without_transaction,
        )
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// All fields of each migration: number, description, kind, checksum, and whether it runs without a transaction.
    fn fields(migrator: &Migrator) -> Vec<(i64, String, MigrationType, Vec<u8>, bool)> {
        let fields = |one: &Migration| {
            let (about, checksum) = (one.description.to_string(), one.checksum.to_vec());
            (one.version, about, one.migration_type, checksum, one.no_tx)
        };
        migrator.iter().map(fields).collect()
    }

    /// Reads the folders with sqlx, so that a migration file that is missing above or has another name fails this test.
    #[tokio::test]
    async fn every_file_of_the_folders_is_compiled_in() {
        let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        for (folder, compiled) in [("postgres", &POSTGRES), ("sqlite", &SQLITE)] {
            let read = Migrator::new(folders.join(folder)).await.unwrap();
            assert_eq!(fields(&read), fields(compiled));
        }
    }
}
