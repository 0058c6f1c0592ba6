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
    /// The stamp of a path that cannot be read: no file, but perhaps a folder of files.
    pub(super) const UNREADABLE: Self =
        Self { len: 0, modified: Timestamp::from_micros(i64::MIN), nanos: 0 };

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
/// A path below `place` that cannot be read, a folder without permission or a link that leads to itself, is listed as
/// [`Stamp::UNREADABLE`], so that it hides nothing else. What is deleted meanwhile is left out.
///
/// # Errors
/// If `place` itself is missing or cannot be read.
pub(super) fn files(place: &Path, ending: Option<&str>) -> io::Result<Vec<Found>> {
    let metadata = fs::metadata(place)?;
    if metadata.is_file() {
        return Ok(vec![(place.into(), Stamp::of(&metadata)?)]);
    }
    let mut walk = Walk { ending, directories: vec![place.to_path_buf()], ..Walk::default() };
    while let Some(directory) = walk.directories.pop() {
        match walk.list(&directory) {
            Err(error) if directory == place => return Err(error),
            Err(error) => walk.skip(directory, &error),
            Ok(()) => {}
        }
    }
    walk.files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(walk.files)
}

#[derive(Default)]
struct Walk<'a> {
    ending: Option<&'a str>,
    files: Vec<Found>,
    directories: Vec<PathBuf>,
    visited: HashSet<PathBuf>,
}

impl Walk<'_> {
    fn list(&mut self, directory: &Path) -> io::Result<()> {
        if !self.visited.insert(directory.canonicalize()?) {
            return Ok(());
        }
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            if is_temporary(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.skip(path, &error);
                    continue;
                }
            };
            if metadata.is_dir() {
                self.directories.push(path);
            } else if metadata.is_file()
                && self.ending.is_none_or(|ending| path.extension().is_some_and(|it| it == ending))
            {
                self.files.push((path.into(), Stamp::of(&metadata)?));
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: PathBuf, error: &io::Error) {
        // What is not found was deleted, or is a dangling link.
        if error.kind() != io::ErrorKind::NotFound {
            self.files.push((path.into(), Stamp::UNREADABLE));
        }
    }
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".tmp") || name.ends_with(".part")
}
