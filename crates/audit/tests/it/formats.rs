//! The report formats: valid, with correct lines, and safe against untrusted text.

use serde_json::{Value, json};

use crate::common::{Folder, Service, npm_lock, rows};

const EVIL: &str = "x\n::error::gone\r\u{1b}[2J\u{202e} [a](1) {0} 100%";

/// Findings of every level, every kind of exception, and an account with control characters.
fn scene() -> (Service, Folder) {
    let lock = npm_lock(&json!({
        "node_modules/a": {"version": "1.0.0"},
        "node_modules/b": {"version": "1.0.0"},
        "node_modules/c": {"version": "1.0.0"},
        "node_modules/@corp/d": {"version": "1.0.0", "resolved": "https://npm.corp.example/@corp/d/-/d-1.0.0.tgz"},
    }));
    let strongest = json!({"version": "0.9.0", "publicationInfo": {"created": "2025-12-12T03:04:05.678Z", "method": "TRUSTED_PUBLISHER"}});
    let service = Service::of(
        &["registry.example"],
        rows(&[
            (
                "a 1.0.0",
                json!({"weaker": true, "tfa": false, "username": EVIL, "strongest": strongest}),
            ),
            ("b 1.0.0", json!({"newPublisher": true, "username": EVIL})),
            ("c 1.0.0", json!({"tor": true})),
        ]),
    );
    let policy = "[[exception]]\npackage = \"c\"\nrule = \"tor\"\nreason = \"we know\\n::error::x\"\n\n[[exception]]\npackage = \"z\\n::error::y\"\nrule = \"tor\"\nreason = \"x\"\n\n[[exception]]\npackage = \"a\"\nrule = \"weaker\"\nreason = \"old\"\nuntil = \"2020-01-01\"\n";
    (service, Folder::new(&[("sub dir/package-lock.json", &lock), ("policy.toml", policy)]))
}

/// The line of package `a` in the lockfile of `scene`.
fn line_of_a() -> usize {
    let (_, folder) = scene();
    let text = std::fs::read_to_string(folder.path().join("sub dir/package-lock.json")).unwrap();
    text.lines().position(|line| line.contains("node_modules/a")).unwrap() + 1
}

fn report(format: &str) -> String {
    let (service, folder) = scene();
    let arguments = ["sub dir/package-lock.json", "--policy", "policy.toml", "--format", format];
    let run = folder.run(&service.url(), &arguments);
    assert_eq!(run.code, 1, "{run:?}");
    run.output
}

fn assert_valid(schema: &Value, document: &str) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let document: Value = serde_json::from_str(document).unwrap();
    let errors: Vec<_> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
    assert_eq!(errors, [""; 0]);
}

#[test]
fn sarif_is_valid_and_names_the_line() {
    let text = report("sarif");
    let text_of_schema = include_str!("../data/sarif-2.1.0-rtm.5.json");
    let mut schema: Value = serde_json::from_str(text_of_schema).unwrap();
    // The pattern in the schema has an extra bracket, so it is not a valid regular expression.
    for of in ["run", "toolComponent"] {
        let language = &mut schema["definitions"][of]["properties"]["language"];
        language.as_object_mut().unwrap().remove("pattern").unwrap();
    }
    assert_valid(&schema, &text);
    let document: Value = serde_json::from_str(&text).unwrap();
    let results = document["runs"][0]["results"].as_array().unwrap();
    let ids: Vec<_> = results.iter().map(|result| result["ruleId"].as_str().unwrap()).collect();
    assert_eq!(ids, ["weaker", "new-publisher", "tor"]);
    let place = &results[0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "sub%20dir/package-lock.json");
    assert_eq!(place["region"]["startLine"], line_of_a());
    assert_eq!(results[2]["suppressions"][0]["kind"], "external");
    assert!(results[0].get("suppressions").is_none());
    assert_eq!(results[0]["partialFingerprints"]["publication/v1"].as_str().unwrap().len(), 32);
    let message = results[0]["message"]["text"].as_str().unwrap();
    assert!(message.contains("\\[a\\](1) {{0}}") && !message.contains('\n'), "{message}");
    let notes =
        document["runs"][0]["invocations"][0]["toolExecutionNotifications"].as_array().unwrap();
    assert_eq!(notes.len(), 2);
}

#[test]
fn fingerprints_do_not_follow_the_line() {
    let (service, folder) = scene();
    let fingerprints = |folder: &Folder| {
        let run = folder.run(&service.url(), &["sub dir/package-lock.json", "--format", "sarif"]);
        let results = run.json()["runs"][0]["results"].clone();
        let one = |result: &Value| result["partialFingerprints"].clone();
        results.as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    let before = fingerprints(&folder);
    let path = folder.path().join("sub dir/package-lock.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("\n\n\n{text}")).unwrap();
    assert_eq!(fingerprints(&folder), before);
}

#[test]
fn json_follows_its_schema() {
    let schema = serde_json::from_str(include_str!("../../report.schema.json")).unwrap();
    assert_valid(&schema, &report("json"));
    let away = Folder::new(&[(
        "package-lock.json",
        &npm_lock(&json!({"node_modules/a": {"version": "1.0.0"}})),
    )]);
    let run = away.run("http://127.0.0.1:1", &["--format", "json"]);
    assert_eq!(run.code, 4);
    assert_valid(&schema, &run.output);
    let nothing = Folder::new(&[]).run("http://127.0.0.1:1", &["--format", "json"]);
    assert_eq!(nothing.code, 3);
    assert_valid(&schema, &nothing.output);
}

#[test]
fn a_workflow_sees_only_our_commands() {
    let text = report("github");
    let commands: Vec<_> = text.lines().filter(|line| line.contains("::")).collect();
    assert!(
        commands.iter().all(|line| {
            ["::error ", "::warning ", "::notice "].iter().any(|head| line.starts_with(head))
        }),
        "{text}"
    );
    assert_eq!(commands.len(), 5, "{text}");
    let head = format!("::error file=sub dir/package-lock.json,line={},", line_of_a());
    assert!(commands[0].starts_with(&format!("{head}title=weaker%3A a 1.0.0::")), "{text}");
    assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    assert!(commands[0].contains("100%25"), "{text}");
}

#[test]
fn text_tells_what_why_since_when_and_what_to_do() {
    let text = report("text");
    for part in [
        "error a 1.0.0: weaker",
        "Published with a single factor on 2026-01-02 by x\\u{a}::error::gone",
        "0.9.0 was published by trusted publishing, 3 weeks before.",
        &format!("sub dir/package-lock.json:{}", line_of_a()),
        "To do: Pin the earlier version",
        "[[exception]]\n      package = \"a\"\n      versions = \"1.0.0\"\n      rule = \"weaker\"",
        "warn  new-publisher",
        "accepted  c 1.0.0: tor (we know\\u{a}::error::x)",
        "The exception for a (all versions), weaker until 2020-01-01 is out of date.",
        "The exception for z\\u{a}::error::y (all versions), tor is not used.",
        "3 packages asked about, 1 error, 1 warning, 1 accepted.",
        "Not audited, and not sent: 1 other registry (@corp/d).",
        "Result: a rule with the level error is broken (exit code 1).",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
}

#[test]
fn the_suggested_exception_works_once_it_has_a_reason() {
    let (service, folder) = scene();
    let file = "sub dir/package-lock.json";
    let text = folder.run(&service.url(), &[file]).output;
    let block: Vec<_> =
        text.lines().skip_while(|line| !line.contains("[[exception]]")).take(6).collect();
    let policy = block.join("\n").replace("reason = \"\"", "reason = \"checked\"");
    folder.write("repository/new.toml", &policy);
    let run = folder.run(&service.url(), &[file, "--policy", "new.toml", "--format", "json"]);
    let first = run.json()["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["package"] == "a")
        .unwrap()
        .clone();
    assert_eq!(first["exception"], "checked", "{policy}");
}

#[test]
fn a_report_goes_to_a_file() {
    let (service, folder) = scene();
    let run = folder.run(
        &service.url(),
        &["sub dir/package-lock.json", "--format", "sarif", "--output", "out.sarif"],
    );
    assert_eq!((run.code, run.output.as_str()), (1, ""));
    let text = std::fs::read_to_string(folder.path().join("out.sarif")).unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_ok());
    // A run without a report leaves no earlier one there, and none replaces what it reads.
    let missing = folder.run(&service.url(), &["missing.json", "--output", "out.sarif"]);
    assert!(missing.code == 2 && !folder.path().join("out.sarif").exists(), "{missing:?}");
    let input = "sub dir/package-lock.json";
    let run =
        folder.run(&service.url(), &[input, "--output", "sub dir/../sub dir/package-lock.json"]);
    assert!(run.code == 2 && run.errors.contains("is a file that is read"), "{run:?}");
    assert!(folder.path().join(input).exists());
}

#[test]
fn a_message_about_a_file_stays_on_its_line() {
    let lock = json!({"bomFormat": "x\n::error::y", "specVersion": "1"});
    let folder = Folder::new(&[
        ("bom.json", &lock.to_string()),
        ("p.toml", "[rules]\n\"a\\n::error::b\" = \"warn\"\n"),
    ]);
    for (arguments, part) in [
        (vec!["bom.json"], "x\\u{a}::error::y"),
        (vec!["bom.json", "--policy", "p.toml"], "p.toml: line 2: "),
    ] {
        for format in ["text", "github"] {
            let mut arguments = arguments.clone();
            arguments.extend(["--format", format]);
            let run = folder.run("http://127.0.0.1:1", &arguments);
            assert!(run.code == 2 && run.errors.contains(part), "{run:?}");
            assert_eq!(
                (run.errors.lines().count(), run.output.lines().count()),
                (1, usize::from(format == "github")),
                "{run:?}"
            );
        }
    }
}

/// A workflow reads a command at the start of a line, behind blanks, and `##[command]` anywhere in a line.
#[test]
fn no_name_is_a_command_of_a_workflow() {
    let names = ["::add-mask::e", "a##[add-mask]b"];
    let lock = npm_lock(
        &names
            .iter()
            .map(|name| (format!("node_modules/{name}"), json!({"version": "1.0.0"})))
            .collect(),
    );
    let row = json!({"newPublisher": true, "publisherLast": "2020-01-01T00:00:00Z", "username": "::add-mask::e"});
    let service = Service::of(&["registry.example"], rows(&[("*", row)]));
    let policy = "[rules]\nreturning-publisher = \"error\"\n";
    let folder = Folder::new(&[("package-lock.json", &lock), ("p.toml", policy)]);
    for format in ["text", "json"] {
        let run = folder.run(&service.url(), &["--policy", "p.toml", "--format", format]);
        assert!(run.code == 1 && run.output.contains("::add-mask::e"), "{run:?}");
        let is_command = |line: &str| line.trim_start().starts_with("::") || line.contains("##[");
        assert_eq!(run.output.lines().find(|line| is_command(line)), None, "{run:?}");
    }
}
