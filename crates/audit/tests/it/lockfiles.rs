//! The requests for lockfiles of real package managers, which all lock the same project.
use std::collections::BTreeSet;

use crate::common::{Folder, Service, real, rows};
use serde_json::json;

/// The hosts from which the packages in the lockfiles were downloaded.
fn hosts() -> Vec<&'static str> {
    include_str!("../../../../tests/lockfiles/hosts.txt").lines().collect()
}

/// The packages that every package manager must have found in the sample project, by real name.
const EVERYWHERE: &[&str] = &[
    "@esbuild/linux-x64 0.19.0",
    "@sindresorhus/is 4.6.0",
    "chokidar 2.1.8",
    "debug 4.3.4",
    "is-number 3.0.0",
    "lodash 4.17.21",
    "ms 2.1.2",
    "ms 2.1.3",
    "react 18.2.0",
    "react-dom 18.2.0",
    "resolve 1.22.0",
];
/// The packages of workspaces, which npm 6 does not support.
const OF_WORKSPACES: &[&str] = &["ms 2.0.0", "react 17.0.2", "use-sync-external-store 1.2.0"];

/// The lockfiles of the sample project with a catalog.
const WITH_CATALOG: &[&str] = &["pnpm9.", "pnpm10.", "pnpm11.", "pnpm12.", "bun"];

/// Names of the project, of its folders, files and aliases. None may be sent.
const PRIVATE: &[&str] = &[
    "lockfile-sample",
    "workspace-a",
    "workspace-b",
    "local",
    "vendored",
    "lodash-alias",
    "is-alias",
];

fn asked(name: &str, as_name: &str) -> (BTreeSet<String>, serde_json::Value) {
    let service = Service::of(&hosts(), rows(&[("*", json!({}))]));
    let folder = Folder::new(&[(as_name, &real(name))]);
    let run = folder.run(&service.url(), &[as_name, "--format", "json"]);
    assert_eq!(run.code, 0, "{name}: {run:?}");
    assert_eq!(run.broken(), [""; 0], "{name}");
    let asked = service.asked();
    let once: BTreeSet<String> = asked.iter().cloned().collect();
    assert_eq!(asked.len(), once.len(), "{name}: each is asked about once");
    let of_private = |line: &&String| PRIVATE.contains(&line.split(' ').next().unwrap());
    assert_eq!(once.iter().find(of_private), None, "{name}");
    for expected in EVERYWHERE {
        assert!(once.contains(*expected), "{name}: {expected} in {once:#?}");
    }
    (once, run.json()["counts"]["notAudited"].clone())
}

#[test]
fn the_lockfiles_of_all_package_managers_ask_about_the_same_packages() {
    let (reference, _) = asked("npm-v3.package-lock.json", "package-lock.json");
    // Packages that package managers resolve to other versions, add, or do not record.
    let differs = |name: &str| {
        ["@emnapi/", "@napi-rs/", "@tybys/", "tslib", "picomatch", "scheduler", "is-number 7"]
            .iter()
            .any(|head| name.starts_with(head))
    };
    let comparable = |set: &BTreeSet<String>| -> BTreeSet<String> {
        set.iter().filter(|name| !differs(name)).cloned().collect()
    };
    for (name, as_name, expected_rest) in [
        (
            "npm-v2.package-lock.json",
            "npm-shrinkwrap.json",
            json!({"bundled": 6, "file": 1, "link": 3, "workspace": 3}),
        ),
        (
            "npm-v3-without-locations.package-lock.json",
            "package-lock.json",
            json!({"bundled": 6, "file": 1, "link": 3, "workspace": 3}),
        ),
        ("pnpm7.pnpm-lock.yaml", "pnpm-lock.yaml", json!({"file": 2})),
        ("pnpm8.pnpm-lock.yaml", "pnpm-lock.yaml", json!({"file": 2})),
        ("pnpm9.pnpm-lock.yaml", "pnpm-lock.yaml", json!({"file": 2})),
        ("pnpm10.pnpm-lock.yaml", "pnpm-lock.yaml", json!({"file": 2})),
        ("pnpm11.pnpm-lock.yaml", "pnpm-lock.yaml", json!({"file": 2})),
        ("pnpm12.pnpm-lock.yaml", "pnpm-lock.yaml", json!({"file": 2})),
        ("yarn1.yarn.lock", "yarn.lock", json!({"file": 2})),
        ("yarn2.yarn.lock", "yarn.lock", json!({"file": 2, "workspace": 3})),
        ("yarn3.yarn.lock", "yarn.lock", json!({"file": 2, "workspace": 3})),
        ("yarn4.yarn.lock", "yarn.lock", json!({"file": 2, "workspace": 3})),
        ("bun1.2.bun.lock", "bun.lock", json!({"bundled": 6, "file": 2, "workspace": 2})),
        ("bun1.4.bun.lock", "bun.lock", json!({"bundled": 6, "file": 2, "workspace": 2})),
        ("npm.cdx.json", "sbom.json", json!({"bundled": 6, "file": 1, "no-location": 2})),
        ("npm.spdx.json", "sbom.json", json!({"file": 1, "no-location": 8})),
    ] {
        let (found, not_audited) = asked(name, as_name);
        // Yarn 2 and later also lock node-gyp, for the sample's native package.
        let is_berry = ["yarn2", "yarn3", "yarn4"].iter().any(|head| name.starts_with(head));
        let reference = comparable(&reference);
        let found_here = comparable(&found);
        assert!(found_here.is_superset(&reference), "{name}");
        let more: Vec<_> = found_here.difference(&reference).collect();
        let has_gyp = more.iter().any(|name| name.starts_with("node-gyp "));
        assert_eq!((is_berry, is_berry), (!more.is_empty(), has_gyp), "{name}: {more:?}");
        assert_eq!(not_audited, expected_rest, "{name}");
        for expected in OF_WORKSPACES {
            assert!(found.contains(*expected), "{name}: {expected}");
        }
        // Where the tool has catalogs, the sample depends on picomatch through one. With Yarn, node-gyp depends on it.
        let has_catalog = WITH_CATALOG.iter().any(|head| name.starts_with(head));
        let picomatch: Vec<_> =
            found.iter().filter(|name| name.starts_with("picomatch ")).collect();
        match (has_catalog, is_berry) {
            (true, _) => assert_eq!(picomatch, ["picomatch 2.3.1"], "{name}"),
            (_, true) => assert_eq!(picomatch, ["picomatch 4.0.7"], "{name}"),
            _ => assert_eq!(picomatch, [""; 0], "{name}"),
        }
    }
    let (found, not_audited) = asked("npm-v1.package-lock.json", "package-lock.json");
    assert!(comparable(&found).is_subset(&comparable(&reference)));
    assert_eq!(not_audited, json!({"file": 2}));
}

#[test]
fn a_lockfile_that_was_cut_off_is_not_audited() {
    for (name, as_name) in [
        ("npm-v1.package-lock.json", "package-lock.json"),
        ("npm-v3.package-lock.json", "package-lock.json"),
        ("pnpm7.pnpm-lock.yaml", "pnpm-lock.yaml"),
        ("pnpm8.pnpm-lock.yaml", "pnpm-lock.yaml"),
        ("pnpm12.pnpm-lock.yaml", "pnpm-lock.yaml"),
        ("yarn1.yarn.lock", "yarn.lock"),
        ("yarn4.yarn.lock", "yarn.lock"),
        ("bun1.4.bun.lock", "bun.lock"),
        ("npm.cdx.json", "bom.json"),
        ("npm.spdx.json", "bom.json"),
    ] {
        let text = real(name);
        // Cut from a quarter to three quarters, independent of line ends.
        for part in 10..30 {
            let end = text.len() * part / 40;
            let cut = &text[..end];
            let service = Service::of(&hosts(), rows(&[("*", json!({}))]));
            let run = Folder::new(&[(as_name, cut)]).run(&service.url(), &[as_name]);
            let tail = &cut[cut.len() - 60..];
            assert_eq!((run.code, service.asked().len()), (2, 0), "{name} after {end}: {tail}");
        }
    }
}
