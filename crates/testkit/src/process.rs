//! A process that cannot outlive whoever started it.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::poll_until;

/// Becomes the server and leaves a watcher beside it that holds the reading end of a pipe. Only the guard holds the writing end
/// (it is closed on exec, so that no other child inherits it), so the pipe's end without a word means that the guard's process
/// is gone, however it went: then the watcher ends the server and removes its data. `PR_SET_PDEATHSIG` would not do: it follows
/// the thread that spawned, and test threads end before their process does.
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
exec "$@" 3<&-
"#;

/// The signal that ends a server whose guard is gone.
#[derive(Clone, Copy)]
pub(crate) enum Farewell {
    /// For processes without children.
    Kill,
    /// For PostgreSQL, whose postmaster then takes its children with it and frees its shared memory.
    Quit,
}

/// A command that runs `program` under the watcher; arguments, environment and user can be added as to any other command.
///
/// `data` is the directory that the watcher removes when it had to end the server.
pub(crate) fn watched(
    program: impl AsRef<std::ffi::OsStr>,
    farewell: Farewell,
    data: &Path,
) -> Command {
    let signal = match farewell {
        Farewell::Kill => "KILL",
        Farewell::Quit => "QUIT",
    };
    let mut command = Command::new("sh");
    command.args(["-c", WATCHED, "watched", signal]).arg(data).arg(program);
    // A process group of its own: Ctrl-C in the terminal is for the test run, which then takes its servers with it.
    command.process_group(0).stdin(Stdio::piped());
    command
}

/// A running (or ended) process; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watcher: Option<ChildStdin>,
    log: PathBuf,
    farewell: Signal,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command made by [`watched`], with everything it prints appended to the file `log`.
    pub(crate) fn spawn(mut command: Command, farewell: Farewell, log: &Path) -> Self {
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
        let farewell = match farewell {
            Farewell::Kill => Signal::SIGKILL,
            Farewell::Quit => Signal::SIGQUIT,
        };
        Self { watcher: child.stdin.take(), child, log: log.to_owned(), farewell, status: None }
    }

    /// The id of the process itself: the wrapper has become it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; nothing happens when the process has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let id = Pid::from_raw(self.id().try_into().expect("a process id fits"));
            kill(id, signal)
                .unwrap_or_else(|error| panic!("cannot send {signal} to process {id}: {error}"));
        }
    }

    /// The exit status, when it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
            if self.status.is_some() {
                self.dismiss_watcher();
            }
        }
        self.status
    }

    /// Waits for the end, no longer than `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        poll_until(timeout, || self.ended())
    }

    /// Everything printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines printed, for messages.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// A word into the pipe: the process has been reaped, and its id may soon be another's.
    fn dismiss_watcher(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            // A watcher that is gone already needs no word.
            let _ = watcher.write_all(b"\n");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A paused process takes no other signal than SIGKILL.
        self.signal(Signal::SIGCONT);
        self.signal(self.farewell);
        if self.wait(Duration::from_secs(10)).is_none() {
            self.signal(Signal::SIGKILL);
            self.wait(Duration::from_secs(10));
        }
    }
}
