//! yarn.lock of Yarn 1, which has its own format. The existing crates for it return no line numbers.

use std::collections::{HashMap, HashSet};

use super::{Entry, LockfileError, Names, by_version, split_name};
use crate::location::{Kind, Location, package_of_path};

const CUT: &str = "was the file cut off?";

/// The packages of a lockfile. `has_workspaces`: whether the project builds packages of its own, which have no entry, so that a
/// dependency without one need not be cut off.
pub(super) fn entries(text: &str, has_workspaces: bool) -> Result<Vec<Entry>, LockfileError> {
    let mut entries = Vec::new();
    let mut names = Names::default();
    let mut block: Option<Block> = None;
    let mut has_gap = false;
    for (index, line) in text.lines().enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        if let Some(version) = line.strip_prefix("# yarn lockfile v")
            && version.trim() != "1"
        {
            return Err(LockfileError::UnknownVersion {
                what: "yarn lockfile version",
                version: version.trim().to_owned(),
                known: "1, and the `__metadata` of Yarn 2 and later",
            });
        }
        // For Yarn, a carriage return alone ends the line.
        if line.contains('\r') {
            return Err(LockfileError::structure(number, "a carriage return within a line"));
        }
        // Of white space, Yarn knows blanks alone.
        let content = line.trim_matches(' ');
        if line.trim().is_empty() && !line.is_empty() {
            return Err(LockfileError::structure(number, format!("a line of white space; {CUT}")));
        }
        if content.is_empty() || content.starts_with('#') {
            has_gap = true;
            continue;
        }
        let indent = line.len() - line.trim_start_matches(' ').len();
        if indent == 0 {
            block.take().map_or(Ok(()), |block| block.finish(&mut entries, &mut names))?;
            block = Some(Block::open(content, number)?);
            has_gap = false;
        } else {
            // For Yarn, an entry ends at a gap, and the whole file at an indented line behind it.
            let open = block.as_mut().filter(|_| !has_gap).ok_or_else(|| {
                LockfileError::structure(number, "an indented line without an entry before it")
            })?;
            open.property(content, indent, number)?;
        }
    }
    let Some(block) = block else {
        return Ok(entries);
    };
    if !text.ends_with('\n') {
        block.ends_whole(&entries)?;
    }
    block.finish(&mut entries, &mut names)?;
    if !has_workspaces {
        names.none_is_cut_off()?;
    }
    are_one(&mut entries, &names.without_uid);
    Ok(entries)
}

/// A resolution to a link writes an entry for the range too, without a location and with an empty `uid`: it is the link.
fn are_one(entries: &mut [Entry], without_uid: &HashSet<u32>) {
    let elsewhere = entries.iter().filter_map(|entry| match entry.location {
        Location::Elsewhere(kind) => Some((entry.name.clone(), kind)),
        _ => None,
    });
    let elsewhere: HashMap<_, _> = elsewhere.collect();
    let ranges = entries.iter_mut().filter(|entry| without_uid.contains(&entry.line));
    let is_unsaid =
        |entry: &&mut Entry| matches!(entry.location, Location::Unsaid | Location::Request(None));
    for entry in ranges.filter(is_unsaid) {
        if let Some(kind) = elsewhere.get(&entry.name) {
            entry.location = Location::Elsewhere(*kind);
        }
    }
}

/// One entry: `PATTERN, PATTERN:` and the indented lines after it.
#[derive(Default)]
struct Block {
    patterns: Vec<String>,
    line: u32,
    name: Option<String>,
    version: Option<String>,
    resolved: Option<String>,
    uid: Option<String>,
    integrity: Option<String>,
    /// The heading above the present line, without its colon. Empty behind a property.
    section: String,
    /// The dependencies with their lines.
    dependencies: Vec<(String, u32)>,
    /// The optional dependencies, which npm lists among the others too. They may be missing.
    optional: HashSet<String>,
}

impl Block {
    fn open(content: &str, line: u32) -> Result<Self, LockfileError> {
        let head = content.strip_suffix(':').ok_or_else(|| {
            LockfileError::structure(line, format!("an entry without a colon; {CUT}"))
        })?;
        let mut patterns = Vec::new();
        let mut rest = head;
        while !rest.is_empty() {
            let (pattern, behind) = token(rest, line)?;
            patterns.push(pattern);
            rest = behind.trim_start_matches(' ');
            if let Some(behind) = rest.strip_prefix(',') {
                rest = behind.trim_start_matches(' ');
            } else if !rest.is_empty() {
                return Err(LockfileError::structure(line, "not `PATTERN, PATTERN:`"));
            }
        }
        if patterns.is_empty() || !patterns.iter().all(|pattern| split_name(pattern).is_some()) {
            return Err(LockfileError::structure(line, "an entry that is not NAME@RANGE"));
        }
        Ok(Self { patterns, line, ..Self::default() })
    }

    fn property(&mut self, content: &str, indent: usize, line: u32) -> Result<(), LockfileError> {
        // Yarn also reads other forms than this one, which it writes: several keys and values in a line, or a colon between.
        let is_other = || LockfileError::structure(line, "not `KEY VALUE` or `KEY:`");
        let is_nested = match indent {
            2 => false,
            4 if !self.section.is_empty() => true,
            _ => {
                return Err(LockfileError::structure(
                    line,
                    "an indentation that Yarn does not write",
                ));
            }
        };
        let (key, behind) = token(content, line)?;
        if key.is_empty() || is_nested && behind == ":" {
            return Err(is_other());
        }
        if behind == ":" {
            self.section = key;
            return Ok(());
        }
        let value = behind.trim_start_matches(' ');
        if value.is_empty() {
            return Err(LockfileError::structure(line, format!("{key} without a value; {CUT}")));
        }
        if !behind.starts_with(' ') || value.starts_with('#') {
            return Err(is_other());
        }
        let (value, behind) = token(value, line)?;
        let behind = behind.trim_start_matches(' ');
        if !behind.is_empty() && !behind.starts_with('#') {
            return Err(is_other());
        }
        if is_nested {
            match self.section.as_str() {
                "dependencies" => self.dependencies.push((key, line)),
                "optionalDependencies" => {
                    self.optional.insert(key);
                }
                _ => {}
            }
            return Ok(());
        }
        self.section.clear();
        let slot = match key.as_str() {
            "name" => &mut self.name,
            "version" => &mut self.version,
            "resolved" => &mut self.resolved,
            "uid" => &mut self.uid,
            // Several digests stand on one line, in quotes.
            "integrity" => &mut self.integrity,
            _ => return Ok(()),
        };
        *slot = Some(value);
        Ok(())
    }

    /// Digests have no quotes, so a cut-off one is only recognized because it is shorter than earlier ones.
    fn ends_whole(&self, before: &[Entry]) -> Result<(), LockfileError> {
        let Some(digest) = &self.integrity else { return Ok(()) };
        let algorithm = digest.split_once('-').map(|(algorithm, _)| algorithm);
        let is_longer = |entry: &Entry| {
            entry.integrity.as_ref().is_some_and(|other| {
                other.len() > digest.len()
                    && other.split_once('-').map(|(algorithm, _)| algorithm) == algorithm
            })
        };
        if algorithm.is_none() || before.iter().any(is_longer) {
            return Err(LockfileError::structure(self.line, format!("half a digest; {CUT}")));
        }
        Ok(())
    }

    /// Whether each of the package's patterns asks for exactly this version.
    fn is_pinned(&self, name: &str, version: &str) -> bool {
        let mut ranges = self.patterns.iter().map(|pattern| real(pattern));
        by_version(name, version) == Location::Unsaid
            && ranges.all(|(other, range)| other != name || range == version)
    }

    fn finish(self, entries: &mut Vec<Entry>, seen: &mut Names) -> Result<(), LockfileError> {
        let Some(version) = self.version.clone() else {
            let message = format!("an entry without a version; {CUT}");
            return Err(LockfileError::structure(self.line, message));
        };
        if self.uid.as_deref() == Some("") {
            seen.without_uid.insert(self.line);
        }
        seen.entry(self.patterns.iter().map(String::as_str));
        let needed = self.dependencies.iter().filter(|(name, _)| !self.optional.contains(name));
        seen.needed.extend(needed.cloned());
        let resolved = self.resolved.as_deref().map_or(Location::Unsaid, location);
        // The patterns of an entry are one package. A resolution may add the place where that is.
        let mut places = self.patterns.iter().map(|pattern| place(real(pattern).1));
        let common = places.find(|place| *place != Location::Unsaid);
        let resolved = match resolved {
            Location::Unsaid => common.unwrap_or(Location::Unsaid),
            resolved => resolved,
        };
        let mut names = HashSet::new();
        for pattern in &self.patterns {
            let (name, range) = real(pattern);
            // Yarn asks the registry by the pattern, and writes the name for packages from elsewhere.
            let is_asked_for = resolved == Location::Unsaid && place(range) == Location::Unsaid;
            let name = self.name.as_deref().filter(|_| !is_asked_for).unwrap_or(name);
            if !names.insert(name) {
                continue;
            }
            let location = match &resolved {
                // Yarn asks the registry by the range, whatever the version is.
                Location::Unsaid if is_asked_for && !self.is_pinned(name, &version) => {
                    Location::Request(None)
                }
                Location::Unsaid => place(range),
                resolved => resolved.clone(),
            };
            // A pattern with a location has no registry version. A registry tarball's URL names the version itself.
            let is_by_name = place(range) == Location::Unsaid;
            let version = (is_by_name || location == Location::Unsaid).then_some(&*version);
            let entry = Entry::npm(name, self.line).version(version).at(location);
            entries.push(entry.integrity(self.integrity.as_deref()));
        }
        Ok(())
    }
}

/// The location in `resolved`. What has no host and is not in the folder of an offline mirror is a path in the registry.
fn location(resolved: &str) -> Location {
    let path = resolved.split(['?', '#']).next().unwrap_or_default();
    let is_path = !path.contains(':') && !path.starts_with(['.', '/']);
    match package_of_path(resolved) {
        _ if !is_path => Location::read(resolved),
        None if !path.contains("/-/") => Location::read(resolved),
        package => Location::Request(package),
    }
}

/// The real name and the range of a pattern: `alias@npm:name@range` has the name `name`.
fn real(pattern: &str) -> (&str, &str) {
    let (name, range) = split_name(pattern).unwrap_or((pattern, ""));
    match range.strip_prefix("npm:") {
        Some(target) => split_name(target).unwrap_or((target, "")),
        None => (name, range),
    }
}

/// The location that a range names; `Unsaid` for a version range.
fn place(range: &str) -> Location {
    let is_path = range.starts_with(['.', '/', '~']) && range.contains('/');
    if is_path {
        return Location::Elsewhere(Kind::File);
    }
    if range.contains(':') {
        return Location::read(range);
    }
    // `user/repository`; version ranges have no slash.
    if range.contains('/') { Location::Elsewhere(Kind::Git) } else { Location::Unsaid }
}

/// One word as Yarn reads it: quoted with JSON escapes, or from a letter up to a space, a comma or a colon. Also returns the rest
/// of the line. What Yarn cannot read in this way, it reads as YAML.
fn token(text: &str, line: u32) -> Result<(String, &str), LockfileError> {
    if !text.starts_with('"') {
        let end = text.find([' ', ',', ':']).unwrap_or(text.len());
        let word = &text[..end];
        let is_word = word.starts_with(|letter: char| letter.is_ascii_alphabetic() || "/.-".contains(letter))
            // For Yarn these are words of their own, and the next one begins behind them.
            && !["true", "false"].iter().any(|head| word.starts_with(head));
        if !is_word || word.contains('"') {
            return Err(LockfileError::structure(
                line,
                "a word that Yarn does not write without quotation marks",
            ));
        }
        return Ok((word.to_owned(), &text[end..]));
    }
    let is_end = |at: usize| {
        let before = &text.as_bytes()[..at];
        // Yarn looks at two letters alone.
        text[at..].starts_with('"') && (!before.ends_with(b"\\") || before.ends_with(b"\\\\"))
    };
    match text.char_indices().skip(1).find(|&(at, _)| is_end(at)) {
        Some((at, _)) => {
            let word = serde_json::from_str(&text[..=at])
                .map_err(|error| LockfileError::structure(line, error.to_string()))?;
            Ok((word, &text[at + 1..]))
        }
        None => {
            Err(LockfileError::structure(line, format!("a quotation mark without its pair; {CUT}")))
        }
    }
}
