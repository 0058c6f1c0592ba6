//! A file of records as a source of the ingest loop.

use std::fs::{self, File};
use std::io::{self, BufRead, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context as _;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commands::record_file::{self, RecordFile};
use crate::kafka::{CHUNK_BYTES, ReadOptions};
use crate::pipeline::ports::{AssignmentId, Chunk, SourceError, SourceEvent};

/// Opens the file; `-` is standard input.
///
/// # Errors
/// If the file cannot be opened; the error has its path.
pub(super) fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead + Send>> {
    record_file::open(path).with_context(|| format!("opening {}", path.display()))
}

/// How many bytes describe the beginning of a file.
pub(super) const BEGINNING: u64 = 64 * 1_024;

/// Describes the beginning of a file by its length, at most `most` bytes, and its SHA-256. `None` for what is not a regular file,
/// such as a pipe, which can be read only once.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn beginning(path: &Path, most: u64) -> anyhow::Result<Option<String>> {
    let describe = || -> io::Result<Option<String>> {
        if !fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(Some(format!("{} {}", bytes.len(), hex::encode(Sha256::digest(&bytes)))))
    };
    describe().with_context(|| format!("reading {}", path.display()))
}

/// Whether the file begins as it was described.
///
/// # Errors
/// As [`beginning`].
pub(super) fn begins_with(path: &Path, described: &str) -> anyhow::Result<bool> {
    let length = described.split(' ').next().and_then(|length| length.parse().ok());
    Ok(beginning(path, length.unwrap_or(BEGINNING))?.as_deref() == Some(described))
}

/// Reads a file from line number `first` on, on a separate thread.
///
/// # Errors
/// As [`open`].
pub(super) fn read(
    path: PathBuf,
    first: i64,
    limit: ReadOptions,
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
    limit: ReadOptions,
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
                    ReadOptions::wait(free, &self.stop);
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_again_by_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        fs::write(&path, "{}\n{}\n").unwrap();
        let described = beginning(&path, BEGINNING).unwrap().unwrap();
        assert!(begins_with(&path, &described).unwrap());
        fs::write(&path, "{}\n{}\n{}\n").unwrap();
        assert!(begins_with(&path, &described).unwrap(), "lines were added");
        for other in ["{}\n[]\n{}\n", "{}\n", ""] {
            fs::write(&path, other).unwrap();
            assert!(!begins_with(&path, &described).unwrap(), "{other:?}");
        }
        fs::remove_file(&path).unwrap();
        assert!(!begins_with(&path, &described).unwrap());
        assert_eq!(beginning(Path::new("/dev/null"), BEGINNING).unwrap(), None);
    }
}
