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

/// Yarn 1 reads as YAML what its own parser refuses, and reads nothing behind some of the others.
#[test]
fn yarn_1_reads_each_line_as_it_looks() {
    let lock =
        |lines: &str| format!("# yarn lockfile v1\n\n\nx@1.0.0:\n  version \"1.0.0\"\n{lines}\n");
    for lines in [
        "   resolved \"PLACE\"",
        "    resolved \"PLACE\"",
        "  dependencies:\n      y \"1.0.0\"",
        "  dependencies:\n    y:\n      z \"1.0.0\"",
        "  dependencies:\n    y \"1.0.0\"\n  resolved \"PLACE\"\n    z \"1.0.0\"",
        "\n  resolved \"PLACE\"",
        "# comment\n  resolved \"PLACE\"",
        "  \tresolved \"PLACE\"",
        "  resolved\u{a0}\"PLACE\"",
        "  resolved \"PLACE\"\t",
        "  resolved !!str PLACE",
        "  resolved &a PLACE",
        "  resolved *a",
        "  resolved |",
        "  resolved 1.0.0",
        "  trueresolved \"PLACE\"",
        "  \"\" \"PLACE\"",
        "  resolved \"PLACE\\\\\\\"\"",
        "!!str y@1.0.0:\n  version \"1.0.0\"",
        "@s/y@1.0.0:\n  version \"1.0.0\"",
    ] {
        is_refused("yarn.lock", &lock(&lines.replace("PLACE", &tarball("x", "1.0.0"))), "line ");
    }
}

/// Without a location, Yarn 1 asks the registry by the range.
#[test]
fn a_range_of_yarn_1_pins_no_version() {
    for (patterns, version, broken) in [
        ("x@1.0.0", "1.0.0", ""),
        ("\"x@npm:x@1.0.0\", x@1.0.0", "1.0.0", ""),
        ("x@^1.0.0", "1.0.0", "location x 1.0.0"),
        ("x@1.0.0, x@^1.0.0", "1.0.0", "location x 1.0.0"),
        ("x@latest", "latest", "location x latest"),
    ] {
        let lock = format!("# yarn lockfile v1\n\n\n{patterns}:\n  version \"{version}\"\n");
        let folder = Folder::new(&[("yarn.lock", &lock)]);
        let run = folder.run(&service().url(), &["--format", "json"]);
        let broken: Vec<_> = Some(broken).into_iter().filter(|text| !text.is_empty()).collect();
        assert_eq!(run.broken(), broken, "{lock} {run:?}");
    }
}

/// Package managers read `v1.0.0` as 1.0.0.
#[test]
fn another_spelling_of_a_version_hides_no_package() {
    let pnpm = "lockfileVersion: '9.0'\npackages:\n  x@v1.0.0:\n    resolution: {integrity: sha512-AAAA}\n";
    let berry =
        "__metadata:\n  version: 8\n\nx@v1.0.0:\n  version: 1.0.0\n  resolution: x@npm:v1.0.0\n";
    for (name, lock) in [("pnpm-lock.yaml", pnpm), ("yarn.lock", berry)] {
        let service = service();
        Folder::new(&[(name, lock)]).run(&service.url(), &[]);
        assert_eq!(service.asked(), ["x 1.0.0"], "{lock}");
    }
    for package in [
        "[\"x@v1.0.0\", \"\", {}, \"\"]",
        "[\"x@1.0.0 y\", \"\", {}, \"\"]",
        "[\"evil@6.6.6-a/b\", \"https://registry.example/evil/-/evil-6.6.6.tgz\", {}, \"\"]",
        "[\"x@1.0.0\", \"\", {}, [\"\"]]",
    ] {
        let bun = format!("{{\"lockfileVersion\": 1, \"packages\": {{\"x\": {package}}}}}");
        is_refused("bun.lock", &bun, "[NAME@VERSION, …]");
    }
}
