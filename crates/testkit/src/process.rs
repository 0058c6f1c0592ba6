//! A process that cannot outlive the process that started it.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::poll_until;

/// The shell becomes the server and leaves a watcher, which holds the read end of a pipe. Only the guard holds the
/// write end (close-on-exec, so no other child inherits it). If the pipe ends without data, the guard's process has
/// ended, for whatever reason: the watcher then ends the server and removes its data. `PR_SET_PDEATHSIG` would not
/// work, because it follows the thread that spawned, and test threads end earlier. A test run under `nohup` would hand on
/// that SIGHUP is ignored, which the daemons respect.
const WATCHED: &str = r#"
signal=$1 data=$2
shift 2
exec 3<&0 </dev/null
(
  read -r _ <&3 && exit
  kill -s CONT $$
  kill -s "$signal" $$
  # A zombie has no executable any more, and init may take its time to reap it.
  polls=0
  while [ -e /proc/$$/exe ] && [ $polls -lt 100 ]; do polls=$((polls + 1)); sleep 0.1; done
  kill -s KILL $$
  rm -rf "$data"
) >/dev/null 2>&1 &
# Not every `env` has this option, and only a run under `nohup` needs it.
env --default-signal=HUP true 2>/dev/null && set -- env --default-signal=HUP "$@"
exec "$@" 3<&-
"#;

/// The signal that ends a server without a guard.
#[derive(Clone, Copy)]
pub(crate) enum EndSignal {
    /// SIGKILL, for processes without children.
    Kill,
    /// SIGQUIT, for PostgreSQL: the postmaster then ends its children and frees its shared memory.
    Quit,
}

/// A command that runs `program` under the watcher. Arguments, environment and user can be added as usual.
///
/// `data` is the directory that the watcher removes after it has ended the server.
pub(crate) fn watched(
    program: impl AsRef<std::ffi::OsStr>,
    end_signal: EndSignal,
    data: &Path,
) -> Command {
    let signal = match end_signal {
        EndSignal::Kill => "KILL",
        EndSignal::Quit => "QUIT",
    };
    let mut command = Command::new("sh");
    command.args(["-c", WATCHED, "watched", signal]).arg(data).arg(program);
    // Its own process group, so that Ctrl-C reaches only the test run, which then ends its servers.
    command.process_group(0).stdin(Stdio::piped());
    command
}

/// A process, running or ended. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watcher: Option<ChildStdin>,
    log: PathBuf,
    end_signal: Signal,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command made by [`watched`]. Its output is appended to the file `log`.
    pub(crate) fn spawn(mut command: Command, end_signal: EndSignal, log: &Path) -> Self {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log file can be opened");
        let err = out.try_clone().expect("a file handle can be duplicated");
        let mut child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let end_signal = match end_signal {
            EndSignal::Kill => Signal::SIGKILL,
            EndSignal::Quit => Signal::SIGQUIT,
        };
        Self { watcher: child.stdin.take(), child, log: log.to_owned(), end_signal, status: None }
    }

    /// The process id of the server, which has replaced the shell.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let id = Pid::from_raw(self.id().try_into().expect("a process id fits"));
            kill(id, signal)
                .unwrap_or_else(|error| panic!("cannot send {signal} to process {id}: {error}"));
        }
    }

    /// The exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
            if self.status.is_some() {
                self.dismiss_watcher();
            }
        }
        self.status
    }

    /// Waits up to `timeout` for the end.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        poll_until(timeout, || self.ended())
    }

    /// The output so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last 30 lines of the output, for messages.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Ends the watcher by writing to the pipe: the process was reaped, and its id may be reused soon.
    fn dismiss_watcher(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            // The watcher may have ended already.
            let _ = watcher.write_all(b"\n");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process receives no signal except SIGKILL.
        self.signal(Signal::SIGCONT);
        self.signal(self.end_signal);
        if self.wait(Duration::from_secs(10)).is_none() {
            self.signal(Signal::SIGKILL);
            self.wait(Duration::from_secs(10));
        }
    }
}
