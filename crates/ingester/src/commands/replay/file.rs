//! Records out of a file: one a line, an event as it is (structured mode), or a record as `dead-letters export` writes it.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context as _;
use model::Position;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commands::record_file;
use crate::kafka::{CHUNK_BYTES, RateLimit};
use crate::pipeline::ports::{AssignmentId, Chunk, SourceError, SourceEvent};
use crate::record::Record;

/// The topic of records that stand in none: positions are lines from 0 of partition 0.
pub(crate) const TOPIC: &str = "file";

/// Reads a file from a line on, on a thread of its own; `-` is standard input.
///
/// # Errors
/// When the file cannot be opened.
pub(crate) fn read(
    path: PathBuf,
    first: i64,
    pace: RateLimit,
    stop: CancellationToken,
) -> anyhow::Result<mpsc::Receiver<SourceEvent>> {
    let lines: Box<dyn BufRead + Send> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(
            File::open(&path).with_context(|| format!("opening {}", path.display()))?,
        ))
    };
    let (events, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("file".into()).spawn(move || {
        let end = match hand_over(lines, first, &pace, &stop, &events) {
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

fn hand_over(
    mut lines: impl BufRead,
    first: i64,
    pace: &RateLimit,
    stop: &CancellationToken,
    events: &mpsc::Sender<SourceEvent>,
) -> io::Result<()> {
    let topic: Arc<str> = TOPIC.into();
    let mut free = Instant::now();
    let (mut line, mut number, mut chunk, mut bytes) = (Vec::new(), 0, Vec::new(), 0);
    loop {
        line.clear();
        let more = !stop.is_cancelled() && lines.read_until(b'\n', &mut line)? > 0;
        let text = line.trim_ascii();
        if more && number >= first && !text.is_empty() {
            let position = Position { topic: topic.clone(), partition: 0, offset: number };
            bytes += text.len();
            chunk.push(record(text, position)?);
        }
        number += 1;
        if chunk.len() >= pace.chunk() || bytes >= CHUNK_BYTES || (!more && !chunk.is_empty()) {
            bytes = 0;
            free = pace.next(free, chunk.len());
            pace.read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let records = std::mem::take(&mut chunk);
            let event =
                SourceEvent::Records(Chunk { records, assignment: AssignmentId::default() });
            if events.blocking_send(event).is_err() {
                return Ok(());
            }
            if pace.rate.is_some() {
                RateLimit::wait(free, stop);
            }
        }
        if !more {
            return Ok(());
        }
    }
}

/// A line that is no exported record is a value, whatever it is: the loop says what is wrong with it. One without its
/// addresses must not get there: it would be an event of a bad address.
fn record(line: &[u8], position: Position) -> io::Result<Record> {
    match serde_json::from_slice::<record_file::Line>(line) {
        Ok(record) if record.masked => Err(io::Error::other(format!(
            "line {} was exported without its addresses; only `dead-letters export --with-addresses` can be replayed",
            position.offset + 1
        ))),
        Ok(record) => Ok(record.into_envelope(position)),
        Err(_) => Ok(Record {
            position,
            timestamp: None,
            key: None,
            value: Some(line.to_vec().into()),
            headers: Vec::new(),
        }),
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
        let refused = record(&serde_json::to_vec(&masked).unwrap(), position).unwrap_err();
        assert!(refused.to_string().contains("line 8"), "{refused}");
    }
}
