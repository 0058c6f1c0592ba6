//! Faults of the database.

use std::time::Duration;

use testkit::{StopMode, eventually};

use crate::raising::raising;
use crate::random::Random;
use crate::record::Maker;
use crate::run::{CHUNK, PATIENCE, Run};
use crate::schedule::{Fault, index, one_in, pick};

/// Temporary errors: serialization failure, deadlock, query cancelled, disk full, too many connections, I/O error.
const PASSING: [&str; 6] = ["40001", "40P01", "57014", "53100", "53300", "58030"];

impl Run<'_> {
    pub(crate) async fn act_on_database(&mut self, fault: Fault, random: &mut Random) {
        match fault {
            Fault::DatabaseRestarted | Fault::DatabaseCrashed => {
                let crashed = fault == Fault::DatabaseCrashed;
                let mode = if crashed { StopMode::Immediate } else { StopMode::Fast };
                self.servers.postgres.stop(mode);
                self.a_while(random, 2_000).await;
                self.servers.postgres.start_again();
            }
            Fault::DatabaseClosed => {
                self.database.admit(false).await;
                self.a_while(random, 4_000).await;
                self.database.admit(true).await;
            }
            Fault::ConnectionsUsedUp => self.use_up_connections(random).await,
            Fault::SessionsEnded => self.database.end_sessions().await,
            Fault::StatementsFail => self.fail_statements(random).await,
            Fault::ReadOnly => {
                self.database.read_only(true).await;
                self.a_while(random, 3_000).await;
                self.database.read_only(false).await;
            }
            _ => {
                let time = Duration::from_millis(300 + random.below(8_000));
                self.database.lock_table(time).await;
            }
        }
    }

    /// Makes the next write statements fail by a trigger.
    async fn fail_statements(&mut self, random: &mut Random) {
        let code = pick(random, &PASSING);
        let times = 1 + random.below(4);
        let table = pick(random, &["publication", "ingest_position"]);
        self.database.execute(&raising(code, times, table)).await.expect("a trigger can be made");
        self.a_while(random, 3_000).await;
        let drop = format!("DROP TRIGGER raising ON {table}");
        eventually("the trigger to go", PATIENCE, async || {
            self.database.execute(&drop).await.is_ok()
        })
        .await;
    }

    /// Restores the copy of the database. If there is no copy yet, makes one and has more records read first.
    pub(crate) async fn put_database_back(&mut self, random: &mut Random, maker: &mut Maker) {
        if self.copy.is_none() {
            self.found(Fault::DatabasePutBack).await;
            self.take_copy().await;
            self.put(maker.records(1 + index(random, CHUNK))).await;
            self.found(Fault::DatabasePutBack).await;
        }
        // A file may only be replaced while no process has it open, as the guide says.
        if self.settings.sqlite || one_in(random, 2) {
            self.stop_all();
        }
        self.database.put_back().await;
        if let Some(copied) = self.copy.take() {
            self.sent.put_back(&copied, self.generation);
        }
        self.start_all();
    }

    /// Waits until everything that was sent has been read.
    pub(crate) async fn found(&mut self, fault: Fault) {
        self.settle(fault).await;
        self.sent.found(self.evidence.lists.len());
    }

    /// Empties the tables.
    pub(crate) async fn empty_tables(&mut self, random: &mut Random) {
        if one_in(random, 2) {
            self.stop_all();
        }
        let sql = "BEGIN; DELETE FROM publication; DELETE FROM ingest_position; COMMIT";
        eventually("the tables to be emptied", PATIENCE, async || {
            self.database.execute(sql).await.is_ok()
        })
        .await;
        self.sent.put_back(&[], self.generation);
        self.start_all();
    }

    pub(crate) async fn take_copy(&mut self) {
        self.database.take_copy().await;
        self.copy = Some(self.sent.copied());
    }
}
