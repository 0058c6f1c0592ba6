//! A real PgBouncer in front of a PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::net::{free_port, host_of};
use crate::postgres::{as_owner, on_path_or};
use crate::process::{EndSignal, Process, watched};
use crate::wait::wait_until;

/// The deadline for the start, which takes no time.
const START: Duration = Duration::from_secs(30);

/// A pooler on 127.0.0.1 that needs no passwords. Dropping it ends it.
#[derive(Debug)]
pub struct Pgbouncer {
    port: u16,
    // Declared before the directory, because fields are dropped in order.
    _process: Process,
    _dir: TempDir,
}

/// The path of PgBouncer: on PATH, or in Debian's folder. `None` when it is not installed.
pub fn pgbouncer_program() -> Option<PathBuf> {
    on_path_or(std::iter::once(PathBuf::from("/usr/sbin")), "pgbouncer")
}

impl Pgbouncer {
    /// Starts a pooler for the server of `url`, with pool mode `mode` (`session`, `transaction`).
    pub fn start(url: &str, mode: &str) -> Self {
        Self::with(url, mode, "")
    }

    /// The same with additional lines of settings.
    pub fn with(url: &str, mode: &str, further: &str) -> Self {
        let program = pgbouncer_program().expect("pgbouncer is installed: run `cargo xtask setup`");
        let (host, server_port) = host_of(url).split_once(':').expect("the URL names a port");
        let dir = tempfile::Builder::new()
            .prefix("pgbouncer-")
            .tempdir()
            .expect("a temporary directory can be made");
        let port = free_port();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("the file can be written");
            path
        };
        let users = write("users.txt", "\"postgres\" \"\"\n");
        let settings = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n\
             {further}\n",
            users.display()
        );
        let settings = write("pgbouncer.ini", &settings);
        // PgBouncer refuses to run as root, so another user must be able to read these.
        for path in [dir.path(), &users, &settings] {
            open_to_all(path);
        }
        let mut command = watched(program, EndSignal::Kill, dir.path());
        command.arg(&settings);
        as_owner(&mut command).current_dir(dir.path());
        let process = Process::spawn(command, EndSignal::Kill, &dir.path().join("log"));
        wait_until("pgbouncer to listen", START, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, _process: process, _dir: dir }
    }

    /// The URL of a database by way of the pooler, as superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

fn open_to_all(path: &Path) {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the file is ours");
}
