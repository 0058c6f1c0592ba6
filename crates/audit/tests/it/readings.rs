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

/// npm takes the packages below from the package's own shrinkwrap.
#[test]
fn a_package_with_its_own_shrinkwrap_breaks_a_rule() {
    for (mark, broken) in [(json!(true), 1), (json!(1), 1), (json!(false), 0)] {
        let package =
            json!({"version": "1.0.0", "resolved": tarball("x", "1.0.0"), "hasShrinkwrap": mark});
        let lock = npm_lock(&json!({"node_modules/x": package}));
        let folder = Folder::new(&[("package-lock.json", &lock)]);
        let run = folder.run(&service().url(), &["--format", "json"]);
        assert_eq!(run.broken(), vec!["location x 1.0.0"; broken], "{run:?}");
    }
}

#[test]
fn a_lockfile_that_was_found_is_the_one_that_is_installed_from() {
    let lock = npm_lock(&json!({"node_modules/x": {"version": "1.0.0"}}));
    let run = |files: &[(&str, &str)], arguments: &[&str]| {
        let mut files = files.to_vec();
        files.push(("package-lock.json", &lock));
        Folder::new(&files).run(&service().url(), arguments)
    };
    let binary = ("bun.lockb", "#!/usr/bin/env bun\n\0");
    assert_eq!(run(&[binary], &[]).code, 2);
    assert_eq!(run(&[("bun.lockb", &lock)], &[]).code, 2);
    let text = "{\"lockfileVersion\": 1, \"packages\": {}}";
    assert_eq!(run(&[binary, ("bun.lock", text)], &[]).code, 0);
    let berry =
        "__metadata:\n  version: 8\n\nx@1.0.0:\n  version: 1.0.0\n  resolution: x@npm:1.0.0\n";
    let pnpm = "lockfileVersion: '9.0'\n";
    for (name, setting, lock) in [
        (".npmrc", "package-lock=false", ("package-lock.json", &*lock)),
        (".npmrc", "lockfile = false", ("pnpm-lock.yaml", pnpm)),
        (".npmrc", "git-branch-lockfile=true", ("pnpm-lock.yaml", pnpm)),
        ("pnpm-workspace.yaml", "gitBranchLockfile: true", ("pnpm-lock.yaml", pnpm)),
        (".yarnrc.yml", "lockfileFilename: other.lock", ("yarn.lock", berry)),
    ] {
        let run = |arguments| run(&[(name, setting), lock], arguments);
        let found = run(&[]);
        assert!(
            found.code == 2 && found.errors.contains("another lockfile"),
            "{setting} {found:?}"
        );
        assert_eq!(run(&["package-lock.json"]).code, 0, "{setting}");
    }
    assert_eq!(run(&[(".npmrc", "package-lock=true\n")], &[]).code, 0);
}

/// npm puts the host of the registry of the settings in the place of its default registry's.
#[test]
fn npm_downloads_from_another_host_than_the_location_has() {
    let of_default = "https://registry.npmjs.org/@s/x/-/x-1.0.0.tgz";
    let of_own = tarball("@s/x", "1.0.0");
    let (own, other) = ("registry=https://registry.example\n", "registry=https://other.example\n");
    for (place, npmrc, is_asked) in [
        (of_default, String::new(), false),
        (of_default, own.to_owned(), true),
        (of_default, other.to_owned(), false),
        (of_default, format!("{own}replace-registry-host=never\n"), false),
        (of_default, format!("{own}replace-registry-host=npmjs\n"), true),
        (&of_own, other.to_owned(), true),
        // The scope does not count.
        (&of_own, "@s:registry=https://other.example\nreplace-registry-host=always\n".into(), true),
        (&of_own, format!("{other}replace-registry-host=always\n"), false),
        (&of_own, format!("{other}replace-registry-host=registry.example\n"), false),
        (&of_own, format!("{other}replace-registry-host=https://registry.example/@s/\n"), false),
        (&of_own, format!("{other}replace-registry-host=https://registry.example/y\n"), true),
    ] {
        let lock = npm_lock(&json!({"node_modules/@s/x": {"version": "1.0.0", "resolved": place}}));
        let found = asked(("package-lock.json", &lock), &[(".npmrc", &npmrc)]);
        let rest = if is_asked { json!({}) } else { json!({"other-registry": 1}) };
        assert_eq!(found.1, rest, "{place} {npmrc}");
    }
}

#[test]
fn a_path_leads_to_one_package_of_the_registry() {
    let pnpm = |tarball: &str| {
        format!(
            "lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    resolution: {{integrity: sha512-AAAA, tarball: {tarball:?}}}\n"
        )
    };
    for tarball in
        ["//evil/x/-/x-1.0.0.tgz", "http:evil/x/-/x-1.0.0.tgz", "/\\evil/x", "/\t/evil/x"]
    {
        is_refused("pnpm-lock.yaml", &pnpm(tarball), "neither an address nor a path");
    }
    let yarn = |place: &str| {
        format!("# yarn lockfile v1\n\n\nx@1.0.0:\n  version \"1.0.0\"\n  resolved \"{place}\"\n")
    };
    let evil = "evil/-/evil-1.0.0.tgz";
    for (tail, expected) in [
        ("?/x/-/x-1.0.0.tgz", "evil 1.0.0"),
        ("#/x/-/x-1.0.0.tgz", "evil 1.0.0"),
        ("/../x/-/x-1.0.0.tgz", "x 1.0.0"),
    ] {
        let place = format!("{evil}{tail}");
        for (name, lock) in [("yarn.lock", yarn(&place)), ("pnpm-lock.yaml", pnpm(&place))] {
            let service = service();
            let run = Folder::new(&[(name, &lock)]).run(&service.url(), &[]);
            assert_eq!((run.code, service.asked()), (1, vec![expected.to_owned()]), "{lock}");
        }
    }
}

#[test]
fn a_package_may_have_the_name_archive() {
    for name in ["archive", "archive.js", "@s/archive"] {
        let place = format!("{}#commit=1", tarball(name, "1.0.0"));
        let path = format!("node_modules/{name}");
        let lock = npm_lock(&json!({path: {"version": "1.0.0", "resolved": place}}));
        assert_eq!(asked(("package-lock.json", &lock), &[]).0, [format!("{name} 1.0.0")]);
    }
    let of_gitlab = "https://registry.example/u/r/-/archive/v1/r-v1.tar.gz#commit=1";
    let lock = npm_lock(&json!({"node_modules/r": {"version": "1.0.0", "resolved": of_gitlab}}));
    assert_eq!(asked(("package-lock.json", &lock), &[]).1, json!({"git": 1}));
}

#[test]
fn each_purl_of_a_package_is_asked_about() {
    let purl = |name: &str| json!({"referenceType": "purl", "referenceLocator": format!("pkg:npm/{name}@1.0.0")});
    let sbom = json!({"spdxVersion": "SPDX-2.3", "packages": [
        {"SPDXID": "SPDXRef-1", "externalRefs": [purl("a"), purl("evil")]},
    ]});
    assert_eq!(asked(("bom.json", &sbom.to_string()), &[]).0, ["a 1.0.0", "evil 1.0.0"]);
}

#[test]
fn the_root_of_an_sbom_is_not_sent_however_its_purl_is_written() {
    let root = json!({"type": "application", "name": "x", "purl": "pkg:npm/%40corp/root@1.0.0"});
    for purl in ["pkg:npm/@corp/root@1.0.0", "pkg:NPM/%40corp/r%6Fot@1.0.0?vcs_url=x#y"] {
        let sbom = json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"component": root},
            "components": [{"purl": purl}, {"purl": "pkg:npm/a@1.0.0"}]});
        assert_eq!(asked(("bom.json", &sbom.to_string()), &[]).0, ["a 1.0.0"], "{purl}");
    }
}

#[test]
fn no_credentials_in_a_version_of_npm_are_reported() {
    let version = "git+https://u:SECRET@git.example/u/r.git#0a";
    for (package, code) in [
        (json!({"version": version}), 3),
        (json!({"version": version, "resolved": "git+ssh://git@git.example/u/r.git#0a"}), 2),
        (json!({"version": version, "resolved": tarball("x", "1.0.0")}), 2),
    ] {
        let folder =
            Folder::new(&[("package-lock.json", &npm_lock(&json!({"node_modules/x": package})))]);
        for format in ["text", "json"] {
            let run = folder.run(&service().url(), &["--format", format]);
            assert!(run.code == code && !format!("{run:?}").contains("SECRET"), "{run:?}");
        }
    }
}
