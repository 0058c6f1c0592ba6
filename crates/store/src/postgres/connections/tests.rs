use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use model::Publication;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};
use testkit::{Postgres, eventually, postgres};

use super::*;
use crate::suite::row;
use crate::{PublicationTable, Retrying, WaitCause, WaitObserver};

const PATIENCE: Duration = Duration::from_secs(60);

/// Counts the failed tries.
#[derive(Default)]
struct Failed(AtomicUsize);

impl WaitObserver for Failed {
    fn waiting(&self, _: WaitCause, _: &Error) {}

    fn recovered(&self, _: WaitCause) {}

    fn retried(&self, _: WaitCause, _: &Error) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Failed {
    async fn reach(&self, count: usize) {
        let reached = async || self.0.load(Ordering::Relaxed) >= count;
        eventually("tries to fail", PATIENCE, reached).await;
    }
}

/// A database with its tables, and an operator's session in it.
struct Scene {
    settings: StoreSettings,
    writer: Arc<dyn PublicationTable>,
    operator: PgConnection,
}

impl Scene {
    async fn new() -> Self {
        Self::of(postgres().database().await.url).await
    }

    async fn of(url: String) -> Self {
        let settings = StoreSettings {
            url: url.clone(),
            statement_timeout: Duration::from_secs(2),
            ..StoreSettings::default()
        };
        let writer = crate::open(&settings).unwrap().table;
        writer.migrate().await.unwrap();
        let options = PostgresUrl::parse(&url).unwrap().options;
        let operator = PgConnection::connect_with(&options).await.unwrap();
        Self { settings, writer, operator }
    }

    async fn execute(&mut self, sql: impl Into<String>) {
        sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut self.operator).await.unwrap();
    }

    /// Creates a trigger that runs `what` before each insert of a row whose name begins with `bad`.
    async fn trigger(&mut self, what: &str) {
        self.execute(format!(
            "CREATE OR REPLACE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.name LIKE 'bad%' THEN {what}; END IF; RETURN NEW; END $$; \
             CREATE OR REPLACE TRIGGER interfere BEFORE INSERT ON publication \
             FOR EACH ROW EXECUTE FUNCTION interfere()"
        ))
        .await;
    }

    fn retrying(&self) -> Retrying<dyn PublicationTable> {
        self.observed().0
    }

    fn observed(&self) -> (Retrying<dyn PublicationTable>, Arc<Failed>) {
        let failed = Arc::new(Failed::default());
        (Retrying::new(self.writer.clone(), failed.clone()), failed)
    }
}

fn rows(names: &[&str]) -> Vec<Publication> {
    names.iter().map(|name| row(name, 1)).collect()
}

#[tokio::test]
async fn a_statement_that_is_given_up_ends_at_the_server() {
    let url = postgres().database().await.url;
    let settings = StoreSettings { url: url.clone(), ..StoreSettings::default() };
    let connections = Connections::new(PostgresUrl::parse(&url).unwrap(), &settings);
    let mut observer = PgConnection::connect(&url).await.unwrap();
    let mut running = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query = 'SELECT pg_sleep(3600)'";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut observer).await.unwrap()
    };
    let asking = tokio::spawn(async move {
        connections.fetch_all(|| sqlx::query("SELECT pg_sleep(3600)")).await.map(drop)
    });
    eventually("the statement to run", PATIENCE, async || running().await == 1).await;
    asking.abort();
    eventually("the statement to end", PATIENCE, async || running().await == 0).await;
}

/// Each class of errors, raised by a trigger with the code.
#[tokio::test]
async fn each_class_of_errors_is_told_by_its_code() {
    let mut scene = Scene::new().await;
    for (codes, class) in [
        (
            "08000 08006 25006 53000 53100 53200 53300 53400 55000 55006 57P01 57P02 57P03 57P05",
            "transient",
        ),
        ("58000 58030 58P01 58P02 F0000 72000", "transient"),
        ("40001 40P01 40003", "conflict"),
        ("57014 55P03", "timed_out"),
        (
            "22001 22021 22P05 23502 23503 23514 23P01 40002 44000 54000 P0001 2F002 38000 39000 PX001 U0001",
            "data",
        ),
        ("42501 42703 42P01 XX000 28000 3D000", "fatal"),
    ] {
        for code in codes.split(' ') {
            let raise = format!("RAISE EXCEPTION 'not %', NEW.name USING ERRCODE = '{code}'");
            scene.trigger(&raise).await;
            let error = scene.writer.record(&rows(&["bad"])).await.unwrap_err();
            assert_eq!(error.class(), class, "{code}: {error}");
            let said = error.to_string();
            assert!(said.contains(code) && !said.contains("not bad"), "{said}");
        }
    }
    scene.writer.record(&rows(&["good"])).await.unwrap();
}

#[tokio::test]
async fn a_statement_runs_into_the_limit_of_the_session_the_role_or_a_lock() {
    let mut scene = Scene::new().await;
    scene.trigger("PERFORM pg_sleep(60)").await;
    let error = scene.writer.record(&rows(&["bad"])).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)) && error.to_string().contains("57014"), "{error}");

    // The table is locked: the statement times out, and the retried batch is written when the lock is released.
    scene.execute("BEGIN; LOCK TABLE publication").await;
    let error = scene.writer.record(&rows(&["a", "b"])).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)), "{error}");
    let (retrying, failed) = scene.observed();
    let writing = tokio::spawn(async move { retrying.write(&rows(&["a", "b"])).await });
    failed.reach(2).await;
    scene.execute("COMMIT").await;
    assert_eq!(writing.await.unwrap().unwrap().recorded.inserted, 2);
}

#[tokio::test]
async fn a_shorter_limit_of_the_role_makes_batches_smaller() {
    let mut scene = Scene::new().await;
    // Each row takes some time, so that the whole batch exceeds the limit.
    scene.trigger("PERFORM pg_sleep(0.02)").await;
    scene
        .execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = ''300ms''', current_database()); END $$")
        .await;
    scene.writer = crate::open(&scene.settings).unwrap().table;
    let names: Vec<String> = (0..50).map(|number| format!("bad{number}")).collect();
    let batch: Vec<_> = names.iter().map(|name| row(name, 1)).collect();
    let error = scene.writer.record(&batch).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)), "{error}");
    let written = scene.retrying().write(&batch).await.unwrap();
    assert_eq!((written.recorded.inserted, written.refused.len()), (50, 0));
}

#[tokio::test]
async fn a_rows_fault_is_told_from_the_tables() {
    let mut scene = Scene::new().await;
    scene.trigger("RAISE EXCEPTION 'not this one: %', NEW.name").await;
    let written = scene.retrying().write(&rows(&["a", "bad", "c"])).await.unwrap();
    assert_eq!(written.recorded.inserted, 2);
    let refused = &written.refused[0];
    assert_eq!(refused.place, 1);
    assert!(refused.reason.contains("P0001"), "{}", refused.reason);
    assert!(!refused.reason.contains("not this one"), "a message may quote: {}", refused.reason);
    scene.writer.probe().await.unwrap();

    scene
        .execute("ALTER TABLE publication ADD COLUMN x integer; UPDATE publication SET x = 1")
        .await;
    scene.execute("ALTER TABLE publication ALTER COLUMN x SET NOT NULL").await;
    let error = scene.writer.probe().await.unwrap_err();
    for word in ["null value in column \"x\"", "23502", "table publication", "column x"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(!error.to_string().contains("typical"), "no row is quoted: {error}");
    let (retrying, failed) = scene.observed();
    retrying.generation().await.unwrap();
    let writing = tokio::spawn(async move { retrying.write(&rows(&["d"])).await });
    failed.reach(3).await;
    assert!(!writing.is_finished(), "the table is at fault: nothing is refused");
    scene.execute("ALTER TABLE publication DROP COLUMN x").await;
    assert_eq!(writing.await.unwrap().unwrap().recorded.inserted, 1);
    // A constraint that is checked at the commit.
    scene
        .execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'late'; END $$; \
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON publication DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .await;
    let error = scene.writer.probe().await.unwrap_err();
    assert!(error.to_string().contains("late"), "{error}");
}

#[tokio::test]
async fn a_row_that_a_trigger_swallows_is_refused() {
    let mut scene = Scene::new().await;
    scene.trigger("RETURN NULL").await;
    let error = scene.writer.record(&rows(&["bad"])).await.unwrap_err();
    assert!(matches!(error, Error::Data(_)), "{error}");
    let written = scene.retrying().write(&rows(&["a", "bad", "c"])).await.unwrap();
    assert_eq!(written.refused.iter().map(|refused| refused.place).collect::<Vec<_>>(), [1]);
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM publication")
        .fetch_one(&mut scene.operator)
        .await
        .unwrap();
    assert_eq!(there, 2);
    // Also by COPY.
    let mut many: Vec<_> = (0..2_000).map(|number| row(&format!("p{number}"), 1)).collect();
    many[7] = row("bad7", 1);
    let written = scene.retrying().write(&many).await.unwrap();
    assert_eq!(written.refused.iter().map(|refused| refused.place).collect::<Vec<_>>(), [7]);
    // The trigger drops every row: the table is at fault.
    scene.execute("CREATE OR REPLACE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'").await;
    let error = scene.writer.probe().await.unwrap_err();
    assert!(error.to_string().contains("not in the table publication"), "{error}");
}

#[tokio::test]
async fn a_commit_is_on_the_disk_whatever_the_database_prefers() {
    let mut scene = Scene::new().await;
    let database = scene.settings.url.rsplit('/').next().unwrap().to_owned();
    scene.execute(format!("ALTER DATABASE \"{database}\" SET synchronous_commit = off")).await;
    let url = PostgresUrl::parse(&scene.settings.url).unwrap();
    let connections = Connections::new(url, &scene.settings);
    let shown = connections.fetch_one(|| sqlx::query("SHOW synchronous_commit")).await.unwrap();
    assert_eq!(shown.get::<&str, _>(0), "on");
}

#[tokio::test]
async fn row_level_security_refuses_copy_takes_the_upsert_and_hides_no_row_silently() {
    let mut scene = Scene::new().await;
    let role = testkit::unique("role").replace('-', "_");
    scene
        .execute(format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE ON publication TO {role}; \
             GRANT SELECT ON _sqlx_migrations TO {role}; \
             ALTER TABLE publication ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY all_rows ON publication USING (true) WITH CHECK (name NOT LIKE 'bad%')"
        ))
        .await;
    let url = scene.settings.url.replace("postgres@", &format!("{role}@"));
    let settings = StoreSettings { url, ..scene.settings.clone() };
    let writer = crate::open(&settings).unwrap().table;
    let mut many: Vec<_> = (0..2_000).map(|number| row(&format!("p{number}"), 1)).collect();
    assert_eq!(writer.record(&many).await.unwrap().inserted, 2_000);
    many[7] = row("bad7", 1);
    let retrying = Retrying::new(writer, Arc::new(Failed::default()));
    let written = retrying.write(&many).await.unwrap();
    assert_eq!(written.refused.len(), 1);
    assert!(written.refused[0].reason.contains("42501"), "{:?}", written.refused);
    let reader = crate::open_reader(&settings).unwrap();
    reader.ready().await.unwrap();
    scene
        .execute(
            "DROP POLICY all_rows ON publication; \
             CREATE POLICY less ON publication AS RESTRICTIVE USING (true)",
        )
        .await;
    let error = reader.ready().await.unwrap_err();
    assert!(error.to_string().contains("row level security"), "{error}");
    scene.execute(format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn what_cannot_be_worked_with_is_refused_by_name() {
    let mut scene = Scene::new().await;
    scene.execute("CREATE RULE forget AS ON INSERT TO publication WHERE NEW.name = 'x' DO INSTEAD NOTHING").await;
    let error = scene.writer.migrate().await.unwrap_err();
    assert!(error.to_string().contains("forget"), "{error}");
    scene.execute("DROP RULE forget ON publication").await;
    scene.execute("ALTER TABLE publication SET UNLOGGED").await;
    let error = scene.writer.migrate().await.unwrap_err();
    assert!(error.to_string().contains("unlogged are publication,"), "{error}");
    scene.execute("ALTER TABLE publication SET LOGGED").await;

    let missing = StoreSettings { schema: "elsewhere".into(), ..scene.settings.clone() };
    let error = crate::open(&missing).unwrap().table.migrate().await.unwrap_err();
    assert!(matches!(error, Error::Fatal(_)) && error.to_string().contains("elsewhere"), "{error}");
    scene.execute("CREATE SCHEMA elsewhere").await;
    let error = crate::open(&missing).unwrap().table.migrate().await.unwrap_err();
    assert!(error.to_string().contains("schema public"), "{error}");

    let latin = testkit::unique("latin").replace('-', "_");
    scene
        .execute(format!("CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc"))
        .await;
    let (server, _) = scene.settings.url.rsplit_once('/').unwrap();
    let settings = StoreSettings { url: format!("{server}/{latin}"), ..scene.settings.clone() };
    let error = crate::open(&settings).unwrap().table.migrate().await.unwrap_err();
    assert!(matches!(error, Error::Fatal(_)) && error.to_string().contains("LATIN1"), "{error}");
}

#[tokio::test]
async fn the_schema_is_the_configured_one_whatever_the_role_says() {
    let mut scene = Scene::new().await;
    scene
        .execute("CREATE SCHEMA other; CREATE TABLE other.publication (LIKE public.publication INCLUDING ALL)")
        .await;
    scene
        .execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = other', current_database()); END $$")
        .await;
    let writer = crate::open(&scene.settings).unwrap().table;
    writer.migrate().await.unwrap();
    writer.record(&rows(&["a"])).await.unwrap();
    let reader = crate::open_reader(&scene.settings).unwrap();
    assert!(reader.find(&[rows(&["a"])[0].id.clone()]).await.unwrap()[0].is_some());
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM public.publication")
        .fetch_one(&mut scene.operator)
        .await
        .unwrap();
    assert_eq!(there, 1);
    // A schema that is configured from the start.
    scene
        .execute("CREATE SCHEMA mine; DROP TABLE public.publication; DROP SCHEMA other CASCADE")
        .await;
    let mine = StoreSettings { schema: "mine".into(), ..scene.settings.clone() };
    let writer = crate::open(&mine).unwrap().table;
    writer.migrate().await.unwrap();
    assert_eq!(writer.record(&rows(&["a"])).await.unwrap().inserted, 1);
}

#[tokio::test]
async fn what_is_the_sessions_own_fault_is_gone_with_it() {
    let mut scene = Scene::new().await;
    let reader = crate::open_reader(&scene.settings).unwrap();
    let id = [rows(&["a"])[0].id.clone()];
    scene.writer.record(&rows(&["a"])).await.unwrap();
    assert!(reader.find(&id).await.unwrap()[0].is_some());
    // The session's cached plan no longer fits the table.
    let change = "ALTER TABLE publication ALTER COLUMN username TYPE varchar(300) COLLATE \"C\"";
    scene.execute(change).await;
    assert!(reader.find(&id).await.unwrap()[0].is_some());
    // Open sessions keep the setting with which they began.
    let set = |value: &str| {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {value}', current_database()); END $$"
        )
    };
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    scene.execute(set("on")).await;
    scene.execute(end).await;
    let error = scene.writer.record(&rows(&["b"])).await.unwrap_err();
    assert!(matches!(error, Error::Transient(_)) && error.to_string().contains("25006"), "{error}");
    scene.execute(format!("SET default_transaction_read_only = off; {}", set("off"))).await;
    scene.writer.record(&rows(&["b"])).await.unwrap();
    // All sessions are terminated: the next statement gets a new session.
    scene.execute(end).await;
    scene.writer.record(&rows(&["c"])).await.unwrap();
    assert!(reader.find(&id).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn a_password_that_is_rotated_is_read_again() {
    let server = Postgres::builder().fsync(false).start();
    let mut scene = Scene::of(server.database().await.url).await;
    let folder = tempfile::tempdir().unwrap();
    let url_file = folder.path().join("url");
    let behind = scene.settings.url.split_once('@').unwrap().1.to_owned();
    let write = |password: &str| {
        std::fs::write(&url_file, format!("postgres://rotated:{password}@{behind}\n")).unwrap();
    };
    // Make the server ask this role for its password.
    scene.execute("CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'first'").await;
    let hba: String =
        sqlx::query_scalar("SHOW hba_file").fetch_one(&mut scene.operator).await.unwrap();
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all rotated 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    scene.execute("SELECT pg_reload_conf()").await;
    write("first");
    let settings = StoreSettings { url_file: url_file.clone(), ..scene.settings.clone() };
    let reader = crate::open_reader(&settings).unwrap();
    eventually("the role to get in", PATIENCE, async || reader.ready().await.is_ok()).await;

    scene.execute("ALTER ROLE rotated PASSWORD 'second'").await;
    scene
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")
        .await;
    let error = reader.ready().await.unwrap_err();
    assert!(error.to_string().contains("28P01") && !error.to_string().contains("first"), "{error}");
    write("second");
    reader.ready().await.unwrap();
}

#[tokio::test]
async fn the_servers_own_words_say_why_there_is_no_connection() {
    let mut scene = Scene::new().await;
    let role = testkit::unique("role").replace('-', "_");
    scene.execute(format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")).await;
    let url = scene.settings.url.replace("postgres@", &format!("{role}@"));
    let full = crate::open_reader(&StoreSettings { url, ..scene.settings.clone() }).unwrap();
    let error = full.ready().await.unwrap_err();
    assert!(matches!(error, Error::Transient(_)), "{error}");
    assert!(error.to_string().contains("too many connections for role"), "{error}");

    let url = format!("postgres://postgres@127.0.0.1:{}/db", testkit::free_port());
    let away = crate::open_reader(&StoreSettings { url, ..scene.settings.clone() }).unwrap();
    let error = away.ready().await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");

    // Only this process's pool is full.
    let settings = StoreSettings {
        max_connections: 1,
        connect_timeout: Duration::from_millis(300),
        statement_timeout: Duration::from_secs(30),
        ..scene.settings.clone()
    };
    let connections = Connections::new(PostgresUrl::parse(&settings.url).unwrap(), &settings);
    let one = connections.fetch_all(|| sqlx::query("SELECT pg_sleep(1)"));
    let other = connections.fetch_all(|| sqlx::query("SELECT 1"));
    let (one, other) = tokio::join!(one, other);
    one.unwrap();
    let error = other.unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    scene.execute(format!("DROP ROLE {role}")).await;
}

/// Simulates a host that died: its connections stay open and silent, and new connections reach another host.
#[tokio::test]
async fn a_connection_that_goes_silent_is_replaced_and_its_locks_are_freed() {
    use testkit::{NetworkFault, Proxy};

    let mut scene = Scene::new().await;
    let behind = scene.settings.url.split_once('@').unwrap().1.to_owned();
    let (server, database) = behind.split_once('/').unwrap();
    let proxies = [Proxy::start(), Proxy::start()];
    proxies.iter().for_each(|proxy| proxy.forward_to(server));
    // The URL file names the first proxy, later the second, like a host name whose address changes.
    let folder = tempfile::tempdir().unwrap();
    let url_file = folder.path().join("url");
    let lead = |proxy: &Proxy| {
        std::fs::write(&url_file, format!("postgres://postgres@{}/{database}", proxy.address()))
            .unwrap();
    };
    lead(&proxies[0]);
    let settings = StoreSettings { url_file: url_file.clone(), ..scene.settings.clone() };
    let writer = crate::open(&settings).unwrap().table;
    writer.record(&rows(&["a"])).await.unwrap();
    // The server runs the statement, which locks the row's key, and the answer is lost.
    scene.trigger("PERFORM pg_sleep(0.3)").await;
    proxies[0].set(NetworkFault::AnswersLost);
    lead(&proxies[1]);
    let began = Instant::now();
    let retrying = Retrying::new(writer, Arc::new(Failed::default()));
    retrying.write(&rows(&["bad"])).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_pooler_of_sessions_works_and_one_of_transactions_is_refused_by_name() {
    let url = postgres().database().await.url;
    let (_, database) = url.rsplit_once('/').unwrap();
    let pooler = testkit::Pgbouncer::start(&url, "session");
    let mut scene = Scene::of(pooler.url(database)).await;
    let mut many: Vec<_> = (0..2_000).map(|number| row(&format!("p{number}"), 1)).collect();
    assert_eq!(scene.writer.record(&many).await.unwrap().inserted, 2_000);
    many.truncate(10);
    assert_eq!(scene.writer.record(&many).await.unwrap().unchanged, 10);
    scene.writer.probe().await.unwrap();
    let reader = crate::open_reader(&scene.settings).unwrap();
    reader.ready().await.unwrap();
    assert!(reader.find(&[many[0].id.clone()]).await.unwrap()[0].is_some());
    scene.trigger("PERFORM pg_sleep(60)").await;
    let error = scene.writer.record(&rows(&["bad"])).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)), "{error}");

    let pooler = testkit::Pgbouncer::start(&url, "transaction");
    let settings = StoreSettings { url: pooler.url(database), ..scene.settings.clone() };
    let error = crate::open(&settings).unwrap().table.migrate().await.unwrap_err();
    assert!(matches!(error, Error::Fatal(_)), "{error}");
    assert!(error.to_string().contains("transaction mode"), "{error}");
    let error = crate::access(&settings).await.unwrap_err();
    assert!(error.to_string().contains("transaction mode"), "{error}");
    let error = crate::open_reader(&settings).unwrap().ready().await.unwrap_err();
    assert!(error.to_string().contains("transaction mode"), "{error}");
}

/// The old primary still runs, and accepts statements on open sessions.
#[tokio::test]
async fn who_writes_leaves_the_old_primary_when_a_new_one_is_reached() {
    let other = Postgres::builder().fsync(false).start();
    let servers = [postgres().database().await.url, other.database().await.url];
    let folder = tempfile::tempdir().unwrap();
    let url_file = folder.path().join("url");
    let settings = StoreSettings { url_file: url_file.clone(), ..StoreSettings::default() };
    let lead = |url: &str| std::fs::write(&url_file, url).unwrap();
    lead(&servers[0]);
    let connections = Connections::new(PostgresUrl::parse(&servers[0]).unwrap(), &settings);
    let connections = connections.following();
    let ask = || connections.fetch_one(|| sqlx::query("SELECT inet_server_port()"));
    let port = async || ask().await.unwrap().get::<i32, _>(0);
    // Open several sessions.
    let slow = || connections.fetch_all(|| sqlx::query("SELECT pg_sleep(0.2)"));
    let (one, other, third) = tokio::join!(slow(), slow(), slow());
    assert!(one.is_ok() && other.is_ok() && third.is_ok());
    let old = port().await;
    lead(&servers[1]);
    // Use all idle sessions and one more, which reaches the new server.
    let (one, other, third, fourth) = tokio::join!(slow(), slow(), slow(), slow());
    assert!(one.is_ok() && other.is_ok() && third.is_ok() && fourth.is_ok());
    for _ in 0..5 {
        assert_ne!(port().await, old);
    }
}
