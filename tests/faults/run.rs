//! The servers behind proxies, and a topic, a group, a database and ingesters for each fault.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use testkit::{
    Cluster, Daemon, Kafka, NetworkFault, Postgres, Producer, Proxy, consume_all, eventually,
    host_of,
};

use crate::load::{self, Load, Made, Oracle, Target};
use crate::nodes::Nodes;
use crate::random::Random;
use crate::report::Outcome;
use crate::support::{Running, Scene, generated, identity, publisher};
use crate::{Plan, cluster};

/// The deadline for an ingester to recover. After it something is broken.
const PATIENCE: Duration = Duration::from_secs(180);
/// The broker's listener for the proxy.
const PROXIED: &str = "PROXIED";
const RECORDS_TOTAL: &str = "publication_ingester_records_total{";
/// The day and the source of the events that `generated` makes: 2024-03-05.
const DAY: i64 = 1_709_596_800;
const SOURCE: &str = "/registry/npm/publish";
/// The session timeout of the run, which its broker allows.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

/// The servers of the whole run.
pub(crate) struct Servers {
    /// One broker behind a proxy, or several without a proxy.
    pub(crate) nodes: Nodes,
    pub(crate) postgres: Postgres,
    pub(crate) to_kafka: Proxy,
    pub(crate) to_postgres: Proxy,
    pub(crate) random: Random,
    /// Whether outages have their full length, or only seconds.
    pub(crate) full: bool,
    /// The folder of an earlier build's programs, to upgrade from.
    pub(crate) earlier: Option<PathBuf>,
    /// Whether the broker assigns the partitions, not a member.
    broker_assigns: bool,
}

impl Servers {
    pub(crate) fn start(brokers: usize, plan: &Plan) -> Self {
        let (to_kafka, to_postgres) = (Proxy::start(), Proxy::start());
        let mut kafka = Kafka::builder();
        if brokers == 1 {
            kafka = kafka.listener(PROXIED, "PLAINTEXT", Some(to_kafka.port()));
        }
        // When the broker assigns partitions, it also decides the session timeout.
        for (name, time) in
            [("session.timeout.ms", SESSION), ("heartbeat.interval.ms", SESSION / 3)]
        {
            for bound in ["", "min."] {
                let key = format!("group.consumer.{bound}{name}");
                kafka = kafka.property(&key, time.as_millis());
            }
        }
        let mut kafka = Cluster::start(&kafka, brokers);
        if brokers == 1 {
            to_kafka.forward_to(&kafka.node(1).listener(PROXIED));
        }
        let postgres = Postgres::start();
        to_postgres.forward_to(host_of(&postgres.url()));
        Self {
            nodes: Nodes::new(kafka),
            postgres,
            to_kafka,
            to_postgres,
            random: Random::new(plan.seed),
            full: plan.full,
            earlier: plan.earlier.clone(),
            broker_assigns: plan.broker_assigns,
        }
    }

    /// The bootstrap servers for ingesters.
    fn bootstrap(&self) -> String {
        let nodes = &self.nodes;
        if nodes.are_several() { nodes.kafka.brokers() } else { self.to_kafka.address() }
    }
}

fn pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(2));
    options.connect_lazy(url).expect("a URL of testkit's")
}

/// The topic, group, database, load and ingesters of a fault.
pub(crate) struct Run<'w> {
    pub(crate) servers: &'w mut Servers,
    pub(crate) scene: Scene,
    pub(crate) target: Target,
    pub(crate) ingesters: Vec<Running>,
    pub(crate) recoveries: Vec<f64>,
    pub(crate) note: String,
    /// Whether ingesters are started from the earlier build.
    pub(crate) starts_earlier: bool,
    load: Option<Load>,
    proxied_store: String,
    pool: PgPool,
}

impl<'w> Run<'w> {
    /// A run without a topic yet.
    pub(crate) async fn set(servers: &'w mut Servers) -> Self {
        let store = servers.postgres.database().await.url;
        let scene = Scene::on(servers.nodes.kafka.brokers(), "faults", store);
        let oracle = Arc::new(Mutex::new(Oracle::default()));
        let target = Target {
            producer: Arc::new(Producer::new(&scene.brokers)),
            topic: scene.topic.clone(),
            oracle,
        };
        let proxied_store =
            scene.store.replace(host_of(&scene.store), &servers.to_postgres.address());
        Self {
            pool: pool(&scene.store),
            servers,
            scene,
            target,
            ingesters: Vec::new(),
            recoveries: Vec::new(),
            note: String::new(),
            starts_earlier: false,
            load: None,
            proxied_store,
        }
    }

    /// Moves the database to another server. Returns the old server.
    pub(crate) fn move_database_to(&mut self, server: Postgres) -> Postgres {
        let host = server.url();
        self.servers.to_postgres.forward_to(host_of(&host));
        self.scene.store = self.scene.store.replace(host_of(&self.scene.store), host_of(&host));
        self.pool = pool(&self.scene.store);
        std::mem::replace(&mut self.servers.postgres, server)
    }

    /// The topic was replaced. A new producer reads its metadata.
    pub(crate) fn look_at_topic_anew(&mut self) {
        self.target.producer = Arc::new(Producer::new(&self.scene.brokers));
    }

    /// Starts an ingester that reaches broker and database by way of the proxies.
    pub(crate) fn start_ingester(&mut self, environment: &[(&str, &str)]) {
        let brokers = self.servers.bootstrap();
        let protocol = if self.servers.broker_assigns {
            ("INGESTER_KAFKA__CLIENT__GROUP_PROTOCOL", "consumer")
        } else {
            ("INGESTER_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "6000")
        };
        let ours = [
            protocol,
            ("INGESTER_KAFKA__BROKERS", brokers.as_str()),
            ("INGESTER_STORE__URL", &self.proxied_store),
            ("INGESTER_KAFKA__CLIENT__SOCKET_TIMEOUT_MS", "10000"),
            ("INGESTER_KAFKA__CLIENT__TOPIC_METADATA_REFRESH_INTERVAL_MS", "1000"),
        ];
        const PROGRAM: &str = "publication-ingester";
        let earlier = self.servers.earlier.as_ref().filter(|_| self.starts_earlier);
        let program = match earlier {
            Some(folder) => Daemon::program(folder.join(PROGRAM)),
            None => Daemon::command(PROGRAM),
        };
        let running = self.scene.start_daemon(program, &[&ours[..], environment].concat());
        self.ingesters.push(running);
    }

    /// Starts the load and waits until an ingester writes.
    pub(crate) async fn under_load(&mut self) {
        self.start_load();
        self.recovered().await;
        // This was a start, not a recovery.
        self.recoveries.clear();
    }

    pub(crate) fn start_load(&mut self) {
        self.load = Some(Load::start(self.target.clone()));
    }

    /// Stops the load and waits until the brokers have its records.
    pub(crate) fn stop_load(&mut self) {
        if let Some(load) = self.load.take() {
            load.stop();
        }
    }

    /// Waits until an ingester has finished a record again, which ends the recovery time, then until a new event has
    /// its row, because it is behind all waiting records.
    pub(crate) async fn recovered(&mut self) {
        let began = Instant::now();
        let number = self.target.oracle().extra_number();
        let made = [Made::Event { number, revision: 0 }];
        self.target.put(vec![generated(number, 0)], &made).await;
        let before = self.done();
        eventually("the ingester to go on", PATIENCE, async || {
            self.assert_running();
            self.done().iter().zip(&before).any(|(now, before)| now > before)
        })
        .await;
        self.recoveries.push(began.elapsed().as_secs_f64());
        let name = format!("package-{number}");
        let sql = format!("SELECT count(*) FROM publication WHERE name = '{name}'");
        let mut is_described = false;
        eventually("the row of an event sent after the fault", PATIENCE * 2, async || {
            self.assert_running();
            if !is_described && began.elapsed() > PATIENCE {
                is_described = true;
                self.describe(number).await;
            }
            self.number(&sql).await == Some(1)
        })
        .await;
    }

    /// Prints the ingesters' state, and whether the topic still has this event, for debugging a standstill.
    async fn describe(&self, number: usize) {
        let records = testkit::consume_all(&self.scene.brokers, &self.scene.topic).await;
        let has_it = |record: &&_| load::event(record).is_some_and(|(found, _)| found == number);
        let found = records.iter().find(has_it).map(|record| (record.partition, record.offset));
        eprintln!("package-{number} is at {found:?} in the topic");
        for running in &self.ingesters {
            let (metrics, ready) = (running.metrics(), running.readyz());
            let [lag, states] = ["lag_records", "partition_state"].map(|name| metrics.family(name));
            eprintln!("{ready:?}, lag {lag:?}, states {states:?}\n{}", running.daemon.log());
        }
    }

    /// How many records each ingester has finished; 0 without an answer.
    fn done(&self) -> Vec<f64> {
        let page = |running: &Running| testkit::http_get(&running.admin, "/metrics").ok();
        let done = |page: String| {
            let lines = page.lines().filter(|line| line.starts_with(RECORDS_TOTAL));
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        let each =
            self.ingesters.iter().map(|running| page(running).map_or(0.0, |(_, page)| done(page)));
        each.collect()
    }

    fn assert_running(&mut self) {
        for running in &mut self.ingesters {
            assert!(running.daemon.is_running(), "an ingester ended:\n{}", running.daemon.log());
        }
    }

    /// The number that a query returns; `None` without an answer from the database.
    pub(crate) async fn number(&self, sql: &str) -> Option<i64> {
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool).await.ok()?;
        row.try_get(0).ok()
    }

    /// The number of rows; 0 without an answer from the database.
    pub(crate) async fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM publication").await.unwrap_or(0)
    }

    /// Executes statements, which may fail, for example when the server stops.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.map(|_| ())
    }

    /// Checks for `time` that the condition holds, while the load continues.
    pub(crate) async fn for_a(
        &mut self,
        time: Duration,
        mut holds: impl AsyncFnMut(&mut Self) -> bool,
    ) {
        let until = Instant::now() + time;
        eventually("the time of the fault", time + PATIENCE, async || {
            assert!(holds(self).await, "what must hold during the fault does not");
            Instant::now() >= until
        })
        .await;
    }

    /// Waits for a random time below `millis` under load.
    pub(crate) async fn a_while(&mut self, millis: u64) {
        let time = self.servers.random.millis(millis);
        self.for_a(time, async |_| true).await;
    }

    /// Stops the load, waits until everything is read, and compares the results.
    pub(crate) async fn end(mut self, outcome: Outcome) -> Outcome {
        self.servers.to_kafka.set(NetworkFault::None);
        self.servers.to_postgres.set(NetworkFault::None);
        cluster::mend(&mut self).await;
        self.stop_load();
        eventually("the group to catch up", PATIENCE, async || {
            self.assert_running();
            self.scene.lag().await == 0
        })
        .await;
        for running in self.ingesters.drain(..) {
            running.stop();
        }
        let mut outcome = self.compare_rows(outcome).await;
        self.compare_dead_letters(&mut outcome).await;
        outcome.recoveries = std::mem::take(&mut self.recoveries);
        outcome.note = std::mem::take(&mut self.note);
        self.pool.close().await;
        outcome
    }

    async fn compare_rows(&self, mut outcome: Outcome) -> Outcome {
        let sql =
            "SELECT name, username, revision, disputed, tfa, tfa_reason::text, tor, integrity,
            extract(epoch FROM created)::bigint, encode(event_identity, 'hex') FROM publication";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await.expect("the database is back");
        let mut expected = std::mem::take(&mut self.target.oracle().rows);
        outcome.rows = expected.len();
        for row in rows {
            let (name, username): (String, Option<String>) = (row.get(0), row.get(1));
            let (revision, disputed): (i32, bool) = (row.get(2), row.get(3));
            let (tfa, tfa_reason): (Option<bool>, String) = (row.get(4), row.get(5));
            let (tor, integrity): (Option<bool>, Option<String>) = (row.get(6), row.get(7));
            let (created, stored): (i64, String) = (row.get(8), row.get(9));
            let number = name.strip_prefix("package-").and_then(|text| text.parse().ok());
            let Some((number, row)) = number.and_then(|number| expected.remove_entry(&number))
            else {
                outcome.doubled += 1;
                continue;
            };
            let revision = u32::try_from(revision).expect("a revision is not below 0");
            let allowed = row.least.unwrap_or(0)..=row.most;
            // As `generated` makes the event, in which no second factor is verified. There are no exit lists.
            let even = number.is_multiple_of(2);
            let reason = if even { "second_factor_rejected" } else { "no_second_factor" };
            let second = i64::try_from(number % 86_400).expect("a number below a day");
            let is_right = username == Some(publisher(number, revision))
                && (tfa, tfa_reason.as_str(), tor) == (Some(false), reason, None)
                && (integrity, created) == (None, DAY + second)
                && stored == identity(SOURCE, &format!("{number}-{revision}"));
            if !is_right || !allowed.contains(&revision) || disputed {
                outcome.wrong += 1;
            }
        }
        outcome.lost = expected.values().filter(|row| row.least.is_some()).count();
        outcome
    }

    async fn compare_dead_letters(&self, outcome: &mut Outcome) {
        let mut expected = std::mem::take(&mut self.target.oracle().poison);
        outcome.dead_letters = expected.len();
        let mut seen = std::collections::BTreeSet::new();
        for letter in consume_all(&self.scene.brokers, &self.scene.dead_letters).await {
            let key =
                String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default()).into_owned();
            let code = letter.header("publication.error.code").unwrap_or_default();
            let planted = expected.remove(&key);
            if !seen.insert(key) {
                outcome.repeated += 1;
            } else if planted.map(|(code, _)| code) != Some(&code) {
                outcome.foreign += 1;
            }
        }
        outcome.missing = expected.values().filter(|(_, kept)| *kept).count();
    }
}
