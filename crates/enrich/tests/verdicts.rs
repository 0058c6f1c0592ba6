//! Verdicts on whole events: every boundary to the microsecond, every source, staged versions, settling.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use enrich::{Database, ExitHistory, Source, TorRules, address, format, tfa, tor};
use model::{
    Act, Actor, Address, Auth, EventIdentity, PublicationId, PublishEvent, TfaReason, Timestamp,
    TorReason,
};
use testkit::exit_list_of;

const HOUR: i64 = 3_600_000_000;
const REAL_EXIT_LIST: &[u8] = include_bytes!("data/exit-lists/2016-09-20-13-02-00");
const REAL_SNAPSHOT: &[u8] = include_bytes!("data/snapshots/2022-02-28-00-30-06");
const REAL_DATABASE: &[u8] = include_bytes!("data/anonymous-ip/GeoIP2-Anonymous-IP-Test.mmdb");

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn act(address: Option<&str>, at: Timestamp) -> Act<'_> {
    Act {
        at,
        actor: Actor::User,
        username: None,
        address: address.map(Address::new),
        edge_tor: None,
        auth: Auth::default(),
    }
}

fn event(act: Act<'_>) -> PublishEvent<'_> {
    PublishEvent {
        identity: EventIdentity([0; 16]),
        id: PublicationId::new("pg", "7.12.0").unwrap(),
        integrity: None,
        revision: 0,
        act,
        staged: None,
    }
}

fn evaluate(history: &ExitHistory, address: &str, at: Timestamp) -> (Option<bool>, TorReason) {
    let verdict = tor::verdict(&event(act(Some(address), at)), history);
    (verdict.reason.verdict(), verdict.reason)
}

const TRUE_BY_LIST: (Option<bool>, TorReason) = (Some(true), TorReason::ExitList);
const TRUE_BY_SNAPSHOT: (Option<bool>, TorReason) = (Some(true), TorReason::Snapshot);
const TRUE_BY_DATABASE: (Option<bool>, TorReason) = (Some(true), TorReason::AnonymousIp);
const AFTER: (Option<bool>, TorReason) = (None, TorReason::ListedAfter);
const NOT_LISTED: (Option<bool>, TorReason) = (Some(false), TorReason::NotListed);
const NO_COVERAGE: (Option<bool>, TorReason) = (None, TorReason::NoCoverage);

/// An exit list of that time with the given lines, filled up to be valid with addresses nobody asks for, scanned just then.
fn exit_list(history: &ExitHistory, at: &str, lines: &[(&str, &str)]) -> ExitHistory {
    let node = "ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E";
    let mut text = format!("@type tordnsel 1.0\nDownloaded {at}\n{node}\n");
    for (address, seen) in lines {
        text.push_str(&format!("ExitAddress {address} {seen}\n"));
    }
    for exit in exit_list_of(50).lines() {
        text.push_str(&format!("ExitAddress {exit} {at}\n"));
    }
    let list = format::exit_list(text.as_bytes(), Timestamp::from_micros(0)).unwrap();
    let mut update = history.update();
    update.exit_list(&list, PathBuf::from(at));
    let (history, change) = update.finish(time("2030-01-01T00:00:00Z"));
    assert!(change.changed);
    history
}

fn with_database() -> ExitHistory {
    let mut update = ExitHistory::new(TorRules::default()).update();
    update.database(Database::parse(REAL_DATABASE).unwrap(), PathBuf::from("a.mmdb"));
    update.finish(time("2030-01-01T00:00:00Z")).0
}

fn with_snapshot() -> ExitHistory {
    let list = format::snapshot(REAL_SNAPSHOT, time("2022-02-28T00:30:06Z")).unwrap();
    let mut update = ExitHistory::new(TorRules::default()).update();
    update.snapshot(&list, PathBuf::from("2022-02-28-00-30-06"));
    update.finish(time("2030-01-01T00:00:00Z")).0
}

#[test]
fn a_scan_counts_by_its_own_time_and_coverage_by_the_lists() {
    let history = exit_list(
        &ExitHistory::new(TorRules::default()),
        "2020-05-02 10:00:00",
        &[
            ("1.2.3.4", "2020-05-02 08:00:00"),
            ("5.6.7.8", "2020-05-02 08:00:00"),
            ("5.6.7.8", "2020-05-02 09:00:00"),
        ],
    );
    for (at, expected) in [
        // The list covers T from 3 h before its own time …
        ("2020-05-02T04:59:59.999999Z", NO_COVERAGE),
        // … and the scan says "just after" from 3 h before it.
        ("2020-05-02T05:00:00Z", AFTER),
        ("2020-05-02T07:59:59.999999Z", AFTER),
        ("2020-05-02T08:00:00Z", TRUE_BY_LIST),
        ("2020-05-02T16:00:00.000001Z", TRUE_BY_LIST),
        ("2020-05-03T07:59:59.999999Z", TRUE_BY_LIST),
        ("2020-05-03T08:00:00Z", NO_COVERAGE),
    ] {
        assert_eq!(evaluate(&history, "1.2.3.4", time(at)), expected, "{at}");
    }
    // The later scan of an address with two counts on.
    assert_eq!(evaluate(&history, "5.6.7.8", time("2020-05-03T08:59:59.999999Z")), TRUE_BY_LIST);
    assert_eq!(evaluate(&history, "5.6.7.8", time("2020-05-03T09:00:00Z")), NO_COVERAGE);
    for (at, expected) in [
        ("2020-05-02T06:59:59.999999Z", NO_COVERAGE),
        ("2020-05-02T07:00:00Z", NOT_LISTED),
        ("2020-05-02T16:00:00Z", NOT_LISTED),
        ("2020-05-02T16:00:00.000001Z", NO_COVERAGE),
    ] {
        assert_eq!(evaluate(&history, "8.8.8.8", time(at)), expected, "{at}");
        // IPv6 is never false by a source that covers IPv4 only.
        assert_eq!(evaluate(&history, "2a00::1", time(at)), NO_COVERAGE, "{at}");
    }
}

#[test]
fn a_snapshot_counts_by_its_own_time() {
    let history = with_snapshot();
    let listed_at = time("2022-02-28T00:30:06Z").as_micros();
    for (offset, listed, other) in [
        (-3 * HOUR - 1, NO_COVERAGE, NO_COVERAGE),
        (-3 * HOUR, AFTER, NOT_LISTED),
        (-1, AFTER, NOT_LISTED),
        (0, TRUE_BY_SNAPSHOT, NOT_LISTED),
        (6 * HOUR, TRUE_BY_SNAPSHOT, NOT_LISTED),
        (6 * HOUR + 1, TRUE_BY_SNAPSHOT, NO_COVERAGE),
        (24 * HOUR - 1, TRUE_BY_SNAPSHOT, NO_COVERAGE),
        (24 * HOUR, NO_COVERAGE, NO_COVERAGE),
    ] {
        let at = Timestamp::from_micros(listed_at + offset);
        assert_eq!(evaluate(&history, "101.3.123.74", at), listed, "{offset}");
        assert_eq!(evaluate(&history, "::ffff:101.3.123.74", at), listed, "{offset}");
        for address in ["8.8.8.8", "2606:4700:4700::1111"] {
            assert_eq!(evaluate(&history, address, at), other, "{address} {offset}");
        }
    }
}

#[test]
fn a_database_counts_by_its_build_with_its_own_age() {
    let history = with_database();
    let built_at = 1_770_245_369_000_000;
    for (offset, listed, other) in [
        (-3 * HOUR - 1, NO_COVERAGE, NO_COVERAGE),
        (-3 * HOUR, AFTER, NOT_LISTED),
        (-1, AFTER, NOT_LISTED),
        (0, TRUE_BY_DATABASE, NOT_LISTED),
        (48 * HOUR - 1, TRUE_BY_DATABASE, NOT_LISTED),
        // The window ends before the coverage does, by the bounds of crates/enrich/README.md, Rules.
        (48 * HOUR, NOT_LISTED, NOT_LISTED),
        (48 * HOUR + 1, NO_COVERAGE, NO_COVERAGE),
    ] {
        let at = Timestamp::from_micros(built_at + offset);
        assert_eq!(evaluate(&history, "81.2.69.160", at), listed, "{offset}");
        for address in
            ["71.160.223.45", "1.2.0.1", "65.8.0.0", "8.8.8.8", "2a00::1", "64:ff9b::5102:45a0"]
        {
            assert_eq!(evaluate(&history, address, at), other, "{address} {offset}");
        }
        for address in ["2001:0:5102:45a0::", "2002:5102:45a0::1", "::81.2.69.160", "10.0.0.1"] {
            let expected = (None, TorReason::NotGlobal);
            assert_eq!(evaluate(&history, address, at), expected, "{address} {offset}");
        }
    }
}

#[test]
fn an_address_that_vanishes_for_hours_and_returns_stays_an_exit() {
    let mut history = ExitHistory::new(TorRules::default());
    for (at, seen) in [
        ("2020-05-02 10:00:00", Some("2020-05-02 09:30:00")),
        ("2020-05-02 15:00:00", None),
        ("2020-05-02 20:00:00", None),
        ("2020-05-03 01:00:00", Some("2020-05-03 00:30:00")),
    ] {
        let lines: Vec<_> = seen.iter().map(|seen| ("1.2.3.4", *seen)).collect();
        history = exit_list(&history, at, &lines);
    }
    for at in [
        "2020-05-02T09:30:00Z",
        "2020-05-02T18:00:00Z",
        "2020-05-03T00:29:59.999999Z",
        "2020-05-04T00:29:59.999999Z",
    ] {
        assert_eq!(evaluate(&history, "1.2.3.4", time(at)), TRUE_BY_LIST, "{at}");
    }
    assert_eq!(evaluate(&history, "1.2.3.4", time("2020-05-04T00:30:00Z")), NO_COVERAGE);
}

#[test]
fn a_scan_before_the_act_that_a_later_list_tells_of() {
    let at = time("2020-05-02T10:30:00Z");
    let first = exit_list(&ExitHistory::new(TorRules::default()), "2020-05-02 10:00:00", &[]);
    let verdict = tor::verdict(&event(act(Some("1.2.3.4"), at)), &first);
    assert_eq!((verdict.reason.verdict(), verdict.settled), (Some(false), false));
    assert_eq!(verdict.evidence_until, Some(time("2020-05-02T10:00:00Z")));
    let second = exit_list(&first, "2020-05-02 12:00:00", &[("1.2.3.4", "2020-05-02 10:15:00")]);
    let verdict = tor::verdict(&event(act(Some("1.2.3.4"), at)), &second);
    assert_eq!(
        (verdict.reason.verdict(), verdict.reason, verdict.settled),
        (Some(true), TorReason::ExitList, true)
    );
    let only_after =
        exit_list(&first, "2020-05-02 12:00:00", &[("1.2.3.4", "2020-05-02 10:45:00")]);
    assert_eq!(evaluate(&only_after, "1.2.3.4", at), AFTER);
}

#[test]
fn a_verdict_settles_when_a_list_is_three_hours_past_the_act() {
    let history = exit_list(&ExitHistory::new(TorRules::default()), "2020-05-02 10:00:00", &[]);
    for (at, address, settled) in [
        ("2020-05-02T07:00:00Z", "8.8.8.8", true),
        ("2020-05-02T07:00:00.000001Z", "8.8.8.8", false),
        // Not determined, and nothing later can determine it.
        ("2020-01-01T00:00:00Z", "8.8.8.8", true),
        ("2020-05-03T00:00:00Z", "10.0.0.1", true),
        ("2020-05-03T00:00:00Z", "nowhere", true),
        ("2020-05-03T00:00:00Z", "8.8.8.8", false),
    ] {
        let verdict = tor::verdict(&event(act(Some(address), time(at))), &history);
        assert_eq!(verdict.settled, settled, "{address} {at}");
        assert_eq!(verdict.evidence_until, Some(time("2020-05-02T10:00:00Z")));
    }
    let empty = ExitHistory::new(TorRules::default());
    let verdict = tor::verdict(&event(act(Some("8.8.8.8"), time("2020-05-02T07:00:00Z"))), &empty);
    assert_eq!(
        (verdict.reason.verdict(), verdict.evidence_until, verdict.settled),
        (None, None, false)
    );
}

#[test]
fn the_edge_and_prefixes_count_without_a_usable_address() {
    let history = exit_list(
        &ExitHistory::new(TorRules::default()),
        "2020-05-02 10:00:00",
        &[("1.2.3.4", "2020-05-02 09:00:00")],
    );
    let at = time("2020-05-02T10:00:00Z");
    let evaluated = |address: Option<&'static str>, edge: Option<bool>, history: &ExitHistory| {
        let verdict = tor::verdict(&event(Act { edge_tor: edge, ..act(address, at) }), history);
        assert!(
            verdict.settled
                == (verdict.reason.verdict() == Some(true)
                    || !matches!(verdict.reason, TorReason::NotListed | TorReason::NoCoverage))
        );
        (verdict.reason.verdict(), verdict.reason)
    };
    for (address, reason) in [
        (None, TorReason::NoAddress),
        (Some(""), TorReason::BadAddress),
        (Some("10.0.0.1"), TorReason::NotGlobal),
        (Some("192.0.2.69"), TorReason::NotGlobal),
    ] {
        assert_eq!(evaluated(address, Some(true), &history), (Some(true), TorReason::Edge));
        assert_eq!(evaluated(address, None, &history), (None, reason));
        // The edge's false is no evidence.
        assert_eq!(evaluated(address, Some(false), &history), (None, reason));
    }
    assert_eq!(evaluated(Some("8.8.8.8"), Some(true), &history), (Some(true), TorReason::Edge));
    assert_eq!(evaluated(Some("8.8.8.8"), Some(false), &history), NOT_LISTED);
    // The table's order: list, edge, prefix.
    assert_eq!(evaluated(Some("1.2.3.4"), Some(true), &history), TRUE_BY_LIST);
    let onion = Some("2405:8100:8000::7");
    assert_eq!(evaluated(onion, None, &history), (Some(true), TorReason::Prefix));
    assert_eq!(evaluated(onion, Some(true), &history), (Some(true), TorReason::Edge));
    let rules = TorRules { prefixes: vec!["10.0.0.0/8".parse().unwrap()], ..TorRules::default() };
    let own = ExitHistory::new(rules);
    assert_eq!(evaluated(Some("10.0.0.1"), None, &own), (Some(true), TorReason::Prefix));
    assert_eq!(evaluated(Some("::ffff:10.0.0.1"), None, &own), (Some(true), TorReason::Prefix));
    assert_eq!(evaluated(onion, None, &own), NO_COVERAGE);
}

#[test]
fn the_first_source_of_the_table_is_the_reason() {
    let at = Timestamp::from_micros(1_770_245_369_000_000 + HOUR);
    let text = exit_list_of(50) + "81.2.69.160\n";
    let list = format::snapshot(text.as_bytes(), at).unwrap();
    let mut update = with_database().update();
    update.snapshot(&list, PathBuf::from("s"));
    let (history, _) = update.finish(time("2030-01-01T00:00:00Z"));
    assert_eq!(evaluate(&history, "81.2.69.160", at), TRUE_BY_SNAPSHOT);
    assert_eq!(evaluate(&history, "81.2.69.161", at), TRUE_BY_DATABASE);
    let before = Timestamp::from_micros(at.as_micros() - 1);
    assert_eq!(evaluate(&history, "81.2.69.160", before), TRUE_BY_DATABASE);
    let line = [("81.2.69.160", "2026-02-04 22:49:29")];
    let history = exit_list(&history, "2026-02-05 00:00:00", &line);
    assert_eq!(evaluate(&history, "81.2.69.160", at), TRUE_BY_LIST);
}

/// What an act is to be evaluated as.
#[derive(Debug, Clone, Copy, PartialEq)]
enum As {
    True,
    False,
    NoAddress,
    Uncovered,
}

#[test]
fn two_acts_are_true_if_either_is_and_false_if_both_are() {
    let now = time("2020-05-02T10:00:00Z");
    let history = exit_list(
        &ExitHistory::new(TorRules::default()),
        "2020-05-02 12:59:59",
        &[("1.2.3.4", "2020-05-02 09:00:00")],
    );
    let act_as = |which: As, edge: bool, staged: bool| {
        // The staging act is earlier, and settled; the outer one misses that by a second.
        let at = if staged { now.before(std::time::Duration::from_secs(1)) } else { now };
        let address = match which {
            As::True => Some("1.2.3.4"),
            As::False => Some("8.8.8.8"),
            As::NoAddress => None,
            As::Uncovered => Some("2a00::1"),
        };
        Act { edge_tor: edge.then_some(true), ..act(address, at) }
    };
    let all = [As::True, As::False, As::NoAddress, As::Uncovered];
    let reason = |which| match which {
        As::True => TorReason::ExitList,
        As::False => TorReason::NotListed,
        As::NoAddress => TorReason::NoAddress,
        As::Uncovered => TorReason::NoCoverage,
    };
    for outer in all {
        for staging in all {
            let staged = Some(Box::new(act_as(staging, false, true)));
            let event = PublishEvent { staged, ..event(act_as(outer, false, false)) };
            let verdict = tor::verdict(&event, &history);
            let (tor, decisive) = match (outer, staging) {
                (As::True, _) => (Some(true), outer),
                (_, As::True) => (Some(true), staging),
                (As::False, As::False) => (Some(false), outer),
                (As::False, _) => (None, staging),
                _ => (None, outer),
            };
            assert_eq!(
                (verdict.reason.verdict(), verdict.reason),
                (tor, reason(decisive)),
                "{outer:?} {staging:?}"
            );
            let settled = tor == Some(true) || outer == As::NoAddress;
            assert_eq!(verdict.settled, settled, "{outer:?} {staging:?}");
        }
    }
    // Both are true: the outer act's reason.
    let staged = Some(Box::new(act_as(As::True, false, true)));
    let both = PublishEvent { staged, ..event(act_as(As::NoAddress, true, false)) };
    assert_eq!(tor::verdict(&both, &history).reason, TorReason::Edge);
}

#[test]
fn the_real_exit_list_answers_for_its_day() {
    let list = format::exit_list(REAL_EXIT_LIST, Timestamp::from_micros(0)).unwrap();
    let mut update = ExitHistory::new(TorRules::default()).update();
    update.exit_list(&list, PathBuf::from("real"));
    let (history, change) = update.finish(time("2016-09-20T12:02:00Z"));
    // Its oldest scan; the newest is an hour and a half before it was written down.
    assert_eq!(change.oldest_new_evidence, list.sightings().iter().map(|&(_, seen)| seen).min());
    assert_eq!(history.evidence_until(), Some(time("2016-09-20T11:35:05Z")));
    let at = time("2016-09-20T13:02:00Z");
    for &(exit, seen) in list.sightings() {
        let text = exit.to_string();
        let expected = if seen > time("2016-09-19T13:02:00Z") { TRUE_BY_LIST } else { NOT_LISTED };
        assert_eq!(evaluate(&history, &text, at), expected);
    }
    assert_eq!(evaluate(&history, "8.8.8.8", at), NOT_LISTED);
    let explained = history.explain("162.247.72.201", at);
    assert_eq!((explained.tor, explained.reason), TRUE_BY_LIST);
    assert_eq!(explained.evidence[0].time, time("2016-09-20T08:09:39Z"));
    assert_eq!(explained.evidence[0].source, Source::ExitList);
    assert!(matches!(explained.address, address::Parsed::Global(_)));
    // A list a moment more than an hour ahead of the clock is none.
    let mut update = ExitHistory::new(TorRules::default()).update();
    update.exit_list(&list, PathBuf::from("real"));
    let (history, _) = update.finish(time("2016-09-20T12:01:59.999999Z"));
    assert_eq!(history.evidence_until(), None);
}

#[test]
fn the_second_factor_is_the_approvals() {
    let at = time("2020-05-02T10:00:00Z");
    let amr = |method: &'static str| Auth { amr: vec![method.into()], ..Auth::default() };
    let staged = Some(Box::new(Act { auth: amr("mfa"), ..act(None, at) }));
    let event = PublishEvent { staged, ..event(Act { auth: amr("pwd"), ..act(None, at) }) };
    let verdict = tfa::verdict(&event, &enrich::TfaRules::default());
    assert_eq!((verdict.tfa, verdict.reason), (Some(false), TfaReason::Amr));
}

#[test]
fn a_scanner_that_stands_still_covers_and_settles_nothing_new() {
    let node = "ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E";
    // Written down each hour, with the scans of 10:00.
    let written_at = |hour: u8, history: &ExitHistory| {
        let mut text = format!("Downloaded 2020-05-02 {hour}:30:00\n{node}\n");
        for exit in exit_list_of(60).lines() {
            text.push_str(&format!("ExitAddress {exit} 2020-05-02 10:00:00\n"));
        }
        let list = format::exit_list(text.as_bytes(), Timestamp::from_micros(0)).unwrap();
        let mut update = history.update();
        update.exit_list(&list, PathBuf::from(format!("{hour}")));
        update.finish(time("2030-01-01T00:00:00Z")).0
    };
    let first = written_at(10, &ExitHistory::new(TorRules::default()));
    let last = (11..23).fold(first.clone(), |history, hour| written_at(hour, &history));
    assert_eq!(last.valid(Source::ExitList), 13, "they are valid by their own times");
    for history in [&first, &last] {
        assert_eq!(history.evidence_until(), Some(time("2020-05-02T10:00:00Z")));
        assert_eq!(history.newest(Source::ExitList), history.evidence_until());
        assert_eq!(evaluate(history, "8.8.8.8", time("2020-05-02T16:00:00Z")), NOT_LISTED);
        assert_eq!(evaluate(history, "8.8.8.8", time("2020-05-02T16:00:01Z")), NO_COVERAGE);
    }
    let event = event(act(Some("8.8.8.8"), time("2020-05-02T09:00:00Z")));
    assert!(!tor::verdict(&event, &last).settled);
    // Nothing new: nothing is evaluated again for it.
    assert_eq!(last.differs_since(&first.fingerprint().unwrap()), None);
    assert_eq!(last.fingerprint(), first.fingerprint());
}
