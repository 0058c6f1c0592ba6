//! yarn.lock of Yarn 1, which has its own format. The existing crates for it return no line numbers.

use std::collections::{HashMap, HashSet};

use super::{Entry, LockfileError, Names, split_name};
use crate::location::{Kind, Location, package_of, segments};

const CUT: &str = "was the file cut off?";

/// The packages of a lockfile. `has_workspaces`: whether the project builds packages of its own, which have no entry, so that a
/// dependency without one need not be cut off.
pub(super) fn entries(text: &str, has_workspaces: bool) -> Result<Vec<Entry>, LockfileError> {
    let mut entries = Vec::new();
    let mut names = Names::default();
    let mut block: Option<Block> = None;
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
        let content = line.trim();
        if content.is_empty() && !line.is_empty() {
            return Err(LockfileError::structure(number, format!("a line of white space; {CUT}")));
        }
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - line.trim_start_matches(' ').len();
        if indent == 0 {
            block.take().map_or(Ok(()), |block| block.finish(&mut entries, &mut names))?;
            block = Some(Block::open(content, number)?);
        } else {
            let open = block.as_mut().ok_or_else(|| {
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
    for entry in ranges.filter(|entry| entry.location == Location::Unsaid) {
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
    /// The heading above the present line, without its colon.
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
            rest = behind.trim_start();
            if let Some(behind) = rest.strip_prefix(',') {
                rest = behind.trim_start();
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
        let (key, behind) = token(content, line)?;
        if behind == ":" {
            self.section = key;
            return Ok(());
        }
        let value = behind.trim_start();
        if value.is_empty() {
            return Err(LockfileError::structure(line, format!("{key} without a value; {CUT}")));
        }
        if !behind.starts_with(' ') || value.starts_with('#') {
            return Err(is_other());
        }
        let (value, behind) = token(value, line)?;
        let behind = behind.trim_start();
        if !behind.is_empty() && !behind.starts_with('#') {
            return Err(is_other());
        }
        if indent > 2 {
            match self.section.as_str() {
                "dependencies" => self.dependencies.push((key, line)),
                "optionalDependencies" => {
                    self.optional.insert(key);
                }
                _ => {}
            }
            return Ok(());
        }
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

    fn finish(self, entries: &mut Vec<Entry>, seen: &mut Names) -> Result<(), LockfileError> {
        let Some(version) = self.version else {
            let message = format!("an entry without a version; {CUT}");
            return Err(LockfileError::structure(self.line, message));
        };
        if self.uid.as_deref() == Some("") {
            seen.without_uid.insert(self.line);
        }
        seen.entry(self.patterns.iter().map(String::as_str));
        let needed = self.dependencies.into_iter();
        seen.needed.extend(needed.filter(|(name, _)| !self.optional.contains(name)));
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
    let path = resolved.split('#').next().unwrap_or_default();
    let is_path = !path.contains(':') && !path.starts_with(['.', '/']);
    match package_of(&segments(path)).filter(|_| is_path) {
        Some(package) => Location::Request(Some(package)),
        None => Location::read(resolved),
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

/// One word: quoted with JSON escapes, or up to a space, a comma or a colon, as Yarn reads it. Also returns the rest of the line.
fn token(text: &str, line: u32) -> Result<(String, &str), LockfileError> {
    if !text.starts_with('"') {
        let end = text.find([' ', ',', ':']).unwrap_or(text.len());
        // For Yarn, a number ends before it, and the next word begins.
        if text[..end].contains('"') {
            return Err(LockfileError::structure(line, "a quotation mark within a word"));
        }
        return Ok((text[..end].to_owned(), &text[end..]));
    }
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            '\\' if !is_escaped => is_escaped = true,
            '"' if !is_escaped => {
                let word = serde_json::from_str(&text[..=at])
                    .map_err(|error| LockfileError::structure(line, error.to_string()))?;
                return Ok((word, &text[at + 1..]));
            }
            _ => is_escaped = false,
        }
    }
    Err(LockfileError::structure(line, format!("a quotation mark without its pair; {CUT}")))
}
