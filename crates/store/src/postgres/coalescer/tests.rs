use std::time::Duration;

use model::Publication;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::{Postgres, StopMode, eventually};
use tokio::task::JoinHandle;

use super::*;
use crate::StoreSettings;
use crate::postgres::connections::Connections;
use crate::settings::Database;
use crate::suite::row;

const PATIENCE: Duration = Duration::from_secs(60);

/// A database with rows, and a session that can block all reads of them.
struct Scene {
    settings: StoreSettings,
    coalescer: Arc<LookupCoalescer>,
    rows: Vec<Publication>,
    session: PgConnection,
}

impl Scene {
    async fn new(url: String) -> Self {
        let settings = StoreSettings { url, ..StoreSettings::default() };
        let writer = crate::open(&settings).unwrap().table;
        writer.migrate().await.unwrap();
        let rows: Vec<_> = (0..100).map(|number| row(&format!("p{number}"), number)).collect();
        writer.record(&rows).await.unwrap();
        let session = PgConnection::connect(&settings.url).await.unwrap();
        Self { coalescer: Arc::new(coalescer(&settings)), settings, rows, session }
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.session).await.unwrap();
    }

    /// Blocks, until `release`, every statement that reads.
    async fn lock_table(&mut self) {
        self.execute("BEGIN; LOCK TABLE publication IN ACCESS EXCLUSIVE MODE").await;
    }

    async fn release(&mut self) {
        self.execute("COMMIT").await;
    }

    /// Waits until this many statements are blocked. Callers that were spawned before have queued their look-ups by then.
    async fn wait_until_blocked(&mut self, count: i64) {
        // `pg_stat_activity` would not change within the transaction.
        let asked = "SELECT count(*) FROM pg_locks \
                     WHERE NOT granted AND relation = 'publication'::regclass";
        eventually("the statements to wait", PATIENCE, async || {
            let waiting: i64 =
                sqlx::query_scalar(asked).fetch_one(&mut self.session).await.unwrap();
            waiting == count
        })
        .await;
    }

    async fn is_released(&self) {
        let is_released = async || self.coalescer.shared.queue.lock().used == 0;
        eventually("all slots to be released", PATIENCE, is_released).await;
    }

    fn ask(&self, ids: &[&PublicationId]) -> JoinHandle<Answer> {
        let (coalescer, ids) =
            (self.coalescer.clone(), ids.iter().copied().cloned().collect::<Vec<_>>());
        tokio::spawn(async move { coalescer.find(&ids).await })
    }

    /// Starts one caller per row, all at once.
    fn ask_all(&self) -> Vec<JoinHandle<Answer>> {
        self.rows.iter().map(|row| self.ask(&[&row.id])).collect()
    }

    /// As `ask_all`, while statements are blocked and the first caller is cancelled. It had sent its statement alone, so
    /// waiting callers take its slot. The server does not notice that the first statement was abandoned, so three are blocked.
    async fn ask_all_and_first_gives_up(&mut self) -> Vec<JoinHandle<Answer>> {
        self.lock_table().await;
        let asked = self.ask_all();
        self.wait_until_blocked(2).await;
        asked[0].abort();
        self.wait_until_blocked(3).await;
        asked
    }

    async fn all_are_answered(&self, asked: Vec<JoinHandle<Answer>>) {
        for (asked, row) in asked.into_iter().zip(&self.rows) {
            assert_eq!(asked.await.unwrap().unwrap(), [Some(row.clone())]);
        }
    }
}

fn coalescer(settings: &StoreSettings) -> LookupCoalescer {
    let Database::Postgres(options) = settings.database().unwrap() else { panic!() };
    LookupCoalescer::new(Arc::new(Lookup::new(Connections::new(options, settings))))
}

fn unknown() -> PublicationId {
    PublicationId::new("unknown", "1.0.0").unwrap()
}

#[tokio::test]
async fn callers_at_once_share_statements_and_each_gets_its_own() {
    let server = Postgres::builder().fsync(false).setting("log_statement", "all").start();
    let mut scene = Scene::new(server.database().await.url).await;
    let (shared, unknown) = (scene.rows[0].clone(), unknown());
    scene.lock_table().await;
    let ask = |row: &Publication| scene.ask(&[&row.id, &unknown, &shared.id, &row.id]);
    let asked: Vec<_> = scene.rows.iter().map(ask).collect();
    scene.wait_until_blocked(SLOTS as i64).await;
    scene.release().await;
    for (asked, row) in asked.into_iter().zip(&scene.rows) {
        let expected = [Some(row.clone()), None, Some(shared.clone()), Some(row.clone())];
        assert_eq!(asked.await.unwrap().unwrap(), expected);
    }
    // Two statements with one caller each, then batches of 64 callers with four keys each.
    let log = server.log();
    let statements = log.lines().filter(|line| line.contains("JOIN publication p USING")).count();
    assert_eq!(statements, SLOTS + 98_usize.div_ceil(BATCH / 4), "{log}");
    scene.is_released().await;
}

#[tokio::test]
async fn one_after_another_each_leaves_at_once() {
    let scene = Scene::new(testkit::postgres().database().await.url).await;
    for row in &scene.rows {
        assert_eq!(
            scene.coalescer.find(std::slice::from_ref(&row.id)).await.unwrap(),
            [Some(row.clone())]
        );
        assert_eq!(scene.coalescer.shared.queue.lock().used, 0);
    }
}

#[tokio::test]
async fn one_connection_is_enough_for_all() {
    let mut scene = Scene::new(testkit::postgres().database().await.url).await;
    let settings = StoreSettings { max_connections: 1, ..scene.settings.clone() };
    let reader = crate::open_reader(&settings).unwrap();
    let all: Arc<Vec<_>> = Arc::new(scene.rows.iter().map(|row| row.id.clone()).collect());
    scene.lock_table().await;
    let asked: Vec<_> = (0..20)
        .map(|number| {
            let (reader, all) = (reader.clone(), all.clone());
            let count = if number % 2 == 0 { 100 } else { number };
            tokio::spawn(async move { reader.find(&all[..count]).await })
        })
        .collect();
    scene.wait_until_blocked(1).await;
    scene.release().await;
    for asked in asked {
        let found = asked.await.unwrap().unwrap();
        let expected: Vec<_> = scene.rows.iter().take(found.len()).cloned().map(Some).collect();
        assert_eq!(found, expected);
    }
    reader.ready().await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND query LIKE '%string_agg(version,%' AND pid <> pg_backend_pid()";
    let count: i64 = sqlx::query_scalar(count).fetch_one(&mut scene.session).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_caller_that_gives_up_harms_nobody() {
    let mut scene = Scene::new(testkit::postgres().database().await.url).await;
    let asked = scene.ask_all_and_first_gives_up().await;
    // Cancel a caller whose look-up shares a statement with others.
    asked[50].abort();
    scene.release().await;
    let kept = |place: &usize| ![0, 50].contains(place);
    for (place, asked) in asked.into_iter().enumerate().filter(|(place, _)| kept(place)) {
        assert_eq!(asked.await.unwrap().unwrap(), [Some(scene.rows[place].clone())]);
    }
}

#[tokio::test]
async fn a_statement_that_everybody_gave_up_ends() {
    let mut scene = Scene::new(testkit::postgres().database().await.url).await;
    let asked = scene.ask_all_and_first_gives_up().await;
    asked.iter().for_each(JoinHandle::abort);
    // The server has answered no statement yet.
    scene.is_released().await;
    let asked = scene.ask_all();
    scene.release().await;
    scene.all_are_answered(asked).await;
}

#[tokio::test]
async fn an_error_reaches_every_caller_and_a_restart_none() {
    let mut server = Postgres::builder().fsync(false).start();
    let mut scene = Scene::new(server.database().await.url).await;
    scene.all_are_answered(scene.ask_all()).await;
    server.restart();
    scene.all_are_answered(scene.ask_all()).await;
    server.stop(StopMode::Immediate);
    for asked in scene.ask_all() {
        let error = asked.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Transient(_)), "{error}");
    }
    server.start_again();
    scene.all_are_answered(scene.ask_all()).await;
    scene.session = PgConnection::connect(&scene.settings.url).await.unwrap();
    scene.execute("ALTER TABLE publication RENAME TO gone").await;
    for asked in scene.ask_all() {
        let error = asked.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Fatal(_)), "{error}");
        assert!(error.to_string().contains("42P01"), "{error}");
    }
}

#[tokio::test]
async fn a_row_that_no_event_can_have_made_spoils_nothing_for_the_others() {
    let mut scene = Scene::new(testkit::postgres().database().await.url).await;
    scene.execute("UPDATE publication SET event_identity = '\\x00' WHERE name = 'p50'").await;
    scene.lock_table().await;
    let asked = scene.ask_all();
    scene.wait_until_blocked(2).await;
    scene.release().await;
    for (asked, row) in asked.into_iter().zip(&scene.rows) {
        match asked.await.unwrap() {
            Ok(found) => assert_eq!(found, [Some(row.clone())]),
            Err(error) => assert_eq!(row.id.name.as_str(), "p50", "{error}"),
        }
    }
}

/// After a panic no caller waits for ever, and the slot is free again.
#[tokio::test]
async fn a_task_that_is_lost_releases_its_slot() {
    let coalescer = coalescer(&StoreSettings {
        url: "postgres://localhost/none".into(),
        ..StoreSettings::default()
    });
    let shared = coalescer.shared.clone();
    let lost = || drop(BatchTask { shared: shared.clone(), is_released: false });
    for _ in 0..SLOTS {
        assert!(shared.wait(&[]).is_none());
    }
    let mut waiting = shared.wait(&[unknown()]).unwrap();
    lost();
    assert!(
        waiting.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty),
        "another takes it"
    );
    lost();
    assert!(waiting.await.is_err());
    assert!(shared.wait(&[]).is_none(), "free again");
}
