//! The writer's connection, which uses SQLite's library directly. sqlx passes each statement and a copy of its values
//! to its own thread and back, which is too slow for a single row; and a statement of many rows does not return the
//! result of each row.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Mutex;

use super::PRAGMAS;
use crate::Error;

/// The identity of a database file, which does not change when the file is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// One connection, opened at its first use. SQLite allows one writer; this mutex queues the callers fairly, which
/// SQLite's lock does not.
#[derive(Debug)]
pub(super) struct WriterConnection {
    pub(super) options: SqliteConnectOptions,
    open: Mutex<Option<(FileIdentity, Connection)>>,
}

impl WriterConnection {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self { options, open: Mutex::new(None) }
    }

    /// Runs the work in this thread. A runtime with several threads replaces this thread meanwhile.
    ///
    /// # Errors
    /// The errors of the work; also [`Error::Transient`] if the file does not exist.
    pub(super) async fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with_file(|_, connection| work(connection)).await
    }

    /// As [`Self::with`], and passes the file's identity to the work.
    pub(super) async fn with_file<T>(
        &self,
        work: impl FnOnce(FileIdentity, &mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut open = self.open.lock().await;
        let work = || {
            let opened = open.take();
            // SQLite would continue to write into a file that was moved or deleted, without an error.
            let file = file(self.options.get_filename())?;
            let mut connection = match opened {
                Some((known, connection)) if known == file => connection,
                _ => connect(self.options.get_filename())?,
            };
            let done = work(file, &mut connection);
            // After an error of the file the next use opens it again, because it may be another file by then.
            if matches!(done, Ok(_) | Err(Error::Data(_))) {
                *open = Some((file, connection));
            }
            done
        };
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => work(),
            _ => tokio::task::block_in_place(work),
        }
    }
}

/// The identity of the file at a path.
///
/// # Errors
/// [`Error::Transient`] with the path if there is no file.
pub(super) fn file(path: &Path) -> Result<FileIdentity, Error> {
    let missing =
        |error| Error::transient(format!("the file {} of store.url: {error}", path.display()));
    let metadata = path.metadata().map_err(missing)?;
    Ok(FileIdentity { device: metadata.dev(), inode: metadata.ino() })
}

/// Opens an existing file; only `migrate` creates one, with its tables.
fn connect(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    for (name, value) in PRAGMAS {
        connection.pragma_update(None, name, value)?;
    }
    Ok(connection)
}

/// Checks that a file's folder exists.
///
/// # Errors
/// [`Error::Transient`] with the folder's path if it does not.
pub(crate) fn check_folder(file: &Path) -> Result<(), Error> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Some(folder) = folder else { return Ok(()) };
    folder.metadata().map(drop).map_err(|error| {
        Error::transient(format!("the folder {} of store.url: {error}", folder.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_was_moved_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let [path, elsewhere] = ["there.db", "elsewhere.db"].map(|name| folder.path().join(name));
        let writer = WriterConnection::new(SqliteConnectOptions::new().filename(&path));
        let add = async |number: i32| {
            writer.with(|it| Ok(it.execute("INSERT INTO t VALUES (?)", [number])?)).await
        };
        let make = |path: &Path| {
            Connection::open(path).unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
        };
        let sum = |path: &Path| -> i32 {
            let file = Connection::open(path).unwrap();
            file.query_row("SELECT sum(n) FROM t", [], |row| row.get(0)).unwrap()
        };

        assert!(matches!(add(1).await, Err(Error::Transient(_))), "none is made");
        assert!(!path.exists());
        make(&path);
        add(1).await.unwrap();
        std::fs::rename(&path, &elsewhere).unwrap();
        assert!(matches!(add(2).await, Err(Error::Transient(_))));
        std::fs::rename(&elsewhere, &path).unwrap();
        add(4).await.unwrap();
        assert_eq!(sum(&path), 5);
        // Another file in the same place.
        std::fs::rename(&path, &elsewhere).unwrap();
        make(&path);
        add(8).await.unwrap();
        assert_eq!(sum(&path), 8);
    }
}
