//! Events sent by the CloudEvents SDKs, from their registries, in the versions that `tests/sdks` pins.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, json};

use crate::programs::{copy, npm_install, pip_install, python, run};
use crate::support::{Scene, event, with};

const SDKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdks");
/// The mode, and whether the SDK gets the data as a native value or as bytes.
const FORMS: [&str; 4] = ["structured_value", "structured_bytes", "binary_value", "binary_bytes"];

/// Sends an event in each form with an SDK, and expects a row for each.
async fn is_read(language: &str, send: impl FnOnce(&Scene)) {
    let scene = Scene::new(&format!("sdk-{language}"), 1).await;
    let folder = scene.directory.path();
    copy(&PathBuf::from(SDKS).join(language), folder);
    let events: Map<_, _> = FORMS
        .into_iter()
        .map(|form| {
            let event = event(&format!("sdk-{language}"), form);
            (form.to_owned(), with(event, "/data/actor/username", json!("Zoë \"x\"")))
        })
        .collect();
    fs::write(folder.join("events.json"), json!(events).to_string()).unwrap();
    send(&scene);
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let mut versions: Vec<_> = scene
        .rows()
        .await
        .into_iter()
        .map(|row| {
            assert_eq!(row["username"].as_deref(), Some("Zoë \"x\""), "{row:?}");
            assert_eq!(row["tfa"].as_deref(), Some("true"), "{row:?}");
            row["version"].clone().unwrap()
        })
        .collect();
    versions.sort_unstable();
    let mut forms = FORMS;
    forms.sort_unstable();
    assert_eq!(versions, forms, "{}", ingester.stop());
}

#[tokio::test]
async fn events_of_the_sdk_for_javascript_become_rows() {
    is_read("javascript", |scene| {
        let folder = scene.directory.path();
        npm_install(folder);
        run("node", &["send.mjs", &scene.brokers, &scene.topic], folder);
    })
    .await;
}

#[tokio::test]
async fn events_of_the_sdk_for_python_become_rows() {
    is_read("python", |scene| {
        let folder = scene.directory.path();
        pip_install(folder);
        python(&["send.py", &scene.brokers, &scene.topic], folder);
    })
    .await;
}

#[tokio::test]
async fn events_of_the_sdk_for_go_become_rows() {
    is_read("go", |scene| {
        run("go", &["run", ".", &scene.brokers, &scene.topic], scene.directory.path());
    })
    .await;
}

#[tokio::test]
async fn events_of_the_sdk_for_java_become_rows() {
    is_read("java", |scene| {
        let folder = scene.directory.path();
        let copied = ["-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory=libs"];
        run("mvn", &copied, folder);
        let java = ["-cp", "libs/*", "Send.java", &scene.brokers, &scene.topic];
        run("java", &java, folder);
    })
    .await;
}
