//! Compares a publication with the earlier ones of its package (crates/query/README.md, API). The result is computed
//! from rows on request and is not stored.

use std::cmp::Ordering;
use std::collections::HashMap;

use semver::Version;

use crate::name::{InvalidName, PackageVersion, Username};
use crate::verdict::words;
use crate::{Credential, PublicationInfo, Timestamp};

words! {
    /// The method by which a version was published.
    PublishMethod {
        /// A second factor was verified.
        SecondFactor = "second_factor",
        /// Without a second factor and without a trusted publisher, as the row's fields say.
        SingleFactor = "single_factor",
        /// By a trusted publisher's own identity.
        TrustedPublisher = "trusted_publisher",
        /// Not determined.
        Unknown = "unknown",
    }
}

impl PublishMethod {
    /// The method that a row's fields show.
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
    /// The method by which the version was published.
    #[must_use]
    pub const fn method(&self) -> PublishMethod {
        PublishMethod::of(self.tfa, self.credential)
    }
}

/// The part of a row that a history needs. It borrows its texts, because a package has thousands of rows and few are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past<'r> {
    version: &'r str,
    created: Timestamp,
    method: PublishMethod,
    username: Option<&'r str>,
}

impl<'r> Past<'r> {
    /// Builds a value from a row's columns.
    ///
    /// # Errors
    /// [`InvalidName`] if the version or the user name is invalid.
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

    /// Builds a value from a publication.
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

/// A summary of the publications that precede a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The number of publications that precede this one.
    pub earlier: u32,
    /// The version of the strongest preceding publication: the latest with a second factor or a trusted publisher, else
    /// the latest with a single factor.
    pub strongest: Option<PackageVersion>,
    /// Whether this one was published by a single factor and `strongest` was not; `None` = unknown.
    pub weaker: Option<bool>,
    /// Whether this user name had not published the package before; `None` = unknown.
    pub new_publisher: Option<bool>,
    /// When this user name last published the package before.
    pub publisher_last: Option<Timestamp>,
}

/// The histories of the `asked` publications of a package, in their order, from all rows of the package. Takes O(n log
/// n) for all of them together, because a client may ask for every version of a package with very many versions.
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

/// The rows with an earlier time than the publication in question; rows are added as the time advances.
struct Earlier<'r> {
    rows: &'r [&'r Past<'r>],
    releases: Lines,
    prereleases: Lines,
    /// The time at which each user name last published.
    publishers: HashMap<&'r str, Timestamp>,
    count: usize,
    has_anonymous: bool,
}

impl Earlier<'_> {
    /// Adds the row at index `place`; rows are added in the order of their times.
    fn add(&mut self, place: usize) {
        let row = self.rows[place];
        self.count += 1;
        match row.username {
            Some(name) => {
                self.publishers.insert(name, row.created);
            }
            None => self.has_anonymous = true,
        }
        // [`Counts`] numbers rows from 1, because 0 means none.
        let added = Counts::of(row.method, place + 1);
        match Line::of(row.version) {
            Some(line) if line.is_prerelease => self.prereleases.add(&line, added),
            Some(line) => self.releases.add(&line, added),
            None => self.releases.others.join(added),
        }
    }

    fn history(&self, asked: &Past<'_>) -> History {
        let counts = match Line::of(asked.version) {
            Some(line) if line.is_prerelease => self.prereleases.below(&line),
            Some(line) => self.releases.below(&line),
            None => self.releases.all(),
        };
        let strongest = [counts.strong, counts.single].into_iter().find(|&place| place > 0);
        let strongest = strongest.map(|place| self.rows[place - 1]);
        let weaker = match (asked.method, strongest) {
            (PublishMethod::Unknown, _) | (_, None) => None,
            (PublishMethod::SingleFactor, Some(row)) => Some(row.method.is_strong()),
            (PublishMethod::SecondFactor | PublishMethod::TrustedPublisher, Some(_)) => Some(false),
        };
        let publisher_last = asked.username.and_then(|name| self.publishers.get(name)).copied();
        let is_unsure = asked.username.is_none() || self.count == 0 || self.has_anonymous;
        History {
            earlier: u32::try_from(counts.count).unwrap_or(u32::MAX),
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

/// A version that is valid SemVer 2.0.0, ordered by precedence.
struct Line {
    version: Version,
    is_prerelease: bool,
}

impl Line {
    /// `None` for a version that is not SemVer, or whose numbers are too large for the parser: it counts as a release.
    fn of(version: &str) -> Option<Self> {
        let version = Version::parse(version).ok()?;
        Some(Self { is_prerelease: !version.pre.is_empty(), version })
    }
}

/// A set of rows: its size, and the number of the latest row of each strength, from 1; 0 = none.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    count: usize,
    strong: usize,
    single: usize,
}

impl Counts {
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

/// All releases, or all prereleases: SemVer versions by precedence, and the other versions together.
struct Lines {
    /// Every distinct precedence, ascending.
    known: Vec<Version>,
    /// A Fenwick tree over `known`, which sums the counts below a precedence in logarithmic time.
    tree: Vec<Counts>,
    others: Counts,
}

impl Lines {
    fn new(lines: impl Iterator<Item = Line>) -> Self {
        let mut known: Vec<Version> = lines.map(|line| line.version).collect();
        known.sort_by(Version::cmp_precedence);
        known.dedup_by(|a, b| a.cmp_precedence(b) == Ordering::Equal);
        Self { tree: vec![Counts::default(); known.len() + 1], known, others: Counts::default() }
    }

    fn add(&mut self, line: &Line, added: Counts) {
        let mut at = self.rank(line) + 1;
        while let Some(node) = self.tree.get_mut(at) {
            node.join(added);
            at += at & at.wrapping_neg();
        }
    }

    fn below(&self, line: &Line) -> Counts {
        self.first(self.rank(line))
    }

    fn all(&self) -> Counts {
        self.first(self.known.len())
    }

    /// The counts of the first `count` precedences and of the versions that are not SemVer.
    fn first(&self, count: usize) -> Counts {
        let (mut counts, mut at) = (self.others, count);
        while at > 0 {
            counts.join(self.tree[at]);
            at &= at - 1;
        }
        counts
    }

    fn rank(&self, line: &Line) -> usize {
        self.known.partition_point(|known| known.cmp_precedence(&line.version) == Ordering::Less)
    }
}

#[cfg(test)]
mod tests;
