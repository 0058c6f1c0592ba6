//! Faults of the database while clients send requests.

use std::fs;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use testkit::{NetworkFault, Postgres, StopMode, eventually};

use crate::http::PATIENCE;
use crate::pick;
use crate::random::Random;
use crate::run::{READER, Run, put};
use crate::schedule::Fault;

/// Executes statements in a new session.
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

impl Run<'_> {
    /// Executes statements as the owner, which must succeed.
    async fn admin(&self, sql: &str) {
        execute(&self.store, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn a_while(&self, random: &mut Random, millis: u64) {
        let until = Instant::now() + Duration::from_millis(200) + random.millis(millis);
        eventually("the time of a fault", PATIENCE, async || Instant::now() >= until).await;
    }

    /// Executes the first statement, waits, and executes the second, which reverts it. Waits again.
    async fn between(&self, random: &mut Random, statements: [String; 2]) {
        for sql in statements {
            self.admin(&sql).await;
            self.a_while(random, 1_500).await;
        }
    }

    /// Runs the fault from its beginning to its end.
    pub(crate) async fn suffer(&mut self, fault: Fault, random: &mut Random) {
        match fault {
            Fault::Nothing => self.a_while(random, 600).await,
            Fault::Restarted | Fault::Crashed => {
                let crashed = fault == Fault::Crashed;
                let mode = if crashed { StopMode::Immediate } else { StopMode::Fast };
                self.servers.postgres.stop(mode);
                self.a_while(random, 1_500).await;
                self.servers.postgres.start_again();
            }
            Fault::Promoted => self.promote().await,
            Fault::FileLocked | Fault::FileReplaced | Fault::FileAway => {
                self.act_on_file(fault, random).await;
            }
            Fault::SessionsEnded
            | Fault::TooManyConnections
            | Fault::TableLocked
            | Fault::ReadOnly
            | Fault::RightTaken
            | Fault::ColumnRenamed => self.act_by_statements(fault, random).await,
            _ => self.act_on_network(fault, random).await,
        }
    }

    async fn act_on_network(&self, fault: Fault, random: &mut Random) {
        let proxy = &self.servers.proxy;
        proxy.set(match fault {
            Fault::ConnectionsCut => return proxy.cut(),
            Fault::OpenConnectionsMute => return proxy.silence(),
            Fault::ConnectionsRefused => NetworkFault::Cut,
            Fault::ConnectionsSlow => {
                NetworkFault::Slow(Duration::from_millis(10 + random.below(60)))
            }
            Fault::ConnectionsMute => NetworkFault::HalfOpen,
            _ => NetworkFault::AnswersLost,
        });
        self.a_while(random, 4_000).await;
        proxy.set(NetworkFault::None);
        if fault == Fault::AnswersLost {
            // Connections with lost answers are out of step. They end, as after a network outage.
            proxy.cut();
        }
    }

    async fn act_by_statements(&self, fault: Fault, random: &mut Random) {
        match fault {
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
                    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
                    self.admin(&set).await;
                    self.admin("SELECT pg_reload_conf()").await;
                    self.a_while(random, 1_000).await;
                }
            }
            Fault::RightTaken => {
                let [take, give] = [("REVOKE", "FROM"), ("GRANT", "TO")]
                    .map(|(what, whom)| format!("{what} SELECT ON publication {whom} {READER}"));
                self.between(random, [take, give]).await;
            }
            _ => {
                let column = pick(
                    random,
                    &["username", "tor", "tfa_reason", "created", "integrity", "version"],
                );
                let rename =
                    |from, to| format!("ALTER TABLE publication RENAME COLUMN {from} TO {to}");
                self.between(random, [rename(column, "gone"), rename("gone", column)]).await;
            }
        }
    }

    async fn act_on_file(&self, fault: Fault, random: &mut Random) {
        // No rows may be written to a file that is being replaced.
        let _gate = self.gate.lock().await;
        let file = self.file();
        let beside = file.with_extension("beside");
        match fault {
            Fault::FileLocked => {
                let options: sqlx::sqlite::SqliteConnectOptions =
                    self.store.parse().expect("a URL of this run");
                let mut writer = options.connect().await.expect("the file is there");
                for sql in ["BEGIN IMMEDIATE", "COMMIT"] {
                    sqlx::raw_sql(sql).execute(&mut writer).await.expect("nobody else writes");
                    self.a_while(random, 1_500).await;
                }
            }
            Fault::FileAway => {
                self.admin("PRAGMA wal_checkpoint(TRUNCATE)").await;
                fs::rename(&file, &beside).expect("the file is there");
                self.a_while(random, 1_500).await;
                fs::rename(&beside, &file).expect("the file is there");
            }
            _ => {
                self.admin(&format!("VACUUM INTO '{}'", beside.display())).await;
                if let Some(rows) = self.table.begin_next() {
                    let url = format!("sqlite://{}", beside.display());
                    put(&url, rows).await.expect("the copy takes rows");
                }
                // A process that opens the old file meanwhile must find all rows in it.
                self.admin("PRAGMA wal_checkpoint(TRUNCATE)").await;
                self.remove_log();
                fs::rename(beside, file).expect("the copy is there");
                self.table.done();
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

    /// Promotes a standby with all acknowledged commits, in place of the failed server.
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
