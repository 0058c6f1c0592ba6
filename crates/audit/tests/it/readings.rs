//! Lockfiles that a package manager reads in another way than they look: none of their packages may be missed.

use serde_json::json;

use crate::common::{Folder, npm_lock};
use crate::selection::{asked, service, tarball};

/// The lockfile is not audited, and the message has `part`.
fn is_refused(name: &str, lock: &str, part: &str) {
    let service = service();
    let run = Folder::new(&[(name, lock)]).run(&service.url(), &[name]);
    assert!(run.code == 2 && run.errors.contains(part), "{name} {lock} {run:?}");
    assert_eq!(service.asked(), [""; 0], "{lock}");
}

#[test]
fn a_file_of_two_formats_is_refused() {
    let npm = |mark: &str| {
        let lock = npm_lock(&json!({"node_modules/x": {"version": "1.0.0"}}));
        lock.replacen('{', &format!("{{{mark},"), 1)
    };
    for mark in [
        "\"bomFormat\": \"CycloneDX\", \"specVersion\": \"1.6\"",
        "\"spdxVersion\": \"SPDX-2.3\"",
        "\"__metadata\": {\"version\": 8}",
    ] {
        for name in ["package-lock.json", "other.json"] {
            is_refused(name, &npm(mark), "two formats");
        }
    }
    let bun = |more: &str| {
        format!(
            "{{\"lockfileVersion\": 1, {more}, \"packages\": {{\"x\": [\"x@1.0.0\", \"\", {{}}, \"\"]}}}}"
        )
    };
    for more in ["\"dependencies\": {\"x\": {\"version\": \"1.0.0\"}}", "\"requires\": true"] {
        is_refused("bun.lock", &bun(more), "two formats");
        is_refused("other", &bun(more), "two formats");
    }
    let npm_1 = "{\"lockfileVersion\": 1, \"workspaces\": {}, \"dependencies\": {\"x\": {\"version\": \"1.0.0\"}}}";
    is_refused("other", npm_1, "two formats");
    let pnpm = "lockfileVersion: '9.0'\npackages: {}\n\"x@npm:1.0.0\":\n  version: 1.0.0\n";
    is_refused("other", pnpm, "two formats");
    let berry = "__metadata:\n  version: 8\n\nx@1.0.0:\n  version: 1.0.0\n  resolution: x@npm:1.0.0\n  resolved: y\n";
    is_refused("yarn.lock", berry, "two formats");
}

#[test]
fn a_lockfile_is_of_the_kind_that_its_name_says() {
    let npm = npm_lock(&json!({"node_modules/x": {"version": "1.0.0"}}));
    let bun = "{\"lockfileVersion\": 1, \"packages\": {\"x\": [\"x@1.0.0\", \"\", {}, \"\"]}}";
    let pnpm =
        "lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    resolution: {integrity: sha512-AAAA}\n";
    let yarn = "# yarn lockfile v1\n\n\nx@1.0.0:\n  version \"1.0.0\"\n";
    let sbom = "{\"bomFormat\": \"CycloneDX\", \"specVersion\": \"1.6\"}";
    for (name, texts) in [
        ("package-lock.json", [bun, pnpm, yarn, sbom]),
        ("npm-shrinkwrap.json", [bun, pnpm, yarn, sbom]),
        ("pnpm-lock.yaml", [&npm, bun, yarn, sbom]),
        ("yarn.lock", [&npm, bun, pnpm, sbom]),
    ] {
        texts.iter().for_each(|text| is_refused(name, text, "of this name"));
    }
    is_refused("bun.lock", &npm, "lockfileVersion 3");
    for text in [&npm, bun, pnpm, yarn] {
        assert_eq!(asked(("other", text), &[]).0, ["x 1.0.0"], "{text}");
    }
}

/// npm makes a text of a list, and bun takes the first of two equal keys.
#[test]
fn a_value_is_a_text_that_is_there_once() {
    let evil = tarball("evil", "1.0.0");
    for (key, value) in
        [("resolved", json!([evil])), ("name", json!(["evil"])), ("version", json!(6))]
    {
        let package = json!({"node_modules/x": {"version": "1.0.0", key: value}});
        is_refused("package-lock.json", &npm_lock(&package), "not a text");
    }
    let npm_1 = json!({"lockfileVersion": 1, "dependencies": {"x": {"version": "1.0.0", "resolved": [evil]}}});
    is_refused("package-lock.json", &npm_1.to_string(), "not a text");
    let none = npm_lock(
        &json!({"node_modules/x": {"version": "1.0.0", "resolved": false, "integrity": null}}),
    );
    assert_eq!(asked(("package-lock.json", &none), &[]).0, ["x 1.0.0"]);
    for package in [
        "resolution: {integrity: sha512-AAAA}\n    version: [6.6.6]",
        "resolution: {integrity: sha512-AAAA, tarball: ['http://x/y.tgz']}",
    ] {
        let pnpm = format!("lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    {package}\n");
        is_refused("pnpm-lock.yaml", &pnpm, "not a text");
    }
    let berry =
        "__metadata:\n  version: 8\n\nx@1.0.0:\n  version: [1.0.0]\n  resolution: x@npm:1.0.0\n";
    is_refused("yarn.lock", berry, "not a text");
    let bun = "{\"lockfileVersion\": 1, \"packages\": {\"x\": [\"evil@1.0.0\", \"\", {}, \"\"],\n\"x\": [\"x@1.0.0\", \"\", {}, \"\"]}}";
    is_refused("bun.lock", bun, "line 2: the same key twice");
}
