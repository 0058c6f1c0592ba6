//! The API with rows from the pipeline.

use serde_json::{Value, json};
use testkit::{Postgres, StopMode, eventually};

use crate::support::{PATIENCE, Query, Running, Scene, event, generated, structured, with};

fn code(answer: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).expect("the answer is JSON");
    answer["errors"][0]["extensions"]["code"].clone()
}

async fn stop(scene: &Scene, mut ingester: Running) {
    scene.caught_up(&mut ingester).await;
    ingester.stop();
}

#[tokio::test]
async fn packages_are_found_by_their_exact_names() {
    let scene = Scene::new("graphql", 2).await;
    let versions = [
        ("@scope/x", "1.0.0"),
        ("JSONStream", "1.3.5"),
        ("jsonstream", "1.0.3"),
        ("b", "2.0.0+Build"),
    ];
    scene
        .produce(versions.map(|(name, version)| {
            structured(&with(
                event(name, version),
                "/data/actor/username",
                json!(format!("author of {name}")),
            ))
        }))
        .await;
    stop(&scene, scene.ingester(&[])).await;
    let query = Query::start(&scene.store, &[("QUERY_HTTP__ACCESS_LOG", "true")]);

    let one = "query($n: String!, $v: String!) { package(name: $n, version: $v) { name purl publicationInfo { username } } }";
    for (name, version, purl) in [
        ("@scope/x", "1.0.0", "pkg:npm/%40scope/x@1.0.0"),
        ("JSONStream", "1.3.5", "pkg:npm/JSONStream@1.3.5"),
        ("jsonstream", "1.0.3", "pkg:npm/jsonstream@1.0.3"),
    ] {
        let found = query.ask(one, json!({"n": name, "v": version}));
        let info = json!({"username": format!("author of {name}")});
        assert_eq!(
            found,
            json!({"package": {"name": name, "purl": purl, "publicationInfo": info}})
        );
    }
    for (name, version) in [
        ("JSONStream", "1.0.3"),
        ("jsonStream", "1.3.5"),
        ("@scope/x", "1.0"),
        // Percent-encoding belongs to purls. In a name it is taken literally.
        ("%40scope/x", "1.0.0"),
        ("", ""),
        ("x", "1.0.0"),
    ] {
        assert_eq!(
            query.ask(one, json!({"n": name, "v": version})),
            json!({"package": null}),
            "{name}@{version}"
        );
    }

    let many = "query($refs: [PackageRef!]!) { packages(refs: $refs) { name version } }";
    let refs = json!([
        {"name": "jsonstream", "version": "1.0.3"}, {"name": "nobody", "version": "1.0.0"}, {"name": "@scope/x", "version": "1.0.0"},
        {"name": "jsonstream", "version": "1.0.3"}, {"name": "JSONStream", "version": "1.0.3"},
    ]);
    let expected = json!({"packages": [refs[0], null, refs[2], refs[3], null]});
    assert_eq!(query.ask(many, json!({ "refs": refs })), expected);

    // A line of the access log names its request, as the answer's header does.
    let names_them = async || query.running.daemon.log().contains("keys=5");
    eventually("the access log to have the request", PATIENCE, names_them).await;
    let log = query.running.daemon.log();
    let line = log.lines().find(|line| line.contains("keys=5")).unwrap();
    assert!(line.contains("request_id=\"") && line.contains("method=\"POST\""), "{line}");

    let purls = "query($purls: [String!]!) { packagesByPurl(purls: $purls) { name version } }";
    let found = query.ask(purls, json!({"purls": [
        "pkg:npm/b@2.0.0%2BBuild", "pkg:npm/%40scope/x@1.0.0", "no purl", "pkg:pypi/b@2.0.0", "pkg:npm/b", "pkg:npm/JSONStream@1.3.5?a=b#c",
    ]}));
    let package = |name: &str, version: &str| json!({"name": name, "version": version});
    let expected = [
        package("b", "2.0.0+Build"),
        package("@scope/x", "1.0.0"),
        Value::Null,
        Value::Null,
        Value::Null,
        package("JSONStream", "1.3.5"),
    ];
    assert_eq!(found, json!({ "packagesByPurl": expected }));

    let too_many = vec![json!({"name": "b", "version": "1"}); 5_001];
    let (_, answer) = query.post(many, json!({ "refs": too_many }));
    assert!(answer.contains("limits.max_refs") && answer.contains("5000"), "{answer}");
    let most = vec![json!({"name": "b", "version": "2.0.0+Build"}); 5_000];
    assert_eq!(
        query.ask(many, json!({ "refs": most }))["packages"].as_array().unwrap().len(),
        5_000
    );

    let (status, sdl) = testkit::http_get(&query.http, "/schema.graphql").unwrap();
    assert!(status == 200 && sdl.contains("type PublicationInfo"), "{status} {sdl}");
    // GraphiQL needs no other host: this daemon serves every file that the page names.
    let (status, page) = testkit::http_get(&query.http, "/graphiql").unwrap();
    assert!(status == 200 && page.contains("graphiql") && !page.contains("//"), "{status} {page}");
    let files: Vec<&str> = page.split('"').filter(|text| text.starts_with("/graphiql/")).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert_eq!(testkit::http_get(&query.http, file).unwrap().0, 200, "{file}");
    }
    query.running.stop();
}

/// The names in the order of pages of this size.
fn paged(query: &Query, first: usize, filter: &Value) -> Vec<String> {
    const PAGE: &str = "query($first: Int!, $after: String, $filter: PublicationFilter) {
        publications(first: $first, after: $after, filter: $filter) {
            edges { cursor node { name publicationInfo { created } } } pageInfo { hasNextPage endCursor } } }";
    let (mut names, mut after) = (Vec::new(), Value::Null);
    loop {
        let answer = query.ask(PAGE, json!({"first": first, "after": after, "filter": filter}));
        let page = &answer["publications"];
        let edges = page["edges"].as_array().unwrap();
        assert!(edges.len() <= first);
        names.extend(edges.iter().map(|edge| edge["node"]["name"].as_str().unwrap().to_owned()));
        if page["pageInfo"]["hasNextPage"] == false {
            return names;
        }
        assert_eq!(edges.len(), first, "a page before the last is full");
        assert_eq!(page["pageInfo"]["endCursor"], edges[first - 1]["cursor"]);
        after = page["pageInfo"]["endCursor"].clone();
    }
}

#[tokio::test]
async fn publications_are_paged_newest_first_and_filtered() {
    let scene = Scene::new("paging", 2).await;
    scene.produce((0..90).map(|n| generated(n, 0))).await;
    // The same time for all, so that only the rest of the sort key orders them.
    scene.produce((0..25).map(|n| structured(&event(&format!("same-{n:02}"), "1.0.0")))).await;
    let flagged = with(event("flagged", "1.0.0"), "/data/request/edgeTor", json!(true));
    let disputed = with(
        with(event("flagged", "1.0.0"), "/data/actor/username", json!("other")),
        "/data/request/edgeTor",
        json!(true),
    );
    let silent = with(event("silent", "1.0.0"), "/data/auth", json!(null));
    scene.produce([flagged, disputed, silent].iter().map(structured)).await;
    stop(&scene, scene.ingester(&[])).await;
    let query = scene.query();

    // PostgreSQL refuses texts with U+0000.
    let nothing = query.ask(r#"{ search(prefix: "fla\u0000", first: 9) }"#, json!({}));
    assert_eq!(nothing, json!({"search": []}));
    let behind = query.ask(r#"{ search(prefix: "fla", after: "\u0000", first: 9) }"#, json!({}));
    assert_eq!(behind, json!({"search": ["flagged"]}));
    let all = paged(&query, 100, &Value::Null);
    assert_eq!(all.len(), 117);
    let newest: Vec<String> = (0..90).rev().map(|n| format!("package-{n}")).collect();
    assert_eq!(all[..90], newest);
    let mut once = all.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), all.len(), "no publication is on two pages");
    assert_eq!(paged(&query, 7, &Value::Null), all);
    assert_eq!(paged(&query, 1, &json!({"name": "silent"})), ["silent"]);
    let flags = "{ package(name: \"silent\", version: \"1.0.0\") { publicationInfo { tor tfa torReason tfaReason } } }";
    let null_info =
        json!({"tor": null, "tfa": null, "torReason": "NO_COVERAGE", "tfaReason": "NOT_REPORTED"});
    assert_eq!(query.ask(flags, json!({})), json!({"package": {"publicationInfo": null_info}}));

    let count = |filter: Value| paged(&query, 50, &filter).len();
    assert_eq!(count(json!({"username": "user-7"})), 1);
    assert_eq!(count(json!({"username": "User-7"})), 0);
    assert_eq!(count(json!({"name": "silent\u{0}"})), 0, "no name");
    assert_eq!(count(json!({"username": "user-7\u{0}"})), 0, "no name");
    assert_eq!(count(json!({"tor": "YES"})), 1);
    assert_eq!(count(json!({"tor": "UNKNOWN"})), 116);
    assert_eq!(count(json!({"tor": "NO"})), 0);
    assert_eq!(count(json!({"tfa": "NO"})), 90);
    assert_eq!(count(json!({"tfa": "YES"})), 26);
    assert_eq!(count(json!({"tfa": "UNKNOWN", "tor": "UNKNOWN"})), 1);
    assert_eq!(count(json!({"disputed": true})), 1);
    assert_eq!(count(json!({"disputed": false, "name": null})), 116);
    // package-n was published n seconds after midnight. Both bounds are exclusive.
    let between = json!({"createdAfter": "2024-03-05T00:00:10Z", "createdBefore": "2024-03-05T01:00:20+01:00"});
    let expected: Vec<String> = (11..20).rev().map(|n| format!("package-{n}")).collect();
    assert_eq!(paged(&query, 100, &between), expected);

    for arguments in [
        "first: 0",
        "first: 101",
        "first: 1, after: \"nonsense\"",
        // A time outside of the databases' range.
        "first: 1, after: \"MTkyMjMzNzIwMzY4NTQ3NzU4MDcKcGcKMQ\"",
        "first: 1, filter: {createdAfter: \"today\"}",
    ] {
        let (_, answer) = query
            .post(&format!("{{ publications({arguments}) {{ edges {{ cursor }} }} }}"), json!({}));
        assert!(code(&answer).is_string(), "{arguments}: {answer}");
    }
    query.running.stop();
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503_until_it_is_back() {
    let mut server = Postgres::start();
    let scene = Scene::without_topic("away", server.database().await.url);
    scene.must("migrate", &[]);
    let mut query = Query::start(&scene.store, &[("QUERY_STORE__CONNECT_TIMEOUT", "1s")]);
    let ask =
        |query: &Query| query.post("{ package(name: \"x\", version: \"1\") { name } }", json!({}));
    let nothing = (200, r#"{"data":{"package":null}}"#.to_owned());
    assert_eq!(ask(&query), nothing);
    server.stop(StopMode::Immediate);
    let (status, answer) = ask(&query);
    assert_eq!((status, code(&answer)), (503, json!("STORE_UNAVAILABLE")), "{answer}");
    query.running.shows("paused").await;
    server.start_again();
    eventually("the database to be back", PATIENCE, async || ask(&query) == nothing).await;
    query.running.shows("ready").await;
    // The log reports it without a request, and again only when the reason changes.
    let log = query.running.stop();
    let told: Vec<_> =
        log.split("not ready").skip(1).filter_map(|rest| rest.lines().next()).collect();
    assert!(!told.is_empty() && told.windows(2).all(|pair| pair[0] != pair[1]), "{log}");
    assert!(log.contains("reason=\"the database"), "{log}");
}

/// Ready means that the statements of a request would work now. A missing object is for the operator to fix, not the client.
#[tokio::test]
async fn a_missing_column_right_or_table_is_a_503_until_it_is_back() {
    let scene = Scene::new("lacking", 1).await;
    scene.must("migrate", &[]);
    let role = testkit::unique("reader").replace(['.', '-'], "_");
    let (server, database) = scene.store.rsplit_once('/').unwrap();
    let host = server.rsplit_once('@').map_or(server, |(_, host)| host);
    let host = host.trim_start_matches("postgres://").trim_start_matches("postgresql://");
    let grant = format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}");
    scene.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'reads'; {grant}")).await;
    let mut query = Query::start(&format!("postgres://{role}:reads@{host}/{database}"), &[]);
    let ask =
        |query: &Query| query.post("{ package(name: \"x\", version: \"1\") { name } }", json!({}));
    let nothing = (200, r#"{"data":{"package":null}}"#.to_owned());
    assert_eq!(ask(&query), nothing);
    for (taken, given, words) in [
        (
            "ALTER TABLE publication RENAME COLUMN tor_reason TO elsewhere".to_owned(),
            "ALTER TABLE publication RENAME COLUMN elsewhere TO tor_reason".to_owned(),
            "tor_reason",
        ),
        (
            format!("REVOKE SELECT ON publication FROM {role}"),
            grant.clone(),
            "permission denied for table publication",
        ),
        (
            "ALTER TABLE publication RENAME TO elsewhere".to_owned(),
            "ALTER TABLE elsewhere RENAME TO publication".to_owned(),
            "\"publication\" does not exist",
        ),
    ] {
        scene.execute(&taken).await;
        let (status, answer) = ask(&query);
        assert_eq!((status, code(&answer)), (503, json!("STORE_UNAVAILABLE")), "{taken}: {answer}");
        let (status, answer) = query.running.shows("paused").await;
        let reason = answer["reason"].as_str().unwrap();
        assert!(status == 503 && reason.contains(words), "{taken}: {answer}");
        scene.execute(&given).await;
        eventually("what was taken to be back", PATIENCE, async || ask(&query) == nothing).await;
        query.running.shows("ready").await;
    }
    query.running.stop();
}
