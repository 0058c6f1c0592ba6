//! The lists of one source over time: their validity, their evidence, their coverage.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::Timestamp;

use super::bucket::{BUCKET_MICROS, Bucket, Entry};
use super::change::Change;
use super::version::{State, Version, outdated};
use super::{Near, any_within};
use crate::{Family, List, Refusal, Refused, Source, TorRules};

/// How long the size of a valid list is the reference for later lists (crates/enrich/README.md, Valid lists).
const REFERENCE_MAX_AGE: Duration = Duration::from_secs(24 * 3_600);
/// How far a list's time may be ahead of the clock (crates/enrich/README.md, Valid lists).
pub(super) const MAX_CLOCK_SKEW: Duration = Duration::from_secs(3_600);

/// The resolution of a [`Timestamp`].
const RESOLUTION: Duration = Duration::from_micros(1);

#[derive(Clone)]
pub(super) struct ListHistory {
    source: Source,
    buckets: BTreeMap<i64, Arc<Bucket>>,
    /// The buckets with evidence, and its time span. Evidence times are scan times, which differ from the list's own time.
    slots: Arc<[(Timestamp, Timestamp, Arc<Bucket>)]>,
    /// By family, the time ([`List::as_of`]) of each valid list that covers it, sorted.
    covering: [Arc<[Timestamp]>; 2],
    newest: Option<Timestamp>,
    valid: usize,
    serial: u64,
}

impl ListHistory {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            buckets: BTreeMap::new(),
            slots: Arc::default(),
            covering: [Arc::default(), Arc::default()],
            newest: None,
            valid: 0,
            serial: 0,
        }
    }

    pub(super) const fn source(&self) -> Source {
        self.source
    }

    pub(super) const fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    pub(super) const fn valid(&self) -> usize {
        self.valid
    }

    /// Source, time (see [`List::as_of`]) and digest of the valid lists.
    pub(super) fn known(&self) -> impl Iterator<Item = (Source, Timestamp, u64)> {
        let entries = self.buckets.values().flat_map(|bucket| &bucket.entries);
        let valid = entries.filter(|entry| entry.version.is_valid());
        valid.map(|entry| (self.source, entry.as_of, entry.digest))
    }

    /// The time of the oldest sighting up to `until` that only valid lists of later times have.
    pub(super) fn oldest_unknown(&self, until: Timestamp) -> Option<Timestamp> {
        let sightings = |bucket: &Bucket, is_newer: bool| {
            let addresses = bucket.addresses();
            let entries = bucket
                .entries
                .iter()
                .filter(|entry| entry.version.is_valid() && (entry.as_of > until) == is_newer);
            let sightings = entries.flat_map(Entry::sightings).filter(|(_, seen)| *seen <= until);
            let known = |(number, seen)| Some((addresses.get(number as usize).copied()??, seen));
            sightings.filter_map(known).collect::<HashSet<(IpAddr, Timestamp)>>()
        };
        let until_then = self.slots.iter().filter(|&&(first, ..)| first <= until);
        let mut unknown = HashSet::new();
        until_then.clone().for_each(|(.., bucket)| unknown.extend(sightings(bucket, true)));
        let oldest = unknown.iter().map(|&(_, seen)| seen).min()?;
        for (.., bucket) in until_then.filter(|&&(_, last, _)| last >= oldest) {
            unknown = &unknown - &sightings(bucket, false);
        }
        unknown.into_iter().map(|(_, seen)| seen).min()
    }

    /// By family, the times of the valid lists that cover it, sorted.
    pub(super) fn covering(&self, family: Family) -> &[Timestamp] {
        &self.covering[family as usize]
    }

    pub(super) fn covers(&self, family: Family, since: Timestamp, until: Timestamp) -> bool {
        any_within(self.covering(family), since, until)
    }

    pub(super) fn near(
        &self,
        address: IpAddr,
        since: Timestamp,
        at: Timestamp,
        until: Timestamp,
    ) -> Near {
        self.slots_within(since, until)
            .map(|bucket| bucket.near(address, since, at, until))
            .max()
            .unwrap_or(Near::None)
    }

    /// The buckets with evidence in `(since, until]`.
    pub(super) fn slots_within(
        &self,
        since: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = &Bucket> {
        self.slots
            .iter()
            .filter(move |&&(first, last, _)| last > since && first <= until)
            .map(|(_, _, bucket)| &**bucket)
    }

    pub(super) fn insert(&mut self, list: &List, origin: Arc<Path>) {
        self.serial += 1;
        let key = list.time().as_micros().div_euclid(BUCKET_MICROS);
        let bucket = Arc::make_mut(self.buckets.entry(key).or_default());
        bucket.insert(list, origin, self.serial);
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Drops the lists of the removed origins that existed before the update began, evaluates all lists, and rebuilds
    /// the changed buckets.
    pub(super) fn finish(
        &mut self,
        rules: &TorRules,
        now: Timestamp,
        removed: &HashSet<PathBuf>,
        known: u64,
    ) -> Change {
        let mut dirty = HashSet::new();
        if !removed.is_empty() {
            self.drop_where(&mut dirty, |version| version.is_removed(removed, known));
        }
        self.evaluate(rules, now);
        self.drop_outdated(rules, now, &mut dirty);
        let mut change = Change::default();
        self.add_new_evidence(rules, &mut change);
        self.collect_changes(&mut dirty, &mut change);
        change.changed = !dirty.is_empty();
        let window = i64::try_from(rules.window.as_micros()).unwrap_or(i64::MAX);
        for key in dirty {
            if let Some(bucket) = self.buckets.get_mut(&key) {
                Arc::make_mut(bucket).rebuild(window);
            }
        }
        self.buckets.retain(|_, bucket| !bucket.entries.is_empty());
        if change.changed {
            self.index(rules);
        }
        change
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.buckets.values().flat_map(|bucket| &bucket.entries).map(|entry| &entry.version)
    }

    /// Drops the outdated versions, except one without which the version that replaced it would be refused: no list of its origin
    /// would be valid.
    fn drop_outdated(&mut self, rules: &TorRules, now: Timestamp, dirty: &mut HashSet<i64>) {
        let mut outdated = outdated(self.versions());
        while !outdated.is_empty() {
            let (mut without, mut lost) = (self.clone(), HashSet::new());
            without.drop_where(&mut lost, |version| outdated.contains(&version.serial));
            without.evaluate(rules, now);
            let valid = without.versions().filter(|version| version.is_valid());
            let valid: HashSet<&Path> = valid.map(|version| &*version.origin).collect();
            let kept = self.versions().filter(|version| {
                version.is_valid()
                    && !valid.contains(&*version.origin)
                    && outdated.contains(&version.serial)
            });
            let kept: HashSet<u64> = kept.map(|version| version.serial).collect();
            if kept.is_empty() {
                dirty.extend(lost);
                *self = without;
                return;
            }
            outdated = &outdated - &kept;
        }
    }

    /// Drops lists, and adds the buckets that lose a valid list to `dirty`.
    fn drop_where(&mut self, dirty: &mut HashSet<i64>, drop: impl Fn(&Version) -> bool) {
        for (&key, bucket) in &mut self.buckets {
            let mut dropped =
                bucket.entries.iter().map(|entry| &entry.version).filter(|it| drop(it)).peekable();
            if dropped.peek().is_none() {
                continue;
            }
            if dropped.any(|version| version.before == State::Valid) {
                dirty.insert(key);
            }
            Arc::make_mut(bucket).entries.retain(|entry| !drop(&entry.version));
        }
    }

    /// Evaluates every list, in the order of time.
    fn evaluate(&mut self, rules: &TorRules, now: Timestamp) {
        let mut evaluator = Evaluator { rules, latest: now.after(MAX_CLOCK_SKEW), reference: None };
        for bucket in self.buckets.values_mut() {
            let states: Vec<State> = bucket
                .entries
                .chunk_by(|a, b| a.time == b.time)
                .flat_map(|entries| evaluator.of_one_time(entries))
                .collect();
            if bucket
                .entries
                .iter()
                .zip(&states)
                .any(|(entry, state)| entry.version.state != *state)
            {
                let entries = &mut Arc::make_mut(bucket).entries;
                entries
                    .iter_mut()
                    .zip(states)
                    .for_each(|(entry, state)| entry.version.state = state);
            }
        }
    }

    /// Adds the evidence in the lists that became valid that no valid list had before. The index is still that of the lists before
    /// the update.
    fn add_new_evidence(&self, rules: &TorRules, change: &mut Change) {
        for bucket in self.buckets.values() {
            if !bucket.entries.iter().any(|entry| entry.version.became_valid()) {
                continue;
            }
            let addresses = bucket.addresses();
            for entry in bucket.entries.iter().filter(|entry| entry.version.became_valid()) {
                for family in self.covered_by(entry, rules) {
                    if self.covering(family).binary_search(&entry.as_of).is_err() {
                        change.has_new(entry.as_of);
                    }
                }
                for (number, seen) in entry.sightings() {
                    let address = addresses.get(number as usize).copied().flatten();
                    let is_older = change.oldest_new_evidence.is_none_or(|oldest| seen < oldest);
                    if let Some(address) = address.filter(|_| is_older)
                        && self.near(address, seen.before(RESOLUTION), seen, seen) != Near::Before
                    {
                        change.has_new(seen);
                    }
                }
            }
        }
    }

    /// The families that a valid list covers.
    fn covered_by(&self, entry: &Entry, rules: &TorRules) -> impl Iterator<Item = Family> {
        let source = self.source;
        // The exit scanner finds IPv4 exits only.
        let may_cover = move |family| family == Family::V4 || source == Source::Snapshot;
        let enough = Family::ALL.map(|family| entry.has_enough(family, rules));
        Family::ALL.into_iter().filter(move |&family| may_cover(family) && enough[family as usize])
    }

    /// Adds the changes of the evaluation to `change`, and the buckets whose evidence changed to `dirty`.
    fn collect_changes(&mut self, dirty: &mut HashSet<i64>, change: &mut Change) {
        for (&key, bucket) in &mut self.buckets {
            if bucket.entries.iter().all(|Entry { version, .. }| version.state == version.before) {
                continue;
            }
            for entry in &mut Arc::make_mut(bucket).entries {
                if entry.version.record_change(self.source, change) {
                    dirty.insert(key);
                }
            }
        }
    }

    fn index(&mut self, rules: &TorRules) {
        let with_evidence = self.buckets.values().filter_map(|bucket| {
            bucket.range.map(|(first, last)| (first, last, Arc::clone(bucket)))
        });
        self.slots = with_evidence.collect();
        let mut covering = [Vec::new(), Vec::new()];
        (self.newest, self.valid) = (None, 0);
        let entries = self.buckets.values().flat_map(|bucket| &bucket.entries);
        for entry in entries.filter(|entry| entry.version.is_valid()) {
            for family in self.covered_by(entry, rules) {
                covering[family as usize].push(entry.as_of);
            }
            self.newest = self.newest.max(Some(entry.as_of));
            self.valid += 1;
        }
        // The buckets are sorted by the lists' own times, not by `as_of`.
        covering.iter_mut().for_each(|times| times.sort_unstable());
        self.covering = covering.map(Arc::from);
    }

    /// The lists that the evaluation refused.
    pub(super) fn refused(&self) -> impl Iterator<Item = Refused> + '_ {
        self.versions().filter_map(|version| version.refused(self.source))
    }
}

/// The rules of validity, applied to the lists in the order of time.
struct Evaluator<'a> {
    rules: &'a TorRules,
    latest: Timestamp,
    /// The time of the newest valid list so far and its number of addresses by family. If several lists have the same
    /// time, the largest number of each family, so that their order does not matter.
    reference: Option<(Timestamp, [usize; 2])>,
}

impl Evaluator<'_> {
    /// Evaluates lists of the same time, which are not compared with each other because none is earlier.
    fn of_one_time(&mut self, entries: &[Entry]) -> Vec<State> {
        let states: Vec<State> = entries.iter().map(|entry| self.state(entry)).collect();
        let mut valid = entries.iter().zip(&states).filter(|(_, state)| **state == State::Valid);
        if let Some((first, _)) = valid.next() {
            let greatest = valid.fold(first.distinct, |[v4, v6], (entry, _)| {
                [v4.max(entry.distinct[0]), v6.max(entry.distinct[1])]
            });
            self.reference = Some((first.time, greatest));
        }
        states
    }

    fn state(&self, entry: &Entry) -> State {
        if entry.time > self.latest {
            return State::Refused(Refusal::AheadOfClock);
        }
        if entry.distinct.iter().sum::<usize>() < self.rules.min_addresses {
            return State::Refused(Refusal::TooFew);
        }
        let shrunk = self.reference.is_some_and(|(time, reference)| {
            time >= entry.time.before(REFERENCE_MAX_AGE)
                && reference.iter().zip(entry.distinct).any(|(&reference, distinct)| {
                    reference >= self.rules.min_addresses && distinct.saturating_mul(2) < reference
                })
        });
        if shrunk { State::Refused(Refusal::Shrunk) } else { State::Valid }
    }
}
