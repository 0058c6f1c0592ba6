//! The writer's connection, straight to SQLite's library. sqlx hands each statement and a copy of its values to a thread of
//! its own and back, which is too much for one row; and many rows a statement hide what became of each.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Mutex;

use super::PRAGMAS;
use crate::Error;

/// The file that holds a database, by what stays with it when it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// One connection, opened when first used: SQLite has one writer, and waiting in our own queue is fair where its lock is
/// not.
#[derive(Debug)]
pub(super) struct WriterConnection {
    pub(super) options: SqliteConnectOptions,
    open: Mutex<Option<(FileIdentity, Connection)>>,
}

impl WriterConnection {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self { options, open: Mutex::new(None) }
    }

    /// Does the work in this thread, which the runtime replaces meanwhile where it has several.
    ///
    /// # Errors
    /// Those of the work; [`Error::Transient`] also where the file is not there.
    pub(super) async fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with_file(|_, connection| work(connection)).await
    }

    /// The same, for work that asks which file it is.
    pub(super) async fn with_file<T>(
        &self,
        work: impl FnOnce(FileIdentity, &mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut open = self.open.lock().await;
        let work = || {
            let opened = open.take();
            // SQLite would go on writing into a file that was moved or deleted, and say that all is well.
            let file = file(self.options.get_filename())?;
            let mut connection = match opened {
                Some((known, connection)) if known == file => connection,
                _ => connect(self.options.get_filename())?,
            };
            let done = work(file, &mut connection);
            // After trouble with the file the next use opens it again: it may be another one by then.
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

/// Which file is at a path.
///
/// # Errors
/// [`Error::Transient`] with the path where none is there.
pub(super) fn file(path: &Path) -> Result<FileIdentity, Error> {
    let missing =
        |error| Error::transient(format!("the file {} of store.url: {error}", path.display()));
    let metadata = path.metadata().map_err(missing)?;
    Ok(FileIdentity { device: metadata.dev(), inode: metadata.ino() })
}

/// Opens a file that is there: only `migrate` makes one, with its tables.
fn connect(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    for (name, value) in PRAGMAS {
        connection.pragma_update(None, name, value)?;
    }
    Ok(connection)
}

/// Whether a file's folder is there.
///
/// # Errors
/// [`Error::Transient`] with the folder's path where it is not.
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
        // Another one in its place.
        std::fs::rename(&path, &elsewhere).unwrap();
        make(&path);
        add(8).await.unwrap();
        assert_eq!(sum(&path), 8);
    }
}
