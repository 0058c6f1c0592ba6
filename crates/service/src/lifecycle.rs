//! The end of a daemon: on a signal, within its grace period, with an exit code for the reason.

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::ConfigError;

/// Exit codes. Supervisors act on them: a restart helps after 1, and never after 2 or 78.
pub mod exit {
    /// Stopped on request.
    pub const OK: u8 = 0;
    /// A failure that may not occur the next time.
    pub const FAILURE: u8 = 1;
    /// Wrong use of the command line; this is clap's own code.
    pub const USAGE: u8 = 2;
    /// Records were lost before they were read, and the configuration says to stop then (`EX_DATAERR`). A restart ends
    /// the same way.
    pub const GAP: u8 = 65;
    /// The Kafka client failed permanently (`EX_SOFTWARE`); a new process helps.
    pub const KAFKA_FATAL: u8 = 70;
    /// The broker denies an access that the daemon needs (`EX_NOPERM`); an operator must act.
    pub const NOT_ALLOWED: u8 = 77;
    /// The configuration has an unknown or ill-typed key (`EX_CONFIG` of sysexits.h).
    pub const CONFIG: u8 = 78;
    /// A second Ctrl-C: 128 plus the number of SIGINT, as in shells.
    pub const INTERRUPTED: u8 = 130;
}

/// The work was not done when its grace period ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not finished within {0:?} of being asked to stop")]
pub struct GraceExceeded(pub Duration);

/// Parses the command line; or prints the help, the version or the error, and returns the exit code. clap itself would end with
/// 0 even if the help cannot be written.
///
/// # Errors
/// The exit code.
pub fn command_line<C: Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|printed| {
        let is_answer = !printed.use_stderr();
        match printed.print() {
            // A reader that closes the pipe has what it wants.
            Err(error) if is_answer && error.kind() != io::ErrorKind::BrokenPipe => {
                crate::telemetry::end(Some(format!("standard output: {error}")));
                ExitCode::from(exit::FAILURE)
            }
            _ if is_answer => ExitCode::from(exit::OK),
            _ => ExitCode::from(exit::USAGE),
        }
    })
}

/// Runs a program: parses its command line, does the work, and returns the exit code.
pub fn program<C: Parser, E>(work: impl FnOnce(&C) -> Result<(), E>) -> ExitCode
where
    E: Display + AsRef<dyn Error + Send + Sync>,
{
    let cli = match command_line() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let result = work(&cli);
    let name = C::command().get_name().to_owned();
    crate::telemetry::end(result.as_ref().err().map(|error| format!("{name}: {error:#}")));
    result.map_or_else(|error| exit_code(error.as_ref()), |()| ExitCode::SUCCESS)
}

/// Runs the work on a runtime of its own. The end of the runtime does not wait for its blocking threads: a look-up of a name
/// may hang for as long as its server does not answer.
///
/// # Errors
/// The operating system refuses the runtime, or the error of the work.
pub fn run<T, E: From<io::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// A token that SIGTERM, SIGINT and SIGHUP (a closed terminal) cancel. The handlers are installed when this returns, so
/// that a signal right after it is not lost. A second SIGINT ends the process at once, because it comes from a user at
/// a terminal. A repeated SIGTERM does not, because supervisors repeat it during the grace period. SIGHUP stays ignored if
/// the process was started so: `nohup` says with it that the process is to outlive its terminal.
///
/// # Errors
/// If the operating system refuses the handlers.
///
/// # Panics
/// If called outside of a tokio runtime.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = SignalKind::hangup();
    let mut hangup = if is_ignored(hangup) { None } else { Some(signal(hangup)?) };
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = received(&mut hangup) => "SIGHUP",
        };
        info!(signal = name, "stopping");
        cancelled.cancel();
        interrupt.recv().await;
        warn!("interrupted again, ending at once");
        crate::telemetry::end(None);
        std::process::exit(i32::from(exit::INTERRUPTED));
    });
    Ok(token)
}

/// Waits for the signal; for ever without a handler.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the process ignores the signal; `false` where Linux's `/proc` does not say it.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

/// Runs `work` to its end, but at most for `grace` after `stop` is cancelled; then `work` is dropped.
///
/// # Errors
/// [`GraceExceeded`] if `work` was dropped.
pub async fn within_grace<F: Future>(
    work: F,
    stop: &CancellationToken,
    grace: Duration,
) -> Result<F::Output, GraceExceeded> {
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        biased;
        output = work => Ok(output),
        () = deadline => Err(GraceExceeded(grace)),
    }
}

/// Raises this process's limit of open files to the operating system's hard limit, because every connection is a file.
/// Sessions and systemd start with 1,024 for programs that use `select`, which the daemons do not. Returns the present
/// limit, which is unchanged if it cannot be raised.
///
/// # Errors
/// If the operating system does not return the limit.
pub fn raise_open_files() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

/// The exit code for an error: [`exit::CONFIG`] if its chain has a [`ConfigError`], else [`exit::FAILURE`].
#[must_use]
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let mut link = Some(error);
    while let Some(current) = link {
        if current.is::<ConfigError>() {
            return ExitCode::from(exit::CONFIG);
        }
        link = current.source();
    }
    ExitCode::from(exit::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] ConfigError);

    #[test]
    fn a_configuration_error_is_found_in_the_chain() {
        let error = Outer(ConfigError::invalid("a.b", "wrong"));
        assert_eq!(exit_code(&error), ExitCode::from(78));
        assert_eq!(exit_code(&io::Error::other("away")), ExitCode::from(1));
    }

    #[tokio::test(start_paused = true)]
    async fn work_has_its_grace_period_and_no_more() {
        let stop = CancellationToken::new();
        let grace = Duration::from_secs(10);
        assert_eq!(within_grace(async { 7 }, &stop, grace).await, Ok(7));
        stop.cancel();
        let nine_seconds = tokio::time::sleep(Duration::from_secs(9));
        assert_eq!(within_grace(nine_seconds, &stop, grace).await, Ok(()));
        let forever = std::future::pending::<()>();
        assert_eq!(within_grace(forever, &stop, grace).await, Err(GraceExceeded(grace)));
    }

    #[test]
    fn open_files_are_raised_once() {
        let raised = raise_open_files().unwrap();
        assert_eq!(raise_open_files().unwrap(), raised);
    }

    #[tokio::test]
    async fn a_signal_cancels_the_token() {
        use nix::sys::signal::{Signal, raise};
        let token = stop_on_signals().unwrap();
        assert!(!token.is_cancelled());
        raise(Signal::SIGTERM).unwrap();
        token.cancelled().await;
    }
}
