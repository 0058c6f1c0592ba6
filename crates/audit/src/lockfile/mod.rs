//! Lockfiles and SBOMs: what each of them says about its packages. Nothing here decides what is asked.

mod berry;
mod bun;
mod cyclonedx;
mod npm;
mod pnpm;
mod purls;
mod spdx;
mod yarn;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use model::{PackageName, PackageVersion};

use crate::location::{Kind, Location};
use crate::tree::{self, SyntaxError};

/// The greatest size of a file; the largest lockfiles known have a quarter of it.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The purl type of every package in a lockfile of these tools.
pub(crate) const NPM: &str = "npm";

/// The lockfiles that are looked for in the present folder.
pub const DEFAULT_NAMES: [&str; 5] =
    ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock"];

/// What kind of file it is, which also says whose settings count.
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
    /// purls, one a line.
    Purls,
}

/// One package as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The purl type.
    pub ecosystem: String,
    /// The real name: an alias is resolved.
    pub name: String,
    /// The version, where there is one.
    pub version: Option<String>,
    /// Where it comes from.
    pub location: Location,
    /// More places that a purl names; the package is asked about only if they are all the deployment's.
    pub also: Vec<Location>,
    /// The digests, as they are written.
    pub integrity: Option<String>,
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
    /// As it was named.
    pub path: String,
    /// The folder whose settings count.
    pub folder: PathBuf,
    /// What it is.
    pub format: Format,
    /// Its packages, in the order of the file.
    pub entries: Vec<Entry>,
}

/// Why a file cannot be audited.
#[derive(Debug, thiserror::Error)]
pub enum LockfileError {
    /// It is not there, or not readable.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Larger than [`MAX_BYTES`].
    #[error("is larger than {} MiB", MAX_BYTES / 1024 / 1024)]
    TooLarge,
    /// No bytes.
    #[error("is empty")]
    Empty,
    /// Not UTF-8.
    #[error("is not UTF-8 text{0}")]
    NotText(&'static str),
    /// Git's conflict markers are in it.
    #[error("line {0}: a merge conflict that is not resolved")]
    Conflict(u32),
    /// The grammar is broken.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A version that this program does not know.
    #[error("has {what} {version}; known are {known}")]
    UnknownVersion {
        /// Which field.
        what: &'static str,
        /// What stands there.
        version: String,
        /// What is known.
        known: &'static str,
    },
    /// It reads, but a part is missing or of the wrong type: not such a file, or one that was cut off.
    #[error("line {line}: {message}")]
    Structure {
        /// Where, from 1.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// A name or version that no registry has (contract, section 1).
    #[error("line {line}: a package's {part} is not valid: {error}")]
    Name {
        /// Where, from 1.
        line: u32,
        /// `name` or `version`.
        part: &'static str,
        /// What is wrong with it.
        error: model::InvalidName,
    },
}

impl LockfileError {
    pub(crate) fn structure(line: u32, message: impl Into<String>) -> Self {
        Self::Structure { line, message: message.into() }
    }
}

/// Reads a file, whatever it is called: its content says what it is.
///
/// # Errors
/// [`LockfileError`] where it is not there, too large, broken, or of an unknown version.
pub fn read(path: &Path) -> Result<Lockfile, LockfileError> {
    let text = text_of(File::open(path)?)?;
    let is_bun = path.file_name().is_some_and(|name| name == "bun.lock");
    let (format, entries) = parse(&text, is_bun)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(Lockfile {
        path: path.display().to_string(),
        folder: folder.unwrap_or(Path::new(".")).to_owned(),
        format,
        entries: checked(entries)?,
    })
}

/// Reads purls, one a line; empty lines are left out.
///
/// # Errors
/// [`LockfileError`] where a line is not a purl.
pub fn read_purls(input: impl Read) -> Result<Lockfile, LockfileError> {
    let entries = purls::entries(&text_of(input)?)?;
    Ok(Lockfile {
        path: "stdin".to_owned(),
        folder: PathBuf::from("."),
        format: Format::Purls,
        entries: checked(entries)?,
    })
}

fn text_of(input: impl Read) -> Result<String, LockfileError> {
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(LockfileError::TooLarge);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let is_binary_bun = error.as_bytes().starts_with(b"#!/usr/bin/env bun");
        let hint =
            if is_binary_bun { "; `bun install --save-text-lockfile` writes bun.lock" } else { "" };
        LockfileError::NotText(hint)
    })?;
    let text = text.strip_prefix('\u{feff}').map(Into::into).unwrap_or(text);
    if text.trim().is_empty() {
        return Err(LockfileError::Empty);
    }
    Ok(text)
}

fn parse(text: &str, is_bun: bool) -> Result<(Format, Vec<Entry>), LockfileError> {
    let is_marker = |line: &str| {
        line == "======="
            || ["<<<<<<<", "|||||||", ">>>>>>>"].iter().any(|mark| line.starts_with(mark))
    };
    if let Some(at) = text.lines().position(is_marker) {
        return Err(LockfileError::Conflict(u32::try_from(at + 1).unwrap_or(u32::MAX)));
    }
    if text.starts_with("#!/usr/bin/env bun") {
        return Err(LockfileError::NotText("; `bun install --save-text-lockfile` writes bun.lock"));
    }
    if is_bun {
        return Ok((Format::Bun, bun::entries(&tree::json_with_trailing_commas(text)?)?));
    }
    if text.trim_start().starts_with(['{', '/']) {
        return json(text);
    }
    let has_line = |head: &str| text.lines().any(|line| line.starts_with(head));
    if has_line("__metadata:") {
        return Ok((Format::Berry, berry::entries(&tree::yaml_documents(text)?)?));
    }
    if has_line("lockfileVersion:") {
        return Ok((Format::Pnpm, pnpm::entries(&tree::yaml_documents(text)?)?));
    }
    Ok((Format::Yarn, yarn::entries(text)?))
}

fn json(text: &str) -> Result<(Format, Vec<Entry>), LockfileError> {
    let document = match tree::json(text) {
        Ok(document) => document,
        // Only bun writes commas behind the last member.
        Err(error) => {
            let document = tree::json_with_trailing_commas(text).map_err(|_| error.clone())?;
            return match bun::is_bun(&document) {
                true => Ok((Format::Bun, bun::entries(&document)?)),
                false => Err(error.into()),
            };
        }
    };
    if document.get("bomFormat").is_some() {
        return Ok((Format::Sbom, cyclonedx::entries(&document)?));
    }
    if document.get("spdxVersion").is_some() {
        return Ok((Format::Sbom, spdx::entries(&document)?));
    }
    if bun::is_bun(&document) {
        return Ok((Format::Bun, bun::entries(&document)?));
    }
    Ok((Format::Npm, npm::entries(&document)?))
}

/// Refuses names and versions that no registry has: nothing of the kind may reach a request or a report.
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

        /// Damage never ends in a panic, and no entry has a name that a registry would refuse.
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
                .and_then(|text| parse(&text, index == 6))
                .and_then(|(_, entries)| checked(entries));
            for entry in entries.unwrap_or_default() {
                let is_asked = !matches!(entry.location, Location::Elsewhere(_));
                prop_assert!(!is_asked || PackageName::new(&entry.name).is_ok());
            }
        }
    }
}
