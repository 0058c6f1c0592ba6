//! Reads lists and databases from the operator's directories.
//!
//! A history is a function of the files that exist: the next refresh removes the evidence of a deleted file, and reads
//! a changed file again. One exception: while a changed file is refused, its previous lists stay, because a corrupt
//! replacement must not displace a valid list.

mod archive;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Timestamp;

use crate::{
    Change, Database, ExitHistory, List, Refusal, Refused, Source, TorRules, Update, exit_list,
    list_time, snapshot,
};
use walk::{Found, Stamp};

/// The maximum size of a list in bytes: the scanner's lists are below half a MiB.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// The maximum size of a database in bytes: MaxMind's are below 200 MiB.
const MAX_DATABASE_BYTES: u64 = 2 << 30;

/// The paths of the sources; `None` = the source is not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourcePaths {
    /// `tor.exit_lists`: a directory of exit lists, at any depth, and of CollecTor's month archives.
    pub exit_lists: Option<PathBuf>,
    /// `tor.snapshots`: a directory of snapshots, likewise.
    pub snapshots: Option<PathBuf>,
    /// `tor.anonymous_ip`: one database, or a directory with files that end in `.mmdb`.
    pub anonymous_ip: Option<PathBuf>,
}

impl SourcePaths {
    /// A single source, to verify it alone.
    #[must_use]
    pub fn only(source: Source, path: PathBuf) -> Self {
        let mut paths = Self::default();
        *match source {
            Source::ExitList => &mut paths.exit_lists,
            Source::Snapshot => &mut paths.snapshots,
            Source::AnonymousIp => &mut paths.anonymous_ip,
        } = Some(path);
        paths
    }

    /// The path of a source.
    #[must_use]
    pub fn of(&self, source: Source) -> Option<&Path> {
        match source {
            Source::ExitList => self.exit_lists.as_deref(),
            Source::Snapshot => self.snapshots.as_deref(),
            Source::AnonymousIp => self.anonymous_ip.as_deref(),
        }
    }
}

/// A configured path that is missing or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot read {}", .path.display())]
pub struct LoadError {
    /// The key of the configuration.
    pub key: &'static str,
    /// The configured path.
    pub path: PathBuf,
    /// The operating system's error.
    #[source]
    pub source: io::Error,
}

/// The remembered state of a file.
#[derive(Debug)]
struct KnownFile {
    stamp: Stamp,
    /// The origins of the lists that it added to the history: the file itself, or its members.
    origins: Vec<Arc<Path>>,
    /// The parts of the file that could not be parsed.
    refused: Vec<(Arc<Path>, Refusal)>,
}

/// The files of all sources and the history built from them. Its calls block, because they read files. To evaluate
/// verdicts, clone [`Self::history`], which later refreshes do not change.
#[derive(Debug)]
pub struct Library {
    paths: SourcePaths,
    history: ExitHistory,
    known: [BTreeMap<Arc<Path>, KnownFile>; 3],
}

impl Library {
    /// A library that has read nothing yet; the first [`Self::refresh`] loads everything.
    #[must_use]
    pub fn new(paths: SourcePaths, rules: TorRules) -> Self {
        Self { paths, history: ExitHistory::new(rules), known: Default::default() }
    }

    /// The history as of the last refresh that succeeded.
    #[must_use]
    pub const fn history(&self) -> &ExitHistory {
        &self.history
    }

    /// Reads the files that are new or changed by path, size and modification time, drops deleted files, evaluates
    /// again at the clock's time `now`, and replaces the history in one step.
    ///
    /// # Errors
    /// [`LoadError`] for a configured path that is missing or cannot be read; the history then stays unchanged. A file or
    /// folder below it that cannot be read is a refusal, and what was read there before stays.
    pub fn refresh(&mut self, now: Timestamp) -> Result<Change, LoadError> {
        // List the files of all sources before any change.
        let found = Source::ALL.into_iter().map(|source| Ok((source, self.walk(source)?)));
        Ok(self.update(found.collect::<Result<_, _>>()?, now))
    }

    /// As [`Self::refresh`], but a source whose path is missing or cannot be read keeps the lists that it has, and the other
    /// sources are refreshed. Also returns the error of the first such source.
    pub fn refresh_readable(&mut self, now: Timestamp) -> (Change, Option<LoadError>) {
        let (mut found, mut unreadable) = (Vec::new(), None);
        for source in Source::ALL {
            match self.walk(source) {
                Ok(files) => found.push((source, files)),
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        (self.update(found, now), unreadable)
    }

    fn update(&mut self, found: Vec<(Source, Vec<Found>)>, now: Timestamp) -> Change {
        let mut update = self.history.update();
        let mut refused = Vec::new();
        for (source, files) in found {
            let known = &mut self.known[source as usize];
            let present: HashSet<&Path> = files.iter().map(|(path, _)| &**path).collect();
            let unreadable = files.iter().filter(|(_, stamp)| *stamp == Stamp::UNREADABLE);
            let unreadable: Vec<&Path> = unreadable.map(|(path, _)| &**path).collect();
            known.retain(|path, known| {
                let stays = present.contains(&**path)
                    || unreadable.iter().any(|folder| path.starts_with(folder));
                if !stays {
                    known.origins.iter().for_each(|origin| update.remove(source, origin));
                }
                stays
            });
            for (path, stamp) in &files {
                let before = known.get(path);
                if before.is_some_and(|before| before.is_unchanged(*stamp)) {
                    continue;
                }
                let Some(read) = read(source, path, *stamp, &mut update) else { continue };
                let read = read.after(before, source, &mut update);
                refused.extend(read.refused_since(before, source));
                known.insert(Arc::clone(path), read);
            }
        }
        let (history, mut change) = update.finish(now);
        self.history = history;
        change.refused.extend(refused);
        change.refused.sort_unstable();
        change
    }

    /// All files that are refused at present, by source and path.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        let mut refused: Vec<Refused> = self.history.refused().collect();
        for source in Source::ALL {
            let known = self.known[source as usize].values();
            refused.extend(known.flat_map(|known| known.refused_since(None, source)));
        }
        refused.sort_unstable();
        refused
    }

    /// The number of files of a source.
    #[must_use]
    pub fn files(&self, source: Source) -> usize {
        self.known[source as usize].len()
    }

    fn walk(&self, source: Source) -> Result<Vec<Found>, LoadError> {
        let Some(place) = self.paths.of(source) else { return Ok(Vec::new()) };
        let ending = (source == Source::AnonymousIp).then_some("mmdb");
        walk::files(place, ending).map_err(|error| LoadError {
            key: source.key(),
            path: place.to_path_buf(),
            source: error,
        })
    }
}

impl KnownFile {
    /// Whether the file is unchanged. A file that could not be read counts as changed, so that it is tried again each time.
    fn is_unchanged(&self, stamp: Stamp) -> bool {
        self.stamp == stamp
            && !self.refused.iter().any(|&(_, reason)| reason == Refusal::Unreadable)
    }

    /// Keeps the previous lists of a refused file, and removes the lists that an archive no longer has.
    fn after(mut self, before: Option<&Self>, source: Source, update: &mut Update) -> Self {
        let Some(before) = before else { return self };
        let (now, refused): (HashSet<&Path>, HashSet<&Path>) = (
            self.origins.iter().map(|origin| &**origin).collect(),
            self.refused.iter().map(|(origin, _)| &**origin).collect(),
        );
        // An archive that is refused as a whole keeps all its members.
        let whole = self.origins.is_empty() && !self.refused.is_empty();
        let (kept, gone): (Vec<_>, Vec<_>) = before
            .origins
            .iter()
            .filter(|origin| !now.contains(&***origin))
            .partition(|origin| whole || refused.contains(&***origin));
        gone.into_iter().for_each(|origin| update.remove(source, origin));
        let kept: Vec<_> = kept.into_iter().cloned().collect();
        self.origins.extend(kept);
        self
    }

    /// The refusals, without those that the same unchanged file had for the same reason before.
    fn refused_since(&self, before: Option<&Self>, source: Source) -> Vec<Refused> {
        let unchanged = before.filter(|before| before.stamp == self.stamp);
        let is_new = |refused: &&(Arc<Path>, Refusal)| {
            unchanged.is_none_or(|before| !before.refused.contains(refused))
        };
        let new = self.refused.iter().filter(is_new);
        new.map(|(path, reason)| Refused { source, path: path.to_path_buf(), reason: *reason })
            .collect()
    }
}

/// Reads a file and adds its lists to the update; `None` if the file has been deleted meanwhile.
fn read(source: Source, path: &Arc<Path>, stamp: Stamp, update: &mut Update) -> Option<KnownFile> {
    let mut known = KnownFile { stamp, origins: Vec::new(), refused: Vec::new() };
    let result = match source {
        _ if stamp == Stamp::UNREADABLE => Err(Failure::Refused(Refusal::Unreadable)),
        Source::AnonymousIp => read_whole(path, MAX_DATABASE_BYTES)
            .and_then(|bytes| Database::parse(&bytes).map_err(Failure::Refused))
            .map(|database| update.database(database, Arc::clone(path))),
        _ if archive::is_archive(path) => {
            archive::lists(path, |name, fetched, bytes| parse(source, name, fetched, bytes))
                .map_err(Failure::Refused)
                .map(|members| {
                    for (name, list) in members {
                        // A member's name is only part of an origin here, never a path to write to.
                        let name = name.strip_prefix("/").unwrap_or(&name);
                        let origin: Arc<Path> = path.join(name).into();
                        match list {
                            Ok(list) => known.add_list(source, &list, origin, update),
                            Err(reason) => known.refused.push((origin, reason)),
                        }
                    }
                })
        }
        _ => read_whole(path, MAX_LIST_BYTES)
            .and_then(|bytes| {
                parse(source, path, stamp.modified(), &bytes).map_err(Failure::Refused)
            })
            .map(|list| known.add_list(source, &list, Arc::clone(path), update)),
    };
    match result {
        Ok(()) if source == Source::AnonymousIp => known.origins.push(Arc::clone(path)),
        Ok(()) => {}
        Err(Failure::Vanished) => return None,
        Err(Failure::Refused(reason)) => known.refused.push((Arc::clone(path), reason)),
    }
    Some(known)
}

impl KnownFile {
    fn add_list(&mut self, source: Source, list: &List, origin: Arc<Path>, update: &mut Update) {
        self.origins.push(Arc::clone(&origin));
        match source {
            Source::ExitList => update.exit_list(list, origin),
            Source::Snapshot | Source::AnonymousIp => update.snapshot(list, origin),
        }
    }
}

/// Parses a list. If it has no time itself, its time is that in its file name, else the time when it was fetched.
fn parse(source: Source, path: &Path, fetched: Timestamp, bytes: &[u8]) -> Result<List, Refusal> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let time = list_time::from_file_name(name).unwrap_or(fetched);
    match source {
        Source::ExitList => exit_list::parse(bytes, time),
        Source::Snapshot | Source::AnonymousIp => snapshot::parse(bytes, time),
    }
}

enum Failure {
    Vanished,
    Refused(Refusal),
}

fn read_whole(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let failure = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Vanished,
        _ => Failure::Refused(Refusal::Unreadable),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failure)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(failure)?;
    if bytes.len() as u64 > most {
        return Err(Failure::Refused(Refusal::TooLarge));
    }
    Ok(bytes)
}
