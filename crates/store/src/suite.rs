//! One behaviour suite for both databases: the promises of a store, whichever database it uses.

mod positions;
mod reading;
mod tables;

use std::future::Future;
use std::sync::Arc;

use model::arbitrary::publication;
use model::{
    Integrity, PackageName, PackageVersion, Past, Publication, PublicationId, Timestamp, Username,
    merge_all,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use sqlx::{AssertSqlSafe, Connection};

use crate::{
    Account, Advance, Cursor, DatabaseId, Error, Filter, Flag, JobProgress, JobState, JobUpdate,
    NewJob, Order, PositionKey, PublicationReader, PublicationTable, Recorded, RowsRead,
    StoreSettings, TablePosition,
};

use positions::*;
use reading::*;
use tables::*;

/// An empty database with its schema, dropped at the end of the test.
struct Store {
    writer: Arc<dyn PublicationTable>,
    reader: Arc<dyn PublicationReader>,
    settings: StoreSettings,
    _folder: Option<tempfile::TempDir>,
}

impl Store {
    async fn open(url: String, folder: Option<tempfile::TempDir>) -> Self {
        let settings = StoreSettings { url, ..StoreSettings::default() };
        let writer = crate::open(&settings).unwrap().table;
        writer.migrate().await.unwrap();
        let reader = crate::open_reader(&settings).unwrap();
        Self { writer, reader, settings, _folder: folder }
    }

    async fn postgres() -> Self {
        Self::open(testkit::postgres().database().await.url, None).await
    }

    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::open(
            format!("sqlite://{}", folder.path().join("publications.db").display()),
            Some(folder),
        )
        .await
    }

    /// Runs statements as an operator would.
    async fn execute(&self, sql: &str) {
        let url = &self.settings.url;
        if url.starts_with("sqlite") {
            let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
    }

    async fn rows(&self) -> Vec<Publication> {
        let mut rows = self.reader.list(&Filter::default(), None, 1_000_000).await.unwrap();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    }
}

/// Runs a test on both databases.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() {
            super::$name(super::Store::postgres().await).await;
        })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() {
            super::$name(super::Store::sqlite().await).await;
        })* }
    };
}

on_both! {
    the_table_is_the_fold_of_the_records
    writers_at_once_end_in_the_same_rows
    counts_add_up
    a_large_batch_of_new_rows_and_then_of_known_ones
    finds_in_order_with_nulls
    lists_newest_first_through_pages
    filters
    migrating_twice_does_nothing
    the_highest_generation_is_known
    the_oldest_unsettled_row_is_known
    listings_of_what_is_rare_do_not_read_the_whole_table
    a_job_is_kept_cancelled_and_taken_over
    the_rows_of_a_package_are_handed_on_one_package_at_a_time
    a_name_that_no_event_can_have_is_not_taken_for_others
    names_are_found_by_their_prefix
    lists_oldest_first_as_the_exact_reverse
    the_account_belongs_to_the_present_owner
    a_late_write_of_a_former_owner_changes_nothing
    integrity_is_merged_by_itself
    a_typical_row_passes_and_leaves_nothing
    a_reader_is_ready_while_its_statements_work
    a_row_that_is_not_there_after_it_was_written_is_refused
}

/// Samples of a strategy, the same in every run.
fn samples<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRunner::deterministic().new_rng());
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn fold(records: &[Publication]) -> Vec<Publication> {
    merge_all(records).into_iter().map(std::borrow::Cow::into_owned).collect()
}

pub(crate) fn row(name: &str, created: i64) -> Publication {
    let mut row = samples(publication(&["x"]), 1).remove(0);
    row.id = PublicationId::new(name, "1.0.0").unwrap();
    row.info.created = Timestamp::from_micros(created);
    row.revision = 0;
    row.generation = 0;
    row
}

/// The property of crates/model/README.md, Merge: shuffled, duplicated, regrouped records, with revisions, conflicts
/// and evaluations of several generations, end in the rows of the model's fold.
async fn the_table_is_the_fold_of_the_records(store: Store) {
    const NAMES: &[&str] = &["a", "b", "c"];
    let batches = prop::collection::vec(prop::collection::vec(publication(NAMES), 1..6), 1..8);
    for (round, batches) in samples(batches, 150).into_iter().enumerate() {
        // Each round has its own keys, because all rounds share one table.
        let batches: Vec<Vec<Publication>> = batches
            .into_iter()
            .map(|batch| {
                let keyed = batch.into_iter().map(|mut record| {
                    record.id =
                        PublicationId::new(record.id.name.as_str(), &round.to_string()).unwrap();
                    record
                });
                keyed.collect()
            })
            .collect();
        // The batches in order, and then once more in reverse order.
        for batch in batches.iter().chain(batches.iter().rev()) {
            store.writer.record(batch).await.unwrap();
        }
        let expected = fold(&batches.concat());
        let ids: Vec<_> = expected.iter().map(|row| row.id.clone()).collect();
        let found: Vec<_> = store.reader.find(&ids).await.unwrap().into_iter().flatten().collect();
        assert_eq!(found, expected, "round {round}: {batches:#?}");
    }
}

async fn writers_at_once_end_in_the_same_rows(store: Store) {
    const NAMES: &[&str] = &["a", "b", "c", "d", "e", "f"];
    let batches = samples(prop::collection::vec(publication(NAMES), 5..40), 40);
    let write = |batch: Vec<Publication>| {
        let writer = store.writer.clone();
        // A concurrent writer may get a transient error, but no other error.
        async move {
            while let Err(error) = writer.record(&batch).await {
                assert!(error.passes(), "{error}");
            }
        }
    };
    at_once(batches.iter().cloned().map(write)).await;
    assert_eq!(store.rows().await, fold(&batches.concat()));
}

async fn at_once<F: Future<Output = ()> + Send + 'static>(futures: impl Iterator<Item = F>) {
    let tasks: Vec<_> = futures.map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn counts_add_up(store: Store) {
    let (first, mut changed, third) = (row("a", 1), row("b", 1), row("c", 1));
    let written =
        store.writer.record(&[first.clone(), changed.clone(), first.clone()]).await.unwrap();
    assert_eq!(written, Recorded { inserted: 2, updated: 0, unchanged: 1, disputed: 0 });
    changed.revision = 1;
    let written = store.writer.record(&[first.clone(), changed, third]).await.unwrap();
    assert_eq!(written, Recorded { inserted: 1, updated: 1, unchanged: 1, disputed: 0 });
    let mut other_time = first.clone();
    other_time.info.created = Timestamp::from_micros(2);
    let written = store.writer.record(std::slice::from_ref(&other_time)).await.unwrap();
    assert_eq!(written, Recorded { inserted: 0, updated: 1, unchanged: 0, disputed: 1 });
    let written = store.writer.record(&[other_time]).await.unwrap();
    assert_eq!(written, Recorded { inserted: 0, updated: 0, unchanged: 1, disputed: 0 });
    assert_eq!(store.writer.record(&[]).await.unwrap(), Recorded::default());
}

async fn a_large_batch_of_new_rows_and_then_of_known_ones(store: Store) {
    let rows: Vec<_> = (0..5_000).map(|number| row(&format!("p{number:05}"), number)).collect();
    let written = store.writer.record(&rows).await.unwrap();
    assert_eq!(written, Recorded { inserted: 5_000, ..Recorded::default() });
    let written = store.writer.record(&rows).await.unwrap();
    assert_eq!(written, Recorded { unchanged: 5_000, ..Recorded::default() });
    let mut mixed = rows.clone();
    mixed.extend((0..3_000).map(|number| row(&format!("q{number:05}"), number)));
    let written = store.writer.record(&mixed).await.unwrap();
    assert_eq!(written, Recorded { inserted: 3_000, unchanged: 5_000, ..Recorded::default() });
    assert_eq!(store.rows().await, mixed);
}

async fn finds_in_order_with_nulls(store: Store) {
    let mut scoped = row("@scope/x", 5);
    scoped.info.username = Some(Username::new("ünï 'quoted\" \\ 漢字").unwrap());
    let (upper, lower) = (row("JSONStream", 1), row("jsonstream", 2));
    store.writer.record(&[scoped.clone(), upper.clone(), lower.clone()]).await.unwrap();
    let unknown = PublicationId::new("unknown", "1.0.0").unwrap();
    let ids = [&lower.id, &unknown, &scoped.id, &upper.id, &lower.id].map(Clone::clone);
    let found = store.reader.find(&ids).await.unwrap();
    assert_eq!(found, [Some(lower.clone()), None, Some(scoped), Some(upper), Some(lower)]);
    assert_eq!(store.reader.find(&[]).await.unwrap(), []);
}

async fn lists_newest_first_through_pages(store: Store) {
    // Many rows have the same time, so that the pages end among them.
    let mut rows: Vec<_> =
        (0..100).map(|number| row(&format!("p{number:03}"), number / 30)).collect();
    store.writer.record(&rows).await.unwrap();
    rows.sort_by(|a, b| (b.info.created, &b.id).cmp(&(a.info.created, &a.id)));
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.reader.list(&Filter::default(), after.as_ref(), 7).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(Cursor { created: last.info.created, id: last.id.clone() });
        listed.extend(page);
    }
    assert_eq!(listed, rows);
    // The earliest and the latest possible time.
    for (time, count) in [("0000-01-01T00:00:00Z", 0), ("9999-12-31T23:59:59.999999Z", 100)] {
        let after = Cursor { created: Timestamp::parse(time).unwrap(), id: rows[0].id.clone() };
        let page = store.reader.list(&Filter::default(), Some(&after), 1_000).await.unwrap();
        assert_eq!(page.len(), count, "{time}");
    }
}

async fn filters(store: Store) {
    let mut rows: Vec<_> = (0..9).map(|number| row(&format!("p{number}"), number)).collect();
    for (number, row) in rows.iter_mut().enumerate() {
        row.info.tor = [None, Some(false), Some(true)][number % 3];
        row.info.tfa = [None, Some(false), Some(true)][number / 3];
        row.info.username = (number == 4).then(|| Username::new("brianc").unwrap());
        row.info.disputed = number == 5;
    }
    store.writer.record(&rows).await.unwrap();
    let reader = store.reader.clone();
    let numbers = async |filter: Filter| -> Vec<i64> {
        let rows = reader.list(&filter, None, 100).await.unwrap();
        rows.iter().map(|row| row.info.created.as_micros()).collect()
    };
    let all = Filter::default();
    let (name, username) = (PackageName::new("p3").ok(), Username::new("brianc").ok());
    assert_eq!(numbers(Filter { name, ..all.clone() }).await, [3]);
    assert_eq!(numbers(Filter { username, ..all.clone() }).await, [4]);
    assert_eq!(numbers(Filter { tor: Some(Flag::Yes), ..all.clone() }).await, [8, 5, 2]);
    assert_eq!(numbers(Filter { tor: Some(Flag::No), ..all.clone() }).await, [7, 4, 1]);
    assert_eq!(numbers(Filter { tfa: Some(Flag::Unknown), ..all.clone() }).await, [2, 1, 0]);
    assert_eq!(numbers(Filter { disputed: Some(true), ..all.clone() }).await, [5]);
    let between = Filter {
        created_after: Some(Timestamp::from_micros(3)),
        created_before: Some(Timestamp::from_micros(6)),
        disputed: Some(false),
        ..all
    };
    assert_eq!(numbers(between).await, [4], "both bounds are exclusive");
}

async fn migrating_twice_does_nothing(store: Store) {
    store.writer.record(&[row("a", 1)]).await.unwrap();
    store.writer.migrate().await.unwrap();
    assert_eq!(store.rows().await.len(), 1);
    store.reader.ready().await.unwrap();
}

async fn the_highest_generation_is_known(store: Store) {
    assert_eq!(store.writer.generation().await.unwrap(), 0);
    let mut raised = row("a", 1);
    raised.generation = i32::MAX.cast_unsigned();
    store.writer.record(&[row("b", 1), raised]).await.unwrap();
    assert_eq!(store.writer.generation().await.unwrap(), i32::MAX.cast_unsigned());
}

async fn the_oldest_unsettled_row_is_known(store: Store) {
    let since = async |micros| {
        let oldest = store.writer.oldest_unsettled(Timestamp::from_micros(micros)).await.unwrap();
        oldest.map(Timestamp::as_micros)
    };
    assert_eq!(since(0).await, None);
    let mut rows: Vec<_> = (0..9).map(|number| row(&format!("p{number}"), number)).collect();
    rows.iter_mut().enumerate().for_each(|(number, row)| row.info.tor_settled = number < 4);
    store.writer.record(&rows).await.unwrap();
    assert_eq!((since(0).await, since(4).await), (Some(4), Some(4)));
    assert_eq!((since(5).await, since(9).await), (Some(5), None));
}

async fn a_job_is_kept_cancelled_and_taken_over(store: Store) {
    let jobs = crate::open(&store.settings).unwrap().jobs;
    let at = Timestamp::from_micros;
    let new = NewJob {
        who: "operator@host".into(),
        reason: Some("a \"bug\" in the producer".into()),
        what: serde_json::json!({"topic": "t"}),
        runner: "one".into(),
    };
    let id = jobs.create(&new, at(1)).await.unwrap();
    let mut progress = JobProgress::default();
    progress.position.insert(3, i64::MAX);
    progress.counts.add(&Recorded { inserted: 2, updated: 1, unchanged: 4, disputed: 0 });
    progress.counts.rejected.insert("not_json".into(), 5);
    progress.counts.left_out.insert("gone".into(), 7);
    let update = |runner: &str, end| JobUpdate {
        id,
        runner: runner.into(),
        progress: progress.clone(),
        end,
    };
    let saved = jobs.save(&update("one", None), at(2)).await.unwrap();
    assert_eq!(saved, Some(JobState::Running));
    let job = jobs.job(id).await.unwrap().unwrap();
    assert_eq!((job.started, job.updated, &job.progress), (at(1), at(2), &progress));
    assert_eq!((&job.who, &job.reason, &job.what), (&new.who, &new.reason, &new.what));
    assert_eq!(job.progress.counts.read(), 12);

    // Another runner takes the job over: the first runner's update returns that it lost the job.
    assert!(jobs.take_over(id, "two", at(3)).await.unwrap());
    assert_eq!(jobs.save(&update("one", None), at(4)).await.unwrap(), None);
    assert!(jobs.cancel(id, at(5)).await.unwrap());
    let done = || Some((JobState::Done, None));
    let saved = jobs.save(&update("two", done()), at(6)).await.unwrap();
    assert_eq!(saved, Some(JobState::Cancelled), "who cancelled is heard");
    assert!(!jobs.cancel(id, at(7)).await.unwrap());
    assert!(jobs.take_over(id, "two", at(8)).await.unwrap());
    assert_eq!(jobs.save(&update("two", done()), at(9)).await.unwrap(), Some(JobState::Done));
    assert!(!jobs.take_over(id, "two", at(10)).await.unwrap(), "what is done is done");
    assert!(!jobs.cancel(id + 1, at(10)).await.unwrap());
    let second = jobs.create(&NewJob { reason: None, ..new }, at(11)).await.unwrap();
    let listed: Vec<i64> = jobs.jobs(10).await.unwrap().iter().map(|job| job.id).collect();
    assert_eq!(listed, [second, id]);
    assert_eq!(jobs.jobs(1).await.unwrap().len(), 1);
    assert_eq!(jobs.job(second + 1).await.unwrap(), None);
}

#[tokio::test]
async fn a_row_that_postgresql_refuses_is_a_data_error_without_its_values() {
    let store = Store::postgres().await;
    let pool = sqlx::PgPool::connect(&store.settings.url).await.unwrap();
    sqlx::query("ALTER TABLE publication ADD CONSTRAINT no_secret CHECK (name <> 'secret')")
        .execute(&pool)
        .await
        .unwrap();
    let error = store.writer.record(&[row("good", 1), row("secret", 1)]).await.unwrap_err();
    assert!(matches!(error, Error::Data(_)), "{error}");
    assert!(
        error.to_string().contains("no_secret") && !error.to_string().contains("Failing"),
        "{error}"
    );
    assert_eq!(store.rows().await, [], "all rows of a statement or none");
}

#[tokio::test]
async fn a_database_that_is_away_is_transient_and_one_without_the_table_is_fatal() {
    let port = testkit::free_port();
    let away = StoreSettings {
        url: format!("postgres://postgres@127.0.0.1:{port}/db"),
        ..StoreSettings::default()
    };
    let away = StoreSettings { connect_timeout: std::time::Duration::from_millis(200), ..away };
    let error = crate::open_reader(&away).unwrap().ready().await.unwrap_err();
    assert!(matches!(error, Error::Transient(_)), "{error}");
    let empty =
        StoreSettings { url: testkit::postgres().database().await.url, ..StoreSettings::default() };
    let error = crate::open_reader(&empty).unwrap().ready().await.unwrap_err();
    assert!(matches!(error, Error::Fatal(_)), "{error}");
}

async fn integrity_is_merged_by_itself(store: Store) {
    let with = |text: Option<&str>, created, revision| {
        let mut row = row("a", created);
        row.info.integrity = text.map(|text| Integrity::new(text).unwrap());
        row.revision = revision;
        row
    };
    let writes = [
        (with(Some("sha512-b"), 1, 0), Some("sha512-b"), false),
        // The other record is kept, and has no integrity.
        (with(None, 1, 0), Some("sha512-b"), false),
        (with(Some("sha512-c"), 1, 0), Some("sha512-b"), true),
        (with(Some("sha512-a"), 1, 0), Some("sha512-a"), true),
        // A higher revision replaces the value.
        (with(None, 1, 1), None, false),
        (with(Some("sha512-z"), 1, 0), None, false),
        (with(Some("sha512-d"), 1, 1), Some("sha512-d"), false),
    ];
    for (record, integrity, disputed) in writes {
        store.writer.record(std::slice::from_ref(&record)).await.unwrap();
        let row = store.rows().await.remove(0);
        let found = (row.info.integrity.as_ref().map(Integrity::as_str), row.info.disputed);
        assert_eq!(found, (integrity, disputed), "{record:?}");
    }
}

async fn a_typical_row_passes_and_leaves_nothing(store: Store) {
    store.writer.probe().await.unwrap();
    assert_eq!(store.rows().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_an_sqlite_store_is_known_by_what_stays_with_it() {
    let store = Store::sqlite().await;
    let accounts = crate::open(&store.settings).unwrap().positions;
    let key = PositionKey { group: "g".into(), topic_id: "t".into() };
    let claim = async || accounts.claim(&key, "one", &[0]).await;
    let first = claim().await.unwrap().database;
    let path = store.settings.url.strip_prefix("sqlite://").unwrap();
    std::fs::rename(path, format!("{path}.moved")).unwrap();
    let error = claim().await.unwrap_err();
    assert!(matches!(error, Error::Transient(_)) && error.to_string().contains(path), "{error}");
    let remove = |end| std::fs::remove_file(format!("{path}-{end}")).unwrap();
    ["wal", "shm"].into_iter().for_each(remove);
    std::fs::copy(format!("{path}.moved"), path).unwrap();
    assert_ne!(claim().await.unwrap().database, first);
    ["wal", "shm"].into_iter().for_each(remove);
    std::fs::rename(format!("{path}.moved"), path).unwrap();
    assert_eq!(claim().await.unwrap().database, first);

    let missing =
        StoreSettings { url: format!("sqlite://{path}.none/x.db"), ..store.settings.clone() };
    let error = crate::open(&missing).unwrap().table.migrate().await.unwrap_err();
    assert!(error.to_string().contains(&format!("{path}.none")), "{error}");
}

async fn a_reader_is_ready_while_its_statements_work(store: Store) {
    store.reader.ready().await.unwrap();
    store.writer.record(&[row("a", 1)]).await.unwrap();
    store.reader.ready().await.unwrap();
    store.execute("ALTER TABLE publication DROP COLUMN integrity").await;
    let error = store.reader.ready().await.unwrap_err();
    assert!(error.to_string().contains("integrity"), "{error}");
}

#[tokio::test]
async fn a_partitioned_table_takes_both_ways_of_writing() {
    let store = Store::postgres().await;
    store.writer.record(&[row("first", 1)]).await.unwrap();
    store.partition().await;
    let mut rows: Vec<_> = (0..2_000).map(|number| row(&format!("p{number:04}"), number)).collect();
    let written = store.writer.record(&rows).await.unwrap();
    assert_eq!(written, Recorded { inserted: 2_000, ..Recorded::default() });
    rows.truncate(10);
    rows.iter_mut().take(4).for_each(|row| row.revision = 1);
    rows.push(row("new", 1));
    let written = store.writer.record(&rows).await.unwrap();
    assert_eq!(written, Recorded { inserted: 1, updated: 4, unchanged: 6, disputed: 0 });
    store.writer.probe().await.unwrap();
    let found = store.reader.search("p", None, 2).await.unwrap();
    assert_eq!(found.iter().map(PackageName::as_str).collect::<Vec<_>>(), ["p0000", "p0001"]);
    let (found, _) = histories_of(&store, &["new", "first"], 10).await;
    assert_eq!(found, [("first".to_owned(), 1), ("new".to_owned(), 1)]);
}

/// The database still accepts the statements of an ingester of the previous build.
#[tokio::test]
async fn the_build_before_goes_on_writing() {
    let store = Store::postgres().await;
    store
        .execute(
            "INSERT INTO publication (name, version, username, created, tor, tfa, tor_reason, tfa_reason, \
                 tor_evidence_until, tor_settled, credential, actor, revision, generation, event_identity, disputed) \
             SELECT i.name, i.version, i.username, i.created, i.tor, i.tfa, \
                 (enum_range(NULL::tor_reason))[i.tor_reason + 1], (enum_range(NULL::tfa_reason))[i.tfa_reason + 1], \
                 i.tor_evidence_until, i.tor_settled, (enum_range(NULL::publication_credential))[i.credential + 1], \
                 (enum_range(NULL::publication_actor))[i.actor + 1], i.revision, i.generation, i.event_identity, i.disputed \
             FROM unnest(ARRAY[ROW('old', '1.0.0', NULL, '2026-01-01Z', false, true, 8, 6, NULL, true, 4, 1, 0, 0, \
                 '\\x00112233445566778899aabbccddeeff', false)]::publication_row[]) AS i; \
             SELECT created, revision, generation, tor_reason, tfa_reason, credential, actor, tor_settled, disputed, \
                 tor, tfa, name, version, username, event_identity, tor_evidence_until FROM publication",
        )
        .await;
    let row = store.rows().await.remove(0);
    assert_eq!((row.id.name.as_str(), row.info.integrity), ("old", None));
}
