//! Parsers for lockfiles and SBOMs. They do not decide which packages are requested.

mod berry;
mod bun;
mod cyclonedx;
mod npm;
mod pnpm;
mod purls;
mod spdx;
mod yarn;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use model::{PackageName, PackageVersion};
use nodejs_semver::Version;

use crate::location::{Kind, Location};
use crate::tree::{self, Node, SyntaxError};

/// Maximum size of a file; the largest known lockfiles are a quarter of it.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The purl type of every package in a lockfile of these tools.
pub(crate) const NPM: &str = "npm";

/// The lockfiles that are searched for in the current folder.
pub const DEFAULT_NAMES: [&str; 5] =
    ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock"];

/// The format of a file. It also decides which package manager's settings apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// package-lock.json, npm-shrinkwrap.json.
    Npm,
    /// pnpm-lock.yaml.
    Pnpm,
    /// yarn.lock of Yarn 1.
    Yarn,
    /// yarn.lock of Yarn 2 and later.
    Berry,
    /// bun.lock.
    Bun,
    /// `CycloneDX` or SPDX JSON.
    Sbom,
    /// purls, one per line.
    Purls,
}

/// A package entry of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The purl type.
    pub ecosystem: String,
    /// The real name, with aliases resolved.
    pub name: String,
    /// The version, if the file has one.
    pub version: Option<String>,
    /// The location.
    pub location: Location,
    /// Further locations that a purl names. All of them must be in the deployment's registry.
    pub also: Vec<Location>,
    /// The digests as written in the file.
    pub integrity: Option<String>,
    /// Whether the package's own shrinkwrap decides what is installed below it.
    pub has_shrinkwrap: bool,
    /// The line in the file, from 1.
    pub line: u32,
}

impl Entry {
    pub(crate) fn npm(name: impl Into<String>, line: u32) -> Self {
        Self {
            ecosystem: NPM.to_owned(),
            name: name.into(),
            version: None,
            location: Location::Unsaid,
            also: Vec::new(),
            integrity: None,
            has_shrinkwrap: false,
            line,
        }
    }

    pub(crate) fn version(mut self, version: Option<&str>) -> Self {
        self.version = version.map(Into::into);
        self
    }

    pub(crate) fn at(mut self, location: Location) -> Self {
        self.location = location;
        self
    }

    pub(crate) fn elsewhere(self, kind: Kind) -> Self {
        self.at(Location::Elsewhere(kind))
    }

    pub(crate) fn integrity(mut self, integrity: Option<&str>) -> Self {
        self.integrity = integrity.map(Into::into);
        self
    }
}

/// A file that was read.
#[derive(Debug)]
pub struct Lockfile {
    /// The path as given.
    pub path: String,
    /// The folder whose settings apply.
    pub folder: PathBuf,
    /// The format.
    pub format: Format,
    /// The packages in the order of the file.
    pub entries: Vec<Entry>,
}

/// Why a file cannot be audited.
#[derive(Debug, thiserror::Error)]
pub enum LockfileError {
    /// The file does not exist or is not readable.
    #[error("cannot be read")]
    Io(#[from] std::io::Error),
    /// The file is larger than [`MAX_BYTES`].
    #[error("is larger than {} MiB", MAX_BYTES / 1024 / 1024)]
    TooLarge,
    /// The file has no content.
    #[error("is empty")]
    Empty,
    /// The file is not UTF-8.
    #[error("is not UTF-8 text{0}")]
    NotText(&'static str),
    /// The file is XML or HTML.
    #[error("is XML or HTML; of SBOMs, those in JSON are read")]
    Xml,
    /// The file is JSON of another kind, for example a package.json.
    #[error(
        "is not a lockfile or SBOM that is known: it has no lockfileVersion, bomFormat or spdxVersion"
    )]
    Unknown,
    /// The file lists purls.
    #[error("is a list of purls, which are read from standard input: give `-` for the file")]
    Purls,
    /// The file has Git conflict markers.
    #[error("line {0}: a merge conflict that is not resolved")]
    Conflict(u32),
    /// The syntax is invalid.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The version of the format is unknown.
    #[error("has {what} {version}; known are {known}")]
    UnknownVersion {
        /// The name of the version field.
        what: &'static str,
        /// The version in the file.
        version: String,
        /// The known versions.
        known: &'static str,
    },
    /// The file parses, but a part is missing or has the wrong type: it is another file, or it was cut off.
    #[error("line {line}: {message}")]
    Structure {
        /// The line, from 1.
        line: u32,
        /// The error.
        message: String,
    },
    /// A name or version that is not allowed (crates/model/README.md, Publish event).
    #[error("line {line}: a package's {part} is not valid: {error}")]
    Name {
        /// The line, from 1.
        line: u32,
        /// `name` or `version`.
        part: &'static str,
        /// The error.
        error: model::InvalidName,
    },
}

impl LockfileError {
    pub(crate) fn structure(line: u32, message: impl Into<String>) -> Self {
        Self::Structure { line, message: message.into() }
    }
}

/// Reads a file. The format is detected from its content. A file with the name of a lockfile must be one of that kind.
///
/// # Errors
/// [`LockfileError`] when the file is missing, too large, invalid, or of an unknown version.
pub fn read(path: &Path) -> Result<Lockfile, LockfileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    read_of(path, folder.unwrap_or(Path::new(".")))
}

/// As [`read`], for the lockfile of the project in `folder`: an earlier version of it may lie elsewhere.
///
/// # Errors
/// As [`read`].
pub fn read_of(path: &Path, folder: &Path) -> Result<Lockfile, LockfileError> {
    let text = text_of(File::open(path)?)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (format, entries) = parse(&text, name, folder)?;
    Ok(Lockfile {
        path: path.display().to_string(),
        folder: folder.to_owned(),
        format,
        entries: checked(entries)?,
    })
}

/// Reads purls, one per line. Empty lines are skipped.
///
/// # Errors
/// [`LockfileError`] when a line is not a purl.
pub fn read_purls(input: impl Read) -> Result<Lockfile, LockfileError> {
    let entries = purls::entries(&text_of(input)?)?;
    Ok(Lockfile {
        path: "stdin".to_owned(),
        folder: PathBuf::from("."),
        format: Format::Purls,
        entries: checked(entries)?,
    })
}

/// The names in a yarn.lock, to recognize one that was cut off between two entries: what is left of it has no error.
#[derive(Default)]
struct Names {
    /// The patterns of the last entry. Yarn sorts the entries by these.
    last: String,
    known: HashSet<String>,
    /// The dependencies of all entries, with their lines.
    needed: Vec<(String, u32)>,
    /// The lines of the entries whose `uid` is empty, as Yarn 1 writes it for links.
    without_uid: HashSet<u32>,
}

impl Names {
    /// Adds an entry by its patterns, `NAME@RANGE, …`.
    fn entry<'p>(&mut self, patterns: impl Iterator<Item = &'p str>) {
        let mut patterns = patterns.peekable();
        self.last = patterns.peek().copied().unwrap_or_default().to_owned();
        let names = patterns.map(|pattern| split_name(pattern).map_or(pattern, |(name, _)| name));
        self.known.extend(names.map(ToOwned::to_owned));
    }

    /// Refuses the file if a dependency is missing that would be behind the last entry. Others may be missing: Yarn 1 has
    /// no entries for the workspaces.
    fn none_is_cut_off(&self) -> Result<(), LockfileError> {
        let is_cut = |name: &str| !self.known.contains(name) && format!("{name}@") > self.last;
        match self.needed.iter().find(|(name, _)| is_cut(name)) {
            Some((_, line)) => Err(LockfileError::structure(
                *line,
                "a dependency has no entry; was the file cut off?",
            )),
            None => Ok(()),
        }
    }
}

/// The name in `NAME@REST`, and the rest. The `@` of a scope is part of the name.
fn split_name(text: &str) -> Option<(&str, &str)> {
    let (at, _) = text.char_indices().skip(1).find(|&(_, letter)| letter == '@')?;
    Some((&text[..at], &text[at + 1..]))
}

fn text_of(input: impl Read) -> Result<String, LockfileError> {
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(LockfileError::TooLarge);
    }
    if bytes.starts_with(b"#!/usr/bin/env bun") {
        return Err(LockfileError::NotText("; `bun install --save-text-lockfile` writes bun.lock"));
    }
    let text = String::from_utf8(bytes).map_err(|_| LockfileError::NotText(""))?;
    let text = text.strip_prefix('\u{feff}').map(Into::into).unwrap_or(text);
    if text.trim().is_empty() {
        return Err(LockfileError::Empty);
    }
    Ok(text)
}

/// Whether a package manager reads a file of this name in this format. Any other name is one of no package manager.
fn is_named(name: &str, format: Format) -> bool {
    match name {
        "package-lock.json" | "npm-shrinkwrap.json" => format == Format::Npm,
        "pnpm-lock.yaml" => format == Format::Pnpm,
        "yarn.lock" => matches!(format, Format::Yarn | Format::Berry),
        "bun.lock" => format == Format::Bun,
        // The binary form, which is not read.
        "bun.lockb" => false,
        _ => true,
    }
}

fn parse(text: &str, name: &str, folder: &Path) -> Result<(Format, Vec<Entry>), LockfileError> {
    refuse_others(text)?;
    let (format, entries) = match name {
        "bun.lock" => (Format::Bun, bun::entries(&tree::json_with_trailing_commas(text)?)?),
        _ if text.trim_start().starts_with(['{', '[', '/']) => json(text, folder)?,
        _ => lines(text, folder)?,
    };
    match is_named(name, format) {
        true => Ok((format, entries)),
        false => Err(LockfileError::structure(1, "the content is not that of a file of this name")),
    }
}

/// Refuses what is a lockfile of no kind.
fn refuse_others(text: &str) -> Result<(), LockfileError> {
    let is_marker = |line: &str| {
        line == "======="
            || ["<<<<<<<", "|||||||", ">>>>>>>"].iter().any(|mark| line.starts_with(mark))
    };
    if let Some(at) = text.lines().position(is_marker) {
        return Err(LockfileError::Conflict(u32::try_from(at + 1).unwrap_or(u32::MAX)));
    }
    if text.trim_start().starts_with('<') {
        return Err(LockfileError::Xml);
    }
    if text.trim_start().starts_with("pkg:") {
        return Err(LockfileError::Purls);
    }
    Ok(())
}

fn lines(text: &str, folder: &Path) -> Result<(Format, Vec<Entry>), LockfileError> {
    let has_line = |head: &str| text.lines().any(|line| line.starts_with(head));
    if has_line("__metadata:") {
        return Ok((Format::Berry, berry::entries(&tree::yaml_documents(text)?)?));
    }
    if has_line("lockfileVersion:") {
        return Ok((Format::Pnpm, pnpm::entries(&tree::yaml_documents(text)?)?));
    }
    Ok((Format::Yarn, yarn::entries(text, has_workspaces(folder))?))
}

fn has_workspaces(folder: &Path) -> bool {
    let text = std::fs::read_to_string(folder.join("package.json"));
    let project = text.ok().and_then(|text| tree::json(&text).ok());
    project.is_some_and(|project| project.get("workspaces").is_some())
}

/// Refuses a document with the marks of two formats: a package manager reads those that it knows.
fn has_one_kind(document: &Node) -> Result<(), LockfileError> {
    let marks = ["bomFormat", "spdxVersion", "lockfileVersion", "__metadata"];
    match marks.iter().filter_map(|mark| document.get(mark)).nth(1) {
        Some(second) => Err(LockfileError::structure(second.line, "marks of two formats")),
        None => Ok(()),
    }
}

fn json(text: &str, folder: &Path) -> Result<(Format, Vec<Entry>), LockfileError> {
    let document = match tree::json(text) {
        Ok(document) => document,
        // Only bun writes trailing commas.
        Err(error) => {
            let document = tree::json_with_trailing_commas(text).map_err(|_| error.clone())?;
            return match bun::is_bun(&document) {
                true => Ok((Format::Bun, bun::entries(&document)?)),
                false => Err(error.into()),
            };
        }
    };
    has_one_kind(&document)?;
    if document.get("bomFormat").is_some() {
        return Ok((Format::Sbom, cyclonedx::entries(&document)?));
    }
    if document.get("spdxVersion").is_some() {
        return Ok((Format::Sbom, spdx::entries(&document)?));
    }
    if bun::is_bun(&document) {
        return Ok((Format::Bun, bun::entries(&document)?));
    }
    if document.get("lockfileVersion").is_none() {
        return Err(LockfileError::Unknown);
    }
    Ok((Format::Npm, npm::entries(&document, folder)?))
}

/// The version in its standard form, if the text is one version and nothing else. The parser skips what is behind a version.
fn exact(text: &str) -> Option<String> {
    let version = Version::parse(text).ok()?.to_string();
    (text.trim_start_matches(['=', 'v', ' ']) == version).then_some(version)
}

/// The location of an entry that has a name and a version alone. Package managers take `v1.0.0` for 1.0.0.
fn by_version(name: &str, version: &str) -> Location {
    match exact(version) {
        Some(exact) if exact == version => Location::Unsaid,
        exact => Location::Request(exact.map(|exact| (name.to_owned(), exact))),
    }
}

/// Refuses a package of which one of these members is neither a text nor absent: package managers make a text of some.
fn are_texts(package: &Node, keys: &[&str]) -> Result<(), LockfileError> {
    match package.not_text(keys) {
        Some(node) => Err(LockfileError::structure(node.line, "a value that is not a text")),
        None => Ok(()),
    }
}

/// Refuses names and versions that are not allowed, so that they reach no request and no report.
fn checked(entries: Vec<Entry>) -> Result<Vec<Entry>, LockfileError> {
    for entry in &entries {
        let fails = |part, error| LockfileError::Name { line: entry.line, part, error };
        let is_component = matches!(
            entry.location,
            Location::Elsewhere(Kind::Other | Kind::OtherEcosystem | Kind::Workspace)
        );
        if is_component {
            continue;
        }
        // An address may have credentials, which must reach no report.
        if entry.name.contains("://") {
            return Err(LockfileError::structure(
                entry.line,
                "a package with an address for its name",
            ));
        }
        PackageName::new(&entry.name).map_err(|error| fails("name", error))?;
        if let Some(version) = &entry.version {
            PackageVersion::new(version).map_err(|error| fails("version", error))?;
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn real(index: usize) -> Vec<u8> {
        const NAMES: [&str; 8] = [
            "npm-v1.package-lock.json",
            "npm-v3.package-lock.json",
            "pnpm7.pnpm-lock.yaml",
            "pnpm12.pnpm-lock.yaml",
            "yarn1.yarn.lock",
            "yarn4.yarn.lock",
            "bun1.4.bun.lock",
            "npm.cdx.json",
        ];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lockfiles");
        std::fs::read(folder.join(NAMES[index])).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Damage must not cause a panic, and no entry may have a name that is not allowed.
        #[test]
        fn damaged_lockfiles_are_read_or_refused(
            index in 0..8_usize,
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let mut bytes = real(index);
            if is_cut {
                bytes.truncate(end.index(bytes.len()));
            }
            for (place, byte) in places {
                if !bytes.is_empty() {
                    let at = place.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let entries = text_of(&*bytes)
                .and_then(|text| parse(&text, if index == 6 { "bun.lock" } else { "" }, Path::new(".")))
                .and_then(|(_, entries)| checked(entries));
            for entry in entries.unwrap_or_default() {
                let is_asked = !matches!(entry.location, Location::Elsewhere(_));
                prop_assert!(!is_asked || PackageName::new(&entry.name).is_ok());
            }
        }
    }
}
