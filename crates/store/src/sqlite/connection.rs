//! The writer's connection, which uses SQLite's library directly. sqlx passes each statement and a copy of its values
//! to its own thread and back, which is too slow for a single row; and a statement of many rows does not return the
//! result of each row.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use rusqlite::{Connection, OpenFlags};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Mutex;

use super::PRAGMAS;
use crate::{DatabaseId, Error};

/// One connection, opened at its first use. SQLite allows one writer; this mutex queues the callers fairly, which
/// SQLite's lock does not.
#[derive(Debug)]
pub(super) struct WriterConnection {
    pub(super) options: SqliteConnectOptions,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connection: Option<(DatabaseId, Connection)>,
    /// The last file, and its write-ahead log.
    logged: Option<(DatabaseId, DatabaseId)>,
}

impl WriterConnection {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self { options, open: Mutex::default() }
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
        work: impl FnOnce(&DatabaseId, &mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut open = self.open.lock().await;
        let work = || {
            let opened = open.connection.take();
            let path = self.options.get_filename();
            // SQLite would continue to write into a file that was moved or deleted, without an error.
            let file = file(path)?;
            let mut connection = match opened {
                Some((known, connection)) if known == file => connection,
                _ => {
                    check_log(path, &file, open.logged.as_ref())?;
                    connect(path)?
                }
            };
            let done = work(&file, &mut connection).map_err(|error| match error {
                Error::Fatal(_) | Error::Transient(_) => of_file(error, path),
                _ => error,
            });
            if let Ok(log) = identity(&log_of(path)) {
                open.logged = Some((file.clone(), log));
            }
            // After an error of the file the next use opens it again, because it may be another file by then.
            if matches!(done, Ok(_) | Err(Error::Data(_))) {
                open.connection = Some((file, connection));
            }
            done
        };
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => work(),
            _ => tokio::task::block_in_place(work),
        }
    }
}

/// The identity of the file at a path, which does not change when the file is moved.
///
/// # Errors
/// [`Error::Transient`] with the path if there is no file.
pub(super) fn file(path: &Path) -> Result<DatabaseId, Error> {
    let missing =
        |error| Error::transient(format!("the file {} of store.url: {error}", path.display()));
    identity(path).map_err(missing)
}

fn identity(path: &Path) -> std::io::Result<DatabaseId> {
    let metadata = path.metadata()?;
    Ok(DatabaseId(format!("{}/{}", metadata.dev(), metadata.ino())))
}

/// The write-ahead log of a file.
fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Checks that a file that was put in the place of another one has not its log: SQLite would write the log's pages into it.
fn check_log(
    path: &Path,
    file: &DatabaseId,
    logged: Option<&(DatabaseId, DatabaseId)>,
) -> Result<(), Error> {
    let Some((known, log)) = logged else { return Ok(()) };
    if known == file || identity(&log_of(path)).ok().as_ref() != Some(log) {
        return Ok(());
    }
    let path = path.display();
    Err(Error::fatal(format!(
        "{path} was replaced, but {path}-wal belongs to the file before: stop both daemons, remove {path}-wal and \
         {path}-shm, and put the copy back again"
    )))
}

/// Opens an existing file; only `migrate` creates one, with its tables.
fn connect(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        let set = |(name, value)| connection.pragma_update(None, name, value);
        PRAGMAS.into_iter().try_for_each(set)?;
        Ok(connection)
    });
    opened.map_err(|error| of_file(error.into(), path))
}

/// Adds the file's path to an error, and the operating system's error if the file or its folder is not accessible: SQLite
/// reports only that it cannot open the file. This function does not open the file, because closing it would release
/// this process's locks on it.
pub(crate) fn of_file(error: Error, path: &Path) -> Error {
    let folder = folder_of(path).unwrap_or(Path::new("."));
    let needed = [
        (path, AccessFlags::R_OK | AccessFlags::W_OK),
        (folder, AccessFlags::W_OK | AccessFlags::X_OK),
    ];
    let refused = needed.into_iter().find_map(|(place, flags)| {
        // SQLite creates a file that is missing.
        let errno = access(place, flags).err().filter(|errno| *errno != Errno::ENOENT)?;
        Some(format!(" ({}: {})", place.display(), errno.desc()))
    });
    let refused = refused.unwrap_or_default();
    error.within(&format!("the file {} of store.url{refused}", path.display()))
}

/// Whether this process can create files in a folder.
pub(crate) fn is_writable(folder: &Path) -> bool {
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// A file's folder; `None` for the working directory.
pub(crate) fn folder_of(file: &Path) -> Option<&Path> {
    file.parent().filter(|folder| !folder.as_os_str().is_empty())
}

/// Checks that a file's folder exists and is a folder.
///
/// # Errors
/// [`Error::Transient`] with the folder's path otherwise.
pub(crate) fn check_folder(file: &Path) -> Result<(), Error> {
    let Some(folder) = folder_of(file) else { return Ok(()) };
    let reason = match folder.metadata() {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "it is not a folder".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::transient(format!("the folder {} of store.url: {reason}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_log_of_a_file_is_not_written_into_its_replacement() {
        let folder = tempfile::tempdir().unwrap();
        let [path, copy] = ["there.db", "copy.db"].map(|name| folder.path().join(name));
        for path in [&path, &copy] {
            Connection::open(path).unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
        }
        let writer = WriterConnection::new(SqliteConnectOptions::new().filename(&path));
        let add = async || writer.with(|it| Ok(it.execute("INSERT INTO t VALUES (1)", [])?)).await;
        add().await.unwrap();
        let content = std::fs::read(&copy).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        for _ in 0..2 {
            let error = add().await.unwrap_err();
            assert!(matches!(error, Error::Fatal(_)), "{error}");
            assert!(error.to_string().contains("-wal belongs to the file before"), "{error}");
        }
        assert!(std::fs::read(&path).unwrap() == content);
        std::fs::remove_file(log_of(&path)).unwrap();
        add().await.unwrap();
    }

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
