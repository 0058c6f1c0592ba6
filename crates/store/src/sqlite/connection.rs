//! The writer's connection, straight to SQLite's library. sqlx hands each statement and a copy of its values to a thread of
//! its own and back, which is too much for one row; and many rows a statement hide what became of each.

use rusqlite::Connection;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Mutex;

use super::PRAGMAS;
use crate::Error;

/// One connection, opened when first used: SQLite has one writer, and waiting in our own queue is fair where its lock is
/// not.
#[derive(Debug)]
pub(super) struct WriterConnection {
    pub(super) options: SqliteConnectOptions,
    open: Mutex<Option<Connection>>,
}

impl WriterConnection {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self { options, open: Mutex::new(None) }
    }

    /// Does the work in this thread, which the runtime replaces meanwhile where it has several.
    pub(super) async fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut open = self.open.lock().await;
        let work = || {
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => connect(&self.options)?,
            };
            let done = work(&mut connection);
            // After trouble with the file the next use opens it again: it may be another one by then.
            if matches!(done, Ok(_) | Err(Error::Data(_))) {
                *open = Some(connection);
            }
            done
        };
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => work(),
            _ => tokio::task::block_in_place(work),
        }
    }
}

fn connect(options: &SqliteConnectOptions) -> Result<Connection, Error> {
    let connection = Connection::open(options.get_filename())?;
    for (name, value) in PRAGMAS {
        connection.pragma_update(None, name, value)?;
    }
    Ok(connection)
}
