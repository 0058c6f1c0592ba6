//! The HTML pages in a browser, also for a package with thousands of versions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::graphiql::{SCRIPTS, seen};
use crate::graphql_bulk::migrated;
use crate::programs::{copy, npm_install};
use crate::support::Query;

/// Every method, every mark, a scope, names that are HTML, and a package of 4,000 versions.
const ROWS: &str = "
    INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason, credential, actor,
        tor_settled, disputed, tor, tfa, username, event_identity, integrity)
    SELECT name, version, created::timestamptz, 0, 0, tor_reason::tor_reason, tfa_reason::tfa_reason,
        credential::publication_credential, actor::publication_actor, settled, disputed, tor, tfa, username, decode(md5(version), 'hex'),
        'sha512-' || repeat('Ab1+', 21) || 'AA=='
    FROM (VALUES
        ('story', '1.13.0', '2022-01-10', 'not_listed', 'second_factor', 'session_token', 'user', true, false, false,
            true, 'made-up-ana'),
        ('story', '1.14.0', '2022-02-07', 'not_global', 'no_human_factor', 'oidc', 'workflow', true, false, NULL,
            false, 'made-up-robot'),
        ('story', '1.14.1', '2022-02-28', 'listed_after', 'no_second_factor', 'granular_token', 'user', false, false,
            NULL, false, 'made-up-ana'),
        ('story', '1.14.2-a.version.with.a.very.long.name.that.does.not.fit.on.a.narrow.screen.0123456789',
            '2022-03-01', 'exit_list', 'second_factor', 'session_token', 'user', true, true, true, true, 'made-up-ben'),
        ('story', '1.15.0', '2022-03-02', 'no_coverage', 'not_reported', 'unknown', 'unknown', false, false, NULL,
            NULL, NULL),
        ('@scope/story', '1.0.0', '2022-03-02', 'no_address', 'password_only', 'password', 'user', true, false, NULL,
            false, 'made-up-ana'),
        ('<script>alert(1)</script>', '1.0.0\"><img src=x>', '2022-03-02', 'edge', 'amr', 'automation_token', 'user',
            true, false, true, false, '</code><script>alert(2)</script>')
    ) AS story (name, version, created, tor_reason, tfa_reason, credential, actor, settled, disputed, tor, tfa,
        username);
    INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason, credential, actor,
        tor_settled, disputed, tor, tfa, username, event_identity)
    SELECT 'storied', '1.0.' || n, timestamptz '2010-01-01' + n * interval '1 day', 0, 0, 'not_listed', 'second_factor',
        'session_token', 'user', true, false, false, true, 'user-' || n % 7, decode(md5(n::text), 'hex')
    FROM generate_series(1, 4000) AS n";
const SCRIPT: &str = "/package/%3Cscript%3Ealert(1)%3C%2Fscript%3E";

async fn served() -> Query {
    let store = migrated(testkit::postgres()).await;
    let pool = PgPool::connect(&store).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
    pool.close().await;
    Query::start(&store, &[("QUERY_HTTP__NOTICE", "made-up data")])
}

#[tokio::test]
async fn pages_are_accessible_narrow_dark_and_quiet() {
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(SCRIPTS), folder.path());
    npm_install(folder.path());
    let query = served().await;
    let host = format!("http://{}", query.http);
    let paths = [
        ("/", "How was this version published?"),
        ("/?prefix=sto", "Packages that begin with sto"),
        ("/?prefix=nobody", "Packages that begin with nobody"),
        ("/package/story", "story"),
        ("/package/@scope/story", "@scope/story"),
        (SCRIPT, "<script>alert(1)</script>"),
        ("/package/storied", "storied"),
        ("/package/nobody", "Not found"),
    ];
    let listed: Value = paths.iter().map(|&(path, _)| json!(path)).collect();
    let seen = seen(folder.path(), "pages.mjs", &[&host, &listed.to_string()]);

    let mut grounds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let looks = seen["seen"].as_array().unwrap();
    assert_eq!(looks.len(), paths.len() * 4);
    for (look, (path, heading)) in looks.iter().zip(paths.iter().flat_map(|pair| [pair; 4])) {
        let place = format!("{path}, {}, {}", look["width"], look["scheme"]);
        assert_eq!(look["heading"], *heading, "{place}");
        assert_eq!(look["violations"], json!([]), "{place}");
        assert_eq!(look["overflow"], 0, "{place}: it scrolls sideways");
        assert_eq!(look["cutOff"], json!([]), "{place}: a part is behind an edge");
        assert_eq!((&look["scripts"], &look["handlers"]), (&json!(0), &json!([])), "{place}");
        let scheme = grounds.entry(look["scheme"].as_str().unwrap()).or_default();
        scheme.insert(look["ground"].as_str().unwrap());
    }
    assert_eq!(grounds["light"].len(), 1, "{grounds:?}");
    assert!(grounds["light"].is_disjoint(&grounds["dark"]), "{grounds:?}");
    for (path, reached) in seen["reached"].as_object().unwrap() {
        let reached = reached.as_array().unwrap();
        assert!(reached.iter().any(|focus| focus["name"] == "prefix"), "{path}: {reached:?}");
        for focus in reached {
            assert_eq!(focus["isVisible"], true, "{path}: {focus}");
        }
    }
    assert_eq!(seen["search"]["heading"], "Packages that begin with sto");
    assert_eq!(seen["search"]["address"], "?prefix=sto");
    for request in seen["requests"].as_array().unwrap() {
        assert!(request.as_str().unwrap().starts_with(&host), "{request}");
    }
    // A missing page is also an error in the browser's log.
    let errors = seen["errors"].as_array().unwrap();
    let is_404 = |error: &Value| error.as_str().unwrap().ends_with("/package/nobody");
    assert!(errors.iter().all(is_404), "{errors:?}");
    query.running.stop();
}

#[tokio::test]
async fn a_package_of_thousands_of_versions_is_read_page_by_page() {
    let query = served().await;
    let mut path = "/package/storied".to_owned();
    let mut versions = Vec::new();
    loop {
        let (status, page) = testkit::http_get(&query.http, &path).unwrap();
        assert_eq!(status, 200, "{page}");
        let rows = page.split("role=\"rowheader\"").skip(1);
        let rows =
            rows.map(|row| row.split("<code>1.0.").nth(1)?.split('<').next()?.parse::<u32>().ok());
        versions.extend(rows.map(Option::unwrap));
        let Some(next) = page.split("rel=\"next\" href=\"").nth(1) else { break };
        path = next.split('"').next().unwrap().to_owned();
    }
    assert_eq!(versions, (1..=4_000).rev().collect::<Vec<_>>());
    query.running.stop();
}
