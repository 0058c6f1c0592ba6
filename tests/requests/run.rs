//! One seed on the real parts: clients that ask by chance, a steady witness, rows that come, and faults one after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use testkit::{Daemon, Postgres, Proxy, eventually, free_port, http_get};

use crate::clients::Clients;
use crate::document::Cursors;
use crate::document::Document;
use crate::expect::{Field, Root, Selection};
use crate::faults::{Fault, POSTGRES, SQLITE, execute};
use crate::http::PATIENCE;
use crate::judge::Outcome;
use crate::pick;
use crate::random::Random;
use crate::request::{Want, send};
use crate::rows::{Row, Table, insert};
use crate::settings::{MAX_MEMORY, PASSWORD, Settings, TOKEN};

/// The daemon's role: it may read the rows and nothing else.
pub(crate) const READER: &str = "reader";
/// After a fault's end all is well again within this time: time-outs of connections and statements, and a machine at work.
const RECOVERY: Duration = Duration::from_secs(20);
const CLIENTS: usize = 3;
/// Requests of each client before a fault, and after it.
const REQUESTS: u64 = 12;

/// The servers that seeds share.
pub(crate) struct Servers {
    pub(crate) postgres: Postgres,
    pub(crate) proxy: Proxy,
}

impl Servers {
    pub(crate) fn start() -> Self {
        let (postgres, proxy) = (Postgres::start(), Proxy::start());
        proxy.forward_to(host_of(&postgres.url()));
        Self { postgres, proxy }
    }
}

fn host_of(url: &str) -> &str {
    url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL of testkit's").0
}

/// What a seed stands for.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    /// Each with its number and a seed of its own.
    pub(crate) steps: Vec<(usize, u64, Fault)>,
}

impl Schedule {
    pub(crate) fn of(seed: u64, length: usize) -> Self {
        let mut random = Random::new(seed);
        let settings = Settings::of(&mut random);
        let faults: &[Fault] = if settings.sqlite { &SQLITE } else { &POSTGRES };
        let steps =
            (0..length).map(|number| (number, random.below(u64::MAX), pick(&mut random, faults)));
        let steps = steps.collect();
        Self { seed, settings, steps }
    }
}

/// The parts of a seed.
pub(crate) struct Stage<'s> {
    pub(crate) servers: &'s mut Servers,
    pub(crate) settings: Settings,
    /// The database's URL for who owns it.
    pub(crate) store: String,
    pub(crate) table: Arc<Table>,
    pub(crate) cursors: Arc<Cursors>,
    /// Held by who writes rows.
    pub(crate) gate: Arc<tokio::sync::Mutex<()>>,
    pub(crate) daemon: Daemon,
    pub(crate) http: String,
    admin: String,
    directory: TempDir,
    /// Even while all is well.
    epoch: Arc<AtomicU64>,
    pub(crate) counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl<'s> Stage<'s> {
    pub(crate) async fn set(servers: &'s mut Servers, schedule: &Schedule) -> Self {
        let mut random = Random::new(schedule.seed ^ 0x5eed);
        let settings = schedule.settings.clone();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (store, url);
        if settings.sqlite {
            store = format!("sqlite://{}", directory.path().join("publications.db").display());
            url = store.clone();
        } else {
            store = servers.postgres.database().await.url;
            let reader = store.replace("postgres@", &format!("{READER}:{PASSWORD}@"));
            url = reader.replace(host_of(&store), &servers.proxy.address());
        }
        let migrated = Daemon::command("publication-ingester")
            .arg("migrate")
            .env("INGESTER_STORE__URL", &store);
        assert_eq!(migrated.spawn().wait_exit(PATIENCE).code(), Some(0), "the tables are made");
        if !settings.sqlite {
            // A role belongs to the server, which seeds share.
            let _ =
                execute(&store, &format!("CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")).await;
            execute(&store, &format!("GRANT SELECT ON publication TO {READER}"))
                .await
                .expect("a right can be given");
        }
        let table =
            Table::of(&mut random, if settings.growing { 40 * schedule.steps.len() } else { 4 });
        let (http, admin) = (free_address(), free_address());
        let daemon = Daemon::command("publication-query")
            .arg("serve")
            .env("QUERY_STORE__URL", &url)
            .env("QUERY_HTTP__LISTEN", &http)
            .env("QUERY_ADMIN__LISTEN", &admin);
        let daemon = settings
            .environment()
            .iter()
            .fold(daemon, |daemon, (name, value)| daemon.env(name, value));
        let stage = Self {
            servers,
            settings,
            store,
            table: Arc::new(table),
            cursors: Arc::default(),
            gate: Arc::default(),
            daemon: daemon.spawn(),
            http,
            admin,
            directory,
            epoch: Arc::default(),
            counts: Arc::default(),
        };
        stage.put(stage.table.rows(0)).await.expect("rows can be put in");
        let mut stage = stage;
        let admin = stage.admin.clone();
        stage.daemon.wait_ready(admin);
        stage
    }

    async fn put(&self, rows: &[Row]) -> Result<(), sqlx::Error> {
        put(&self.store, rows).await
    }

    /// The file of the rows.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("publications.db")
    }

    /// One fault, with what is asked before, meanwhile and afterwards.
    pub(crate) async fn step(&mut self, (number, seed, fault): (usize, u64, Fault)) {
        let mut random = Random::new(seed);
        let over = AtomicBool::new(false);
        let wrong = Mutex::new(None);
        let clients = Clients {
            table: self.table.clone(),
            cursors: self.cursors.clone(),
            settings: self.settings.clone(),
            http: self.http.clone(),
            epoch: self.epoch.clone(),
            counts: self.counts.clone(),
            made: AtomicU64::new(0),
        };
        let (store, gate, table, runtime) = (
            self.store.clone(),
            self.gate.clone(),
            self.table.clone(),
            tokio::runtime::Handle::current(),
        );
        let growing = self.settings.growing;
        let seeds: Vec<u64> = (0..CLIENTS + 2).map(|_| random.below(u64::MAX)).collect();
        let until = AtomicU64::new(REQUESTS * CLIENTS as u64);
        let (clients, over, wrong, until) = (&clients, &over, &wrong, &until);
        thread::scope(|scope| {
            let _ends = Ends(over);
            let guarded = |work: &dyn Fn() -> Result<(), String>| {
                if let Err(what) = work() {
                    wrong.lock().expect("no panic").get_or_insert(what);
                    over.store(true, Ordering::SeqCst);
                }
            };
            for seed in &seeds[..CLIENTS] {
                scope.spawn(move || guarded(&|| clients.ask(&mut Random::new(*seed), over)));
            }
            scope.spawn(move || guarded(&|| clients.witness(over)));
            if growing {
                let seed = seeds[CLIENTS + 1];
                scope.spawn(move || runtime.block_on(grow(&store, &gate, &table, seed, over)));
            }
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let asked = async |count: u64| {
                        eventually("the clients to ask", 4 * PATIENCE, async || {
                            over.load(Ordering::SeqCst)
                                || clients.made.load(Ordering::SeqCst) >= count
                        })
                        .await;
                    };
                    asked(until.load(Ordering::SeqCst)).await;
                    if fault.hurts() {
                        self.epoch.fetch_add(1, Ordering::SeqCst);
                    }
                    self.suffer(fault, &mut random).await;
                    if fault.hurts() && !over.load(Ordering::SeqCst) {
                        self.recover(clients, fault).await;
                        self.epoch.fetch_add(1, Ordering::SeqCst);
                    }
                    asked(clients.made.load(Ordering::SeqCst) + REQUESTS * CLIENTS as u64).await;
                });
            });
        });
        if let Some(wrong) = wrong.lock().expect("no panic").take() {
            panic!("{wrong}");
        }
        self.look(number);
    }

    /// All is well again when the daemon says so and a lookup on each of its connections is answered.
    async fn recover(&self, clients: &Clients, fault: Fault) {
        let ended = Instant::now();
        let mut last = String::new();
        let mut is_well = || {
            if !http_get(&self.admin, "/readyz").is_ok_and(|(status, _)| status == 200) {
                last = "/readyz is not 200".to_owned();
                return false;
            }
            let many = || clients.once(&witness(&self.table, &self.settings), false);
            let outcomes: Vec<_> = thread::scope(|scope| {
                let asking: Vec<_> = (0..16).map(|_| scope.spawn(many)).collect();
                asking.into_iter().map(|own| own.join().expect("no panic")).collect()
            });
            last = format!("{:?}", outcomes.iter().find(|own| **own != Ok(Outcome::Right)));
            outcomes.iter().all(|own| *own == Ok(Outcome::Right))
        };
        while !is_well() {
            assert!(
                ended.elapsed() < RECOVERY,
                "not well {RECOVERY:?} after \"{}\": {last}\n{}",
                fault.name(),
                self.daemon.log()
            );
        }
        let millis = usize::try_from(ended.elapsed().as_millis()).unwrap_or(usize::MAX);
        let mut counts = self.counts.lock().expect("no panic");
        let longest = counts.entry("longest recovery, ms").or_default();
        *longest = millis.max(*longest);
    }

    /// Memory and log.
    fn look(&mut self, number: usize) {
        assert!(
            self.daemon.is_running(),
            "the daemon ended in step {number}:\n{}",
            self.daemon.log()
        );
        let peak = self.daemon.peak_memory().unwrap_or_default();
        assert!(peak < MAX_MEMORY, "the daemon held {peak} bytes");
        let log = self.daemon.log();
        for secret in [PASSWORD, TOKEN] {
            assert!(!log.contains(secret), "the log has a secret:\n{log}");
        }
        let panics = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(panics, None, "a request panicked");
        let mut counts = self.counts.lock().expect("no panic");
        let most = counts.entry("peak memory, MiB").or_default();
        *most = usize::try_from(peak >> 20).unwrap_or(usize::MAX).max(*most);
    }

    /// Ends the daemon in good order.
    pub(crate) fn end(mut self) -> BTreeMap<&'static str, usize> {
        self.daemon.terminate();
        let status = self.daemon.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "the exit code:\n{}", self.daemon.log());
        let counts = self.counts.lock().expect("no panic");
        counts.clone()
    }
}

/// Ends the others' work, also where this one panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The first row, asked for again and again.
pub(crate) fn witness(table: &Table, settings: &Settings) -> crate::request::Request {
    let row = &table.all[0];
    let of = ["created", "tor", "tfa", "username", "integrity"];
    let fields =
        of.map(|name| (name.to_owned(), Field { name: name.to_owned(), of: Selection::new() }));
    let info = Field { name: "publicationInfo".to_owned(), of: Selection::from(fields) };
    let root = Root::Package(Some((row.name.clone(), row.version.clone())));
    let text = format!(
        "query($n: String!, $v: String!) {{ package(name: $n, version: $v) {{ publicationInfo {{ {} }} }} }}",
        of.join(" ")
    );
    let roots =
        vec![("package".to_owned(), root, Selection::from([("publicationInfo".to_owned(), info)]))];
    let variables =
        json!({"n": row.name, "v": row.version}).as_object().cloned().unwrap_or_default();
    let given =
        json!({"query": text, "variables": variables}).as_object().cloned().unwrap_or_default();
    let mut request =
        send(&mut Random::new(1), settings, given, Want::Rows(Document { text, variables, roots }));
    request.pause = None;
    request
}

async fn put(store: &str, rows: &[Row]) -> Result<(), sqlx::Error> {
    let zero = if store.starts_with("sqlite:") {
        "zeroblob(16)"
    } else {
        "decode(repeat('00', 16), 'hex')"
    };
    execute(store, &insert(rows).replace(", X, ", &format!(", {zero}, "))).await
}

/// Puts in rows now and then; one lot that fails is put in again until it is there.
async fn grow(
    store: &str,
    gate: &tokio::sync::Mutex<()>,
    table: &Table,
    seed: u64,
    over: &AtomicBool,
) {
    let mut random = Random::new(seed);
    while !over.load(Ordering::SeqCst) {
        let until = Instant::now() + random.millis(250);
        eventually("the next rows' time", PATIENCE, async || Instant::now() >= until).await;
        let _gate = gate.lock().await;
        let Some(rows) = table.begin_next() else { return };
        eventually("rows to be put in", 4 * PATIENCE, async || put(store, rows).await.is_ok())
            .await;
        table.done();
    }
}
