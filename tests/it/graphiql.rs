//! GraphiQL, in a browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::graphql_bulk::migrated;
use crate::support::Query;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/graphiql.mjs");
/// Debian's and other names of the program.
const BROWSERS: [&str; 4] =
    ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

fn browser() -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let all = BROWSERS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    all.into_iter()
        .find(|path| path.is_file())
        .expect("a headless Chromium is on PATH; cargo xtask setup installs it")
}

#[tokio::test]
async fn the_page_runs_the_first_query_and_needs_no_other_host() {
    let store = migrated(testkit::postgres()).await;
    let pool = PgPool::connect(&store).await.unwrap();
    let row = "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason,
            credential, actor, tor_settled, disputed, tor, tfa, username, event_identity)
        VALUES ('pg', '7.12.0', '2019-07-25', 0, 0, 'not_listed', 'second_factor', 'session_token', 'user', true,
            false, false, true, 'brianc', decode(md5(''), 'hex'))";
    sqlx::raw_sql(row).execute(&pool).await.unwrap();
    pool.close().await;
    let query = Query::start(&store, &[]);
    let page = format!("http://{}/", query.http);

    let output = Command::new("node")
        .args([Path::new(SCRIPT), &browser(), Path::new(&page)])
        .output()
        .expect("node runs; cargo xtask setup installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = seen["query"].as_str().unwrap();
    assert!(first.contains(r#"package(name: "pg", version: "7.12.0")"#), "{first}");
    let answer: Value = serde_json::from_str(seen["answer"].as_str().unwrap()).unwrap();
    let info = json!({"username": "brianc", "tor": false, "tfa": true});
    assert_eq!(answer, json!({"data": {"package": {"publicationInfo": info}}}));
    let requests: Vec<&str> =
        seen["requests"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(requests.len() >= 6, "{requests:?}");
    for request in requests {
        assert!(request.starts_with(&page), "{request}");
    }
    assert_eq!(seen["errors"], json!([]), "nothing that the page's policy refuses");
    query.running.stop();
}
