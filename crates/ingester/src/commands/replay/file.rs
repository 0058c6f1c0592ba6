//! A file of records as a source of the ingest loop.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commands::record_file::{self, RecordFile};
use crate::kafka::{CHUNK_BYTES, RateLimit};
use crate::pipeline::ports::{AssignmentId, Chunk, SourceError, SourceEvent};

/// Opens the file; `-` is standard input.
///
/// # Errors
/// If the file cannot be opened; the error has its path.
pub(super) fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead + Send>> {
    record_file::open(path).with_context(|| format!("opening {}", path.display()))
}

/// Reads a file from line number `first` on, on a separate thread.
///
/// # Errors
/// As [`open`].
pub(super) fn read(
    path: PathBuf,
    first: i64,
    limit: RateLimit,
    stop: CancellationToken,
) -> anyhow::Result<mpsc::Receiver<SourceEvent>> {
    let records = RecordFile::new(open(&path)?);
    let (events, receiver) = mpsc::channel(1);
    let source = FileSource { first, limit, stop, events };
    std::thread::Builder::new().name("file".into()).spawn(move || {
        let end = match source.hand_over(records) {
            Ok(()) => SourceEvent::Ended,
            Err(error) => {
                SourceEvent::Failed(SourceError::Range(format!("{}: {error}", path.display())))
            }
        };
        // The loop may have failed first and dropped the receiver.
        let _ = source.events.blocking_send(end);
    })?;
    Ok(receiver)
}

struct FileSource {
    first: i64,
    limit: RateLimit,
    stop: CancellationToken,
    events: mpsc::Sender<SourceEvent>,
}

impl FileSource {
    fn hand_over(&self, mut file: RecordFile<impl BufRead>) -> io::Result<()> {
        let mut free = Instant::now();
        let (mut records, mut bytes) = (Vec::new(), 0);
        loop {
            let record = if self.stop.is_cancelled() { None } else { file.next()? };
            let is_last = record.is_none();
            if let Some(record) = record.filter(|record| record.position.offset >= self.first) {
                bytes += record.size();
                records.push(record);
            }
            let is_full = records.len() >= self.limit.chunk() || bytes >= CHUNK_BYTES;
            if is_full || (is_last && !records.is_empty()) {
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
            if is_last {
                return Ok(());
            }
        }
    }
}
