//! Finds files.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use model::Timestamp;

/// The size and modification time of a file, which show whether it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    len: u64,
    modified: Timestamp,
    /// The part of the modification time below a microsecond.
    nanos: u32,
}

impl Stamp {
    fn of(metadata: &Metadata) -> io::Result<Self> {
        let modified = metadata.modified()?;
        let (micros, nanos) = match modified.duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_micros()), since.subsec_nanos() % 1_000),
            Err(before) => {
                let before = before.duration();
                (
                    i64::try_from(before.as_micros()).map(|micros| -micros),
                    before.subsec_nanos() % 1_000,
                )
            }
        };
        let modified = Timestamp::from_micros(micros.unwrap_or(i64::MAX));
        Ok(Self { len: metadata.len(), modified, nanos })
    }

    /// When the file was fetched, according to the file system.
    pub(super) const fn modified(self) -> Timestamp {
        self.modified
    }
}

/// A file with its stamp.
pub(super) type Found = (Arc<Path>, Stamp);

/// Lists every regular file below a path, sorted by path; the path may be a file itself. Skips names that begin with a
/// full stop or end in `.tmp` or `.part`, because files are written under such names first. Follows symbolic links, but
/// enters each directory once. Within a directory, only files with the extension `ending` are listed, if given.
///
/// # Errors
/// The path that is missing or cannot be read, and the error. A single file that is deleted meanwhile is not an error.
pub(super) fn files(
    place: &Path,
    ending: Option<&str>,
) -> Result<Vec<Found>, (PathBuf, io::Error)> {
    let with_path = |path: &Path| {
        let path = path.to_path_buf();
        move |error| (path, error)
    };
    let metadata = fs::metadata(place).map_err(with_path(place))?;
    if metadata.is_file() {
        let stamp = Stamp::of(&metadata).map_err(with_path(place))?;
        return Ok(vec![(place.into(), stamp)]);
    }
    let mut files: Vec<Found> = Vec::new();
    let mut visited = HashSet::new();
    let mut directories = vec![place.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let canonical = directory.canonicalize().map_err(with_path(&directory))?;
        if !visited.insert(canonical) {
            continue;
        }
        for entry in fs::read_dir(&directory).map_err(with_path(&directory))? {
            let entry = entry.map_err(with_path(&directory))?;
            if is_aside(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // It was deleted, or is a dangling link.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err((path, error)),
            };
            if metadata.is_dir() {
                directories.push(path);
            } else if metadata.is_file()
                && ending.is_none_or(|ending| path.extension().is_some_and(|found| found == ending))
            {
                let stamp = Stamp::of(&metadata).map_err(with_path(&path))?;
                files.push((path.into(), stamp));
            }
        }
    }
    files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

fn is_aside(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".tmp") || name.ends_with(".part")
}
