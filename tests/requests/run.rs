//! Runs a seed: clients with random requests, a constant witness, new rows, and faults in order.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use testkit::{Daemon, eventually, free_address, host_of, http_get};

use crate::check::Outcome;
use crate::clients::Clients;
use crate::counts;
use crate::document::Cursors;
use crate::document::Document;
use crate::expect::{Field, Root, Selection};
use crate::faults::execute;
use crate::http::PATIENCE;
use crate::random::Random;
use crate::request::{Want, send};
use crate::rows::{Row, Table, insert};
use crate::schedule::{Fault, Schedule, Step};
use crate::servers::Servers;
use crate::settings::{MAX_MEMORY, PASSWORD, Settings, TOKEN};

/// The daemon's role, which may only read the rows.
pub(crate) const READER: &str = "reader";
/// The deadline for recovery after a fault: timeouts of connections and statements, on a busy machine.
const RECOVERY: Duration = Duration::from_secs(20);
const CLIENTS: usize = 3;
/// Number of requests of all clients before a fault, and after it.
const REQUESTS: u64 = 24;

/// The state of a seed's run.
pub(crate) struct Run<'s> {
    pub(crate) servers: &'s mut Servers,
    pub(crate) settings: Settings,
    /// The database's URL for its owner.
    pub(crate) store: String,
    pub(crate) table: Arc<Table>,
    pub(crate) cursors: Arc<Cursors>,
    /// Held while rows are written.
    pub(crate) gate: Arc<tokio::sync::Mutex<()>>,
    pub(crate) daemon: Daemon,
    pub(crate) http: String,
    admin: String,
    directory: TempDir,
    /// Incremented when a fault begins and when it ends, so it is even while there is no fault.
    epoch: Arc<AtomicU64>,
}

impl<'s> Run<'s> {
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
            // The role may exist, because it belongs to the server, which seeds share.
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
        let mut run = Self {
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
        };
        put(&run.store, run.table.rows(0)).await.expect("rows can be put in");
        run.daemon.wait_ready(&run.admin);
        run
    }

    /// The SQLite file of the rows.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("publications.db")
    }

    /// Runs a fault, with requests before, during and after it.
    pub(crate) async fn step(&mut self, step: Step) {
        let mut random = Random::new(step.seed);
        let over = &AtomicBool::new(false);
        let wrong = &Mutex::new(None);
        let clients = &Clients {
            table: self.table.clone(),
            cursors: self.cursors.clone(),
            settings: self.settings.clone(),
            http: self.http.clone(),
            epoch: self.epoch.clone(),
            made: AtomicU64::new(0),
        };
        let (store, gate, table) = (self.store.clone(), self.gate.clone(), self.table.clone());
        let runtime = tokio::runtime::Handle::current();
        let seeds = [(); CLIENTS + 1].map(|()| random.below(u64::MAX));
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
            if self.settings.growing {
                let runtime = runtime.clone();
                let growing =
                    move || runtime.block_on(grow(&store, &gate, &table, seeds[CLIENTS], over));
                scope.spawn(growing);
            }
            tokio::task::block_in_place(|| {
                runtime.block_on(self.happen(step.fault, &mut random, clients, over));
            });
        });
        if let Some(wrong) = wrong.lock().expect("no panic").take() {
            panic!("{wrong}");
        }
        self.look();
    }

    /// Runs the fault, with requests before and after it while there is no fault.
    async fn happen(
        &mut self,
        fault: Fault,
        random: &mut Random,
        clients: &Clients,
        over: &AtomicBool,
    ) {
        let is_over = || over.load(Ordering::SeqCst);
        let asked = async || {
            let count = clients.made.load(Ordering::SeqCst) + REQUESTS;
            let enough = async || is_over() || clients.made.load(Ordering::SeqCst) >= count;
            eventually("the clients to ask", 4 * PATIENCE, enough).await;
        };
        asked().await;
        if fault.hurts() {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
        self.suffer(fault, random).await;
        if fault.hurts() && !is_over() {
            self.recover(clients, fault).await;
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
        asked().await;
    }

    /// Waits until the daemon is ready and answers many parallel look-ups.
    async fn recover(&self, clients: &Clients, fault: Fault) {
        let ended = Instant::now();
        let request = &witness(&self.table, &self.settings);
        eventually(&format!("all to be well after \"{}\"", fault.name()), RECOVERY, async || {
            let is_ready = http_get(&self.admin, "/readyz").is_ok_and(|(status, _)| status == 200);
            is_ready
                && thread::scope(|scope| {
                    let asking = [(); 16].map(|()| scope.spawn(|| clients.once(request, false)));
                    asking
                        .into_iter()
                        .all(|own| own.join().is_ok_and(|own| own == Ok(Outcome::Right)))
                })
        })
        .await;
        counts::most(
            "longest recovery, ms",
            ended.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        );
    }

    /// Checks the daemon's memory and log.
    fn look(&mut self) {
        assert!(self.daemon.is_running(), "the daemon ended:\n{}", self.daemon.log());
        let peak = self.daemon.peak_memory().unwrap_or_default();
        assert!(peak < MAX_MEMORY, "the daemon held {peak} bytes");
        let log = self.daemon.log();
        for unwanted in [PASSWORD, TOKEN, "panicked"] {
            let line = log.lines().find(|line| line.contains(unwanted));
            assert_eq!(line, None, "the log has {unwanted:?}");
        }
        counts::most("peak memory, MiB", peak >> 20);
    }

    /// Stops the daemon cleanly.
    pub(crate) async fn end(mut self) {
        self.daemon.terminate();
        let status = self.daemon.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "the exit code:\n{}", self.daemon.log());
    }
}

/// Ends the work of the other threads when dropped, also on a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The witness's request for the first row.
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

pub(crate) async fn put(store: &str, rows: &[Row]) -> Result<(), sqlx::Error> {
    let zero = if store.starts_with("sqlite:") {
        "zeroblob(16)"
    } else {
        "decode(repeat('00', 16), 'hex')"
    };
    execute(store, &insert(rows).replace(", X, ", &format!(", {zero}, "))).await
}

/// Inserts rows from time to time. A batch that fails is repeated until it is in the table.
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
