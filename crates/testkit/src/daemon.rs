//! The daemons as processes, as in production.

use std::env::{current_exe, var_os};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::http::http_get;
use crate::process::{EndSignal, Process, watched};
use crate::wait::poll_until;

/// The deadline for readiness. A daemon needs a second; the rest is for a machine that compiles, and for catching up.
const READY: Duration = Duration::from_secs(60);

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    // Declared before the directory, because fields are dropped in order and the daemon writes until it ends.
    process: Process,
    name: String,
    dir: TempDir,
}

/// The configuration of a daemon to start; made by [`Daemon::command`].
#[derive(Debug)]
pub struct DaemonBuilder {
    command: Command,
    name: String,
    dir: TempDir,
}

impl DaemonBuilder {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable. The other variables are inherited from the test.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the daemon in this directory, not in its own empty one.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Starts the daemon. It may not be ready yet.
    pub fn spawn(self) -> Daemon {
        let log = self.dir.path().join("log");
        Daemon {
            process: Process::spawn(self.command, EndSignal::Kill, &log),
            name: self.name,
            dir: self.dir,
        }
    }
}

impl Daemon {
    /// A daemon by the name of its program, which must be built.
    ///
    /// The program is searched for beside the test's executable, or in the folder that `TESTKIT_BIN_DIR` names.
    pub fn command(name: &str) -> DaemonBuilder {
        Self::program(built(name))
    }

    /// [`Daemon::command`] started by a shell script, for example to set a limit. The script must end with `exec "$@"`.
    pub fn started_by(script: &str, name: &str) -> DaemonBuilder {
        Self::program("sh").args(["-c", script, "sh"]).arg(built(name))
    }

    /// Any other program, for example a server to compare with. `program` is a path, or a name on PATH.
    pub fn program(program: impl AsRef<Path>) -> DaemonBuilder {
        let program = program.as_ref();
        let dir = tempfile::Builder::new()
            .prefix("daemon-")
            .tempdir()
            .expect("a temporary directory can be made");
        let mut command = watched(program, EndSignal::Kill, dir.path());
        command.current_dir(dir.path());
        DaemonBuilder { command, name: program.display().to_string(), dir }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The directory of the daemon, removed with it. The daemon runs there unless the builder chose another one.
    pub fn own_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The output of the daemon so far, both streams.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Whether the daemon is running.
    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Waits until `/readyz` on the daemon's admin listener at `addr` (`host:port`) returns 200.
    ///
    /// Panics with the daemon's last lines when the daemon ends, or after a minute.
    pub fn wait_ready(&mut self, addr: impl ToString) {
        let addr = addr.to_string();
        let mut answer = "no answer".to_owned();
        let ready = poll_until(READY, || {
            assert!(
                self.is_running(),
                "{} ended before it was ready:\n{}",
                self.name,
                self.process.last_words()
            );
            match http_get(&addr, "/readyz") {
                Ok((status, body)) => {
                    answer = format!("{status} {body}");
                    status == 200
                }
                Err(_) => false,
            }
        });
        assert!(
            ready.is_some(),
            "{} is not ready after {READY:?} ({answer}):\n{}",
            self.name,
            self.process.last_words()
        );
    }

    /// Asks the daemon to stop (SIGTERM).
    pub fn terminate(&mut self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Kills the daemon (SIGKILL), and waits for its end.
    pub fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.wait_exit(Duration::from_secs(10));
    }

    /// Freezes the daemon (SIGSTOP).
    pub fn pause(&mut self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Ends [`Daemon::pause`] (SIGCONT).
    pub fn resume(&mut self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Waits for the daemon's end. Panics with its last lines after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let status = self.process.wait(timeout);
        status.unwrap_or_else(|| {
            panic!("{} has not ended after {timeout:?}:\n{}", self.name, self.process.last_words())
        })
    }

    /// The peak memory of the daemon, in bytes (`VmHWM`); `None` after its end.
    pub fn peak_memory(&self) -> Option<u64> {
        peak_memory(self.pid())
    }
}

/// [`Daemon::peak_memory`] of any process.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kibibytes.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Prints the output of the daemon when the test fails.
impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ({}):\n{}", self.name, self.pid(), self.process.last_words());
        }
    }
}

/// The path of a built program.
fn built(name: &str) -> PathBuf {
    let program = program_folder().join(name);
    assert!(
        program.is_file(),
        "no {}: run `cargo build --workspace --bins` first (`cargo xtask test` does)",
        program.display()
    );
    program
}

/// The folder of the daemons' programs. Cargo puts test executables into its subfolder `deps`.
pub fn program_folder() -> PathBuf {
    if let Some(named) = var_os("TESTKIT_BIN_DIR") {
        return named.into();
    }
    let test = current_exe().expect("a process knows its executable");
    let folder = test.parent().expect("an executable lies in a folder");
    if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() }
}
