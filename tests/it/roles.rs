//! The PostgreSQL roles for operators: enough rights for each daemon, and no more.

use sqlx::{AssertSqlSafe, PgPool};
use testkit::Postgres;

use crate::graphql_bulk::migrate;
use crate::support::{Query, Scene, generated};

const ROLES: &str = include_str!("../../deploy/postgresql/roles.sql");

async fn run(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    let pool = PgPool::connect(url).await.expect("the role may connect");
    let result = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await;
    pool.close().await;
    result.map(|_| ())
}

/// The SQLSTATE of a refused statement.
async fn refusal(url: &str, sql: &str) -> Option<String> {
    match run(url, sql).await {
        Err(sqlx::Error::Database(error)) => error.code().map(Into::into),
        _ => None,
    }
}

#[tokio::test]
async fn each_daemon_works_with_its_own_role_and_the_query_role_cannot_write() {
    const DENIED: Option<&str> = Some("42501");
    let server = Postgres::builder().fsync(false).start();
    let owner = server.database().await.url;
    let of = |login: &str| owner.replacen("//postgres@", &format!("//{login}@"), 1);
    let logins = "CREATE ROLE migrator LOGIN IN ROLE publication_migrator;
        ALTER ROLE migrator SET role = 'publication_migrator';
        CREATE ROLE ingester LOGIN IN ROLE publication_ingester;
        CREATE ROLE query_daemon LOGIN IN ROLE publication_query;
        CREATE ROLE stranger LOGIN";
    run(&owner, ROLES).await.unwrap();
    run(&owner, logins).await.unwrap();
    migrate(&of("migrator"));
    for _ in 0..2 {
        run(&owner, ROLES).await.unwrap();
    }

    let scene = Scene::without_topic("roles", of("ingester"));
    // The schema of a later build, and of an earlier one, which this role may not change.
    for (makes, reverts, words) in [
        (
            "INSERT INTO _sqlx_migrations VALUES (99, 'later', now(), true, '', 0)",
            "DELETE FROM _sqlx_migrations WHERE version = 99",
            "migration 99, which this build does not know: use a later build",
        ),
        (
            "UPDATE _sqlx_migrations SET success = false WHERE version = 5",
            "UPDATE _sqlx_migrations SET success = true WHERE version = 5",
            "migrations [5] are to run: run `migrate` as the owner of the schema",
        ),
    ] {
        run(&owner, makes).await.unwrap();
        for command in ["migrate", "run"] {
            let answer = scene.ask(command, &[], &[]);
            assert!(answer.code == Some(1) && answer.log.contains(words), "{}", answer.log);
        }
        run(&owner, reverts).await.unwrap();
    }
    scene.make_topic(2, &[]).await;
    // Enough rows for both ways of writing.
    scene.produce((0..3_000).map(|n| generated(n, 0))).await;
    scene.produce((0..3_000).map(|n| generated(n, 1))).await;
    scene.ingest(&[]).await;
    assert_eq!(scene.count().await, 3_000);
    let query = Query::start(&of("query_daemon"), &[]);
    let found = query.ask(
        "{ package(name: \"package-7\", version: \"1.0.0\") { publicationInfo { username } } }",
        serde_json::json!({}),
    );
    assert_eq!(found["package"]["publicationInfo"]["username"], "user-7-1");
    query.running.stop();

    let reader = of("query_daemon");
    for sql in [
        "INSERT INTO publication SELECT * FROM publication LIMIT 1",
        "UPDATE publication SET tor = true",
        "DELETE FROM publication",
        "TRUNCATE publication",
        "DROP TABLE publication",
        "CREATE TABLE other ()",
        "CREATE TEMPORARY TABLE other ()",
        "SELECT * FROM _sqlx_migrations",
        "ALTER TABLE publication DISABLE TRIGGER ALL",
    ] {
        assert_eq!(refusal(&reader, sql).await.as_deref(), DENIED, "{sql}");
    }
    for sql in [
        "DELETE FROM publication",
        "TRUNCATE publication",
        "DROP TABLE publication",
        "CREATE TABLE other ()",
        "DELETE FROM _sqlx_migrations",
    ] {
        assert_eq!(refusal(&of("ingester"), sql).await.as_deref(), DENIED, "{sql}");
    }
    let stranger = PgPool::connect(&of("stranger")).await;
    assert!(stranger.is_err(), "nobody else gets in");
}
