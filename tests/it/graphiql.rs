//! GraphiQL in a browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::graphql_bulk::migrated;
use crate::support::Query;

pub(crate) const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser");
/// The program's name in Debian, and other names of it.
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

/// The result of a script in `tests/browser`, called with the browser's path and these arguments.
pub(crate) fn seen(folder: &Path, script: &str, arguments: &[&str]) -> Value {
    let output = Command::new("node")
        .arg(folder.join(script))
        .arg(browser())
        .args(arguments)
        .output()
        .expect("node runs; cargo xtask setup installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

#[tokio::test]
async fn the_page_runs_the_first_query_or_the_one_of_a_link_and_needs_no_other_host() {
    let store = migrated(testkit::postgres()).await;
    let pool = PgPool::connect(&store).await.unwrap();
    let row = "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason,
            credential, actor, tor_settled, disputed, tor, tfa, username, event_identity)
        VALUES ('pg', '7.12.0', '2019-07-25', 0, 0, 'not_listed', 'second_factor', 'session_token', 'user', true,
            false, false, true, 'brianc', decode(md5(''), 'hex'))";
    sqlx::raw_sql(row).execute(&pool).await.unwrap();
    pool.close().await;
    let query = Query::start(&store, &[]);
    let host = format!("http://{}/", query.http);

    let seen_at = |page: &str| seen(Path::new(SCRIPTS), "graphiql.mjs", &[page]);
    let seen = seen_at(&format!("{host}graphiql"));
    let first = seen["query"].as_str().unwrap();
    assert!(first.starts_with("# "), "explained by a comment: {first}");
    assert!(first.contains(r#"package(name: "pg", version: "7.12.0")"#), "{first}");
    let answer: Value = serde_json::from_str(seen["answer"].as_str().unwrap()).unwrap();
    let info = json!({"username": "brianc", "tor": false, "tfa": true});
    assert_eq!(answer, json!({"data": {"package": {"publicationInfo": info}}}));
    let requests: Vec<&str> =
        seen["requests"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(requests.len() >= 6, "{requests:?}");
    for request in requests {
        assert!(request.starts_with(&host), "{request}");
    }
    assert_eq!(seen["errors"], json!([]), "nothing that the page's policy refuses");

    let given =
        "query=query(%24n%3AString!)%7Bpackage(name%3A%24n%2Cversion%3A%227.12.0%22)%7Bname%7D%7D";
    let seen = seen_at(&format!("{host}graphiql?{given}&variables=%7B%22n%22%3A%22pg%22%7D"));
    assert_eq!(seen["query"], r#"query($n:String!){package(name:$n,version:"7.12.0"){name}}"#);
    let answer: Value = serde_json::from_str(seen["answer"].as_str().unwrap()).unwrap();
    assert_eq!(answer, json!({"data": {"package": {"name": "pg"}}}));
    query.running.stop();
}
