//! Faults of a database server: a standby replaces it, or it has no connection left.

use testkit::{Pgbouncer, Postgres, StopMode, eventually, host_of};

use crate::database::Database;
use crate::random::Random;
use crate::record::Maker;
use crate::run::{CHUNK, Run};
use crate::schedule::{Fault, index, one_in};
use crate::server::{standby_of, take_connections};

/// The number of records that were read again because the database lacked what they had written.
const REWOUND: &str = "store_rewound_records_total";

impl Run<'_> {
    /// A standby takes the place of the primary, with or without its last commits.
    pub(crate) async fn fail_over(&mut self, fault: Fault, random: &mut Random, maker: &mut Maker) {
        self.found(fault).await;
        let lacks_commits = one_in(random, 2);
        let standby = standby_of(&self.servers.postgres, lacks_commits).await;
        let has = self.sent.copied();
        let mut lacks_read = false;
        if lacks_commits {
            self.put(maker.records(1 + index(random, CHUNK))).await;
            if one_in(random, 2) {
                self.found(fault).await;
                lacks_read = true;
            }
        }
        let before = self.counted(REWOUND);
        let sending = self.meanwhile(random, maker);
        self.a_while(random, 300).await;
        if fault == Fault::AddressMoved {
            self.servers.to_postgres.silence();
        } else {
            if fault == Fault::BothAtOnce {
                let coordinator = self.servers.nodes.coordinator().await;
                self.servers.nodes.kill(&[coordinator]);
            }
            self.servers.postgres.stop(StopMode::Immediate);
        }
        self.some_time(random).await;
        standby.promote().await;
        let old = self.move_database_to(standby).await;
        if fault == Fault::AddressMoved {
            // Also for connections that were made to the old server meanwhile: nothing else keeps it from taking rows.
            self.servers.to_postgres.silence();
        }
        self.sent.put_back(&has, self.generation);
        self.join(sending).await;
        if lacks_read {
            let patience = self.patience();
            eventually("what the standby lacked to be counted", patience, async || {
                self.counted(REWOUND) > before
            })
            .await;
        }
        // Until the ingesters have found the new server, their connections to the old one hang.
        self.settle(fault).await;
        drop(old);
    }

    /// Moves the database to another server. Returns the old server and its pooler.
    async fn move_database_to(&mut self, server: Postgres) -> (Postgres, Option<Pgbouncer>) {
        self.database.close().await;
        let url = server.url();
        self.scene.store = self.scene.store.replace(host_of(&self.scene.store), host_of(&url));
        self.database = Database::of(&self.scene);
        let old = std::mem::replace(&mut self.servers.postgres, server);
        let pooler = self.settings.pooler.then(|| self.servers.pooler());
        self.servers.lead_to_postgres(pooler.as_ref());
        (old, std::mem::replace(&mut self.pooler, pooler))
    }

    /// Other clients use up the server's connections for a while.
    pub(crate) async fn use_up_connections(&mut self, random: &mut Random) {
        let mut taken = Vec::new();
        let patience = self.patience();
        eventually("no connection to be left for the ingesters", patience, async || {
            take_connections(&self.scene.store, &mut taken).await
        })
        .await;
        self.some_time(random).await;
    }

    /// Another ingester comes and goes.
    pub(crate) async fn come_and_go(&mut self, random: &mut Random) {
        for _ in 0..=index(random, 3) {
            self.start_ingester();
            let last = self.ingesters.len() - 1;
            let patience = self.patience();
            eventually("the further ingester to answer", patience, async || {
                self.ingesters[last].readyz().is_some()
            })
            .await;
            self.a_while(random, 3_000).await;
            self.stop_ingester(last);
            self.a_while(random, 3_000).await;
        }
    }
}
