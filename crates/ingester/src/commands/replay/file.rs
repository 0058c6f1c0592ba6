//! Records out of a file: one a line, an event as it is (structured mode), or a record as `dead-letters export` writes it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use model::Position;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commands::record_file;
use crate::kafka::{CHUNK_BYTES, RateLimit};
use crate::pipeline::ports::{AssignmentId, Chunk, SourceError, SourceEvent};
use crate::record::Record;

/// The topic of records that stand in none: positions are lines from 0 of partition 0.
pub(crate) const TOPIC: &str = "file";

/// The longest line, in bytes: more than the longest record that anybody has, with every byte of it escaped.
const MAX_LINE: u64 = 64 << 20;

/// Opens a file of records; `-` is standard input.
///
/// # Errors
/// When it cannot be opened, or is a folder.
pub(super) fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    ensure!(!file.metadata()?.is_dir(), "{} is a folder", path.display());
    Ok(Box::new(BufReader::new(file)))
}

/// Reads a file from a line on, on a thread of its own.
///
/// # Errors
/// As [`open`].
pub(super) fn read(
    path: PathBuf,
    first: i64,
    limit: RateLimit,
    stop: CancellationToken,
) -> anyhow::Result<mpsc::Receiver<SourceEvent>> {
    let lines = open(&path)?;
    let (events, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("file".into()).spawn(move || {
        let end = match (Lines { first, limit, stop, events: &events }).hand_over(lines) {
            Ok(()) => SourceEvent::Ended,
            Err(error) => {
                SourceEvent::Failed(SourceError::Range(format!("{}: {error}", path.display())))
            }
        };
        // The loop may have failed first; then nobody listens.
        let _ = events.blocking_send(end);
    })?;
    Ok(receiver)
}

struct Lines<'a> {
    first: i64,
    limit: RateLimit,
    stop: CancellationToken,
    events: &'a mpsc::Sender<SourceEvent>,
}

impl Lines<'_> {
    fn hand_over(&self, mut lines: impl BufRead) -> io::Result<()> {
        let topic: Arc<str> = TOPIC.into();
        let mut free = Instant::now();
        let (mut line, mut number, mut records, mut bytes) = (Vec::new(), 0, Vec::new(), 0);
        loop {
            let more = !self.stop.is_cancelled() && next_line(&mut lines, &mut line, number)?;
            let text = line.trim_ascii();
            if more && number >= self.first && !text.is_empty() {
                let position = Position { topic: topic.clone(), partition: 0, offset: number };
                bytes += text.len();
                records.push(record(text, position)?);
            }
            number += 1;
            let is_full = records.len() >= self.limit.chunk() || bytes >= CHUNK_BYTES;
            if is_full || (!more && !records.is_empty()) {
                bytes = 0;
                free = self.limit.next(free, records.len());
                self.limit.read.fetch_add(records.len() as u64, Ordering::Relaxed);
                let assignment = AssignmentId::default();
                let chunk = Chunk { records: std::mem::take(&mut records), assignment };
                if self.events.blocking_send(SourceEvent::Records(chunk)).is_err() {
                    return Ok(());
                }
                if self.limit.rate.is_some() {
                    RateLimit::wait(free, &self.stop);
                }
            }
            if !more {
                return Ok(());
            }
        }
    }
}

/// Reads the next line, without room for one that never ends. `false` at the end of the file.
fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>, number: i64) -> io::Result<bool> {
    line.clear();
    let read = lines.take(MAX_LINE + 1).read_until(b'\n', line)? as u64;
    if read > MAX_LINE {
        let message = format!("line {} is longer than {} MiB", number + 1, MAX_LINE >> 20);
        return Err(io::Error::other(message));
    }
    Ok(read > 0)
}

/// A line that is not an exported record is a value, whatever it is: the loop says what is wrong with it. One without its
/// addresses must not get there: it would be an event of a bad address.
fn record(line: &[u8], position: Position) -> io::Result<Record> {
    let number = position.offset + 1;
    match record_file::Line::read(line) {
        Ok(Some(record)) if record.masked => Err(io::Error::other(format!(
            "line {number} was exported without its addresses; only `dead-letters export --with-addresses` can be replayed"
        ))),
        Ok(Some(record)) => Ok(record.into_record(position)),
        Ok(None) => Ok(Record {
            position,
            timestamp: None,
            key: None,
            value: Some(line.to_vec().into()),
            headers: Vec::new(),
        }),
        Err(error) => Err(io::Error::other(format!("line {number} {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_exported_records_are_both_lines() {
        let position = Position { topic: TOPIC.into(), partition: 0, offset: 7 };
        let event = br#"{"specversion":"1.0","id":"1","value":"x"}"#;
        assert_eq!(record(event, position.clone()).unwrap().value.as_deref(), Some(&event[..]));
        let exported = Record {
            position: position.clone(),
            timestamp: Some(5),
            key: Some(b"k".to_vec().into()),
            value: Some(vec![0xff, 0].into()),
            headers: vec![crate::Header { name: "h".into(), value: None }],
        };
        let whole = record_file::Line::from(&exported);
        let line = serde_json::to_vec(&whole).unwrap();
        assert_eq!(record(&line, position.clone()).unwrap(), exported);
        let masked = record_file::Line { masked: true, ..whole };
        let refused = record(&serde_json::to_vec(&masked).unwrap(), position.clone()).unwrap_err();
        assert!(refused.to_string().contains("line 8"), "{refused}");
        let text = String::from_utf8(line).unwrap();
        assert!(text.contains(r#""hex":"ff00""#), "{text}");
        for damage in ["ff0", "ff0g", "+f00"] {
            let line = text.replace("ff00", damage);
            let refused = record(line.as_bytes(), position.clone()).unwrap_err();
            assert_eq!(refused.to_string(), "line 8 is a damaged export of a record");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_fills_the_memory() {
        let mut endless = BufReader::new(io::repeat(b'x'));
        let mut line = Vec::new();
        let refused = next_line(&mut endless, &mut line, 6).unwrap_err();
        assert_eq!(refused.to_string(), "line 7 is longer than 64 MiB");
        let mut short: &[u8] = b"a\nb";
        assert!(next_line(&mut short, &mut line, 0).unwrap() && line == b"a\n");
        assert!(next_line(&mut short, &mut line, 1).unwrap() && line == b"b");
        assert!(!next_line(&mut short, &mut line, 2).unwrap());
    }
}
