//! The servers with proxies before them, and a topic, a group, a database and ingesters for each fault.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use testkit::{
    Cluster, Daemon, Kafka, NetworkFault, Postgres, Producer, Proxy, consume_all, eventually,
};

use crate::load::{self, Load, Made, Oracle, Target};
use crate::random::Random;
use crate::report::Outcome;
use crate::support::{Running, Scene, generated, publisher};
use crate::{Plan, cluster};

/// For an ingester that is to go on by itself; afterwards something is broken.
const PATIENCE: Duration = Duration::from_secs(180);
/// The listener of a broker behind the proxy.
const PROXIED: &str = "PROXIED";
const RECORDS_TOTAL: &str = "publication_ingester_records_total{";
/// The session time-out of the run, which its broker allows.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

/// The servers of a whole run.
pub(crate) struct Servers {
    /// One broker behind a proxy, or several without.
    pub(crate) kafka: Cluster,
    /// The brokers that a fault has ended and nobody has started again.
    pub(crate) down: Vec<i32>,
    pub(crate) postgres: Postgres,
    pub(crate) to_kafka: Proxy,
    pub(crate) to_postgres: Proxy,
    pub(crate) random: Random,
    /// Whether outages last as long as the issue's; seconds otherwise.
    pub(crate) full: bool,
    /// The folder of an earlier build's programs, to upgrade from.
    pub(crate) earlier: Option<PathBuf>,
    /// Whether the broker assigns the partitions, instead of a member.
    broker_assigns: bool,
}

impl Servers {
    pub(crate) fn start(brokers: usize, plan: &Plan) -> Self {
        let (to_kafka, to_postgres) = (Proxy::start(), Proxy::start());
        let mut kafka = Kafka::builder();
        if brokers == 1 {
            kafka = kafka.listener(PROXIED, "PLAINTEXT", Some(to_kafka.port()));
        }
        // Where the broker assigns, it also decides how long a session lasts.
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
            kafka,
            down: Vec::new(),
            postgres,
            to_kafka,
            to_postgres,
            random: Random::new(plan.seed),
            full: plan.full,
            earlier: plan.earlier.clone(),
            broker_assigns: plan.broker_assigns,
        }
    }

    /// Where ingesters find the brokers.
    fn bootstrap(&self) -> String {
        if self.kafka.ids().len() == 1 { self.to_kafka.address() } else { self.kafka.brokers() }
    }
}

/// `host:port` of a URL of testkit's.
fn host_of(url: &str) -> &str {
    url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL of testkit's").0
}

fn pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(2));
    options.connect_lazy(url).expect("a URL of testkit's")
}

/// One fault's topic, group, database, load and ingesters.
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
    /// Without a topic.
    pub(crate) async fn set(servers: &'w mut Servers) -> Self {
        let store = servers.postgres.database().await.url;
        let scene = Scene::on(servers.kafka.brokers(), "faults", store);
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

    /// Another server has the database from now on. Returns the one that had it.
    pub(crate) fn move_database_to(&mut self, server: Postgres) -> Postgres {
        let host = server.url();
        self.servers.to_postgres.forward_to(host_of(&host));
        self.scene.store = self.scene.store.replace(host_of(&self.scene.store), host_of(&host));
        self.pool = pool(&self.scene.store);
        std::mem::replace(&mut self.servers.postgres, server)
    }

    /// The topic is another than the producer knows.
    pub(crate) fn look_at_topic_anew(&mut self) {
        self.target.producer = Arc::new(Producer::new(&self.scene.brokers));
    }

    /// Starts an ingester that reaches broker and database by the proxies.
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

    /// Starts the load, and waits until an ingester writes.
    pub(crate) async fn under_load(&mut self) {
        self.start_load();
        self.recovered().await;
        // That was a start and no recovery.
        self.recoveries.clear();
    }

    pub(crate) fn start_load(&mut self) {
        self.load = Some(Load::start(self.target.clone()));
    }

    /// Waits until the brokers have what was sent.
    pub(crate) fn stop_load(&mut self) {
        if let Some(load) = self.load.take() {
            load.stop();
        }
    }

    /// Waits until an ingester has done with a record again, which is the recovery from what was before, then until an
    /// event that is sent now has its row, which is behind everything that waited.
    pub(crate) async fn recovered(&mut self) {
        let began = Instant::now();
        let number = self.target.oracle().number_beside();
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

    /// Prints what the ingesters say of themselves, and whether the topic still has this event, for somebody who looks for
    /// the cause of a standstill.
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

    /// How many records each ingester has done with; 0 for one that does not answer yet.
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

    /// A number from the database itself; none while it does not answer.
    pub(crate) async fn number(&self, sql: &str) -> Option<i64> {
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool).await.ok()?;
        row.try_get(0).ok()
    }

    /// How many rows there are; 0 while the database does not answer.
    pub(crate) async fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM publication").await.unwrap_or(0)
    }

    /// Statements that may fail, as those on a server that goes away.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.map(|_| ())
    }

    /// For so long the condition must hold, looked at all the time; the load goes on.
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

    /// A random moment under load.
    pub(crate) async fn a_while(&mut self, millis: u64) {
        let time = self.servers.random.millis(millis);
        self.for_a(time, async |_| true).await;
    }

    /// Stops the load, waits until everything is read, and compares.
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
        let rows = sqlx::query("SELECT name, username, revision, disputed FROM publication")
            .fetch_all(&self.pool)
            .await
            .expect("the database is back");
        let mut expected = std::mem::take(&mut self.target.oracle().rows);
        outcome.rows = expected.len();
        for row in rows {
            let (name, username): (String, Option<String>) = (row.get(0), row.get(1));
            let (revision, disputed): (i32, bool) = (row.get(2), row.get(3));
            let number = name.strip_prefix("package-").and_then(|text| text.parse().ok());
            let Some((number, row)) = number.and_then(|number| expected.remove_entry(&number))
            else {
                outcome.doubled += 1;
                continue;
            };
            let revision = u32::try_from(revision).expect("a revision is not below 0");
            let allowed = row.least.unwrap_or(0)..=row.most;
            let is_right = username == Some(publisher(number, revision));
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
