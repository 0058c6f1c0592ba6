//! Lockfiles in which one edit hides where a package comes from: what the package manager would install is requested.

use serde_json::{Value, json};

use crate::common::{Folder, Service, npm_lock, rows};
use crate::selection::{asked, service, tarball};

/// The requests for one package below node_modules, beside others.
fn asked_for(package: Value, others: Value) -> (Vec<String>, Value) {
    let mut packages = others;
    packages["node_modules/x"] = package;
    asked(("package-lock.json", &npm_lock(&packages)), &[])
}

/// The lockfile's one package is requested as `asked`, and breaks the rule `broken`; none if that is empty.
fn asks_and_breaks(service: &Service, lock: &str, asked: &str, broken: &str) {
    let run =
        Folder::new(&[("package-lock.json", lock)]).run(&service.url(), &["--format", "json"]);
    let broken: Vec<_> = Some(broken).into_iter().filter(|text| !text.is_empty()).collect();
    assert_eq!(run.broken(), broken, "{lock} {run:?}");
    let last = service.requests().last().map(crate::common::refs).unwrap_or_default();
    assert_eq!(last, [asked], "{lock}");
}

#[test]
fn a_link_makes_no_workspace_of_what_npm_installs() {
    let link = json!({"node_modules/y": {"resolved": "node_modules/x", "link": true}});
    for package in [
        json!({"version": "1.0.0", "resolved": tarball("x", "1.0.0")}),
        json!({"version": "1.0.0"}),
    ] {
        let (found, rest) = asked_for(package.clone(), link.clone());
        assert_eq!(found, ["x 1.0.0"], "{package}");
        assert_eq!(rest, json!({"link": 1}), "{package}");
    }
}

/// npm resolves the key of a package, so that it installs each of these as `x`.
#[test]
fn a_key_of_npm_names_its_folder_in_one_way() {
    for path in [
        "node_modules//x",
        "node_modules/x/",
        "/node_modules/x",
        "node_modules/./x",
        "./node_modules/x",
        "node_modules/y/../x",
        "packages/../node_modules/x",
        "node_modules/..",
        "node_modules/@s",
        "node_modules/y/lib/x",
        "node_modules",
        "node_modules\\x",
        "packages/node_modules/y\\..\\x",
    ] {
        let lock = npm_lock(&json!({path: {"name": "x", "version": "1.0.0"}}));
        let run = Folder::new(&[("package-lock.json", &lock)]).run(&service().url(), &[]);
        assert!(run.code == 2 && run.errors.contains("the key of a package"), "{path} {run:?}");
    }
    for path in ["..", "../..", "../lib", "packages/a", "packages/@s/a/b", "../@s/lib"] {
        let lock = npm_lock(&json!({
            path: {"name": "secret", "version": "1.0.0"},
            format!("{path}/node_modules/@s/x"): {"version": "1.0.0", "resolved": tarball("@s/x", "1.0.0")},
            "node_modules/y/node_modules/@s/x": {"version": "1.0.0"},
        }));
        let (found, rest) = asked(("package-lock.json", &lock), &[]);
        assert_eq!(
            (found, rest),
            (vec!["@s/x 1.0.0".to_owned()], json!({"workspace": 1})),
            "{path}"
        );
    }
}

/// The folder of the project is named `repository`.
#[test]
fn a_path_that_leads_back_into_the_project_is_not_outside() {
    let lock = npm_lock(&json!({
        "../repository/node_modules/x": {"version": "1.0.0"},
        "../other/node_modules/secret": {"version": "1.0.0"},
    }));
    let (found, rest) = asked(("package-lock.json", &lock), &[]);
    assert_eq!((found, rest), (vec!["x 1.0.0".to_owned()], json!({"workspace": 1})));
}

#[test]
fn a_fragment_makes_no_repository_of_a_tarball() {
    for end in ["#commit=1", "#0a1bcommit=1", "?x=.git#commit=1", "#commit=1.git"] {
        let place = format!("{}{end}", tarball("x", "1.0.0"));
        let (found, rest) = asked_for(json!({"version": "1.0.0", "resolved": place}), json!({}));
        assert_eq!((found, rest), (vec!["x 1.0.0".to_owned()], json!({})), "{end}");
        let yarn = format!(
            "# yarn lockfile v1\n\n\nx@^1.0.0:\n  version \"1.0.0\"\n  resolved \"{place}\"\n"
        );
        assert_eq!(asked(("yarn.lock", &yarn), &[]).0, ["x 1.0.0"], "{end}");
        let pnpm = format!(
            "lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    resolution: {{integrity: sha512-AAAA, tarball: '{place}'}}\n"
        );
        assert_eq!(asked(("pnpm-lock.yaml", &pnpm), &[]).0, ["x 1.0.0"], "{end}");
    }
    // Elsewhere it is a repository, and so is what has no tarball's path.
    for place in [
        "https://git.example/u/x.tgz#commit=1",
        "https://registry.example/u/x.git",
        "https://registry.example/u/x#commit=1",
    ] {
        let (found, rest) = asked_for(json!({"version": "1.0.0", "resolved": place}), json!({}));
        assert_eq!((found, rest), (Vec::<String>::new(), json!({"git": 1})), "{place}");
    }
}

#[test]
fn only_what_a_package_contains_is_bundled() {
    let parent = |bundles: Value| json!({"version": "1.0.0", "resolved": tarball("p", "1.0.0"), "bundleDependencies": bundles});
    let bundled = json!({"version": "1.0.0", "inBundle": true});
    for (path, bundles, expected) in [
        ("node_modules/x", json!(["x"]), true),
        ("node_modules/p/node_modules/x", json!([]), true),
        ("node_modules/p/node_modules/x", json!(["x"]), false),
        ("node_modules/p/node_modules/x", json!(["q"]), true),
        // What a contained package depends on is contained too.
        ("node_modules/p/node_modules/x", json!(["b"]), false),
        ("node_modules/p/node_modules/b/node_modules/x", json!(["b"]), false),
    ] {
        let lock = npm_lock(&json!({
            "": {"name": "root", "bundleDependencies": ["x"]},
            "node_modules/p": parent(bundles.clone()),
            "node_modules/p/node_modules/b": {"version": "1.0.0", "inBundle": true, "dependencies": {"x": "^1.0.0"}},
            path: bundled.clone(),
        }));
        let (found, _) = asked(("package-lock.json", &lock), &[]);
        assert_eq!(found.contains(&"x 1.0.0".to_owned()), expected, "{path} {bundles}");
    }
    // Version 1 does not say which package contains another, and npm downloads what is only marked.
    let marked = json!({"version": "1.0.0", "bundled": true});
    let old = json!({"lockfileVersion": 1, "dependencies": {"x": marked, "p": {"version": "1.0.0", "dependencies": {"y": marked}}}});
    let found = asked(("package-lock.json", &old.to_string()), &[]).0;
    assert_eq!(found, ["p 1.0.0", "x 1.0.0", "y 1.0.0"]);
    let bun = "{\"lockfileVersion\": 1, \"packages\": {\"x\": [\"x@1.0.0\", \"\", {\"bundled\": true}, \"\"], \"@s/p/x\": [\"x@2.0.0\", \"\", {\"bundled\": true}, \"\"]}}";
    let expected = (vec!["x 1.0.0".to_owned()], json!({"bundled": 1}));
    assert_eq!(asked(("bun.lock", bun), &[]), expected);
}

/// npm reads `resolved` like the specifier of a dependency.
#[test]
fn a_location_by_name_is_asked_for_in_the_registry() {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    for (resolved, asked, broken) in [
        ("1.0.0", "x 1.0.0", ""),
        ("npm:x@1.0.0", "x 1.0.0", ""),
        ("x@1.0.0", "x 1.0.0", ""),
        ("1.0.1", "x 1.0.1", "location x 1.0.1"),
        ("npm:@s/evil@1.0.0", "@s/evil 1.0.0", "location @s/evil 1.0.0"),
        ("NPM:evil@1.0.0", "evil 1.0.0", "location evil 1.0.0"),
        // The registry decides which version that is.
        ("latest", "x 1.0.0", "location x 1.0.0"),
        ("^1.0.0", "x 1.0.0", "location x 1.0.0"),
        ("1.0.0 || 6.6.6", "x 1.0.0", "location x 1.0.0"),
        ("npm:x", "x 1.0.0", "location x 1.0.0"),
    ] {
        let lock = npm_lock(&json!({"node_modules/x": {"version": "1.0.0", "resolved": resolved}}));
        asks_and_breaks(&service, &lock, asked, broken);
    }
    let npmrc = (".npmrc", "@corp:registry=https://npm.corp.example/\n");
    for resolved in ["npm:@corp/secret@1.0.0", "x-1.0.0.tgz", "./x", "u/x", "git@x.example:u/x"] {
        let lock = npm_lock(&json!({"node_modules/x": {"version": "1.0.0", "resolved": resolved}}));
        assert_eq!(self::asked(("package-lock.json", &lock), &[npmrc]).0, [""; 0], "{resolved}");
    }
}

/// npm 11 installs each of these: without a location, it reads `version` like the specifier of a dependency.
#[test]
fn a_version_of_npm_is_asked_for_as_npm_reads_it() {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    for (version, asked, broken) in [
        ("1.0.0", "x 1.0.0", ""),
        ("1.0.0+build", "x 1.0.0+build", ""),
        ("v1.0.0", "x 1.0.0", "location x 1.0.0"),
        ("=1.0.0", "x =1.0.0", "location x =1.0.0"),
        ("latest", "x latest", "location x latest"),
        ("^1.0.0", "x ^1.0.0", "location x ^1.0.0"),
        ("npm:evil@1.0.0", "evil 1.0.0", "location evil 1.0.0"),
        ("npm:evil", "evil latest", "location evil latest"),
        (&tarball("evil", "1.0.0"), "evil 1.0.0", "location evil 1.0.0"),
    ] {
        let lock = npm_lock(&json!({"node_modules/x": {"version": version}}));
        asks_and_breaks(&service, &lock, asked, broken);
    }
}

/// Aliases of version 1 are in `version`. In which case the letters are makes no difference to npm.
#[test]
fn npm_version_1_hides_no_alias_and_no_second_place() {
    let lock = |package: &Value| json!({"lockfileVersion": 1, "dependencies": {"x": package}});
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    for (version, asked, broken) in [
        ("NPM:@s/real@1.0.0", "@s/real 1.0.0", ""),
        ("npm:@s/real", "@s/real latest", "location @s/real latest"),
        ("npm:real@^1.0.0", "real ^1.0.0", "location real ^1.0.0"),
        ("v1.0.0", "x 1.0.0", "location x 1.0.0"),
    ] {
        let lock = lock(&json!({"version": version, "integrity": "sha512-AAAA"})).to_string();
        asks_and_breaks(&service, &lock, asked, broken);
    }
    let file = json!({"version": "x.tgz"});
    let found = asked(("package-lock.json", &lock(&file).to_string()), &[]);
    assert_eq!(found, (vec![], json!({"file": 1})));
    // With a digest npm 11 installs the first of two places, without one the second, and of a repository the first.
    for package in [
        json!({"version": tarball("evil", "1.0.0"), "resolved": tarball("x", "1.0.0"), "integrity": "sha512-AAAA"}),
        json!({"version": tarball("x", "1.0.0"), "resolved": tarball("evil", "1.0.0")}),
        json!({"version": "git+https://git.example/x.git#0a", "resolved": tarball("x", "1.0.0")}),
    ] {
        let lock = lock(&package).to_string();
        let run = Folder::new(&[("package-lock.json", &lock)]).run(&service.url(), &[]);
        assert!(run.code == 2 && run.errors.contains("two places"), "{package} {run:?}");
    }
    let twice = json!({"version": tarball("x", "1.0.0"), "resolved": tarball("x", "1.0.0")});
    assert_eq!(asked(("package-lock.json", &lock(&twice).to_string()), &[]).0, ["x 1.0.0"]);
    // npm 6 installs from `dependencies`, later ones from `packages`.
    let mut both = lock(&json!({"version": "1.0.0"}));
    both["packages"] = json!({"node_modules/x": {"version": "2.0.0"}});
    let run = Folder::new(&[("package-lock.json", &both.to_string())]).run(&service.url(), &[]);
    assert!(run.code == 2 && run.errors.contains("`packages` in version 1"), "{run:?}");
}

/// npm 6 writes the packages of a linked folder below the link. Of those that it did not install it knows no location.
#[test]
fn npm_version_1_asks_about_nothing_of_another_project_without_a_location() {
    let nested = json!({
        "ms": {"version": "2.0.0", "resolved": tarball("ms", "2.0.0")},
        "secret": {"version": "1.0.0", "dependencies": {"secret-2": {"version": "1.0.0"}}},
    });
    for (folder, expected, rest) in [
        ("file:../other", vec!["ms 2.0.0"], json!({"file": 1, "workspace": 2})),
        // npm itself installs what is below a folder of the project. The project's folder is named `repository`.
        ("file:inner", vec!["ms 2.0.0", "secret 1.0.0", "secret-2 1.0.0"], json!({"file": 1})),
        (
            "file:../other.tgz",
            vec!["ms 2.0.0", "secret 1.0.0", "secret-2 1.0.0"],
            json!({"file": 1}),
        ),
        (
            "file:../repository/a",
            vec!["ms 2.0.0", "secret 1.0.0", "secret-2 1.0.0"],
            json!({"file": 1}),
        ),
    ] {
        let lock = json!({"lockfileVersion": 1, "requires": true, "dependencies": {
            "folder": {"version": folder, "requires": {"secret": "1.0.0"}, "dependencies": nested},
        }});
        let (found, left_out) = asked(("package-lock.json", &lock.to_string()), &[]);
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!((found, left_out), (expected, rest), "{folder}");
    }
}

/// Yarn 1 looks for a path in the registry, and asks there by the pattern.
#[test]
fn yarn_1_asks_the_registry_by_a_path_and_by_the_pattern() {
    let yarn =
        |lines: &str| format!("# yarn lockfile v1\n\n\nx@^1.0.0:\n  version \"1.0.0\"\n{lines}\n");
    for (lines, expected) in [
        ("  resolved \"x/-/x-1.0.0.tgz#0a\"", "x 1.0.0"),
        ("  name other", "x 1.0.0"),
        ("  resolved \"evil/-/evil-1.0.0.tgz\"\n  name other", "evil 1.0.0"),
    ] {
        let service = service();
        Folder::new(&[("yarn.lock", &yarn(lines))]).run(&service.url(), &[]);
        assert_eq!(service.asked(), [expected], "{lines}");
    }
    for lines in ["  resolved x-1.0.0.tgz#0a", "  resolved \"./x/-/x-1.0.0.tgz\""] {
        assert_eq!(asked(("yarn.lock", &yarn(lines)), &[]).1, json!({"file": 1}), "{lines}");
    }
}

/// Yarn 1 reads each of these as a property of the entry, and writes none of them.
#[test]
fn a_property_of_yarn_1_has_one_form() {
    let lock =
        |lines: &str| format!("# yarn lockfile v1\n\n\nx@^1.0.0:\n  version \"1.0.0\"\n{lines}\n");
    for lines in [
        "  resolved \"PLACE\" # a comment",
        "  resolved \"PLACE\"#",
        "  \"resolved\"  \"PLACE\"\r",
        "  resolved \"PLACE\"\n  dependencies:\n    \"@s/y\" \"\"",
    ] {
        let lock = lock(&lines.replace("PLACE", &tarball("evil", "1.0.0")));
        let lock = format!("{lock}\n\"@s/y@\":\n  version \"1.0.0\"\n");
        assert_eq!(asked_of_yarn(&lock), ["@s/y 1.0.0", "evil 1.0.0"], "{lock}");
    }
    for lines in [
        "  resolved: \"PLACE\"",
        "  \"resolved\": \"PLACE\"",
        "  resolved \"PLACE\" x:",
        "  version \"1.0.0\" resolved \"PLACE\"",
        "  version \"1.0.0\" resolved \"PLACE\" dependencies:",
        "  version \"1.0.0\"\r  resolved \"PLACE\"",
        "  version 1\"resolved\"\"PLACE\"",
        "  foo,resolved \"PLACE\"",
        "  foo, resolved \"PLACE\"",
        "  foo, resolved: \"PLACE\"",
        "  resolved\"PLACE\"",
        "  # comment\r  resolved \"PLACE\"",
    ] {
        let lock = lock(&lines.replace("PLACE", &tarball("evil", "1.0.0")));
        let service = service();
        let run = Folder::new(&[("yarn.lock", &lock)]).run(&service.url(), &[]);
        assert!(run.code == 2 && run.errors.contains("line "), "{lock} {run:?}");
        assert_eq!(service.asked(), [""; 0]);
    }
}

fn asked_of_yarn(lock: &str) -> Vec<String> {
    let service = service();
    Folder::new(&[("yarn.lock", lock)]).run(&service.url(), &[]);
    service.asked()
}

/// An entry without a name is an address, which may have credentials.
#[test]
fn no_credentials_of_an_address_are_reported() {
    let yarn = "# yarn lockfile v1\n\n\n\"https://u:SECRET@github.com/u/r.git\":\n  version \"1.0.0\"\n  resolved \"git+https://u:SECRET@github.com/u/r.git#0a\"\n";
    let berry = "__metadata:\n  version: 8\n\n\"x@https://u:SECRET@github.com/u/r.git\":\n  version: 1.0.0\n  resolution: \"https://u:SECRET@github.com/u/r.git#commit=0a\"\n";
    let pnpm = "lockfileVersion: '6.0'\npackages:\n\n  '@git+https://u:SECRET@x.example/u/r':\n    resolution: {type: git, repo: x, commit: 0a}\n";
    for (file, lock) in [("yarn.lock", yarn), ("yarn.lock", berry), ("pnpm-lock.yaml", pnpm)] {
        for format in ["text", "github"] {
            let folder = Folder::new(&[(file, lock)]);
            let run = folder.run(&service().url(), &["--format", format]);
            assert!(run.code == 2 && !format!("{run:?}").contains("SECRET"), "{lock} {run:?}");
        }
    }
}

/// Yarn 2 and later install what the resolution names, whatever the key of the entry is.
#[test]
fn a_resolution_of_another_package_breaks_a_rule() {
    let place = "__archiveUrl=https%3A%2F%2Fregistry.example%2Fevil%2F-%2Fevil-3.0.0.tgz";
    for (key, version, resolution, asked, broken) in [
        ("ms@npm:^2.1.0", "2.1.3", "ms@npm:2.1.3", "ms 2.1.3", ""),
        ("ms@^2.1.0, ms@npm:2", "2.1.3+b", "ms@npm:2.1.3", "ms 2.1.3", ""),
        ("a@npm:@s/ms@^2, @s/ms@npm:^2", "2.1.3", "@s/ms@npm:2.1.3", "@s/ms 2.1.3", ""),
        ("a@patch:ms@npm%3A2#./p", "2.1.3", "a@patch:ms@npm%3A2.1.3#./p", "ms 2.1.3", ""),
        ("ms@npm:^2.1.0", "3.0.1", "evil@npm:3.0.1", "evil 3.0.1", "location"),
        ("evil@npm:3,ms@npm:^2.1.0", "3.0.1", "evil@npm:3.0.1", "evil 3.0.1", "location"),
        ("ms@^2.1.0", "3.0.1", "evil@npm:3.0.1", "evil 3.0.1", "location"),
        ("a@npm:ms@^2", "3.0.1", "evil@npm:3.0.1", "evil 3.0.1", "location"),
        ("a@patch:ms@npm%3A2#p", "3.0.1", "a@patch:evil@npm%3A3.0.1#p", "evil 3.0.1", "location"),
        ("ms@npm:^2.1.0", "2.1.3", "ms@npm:2.1.2", "ms 2.1.2", "location"),
        ("ms@npm:^2.1.0", "3.0.0", &format!("evil@npm:3.0.0::{place}"), "evil 3.0.0", "location"),
        (
            "ms@npm:^2.1.0",
            "3.0.0",
            "evil@https://registry.example/evil/-/evil-3.0.0.tgz",
            "evil 3.0.0",
            "location",
        ),
    ] {
        let lock = format!(
            "__metadata:\n  version: 8\n\n\"{key}\":\n  version: {version}\n  resolution: \"{resolution}\"\n"
        );
        let service = service();
        let folder = Folder::new(&[("yarn.lock", &lock)]);
        let run = folder.run(&service.url(), &["--format", "json"]);
        let broken = Some(broken).filter(|rule| !rule.is_empty());
        let broken: Vec<_> = broken.iter().map(|rule| format!("{rule} {asked}")).collect();
        assert_eq!((run.broken(), service.asked()), (broken, vec![asked.to_owned()]), "{lock}");
    }
}

#[test]
fn pnpm_reads_neither_its_mark_of_a_repository_nor_a_registry() {
    for resolution in [
        format!("integrity: sha512-AAAA, tarball: '{}', gitHosted: true", tarball("x", "1.0.0")),
        "integrity: sha512-AAAA, tarball: x/-/x-1.0.0.tgz".to_owned(),
        "integrity: sha512-AAAA, tarball: /x/-/x-1.0.0.tgz, registry: 'https://other.example/'"
            .to_owned(),
        "integrity: sha512-AAAA, registry: 'https://other.example/'".to_owned(),
    ] {
        let lock = format!(
            "lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    resolution: {{{resolution}}}\n"
        );
        let (found, rest) = asked(("pnpm-lock.yaml", &lock), &[]);
        assert_eq!((found, rest), (vec!["x 1.0.0".to_owned()], json!({})), "{resolution}");
    }
    let hosted = "lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    resolution: {tarball: 'https://git.example/u/x/archive.tar.gz', gitHosted: true}\n";
    assert_eq!(asked(("pnpm-lock.yaml", hosted), &[]).1, json!({"git": 1}));
    for place in ["git+ssh://git@x.example/u/x", "file:x", "https://x.example/x.tgz"] {
        let nowhere = format!(
            "lockfileVersion: '9.0'\npackages:\n  x@{place}:\n    resolution: {{integrity: sha512-AAAA}}\n    version: 1.0.0\n"
        );
        let run = Folder::new(&[("pnpm-lock.yaml", &nowhere)]).run(&service().url(), &[]);
        assert!(run.code == 2 && run.errors.contains("without a place"), "{place} {run:?}");
    }
    let other = "lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    resolution: {integrity: sha512-AAAA}\n    version: 2.0.0\n";
    let service = service();
    let folder = Folder::new(&[("pnpm-lock.yaml", other)]);
    let run = folder.run(&service.url(), &["--format", "json"]);
    assert_eq!((run.code, run.broken()), (1, vec!["location x 2.0.0".to_owned()]), "{run:?}");
    assert_eq!(service.asked(), ["x 2.0.0"]);
}

/// pnpm 9 and later install what `snapshots` lists.
#[test]
fn pnpm_snapshots_hide_no_package() {
    let lock = |packages: &str, snapshots: &str| {
        let integrity = "resolution: {integrity: sha512-AAAA}";
        let importers = "importers:\n  .:\n    dependencies:\n      ms:\n        specifier: ^2\n        version: 2.1.3\n";
        format!("lockfileVersion: '9.0'\n{importers}{packages}snapshots:\n{snapshots}\n")
            .replace("INTEGRITY", integrity)
    };
    let packages = "packages:\n  ms@2.1.3:\n    INTEGRITY\n";
    let real = lock(packages, "  ms@2.1.3: {}\n  ms@2.1.3(a@1.0.0(b@1.0.0))(c@1.0.0): {}\n");
    assert_eq!(asked(("pnpm-lock.yaml", &real), &[]).0, ["ms 2.1.3"]);
    for (packages, snapshots) in [
        ("", "  ms@2.1.3:\n    INTEGRITY\n"),
        ("packages: {}\n", "  ms@2.1.3:\n    INTEGRITY\n"),
        (packages, "  ms@2.1.3: {}\n  evil@1.0.0:\n    INTEGRITY\n"),
        // pnpm reads a suffix at the end alone.
        (packages, "  ms@2.1.3: {}\n  ms@2.1.3(a)x:\n    dependencies: {}\n"),
        (packages, "  ms@2.1.3:\n    version: 2.1.2\n"),
        (packages, "  ms@2.1.3:\n    name: evil\n"),
        (packages, "  ms@2.1.3:\n    INTEGRITY\n"),
        // js-yaml adds the members of such a mapping.
        (packages, "  ms@2.1.3:\n    <<: {version: 2.1.2}\n"),
    ] {
        let lock = lock(packages, snapshots);
        let run = Folder::new(&[("pnpm-lock.yaml", &lock)]).run(&service().url(), &[]);
        let is_told = ["a snapshot", "merge key"].iter().any(|text| run.errors.contains(text));
        assert!(run.code == 2 && is_told, "{lock} {run:?}");
    }
}

#[test]
fn a_resolution_of_pnpm_of_an_unknown_type_is_refused() {
    for ty in ["remoteTarball", "localTarball", "custom:x", "''", "[]"] {
        let lock = format!(
            "lockfileVersion: '9.0'\npackages:\n  x@1.0.0:\n    resolution: {{type: {ty}, tarball: '{}'}}\n",
            tarball("x", "1.0.0")
        );
        let run = Folder::new(&[("pnpm-lock.yaml", &lock)]).run(&service().url(), &[]);
        assert!(run.code == 2 && run.errors.contains("not known"), "{ty} {run:?}");
    }
}

#[test]
fn a_host_is_recognized_however_its_address_is_written() {
    for place in [
        "https://registry.example//x/-/x-1.0.0.tgz",
        "https://registry.example./x/-/x-1.0.0.tgz",
        "https://registry.example/%78/-/%78-1.0.0.tgz",
        "HTTPS:\\\\registry.example\\x\\-\\x-1.0.0.tgz",
    ] {
        let (found, _) = asked_for(json!({"version": "1.0.0", "resolved": place}), json!({}));
        assert_eq!(found, ["x 1.0.0"], "{place}");
    }
}

/// Some tools write the address of the default registry for the packages of every registry.
#[test]
fn the_settings_count_for_an_sbom_with_locations_too() {
    let place = tarball("@corp/secret", "1.0.0");
    let cyclonedx = json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [
        {"name": "secret", "purl": "pkg:npm/%40corp/secret@1.0.0",
            "externalReferences": [{"type": "distribution", "url": place}]},
        {"name": "a", "purl": "pkg:npm/a@1.0.0",
            "externalReferences": [{"type": "distribution", "url": tarball("a", "1.0.0")}]},
    ]});
    let spdx = json!({"spdxVersion": "SPDX-2.3", "packages": [
        {"SPDXID": "SPDXRef-1", "downloadLocation": place, "externalRefs": [
            {"referenceType": "purl", "referenceLocator": "pkg:npm/%40corp/secret@1.0.0"}]},
        {"SPDXID": "SPDXRef-2", "downloadLocation": tarball("a", "1.0.0"), "externalRefs": [
            {"referenceType": "purl", "referenceLocator": "pkg:npm/a@1.0.0"}]},
    ]});
    for sbom in [cyclonedx.to_string(), spdx.to_string()] {
        let of_scope = (".npmrc", "@corp:registry=https://npm.corp.example/\n");
        let (found, rest) = asked(("bom.json", &sbom), &[of_scope]);
        assert_eq!((found, rest), (vec!["a 1.0.0".to_owned()], json!({"other-registry": 1})));
        let of_all = ("pnpm-workspace.yaml", "registries:\n  default: https://npm.corp.example/\n");
        let (found, rest) = asked(("bom.json", &sbom), &[of_all]);
        assert_eq!((found, rest), (vec![], json!({"other-registry": 2})));
        assert_eq!(asked(("bom.json", &sbom), &[]).0.len(), 2);
    }
}

/// As cdxgen writes it for a workspace of pnpm: the project's own packages are nested in the root.
#[test]
fn workspaces_in_an_sbom_are_not_asked() {
    let own = |name: &str, ty: &str| json!({"type": ty, "name": name, "purl": format!("pkg:npm/{name}@1.0.0")});
    let mut marked = own("%40corp/lib", "library");
    marked["properties"] = json!([{"name": "internal:is_workspace", "value": "true"}]);
    let sbom = json!({"bomFormat": "CycloneDX", "specVersion": "1.6",
        "metadata": {"component": {"type": "application", "name": "root",
            "components": [own("%40corp/app", "application"), marked, own("b", "library")]}},
        "components": [own("a", "library")]});
    let (found, rest) = asked(("bom.json", &sbom.to_string()), &[]);
    assert_eq!(
        (found, rest),
        (vec!["a 1.0.0".to_owned(), "b 1.0.0".to_owned()], json!({"workspace": 2}))
    );
}

#[test]
fn a_yarn_lock_that_ends_between_two_entries_is_not_audited() {
    let yarn_1 = "# yarn lockfile v1\n\n\na@1.0.0:\n  version \"1.0.0\"\n  dependencies:\n    b \"1.0.0\"\n    \"@s/workspace\" \"1.0.0\"\n    o \"1.0.0\"\n  optionalDependencies:\n    o \"1.0.0\"\n\nb@1.0.0:\n  version \"1.0.0\"\n  dependencies:\n    c-alias \"npm:c@1.0.0\"\n\n\"c-alias@npm:c@1.0.0\":\n  version \"1.0.0\"\n";
    let berry = "__metadata:\n  version: 8\n\n\"a@npm:^1.0.0, a@npm:~1.0.0\":\n  version: 1.0.0\n  resolution: \"a@npm:1.0.0\"\n  dependencies:\n    b: \"npm:^1.0.0\"\n    o: \"npm:^1.0.0\"\n  dependenciesMeta:\n    o:\n      optional: true\n  peerDependencies:\n    p: \"*\"\n  linkType: hard\n\n\"b@npm:^1.0.0\":\n  version: 1.0.0\n  resolution: \"b@npm:1.0.0\"\n  dependencies:\n    c-alias: \"npm:c@^1.0.0\"\n  linkType: hard\n\n\"c-alias@npm:c@^1.0.0\":\n  version: 1.0.0\n  resolution: \"c@npm:1.0.0\"\n  linkType: hard\n";
    for text in [yarn_1, berry] {
        assert_eq!(asked(("yarn.lock", text), &[]).0, ["a 1.0.0", "b 1.0.0", "c 1.0.0"], "{text}");
        for entry in ["\nb@", "\n\"b@", "\n\"c-alias"] {
            let Some((head, _)) = text.split_once(entry) else { continue };
            let service = service();
            let run = Folder::new(&[("yarn.lock", head)]).run(&service.url(), &[]);
            assert!(run.code == 2 && run.errors.contains("cut off"), "{run:?} {head}");
            assert_eq!(service.asked(), [""; 0]);
        }
    }
}

/// A workspace, of which Yarn 1 has no entry, is not taken for one that was cut off.
#[test]
fn a_yarn_lock_of_a_project_with_workspaces_is_whole() {
    let text = "# yarn lockfile v1\n\n\na@1.0.0:\n  version \"1.0.0\"\n  dependencies:\n    b-workspace \"1.0.0\"\n\nc@1.0.0:\n  version \"1.0.0\"\n";
    assert_eq!(asked(("yarn.lock", text), &[]).0, ["a 1.0.0", "c 1.0.0"]);
    // Behind the last entry it looks like a part that was cut off, unless the project says that it has workspaces.
    let text = text.replace("b-workspace", "z-workspace");
    let run = Folder::new(&[("yarn.lock", &text)]).run(&service().url(), &[]);
    assert_eq!(run.code, 2, "{run:?}");
    let project = ("package.json", "{\"workspaces\": [\"packages/*\"]}");
    let files = [("yarn.lock", text.as_str()), project, ("../base/yarn.lock", text.as_str())];
    let folder = Folder::new(&files);
    let run = folder.run(&service().url(), &[]);
    assert_eq!(run.code, 0, "{run:?}");
    // A base lies elsewhere, and is of the same project.
    let run = folder.run(&service().url(), &["--base", "../base/yarn.lock"]);
    assert_eq!(run.code, 0, "{run:?}");
}

/// Yarn 1 writes the range of the dependency beside the place to which a resolution leads it.
#[test]
fn a_resolution_to_a_place_is_there_for_each_of_its_patterns() {
    for (text, expected) in [
        ("s@^1.0.0, \"s@file:../s\":\n  version \"1.2.0\"\n", json!({"file": 1})),
        (
            "s@^1.0.0:\n  version \"0.0.0\"\n  uid \"\"\n\n\"s@link:../s\":\n  version \"0.0.0\"\n  uid \"\"\n",
            json!({"link": 2}),
        ),
    ] {
        let text = format!("# yarn lockfile v1\n\n\n{text}");
        let (found, left_out) = asked(("yarn.lock", &text), &[]);
        assert_eq!((found, left_out), (Vec::<String>::new(), expected), "{text}");
    }
}

#[test]
fn a_tarball_beside_package_json_is_a_file_in_bun_lock() {
    let bun = "{\"lockfileVersion\": 1, \"packages\": {\"v1\": [\"vend@a.tgz\", {}, \"sha512-AAAA\"], \"a\": [\"a@1.0.0\", \"\", {}, \"\"]}}";
    let expected = (vec!["a 1.0.0".to_owned()], json!({"file": 1}));
    assert_eq!(asked(("bun.lock", bun), &[]), expected);
    // A version is no name of a file, and a registry has an address.
    for package in ["[\"a@1.0.0\", {}, \"sha512-AAAA\"]", "[\"a@1.0.0\", \"x\", {}, \"\"]"] {
        let bun = format!("{{\"lockfileVersion\": 1, \"packages\": {{\"a\": {package}}}}}");
        let run = Folder::new(&[("bun.lock", &bun)]).run(&service().url(), &[]);
        assert_eq!(run.code, 2, "{package} {run:?}");
    }
}
