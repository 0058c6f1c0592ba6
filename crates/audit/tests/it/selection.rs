//! The packages that are requested, and those that are never sent.

use serde_json::{Value, json};

use crate::common::{Folder, Run, Service, npm_lock, rows};

pub(crate) fn service() -> Service {
    Service::of(&["registry.example"], rows(&[("*", json!({}))]))
}

/// Audits one file together with some settings. Returns the requested packages and the number of others by kind.
pub(crate) fn asked(file: (&str, &str), settings: &[(&str, &str)]) -> (Vec<String>, Value) {
    let service = service();
    let mut files = settings.to_vec();
    files.push(file);
    let run = Folder::new(&files).run(&service.url(), &[file.0, "--format", "json"]);
    assert!(run.code == 0 || run.code == 3, "{run:?}");
    (service.asked(), run.json()["counts"]["notAudited"].clone())
}

pub(crate) fn tarball(name: &str, version: &str) -> String {
    let base = name.rsplit('/').next().unwrap();
    format!("https://registry.example/{name}/-/{base}-{version}.tgz")
}

#[test]
fn npm_asks_about_what_comes_from_the_registry_alone() {
    let lock = npm_lock(&json!({
        "packages/app": {"name": "secret-app", "version": "1.0.0"},
        "node_modules/secret-app": {"resolved": "packages/app", "link": true},
        "node_modules/a": {"version": "1.0.0", "resolved": tarball("a", "1.0.0")},
        "node_modules/b/node_modules/a": {"version": "1.0.0", "resolved": tarball("a", "1.0.0")},
        "node_modules/alias": {"name": "@s/real", "version": "2.0.0", "resolved": tarball("@s/real", "2.0.0")},
        "node_modules/elsewhere": {"version": "1.0.0", "resolved": "https://other.example/elsewhere/-/elsewhere-1.0.0.tgz"},
        "node_modules/tarball": {"version": "1.0.0", "resolved": "https://other.example/tarball.tgz"},
        "node_modules/port": {"version": "1.0.0", "resolved": "https://registry.example:8443/port/-/port-1.0.0.tgz"},
        "node_modules/user": {"version": "1.0.0", "resolved": "https://registry.example@other.example/user/-/user-1.0.0.tgz"},
        "node_modules/git": {"version": "1.0.0", "resolved": "git+ssh://git@registry.example/u/git.git#0a"},
        "node_modules/file": {"version": "1.0.0", "resolved": "file:file-1.0.0.tgz"},
        "node_modules/b": {"version": "1.0.0", "resolved": tarball("b", "1.0.0"), "bundleDependencies": ["bundled"]},
        "node_modules/b/node_modules/bundled": {"version": "1.0.0", "inBundle": true},
        "node_modules/b/node_modules/placed": {"version": "1.0.0", "inBundle": true, "resolved": tarball("placed", "1.0.0")},
        "node_modules/unsaid": {"version": "3.0.0"},
        "node_modules/nothing": {"optional": true},
        "node_modules/secret": {"resolved": "../shared/node_modules/secret", "link": true},
        "../shared/node_modules/secret": {"version": "1.0.0"},
        "../shared/node_modules/secret-2": {"version": "1.0.0"},
        "../shared/node_modules/c": {"version": "1.0.0", "resolved": tarball("c", "1.0.0")},
        "node_modules/secret-3": {"resolved": "libs/node_modules/secret-3", "link": true},
        "libs/node_modules/secret-3": {"version": "1.0.0"},
        "my_node_modules/secret-4": {"version": "1.0.0"},
    }));
    let (asked, rest) = asked(("package-lock.json", &lock), &[]);
    let expected =
        ["@s/real 2.0.0", "a 1.0.0", "b 1.0.0", "c 1.0.0", "placed 1.0.0", "unsaid 3.0.0"];
    assert_eq!(asked, expected);
    let expected = json!({"bundled": 1, "file": 1, "git": 1, "link": 3, "no-version": 1,
        "other-registry": 3, "tarball": 1, "workspace": 5});
    assert_eq!(rest, expected);
}

#[test]
fn npm_version_1_nests() {
    let lock = json!({"name": "secret", "version": "1.0.0", "lockfileVersion": 1, "requires": true, "dependencies": {
        "a": {"version": "1.0.0", "resolved": tarball("a", "1.0.0"), "dependencies": {
            "b": {"version": "2.0.0", "resolved": tarball("b", "2.0.0"), "bundled": true},
            "c": {"version": "2.0.0", "bundled": true},
        }},
        "alias": {"version": "npm:@s/real@1.0.0", "resolved": tarball("@s/real", "1.0.0")},
        "unsaid-alias": {"version": "npm:real@1.0.0"},
        "url": {"version": tarball("url", "1.0.0")},
        "git": {"version": "git+https://git.example/x.git#0a", "from": "x"},
        "github": {"version": "github:u/r#0a"},
        "folder": {"version": "file:../folder"},
    }});
    let (asked, rest) = asked(("npm-shrinkwrap.json", &lock.to_string()), &[]);
    assert_eq!(
        asked,
        ["@s/real 1.0.0", "a 1.0.0", "b 2.0.0", "c 2.0.0", "real 1.0.0", "url 1.0.0"]
    );
    assert_eq!(rest, json!({"file": 1, "git": 2}));
}

#[test]
fn pnpm_keys_of_all_versions() {
    let v5 = "lockfileVersion: 5.4\npackages:\n\n  /a/1.0.0:\n    resolution: {integrity: sha512-AAAA}\n\n  /@s/b/1.0.0_react@18.2.0:\n    resolution: {integrity: sha512-AAAA}\n\n  /c/1.0.0_2hwzhdcbfx4fbgfgv4wmnjgzl4:\n    resolution: {integrity: sha512-AAAA}\n\n  other.example/d/1.0.0:\n    resolution: {integrity: sha512-AAAA}\n\n  registry.example/e/1.0.0:\n    resolution: {integrity: sha512-AAAA}\n\n  github.com/u/r/0a1b:\n    resolution: {tarball: https://codeload.github.com/u/r/tar.gz/0a1b}\n    name: secret\n    version: 1.0.0\n\n  file:local:\n    resolution: {directory: local, type: directory}\n    name: secret\n    version: 1.0.0\n\n  file:libs/shared/utils:\n    resolution: {directory: libs/shared/utils, type: directory}\n    name: secret\n    version: 1.0.0\n\n  file:vendor/tarballs/x-1.0.0.tgz:\n    resolution: {integrity: sha512-AAAA, tarball: file:vendor/tarballs/x-1.0.0.tgz}\n    name: secret\n    version: 1.0.0\n\n  localhost:4873/secret/1.0.0:\n    resolution: {integrity: sha512-AAAA}\n";
    let (asked_5, rest) = asked(("pnpm-lock.yaml", v5), &[]);
    assert_eq!(asked_5, ["@s/b 1.0.0", "a 1.0.0", "c 1.0.0", "e 1.0.0"]);
    assert_eq!(rest, json!({"file": 3, "git": 1, "other-registry": 2}));

    let v6 = "lockfileVersion: '6.0'\npackages:\n\n  /a@1.0.0:\n    resolution: {integrity: sha512-AAAA}\n\n  /@s/b@1.0.0(react@18.2.0)(x@1.0.0):\n    resolution: {integrity: sha512-AAAA}\n\n  /c@1.0.0(patch_hash=0a1b):\n    resolution: {integrity: sha512-AAAA}\n    patched: true\n\n  '@registry.example/d/-/d-1.0.0.tgz':\n    resolution: {tarball: https://registry.example/d/-/d-1.0.0.tgz}\n    name: d\n    version: 1.0.0\n\n  git/other.example+secret/0a:\n    resolution: {commit: 0a, repo: https://other.example/secret, type: git}\n    name: secret\n    version: 1.0.0\n\n  file:dir/name@1.tgz:\n    resolution: {integrity: sha512-AAAA, tarball: file:dir/name@1.tgz}\n    name: secret\n    version: 1.0.0\n";
    let (asked_6, rest) = asked(("pnpm-lock.yaml", v6), &[]);
    assert_eq!(asked_6, ["@s/b 1.0.0", "a 1.0.0", "c 1.0.0", "d 1.0.0"]);
    assert_eq!(rest, json!({"file": 1, "git": 1}));

    let v9 = "---\nlockfileVersion: '9.0'\n\nimporters:\n\n  .:\n    packageManagerDependencies:\n      pnpm:\n        specifier: 11.0.0\n        version: 11.0.0\n\npackages:\n\n  pnpm@11.0.0:\n    resolution: {integrity: sha512-AAAA}\n\nsnapshots:\n\n  pnpm@11.0.0: {}\n\n---\nlockfileVersion: '9.0'\n\npackages:\n\n  a@1.0.0:\n    resolution: {integrity: sha512-AAAA}\n\n  '@s/b@1.0.0':\n    resolution: {integrity: sha512-AAAA, tarball: https://other.example/@s/b/-/b-1.0.0.tgz}\n\n  c@https://registry.example/c/-/c-1.0.0.tgz:\n    resolution: {tarball: https://registry.example/c/-/c-1.0.0.tgz}\n    version: 1.0.0\n\n  secret@file:secret:\n    resolution: {directory: secret, type: directory}\n\n  secret2@https://codeload.github.com/u/r/tar.gz/0a:\n    resolution: {tarball: https://codeload.github.com/u/r/tar.gz/0a}\n    version: 1.0.0\n\n  node@runtime:22.0.0:\n    resolution: {type: variations, variants: []}\n    version: 22.0.0\n";
    let (asked_9, rest) = asked(("pnpm-lock.yaml", v9), &[]);
    assert_eq!(asked_9, ["a 1.0.0", "c 1.0.0", "pnpm 11.0.0"]);
    assert_eq!(rest, json!({"file": 1, "git": 1, "other": 1, "other-registry": 1}));
}

#[test]
fn yarn_patterns_and_places() {
    let yarn = "# yarn lockfile v1\n\n\na@^1.0.0, a@~1.0.0:\n  version \"1.0.0\"\n  resolved \"https://registry.example/a/-/a-1.0.0.tgz#0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33\"\n  integrity sha512-AAAA\n  dependencies:\n    b \"^2.0.0\"\n\n\"alias@npm:@s/real@^1.0.0\":\n  version \"1.0.0\"\n  resolved \"https://registry.example/@s/real/-/real-1.0.0.tgz#0a\"\n\n\"secret@file:./secret\":\n  version \"1.0.0\"\n\n\"secret2@git+ssh://git@other.example/secret2.git\":\n  version \"1.0.0\"\n  resolved \"git+ssh://git@other.example/secret2.git#0a\"\n\n\"secret3@user/repository\":\n  version \"1.0.0\"\n\n\"@corp/x@^1.0.0\":\n  version \"1.0.0\"\n  resolved \"https://npm.corp.example/@corp/x/-/x-1.0.0.tgz#0a\"\n\n\"offline@^1.0.0\":\n  version \"1.0.0\"\n  resolved offline-1.0.0.tgz#0a\n";
    let (asked, rest) = asked(("yarn.lock", yarn), &[]);
    assert_eq!(asked, ["@s/real 1.0.0", "a 1.0.0"]);
    assert_eq!(rest, json!({"file": 2, "git": 2, "other-registry": 1}));
}

#[test]
fn sboms_leave_out_the_root_the_private_and_what_has_no_location() {
    let component = |purl: &str, url: Option<&str>, property: Option<&str>| {
        let mut component = json!({"type": "library", "name": "n", "bom-ref": purl, "purl": purl});
        if let Some(url) = url {
            component["externalReferences"] = json!([{"type": "website", "url": "https://x.example"}, {"type": "distribution", "url": url}]);
        }
        if let Some(property) = property {
            component["properties"] = json!([{"name": property, "value": "true"}]);
        }
        component
    };
    let cyclonedx = |components: Value| {
        let root = json!({"type": "application", "name": "root", "bom-ref": "pkg:npm/root@1.0.0", "purl": "pkg:npm/root@1.0.0"});
        json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"component": root}, "components": components})
            .to_string()
    };
    let with_locations = cyclonedx(json!([
        component("pkg:npm/root@1.0.0", Some("https://registry.example/root/-/root-1.0.0.tgz"), None),
        component("pkg:npm/%40s/a@1.0.0", Some("https://registry.example/@s/a/-/a-1.0.0.tgz"), None),
        component("pkg:npm/secret@1.0.0", None, None),
        component("pkg:npm/private@1.0.0", Some("https://registry.example/private/-/private-1.0.0.tgz"), Some("cdx:npm:package:private")),
        component("pkg:npm/b@1.0.0?repository_url=https://other.example", Some("https://registry.example/b/-/b-1.0.0.tgz"), None),
        component("pkg:npm/c@1.0.0?repository_url=registry.example", Some("https://registry.example/c/-/c-1.0.0.tgz"), None),
        component("pkg:npm/d@1.0.0?vcs_url=git%2Bhttps://git.example/d.git", Some("https://registry.example/d/-/d-1.0.0.tgz"), None),
        component("pkg:npm/e", Some("https://registry.example/e/-/e-1.0.0.tgz"), None),
        component("pkg:pypi/f@1.0.0", None, None),
        {"type": "file", "name": "readme"},
    ]));
    let (found, rest) = asked(("bom.json", &with_locations), &[]);
    assert_eq!(found, ["@s/a 1.0.0", "c 1.0.0", "d 1.0.0", "e 1.0.0"]);
    let expected = json!({"no-location": 1, "private": 1, "other-registry": 1, "other-ecosystem": 1, "other": 1});
    assert_eq!(rest, expected);

    let without = cyclonedx(json!([
        component("pkg:npm/a@1.0.0", None, None),
        component("pkg:npm/%40corp/b@1.0.0", None, None),
        component("pkg:npm/c@1.0.0?download_url=https://other.example/c.tgz", None, None),
    ]));
    let npmrc = (".npmrc", "@corp:registry=https://npm.corp.example\n");
    let (found, rest) = asked(("bom.json", &without), &[npmrc]);
    assert_eq!(found, ["a 1.0.0"]);
    assert_eq!(rest, json!({"tarball": 1, "other-registry": 1}));
    let without = cyclonedx(json!([
        component("pkg:npm/a@1.0.0", None, None),
        component("pkg:npm/%40corp/b@1.0.0", None, None),
        component("pkg:npm/d@1.0.0?vcs_url=git://x.example/d", None, None),
    ]));
    let (found, rest) = asked(("bom.json", &without), &[npmrc]);
    assert_eq!(found, ["a 1.0.0"]);
    assert_eq!(rest, json!({"git": 1, "other-registry": 1}));
}

#[test]
fn spdx_leaves_out_what_the_document_describes() {
    let package = |id: &str, purl: &str, location: &str| {
        json!({"SPDXID": id, "name": id, "versionInfo": "1.0.0", "downloadLocation": location, "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}]})
    };
    let spdx = json!({"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "packages": [
        package("SPDXRef-root", "pkg:npm/root@1.0.0", "NOASSERTION"),
        package("SPDXRef-a", "pkg:npm/a@1.0.0", "https://registry.example/a/-/a-1.0.0.tgz"),
        package("SPDXRef-b", "pkg:npm/secret@1.0.0", "NOASSERTION"),
    ], "relationships": [
        {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-root"},
    ]});
    let (found, rest) = asked(("x.spdx.json", &spdx.to_string()), &[]);
    assert_eq!((found, rest), (vec!["a 1.0.0".to_owned()], json!({"no-location": 1})));
}

/// A CycloneDX SBOM of purls with their distribution references.
fn cyclonedx(components: &[(&str, &str)]) -> String {
    let components = components.iter().map(|(purl, url)| {
        json!({"type": "library", "name": "n", "purl": purl,
            "externalReferences": [{"type": "distribution", "url": url}]})
    });
    let components: Vec<_> = components.collect();
    json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}).to_string()
}

/// Some tools write the address of the sources where the one of the artifact belongs.
#[test]
fn an_sbom_that_names_repositories_alone_ends_with_2() {
    let spdx = |purl: &str, url: &str| {
        json!({"spdxVersion": "SPDX-2.3", "packages": [{"SPDXID": "SPDXRef-a", "name": "a",
        "downloadLocation": url, "externalRefs": [{"referenceType": "purl", "referenceLocator": purl}]}]}).to_string()
    };
    let tarball = tarball("b", "1.0.0");
    for (sbom, code, asked) in [
        (cyclonedx(&[("pkg:npm/a@1.0.0", "git+https://github.com/u/a.git")]), 2, 0),
        (
            cyclonedx(&[
                ("pkg:npm/a@1.0.0", "https://github.com/u/a.git"),
                ("pkg:npm/c@1.0.0", "git@x.example:u/c.git"),
            ]),
            2,
            0,
        ),
        (spdx("pkg:npm/a@1.0.0", "git://github.com/u/a.git"), 2, 0),
        // Others are asked about.
        (
            cyclonedx(&[
                ("pkg:npm/a@1.0.0", "git+https://github.com/u/a.git"),
                ("pkg:npm/b@1.0.0", &tarball),
            ]),
            0,
            1,
        ),
        // Another registry's packages are not looked for at all.
        (cyclonedx(&[("pkg:golang/github.com/u/a@v1.0.0", "https://github.com/u/a")]), 3, 0),
        // These are said to be from a repository.
        (cyclonedx(&[("pkg:npm/a@1.0.0", "git+https://github.com/u/a.git#0a1b")]), 3, 0),
        (
            cyclonedx(&[(
                "pkg:npm/a@1.0.0?vcs_url=git%2Bhttps://x.example/a.git",
                "git+https://x.example/a.git",
            )]),
            3,
            0,
        ),
    ] {
        let service = service();
        let run = Folder::new(&[("bom.json", &sbom)]).run(&service.url(), &["bom.json"]);
        assert_eq!((run.code, service.asked().len()), (code, asked), "{sbom} {run:?}");
        assert_eq!(
            run.errors.contains("does not say where its packages come from"),
            code == 2,
            "{run:?}"
        );
    }
}

/// With a base, the SBOM as a whole says where its packages come from.
#[test]
fn what_is_new_may_lead_to_a_repository() {
    let tarball = tarball("b", "1.0.0");
    let b = ("pkg:npm/b@1.0.0", tarball.as_str());
    let a = ("pkg:npm/a@1.0.0", "git+https://github.com/u/a.git");
    let folder = Folder::new(&[("old.json", &cyclonedx(&[b])), ("new.json", &cyclonedx(&[b, a]))]);
    let run = folder.run(&service().url(), &["--base", "old.json", "new.json"]);
    assert_eq!(run.code, 3, "{run:?}");
}

#[test]
fn purls_come_from_standard_input() {
    let service = service();
    let folder = Folder::new(&[(".npmrc", "@corp:registry=https://npm.corp.example/\n")]);
    let purls = "pkg:npm/a@1.0.0\n\n  pkg:npm/%40s/b@1.0.0?x=y#z\npkg:npm/@corp/secret@1.0.0\npkg:npm/a@1.0.0\npkg:pypi/x@1\npkg:npm/c\npkg:npm/d@1?repository_url=https%3A%2F%2Fother.example\npkg:npm/e@1?download_url=https://registry.example/e/-/e-1.tgz\npkg:npm/f@1?vcs_url=git://x.example/f\n";
    let run = folder.run_with_input(&service.url(), &["-", "--format", "json"], purls);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(service.asked(), ["@s/b 1.0.0", "a 1.0.0", "e 1"]);
    let expected = json!({"other-registry": 2, "other-ecosystem": 1, "no-version": 1, "git": 1});
    assert_eq!(run.json()["counts"]["notAudited"], expected);
    let run = folder.run_with_input(&service.url(), &["-"], "pkg:npm/a@1.0.0\nno purl\n");
    assert!(run.code == 2 && run.errors.contains("line 2"), "{run:?}");
}

#[test]
fn the_location_says_which_package_it_is() {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    let lock = npm_lock(&json!({
        "node_modules/good": {"version": "1.0.0", "resolved": tarball("good", "1.0.0")},
        "node_modules/lodash": {"version": "4.17.21", "resolved": tarball("evil", "1.0.0")},
        "node_modules/ms": {"version": "2.1.3", "resolved": tarball("ms", "2.1.2")},
        "node_modules/odd": {"version": "1.0.0", "resolved": "https://registry.example/files/7.tgz"},
        // Yarn 1 leaves out the build.
        "node_modules/build": {"version": "1.0.0", "resolved": tarball("build", "1.0.0+b")},
    }));
    let folder = Folder::new(&[("package-lock.json", &lock)]);
    let run = folder.run(&service.url(), &["--format", "json"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(
        service.asked(),
        ["build 1.0.0+b", "evil 1.0.0", "good 1.0.0", "ms 2.1.2", "odd 1.0.0"]
    );
    let expected = ["location evil 1.0.0", "location ms 2.1.2", "location odd 1.0.0"];
    assert_eq!(run.broken(), expected);
}

#[test]
fn hosts_come_from_the_service_and_from_the_command_line() {
    let lock = npm_lock(&json!({
        "node_modules/a": {"version": "1.0.0", "resolved": tarball("a", "1.0.0")},
        "node_modules/b": {"version": "1.0.0", "resolved": "http://localhost:4873/b/-/b-1.0.0.tgz"},
        "node_modules/c": {"version": "1.0.0", "resolved": "https://art.example/npm/c/-/c-1.0.0.tgz"},
        "node_modules/d": {"version": "1.0.0", "resolved": "https://art.example/other/d/-/d-1.0.0.tgz"},
    }));
    let folder = Folder::new(&[("package-lock.json", &lock)]);
    let service = service();
    let more = ["--registry", "localhost:4873", "--registry", "https://art.example/npm"];
    assert_eq!(folder.run(&service.url(), &more).code, 0);
    assert_eq!(service.asked(), ["a 1.0.0", "b 1.0.0", "c 1.0.0"]);

    let without_hosts = Service::of(&[], rows(&[("*", json!({}))]));
    let run = folder.run(&without_hosts.url(), &[]);
    assert_eq!(run.code, 2, "{run:?}");
    for part in
        ["2  art.example    --registry art.example", "1  localhost:4873", "1  registry.example"]
    {
        assert!(run.errors.contains(part), "{part}: {}", run.errors);
    }
    assert!(without_hosts.asked().is_empty());
    let run = folder.run(&without_hosts.url(), &["--registry", "registry.example"]);
    assert_eq!((run.code, without_hosts.asked()), (0, vec!["a 1.0.0".to_owned()]));
}

#[test]
fn files_that_cannot_be_read_end_with_2() {
    let deep = |depth: usize| {
        format!(
            "{{\"lockfileVersion\": 3, \"packages\": {{}}, \"x\": {}{}}}",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    let lock = npm_lock(
        &json!({"node_modules/a": {"version": "1.0.0", "resolved": tarball("a", "1.0.0")}}),
    );
    let half = &lock[..lock.len() / 2];
    let conflict = lock.replacen("\"node_modules/a\"", "\n<<<<<<< HEAD\n\"node_modules/a\"", 1);
    let name = npm_lock(&json!({"node_modules/a\nb": {"version": "1.0.0"}}));
    let long = npm_lock(&json!({"node_modules/a": {"version": "1".repeat(257)}}));
    let by_location = npm_lock(
        &json!({"node_modules/a": {"version": "1.0.0", "resolved": "https://registry.example/a%0Ab/-/a%0Ab-1.0.0.tgz"}}),
    );
    for (file, text) in [
        ("package-lock.json", ""),
        ("package-lock.json", "{}"),
        ("package-lock.json", "{\"lockfileVersion\": 4, \"packages\": {}}"),
        ("package-lock.json", "{\"lockfileVersion\": \"3\", \"packages\": {}}"),
        ("package-lock.json", half),
        ("package-lock.json", &conflict),
        ("package-lock.json", &name),
        ("package-lock.json", &long),
        ("package-lock.json", &by_location),
        ("package-lock.json", &deep(128)),
    ] {
        assert_refused(file, text);
    }
    let allowed = Folder::new(&[("package-lock.json", &deep(127))]);
    assert_eq!(allowed.run(&service().url(), &[]).code, 3);
}

fn assert_refused(file: &str, text: &str) {
    let service = service();
    let Run { code, errors, output } = Folder::new(&[(file, text)]).run(&service.url(), &[file]);
    assert_eq!(code, 2, "{file} {text:?}: {errors}{output}");
    assert!(errors.contains(file) && service.asked().is_empty(), "{file} {text:?}: {errors}");
}

#[test]
fn unknown_versions_and_cut_files_of_the_other_tools_end_with_2() {
    for (file, text) in [
        ("pnpm-lock.yaml", "lockfileVersion: 5.3\n"),
        ("pnpm-lock.yaml", "lockfileVersion: '10.0'\n"),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages:\n  a@1.0.0:\n    resolution: {integ"),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages:\n  a@1.0.0:\n"),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\nx: &x 1\ny: *x\n"),
        (
            "pnpm-lock.yaml",
            "lockfileVersion: '9.0'\nimporters:\n  .:\n    dependencies:\n      b:\n        specifier: ^1\n        version: 1.0.0\npackages:\n  a@1.0.0:\n    resolution: {integrity: sha512-AAAA}\n",
        ),
        ("yarn.lock", "# yarn lockfile v2\n"),
        ("yarn.lock", "# yarn lockfile v1\n\na@^1.0.0:\n  version \"1.0"),
        ("yarn.lock", "# yarn lockfile v1\n\na@^1.0.0:\n"),
        ("yarn.lock", "# yarn lockfile v1\n\na@^1.0"),
        ("yarn.lock", "hello\n"),
        ("yarn.lock", "__metadata:\n  version: 3\n"),
        ("yarn.lock", "__metadata:\n  version: 8\n\n\"a@npm:1\":\n  version: 1.0.0\n"),
        ("bun.lock", "{\"lockfileVersion\": 0, \"packages\": {}}"),
        ("bun.lock", "{\"lockfileVersion\": 3, \"packages\": {}}"),
        ("bun.lock", "{\"lockfileVersion\": 1, \"packages\": {\"a\": [\"a@1.0.0\", \"\", {"),
        ("bom.xml", "<?xml version=\"1.0\"?>\n<bom xmlns=\"http://cyclonedx.example\"/>\n"),
        (
            "bom.json",
            "{\"bomFormat\": \"CycloneDX\", \"specVersion\": \"1.3\", \"components\": []}",
        ),
        ("bom.json", "{\"spdxVersion\": \"SPDX-2.2\", \"packages\": []}"),
    ] {
        assert_refused(file, text);
    }
}

#[test]
fn a_file_of_another_kind_says_so() {
    for (text, expected) in [
        ("{\"name\": \"x\", \"dependencies\": {}}", "not a lockfile or SBOM"),
        (
            "{\"@context\": \"https://spdx.example/3.0.1\", \"@graph\": []}",
            "not a lockfile or SBOM",
        ),
        ("{\"sbom\": {\"spdxVersion\": \"SPDX-2.3\"}}", "not a lockfile or SBOM"),
        ("[]", "not a lockfile or SBOM"),
        ("\npkg:npm/a@1.0.0\n", "give `-`"),
    ] {
        let run = Folder::new(&[("file", text)]).run(&service().url(), &["file"]);
        assert!(run.code == 2 && run.errors.contains(expected), "{text} {run:?}");
    }
}

#[test]
fn a_file_of_64_mib_is_read_and_a_larger_one_is_not() {
    let head = "{\"lockfileVersion\": 3, \"packages\": {}}";
    let of_size = |size: usize| format!("{head}{}", " ".repeat(size - head.len()));
    let folder = Folder::new(&[("package-lock.json", &of_size(64 << 20))]);
    assert_eq!(folder.run(&service().url(), &[]).code, 3);
    folder.write("repository/package-lock.json", &of_size((64 << 20) + 1));
    let run = folder.run(&service().url(), &[]);
    assert!(run.code == 2 && run.errors.contains("64 MiB"), "{run:?}");
}

#[test]
fn the_lockfiles_of_the_present_folder_are_the_default() {
    let service = service();
    let lock = npm_lock(&json!({"node_modules/a": {"version": "1.0.0"}}));
    let bun = "{\"lockfileVersion\": 2, \"workspaces\": {}, \"packages\": {\"b\": [\"b@1.0.0\", \"\", {}, \"\"]}}";
    let folder = Folder::new(&[("package-lock.json", &lock), ("bun.lock", bun), ("bom.json", "x")]);
    assert_eq!(folder.run(&service.url(), &[]).code, 0);
    assert_eq!(service.asked(), ["a 1.0.0", "b 1.0.0"]);
    assert_eq!(Folder::new(&[]).run(&service.url(), &[]).code, 3);
    let without = Folder::new(&[("old.json", &lock)]).run(&service.url(), &["--base", "old.json"]);
    assert!(without.code == 3 && without.output.contains("there is no lockfile"), "{without:?}");
    // A link that leads nowhere is a lockfile that cannot be read.
    let dangling = Folder::new(&[]);
    std::os::unix::fs::symlink("nowhere", dangling.path().join("yarn.lock")).unwrap();
    let run = dangling.run(&service.url(), &[]);
    assert!(run.code == 2 && run.errors.contains("yarn.lock"), "{run:?}");
    assert_eq!(run.errors.matches("os error 2").count(), 1, "{run:?}");
    assert_eq!(
        Folder::new(&[("bun.lockb", "#!/usr/bin/env bun\n\0")]).run(&service.url(), &[]).code,
        2
    );
}
