use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use model::PackageName;
use tokio::time::Instant;

use super::*;
use crate::suite::row;
use crate::{EachPackage, RowsRead};

/// The observer's reports: the number of waiting operations by cause, the messages, and the number of tries.
#[derive(Default)]
struct Observed(Mutex<(BTreeMap<WaitCause, i32>, Vec<String>, u32)>);

impl WaitObserver for Observed {
    fn waiting(&self, cause: WaitCause, error: &Error) {
        let mut seen = self.0.lock();
        *seen.0.entry(cause).or_default() += 1;
        seen.1.push(format!("{cause:?}: {error}"));
    }

    fn recovered(&self, cause: WaitCause) {
        *self.0.lock().0.entry(cause).or_default() -= 1;
    }

    fn retried(&self, _: WaitCause, _: &Error) {
        self.0.lock().2 += 1;
    }
}

impl Observed {
    fn told(&self) -> Vec<String> {
        self.0.lock().1.clone()
    }

    fn waiters(&self, cause: WaitCause) -> i32 {
        self.0.lock().0.get(&cause).copied().unwrap_or_default()
    }
}

type Rule = Box<dyn Fn(&[Publication]) -> Result<(), Error> + Send>;

/// A store with scripted results: first the errors of the script, then the rule's.
struct Scripted {
    script: Mutex<VecDeque<Error>>,
    rule: Mutex<Rule>,
    probe: Mutex<fn() -> Result<(), Error>>,
    rows: Mutex<Vec<String>>,
    tries: Mutex<Vec<usize>>,
    is_serial: bool,
}

#[async_trait]
impl PublicationWriter for Scripted {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        self.tries.lock().push(records.len());
        if let Some(error) = self.script.lock().pop_front() {
            return Err(error);
        }
        (self.rule.lock())(records)?;
        let names = records.iter().map(|row| row.id.name.as_str().to_owned());
        self.rows.lock().extend(names);
        Ok(Recorded { inserted: records.len() as u64, ..Recorded::default() })
    }

    async fn probe(&self) -> Result<(), Error> {
        (self.probe.lock())()
    }

    fn is_serial(&self) -> bool {
        self.is_serial
    }
}

#[async_trait]
impl PublicationReader for Scripted {
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        self.tries.lock().push(ids.len());
        if let Some(error) = self.script.lock().pop_front() {
            return Err(error);
        }
        let rows: Vec<_> = ids.iter().map(|id| row(id.name.as_str(), 1)).collect();
        (self.rule.lock())(&rows)?;
        Ok(rows.into_iter().map(Some).collect())
    }

    async fn list(
        &self,
        _: &Filter,
        _: Option<&Cursor>,
        _: u32,
    ) -> Result<Vec<Publication>, Error> {
        unreachable!("no test lists")
    }

    async fn history(
        &self,
        _: &[PackageName],
        _: u64,
        _: EachPackage<'_>,
    ) -> Result<RowsRead, Error> {
        unreachable!("no test reads a history")
    }

    async fn search(&self, _: &str, _: Option<&str>, _: u32) -> Result<Vec<PackageName>, Error> {
        unreachable!("no test searches")
    }

    async fn ready(&self) -> Result<(), Error> {
        unreachable!("no test asks for readiness")
    }
}

struct Scene {
    store: Arc<Scripted>,
    observed: Arc<Observed>,
    retrying: Arc<Retrying<Scripted>>,
}

fn scene(
    script: impl IntoIterator<Item = Error>,
    rule: impl Fn(&[Publication]) -> Result<(), Error> + Send + 'static,
) -> Scene {
    let store = Arc::new(Scripted {
        script: Mutex::new(script.into_iter().collect()),
        rule: Mutex::new(Box::new(rule)),
        probe: Mutex::new(|| Ok(())),
        rows: Mutex::default(),
        tries: Mutex::default(),
        is_serial: false,
    });
    Scene::of(store)
}

impl Scene {
    fn of(store: Arc<Scripted>) -> Self {
        let observed = Arc::new(Observed::default());
        let retrying = Arc::new(Retrying::new(store.clone(), observed.clone()));
        Self { store, observed, retrying }
    }
}

fn rows(count: usize) -> Vec<Publication> {
    (0..count).map(|number| row(&format!("p{number}"), 1)).collect()
}

/// Refuses parts that contain one of these rows.
fn refusing(names: &'static [&'static str], error: fn() -> Error) -> Rule {
    Box::new(move |records| {
        let is_there = records.iter().any(|row| names.contains(&row.id.name.as_str()));
        if is_there { Err(error()) } else { Ok(()) }
    })
}

fn data() -> Error {
    Error::Data("SQLSTATE 23514, table publication".into())
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_tried_again_and_told_once() {
    let away = || Error::transient("connection refused");
    let scene = scene((0..5).map(|_| away()), |_| Ok(()));
    let began = Instant::now();
    let written = scene.retrying.write(&rows(3)).await.unwrap();
    assert_eq!((written.recorded.inserted, written.refused), (3, vec![]));
    assert_eq!(began.elapsed(), Duration::from_millis(50 + 100 + 200 + 400 + 800));
    assert_eq!(scene.observed.told(), ["Away: the database is not available: connection refused"]);
    assert_eq!(scene.observed.waiters(WaitCause::Away), 0);
    assert_eq!(scene.observed.0.lock().2, 5, "each try is counted");
}

#[tokio::test(start_paused = true)]
async fn one_conflict_is_no_news_and_many_are() {
    let conflict = || Error::Conflict("deadlock detected".into());
    let few = scene([conflict()], |_| Ok(()));
    few.retrying.write(&rows(1)).await.unwrap();
    assert!(few.observed.told().is_empty());
    let many = scene((0..30).map(|_| conflict()), |_| Ok(()));
    many.retrying.write(&rows(1)).await.unwrap();
    assert_eq!(many.observed.told().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_waiter_is_counted_until_its_own_end() {
    // Four operations wait; they succeed one after the other, and the last is dropped.
    let scene = scene([], |_| Err(Error::transient("away")));
    let batch = Arc::new(rows(1));
    let mut writers: Vec<_> = (0..4)
        .map(|_| {
            let (retrying, batch) = (scene.retrying.clone(), batch.clone());
            tokio::spawn(async move { retrying.write(&batch).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.observed.waiters(WaitCause::Away), 4);
    let given_up = writers.pop().unwrap();
    given_up.abort();
    assert!(given_up.await.is_err());
    assert_eq!(scene.observed.waiters(WaitCause::Away), 3);
    *scene.store.rule.lock() = Box::new(|_| Ok(()));
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(scene.observed.waiters(WaitCause::Away), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_runs_into_a_time_limit_goes_in_halves() {
    let rule = |records: &[Publication]| match records.len() {
        0..=10 => Ok(()),
        _ => Err(Error::TimedOut("canceling statement due to statement timeout".into())),
    };
    let scene = scene([], rule);
    let written = scene.retrying.write(&rows(37)).await.unwrap();
    assert_eq!(written.recorded.inserted, 37);
    assert_eq!(*scene.store.tries.lock(), [37, 18, 9, 9, 19, 9, 10]);
    assert!(scene.observed.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn keys_that_run_into_a_time_limit_are_read_in_halves() {
    let limit = || Error::TimedOut("canceling statement due to statement timeout".into());
    let scene = scene([], move |rows| if rows.len() > 2 { Err(limit()) } else { Ok(()) });
    let ids: Vec<_> = rows(7).into_iter().map(|row| row.id).collect();
    let found = scene.retrying.find(&ids).await.unwrap();
    assert_eq!(found.into_iter().flatten().map(|row| row.id).collect::<Vec<_>>(), ids);
    assert_eq!(*scene.store.tries.lock(), [7, 3, 1, 2, 4, 2, 2]);
    // A single key is read again unchanged, and so are several after another error.
    for (error, keys) in [(limit(), 1), (Error::transient("connection refused"), 2)] {
        scene.store.tries.lock().clear();
        scene.store.script.lock().push_back(error);
        assert_eq!(scene.retrying.find(&ids[..keys]).await.unwrap().len(), keys);
        assert_eq!(*scene.store.tries.lock(), [keys, keys]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_refused_alone_is_told_with_its_place() {
    let scene = scene([], refusing(&["p3", "p17"], data));
    let written = scene.retrying.write(&rows(20)).await.unwrap();
    let places: Vec<_> = written.refused.iter().map(|refused| refused.place).collect();
    assert_eq!((places, written.recorded.inserted), (vec![3, 17], 18));
    assert!(written.refused[0].reason.contains("23514"));
    assert!(scene.observed.told().is_empty(), "nothing waits for it");
    let error = scene.retrying.record(&rows(20)).await.unwrap_err();
    assert!(matches!(error, Error::Data(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_refuses_a_typical_row_too_is_waited_for() {
    let scene = scene([], |_| Err(data()));
    *scene.store.probe.lock() =
        || Err(Error::Data("null value in column \"x\" (SQLSTATE 23502)".into()));
    let error = scene.retrying.write(&rows(9)).await.unwrap_err();
    assert!(error.to_string().contains("23502"), "before anything succeeded: {error}");

    let batch = rows(9);
    scene.retrying.retry(|| async { Ok(()) }).await.unwrap();
    let mut writing = std::pin::pin!(scene.retrying.write(&batch));
    let waited = tokio::time::timeout(Duration::from_secs(3600), &mut writing).await;
    assert!(waited.is_err(), "{waited:?}");
    let told = scene.observed.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("Refused") && told[0].contains("column \"x\""), "{told:?}");
    assert!(scene.store.tries.lock().iter().all(|&tried| tried == 9), "not bisected");
    *scene.store.rule.lock() = Box::new(|_| Ok(()));
    assert_eq!(writing.await.unwrap().recorded.inserted, 9);
}

#[tokio::test(start_paused = true)]
async fn too_many_refused_rows_are_the_tables_fault() {
    const BAD: &[&str] =
        &["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12"];
    // Good rows follow the bad rows, so that fewer than half are refused.
    let mixed = scene([], refusing(BAD, data));
    let written = mixed.retrying.write(&rows(200)).await.unwrap();
    assert_eq!((written.refused.len(), written.recorded.inserted), (BAD.len(), 187));
    // All rows are bad: at most ten of the last twenty are refused.
    let all = scene([], |_| Err(data()));
    all.retrying.rows.lock().accept(1_000);
    let batch = rows(50);
    {
        let mut writing = std::pin::pin!(all.retrying.write(&batch));
        let waited = tokio::time::timeout(Duration::from_secs(60), &mut writing).await;
        assert!(waited.is_err());
        // Those that were refused before the table was known to be at fault are written too.
        *all.store.rule.lock() = Box::new(|_| Ok(()));
        let written = writing.await.unwrap();
        assert_eq!((written.recorded.inserted, written.refused), (50, vec![]));
        *all.store.rule.lock() = Box::new(|_| Err(data()));
        let waited =
            tokio::time::timeout(Duration::from_secs(60), all.retrying.write(&batch)).await;
        assert!(waited.is_err());
    }
    assert!(all.observed.told()[0].contains("more than half"), "{:?}", all.observed.told());
    assert_eq!(all.observed.waiters(WaitCause::Refused), 0, "given up");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_fails_by_what_passes_is_refused_after_five_minutes_while_others_pass() {
    for error in [
        || Error::transient("could not extend file (SQLSTATE 53100)"),
        || Error::TimedOut("canceling statement due to lock timeout (SQLSTATE 55P03)".into()),
        || Error::Conflict("could not serialize access (SQLSTATE 40001)".into()),
    ] {
        let scene = scene([], refusing(&["p3"], error));
        let began = Instant::now();
        let written = scene.retrying.write(&rows(20)).await.unwrap();
        assert_eq!(written.refused.iter().map(|it| it.place).collect::<Vec<_>>(), [3]);
        assert!(began.elapsed() >= Duration::from_secs(300), "{:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(330), "{:?}", began.elapsed());
        assert_eq!(scene.store.rows.lock().len(), 19);
    }
    // While a typical row fails too, no row is refused.
    let scene = scene([], |_| Err(Error::transient("connection refused")));
    *scene.store.probe.lock() = || Err(Error::transient("connection refused"));
    let batch = rows(1);
    let waited =
        tokio::time::timeout(Duration::from_secs(3600), scene.retrying.write(&batch)).await;
    assert!(waited.is_err());
}

/// A typical row is taken back before it reaches the disk, so it passes although the disk is full.
#[tokio::test(start_paused = true)]
async fn a_full_disk_of_an_embedded_store_splits_and_refuses_nothing() {
    let began = Instant::now();
    let full = move |_: &[Publication]| {
        let is_full = began.elapsed() < Duration::from_secs(1_000);
        if is_full { Err(Error::Transient("database or disk is full".into())) } else { Ok(()) }
    };
    let mut scripted = scene([], full).store;
    Arc::get_mut(&mut scripted).unwrap().is_serial = true;
    let scene = Scene::of(scripted);
    let written = scene.retrying.write(&rows(8)).await.unwrap();
    assert_eq!((written.recorded.inserted, written.refused), (8, vec![]));
    assert!(scene.store.tries.lock().iter().all(|rows| *rows == 8));
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_makes_no_letter_while_no_other_row_is_written() {
    let full = || Error::transient("could not extend file (SQLSTATE 53100)");
    let scene = scene([], |_| Ok(()));
    scene.retrying.write(&rows(3)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The typical row passes, and no other.
    *scene.store.rule.lock() = Box::new(move |_| Err(full()));
    let batch = rows(20);
    let mut writing = std::pin::pin!(scene.retrying.write(&batch));
    let waited = tokio::time::timeout(Duration::from_secs(3600), &mut writing).await;
    assert!(waited.is_err(), "{waited:?}");
    *scene.store.rule.lock() = Box::new(|_| Ok(()));
    let written = writing.await.unwrap();
    assert_eq!((written.recorded.inserted, written.refused), (20, vec![]));
    // Most rows fail, and a few are written: the table is at fault, as with any other error.
    let few = |records: &[Publication]| records.iter().all(|row| row.id.name.as_str() < "p2");
    *scene.store.rule.lock() =
        Box::new(move |records| if few(records) { Ok(()) } else { Err(full()) });
    let batch = rows(60);
    let mut writing = std::pin::pin!(scene.retrying.write(&batch));
    let waited = tokio::time::timeout(Duration::from_secs(3600), &mut writing).await;
    assert!(waited.is_err(), "{waited:?}");
    let told = scene.observed.told();
    assert!(told.iter().any(|told| told.contains("more than half")), "{told:?}");
    *scene.store.rule.lock() = Box::new(|_| Ok(()));
    assert_eq!(writing.await.unwrap().refused, []);
}

#[tokio::test(start_paused = true)]
async fn a_missing_partition_is_waited_for_although_a_typical_row_passes() {
    let missing = || Error::NoPartition("no partition of relation \"publication\"".into());
    let scene = scene([], move |_| Err(missing()));
    let batch = rows(9);
    scene.retrying.write(&batch).await.unwrap_err();
    scene.retrying.retry(|| async { Ok(()) }).await.unwrap();
    let mut writing = std::pin::pin!(scene.retrying.write(&batch));
    let waited = tokio::time::timeout(Duration::from_secs(3600), &mut writing).await;
    assert!(waited.is_err(), "{waited:?}");
    let told = scene.observed.told();
    assert!(told.len() == 1 && told[0].starts_with("Refused: "), "{told:?}");
    assert!(told[0].contains("no partition of relation"), "{told:?}");
    *scene.store.rule.lock() = Box::new(|_| Ok(()));
    let written = writing.await.unwrap();
    assert_eq!((written.recorded.inserted, written.refused), (9, vec![]));
}

/// A table that refuses every row but the typical one, and a daemon that is started again and again.
#[tokio::test(start_paused = true)]
async fn a_restart_makes_few_letters_of_a_table_that_refuses_every_row() {
    let start = || {
        let scene = scene([], |_| Err(data()));
        let daemon = Retrying::new(scene.store.clone(), scene.observed.clone());
        (scene, daemon.outlasting_refusals())
    };
    // Of a batch nothing is refused, and all of it is written after the repair.
    let (scene, daemon) = start();
    let batch = rows(50);
    let mut writing = std::pin::pin!(daemon.write(&batch));
    let waited = tokio::time::timeout(Duration::from_secs(60), &mut writing).await;
    assert!(waited.is_err(), "{waited:?}");
    let told = scene.observed.told();
    assert!(told[0].contains("none was accepted since the start"), "{told:?}");
    *scene.store.rule.lock() = Box::new(|_| Ok(()));
    let written = writing.await.unwrap();
    assert_eq!((written.recorded.inserted, written.refused), (50, vec![]));
    // Of rows that come one at a time the first ten are refused.
    let (scene, daemon) = start();
    for row in &batch[..10] {
        assert_eq!(daemon.write(std::slice::from_ref(row)).await.unwrap().refused.len(), 1);
    }
    let another = daemon.write(&batch[10..11]);
    assert!(tokio::time::timeout(Duration::from_secs(60), another).await.is_err());
    // Rows are accepted: those that are refused are at fault again.
    *scene.store.rule.lock() = refusing(&["p12", "p13", "p14"], data);
    let written = daemon.write(&batch[11..]).await.unwrap();
    assert_eq!((written.recorded.inserted, written.refused.len()), (36, 3));
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_tried_again_after_a_fault_of_the_table_count_once() {
    static IS_BROKEN: AtomicBool = AtomicBool::new(false);
    const BAD: &[&str] = &["p0", "p1", "p2", "p3", "p4", "p5"];
    // The last row finds the table broken, after the others were refused.
    let scene = scene([], |records| {
        IS_BROKEN.fetch_or(records[0].id.name.as_str() == "p6", Ordering::Relaxed);
        Err(data())
    });
    *scene.store.probe.lock() =
        || if IS_BROKEN.load(Ordering::Relaxed) { Err(data()) } else { Ok(()) };
    scene.retrying.has_served();
    scene.retrying.rows.lock().accept(8);
    let batch = rows(7);
    let mut writing = std::pin::pin!(scene.retrying.write(&batch));
    let waited = tokio::time::timeout(Duration::from_secs(60), &mut writing).await;
    assert!(waited.is_err() && IS_BROKEN.load(Ordering::Relaxed), "{waited:?}");
    *scene.store.rule.lock() = refusing(BAD, data);
    *scene.store.probe.lock() = || Ok(());
    let mended = tokio::time::timeout(Duration::from_secs(60), writing).await;
    let written = mended.expect("the table is not at fault").unwrap();
    assert_eq!((written.recorded.inserted, written.refused.len()), (1, BAD.len()));
}

#[tokio::test(start_paused = true)]
async fn rows_that_were_refused_before_are_evaluated_alone() {
    let scene = scene([], |_| Err(data()));
    let again = Retrying::new(scene.store.clone(), scene.observed.clone()).evaluating_rows_alone();
    assert_eq!(again.write(&rows(30)).await.unwrap().refused.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_row_is_tried_once_more_after_the_typical_row_has_passed() {
    static IS_BACK: AtomicBool = AtomicBool::new(false);
    let away = || Error::transient("connection refused");
    let scene = scene([], |_| Ok(()));
    scene.retrying.write(&rows(3)).await.unwrap();
    *scene.store.rule.lock() =
        Box::new(move |_| if IS_BACK.load(Ordering::Relaxed) { Ok(()) } else { Err(away()) });
    *scene.store.probe.lock() = || Err(Error::transient("connection refused"));
    let batch = rows(1);
    let mut writing = std::pin::pin!(scene.retrying.write(&batch));
    let waited = tokio::time::timeout(Duration::from_millis(1), &mut writing).await;
    assert!(waited.is_err());
    *scene.retrying.ended.lock() = Some(Instant::now());
    let waited = tokio::time::timeout(Duration::from_secs(6 * 60), &mut writing).await;
    assert!(waited.is_err());
    // The database comes back after the row has failed once more.
    *scene.store.probe.lock() = || {
        IS_BACK.store(true, Ordering::Relaxed);
        Ok(())
    };
    assert_eq!(writing.await.unwrap().refused, []);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_outlasts_what_is_refused_after_it_has_been_served() {
    let store = scene([], |_| Ok(())).store;
    let observed = Arc::new(Observed::default());
    let daemon = Retrying::new(store.clone(), observed.clone()).outlasting_refusals();
    let refuse = || async { Err::<(), _>(Error::fatal("permission denied")) };
    daemon.retry(refuse).await.unwrap_err();
    daemon.retry(|| async { Ok(()) }).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(60), daemon.retry(refuse)).await;
    assert!(waited.is_err());
    assert_eq!(observed.told(), ["Refused: the database cannot be used: permission denied"]);
    // A trigger on a table that is not publication.
    let refuse_data = || async { Err::<(), _>(Error::Data("not now (SQLSTATE P0001)".into())) };
    let waited = tokio::time::timeout(Duration::from_secs(60), daemon.retry(refuse_data)).await;
    assert!(waited.is_err());
    let command = Retrying::new(store, observed);
    command.retry(|| async { Ok(()) }).await.unwrap();
    command.retry(refuse).await.unwrap_err();
}

/// A store whose writes of rows named `stuck` do not end before the test releases them.
#[derive(Default)]
struct Stuck(tokio::sync::Notify);

#[async_trait]
impl PublicationWriter for Stuck {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        if records.iter().any(|row| row.id.name.as_str() == "stuck") {
            self.0.notified().await;
        }
        Ok(Recorded::default())
    }
}

#[tokio::test(start_paused = true)]
async fn that_no_write_ends_is_told_after_ten_seconds() {
    let (store, observed) = (Arc::new(Stuck::default()), Arc::new(Observed::default()));
    let retrying = Arc::new(Retrying::new(store.clone(), observed.clone()));
    let stuck = {
        let retrying = retrying.clone();
        tokio::spawn(async move { retrying.write(&[row("stuck", 1)]).await })
    };
    // While other writes end, the database counts as healthy.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        retrying.write(&rows(1)).await.unwrap();
    }
    assert!(observed.told().is_empty(), "{:?}", observed.told());
    tokio::time::sleep(Duration::from_millis(10_001)).await;
    assert!(observed.told()[0].contains("no write has ended for 10s"), "{:?}", observed.told());
    assert_eq!(observed.waiters(WaitCause::TimeLimit), 1);
    store.0.notify_one();
    stuck.await.unwrap().unwrap();
    assert_eq!(observed.waiters(WaitCause::TimeLimit), 0);
    assert_eq!(observed.told().len(), 1);
}
