use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Computes a history directly from the definition, row by row.
fn scan(asked: &Past<'_>, rows: &[Past<'_>]) -> History {
    let semver = |past: &Past<'_>| Version::parse(past.version).ok();
    let is_prerelease = |past: &Past<'_>| semver(past).is_some_and(|it| !it.pre.is_empty());
    let precedes = |row: &&Past<'_>| {
        row.created < asked.created
            && is_prerelease(row) == is_prerelease(asked)
            && match (semver(row), semver(asked)) {
                (Some(row), Some(asked)) => row.cmp_precedence(&asked) == Ordering::Less,
                _ => true,
            }
    };
    let preceding: Vec<_> = rows.iter().filter(precedes).collect();
    let latest = |methods: &[PublishMethod]| {
        let fits = preceding.iter().filter(|row| methods.contains(&row.method));
        fits.max_by_key(|row| (row.created, row.version)).copied()
    };
    let strongest = latest(&[PublishMethod::SecondFactor, PublishMethod::TrustedPublisher])
        .or_else(|| latest(&[PublishMethod::SingleFactor]));
    let weaker = match (asked.method, strongest) {
        (PublishMethod::Unknown, _) | (_, None) => None,
        (own, Some(strongest)) => Some(
            own == PublishMethod::SingleFactor && strongest.method != PublishMethod::SingleFactor,
        ),
    };
    let earlier: Vec<_> = rows.iter().filter(|row| row.created < asked.created).collect();
    let own =
        earlier.iter().filter(|row| asked.username.is_some() && row.username == asked.username);
    let publisher_last = own.map(|row| row.created).max();
    let new_publisher = if publisher_last.is_some() {
        Some(false)
    } else if asked.username.is_none()
        || earlier.is_empty()
        || earlier.iter().any(|row| row.username.is_none())
    {
        None
    } else {
        Some(true)
    };
    History {
        earlier: u32::try_from(preceding.len()).unwrap(),
        strongest: strongest.map(|row| PackageVersion::new(row.version).unwrap()),
        weaker,
        new_publisher,
        publisher_last,
    }
}

const VERSIONS: &[&str] = &[
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "2.0.0",
    "2.0.0+build",
    "2.0.0-rc.1",
    "2.0.0-rc.2",
    "2.0.0-rc.10",
    "3.0.0-alpha",
    "10.0.0",
    "0.9.0",
    "v1",
    "latest",
    "1.0",
    "18446744073709551616.0.0",
    "1.0.0-beta_x",
    "01.0.0",
];

fn past() -> impl Strategy<Value = Past<'static>> {
    let username = select(vec![None, Some("a"), Some("b"), Some("c")]);
    (select(VERSIONS), 0..6_i64, select(PublishMethod::ALL), username).prop_map(
        |(version, created, method, username)| Past {
            version,
            created: Timestamp::from_micros(created),
            method,
            username,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_history_is_what_a_plain_scan_finds(rows in prop::collection::vec(past(), 0..20), more in prop::collection::vec(past(), 0..4)) {
        let asked: Vec<_> = rows.iter().chain(&more).copied().collect();
        let expected: Vec<_> = asked.iter().map(|asked| scan(asked, &rows)).collect();
        prop_assert_eq!(histories(&asked, &rows), expected);
    }
}

fn day(text: &str) -> Timestamp {
    Timestamp::parse(&format!("{text}T12:00:00Z")).unwrap()
}

fn published(
    version: &'static str,
    on: &str,
    method: PublishMethod,
    by: &'static str,
) -> Past<'static> {
    Past { version, created: day(on), method, username: Some(by) }
}

fn weaker(rows: &[Past<'_>]) -> Vec<String> {
    let histories = histories(rows, rows).into_iter().zip(rows);
    histories
        .filter(|(history, _)| history.weaker == Some(true))
        .map(|(_, row)| row.version.to_owned())
        .collect()
}

/// The takeover of axios on 31 March 2026, as public reports describe it: releases of both lines by trusted publishing,
/// then 1.14.1 and 0.30.4 with a stolen token. The accounts are made up.
#[test]
fn the_takeover_of_axios_is_weaker_and_nothing_else_is() {
    use PublishMethod::{SecondFactor, SingleFactor, TrustedPublisher, Unknown};
    let rows = [
        published("0.1.0", "2014-08-29", Unknown, "maintainer-a"),
        published("0.30.0", "2025-04-10", SecondFactor, "maintainer-a"),
        published("1.12.0", "2025-09-11", TrustedPublisher, "robot"),
        published("0.30.2", "2025-09-27", TrustedPublisher, "robot"),
        published("2.0.0-alpha.1", "2025-10-01", SingleFactor, "maintainer-b"),
        published("1.13.0", "2025-10-27", TrustedPublisher, "robot"),
        published("0.30.3", "2026-02-18", TrustedPublisher, "robot"),
        published("1.14.0", "2026-03-09", TrustedPublisher, "robot"),
        published("1.14.1", "2026-03-31", SingleFactor, "maintainer-a"),
        published("0.30.4", "2026-03-31", SingleFactor, "maintainer-a"),
    ];
    assert_eq!(weaker(&rows), ["1.14.1", "0.30.4"]);
    let found = histories(&rows, &rows);
    let strongest = |place: usize| found[place].strongest.as_ref().unwrap().as_str();
    assert_eq!(strongest(8), "1.14.0");
    // A maintenance release is compared with lower versions, not with the newest version.
    assert_eq!(strongest(9), "0.30.3");
    assert_eq!(found[8].publisher_last, Some(day("2025-04-10")));
    assert_eq!(
        found[0],
        History {
            earlier: 0,
            strongest: None,
            weaker: None,
            new_publisher: None,
            publisher_last: None,
        }
    );
    // The only prerelease precedes no release, and no prerelease precedes it.
    assert_eq!((found[4].earlier, found[4].weaker), (0, None));
}

/// The takeover of the packages of @mastra on 17 June 2026, with a token that needed no second factor. Its account had
/// not published for 16 months. The versions and accounts are made up.
#[test]
fn the_takeover_of_mastra_is_by_a_publisher_who_returns() {
    use PublishMethod::{SingleFactor, TrustedPublisher};
    let rows = [
        published("0.1.0", "2025-02-10", SingleFactor, "contributor"),
        published("1.0.0", "2026-01-20", TrustedPublisher, "robot"),
        published("1.41.0", "2026-06-10", TrustedPublisher, "robot"),
        published("1.42.0-alpha.0", "2026-06-12", TrustedPublisher, "robot"),
        published("1.42.0", "2026-06-16", TrustedPublisher, "robot"),
        published("1.42.1", "2026-06-17", SingleFactor, "contributor"),
        published("nightly", "2026-06-18", SingleFactor, "somebody-new"),
    ];
    // A version that is not SemVer counts as a release, which every earlier release precedes.
    assert_eq!(weaker(&rows), ["1.42.1", "nightly"]);
    let found = histories(&rows, &rows);
    assert_eq!(
        (found[5].new_publisher, found[5].publisher_last),
        (Some(false), Some(day("2025-02-10")))
    );
    assert_eq!(
        (found[6].new_publisher, found[6].publisher_last, found[6].earlier),
        (Some(true), None, 5)
    );
}

#[test]
fn every_version_of_a_large_package_can_be_asked_for() {
    let versions: Vec<String> = (0..200_000).map(|patch| format!("1.0.{patch}")).collect();
    let rows: Vec<_> = versions
        .iter()
        .zip(0..)
        .map(|(version, at)| Past {
            version,
            created: Timestamp::from_micros(at),
            method: PublishMethod::SecondFactor,
            username: None,
        })
        .collect();
    let found = histories(&rows, &rows);
    assert_eq!(found[199_999].earlier, 199_999);
    assert_eq!(found[199_999].strongest.as_ref().unwrap().as_str(), "1.0.199998");
}

#[test]
fn the_method_is_the_factors_first() {
    let of = PublishMethod::of;
    assert_eq!(of(Some(true), Credential::Oidc), PublishMethod::SecondFactor);
    assert_eq!(of(Some(false), Credential::Oidc), PublishMethod::TrustedPublisher);
    assert_eq!(of(None, Credential::Oidc), PublishMethod::TrustedPublisher);
    assert_eq!(of(Some(false), Credential::AutomationToken), PublishMethod::SingleFactor);
    assert_eq!(of(None, Credential::SessionToken), PublishMethod::Unknown);
}
