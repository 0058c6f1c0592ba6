//! The quickstart: its stories on the pages, and in the audit of its lockfile.

use testkit::{Daemon, eventually};

use crate::audit::audit;
use crate::support::{PATIENCE, STOP, free_address};

#[tokio::test]
async fn the_quickstart_tells_its_stories_as_made_up() {
    let folder = tempfile::tempdir().unwrap();
    let http = free_address();
    let mut quickstart = Daemon::command("quickstart")
        .arg("--dir")
        .arg(folder.path())
        .args(["--http", &http])
        .spawn();
    eventually("the quickstart to serve", PATIENCE, async || {
        assert!(quickstart.is_running(), "it ended:\n{}", quickstart.log());
        quickstart.log().contains("Serving until Ctrl-C.")
    })
    .await;
    let lockfile = folder.path().join("package-lock.json").display().to_string();
    let said = quickstart.log();
    for part in [
        format!("http://{http}/package/story-weaker"),
        format!("http://{http}/graphiql"),
        format!("--package audit -- --url http://{http}/ {lockfile}"),
    ] {
        assert!(said.contains(&part), "{part} is not in\n{said}");
    }

    for (path, parts) in [
        ("/", vec!["How was this version published?"]),
        ("/package/story-weaker", vec!["Weaker than before</strong>", "made-up-ana"]),
        ("/package/story-new-publisher", vec!["New publisher</strong>", "made-up-cleo"]),
        ("/package/story-disputed", vec!["Disputed</strong>"]),
        ("/package/story-tor", vec!["Tor</strong>", "made-up-finn"]),
        ("/package/pg", vec!["<code>7.12.0</code>", "brianc", "<code>7.11.0</code>"]),
        ("/graphiql", vec![]),
        ("/schema.graphql", vec![]),
    ] {
        let (status, page) = testkit::http_get(&http, path).unwrap();
        assert_eq!(status, 200, "{path}: {page}");
        for part in parts.into_iter().chain(["Made-up data: "]) {
            assert!(page.contains(part), "{part} is not on {path}:\n{page}");
        }
    }

    let run = audit(folder.path(), &http, &[&lockfile]);
    assert_eq!(run.code, 1, "{}", run.output);
    for part in [
        "error story-weaker 1.14.1: weaker",
        "story-new-publisher 2.0.2 (",
        "story-disputed 0.3.0 (",
        "error story-tor 4.1.1: tor",
        "5 packages asked about",
    ] {
        assert!(run.output.contains(part), "{part} is not in\n{}", run.output);
    }
    assert!(!run.output.contains(" pg "), "the example is fine:\n{}", run.output);
    quickstart.terminate();
    assert_eq!(quickstart.wait_exit(STOP).code(), Some(0), "{}", quickstart.log());
    assert!(!quickstart.log().contains("WARN"), "nothing to warn of:\n{}", quickstart.log());
}
