//! Runs a schedule: its topic, group, database, lists and ingesters, and its steps in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testkit::{Pgbouncer, Producer, Proxy, Transaction, eventually, host_of};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::database::{Database, SECRET};
use crate::event::ACR;
use crate::random::Random;
use crate::record::{CODECS, MAX_EVENT, Maker, Outgoing};
use crate::rule::{Evidence, believes};
use crate::schedule::{Fault, Schedule, Settings, Step, index, one_in, pick};
use crate::sent::{Copied, SentRecords, Stored};
use crate::servers::{Installation, Servers};
use crate::support::{Running, Scene};

/// The deadline of a wait with one broker. After it something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Maximum number of records produced together.
pub(crate) const CHUNK: usize = 60;

/// The state of a schedule.
pub(crate) struct Run<'w> {
    pub(crate) servers: &'w mut Installation,
    pub(crate) scene: Scene,
    pub(crate) settings: Settings,
    pub(crate) database: Database,
    pub(crate) ingesters: Vec<Running>,
    pub(crate) sent: SentRecords,
    pub(crate) evidence: Evidence,
    pub(crate) lists: PathBuf,
    pub(crate) generation: i32,
    /// The copy of the database for a later restore.
    pub(crate) copy: Option<Copied>,
    /// The logs of ingesters that have ended.
    pub(crate) logs: String,
    /// Number of second and further dead letters of a record, at the last check.
    pub(crate) repeated: usize,
    /// How often an ingester was started or has ended.
    pub(crate) changes: usize,
    /// Whether the operator has told the ingesters to continue after a gap.
    pub(crate) reads_on: bool,
    /// The number of lost records that the current step must show; `None` when not known.
    pub(crate) gap: Option<f64>,
    /// Visible records that the current step has sent.
    pub(crate) sent_now: usize,
    pub(crate) pooler: Option<Pgbouncer>,
    proxied_store: String,
}

/// A task that sends records during a fault, with their positions as its result.
pub(crate) type Sending = JoinHandle<Vec<(Outgoing, (i32, i64))>>;

impl<'w> Run<'w> {
    pub(crate) async fn set(servers: &'w mut Servers, schedule: &Schedule) -> Self {
        let settings = schedule.settings.clone();
        let servers = servers.installation(settings.cluster);
        let mut scene = Scene::on(servers.nodes.kafka.brokers(), "chance", String::new());
        let pooler = settings.pooler.then(|| servers.pooler());
        servers.lead_to_postgres(pooler.as_ref());
        let proxied_store;
        if settings.sqlite {
            scene.store =
                format!("sqlite://{}", scene.directory.path().join("publications.db").display());
            proxied_store = scene.store.clone();
        } else {
            scene.store = servers.postgres.database().await.url;
            let proxied =
                scene.store.replace(host_of(&scene.store), &servers.to_postgres.address());
            proxied_store = proxied.replace("postgres@", &format!("postgres:{SECRET}@"));
        }
        scene.make_topic(settings.partitions, &[]).await;
        let lists = scene.directory.path().join("lists");
        std::fs::create_dir(&lists).expect("a folder can be made");
        let database = Database::of(&scene);
        let mut run = Self {
            servers,
            scene,
            settings,
            database,
            ingesters: Vec::new(),
            sent: SentRecords::default(),
            evidence: Evidence::default(),
            lists,
            generation: 0,
            copy: None,
            logs: String::new(),
            repeated: 0,
            changes: 0,
            reads_on: false,
            gap: None,
            sent_now: 0,
            pooler,
            proxied_store,
        };
        run.start_all();
        run.settle(Fault::Nothing).await;
        run
    }

    /// The ingester's settings in this schedule. Commands use the same.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let Settings { max_rows, max_bytes, in_flight, linger, commit_interval, .. } =
            &self.settings;
        let acr = format!("[\"{ACR}\"]");
        let (acr_true, acr_false) =
            if believes(self.generation) { (acr.as_str(), "[]") } else { ("[]", acr.as_str()) };
        let on_gap = if self.settings.stop_on_gap && !self.reads_on { "stop" } else { "continue" };
        let mut environment = BTreeMap::from([
            ("KAFKA__BROKERS", self.servers.bootstrap()),
            ("STORE__URL", self.proxied_store.clone()),
            ("KAFKA__ON_GAP", on_gap.to_owned()),
            ("KAFKA__COMMIT_INTERVAL", (*commit_interval).to_owned()),
            ("KAFKA__CLIENT__SOCKET_TIMEOUT_MS", "10000".to_owned()),
            ("KAFKA__CLIENT__TOPIC_METADATA_REFRESH_INTERVAL_MS", "1000".to_owned()),
            ("LIMITS__MAX_EVENT_BYTES", format!("{MAX_EVENT}B")),
            ("BATCH__MAX_ROWS", max_rows.to_string()),
            ("BATCH__MAX_BYTES", (*max_bytes).to_owned()),
            ("BATCH__LINGER", (*linger).to_owned()),
            ("BATCH__IN_FLIGHT", in_flight.to_string()),
            ("ENRICH__GENERATION", self.generation.to_string()),
            ("TFA__ACR_TRUE", acr_true.to_owned()),
            ("TFA__ACR_FALSE", acr_false.to_owned()),
            ("TOR__SNAPSHOTS", self.lists.display().to_string()),
            ("TOR__REFRESH_EVERY", "1s".to_owned()),
            ("TOR__SETTLE_HORIZON", "30years".to_owned()),
            ("STORE__STATEMENT_TIMEOUT", "5s".to_owned()),
        ]);
        if self.settings.consumer_protocol {
            environment.insert("KAFKA__CLIENT__GROUP_PROTOCOL", "consumer".to_owned());
        } else {
            let session = self.servers.session_millis.to_string();
            environment.insert("KAFKA__CLIENT__SESSION_TIMEOUT_MS", session);
            environment.insert("KAFKA__CLIENT__HEARTBEAT_INTERVAL_MS", "500".to_owned());
        }
        environment.into_iter().map(|(name, value)| (format!("INGESTER_{name}"), value)).collect()
    }

    pub(crate) fn start_ingester(&mut self) {
        let environment = self.environment();
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.changes += 1;
        self.ingesters.push(self.scene.start_ingester(&environment));
    }

    pub(crate) fn start_all(&mut self) {
        while self.ingesters.len() < self.settings.ingesters {
            self.start_ingester();
        }
    }

    /// Stops an ingester, which must end cleanly and in time.
    pub(crate) fn stop_ingester(&mut self, number: usize) {
        let log = self.ingesters.remove(number).stop();
        self.changes += 1;
        self.logs.push_str(&log);
    }

    pub(crate) fn stop_all(&mut self) {
        while !self.ingesters.is_empty() {
            self.stop_ingester(0);
        }
    }

    /// A random ingester.
    pub(crate) fn any(&self, random: &mut Random) -> usize {
        index(random, self.ingesters.len())
    }

    /// Runs a step and checks its results.
    pub(crate) async fn step(&mut self, step: Step) {
        let mut random = Random::new(step.seed);
        let mut maker = Maker::new(step.number, random.below(u64::MAX));
        self.gap = None;
        self.sent_now = 0;
        let before = self.totals();
        self.send(&mut random, &mut maker).await;
        self.act(step.fault, &mut random, &mut maker).await;
        self.send(&mut random, &mut maker).await;
        self.check(step.fault, before).await;
        self.mend_brokers().await;
        if self.copy.is_none() && one_in(&mut random, 4) {
            self.take_copy().await;
        }
    }

    async fn act(&mut self, fault: Fault, random: &mut Random, maker: &mut Maker) {
        match fault {
            Fault::DatabasePutBack => self.put_database_back(random, maker).await,
            Fault::TableEmptied => self.empty_tables(random).await,
            Fault::Nothing => {}
            Fault::Promoted | Fault::BothAtOnce | Fault::AddressMoved => {
                self.fail_over(fault, random, maker).await;
            }
            Fault::Poison => {
                let records = maker.rejected(20 + index(random, 100));
                self.put(records).await;
            }
            Fault::OpenTransaction
            | Fault::AbandonedTransaction
            | Fault::UncleanElection
            | Fault::Retention
            | Fault::TopicRecreated
            | Fault::Partitions
            | Fault::LogCut => self.act_on_topic(fault, random, maker).await,
            Fault::OffsetsDeleted
            | Fault::OffsetsReset
            | Fault::OffsetsForward
            | Fault::Replay
            | Fault::Redrive
            | Fault::Reconcile
            | Fault::Generation
            | Fault::Lists => self.operate(fault, random, maker).await,
            _ => {
                let sending = self.meanwhile(random, maker);
                self.a_while(random, 300).await;
                self.act_beside_records(fault, random).await;
                self.join(sending).await;
            }
        }
    }

    /// Runs a fault of the machines while records are being sent.
    async fn act_beside_records(&mut self, fault: Fault, random: &mut Random) {
        match fault {
            Fault::Kill | Fault::Terminate | Fault::Freeze | Fault::Scale => {
                self.act_on_ingester(fault, random).await;
            }
            Fault::BrokerKilled | Fault::BrokerRestarted | Fault::BrokerFrozen => {
                self.act_on_broker(fault, random).await;
            }
            Fault::ComeAndGo => self.come_and_go(random).await,
            Fault::OneBrokerKilled
            | Fault::OneBrokerFrozen
            | Fault::TwoBrokersAway
            | Fault::AllBrokersKilled
            | Fault::RollingRestart
            | Fault::ReplicasMoved => self.act_on_brokers(fault, random).await,
            Fault::NetworkCut
            | Fault::NetworkSlow
            | Fault::NetworkMute
            | Fault::NetworkForgets
            | Fault::AnswersLost => self.act_on_network(fault, random).await,
            _ => self.act_on_database(fault, random).await,
        }
    }

    /// Sends a part of the step's records, sometimes in a transaction.
    async fn send(&mut self, random: &mut Random, maker: &mut Maker) {
        let records = maker.records(index(random, CHUNK));
        match random.below(12) {
            0 => {
                // Aborted records, which no consumer may see. Their names are in no other record.
                let aborted = Maker::new(50_000 + self.sent.records.len(), random.below(u64::MAX));
                self.put_aborted(aborted).await;
                self.put(records).await;
                self.put_behind(maker).await;
            }
            1 => {
                let transaction = Transaction::begin(&self.scene.brokers, "committed").await;
                let outgoing = records.iter().map(|outgoing| outgoing.record.clone());
                let places = transaction.produce(&self.scene.topic, outgoing).await;
                transaction.end(true).await;
                self.took(records.into_iter().zip(places));
                self.put_behind(maker).await;
            }
            _ => {
                let codec = pick(random, &CODECS);
                let producer = Producer::compressing(&self.scene.brokers, codec);
                let sending = sending(producer, self.scene.topic.clone(), records);
                self.join(sending).await;
            }
        }
    }

    /// Sends a record after the control records of transactions, because the group never commits past those alone.
    pub(crate) async fn put_behind(&mut self, maker: &mut Maker) {
        let mut records = Vec::new();
        for partition in 0..self.settings.partitions {
            let mut outgoing = maker.records(1);
            outgoing[0].record.partition = Some(partition);
            records.append(&mut outgoing);
        }
        self.put(records).await;
    }

    async fn put_aborted(&mut self, mut maker: Maker) {
        let transaction = Transaction::begin(&self.scene.brokers, "aborted").await;
        let records = maker.records(20).into_iter().map(|outgoing| outgoing.record);
        transaction.produce(&self.scene.topic, records).await;
        transaction.end(false).await;
    }

    /// Sends records and waits for the broker.
    pub(crate) async fn put(&mut self, records: Vec<Outgoing>) {
        let producer = Producer::new(&self.scene.brokers);
        self.join(sending(producer, self.scene.topic.clone(), records)).await;
    }

    /// Sends records of the step in the background. [`Run::join`] waits for the broker.
    pub(crate) fn meanwhile(&self, random: &mut Random, maker: &mut Maker) -> Sending {
        let records = maker.records(10 + index(random, CHUNK));
        let producer = Producer::new(&self.scene.brokers);
        sending(producer, self.scene.topic.clone(), records)
    }

    pub(crate) async fn join(&mut self, sending: Sending) {
        let sent = sending.await.expect("the broker takes the records");
        self.took(sent);
    }

    pub(crate) fn took(&mut self, sent: impl IntoIterator<Item = (Outgoing, (i32, i64))>) {
        let evaluated =
            Stored { seen: false, generation: self.generation, lists: self.evidence.lists.len() };
        for (outgoing, place) in sent {
            self.sent.add(outgoing, place, evaluated);
            self.sent_now += 1;
        }
    }

    /// The deadline of a wait. A cluster is slower: it elects leaders, and its session timeout is longer.
    pub(crate) fn patience(&self) -> Duration {
        if self.settings.cluster { 2 * PATIENCE } else { PATIENCE }
    }

    /// The sum of a metric over all ingesters.
    pub(crate) fn counted(&self, metric: &str) -> f64 {
        self.ingesters.iter().map(|running| running.metrics().sum(metric)).sum()
    }

    /// Waits for a random time below `millis`.
    pub(crate) async fn a_while(&self, random: &mut Random, millis: u64) {
        let until = Instant::now() + random.millis(millis);
        eventually("the time of a fault", PATIENCE, async || Instant::now() >= until).await;
    }

    /// Stops everything cleanly, which must succeed and must not change the results.
    pub(crate) async fn end(mut self) {
        self.stop_all();
        self.compare(Fault::Nothing).await.unwrap_or_else(|wrong| panic!("after the end: {wrong}"));
        self.look_for_secrets().await;
        self.database.close().await;
        self.servers.proxies().for_each(Proxy::cut);
    }
}

fn sending(producer: Producer, topic: String, records: Vec<Outgoing>) -> Sending {
    let runtime = tokio::runtime::Handle::current();
    spawn_blocking(move || {
        let mut sent = Vec::new();
        // In small parts, so that a fault comes in between.
        for part in records.chunks(10) {
            let outgoing = part.iter().map(|outgoing| outgoing.record.clone());
            let places = runtime.block_on(producer.produce(&topic, outgoing));
            sent.extend(part.iter().cloned().zip(places));
        }
        sent
    })
}
