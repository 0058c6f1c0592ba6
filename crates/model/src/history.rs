//! Compares a publication with the earlier ones of its package (crates/query/README.md, API). The result is computed
//! from rows on request and is not stored.

use std::cmp::Ordering;

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
/// n) for all of them together, because a client may ask for every version of a package with very many versions. For one
/// of them, the usual case, it is a single pass over the rows.
#[must_use]
pub fn histories(asked: &[Past<'_>], rows: &[Past<'_>]) -> Vec<History> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|&place| asked[place].created);
    let last = order.last().map(|&place| asked[place].created);
    let mut before: Vec<&Past<'_>> = rows.iter().filter(|row| Some(row.created) < last).collect();
    if asked.len() > 1 {
        before.sort_unstable_by_key(|row| row.created);
    }
    let mut rows = before.into_iter().peekable();
    let mut earlier = Earlier::new(asked);
    let mut found: Vec<Option<History>> = vec![None; asked.len()];
    for place in order {
        let publication = &asked[place];
        while let Some(row) = rows.next_if(|row| row.created < publication.created) {
            earlier.add(row);
        }
        found[place] = Some(earlier.history(publication));
    }
    found.into_iter().flatten().collect()
}

/// What the rows with an earlier time say about the publications that are asked for; rows are added as the time advances.
struct Earlier<'r> {
    releases: Lines<'r>,
    prereleases: Lines<'r>,
    /// The user names that are asked for, ascending, each with the time at which it last published.
    publishers: Vec<(&'r str, Option<Timestamp>)>,
    is_empty: bool,
    has_anonymous: bool,
}

impl<'r> Earlier<'r> {
    fn new(asked: &[Past<'r>]) -> Self {
        let versions = asked.iter().filter_map(|past| semver(past.version));
        let (prereleases, releases) = versions.partition(|version| !version.pre.is_empty());
        let names = asked.iter().filter_map(|past| past.username);
        let mut publishers: Vec<_> = names.map(|name| (name, None)).collect();
        publishers.sort_unstable();
        publishers.dedup();
        Self {
            releases: Lines::new(releases),
            prereleases: Lines::new(prereleases),
            publishers,
            is_empty: true,
            has_anonymous: false,
        }
    }

    /// The index of a user name in `publishers`.
    fn publisher(&self, name: &str) -> Option<usize> {
        self.publishers.binary_search_by_key(&name, |(name, _)| name).ok()
    }

    fn add(&mut self, row: &'r Past<'r>) {
        self.is_empty = false;
        match row.username {
            Some(name) => {
                if let Some(place) = self.publisher(name) {
                    let (_, last) = &mut self.publishers[place];
                    *last = (*last).max(Some(row.created));
                }
            }
            None => self.has_anonymous = true,
        }
        let added = Counts::of(row);
        match semver(row.version) {
            Some(version) if !version.pre.is_empty() => self.prereleases.add(&version, added),
            Some(version) => self.releases.add(&version, added),
            None => self.releases.others.join(added),
        }
    }

    fn history(&self, asked: &Past<'_>) -> History {
        let counts = match semver(asked.version) {
            Some(version) if !version.pre.is_empty() => self.prereleases.below(&version),
            Some(version) => self.releases.below(&version),
            None => self.releases.all(),
        };
        let strongest = counts.strong.or(counts.single);
        let weaker = match (asked.method, strongest) {
            (PublishMethod::Unknown, _) | (_, None) => None,
            (PublishMethod::SingleFactor, Some(row)) => Some(row.method.is_strong()),
            (PublishMethod::SecondFactor | PublishMethod::TrustedPublisher, Some(_)) => Some(false),
        };
        let place = asked.username.and_then(|name| self.publisher(name));
        let publisher_last = place.and_then(|place| self.publishers[place].1);
        let is_unsure = asked.username.is_none() || self.is_empty || self.has_anonymous;
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

/// Parses a version that is valid SemVer 2.0.0. `None` for another, or one whose numbers are too large for the parser: it counts
/// as a release.
fn semver(version: &str) -> Option<Version> {
    Version::parse(version).ok()
}

/// A set of rows: its size, and the latest row of each strength.
#[derive(Debug, Clone, Copy, Default)]
struct Counts<'r> {
    count: usize,
    strong: Option<&'r Past<'r>>,
    single: Option<&'r Past<'r>>,
}

impl<'r> Counts<'r> {
    fn of(row: &'r Past<'r>) -> Self {
        let strong = row.method.is_strong().then_some(row);
        let single = (row.method == PublishMethod::SingleFactor).then_some(row);
        Self { count: 1, strong, single }
    }

    fn join(&mut self, other: Self) {
        let latest = |row: &&Past<'r>| (row.created, row.version);
        self.count += other.count;
        self.strong = self.strong.into_iter().chain(other.strong).max_by_key(latest);
        self.single = self.single.into_iter().chain(other.single).max_by_key(latest);
    }
}

/// All releases, or all prereleases: SemVer versions by precedence, and the other versions together.
struct Lines<'r> {
    /// Every distinct precedence that is asked for, ascending.
    known: Vec<Version>,
    /// A Fenwick tree over the intervals between the precedences in `known`: the first is below all of them, and each
    /// other one begins at a precedence. It sums the counts below a precedence in logarithmic time.
    tree: Vec<Counts<'r>>,
    others: Counts<'r>,
}

impl<'r> Lines<'r> {
    fn new(mut known: Vec<Version>) -> Self {
        known.sort_by(Version::cmp_precedence);
        known.dedup_by(|a, b| a.cmp_precedence(b) == Ordering::Equal);
        Self { tree: vec![Counts::default(); known.len() + 2], known, others: Counts::default() }
    }

    fn add(&mut self, version: &Version, added: Counts<'r>) {
        let is_not_above = |known: &Version| known.cmp_precedence(version).is_le();
        let mut at = self.known.partition_point(is_not_above) + 1;
        while let Some(node) = self.tree.get_mut(at) {
            node.join(added);
            at += at & at.wrapping_neg();
        }
    }

    /// The counts below a version that is asked for.
    fn below(&self, version: &Version) -> Counts<'r> {
        let is_below = |known: &Version| known.cmp_precedence(version).is_lt();
        self.first(self.known.partition_point(is_below) + 1)
    }

    fn all(&self) -> Counts<'r> {
        self.first(self.known.len() + 1)
    }

    /// The counts of the first `count` intervals and of the versions that are not SemVer.
    fn first(&self, count: usize) -> Counts<'r> {
        let (mut counts, mut at) = (self.others, count);
        while at > 0 {
            counts.join(self.tree[at]);
            at &= at - 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests;
