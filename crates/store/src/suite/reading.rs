//! Histories, searches by prefix, and the listing from the oldest row on.

use std::time::Instant;

use super::*;

/// The number of rows of each package that `history` passes on.
pub(super) async fn histories_of(
    store: &Store,
    names: &[&str],
    limit: u64,
) -> (Vec<(String, usize)>, RowsRead) {
    let names: Vec<_> = names.iter().map(|name| PackageName::new(name).unwrap()).collect();
    let mut found = Vec::new();
    let mut each = |name: &PackageName, past: &[Past<'_>]| {
        found.push((name.as_str().to_owned(), past.len()));
    };
    let read = store.reader.history(&names, limit, &mut each).await.unwrap();
    (found, read)
}

pub(super) async fn the_rows_of_a_package_are_handed_on_one_package_at_a_time(store: Store) {
    let strategy = publication(&["b", "a", "ünï"]);
    let mut rows = samples(strategy, 60);
    for (number, row) in rows.iter_mut().enumerate() {
        row.id.version = PackageVersion::new(&format!("1.0.{number}")).unwrap();
    }
    rows.push(row("c", 1));
    store.writer.record(&rows).await.unwrap();
    let count = |name: &str| rows.iter().filter(|row| row.id.name.as_str() == name).count();
    let expected: Vec<_> = ["a", "b", "ünï"].map(|name| (name.to_owned(), count(name))).into();
    // In the order of the names, each name once, without packages that have no rows.
    let (found, read) = histories_of(&store, &["ünï", "b", "a", "none", "b"], 60).await;
    assert_eq!((found, read), (expected.clone(), RowsRead { rows: 60, is_complete: true }));
    // The limit is one row too low.
    let (found, read) = histories_of(&store, &["ünï", "b", "a"], 59).await;
    assert_eq!(found, expected[..2]);
    assert_eq!(read, RowsRead { rows: (count("a") + count("b")) as u64, is_complete: false });
    let (found, read) = histories_of(&store, &["a"], 0).await;
    assert_eq!((found, read), (vec![], RowsRead { rows: 0, is_complete: false }));
    let (found, read) = histories_of(&store, &[], 0).await;
    assert_eq!((found, read), (vec![], RowsRead { rows: 0, is_complete: true }));
    store.reader.ready().await.unwrap();

    // The rows passed on are the rows of the table.
    let mut read = Vec::new();
    let mut each = |_: &PackageName, past: &[Past<'_>]| {
        let kept: Vec<Publication> =
            rows.iter().filter(|row| row.id.name.as_str() == "ünï").cloned().collect();
        let mut expected: Vec<_> =
            kept.iter().map(|row| format!("{:?}", Past::of(&row.id.version, &row.info))).collect();
        let mut found: Vec<_> = past.iter().map(|past| format!("{past:?}")).collect();
        expected.sort();
        found.sort();
        read.push((found, expected));
    };
    store.reader.history(&[PackageName::new("ünï").unwrap()], 100, &mut each).await.unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].0, read[0].1);
}

/// No event produces these values, but a person can write them into the table.
pub(super) async fn a_name_that_no_event_can_have_is_not_taken_for_others(store: Store) {
    for (number, (column, value)) in [
        ("version", "1.0.0\n2.0.0"),
        ("version", ""),
        ("username", "a\nb"),
        ("username", ""),
        ("username", "\t\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let (good, bad) = (format!("good-{number}"), format!("p{number}"));
        store.writer.record(&[row(&good, 1), row(&bad, 1)]).await.unwrap();
        store
            .execute(&format!("UPDATE publication SET {column} = '{value}' WHERE name = '{bad}'"))
            .await;
        let (found, _) = histories_of(&store, &[&good], 10).await;
        assert_eq!(found, [(good, 1)]);
        let names = [PackageName::new(&bad).unwrap()];
        let read = store.reader.history(&names, 10, &mut |_, _| {}).await;
        assert!(matches!(read, Err(Error::Fatal(_))), "{column} {value:?}: {read:?}");
    }
}

pub(super) async fn names_are_found_by_their_prefix(store: Store) {
    let mut names =
        vec!["@s/a", "@s/b", "A", "a", "a-b", "ab", "abc", "b", "ab\u{10ffff}", "é", "éa"];
    let mut rows: Vec<_> = names.iter().map(|name| row(name, 1)).collect();
    // Many versions between two names.
    for number in 0..500 {
        let mut version = row("ab", number);
        version.id.version = PackageVersion::new(&number.to_string()).unwrap();
        rows.push(version);
    }
    store.writer.record(&rows).await.unwrap();
    names.sort_unstable();
    for prefix in ["", "@", "@s/", "a", "ab", "ab\u{10ffff}", "b", "é", "éa", "z", "\u{10ffff}"] {
        for after in [None, Some(""), Some("a"), Some("ab"), Some("b"), Some("z")] {
            for first in [1, 2, 100] {
                let found = store.reader.search(prefix, after, first).await.unwrap();
                let found: Vec<_> = found.iter().map(PackageName::as_str).collect();
                let expected: Vec<_> = names
                    .iter()
                    .copied()
                    .filter(|name| {
                        name.starts_with(prefix) && after.is_none_or(|after| *name > after)
                    })
                    .take(first as usize)
                    .collect();
                assert_eq!(found, expected, "{prefix:?} {after:?} {first}");
            }
        }
    }
}

pub(super) async fn lists_oldest_first_as_the_exact_reverse(store: Store) {
    let rows: Vec<_> = (0..40).map(|number| row(&format!("p{number:03}"), number / 7)).collect();
    store.writer.record(&rows).await.unwrap();
    let mut newest = store.reader.list(&Filter::default(), None, 1_000).await.unwrap();
    newest.reverse();
    let oldest = Filter { order: Order::OldestFirst, ..Filter::default() };
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.reader.list(&oldest, after.as_ref(), 6).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(Cursor { created: last.info.created, id: last.id.clone() });
        listed.extend(page);
    }
    assert_eq!(listed, newest);
}

/// The lines of the database's plan of a statement.
async fn plan_of(store: &Store, sql: &str) -> Vec<String> {
    let url = &store.settings.url;
    if url.starts_with("sqlite") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
        let plan = plan.fetch_all(&mut connection).await.unwrap();
        plan.iter().map(|row| sqlx::Row::get(row, 3)).collect()
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        let plan = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {sql}")));
        plan.fetch_all(&mut connection).await.unwrap()
    }
}

/// The names of the indexes in the database's plan of a statement, sorted.
async fn indexes_of(store: &Store, sql: &str) -> Vec<String> {
    let plan = plan_of(store, sql).await;
    let words = plan.iter().flat_map(|line| line.split_whitespace());
    let mut indexes: Vec<_> =
        words.filter(|word| word.starts_with("publication_")).map(str::to_owned).collect();
    indexes.sort_unstable();
    indexes.dedup();
    indexes
}

pub(super) async fn listings_of_what_is_rare_do_not_read_the_whole_table(store: Store) {
    let mut rows: Vec<_> = (0..5_000).map(|number| row(&format!("p{number}"), number)).collect();
    for (number, row) in rows.iter_mut().enumerate() {
        row.info.tor = Some(number == 7);
        row.info.disputed = number == 8;
    }
    store.writer.record(&rows).await.unwrap();
    store.execute("ANALYZE publication").await;
    for (filter, index) in [
        (Filter { tor: Some(Flag::Yes), ..Filter::default() }, "publication_tor"),
        (Filter { disputed: Some(true), ..Filter::default() }, "publication_disputed"),
    ] {
        let (sql, _) = crate::filter::listing("p.name, p.version", &filter, None, 100);
        assert_eq!(indexes_of(&store, &sql).await, [index], "{sql}");
        assert_eq!(store.reader.list(&filter, None, 100).await.unwrap().len(), 1);
    }
    let unsettled = "SELECT created FROM publication WHERE NOT tor_settled \
                     AND created >= '1970-01-01T00:00:00.004990Z' ORDER BY created LIMIT 1";
    assert_eq!(indexes_of(&store, unsettled).await, ["publication_created"]);
}

/// A read that is given up ends at its next row, because no row is sorted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_that_are_given_up_free_their_connections() {
    const PACKAGES: usize = 10;
    let store = Store::sqlite().await;
    store
        .execute(&format!(
            "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 299999) \
             INSERT INTO publication (name, version, created, tor_reason, tfa_reason, tor_settled, credential, actor, \
                 revision, generation, event_identity, disputed) \
             SELECT 'p' || (n % {PACKAGES}), n, '2024-01-01T00:00:00.000000Z', 'no_address', 'not_reported', 1, \
                 'unknown', 'unknown', 0, 0, zeroblob(16), 0 FROM numbers"
        ))
        .await;
    let plan = plan_of(&store, crate::sqlite::HISTORY).await;
    assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{plan:?}");
    let names: Vec<_> =
        (0..PACKAGES).map(|n| PackageName::new(&format!("p{n}")).unwrap()).collect();
    let ids = [PublicationId::new("p3", "3").unwrap()];
    let read = async || {
        let mut nothing = |_: &PackageName, _: &[Past<'_>]| {};
        store.reader.history(&names, u64::MAX, &mut nothing).await.unwrap()
    };
    let began = Instant::now();
    assert_eq!(read().await, RowsRead { rows: 300_000, is_complete: true });
    let whole = began.elapsed();
    // Every connection of the pool is reading.
    let reads = futures_util::future::join_all((0..8).map(|_| read()));
    tokio::time::timeout(whole / 4, reads).await.unwrap_err();
    let began = Instant::now();
    assert!(store.reader.find(&ids).await.unwrap()[0].is_some());
    let waited = began.elapsed();
    assert!(waited < whole / 2, "{waited:?}, where one read took {whole:?}");
}
