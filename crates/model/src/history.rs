//! How a publication compares with those of the same package that precede it (crates/query/README.md, API): computed from rows
//! when it is asked for, and kept nowhere.

use std::cmp::Ordering;
use std::collections::HashMap;

use semver::Version;

use crate::name::{InvalidName, PackageVersion, Username};
use crate::verdict::words;
use crate::{Credential, PublicationInfo, Timestamp};

words! {
    /// How a version was published.
    PublishMethod {
        /// A second factor was verified.
        SecondFactor = "second_factor",
        /// Neither: the facts say so.
        SingleFactor = "single_factor",
        /// By a trusted publisher's own identity.
        TrustedPublisher = "trusted_publisher",
        /// Not determined.
        Unknown = "unknown",
    }
}

impl PublishMethod {
    /// From what a row says.
    #[must_use]
    pub const fn of(tfa: Option<bool>, credential: Credential) -> Self {
        match (tfa, credential) {
            (Some(true), _) => Self::SecondFactor,
            (_, Credential::Oidc) => Self::TrustedPublisher,
            (Some(false), _) => Self::SingleFactor,
            (None, _) => Self::Unknown,
        }
    }

    const fn is_strong(self) -> bool {
        matches!(self, Self::SecondFactor | Self::TrustedPublisher)
    }
}

impl PublicationInfo {
    /// How the version was published.
    #[must_use]
    pub const fn method(&self) -> PublishMethod {
        PublishMethod::of(self.tfa, self.credential)
    }
}

/// What the history needs of a row. It borrows its texts, because a package has thousands of rows and few are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past<'r> {
    version: &'r str,
    created: Timestamp,
    method: PublishMethod,
    username: Option<&'r str>,
}

impl<'r> Past<'r> {
    /// From a row's columns.
    ///
    /// # Errors
    /// [`InvalidName`] where the version or the user name is not one.
    pub fn new(
        version: &'r str,
        created: Timestamp,
        method: PublishMethod,
        username: Option<&'r str>,
    ) -> Result<Self, InvalidName> {
        PackageVersion::check(version)?;
        username.map_or(Ok(()), Username::check)?;
        Ok(Self { version, created, method, username })
    }

    /// From a publication.
    #[must_use]
    pub fn of(version: &'r PackageVersion, info: &'r PublicationInfo) -> Self {
        Self {
            version: version.as_str(),
            created: info.created,
            method: info.method(),
            username: info.username.as_ref().map(Username::as_str),
        }
    }
}

/// What precedes a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// How many publications precede it.
    pub earlier: u32,
    /// The version of the strongest that precedes it: the latest by a second factor or a trusted publisher, else the
    /// latest by a single factor.
    pub strongest: Option<PackageVersion>,
    /// Whether it was published by a single factor and `strongest` was not; `None` = that cannot be said.
    pub weaker: Option<bool>,
    /// Whether nobody of its user name published the package earlier; `None` = that cannot be said.
    pub new_publisher: Option<bool>,
    /// When its user name last published the package before.
    pub publisher_last: Option<Timestamp>,
}

/// The histories of some publications of a package, in their order, from all rows of the package. It takes n log n for
/// all of them together, because somebody may ask for each version of a package that has very many.
#[must_use]
pub fn histories(asked: &[Past<'_>], rows: &[Past<'_>]) -> Vec<History> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|&place| asked[place].created);
    let mut sorted: Vec<&Past<'_>> = rows.iter().collect();
    sorted.sort_by(|a, b| (a.created, a.version).cmp(&(b.created, b.version)));
    let lines = |is_prerelease| {
        let line = |past: &&Past<'_>| {
            Line::of(past.version).filter(|line| line.is_prerelease == is_prerelease)
        };
        Lines::new(rows.iter().chain(asked).filter_map(|past| line(&past)))
    };
    let mut earlier = Earlier {
        rows: &sorted,
        releases: lines(false),
        prereleases: lines(true),
        publishers: HashMap::new(),
        count: 0,
        has_anonymous: false,
    };
    let mut next = 0;
    let mut found: Vec<Option<History>> = vec![None; asked.len()];
    for place in order {
        let publication = &asked[place];
        while sorted.get(next).is_some_and(|row| row.created < publication.created) {
            earlier.add(next);
            next += 1;
        }
        found[place] = Some(earlier.history(publication));
    }
    found.into_iter().flatten().collect()
}

/// Everything with an earlier time, as it grows.
struct Earlier<'r> {
    rows: &'r [&'r Past<'r>],
    releases: Lines,
    prereleases: Lines,
    /// When each user name published last.
    publishers: HashMap<&'r str, Timestamp>,
    count: usize,
    has_anonymous: bool,
}

impl Earlier<'_> {
    /// Adds the row of that place; they come in the order of their times.
    fn add(&mut self, place: usize) {
        let row = self.rows[place];
        self.count += 1;
        match row.username {
            Some(name) => {
                self.publishers.insert(name, row.created);
            }
            None => self.has_anonymous = true,
        }
        // Places count from 1 there, so that 0 is none.
        let added = Tally::of(row.method, place + 1);
        match Line::of(row.version) {
            Some(line) if line.is_prerelease => self.prereleases.add(&line, added),
            Some(line) => self.releases.add(&line, added),
            None => self.releases.others.join(added),
        }
    }

    fn history(&self, of: &Past<'_>) -> History {
        let tally = match Line::of(of.version) {
            Some(line) if line.is_prerelease => self.prereleases.below(&line),
            Some(line) => self.releases.below(&line),
            None => self.releases.all(),
        };
        let strongest = [tally.strong, tally.single].into_iter().find(|&place| place > 0);
        let strongest = strongest.map(|place| self.rows[place - 1]);
        let weaker = match (of.method, strongest) {
            (PublishMethod::Unknown, _) | (_, None) => None,
            (PublishMethod::SingleFactor, Some(row)) => Some(row.method.is_strong()),
            (PublishMethod::SecondFactor | PublishMethod::TrustedPublisher, Some(_)) => Some(false),
        };
        let publisher_last = of.username.and_then(|name| self.publishers.get(name)).copied();
        let is_unsure = of.username.is_none() || self.count == 0 || self.has_anonymous;
        History {
            earlier: u32::try_from(tally.count).unwrap_or(u32::MAX),
            strongest: strongest.map(|row| PackageVersion::checked(row.version)),
            weaker,
            new_publisher: if publisher_last.is_some() {
                Some(false)
            } else if is_unsure {
                None
            } else {
                Some(true)
            },
            publisher_last,
        }
    }
}

/// A version that is valid SemVer 2.0.0, by its precedence.
struct Line {
    version: Version,
    is_prerelease: bool,
}

impl Line {
    /// None of a version that is not SemVer, or whose numbers are too great for its reader: it counts as a release.
    fn of(version: &str) -> Option<Self> {
        let version = Version::parse(version).ok()?;
        Some(Self { is_prerelease: !version.pre.is_empty(), version })
    }
}

/// Some rows: how many, and the places of the latest of each strength; 0 = none.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    count: usize,
    strong: usize,
    single: usize,
}

impl Tally {
    fn of(method: PublishMethod, place: usize) -> Self {
        let strong = if method.is_strong() { place } else { 0 };
        let single = if method == PublishMethod::SingleFactor { place } else { 0 };
        Self { count: 1, strong, single }
    }

    fn join(&mut self, other: Self) {
        self.count += other.count;
        self.strong = self.strong.max(other.strong);
        self.single = self.single.max(other.single);
    }
}

/// Releases, or prereleases: those that are SemVer by precedence, and the others together.
struct Lines {
    /// Every precedence that occurs, ascending.
    known: Vec<Version>,
    /// A Fenwick tree over `known`: what lies below a precedence, in logarithmic time.
    tree: Vec<Tally>,
    others: Tally,
}

impl Lines {
    fn new(lines: impl Iterator<Item = Line>) -> Self {
        let mut known: Vec<Version> = lines.map(|line| line.version).collect();
        known.sort_by(Version::cmp_precedence);
        known.dedup_by(|a, b| a.cmp_precedence(b) == Ordering::Equal);
        Self { tree: vec![Tally::default(); known.len() + 1], known, others: Tally::default() }
    }

    fn add(&mut self, line: &Line, added: Tally) {
        let mut at = self.rank(line) + 1;
        while let Some(node) = self.tree.get_mut(at) {
            node.join(added);
            at += at & at.wrapping_neg();
        }
    }

    fn below(&self, line: &Line) -> Tally {
        self.first(self.rank(line))
    }

    fn all(&self) -> Tally {
        self.first(self.known.len())
    }

    /// What was added of the first so many precedences, and the others.
    fn first(&self, count: usize) -> Tally {
        let (mut tally, mut at) = (self.others, count);
        while at > 0 {
            tally.join(self.tree[at]);
            at &= at - 1;
        }
        tally
    }

    fn rank(&self, line: &Line) -> usize {
        self.known.partition_point(|known| known.cmp_precedence(&line.version) == Ordering::Less)
    }
}

#[cfg(test)]
mod tests;
