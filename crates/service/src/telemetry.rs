//! Logs: one subscriber for the process, to standard error, because standard output is for the results of commands.
//!
//! A separate thread writes the lines, because their reader may block, and no other work must block with it.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::config::ConfigError;

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event, for collectors.
    Json,
}

/// The table `log` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `text` or `json`.
    pub format: LogFormat,
    /// The filter: a level, or `target=level` pairs, as `tracing_subscriber::EnvFilter` parses them.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

/// The maximum number of lines that wait to be written; further lines are lost.
const WAITING: usize = 4_096;
/// How long the end of the log may take. The guard of the queue waits for a second until its lines are written.
const END_WITHIN: Duration = Duration::from_millis(1_200);

/// The process's log.
struct Log {
    format: LogFormat,
    lines: NonBlocking,
    writer: WorkerGuard,
}

static LOG: Mutex<Option<Log>> = Mutex::new(None);
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Installs the subscriber. The first call decides; later calls only check their settings, so that a process with two
/// daemons has one log.
///
/// # Errors
/// [`ConfigError::Invalid`] for `log.filter` if it is not a filter.
pub fn init(settings: &LogSettings) -> Result<(), ConfigError> {
    let filter = filter(&settings.filter)?;
    let mut log = LOG.lock();
    if log.is_none() {
        let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING);
        let (lines, writer) = writer.finish(Lines::new(io::stderr(), settings.format));
        let _ = LOST.set(lines.error_counter());
        let into = lines.clone();
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(into);
        // An existing subscriber stays, because a test harness may have its own.
        let _ = match settings.format {
            LogFormat::Text => builder.with_ansi(false).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        *log = Some(Log { format: settings.format, lines, writer });
    }
    Ok(())
}

/// The HTTP client logs whole URLs, and the query of one may have a secret. Its errors are logged by its callers. The reader of
/// `.pgpass` logs the lines that it cannot read.
const SILENT: &str = ",ureq=off,ureq_proto=off,sqlx_postgres::options::pgpass=off";

/// Parses `log.filter`. `EnvFilter` takes a word that is not a level for the name of a target: with `warning` for `warn` the log
/// would be empty.
fn filter(text: &str) -> Result<EnvFilter, ConfigError> {
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    if text.split(',').any(|part| !part.contains('=') && !is_level(part.trim())) {
        let levels = "off, error, warn, info, debug, trace";
        let reason = format!("must be a level ({levels}), or target=level pairs");
        return Err(ConfigError::invalid("log.filter", reason));
    }
    let prints_secrets = |part: &str| part.starts_with("ureq") || part.contains("::pgpass");
    if text.split(',').any(|part| prints_secrets(part.trim_start())) {
        let reason = "must name neither ureq nor pgpass, which log secrets";
        return Err(ConfigError::invalid("log.filter", reason));
    }
    EnvFilter::try_new(format!("{text}{SILENT}"))
        .map_err(|error| ConfigError::invalid("log.filter", error.to_string()))
}

/// Ends the log, with a program's last message if it has one, on standard error. Waits until all lines are written, but
/// at most about a second. A failure to write is ignored.
pub fn end(last_words: Option<String>) {
    let Some(Log { format, mut lines, writer }) = LOG.lock().take() else {
        if let Some(words) = last_words {
            let _ = writeln!(io::stderr(), "{words}");
        }
        return;
    };
    if let Some(words) = last_words {
        let line = match format {
            LogFormat::Text => words + "\n",
            LogFormat::Json => event(format, Level::ERROR, &words, None),
        };
        drop(lines.write(line.as_bytes()));
    }
    // On a thread of its own: when the queue is full, the guard prints a message to standard output, which may be the pipe
    // that nobody reads, and then it never ends.
    let (ended, end) = mpsc::channel();
    let dropping = std::thread::Builder::new().name("log-end".into());
    let dropping = dropping.spawn(move || {
        drop(writer);
        let _ = ended.send(());
    });
    drop(dropping);
    let _ = end.recv_timeout(END_WITHIN);
}

/// A line of the log that the subscriber does not write: the queue may be full or at its end.
fn event(format: LogFormat, level: Level, message: &str, lines: Option<usize>) -> String {
    let mut time = String::new();
    // Writing into a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    match format {
        LogFormat::Text => {
            let lines = lines.map(|lines| format!(" lines={lines}")).unwrap_or_default();
            format!("{time} {level:>5} {}: {message}{lines}\n", module_path!())
        }
        LogFormat::Json => {
            let level = level.as_str();
            let mut event = serde_json::json!({
                "timestamp": time, "level": level, "message": message, "target": module_path!(),
            });
            if let Some(lines) = lines {
                event["lines"] = lines.into();
            }
            format!("{event}\n")
        }
    }
}

/// Writes each event as one line: a server's message, a file name or a client's header may contain line ends or a
/// terminal's control sequences. An event that cannot be written is lost, because the work must continue if the reader
/// has ended or the disk is full.
struct Lines<W> {
    out: W,
    format: LogFormat,
    /// The number of lost lines that have been reported.
    lost: usize,
}

impl<W: Write> Lines<W> {
    fn new(out: W, format: LogFormat) -> Self {
        Self { out, format, lost: 0 }
    }

    fn write_line(&mut self, event: &[u8]) {
        let (line, end) = match event.strip_suffix(b"\n") {
            Some(line) => (line, "\n"),
            None => (event, ""),
        };
        let text = String::from_utf8_lossy(line);
        let clean = match self.format {
            LogFormat::Text => without_controls(&text),
            // JSON's own escape. Those below U+0020 and in the way of JSON are escaped already.
            LogFormat::Json => escaped(&text, |letter| format!("\\u{:04x}", u32::from(letter))),
        };
        let _ = self.out.write_all((clean.into_owned() + end).as_bytes());
    }
}

impl<W: Write> Write for Lines<W> {
    /// Writes a whole event, because the subscriber passes an event in one call; then a line with the number of lines that were
    /// lost because the reader was too slow. It writes that line directly, because the full queue would lose it too.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_line(line);
        let lost = LOST.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.lost {
            let lines = lost - self.lost;
            self.lost = lost;
            let message = "log lines are lost: the reader was too slow";
            let said = event(self.format, Level::WARN, message, Some(lines));
            self.write_line(said.as_bytes());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The text with its control characters escaped as in Rust's strings.
#[must_use]
pub fn without_controls(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| letter.escape_default().to_string())
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if letter.is_control() {
            clean.push_str(&escape(letter));
        } else {
            clean.push(letter);
        }
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let written = |event: &str| {
            let mut lines = Vec::new();
            let mut one = Lines::new(&mut lines, LogFormat::Text);
            one.write_all(event.as_bytes()).unwrap();
            String::from_utf8(lines).unwrap()
        };
        assert_eq!(written("WARN é: plain\n"), "WARN é: plain\n");
        let forged = "WARN: no\n2026-01-01 INFO: all is well\u{1b}[2J\r\u{9b}\n";
        let clean = "WARN: no\\n2026-01-01 INFO: all is well\\u{1b}[2J\\r\\u{9b}\n";
        assert_eq!(written(forged), clean);
    }

    #[test]
    fn a_log_that_takes_nothing_is_no_error() {
        // A slice without space.
        let mut full = Lines::new(&mut [][..], LogFormat::Text);
        full.write_all(b"INFO: lost\n").unwrap();
    }

    #[test]
    fn a_bad_filter_names_its_key() {
        for bad in ["info,=", "warning", "infos", "", "info,librdkafka", "ureq::run=trace"] {
            let settings = LogSettings { filter: bad.into(), ..LogSettings::default() };
            let error = init(&settings).unwrap_err().to_string();
            assert!(error.contains("log.filter"), "{bad}: {error}");
        }
        for good in ["warn", "WARN", "info,librdkafka=debug", "off", "ingester=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_second_call_is_no_error() {
        let settings = LogSettings { filter: "off".into(), format: LogFormat::Json };
        init(&settings).unwrap();
        init(&LogSettings { format: LogFormat::Text, ..settings }).unwrap();
    }
}
