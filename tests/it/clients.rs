//! The API with common GraphQL clients, from their registries, in the versions that `tests/clients` pins.

use std::fs;
use std::path::{Path, PathBuf};

use sqlx::PgPool;
use tempfile::TempDir;

use crate::graphql_bulk::{add, migrated};
use crate::programs::{copy, npm_install, pip_install, python, run};
use crate::support::Query;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");
/// The row of the seed's query, and a row with every value unknown.
const ROWS: &str = "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason,
        credential, actor, tor_settled, disputed, tor, tfa, username, event_identity)
    VALUES ('pg', '7.12.0', '2019-07-25', 0, 0, 'not_listed', 'second_factor', 'session_token', 'user', true, false,
            false, true, 'brianc', decode(md5('pg'), 'hex')),
        ('silent', '1.0.0', '2019-07-26', 0, 0, 'no_address', 'not_reported', 'unknown', 'unknown', true, false,
            NULL, NULL, NULL, decode(md5('silent'), 'hex'))";

/// A server with 302 publications, and a copy of the clients' folder, so that no test leaves packages in the project.
struct Scene {
    query: Query,
    folder: TempDir,
}

impl Scene {
    async fn new(folder: &str) -> Self {
        let store = migrated(testkit::postgres()).await;
        let pool = PgPool::connect(&store).await.unwrap();
        add(&pool, 0, 299, 100).await;
        sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
        pool.close().await;
        let scene = Self { query: Query::start(&store, &[]), folder: tempfile::tempdir().unwrap() };
        copy(&PathBuf::from(CLIENTS).join(folder), scene.path());
        scene
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn url(&self) -> String {
        format!("http://{}/graphql", self.query.http)
    }
}

#[tokio::test]
async fn clients_of_javascript_just_work() {
    let scene = Scene::new(".").await;
    npm_install(scene.path());
    for script in ["javascript.mjs", "relay.mjs", "codegen.mjs"] {
        println!("{}", run("node", &[script, &scene.url()], scene.path()));
    }
    scene.query.running.stop();
}

#[tokio::test]
async fn the_client_of_python_just_works() {
    let scene = Scene::new(".").await;
    pip_install(scene.path());
    println!("{}", python(&["python.py", &scene.url()], scene.path()));
    scene.query.running.stop();
}

#[tokio::test]
async fn the_client_of_go_just_works() {
    let scene = Scene::new("go").await;
    let (status, schema) = testkit::http_get(&scene.query.http, "/schema.graphql").unwrap();
    assert_eq!(status, 200);
    fs::write(scene.path().join("schema.graphql"), schema).unwrap();
    run("go", &["generate", "."], scene.path());
    println!("{}", run("go", &["run", ".", &scene.url()], scene.path()));
    scene.query.running.stop();
}
