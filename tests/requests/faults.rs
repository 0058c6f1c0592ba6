//! What happens to the database while others ask.

use std::fs;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use testkit::{NetworkFault, Postgres, StopMode, eventually};

use crate::http::PATIENCE;
use crate::pick;
use crate::random::Random;
use crate::rows::insert;
use crate::run::{READER, Stage};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Nothing,
    ConnectionsCut,
    ConnectionsRefused,
    ConnectionsSlow,
    ConnectionsMute,
    OpenConnectionsMute,
    AnswersLost,
    Restarted,
    Crashed,
    Promoted,
    SessionsEnded,
    TooManyConnections,
    TableLocked,
    ReadOnly,
    RightTaken,
    ColumnRenamed,
    FileLocked,
    FileReplaced,
    FileAway,
}

pub(crate) const POSTGRES: [Fault; 16] = [
    Fault::Nothing,
    Fault::ConnectionsCut,
    Fault::ConnectionsRefused,
    Fault::ConnectionsSlow,
    Fault::ConnectionsMute,
    Fault::OpenConnectionsMute,
    Fault::AnswersLost,
    Fault::Restarted,
    Fault::Crashed,
    Fault::Promoted,
    Fault::SessionsEnded,
    Fault::TooManyConnections,
    Fault::TableLocked,
    Fault::ReadOnly,
    Fault::RightTaken,
    Fault::ColumnRenamed,
];
pub(crate) const SQLITE: [Fault; 5] =
    [Fault::Nothing, Fault::FileLocked, Fault::FileReplaced, Fault::FileAway, Fault::ColumnRenamed];

impl Fault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::ConnectionsCut => "connections cut",
            Self::ConnectionsRefused => "connections refused",
            Self::ConnectionsSlow => "connections slow",
            Self::ConnectionsMute => "connections mute",
            Self::OpenConnectionsMute => "open connections mute, new ones not",
            Self::AnswersLost => "answers lost",
            Self::Restarted => "the server restarted",
            Self::Crashed => "the server crashed",
            Self::Promoted => "the standby promoted",
            Self::SessionsEnded => "sessions ended",
            Self::TooManyConnections => "too many connections",
            Self::TableLocked => "the table locked",
            Self::ReadOnly => "the database read-only",
            Self::RightTaken => "the right to read taken",
            Self::ColumnRenamed => "a column renamed",
            Self::FileLocked => "the file locked by a writer",
            Self::FileReplaced => "the file replaced",
            Self::FileAway => "the file away",
        }
    }

    /// Those that a reader must not feel.
    pub(crate) const fn hurts(self) -> bool {
        !matches!(self, Self::Nothing | Self::ReadOnly | Self::FileLocked)
    }
}

/// Statements in a session of their own.
pub(crate) async fn execute(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    let sql = AssertSqlSafe(sql);
    if url.starts_with("sqlite:") {
        let options: sqlx::sqlite::SqliteConnectOptions = url.parse()?;
        let mut connection = options.busy_timeout(Duration::from_secs(20)).connect().await?;
        sqlx::raw_sql(sql).execute(&mut connection).await?;
        return connection.close().await;
    }
    let mut connection = sqlx::PgConnection::connect(url).await?;
    sqlx::raw_sql(sql).execute(&mut connection).await?;
    connection.close().await
}

impl Stage<'_> {
    /// The database's own words, which must work.
    async fn admin(&self, sql: &str) {
        execute(&self.store, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn a_while(&self, random: &mut Random, millis: u64) {
        let until = Instant::now() + Duration::from_millis(200) + random.millis(millis);
        eventually("the time of a fault", PATIENCE, async || Instant::now() >= until).await;
    }

    /// The fault from its beginning to its end.
    pub(crate) async fn suffer(&mut self, fault: Fault, random: &mut Random) {
        let network = |fault| self.servers.proxy.set(fault);
        match fault {
            Fault::Nothing => self.a_while(random, 600).await,
            Fault::ConnectionsCut => self.servers.proxy.cut(),
            Fault::ConnectionsRefused
            | Fault::ConnectionsSlow
            | Fault::ConnectionsMute
            | Fault::AnswersLost => {
                network(match fault {
                    Fault::ConnectionsRefused => NetworkFault::Cut,
                    Fault::ConnectionsSlow => {
                        NetworkFault::Slow(Duration::from_millis(10 + random.below(60)))
                    }
                    Fault::ConnectionsMute => NetworkFault::HalfOpen,
                    _ => NetworkFault::AnswersLost,
                });
                self.a_while(random, 4_000).await;
                if fault == Fault::AnswersLost {
                    // Connections whose answers were lost are out of step and end, as those of a network that comes back.
                    self.servers.proxy.cut();
                }
                self.servers.proxy.set(NetworkFault::None);
            }
            Fault::OpenConnectionsMute => self.servers.proxy.silence(),
            Fault::Restarted | Fault::Crashed => {
                let mode =
                    if fault == Fault::Crashed { StopMode::Immediate } else { StopMode::Fast };
                self.servers.postgres.stop(mode);
                self.a_while(random, 1_500).await;
                self.servers.postgres.start_again();
            }
            Fault::Promoted => self.promote().await,
            Fault::SessionsEnded => self.end_sessions().await,
            Fault::TooManyConnections => {
                self.admin(&format!("ALTER ROLE {READER} CONNECTION LIMIT 0")).await;
                self.end_sessions().await;
                self.a_while(random, 2_000).await;
                self.admin(&format!("ALTER ROLE {READER} CONNECTION LIMIT -1")).await;
            }
            Fault::TableLocked => {
                let seconds = 0.3 + random.millis(4_500).as_secs_f64();
                let lock = "BEGIN; LOCK TABLE publication IN ACCESS EXCLUSIVE MODE";
                self.admin(&format!("{lock}; SELECT pg_sleep({seconds}); COMMIT")).await;
            }
            Fault::ReadOnly => {
                for on in ["on", "off"] {
                    self.admin(&format!("ALTER SYSTEM SET default_transaction_read_only = {on}"))
                        .await;
                    self.admin("SELECT pg_reload_conf()").await;
                    self.a_while(random, 1_000).await;
                }
            }
            Fault::RightTaken => {
                self.admin(&format!("REVOKE SELECT ON publication FROM {READER}")).await;
                self.a_while(random, 1_500).await;
                self.admin(&format!("GRANT SELECT ON publication TO {READER}")).await;
            }
            Fault::ColumnRenamed => {
                let column = pick(
                    random,
                    &["username", "tor", "tfa_reason", "created", "integrity", "version"],
                );
                self.admin(&format!("ALTER TABLE publication RENAME COLUMN {column} TO gone"))
                    .await;
                self.a_while(random, 1_500).await;
                self.admin(&format!("ALTER TABLE publication RENAME COLUMN gone TO {column}"))
                    .await;
            }
            Fault::FileLocked => {
                let options: sqlx::sqlite::SqliteConnectOptions =
                    self.store.parse().expect("a URL of this run");
                let options = options.busy_timeout(Duration::from_secs(20));
                let mut writer = options.connect().await.expect("the file is there");
                sqlx::raw_sql("BEGIN IMMEDIATE")
                    .execute(&mut writer)
                    .await
                    .expect("the lock is given");
                self.a_while(random, 1_500).await;
                sqlx::raw_sql("COMMIT").execute(&mut writer).await.expect("a transaction ends");
            }
            Fault::FileReplaced => {
                // Nobody writes into the file that goes.
                let gate = self.gate.clone();
                let _gate = gate.lock().await;
                let file = self.file();
                let copy = file.with_extension("copy");
                self.admin(&format!("VACUUM INTO '{}'", copy.display())).await;
                if let Some(rows) = self.table.begin_next() {
                    let url = format!("sqlite://{}", copy.display());
                    execute(&url, &insert(rows).replace(", X, ", ", zeroblob(16), "))
                        .await
                        .expect("the copy takes rows");
                }
                // Who opens the old file meanwhile misses nothing.
                self.admin("PRAGMA wal_checkpoint(TRUNCATE)").await;
                self.remove_log();
                fs::rename(copy, file).expect("the copy is there");
                self.table.done();
            }
            Fault::FileAway => {
                let gate = self.gate.clone();
                let _gate = gate.lock().await;
                let (file, away) = (self.file(), self.file().with_extension("away"));
                self.admin("PRAGMA wal_checkpoint(TRUNCATE)").await;
                fs::rename(&file, &away).expect("the file is there");
                self.a_while(random, 1_500).await;
                fs::rename(&away, &file).expect("the file is there");
            }
        }
    }

    fn remove_log(&self) {
        for suffix in ["-wal", "-shm"] {
            let beside = format!("{}{suffix}", self.file().display());
            let gone = fs::remove_file(&beside);
            assert!(gone.is_ok() || !fs::exists(&beside).unwrap_or(true), "{beside} stays");
        }
    }

    async fn end_sessions(&self) {
        let of = format!("FROM pg_stat_activity WHERE usename = '{READER}'");
        self.admin(&format!("SELECT count(pg_terminate_backend(pid)) {of}")).await;
    }

    /// The standby has all that was acknowledged, and takes the place of the server, which died.
    async fn promote(&mut self) {
        let gate = self.gate.clone();
        let _gate = gate.lock().await;
        let primary = &mut self.servers.postgres;
        let mut standby: Postgres = primary.standby();
        let mut ahead =
            sqlx::PgConnection::connect(&primary.url()).await.expect("the primary answers");
        let mut behind =
            sqlx::PgConnection::connect(&standby.url()).await.expect("the standby answers");
        let now: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text")
            .fetch_one(&mut ahead)
            .await
            .expect("it tells");
        eventually("the standby to have everything", PATIENCE, async || {
            let has = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn";
            sqlx::query_scalar::<_, bool>(has)
                .bind(&now)
                .fetch_one(&mut behind)
                .await
                .is_ok_and(|has| has)
        })
        .await;
        drop((ahead, behind));
        primary.stop(StopMode::Immediate);
        standby.stop(StopMode::Fast);
        standby.start_in_place_of(primary);
        execute(&standby.url(), "SELECT pg_promote()").await.expect("the standby is promoted");
        self.servers.postgres = standby;
    }
}
