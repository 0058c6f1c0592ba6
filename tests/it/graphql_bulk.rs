//! The API with many rows, which the database generates.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use testkit::Postgres;

use crate::support::{Query, Scene, free_address};

/// A migrated database on this server. No ingester writes to it.
pub(crate) async fn migrated(server: &Postgres) -> String {
    let store = server.database().await.url;
    migrate(&store);
    store
}

/// Creates the tables.
pub(crate) fn migrate(store: &str) {
    Scene::on(free_address(), "nowhere", store.to_owned()).must("migrate", &[]);
}

/// Inserts `package-{first}` to `package-{last}`, several at each time, before and after the existing ones.
pub(crate) async fn add(pool: &PgPool, first: u32, last: u32, seconds: u32) {
    let sql = format!(
        "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason, credential,
             actor, tor_settled, disputed, tor, tfa, username, event_identity)
         SELECT 'package-' || n, '1.0.0', timestamptz '2024-01-01' + n % {seconds} * interval '1 s', 0, 0,
             'not_listed', 'second_factor', 'session_token', 'user', true, false, false, true, 'user-' || n % 1000,
             decode(md5(n::text), 'hex')
         FROM generate_series({first}, {last}) AS n"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

#[tokio::test]
async fn five_thousand_references_are_one_statement() {
    const REFS: &str = "query($refs: [PackageRef!]!) { packages(refs: $refs) { name } }";
    // The number of executions of each statement on the rows. The probe of /readyz reads none.
    const STATEMENTS: &str = "SELECT s.query, s.calls FROM pg_stat_statements AS s
        JOIN pg_database AS d ON d.oid = s.dbid AND d.datname = current_database()
        WHERE s.query LIKE '%publication%' AND s.query NOT LIKE '%LIMIT $1'
            AND s.query NOT LIKE '%pg_stat_statements%' AND s.query NOT LIKE '%INSERT%'";
    let server = Postgres::builder()
        .setting("shared_preload_libraries", "pg_stat_statements")
        .fsync(false)
        .start();
    let store = migrated(&server).await;
    let pool = PgPool::connect(&store).await.unwrap();
    sqlx::raw_sql("CREATE EXTENSION pg_stat_statements").execute(&pool).await.unwrap();
    add(&pool, 0, 9_999, 1_000).await;
    let query = Query::start(&store, &[]);
    sqlx::raw_sql("SELECT pg_stat_statements_reset()").execute(&pool).await.unwrap();

    // Every second package does not exist.
    let reference = |n: u32| {
        let name = format!("{}-{n}", if n.is_multiple_of(2) { "package" } else { "nobody" });
        json!({"name": name, "version": "1.0.0"})
    };
    let refs: Vec<Value> = (0..5_000).rev().map(reference).collect();
    let found = query.ask(REFS, json!({ "refs": refs }));
    let expected = refs.iter().map(|reference| {
        let name = reference["name"].as_str().unwrap();
        if name.starts_with("package") { json!({ "name": name }) } else { Value::Null }
    });
    assert_eq!(found, json!({ "packages": expected.collect::<Vec<_>>() }));
    let statements: Vec<(String, i64)> = sqlx::query_as(STATEMENTS).fetch_all(&pool).await.unwrap();
    assert!(
        matches!(statements.as_slice(), [(text, 1)] if text.contains("unnest")),
        "{statements:?}"
    );

    let one_more: Vec<Value> = (0..5_001).map(reference).collect();
    let (status, answer) = query.post(REFS, json!({ "refs": one_more }));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let error = &answer["errors"][0];
    assert_eq!((status, answer.get("data")), (200, None), "{answer}");
    assert_eq!(
        error["extensions"],
        json!({"code": "LIMIT_EXCEEDED", "limit": "limits.max_refs", "maximum": 5000, "actual": 5001})
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("limits.max_refs") && message.contains("5000"), "{message}");
    let statements_after: Vec<(String, i64)> =
        sqlx::query_as(STATEMENTS).fetch_all(&pool).await.unwrap();
    assert_eq!(statements_after, statements, "a request that is refused asks the database nothing");

    // Their histories, too, of which each has another name.
    sqlx::raw_sql("SELECT pg_stat_statements_reset()").execute(&pool).await.unwrap();
    let with_histories = REFS.replace("{ name }", "{ history { earlier } }");
    let found = query.ask(&with_histories, json!({ "refs": refs }));
    let packages = found["packages"].as_array().unwrap();
    let found = packages.iter().filter(|one| one["history"]["earlier"] == 0).count();
    assert_eq!(found, 2_500);
    let mut statements: Vec<(String, i64)> =
        sqlx::query_as(STATEMENTS).fetch_all(&pool).await.unwrap();
    statements.sort_by_key(|(text, _)| text.contains("string_agg"));
    assert!(
        matches!(statements.as_slice(), [(_, 1), (history, 1)] if history.contains("string_agg")),
        "{statements:?}"
    );
    pool.close().await;
    query.running.stop();
}

#[tokio::test]
async fn paging_shows_every_row_once_while_others_come() {
    const ROWS: u32 = 100_000;
    const PAGE: &str = "query($after: String) { publications(first: 100, after: $after) {
        edges { node { name } } pageInfo { hasNextPage endCursor } } }";
    let server = Postgres::builder().fsync(false).start();
    let store = migrated(&server).await;
    let pool = PgPool::connect(&store).await.unwrap();
    // Forty rows at each time, so that pages begin and end within one.
    add(&pool, 0, ROWS - 1, ROWS / 40).await;
    sqlx::raw_sql("ANALYZE publication").execute(&pool).await.unwrap();
    let query = Query::start(&store, &[]);

    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let (mut after, mut pages, mut next) = (Value::Null, 0_u32, ROWS);
    loop {
        let answer = query.ask(PAGE, json!({ "after": after }));
        let page = &answer["publications"];
        for edge in page["edges"].as_array().unwrap() {
            *seen.entry(edge["node"]["name"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        pages += 1;
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
        after = page["pageInfo"]["endCursor"].clone();
        if pages % 10 == 0 {
            // Newer rows, older rows, and rows at times that were partly shown.
            add(&pool, next, next + 99, ROWS / 20).await;
            next += 100;
        }
    }
    assert!(next > ROWS + 5_000 && pages >= 1_000, "{pages} pages, {next} rows");
    for n in 0..ROWS {
        let name = format!("package-{n}");
        assert_eq!(seen.get(&name), Some(&1), "{name}");
    }
    assert!(seen.values().all(|times| *times == 1), "no row is shown twice");
    pool.close().await;
    query.running.stop();
}
