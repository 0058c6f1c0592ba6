//! The history's answers equal a naive scan through all lists, whatever came when, valid or not, and in which order.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use enrich::{
    Change, ExitHistory, Family, Finding, List, Refusal, Source, TorRules, address, format,
};
use model::Timestamp;
use proptest::prelude::*;

const HOUR: i64 = 3_600_000_000;
const SECOND: i64 = 1_000_000;
const NOW: i64 = 1_000 * HOUR;

/// A list as the test made it up.
#[derive(Debug, Clone)]
struct Made {
    source: Source,
    time: i64,
    /// Address by number, and the time it was seen.
    sightings: Vec<(usize, i64)>,
}

/// 12 addresses of each family, canonical.
fn pool(number: usize) -> IpAddr {
    let text = if number < 12 { format!("81.2.69.{number}") } else { format!("2a00::{number}") };
    address::canonical(&text).unwrap()
}

fn rules() -> TorRules {
    TorRules { min_addresses: 3, ..TorRules::default() }
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

impl Made {
    fn list(&self) -> Result<List, Refusal> {
        let mut text = String::new();
        for &(number, seen) in &self.sightings {
            let address = pool(number);
            if self.source == Source::Snapshot {
                text.push_str(&format!("{address}\n"));
            } else {
                let seen = at(seen).to_rfc3339_millis();
                let (date, time) = (&seen[..10], &seen[11..19]);
                let node = "0011BD2485AD45D984EC4159C88FC066E5E3300E";
                text.push_str(&format!("ExitNode {node}\nExitAddress {address} {date} {time}\n"));
            }
        }
        match self.source {
            Source::Snapshot => format::snapshot(text.as_bytes(), at(self.time)),
            _ => format::exit_list(text.as_bytes(), at(self.time)),
        }
    }

    fn evidence(&self) -> impl Iterator<Item = (IpAddr, i64)> + '_ {
        let own = (self.source == Source::Snapshot).then_some(self.time);
        self.sightings.iter().map(move |&(number, seen)| (pool(number), own.unwrap_or(seen)))
    }

    /// Up to when it says anything.
    fn as_of(&self) -> i64 {
        self.evidence().map(|(_, seen)| seen).max().map_or(self.time, |seen| seen.min(self.time))
    }

    fn count(&self, family: Family) -> usize {
        let of_family = self.evidence().map(|(address, _)| address);
        of_family.filter(|&a| Family::of(a) == family).collect::<BTreeSet<_>>().len()
    }
}

/// Which lists are valid, straight from crates/enrich/README.md, Valid lists.
fn valid(lists: &[Made], now: i64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..lists.len()).collect();
    order.sort_by_key(|&at| lists[at].time);
    let mut valid = vec![false; lists.len()];
    for &this in &order {
        let list = &lists[this];
        let total: usize = Family::ALL.iter().map(|&family| list.count(family)).sum();
        let before: Vec<&Made> = (0..lists.len())
            .filter(|&other| valid[other] && lists[other].source == list.source)
            .filter(|&other| lists[other].time < list.time)
            .filter(|&other| lists[other].time >= list.time - 24 * HOUR)
            .map(|other| &lists[other])
            .collect();
        let newest = before.iter().map(|list| list.time).max();
        let shrunk = Family::ALL.iter().any(|&family| {
            let of_newest = before.iter().filter(|list| Some(list.time) == newest);
            let measure = of_newest.map(|list| list.count(family)).max().unwrap_or(0);
            measure >= 3 && list.count(family) * 2 < measure
        });
        valid[this] = total >= 3 && list.time <= now + HOUR && !shrunk;
    }
    valid
}

/// Rules 2 to 5, by looking at everything.
fn naive(lists: &[&Made], address: IpAddr, t: i64) -> Finding {
    for source in [Source::ExitList, Source::Snapshot] {
        let mut evidence = lists.iter().filter(|l| l.source == source).flat_map(|l| l.evidence());
        if evidence.any(|(other, seen)| other == address && t - 24 * HOUR < seen && seen <= t) {
            return Finding::Exit(source);
        }
    }
    let mut evidence = lists.iter().flat_map(|list| list.evidence());
    if evidence.any(|(other, seen)| other == address && t < seen && seen <= t + 3 * HOUR) {
        return Finding::ListedAfter;
    }
    let family = Family::of(address);
    let covers = |list: &&&Made| {
        (family == Family::V4 || list.source == Source::Snapshot)
            && list.count(family) >= 3
            && (t - 6 * HOUR..=t + 3 * HOUR).contains(&list.as_of())
    };
    if lists.iter().any(|list| covers(&list)) { Finding::NotListed } else { Finding::NoCoverage }
}

/// Times on a coarse grid, so that boundaries are met, over more than one bucket of the index.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => (0_i64..60).prop_map(|hour| 700 * HOUR + hour * HOUR),
        2 => (0_i64..60).prop_map(|hour| 700 * HOUR + hour * HOUR + SECOND),
        1 => Just(NOW + HOUR),
        1 => Just(NOW + HOUR + SECOND),
    ]
}

fn made() -> impl Strategy<Value = Made> {
    let sightings = proptest::collection::vec((0_usize..24, 0_i64..30, any::<bool>()), 1..16);
    (any::<bool>(), time(), sightings).prop_map(|(snapshot, time, sightings)| Made {
        source: if snapshot { Source::Snapshot } else { Source::ExitList },
        time,
        sightings: sightings
            .into_iter()
            .map(|(number, hours, odd)| {
                // Some scans are before the list, some, in lists that lie, after it.
                (number, time - (hours - 2) * HOUR + i64::from(odd) * SECOND)
            })
            .collect(),
    })
}

fn path(number: usize) -> PathBuf {
    PathBuf::from(format!("list-{number}"))
}

/// Gives the lists in groups, and takes some away in the group after theirs.
fn build(lists: &[(Made, usize, bool)]) -> (ExitHistory, Vec<Change>) {
    let mut history = ExitHistory::new(rules());
    let mut changes = Vec::new();
    for group in 0..5 {
        let mut update = history.update();
        for (number, (list, of_group, removed)) in lists.iter().enumerate() {
            if *of_group == group {
                let parsed = list.list().unwrap();
                match list.source {
                    Source::Snapshot => update.snapshot(&parsed, path(number)),
                    _ => update.exit_list(&parsed, path(number)),
                }
            }
            if *removed && *of_group + 1 == group {
                update.remove(list.source, &path(number));
            }
        }
        let (next, change) = update.finish(at(NOW));
        history = next;
        changes.push(change);
    }
    (history, changes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_answers_equal_a_naive_scan(
        lists in proptest::collection::vec((made(), 0_usize..4, proptest::bool::weighted(0.2)), 0..14),
        asked in proptest::collection::vec((0_usize..24, time(), 0_usize..6, -1_i64..=1), 40),
    ) {
        let (history, _) = build(&lists);
        let kept: Vec<Made> = lists.iter().filter(|(_, _, removed)| !removed).map(|(list, ..)| list.clone()).collect();
        let valid = valid(&kept, NOW);
        let kept: Vec<&Made> = kept.iter().zip(&valid).filter(|(_, valid)| **valid).map(|(list, _)| list).collect();

        for source in [Source::ExitList, Source::Snapshot] {
            let of_source = kept.iter().filter(|list| list.source == source);
            prop_assert_eq!(history.valid(source), of_source.clone().count());
            prop_assert_eq!(history.newest(source), of_source.map(|list| at(list.as_of())).max());
        }
        prop_assert_eq!(history.evidence_until(), kept.iter().map(|list| at(list.as_of())).max());
        for (number, time, boundary, micro) in asked {
            let t = time + [0, 3, -3, 6, 24, -24][boundary] * HOUR + micro;
            let expected = naive(&kept, pool(number), t);
            prop_assert_eq!(history.find(pool(number), at(t)), expected, "address {} at {}", number, at(t));

            let explained = history.explain(&pool(number).to_string(), at(t));
            let seen: BTreeSet<_> = kept.iter().flat_map(|list| list.evidence().map(|(address, seen)| (address, seen, list.source)))
                .filter(|&(address, seen, _)| address == pool(number) && t - 24 * HOUR < seen && seen <= t + 3 * HOUR)
                .map(|(_, seen, source)| (at(seen), source)).collect();
            let told: BTreeSet<_> = explained.evidence.iter().map(|evidence| (evidence.time, evidence.source)).collect();
            prop_assert_eq!(told.len(), explained.evidence.len());
            prop_assert_eq!(told, seen);
            prop_assert_eq!(explained.covering.is_empty(), !history.covers(Family::of(pool(number)), at(t)));

            for family in Family::ALL {
                let within = history.covered(family).iter().any(|span| span.first <= at(t) && at(t) <= span.last);
                prop_assert_eq!(within, history.covers(family, at(t)));
            }
        }
    }

    #[test]
    fn the_order_plays_no_part(
        lists in proptest::collection::vec((made(), 0_usize..4, Just(false)), 0..12),
    ) {
        let at_once: Vec<_> = lists.iter().cloned().map(|(list, ..)| (list, 0, false)).collect();
        let (one, _) = build(&at_once);
        let (many, changes) = build(&lists);
        prop_assert_eq!(one.refused().collect::<BTreeSet<_>>(), many.refused().collect::<BTreeSet<_>>());
        for number in 0..24 {
            for hour in (690..790).step_by(3) {
                prop_assert_eq!(one.find(pool(number), at(hour * HOUR)), many.find(pool(number), at(hour * HOUR)));
            }
        }
        prop_assert_eq!(changes.iter().any(|change| change.changed), many.evidence_until().is_some());
    }

    /// Settling reads again from `oldest_new_evidence` minus three hours.
    #[test]
    fn no_answer_about_an_earlier_time_changes(
        lists in proptest::collection::vec((made(), any::<bool>(), any::<bool>()), 1..14),
    ) {
        let give = |history: &ExitHistory, chosen: &dyn Fn(bool, bool) -> bool| {
            let mut update = history.update();
            for (number, (list, is_early, is_repeated)) in lists.iter().enumerate() {
                if chosen(*is_early, *is_repeated) {
                    let parsed = list.list().unwrap();
                    match list.source {
                        Source::Snapshot => update.snapshot(&parsed, path(number)),
                        _ => update.exit_list(&parsed, path(number)),
                    }
                }
            }
            update.finish(at(NOW))
        };
        let (before, _) = give(&ExitHistory::new(rules()), &|is_early, _| is_early);
        let (again, change) = give(&before, &|is_early, is_repeated| is_early && is_repeated);
        prop_assert_eq!(change.oldest_new_evidence, None, "lists that are read again");
        let (after, change) = give(&again, &|is_early, _| !is_early);
        // After a stop, settling begins where the fingerprint says. Acts after `settled` are unsettled, and evaluated again.
        if let Some((fingerprint, until)) = before.fingerprint().zip(before.evidence_until()) {
            let since = after.differs_since(&fingerprint).map_or(i64::MAX, |since| since.as_micros() - 3 * HOUR);
            let settled = until.as_micros() - 3 * HOUR;
            for number in 0..24 {
                for time in (650..800).map(|hour| hour * HOUR).filter(|time| *time < since && *time <= settled) {
                    prop_assert_eq!(before.find(pool(number), at(time)), after.find(pool(number), at(time)));
                }
            }
        }
        // A list can also make others invalid, whose evidence is then gone.
        let early = || (0..).zip(&lists).filter(|(_, (_, is_early, _))| *is_early).map(|(number, _)| path(number));
        if change.refused.iter().all(|refused| early().all(|early| early != refused.path)) {
            let until = change.oldest_new_evidence.map_or(i64::MAX, |oldest| oldest.as_micros() - 3 * HOUR);
            for number in 0..24 {
                for time in (650..800).map(|hour| hour * HOUR).filter(|time| *time < until) {
                    prop_assert_eq!(before.find(pool(number), at(time)), after.find(pool(number), at(time)));
                }
            }
        }
    }

    #[test]
    fn coverage_by_day_adds_up(lists in proptest::collection::vec((made(), Just(0), Just(false)), 1..12)) {
        let (history, _) = build(&lists);
        for family in Family::ALL {
            let days = history.coverage();
            let days = days.iter().filter(|day| day.family == family);
            let (covered, counted) = days.fold((0, 0), |(covered, counted), day| {
                assert!((0..=86_400_000_000).contains(&day.covered_micros));
                (covered + day.covered_micros, counted + day.lists.iter().sum::<usize>())
            });
            let spans = history.covered(family);
            prop_assert!(spans.windows(2).all(|pair| pair[0].last < pair[1].first));
            let total: i64 = spans.iter().map(|span| span.last.micros_since(span.first) + 1).sum();
            // Spans may reach into the days around those that have lists.
            prop_assert!(covered <= total);
            let lists: usize = Source::ALL.iter().map(|&source| history.covering(source, family).len()).sum();
            prop_assert_eq!(counted, lists);
            for gap in history.gaps(family) {
                prop_assert!(!history.covers(family, gap.first) && !history.covers(family, gap.last));
                prop_assert!(history.covers(family, at(gap.first.as_micros() - 1)));
                prop_assert!(history.covers(family, at(gap.last.as_micros() + 1)));
            }
        }
    }
}

fn snapshot(time: i64, numbers: impl IntoIterator<Item = usize>) -> Made {
    let sightings = numbers.into_iter().map(|number| (number, time)).collect();
    Made { source: Source::Snapshot, time, sightings }
}

fn give(history: &ExitHistory, lists: &[(&str, Made)]) -> (ExitHistory, Change) {
    let mut update = history.update();
    for (origin, list) in lists {
        update.snapshot(&list.list().unwrap(), PathBuf::from(origin));
    }
    update.finish(at(NOW))
}

#[test]
fn a_list_with_less_than_half_is_refused_for_a_day() {
    let empty = ExitHistory::new(rules());
    let (history, change) = give(&empty, &[("a", snapshot(0, 0..10))]);
    assert_eq!((change.changed, change.oldest_new_evidence), (true, Some(at(0))));
    // Half of it is enough.
    let (_, change) = give(&history, &[("b", snapshot(24 * HOUR, 0..5))]);
    assert!(change.refused.is_empty());
    let (_, change) = give(&history, &[("b", snapshot(24 * HOUR, 0..4))]);
    assert_eq!(change.refused[0].reason, Refusal::Shrunk);
    assert!(!change.changed);
    // The measure is the day before, its beginning included.
    let (_, change) = give(&history, &[("b", snapshot(24 * HOUR + 1, 0..4))]);
    assert!(change.refused.is_empty());
}

#[test]
fn every_family_of_the_list_before_counts() {
    let empty = ExitHistory::new(rules());
    let (history, _) = give(&empty, &[("a", snapshot(0, (0..10).chain(12..15)))]);
    let (_, change) = give(&history, &[("b", snapshot(HOUR, 0..10))]);
    assert_eq!(change.refused[0].reason, Refusal::Shrunk);
    let (_, change) = give(&history, &[("b", snapshot(HOUR, (0..10).chain(12..14)))]);
    assert!(change.refused.is_empty());
    // Two addresses of a family were not enough to be a measure.
    let (history, _) = give(&empty, &[("a", snapshot(0, (0..10).chain(12..14)))]);
    let (history, change) = give(&history, &[("b", snapshot(HOUR, 0..10))]);
    assert!(change.refused.is_empty());
    // And they are evidence, but cover nothing.
    assert_eq!(history.find(pool(12), at(0)), Finding::Exit(Source::Snapshot));
    assert_eq!(history.find(pool(20), at(0)), Finding::NoCoverage);
    assert_eq!(history.find(pool(11), at(0)), Finding::NotListed);
}

#[test]
fn a_list_needs_enough_distinct_addresses() {
    let empty = ExitHistory::new(rules());
    let (_, change) = give(&empty, &[("a", snapshot(0, [0, 1, 0, 1, 1]))]);
    assert_eq!(change.refused[0].reason, Refusal::TooFew);
    // Both families together count.
    let (history, change) = give(&empty, &[("a", snapshot(0, [0, 1, 12]))]);
    assert!(change.refused.is_empty());
    assert_eq!(history.evidence_until(), Some(at(0)));
    assert!(!history.covers(Family::V4, at(0)) && !history.covers(Family::V6, at(0)));
}

#[test]
fn an_hour_ahead_of_the_clock_is_the_limit() {
    let empty = ExitHistory::new(rules());
    let (_, change) = give(&empty, &[("a", snapshot(NOW + HOUR, 0..10))]);
    assert!(change.refused.is_empty());
    let (history, change) = give(&empty, &[("a", snapshot(NOW + HOUR + 1, 0..10))]);
    assert_eq!(change.refused[0].reason, Refusal::AheadOfClock);
    assert_eq!(history.evidence_until(), None);
    // It is evaluated again with every update, and then named no more.
    let (history, change) = history.update().finish(at(NOW));
    assert!(change.refused.is_empty());
    let (history, change) = history.update().finish(at(NOW + 1));
    assert_eq!(change.oldest_new_evidence, Some(at(NOW + HOUR + 1)));
    assert_eq!(history.valid(Source::Snapshot), 1);
}

#[test]
fn an_older_list_that_comes_late_has_its_say() {
    let empty = ExitHistory::new(rules());
    let (history, _) =
        give(&empty, &[("b", snapshot(2 * HOUR, 0..4)), ("c", snapshot(3 * HOUR, 0..9))]);
    assert_eq!(history.find(pool(0), at(2 * HOUR)), Finding::Exit(Source::Snapshot));
    assert_eq!(history.valid(Source::Snapshot), 2);
    let (later, change) = give(&history, &[("a", snapshot(HOUR, 4..12))]);
    // 4 of 8 is half: all three stand.
    assert_eq!((later.valid(Source::Snapshot), change.refused.len()), (3, 0));
    let (later, change) = give(&history, &[("a", snapshot(HOUR, 3..12))]);
    assert_eq!(change.refused.len(), 1);
    assert_eq!(change.refused[0].path, PathBuf::from("b"));
    assert_eq!(later.find(pool(0), at(2 * HOUR)), Finding::ListedAfter);
    // The history it began from is as it was.
    assert_eq!(history.find(pool(0), at(2 * HOUR)), Finding::Exit(Source::Snapshot));
    // And with the older list gone, the newer one is back.
    let mut update = later.update();
    update.remove(Source::Snapshot, &PathBuf::from("a"));
    let (back, change) = update.finish(at(NOW));
    assert_eq!(change.oldest_new_evidence, Some(at(2 * HOUR)));
    assert_eq!(back.find(pool(0), at(2 * HOUR)), Finding::Exit(Source::Snapshot));
}

#[test]
fn a_replacement_counts_once_it_is_valid() {
    let empty = ExitHistory::new(rules());
    let (history, _) = give(&empty, &[("latest", snapshot(0, 0..10))]);
    // Cut at a line's end: it parses, and has fewer than half.
    let (history, change) = give(&history, &[("latest", snapshot(HOUR, 0..3))]);
    assert_eq!((change.changed, change.refused.len()), (false, 1));
    assert_eq!(history.find(pool(9), at(HOUR)), Finding::Exit(Source::Snapshot));
    let (history, change) = give(&history, &[("latest", snapshot(2 * HOUR, 2..12))]);
    assert_eq!((change.changed, change.refused.len()), (true, 0));
    assert_eq!(history.valid(Source::Snapshot), 1);
    assert_eq!(history.refused().count(), 0);
    assert_eq!(history.find(pool(0), at(2 * HOUR)), Finding::NotListed);
    let mut update = history.update();
    update.remove(Source::Snapshot, &PathBuf::from("latest"));
    let (history, change) = update.finish(at(NOW));
    assert!(change.changed);
    assert_eq!(history.evidence_until(), None);
}

#[test]
fn removing_concerns_what_was_there_before_the_update() {
    let (history, _) = give(&ExitHistory::new(rules()), &[("a", snapshot(0, 0..10))]);
    for removed_first in [true, false] {
        let mut update = history.update();
        if removed_first {
            update.remove(Source::Snapshot, &PathBuf::from("a"));
        }
        update.snapshot(&snapshot(HOUR, 2..12).list().unwrap(), PathBuf::from("a"));
        if !removed_first {
            update.remove(Source::Snapshot, &PathBuf::from("a"));
        }
        let (history, _) = update.finish(at(NOW));
        assert_eq!(history.evidence_until(), Some(at(HOUR)));
        assert_eq!(history.valid(Source::Snapshot), 1);
    }
}

#[test]
fn no_address_is_printed() {
    let (history, change) = give(&ExitHistory::new(rules()), &[("a", snapshot(0, 0..10))]);
    let list = snapshot(0, 0..3).list().unwrap();
    let explained = history.explain("81.2.69.1", at(0));
    let printed = format!("{history:?} {:?} {change:?} {list:?} {explained:?}", history.update());
    assert!(!printed.contains("81.2") && !printed.contains("2a00"), "{printed}");
    assert_eq!(explained.evidence.len(), 1);
}

/// The newer list is large enough only beside the one that it replaces.
#[test]
fn a_list_is_not_displaced_by_one_that_is_refused_without_it() {
    let first = ExitHistory::new(TorRules { min_addresses: 2, ..TorRules::default() });
    let (before, _) = give(
        &first,
        &[("old", snapshot(700 * HOUR, 0..10)), ("latest", snapshot(701 * HOUR, 0..5))],
    );
    let (after, change) = give(&before, &[("latest", snapshot(702 * HOUR, 0..3))]);
    assert_eq!(after.valid(Source::Snapshot), 3, "{change:?}");
    let found = |history: &ExitHistory| history.find(pool(4), at(702 * HOUR));
    assert_eq!(found(&after), found(&before));
    // With the next list the replaced one is not needed.
    let (last, _) = give(&after, &[("latest", snapshot(703 * HOUR, 0..8))]);
    assert_eq!(
        (last.valid(Source::Snapshot), last.newest(Source::Snapshot)),
        (2, Some(at(703 * HOUR)))
    );
}
