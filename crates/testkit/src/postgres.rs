//! A real PostgreSQL server.

use std::env::{split_paths, var_os};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use tempfile::TempDir;

use crate::net::free_port;
use crate::process::{EndSignal, Process, watched};
#[cfg(feature = "client")]
use crate::wait::eventually;
use crate::wait::poll_until;

/// The environment variable with the URL of the server that the whole test run shares.
pub const POSTGRES_VARIABLE: &str = "TESTKIT_POSTGRES";

/// The deadline for a start. It takes a second on an idle machine, recovery included; the rest is for a busy one.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);
/// Another process can take a chosen port before the server listens on it.
const ATTEMPTS: usize = 3;

/// A PostgreSQL server on 127.0.0.1 that needs no passwords. Dropping it ends the server and removes its data.
///
/// Its databases use a language's collation (ICU), as in production, so that a missing `COLLATE "C"` shows.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    /// `None` when the server was not started here.
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    // Declared before the directory, because fields are dropped in order and the server writes until it ends.
    process: Process,
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
}

/// The configuration of a server to start; made by [`Postgres::builder`].
#[derive(Debug, Clone, Default)]
pub struct PostgresBuilder {
    settings: Vec<String>,
    /// Certificate and key in PEM.
    tls: Option<(String, String)>,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends the sessions of clients, then shuts down cleanly.
    Fast,
    /// Ends at once, like a crash. The next start recovers.
    Immediate,
}

impl PostgresBuilder {
    /// Sets a server parameter, as on the command line. The last value of a name counts.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push(format!("{name}={}", value.to_string()));
        self
    }

    /// Durability, on by default. Off is faster for tests, but gives wrong benchmarks.
    #[must_use]
    pub fn fsync(self, on: bool) -> Self {
        let value = if on { "on" } else { "off" };
        self.setting("fsync", value)
            .setting("synchronous_commit", value)
            .setting("full_page_writes", value)
    }

    /// Enables TLS with this certificate and key (PEM). Clients may still connect without it.
    #[must_use]
    pub fn tls(mut self, certificate: &str, key: &str) -> Self {
        self.tls = Some((certificate.to_owned(), key.to_owned()));
        self
    }

    /// Creates a database cluster, starts the server and waits until it accepts connections.
    pub fn start(&self) -> Postgres {
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            let dir = make_folder();
            make_cluster(dir.path());
            let mut settings = self.settings.clone();
            if let Some((certificate, key)) = &self.tls {
                settings.extend(write_tls(dir.path(), certificate, key));
            }
            let port = free_port();
            let process = launch(dir.path(), port, &settings);
            let mut server = Server { process, dir, port, settings };
            if server.ready() {
                return Postgres { url: url_at(port), server: Some(server) };
            }
            problem = server.process.last_words();
            assert!(
                problem.contains("Address already in use"),
                "postgresql did not start:\n{problem}"
            );
        }
        panic!("postgresql found no free port in {ATTEMPTS} attempts:\n{problem}")
    }
}

impl Postgres {
    /// Starts a durable server for one test and waits until it accepts connections.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A builder for a server with other settings.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// A running server that this process does not own and cannot stop.
    pub(crate) fn elsewhere(url: String) -> Self {
        Self { url, server: None }
    }

    /// The URL of the maintenance database, as superuser. It does not change on a restart.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The postmaster's process id; `None` when the server was not started here.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(|server| server.process.id())
    }

    /// The output of the server; empty when the server was not started here.
    pub fn log(&self) -> String {
        self.server.as_ref().map(|server| server.process.log()).unwrap_or_default()
    }

    /// An asynchronous standby of this server on its own port, with its settings and the current data.
    pub fn standby(&self) -> Self {
        let dir = make_folder();
        let mut backup = Command::new(installed("pg_basebackup"));
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname"]);
        let Output { status, stderr, .. } = as_owner(&mut backup)
            .arg(&self.url)
            .arg("--pgdata")
            .arg(dir.path().join("data"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("pg_basebackup can be run");
        assert!(status.success(), "pg_basebackup failed:\n{}", String::from_utf8_lossy(&stderr));
        let port = free_port();
        let settings =
            self.server.as_ref().map(|server| server.settings.clone()).unwrap_or_default();
        let process = launch(dir.path(), port, &settings);
        let mut server = Server { process, dir, port, settings };
        assert!(server.ready(), "the standby did not start:\n{}", server.process.last_words());
        Self { url: url_at(port), server: Some(server) }
    }

    /// Starts this stopped server on the port of another stopped one.
    pub fn start_in_place_of(&mut self, other: &Self) {
        let port = other.server.as_ref().expect("the server is this test's own").port;
        self.server().port = port;
        self.url = url_at(port);
        self.start_again();
    }

    /// Stops the server and waits for its end. [`Postgres::start_again`] uses its port and data again.
    pub fn stop(&mut self, mode: StopMode) {
        let server = self.server();
        server.process.signal(match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        });
        assert!(
            server.process.wait(STOP).is_some(),
            "postgresql does not end:\n{}",
            server.process.last_words()
        );
    }

    /// Starts a stopped server with its old port and data, and waits until it accepts connections.
    pub fn start_again(&mut self) {
        let server = self.server();
        assert!(server.process.ended().is_some(), "postgresql still runs");
        server.process = launch(server.dir.path(), server.port, &server.settings);
        assert!(server.ready(), "postgresql did not start again:\n{}", server.process.last_words());
    }

    /// Stops (fast) and starts the server.
    pub fn restart(&mut self) {
        self.stop(StopMode::Fast);
        self.start_again();
    }

    fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("the server is this test's own")
    }
}

impl Server {
    fn ready(&mut self) -> bool {
        let mut ask =
            Command::new(postgres_program("pg_isready").expect("pg_isready lies beside postgres"));
        ask.args(["--quiet", "--host=127.0.0.1", "--port", &self.port.to_string()]);
        let accepts = |ask: &mut Command| ask.status().expect("pg_isready can be run").success();
        let outcome = poll_until(START, || {
            if self.process.ended().is_some() {
                Some(false)
            } else {
                accepts(&mut ask).then_some(true)
            }
        });
        outcome.unwrap_or(false)
    }
}

/// A database for one test. It is removed with its server.
#[cfg(feature = "client")]
#[derive(Debug, Clone)]
pub struct Database {
    /// The database's URL, as superuser.
    pub url: String,
}

#[cfg(feature = "client")]
impl Postgres {
    /// Creates an empty database on the server.
    pub async fn database(&self) -> Database {
        use sqlx::{AssertSqlSafe, Connection};

        let name = crate::net::unique("test");
        let mut connection = connect(&self.url).await;
        // From template0, because a template with open sessions cannot be copied and nobody connects to this one.
        let statement = AssertSqlSafe(format!("CREATE DATABASE \"{name}\" TEMPLATE template0"));
        sqlx::raw_sql(statement).execute(&mut connection).await.expect("a database can be created");
        connection.close().await.expect("the connection can be closed");
        let (server, _) = self.url.rsplit_once('/').expect("the URL names a database");
        Database { url: format!("{server}/{name}") }
    }

    /// Waits until this standby has replayed the current log of `primary`.
    pub async fn catch_up_with(&self, primary: &Self) {
        use sqlx::Connection;

        let mut ahead = connect(&primary.url).await;
        let now: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text")
            .fetch_one(&mut ahead)
            .await
            .expect("a primary knows where its log ends");
        let mut behind = connect(&self.url).await;
        eventually("the standby to have everything", START, async || {
            let has = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn";
            let has = sqlx::query_scalar::<_, bool>(has).bind(&now).fetch_one(&mut behind).await;
            has.expect("a standby answers")
        })
        .await;
        for connection in [ahead, behind] {
            connection.close().await.expect("the connection can be closed");
        }
    }

    /// Stops replication from `primary` after the standby has caught up.
    pub async fn hold_back(&self, primary: &Self) {
        self.catch_up_with(primary).await;
        let mut behind = connect(&self.url).await;
        for sql in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
            sqlx::raw_sql(sql).execute(&mut behind).await.expect("a superuser may");
        }
        eventually("the standby to hear nothing", START, async || {
            let heard = "SELECT count(*) FROM pg_stat_wal_receiver";
            let heard = sqlx::query_scalar::<_, i64>(heard).fetch_one(&mut behind).await;
            heard.expect("a standby answers") == 0
        })
        .await;
    }

    /// Promotes this standby to a primary.
    pub async fn promote(&self) {
        let mut server = connect(&self.url).await;
        sqlx::raw_sql("SELECT pg_promote()").execute(&mut server).await.expect("a superuser may");
    }
}

#[cfg(feature = "client")]
async fn connect(url: &str) -> sqlx::PgConnection {
    use sqlx::Connection;

    sqlx::PgConnection::connect(url).await.expect("the server accepts connections")
}

/// The path of a PostgreSQL program: on PATH, or the newest below `/usr/lib/postgresql`, where Debian puts them.
///
/// `None` when it is not installed.
pub fn postgres_program(name: &str) -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.as_ref().ok()?.file_name().to_str()?.parse().ok()?,
                entry.ok()?.path().join("bin"),
            ))
        })
        .collect();
    versions.sort();
    let in_lib = versions.into_iter().rev().map(|(_, folder)| folder);
    on_path_or(in_lib, name)
}

/// A program's path: in a folder of `PATH`, or else in one of these.
pub(crate) fn on_path_or(folders: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let path = var_os("PATH").unwrap_or_default();
    let all = split_paths(&path).chain(folders);
    all.map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn installed(name: &str) -> PathBuf {
    postgres_program(name).unwrap_or_else(|| {
        panic!("no {name} on PATH or below /usr/lib/postgresql: run `cargo xtask setup`")
    })
}

/// The user that runs the server when the test runs as root, because PostgreSQL refuses to run as root.
fn owner() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let known = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).expect("users can be looked up"));
    Some(known.expect("root needs a user `postgres` or `nobody` to run postgresql as"))
}

pub(crate) fn as_owner(command: &mut Command) -> &mut Command {
    match owner() {
        Some(user) => command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env("HOME", "/"),
        None => command,
    }
}

fn url_at(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

/// A temporary folder that belongs to the server's user.
fn make_folder() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("postgres-")
        .tempdir()
        .expect("a temporary directory can be made");
    if let Some(user) = owner() {
        chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("root can give a directory away");
    }
    dir
}

fn make_cluster(dir: &Path) {
    let mut initdb = Command::new(installed("initdb"));
    initdb.args([
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-sync",
        "--locale=C",
    ]);
    if has_icu() {
        initdb.args(["--locale-provider=icu", "--icu-locale=en-US"]);
    }
    let Output { status, stderr, .. } = as_owner(&mut initdb)
        .arg(dir.join("data"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("initdb can be run");
    assert!(status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&stderr));
}

/// Writes certificate and key for the server's user, readable by no other. Returns the settings that name them.
fn write_tls(dir: &Path, certificate: &str, key: &str) -> [String; 3] {
    let files = [("server.crt", certificate), ("server.key", key)].map(|(name, pem)| {
        let path = dir.join(name);
        fs::write(&path, pem).expect("the file can be written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the file is ours");
        if let Some(user) = owner() {
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .expect("root can give a file away");
        }
        path
    });
    let [certificate, key] = files;
    [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", certificate.display()),
        format!("ssl_key_file={}", key.display()),
    ]
}

/// Whether a whole database cluster can use ICU, as since version 15.
fn has_icu() -> bool {
    let output =
        Command::new(installed("postgres")).arg("--version").output().expect("postgres can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text
        .split_whitespace()
        .find_map(|word| word.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= 15)
}

fn launch(dir: &Path, port: u16, settings: &[String]) -> Process {
    let mut command = watched(installed("postgres"), EndSignal::Quit, dir);
    command.arg("-D").arg(dir.join("data")).args(["-p", &port.to_string()]);
    let fixed = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"];
    for setting in fixed.into_iter().chain(settings.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    as_owner(&mut command).current_dir(dir);
    Process::spawn(command, EndSignal::Quit, &dir.join("log"))
}
