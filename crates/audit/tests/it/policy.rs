//! Rules, levels, exceptions, `--base`, and the exit codes.

use serde_json::{Value, json};

use crate::common::{Folder, Run, Service, npm_lock, rows};

/// A service and a lockfile with one package without a location; `row` is its answer.
fn one(row: Value, integrity: Option<&str>) -> (Service, Folder) {
    let mut entry = json!({"version": "1.2.3"});
    if let Some(integrity) = integrity {
        entry["integrity"] = json!(integrity);
    }
    let lock = npm_lock(&json!({"node_modules/a": entry}));
    let service = Service::of(&["registry.example"], rows(&[("a 1.2.3", row)]));
    (service, Folder::new(&[("package-lock.json", &lock)]))
}

fn run(service: &Service, folder: &Folder, policy: &str) -> Run {
    folder.write("repository/policy.toml", policy);
    folder.run(&service.url(), &["--policy", "policy.toml", "--format", "json"])
}

#[test]
fn each_rule_has_its_default_level() {
    let returning = "2024-12-31T03:04:05.678Z";
    let exactly_a_year = "2025-01-02T03:04:05.678Z";
    for (row, integrity, expected, code) in [
        (json!({}), None, None, 0),
        (json!({"tor": true}), None, Some("tor"), 1),
        (json!({"weaker": true, "tfa": false}), None, Some("weaker"), 1),
        (json!({"weaker": null}), None, None, 0),
        (json!({"integrity": "sha512-AAAA"}), Some("sha512-BBBB"), Some("integrity"), 1),
        (json!({"integrity": "sha512-AAA="}), Some("sha512-AAA sha1-AAAA"), None, 0),
        (json!({"integrity": "not sri"}), Some("sha512-AAAA"), None, 0),
        (json!({"newPublisher": true}), None, Some("new-publisher"), 0),
        (json!({"newPublisher": null}), None, None, 0),
        (json!({"publisherLast": returning}), None, Some("returning-publisher"), 0),
        (json!({"publisherLast": exactly_a_year}), None, None, 0),
        (json!({"disputed": true}), None, Some("disputed"), 0),
        (json!({"tor": null}), None, Some("unknown"), 0),
        (json!({"tfa": null}), None, Some("unknown"), 0),
        (json!({"tfa": false}), None, None, 0),
        (json!({"created": "2999-01-01T00:00:00.000Z"}), None, None, 0),
    ] {
        let (service, folder) = one(row.clone(), integrity);
        let run = folder.run(&service.url(), &["--format", "json"]);
        let expected: Vec<_> = expected.iter().map(|rule| format!("{rule} a 1.2.3")).collect();
        assert_eq!((run.broken(), run.code), (expected, code), "{row}");
    }
}

#[test]
fn no_row_is_unknown() {
    let lock = npm_lock(&json!({"node_modules/a": {"version": "1.2.3"}}));
    let service = Service::of(&["registry.example"], rows(&[]));
    let folder = Folder::new(&[("package-lock.json", &lock)]);
    let result = run(&service, &folder, "");
    assert_eq!((result.broken(), result.code), (vec!["unknown a 1.2.3".to_owned()], 0));
    assert_eq!(run(&service, &folder, "[rules]\nunknown = \"error\"\n").code, 1);
    assert_eq!(run(&service, &folder, "[rules]\nunknown = \"off\"\n").broken(), [""; 0]);
}

#[test]
fn a_policy_sets_levels_days_and_minutes() {
    let last = "2026-01-01T03:04:05.678Z";
    for (row, policy, expected) in [
        (json!({"tor": true}), "tor = \"warn\"", 0),
        (json!({"tfa": false}), "no-second-factor = \"error\"", 1),
        (
            json!({"publisherLast": last}),
            "returning-publisher = { level = \"error\", days = 1 }",
            0,
        ),
        (
            json!({"publisherLast": last}),
            "returning-publisher = { level = \"error\", days = 0 }",
            1,
        ),
        (json!({"publisherLast": last}), "returning-publisher = { days = 0 }", 0),
        (json!({}), "too-young = { level = \"error\", minutes = 60 }", 0),
        (
            json!({"created": "2999-01-01T00:00:00Z"}),
            "too-young = { level = \"error\", minutes = 60 }",
            1,
        ),
        (json!({"created": "2999-01-01T00:00:00Z"}), "too-young = \"error\"", 1),
    ] {
        let (service, folder) = one(row.clone(), None);
        assert_eq!(
            run(&service, &folder, &format!("[rules]\n{policy}\n")).code,
            expected,
            "{row} {policy}"
        );
    }
}

#[test]
fn a_policy_that_has_no_meaning_ends_with_2() {
    let (service, folder) = one(json!({}), None);
    let exception = |lines: &str| {
        format!("[[exception]]\npackage = \"a\"\nrule = \"tor\"\nreason = \"x\"\n{lines}")
    };
    for policy in [
        "[rules]\ntor = \"fatal\"".to_owned(),
        "[rules]\ntorr = \"warn\"".to_owned(),
        "[rule]\ntor = \"warn\"".to_owned(),
        "[rules]\ntor = { level = \"warn\", days = 3 }".to_owned(),
        "[rules]\ntoo-young = { level = \"warn\", days = 3 }".to_owned(),
        "[rules]\nreturning-publisher = { days = -1 }".to_owned(),
        "[rules".to_owned(),
        exception("versions = \"not a range\""),
        // npm refuses these, or no version is in them.
        exception("versions = \">=1.2.0, <1.3.0\""),
        exception("versions = \"1.2.3 other\""),
        exception("versions = \"^1.2.0 || 1.2.3,\""),
        exception("versions = \"1.2.0 - \""),
        exception("versions = \"- 1.2.3\""),
        exception("versions = \"1.2.0 - 1.3,\""),
        exception("versions = \"1.2.0 >=\""),
        exception("versions = \"> = 1.2\""),
        // npm refuses each of these.
        exception("versions = \"01.2.3\""),
        exception("versions = \"1.2.3-01\""),
        exception("versions = \"1.x.3\""),
        exception("versions = \"X.1\""),
        exception("versions = \"^*\""),
        exception("versions = \"> x\""),
        exception("versions = \">=1.2 - 2\""),
        exception("versions = \"1.2 - <2\""),
        exception("versions = \"1.2 - 2 <1.5\""),
        exception("versions = \"1.2.3.4\""),
        exception("versions = \">=3 <2\""),
        exception("versions = \"1.2.3 || >=3 <2\""),
        exception("until = \"soon\""),
        exception("until = 2026-02-30"),
        exception("until = 2026-01-01T00:00:00Z"),
        exception("unti = \"2026-01-01\""),
        "[[exception]]\npackage = \"a\"\nrule = \"tor\"\nreason = \" \"".to_owned(),
        "[[exception]]\npackage = \"a\"\nrule = \"tor\"".to_owned(),
    ] {
        let result = run(&service, &folder, &policy);
        assert_eq!(result.code, 2, "{policy}: {result:?}");
        assert!(result.errors.contains("policy.toml"), "{result:?}");
    }
    let words = run(&service, &folder, "[rules]\ntor = \"Error\"").errors;
    assert!(words.contains("`error`, `warn` or `off`"), "{words}");
    assert_eq!(folder.run(&service.url(), &["--policy", "missing.toml"]).code, 2);
    assert!(service.requests().is_empty());
}

#[test]
fn exceptions_cover_a_range_until_a_day() {
    let (service, folder) = one(json!({"tor": true}), None);
    for (lines, is_covered, outdated, unused) in [
        ("", true, 0, 0),
        ("versions = \"1.2.3\"", true, 0, 0),
        ("versions = \"^1.0.0 || 3\"", true, 0, 0),
        ("versions = \">=2\"", false, 0, 1),
        ("versions = \"3.x || > 1.1 < 2\"", true, 0, 0),
        ("versions = \"1.2.4 - 1.3 || ~1.2.0 =1.2.3\"", true, 0, 0),
        ("versions = \"*\"", true, 0, 0),
        ("versions = \"v1.x || 1.X.* || 1.2.3-rc.1+b.01\"", true, 0, 0),
        ("until = \"2999-12-31\"", true, 0, 0),
        ("until = 2999-12-31", true, 0, 0),
        ("until = \"2020-01-01\"", false, 1, 0),
    ] {
        let policy = format!(
            "[[exception]]\npackage = \"a\"\nrule = \"tor\"\nreason = \"checked\"\n{lines}\n"
        );
        let result = run(&service, &folder, &policy);
        assert_eq!(result.code, if is_covered { 0 } else { 1 }, "{lines}");
        let report = result.json();
        let count = |key: &str| report["exceptions"][key].as_array().unwrap().len();
        assert_eq!((count("outdated"), count("unused")), (outdated, unused), "{lines}");
        assert_eq!(report["findings"][0]["exception"].is_string(), is_covered, "{lines}");
    }
    let other = "[[exception]]\npackage = \"a\"\nrule = \"weaker\"\nreason = \"x\"\n";
    folder.write("repository/policy.toml", other);
    let text = folder.run(&service.url(), &["--policy", "policy.toml"]);
    assert!(text.output.contains("for a (all versions), weaker is not used"), "{text:?}");
}

/// Two entries may lead to the same tarball, and the one is not accepted with the other.
#[test]
fn an_exception_for_a_location_names_the_entry() {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    let evil = "https://registry.example/evil/-/evil-1.0.0.tgz";
    let lock = npm_lock(&json!({
        "node_modules/a": {"version": "1.0.0", "resolved": evil},
        "node_modules/b": {"version": "2.0.0", "resolved": evil},
    }));
    let folder = Folder::new(&[("package-lock.json", &lock)]);
    let suggested = folder.run(&service.url(), &[]).output;
    assert!(suggested.contains("package = \"b\"\n      versions = \"2.0.0\""), "{suggested}");
    for (package, accepted) in [("a", 1), ("evil", 0)] {
        let policy = format!(
            "[[exception]]\npackage = \"{package}\"\nrule = \"location\"\nreason = \"x\"\n"
        );
        let result = run(&service, &folder, &policy);
        let findings = result.json()["findings"].as_array().cloned().unwrap();
        let count = findings.iter().filter(|found| !found["exception"].is_null()).count();
        assert_eq!((result.code, findings.len(), count), (1, 2, accepted), "{package} {result:?}");
    }
}

#[test]
fn today_is_still_covered() {
    let (service, folder) = one(json!({"tor": true}), None);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let today = model::Timestamp::from_millis(now.as_millis().try_into().unwrap());
    let today = today.to_rfc3339_millis()[..10].to_owned();
    let policy = format!(
        "[[exception]]\npackage = \"a\"\nrule = \"tor\"\nreason = \"x\"\nuntil = \"{today}\"\n"
    );
    assert_eq!(run(&service, &folder, &policy).code, 0);
}

#[test]
fn every_entry_of_a_version_is_compared() {
    let lock = npm_lock(&json!({
        "node_modules/a": {"version": "1.0.0", "integrity": "sha512-AAAA"},
        "node_modules/b/node_modules/a": {"version": "1.0.0", "integrity": "sha512-BBBB"},
    }));
    let service = Service::of(
        &["registry.example"],
        rows(&[("a 1.0.0", json!({"integrity": "sha512-AAAA"}))]),
    );
    let folder = Folder::new(&[("package-lock.json", &lock)]);
    let result = folder.run(&service.url(), &["--format", "json"]);
    let findings = result.json()["findings"].as_array().unwrap().clone();
    assert_eq!((findings.len(), result.code), (1, 1));
    let line = usize::try_from(findings[0]["line"].as_u64().unwrap()).unwrap();
    assert!(lock.lines().nth(line - 1).unwrap().contains("node_modules/b/node_modules/a"));
    assert_eq!(service.asked(), ["a 1.0.0"]);
}

#[test]
fn base_shows_only_what_is_new() {
    let entry =
        |version: &str, integrity: &str| json!({"version": version, "integrity": integrity});
    let lock = |packages: Value| npm_lock(&packages);
    let old = lock(
        json!({"node_modules/a": entry("1.0.0", "sha512-AAAA"), "node_modules/b": entry("1.0.0", "sha512-AAAA")}),
    );
    let service = Service::of(&["registry.example"], rows(&[("*", json!({"tor": true}))]));
    for (new, expected, code) in [
        (old.clone(), vec![], 0),
        (lock(json!({"node_modules/a": entry("1.0.0", "sha512-AAAA")})), vec![], 0),
        (lock(json!({"node_modules/a": entry("1.0.1", "sha512-AAAA")})), vec!["tor a 1.0.1"], 1),
        (lock(json!({"node_modules/a": entry("1.0.0", "sha512-BBBB")})), vec!["tor a 1.0.0"], 1),
        (lock(json!({"node_modules/x/node_modules/a": entry("1.0.0", "sha512-AAAA")})), vec![], 0),
        (
            lock(json!({"node_modules/a": {"version": "1.0.0", "integrity": "sha512-AAAA",
                "resolved": "https://registry.example/a/-/a-1.0.0.tgz"}})),
            vec!["tor a 1.0.0"],
            1,
        ),
    ] {
        let policy = "[[exception]]\npackage = \"z\"\nrule = \"tor\"\nreason = \"x\"\n";
        let folder =
            Folder::new(&[("package-lock.json", &new), ("old.json", &old), ("p.toml", policy)]);
        let result = folder
            .run(&service.url(), &["--base", "old.json", "--format", "json", "--policy", "p.toml"]);
        assert_eq!(
            (result.broken(), result.code),
            (expected.into_iter().map(Into::into).collect(), code),
            "{new}"
        );
        assert_eq!(result.json()["exceptions"]["unused"], json!([]));
    }
    // The ecosystem and each further location of a purl belong to the package.
    let sbom = |purl: &str| {
        let components = json!([{"type": "library", "name": "a", "purl": purl}]);
        json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components})
            .to_string()
    };
    let new = sbom("pkg:npm/a@1.0.0");
    for (purl, code) in [
        ("pkg:npm/a@1.0.0", 0),
        ("pkg:pypi/a@1.0.0", 1),
        ("pkg:npm/a@1.0.0?repository_url=https://other.example", 1),
    ] {
        let folder = Folder::new(&[("new.json", &new), ("old.json", &sbom(purl))]);
        let result = folder.run(&service.url(), &["new.json", "--base", "old.json"]);
        assert_eq!(result.code, code, "{purl}: {result:?}");
    }
    let folder = Folder::new(&[("package-lock.json", &old), ("broken.json", "{")]);
    for base in ["missing.json", "broken.json"] {
        assert_eq!(folder.run(&service.url(), &["--base", base]).code, 2, "{base}");
    }
}

#[test]
fn what_is_new_and_was_not_asked_about_is_not_nothing_new() {
    let service = Service::of(&["registry.example"], rows(&[]));
    let old = npm_lock(&json!({"node_modules/a": {"version": "1.0.0"}}));
    for resolved in ["https://other.example/b/-/b-1.0.0.tgz", "git+ssh://git@x.example/b.git#0a"] {
        let mut new: Value = serde_json::from_str(&old).unwrap();
        new["packages"]["node_modules/new"] = json!({"version": "1.0.0", "resolved": resolved});
        let folder = Folder::new(&[("package-lock.json", &new.to_string()), ("old.json", &old)]);
        for format in ["text", "github"] {
            let result = folder.run(&service.url(), &["--base", "old.json", "--format", format]);
            assert_eq!(result.code, 3, "{result:?}");
            let has_hint = result.output.contains("--registry other.example");
            assert_eq!(has_hint, resolved.starts_with("https"), "{result:?}");
        }
    }
}

#[test]
fn usage_ends_with_2_before_anything_is_asked() {
    let (service, folder) = one(json!({}), None);
    folder.write("repository/token", "secret\n");
    folder.write("repository/empty", "\n");
    let url = service.url();
    for arguments in [
        vec!["--format", "xml"],
        vec!["--nonsense"],
        vec!["missing.json"],
        vec!["--registry", "ftp://x"],
        vec!["--token-file", "missing"],
        vec!["--token-file", "empty"],
        vec!["--timeout", "0"],
        vec!["--output", "no/such/folder/report"],
    ] {
        let code = folder.run(&url, &arguments).code;
        assert_eq!(code, 2, "{arguments:?}");
    }
    let with_password = ["--registry", "https://ci:hidden@art.example/npm", "--format", "github"];
    let run = folder.run(&url, &with_password);
    assert!(run.code == 2 && run.errors.contains("--registry: "), "{run:?}");
    assert!(!format!("{run:?}").contains("hidden"), "{run:?}");
    for address in [
        "",
        "publications.example",
        "ftp://x.example",
        "https://u:p@x.example",
        "https://x.example?a=b",
    ] {
        assert_eq!(folder.run(address, &[]).code, 2, "{address}");
    }
    // The token would be sent in clear text.
    let result = folder.run("http://publications.example", &["--token-file", "token"]);
    assert!(result.code == 2 && !result.errors.contains("secret"), "{result:?}");
}
