//! The files for observing the daemons, checked with the tools that read them and against the metrics that the daemons
//! expose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use testkit::eventually;

use crate::support::{PATIENCE, Scene, example_record, write_snapshot};

/// The labels that Prometheus itself adds to scraped series and to histogram buckets, and the one that the rules tell operators
/// to add to targets.
const OF_PROMETHEUS: [&str; 4] = ["instance", "job", "le", "registry"];

pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn prometheus_files(ending: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(deploy("prometheus")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    assert!(!files.is_empty());
    files
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        .output()
        .expect("promtool runs; cargo xtask setup installs it with Prometheus");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// All rule files without comments.
fn rules() -> String {
    let files = prometheus_files(".rules.yml").into_iter();
    let lines = files.flat_map(|file| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let lines: Vec<_> = lines.filter(|line| !line.trim_start().starts_with('#')).collect();
    lines.join("\n")
}

/// The values of lines that begin with `key`.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(key)).map(str::trim).collect()
}

/// Runs the unit tests of all Prometheus rule files.
#[test]
fn alerts_fire_when_they_should() {
    promtool(&["test", "rules"], &prometheus_files(".test.yml"));
    let tests: String = prometheus_files(".test.yml")
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    // Each alert must be tested both firing and silent.
    let named = values(&tests, "- alertname:");
    let silent = tests.matches("exp_alerts: []").count();
    for alert in values(&rules(), "- alert:") {
        assert!(named.iter().filter(|name| **name == alert).count() >= 2, "{alert}");
    }
    assert!(silent >= values(&rules(), "- alert:").len());
}

/// The entries of the runbook by heading.
pub(crate) fn runbook() -> BTreeMap<String, String> {
    let text = fs::read_to_string(deploy("runbook.md")).unwrap();
    let entries = text.split("\n## ").skip(1).map(|entry| {
        // The next chapter is not part of the entry.
        let entry = entry.split("\n# ").next().unwrap();
        let (heading, body) = entry.split_once('\n').unwrap();
        (heading.to_owned(), body.to_owned())
    });
    entries.collect()
}

/// The commands of an entry.
pub(crate) fn commands(entry: &str) -> &str {
    let rest = entry.split("**Look at.**\n```\n").nth(1).expect("a command stands under Look at");
    rest.split("\n```").next().unwrap()
}

/// The text from `opening` to the next brace at the beginning of a line, in the one source file that has it.
fn block(sources: &str, opening: &str) -> String {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(sources)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Some((_, rest)) = fs::read_to_string(path).unwrap().split_once(opening) {
                return rest.split("\n}").next().unwrap().to_owned();
            }
        }
    }
    panic!("no {opening} in {sources}");
}

/// The stable words of a list in the source code.
fn words(sources: &str, opening: &str) -> BTreeSet<String> {
    let body = block(sources, opening);
    let words: BTreeSet<_> = body.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(words.len() > 3, "{opening}: {words:?}");
    words
}

/// The exit codes in the source code.
fn exit_codes() -> BTreeSet<String> {
    let body = block("crates/service/src", "pub mod exit {");
    let lines = body.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
    let codes = lines.filter_map(|line| line.split_once(": u8 = ")?.1.strip_suffix(';'));
    let codes: BTreeSet<_> = codes.map(str::to_owned).collect();
    assert!(codes.len() > 5, "{codes:?}");
    codes
}

/// The anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|&c| c.is_alphanumeric() || " -_".contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_alert_reason_state_and_exit_code_has_an_entry_in_the_runbook_and_nothing_else_has() {
    let rules = rules();
    let alerts = values(&rules, "- alert:");
    let headed = |kind: &str, words: BTreeSet<String>| {
        words.into_iter().map(move |word| format!("{kind}{word}")).collect::<Vec<_>>()
    };
    let expected = alerts
        .iter()
        .map(|alert| (*alert).to_owned())
        .chain(headed("Paused: ", words("crates/ingester/src", "causes! {\n")))
        .chain(headed("State: ", words("crates/service/src", "impl State {")))
        .chain(headed("Exit code ", exit_codes()));
    let entries = runbook();
    assert_eq!(expected.collect::<BTreeSet<_>>(), entries.keys().cloned().collect());
    let urls: Vec<_> = alerts.iter().map(|alert| anchor(alert)).collect();
    let urls: Vec<_> = urls.iter().map(|anchor| format!("deploy/runbook.md#{anchor}")).collect();
    assert_eq!(values(&rules, "runbook_url:"), urls);
}

/// The programs that an entry may use.
const PROGRAMS: [&str; 5] = ["curl", "journalctl", "psql", "publication-ingester", "systemctl"];

#[test]
fn every_entry_of_the_runbook_says_what_it_means_and_what_to_paste() {
    let text = fs::read_to_string(deploy("runbook.md")).unwrap();
    let first = text.split("```").nth(1).unwrap().split_whitespace();
    let set: BTreeSet<_> = first.filter_map(|word| Some(word.split_once('=')?.0)).collect();
    for (heading, entry) in runbook() {
        let mut parts = vec!["**Means.**", "**Look at.**\n```\n", "**Shows.**", "**Do.**"];
        if heading.starts_with("Publication") {
            parts.push("**Do not**");
        }
        for part in parts {
            assert!(entry.contains(part), "{heading}: {part}");
        }
        let commands = commands(&entry);
        let checked = Command::new("bash").args(["-n", "-c", commands]).output().unwrap();
        assert!(checked.status.success(), "{heading}: {commands}");
        for line in commands.lines() {
            let program = line.split(' ').next().unwrap();
            let known = PROGRAMS.contains(&program)
                || (program.starts_with("kafka-") && program.ends_with(".sh"));
            assert!(known, "{heading}: {line}");
        }
        for used in commands.split("\"$").skip(1) {
            let variable =
                used.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next().unwrap();
            assert!(set.contains(variable), "{heading}: {variable} is not set at the beginning");
        }
    }
    let anchors: BTreeSet<_> = runbook().keys().map(|heading| anchor(heading)).collect();
    for link in text.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(anchors.contains(link), "{link}");
    }
}

/// The commands of a text that run one of the daemons' programs, each to the end of its code span or of its pipe.
fn daemon_commands(text: &str) -> Vec<&str> {
    const INGESTER: [&str; 8] =
        ["check", "dead-letters", "event", "migrate", "reconcile", "replay", "run", "tor"];
    const QUERY: [&str; 2] = ["schema", "serve"];
    let programs = [("publication-ingester ", &INGESTER[..]), ("publication-query ", &QUERY)];
    let found = programs.into_iter().flat_map(|(program, commands)| {
        text.match_indices(program).filter_map(move |(at, _)| {
            let command = text[at..].split(['`', '|', '\n']).next().unwrap();
            let word = command[program.len()..].split(' ').next().unwrap();
            commands.contains(&word).then_some(command)
        })
    });
    found.collect()
}

/// Without the option a command uses the defaults, and does its work at another broker and another database.
#[test]
fn every_command_of_the_runbook_names_the_configuration() {
    let text = fs::read_to_string(deploy("runbook.md")).unwrap();
    let commands = daemon_commands(&text);
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let file = if command.contains("query") { "CONFIG_OF_QUERY" } else { "CONFIG" };
        assert!(command.contains(&format!(" --config \"${file}\"")), "{command}");
    }
    // The shorter forms name no program, and thus no configuration.
    for short in ["`migrate", "`check", "`replay --", "`reconcile", "`dead-letters", "`tor "] {
        assert!(!text.contains(short), "{short}");
    }
}

/// The block for systemd gives a shell the variables of the units, without reading values as words of the shell.
#[test]
fn a_shell_gets_the_environment_of_the_units() {
    let text = fs::read_to_string(deploy("runbook.md")).unwrap();
    let block = text.split("```").nth(3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let variables = "# a comment\n\nINGESTER_KAFKA__CLIENT__SASL_PASSWORD=a $b & `c`\nPATH=/";
    fs::write(folder.path().join("ingester.env"), variables).unwrap();
    let script = format!("set -eu{}\n/usr/bin/env", block.replace("/etc/publication-insights", at));
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.lines().any(|l| l == "INGESTER_KAFKA__CLIENT__SASL_PASSWORD=a $b & `c`"));
    assert!(!shown.lines().any(|line| line == "PATH=/"), "{shown}");
    for daemon in ["ingester", "query"] {
        let unit = fs::read_to_string(deploy(&format!("systemd/publication-{daemon}.service")));
        let unit = unit.unwrap();
        let credential = values(&unit, "LoadCredential=store-url:")[0];
        let variable = format!("{}_STORE__URL_FILE", daemon.to_uppercase());
        assert!(unit.contains(&format!("Environment={variable}=%d/store-url")));
        assert!(block.contains(&format!("export {variable}={credential}\n")), "{block}");
        let file = values(&unit, "EnvironmentFile=-")[0];
        assert!(block.contains(file), "{file}");
    }
}

/// After a restore without owners, what the migrator does not own stops the next migration.
#[test]
fn a_restore_gives_every_table_and_type_to_the_migrator() {
    let text = fs::read_to_string(deploy("postgresql/README.md")).unwrap();
    let mut made = vec!["TABLE _sqlx_migrations".to_owned()];
    for entry in fs::read_dir(deploy("../crates/store/migrations/postgres")).unwrap() {
        let migration = fs::read_to_string(entry.unwrap().path()).unwrap();
        for object in values(&migration, "CREATE ") {
            let mut words = object.split(' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap());
            match kind {
                "TABLE" | "TYPE" => made.push(format!("{kind} {name}")),
                // It belongs to the owner of its table.
                "INDEX" => {}
                _ => panic!("who owns {object}?"),
            }
        }
    }
    assert!(made.len() > 5, "{made:?}");
    for object in made {
        assert!(text.contains(&format!("\nALTER {object} OWNER TO publication_migrator;\n")));
    }
}

/// The exposed metrics: for each series name, the values by label.
type Exposed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn expose(text: &str, all: &mut Exposed) {
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let known = all.entry(name.to_owned()).or_default();
        for (label, value) in matchers(labels) {
            known.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
}

/// The labels and values of `a="x",b=~"y"}…`. No value here contains a quote or a comma.
fn matchers(text: &str) -> Vec<(&str, &str)> {
    let inside = text.split('}').next().unwrap_or_default();
    let pairs = inside.split(',').filter(|pair| !pair.trim().is_empty());
    pairs
        .map(|pair| {
            let (label, value) = pair.split_once('=').expect("a label has a value");
            (label.trim().trim_end_matches('!'), value.trim_start_matches('~').trim_matches('"'))
        })
        .collect()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The metric names in the text, each with the text after it.
fn names(text: &str) -> Vec<(&str, &str)> {
    let starts =
        ["publication_", "process_"].into_iter().flat_map(|begin| text.match_indices(begin));
    let starts = starts.map(|(at, _)| at).filter(|&at| !text[..at].ends_with(is_word));
    starts
        .map(|at| {
            let rest = &text[at..];
            rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
        })
        .collect()
}

/// The words in the parentheses after `by` and `on`, and in `{{ }}` of texts.
fn grouped(text: &str) -> Vec<&str> {
    let brackets = ["by (", "on ("].iter().flat_map(|open| text.split(open).skip(1));
    let brackets = brackets.filter_map(|rest| rest.split(')').next()).flat_map(|l| l.split(','));
    let texts = text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    let texts = texts.filter_map(|word| {
        let word = word.trim();
        word.strip_prefix("$labels.").or((!word.starts_with('$')).then_some(word))
    });
    brackets.chain(texts).map(str::trim).collect()
}

/// Checks every metric, label and value in the text against the exposed metrics. Returns the metrics.
fn check<'t>(text: &'t str, exposed: &Exposed) -> BTreeSet<&'t str> {
    let mut metrics = BTreeSet::new();
    for (name, rest) in names(text).into_iter().filter(|(name, _)| !name.contains(':')) {
        let labels = exposed.get(name).unwrap_or_else(|| panic!("no daemon shows {name}"));
        for (label, value) in rest.strip_prefix('{').map(matchers).unwrap_or_default() {
            if OF_PROMETHEUS.contains(&label) {
                continue;
            }
            let known = labels.get(label).unwrap_or_else(|| panic!("{name} has no {label}"));
            for value in value.split('|') {
                // Sources of exit lists appear when there are lists.
                let later = name.ends_with("exit_list_age_seconds");
                assert!(later || known.contains(value), "{name} has no {label}=\"{value}\"");
            }
        }
        metrics.insert(name);
    }
    for label in grouped(text) {
        let known = OF_PROMETHEUS.contains(&label)
            || metrics.iter().any(|name| exposed[*name].contains_key(label));
        assert!(known, "no label {label} in {text}");
    }
    metrics
}

/// Collects all objects with an `expr`, at any depth.
fn targets<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(object) => {
            if object.contains_key("expr") {
                found.push(value);
            }
            object.values().for_each(|inner| targets(inner, found));
        }
        Value::Array(array) => array.iter().for_each(|inner| targets(inner, found)),
        _ => {}
    }
}

#[tokio::test]
async fn rules_and_dashboard_read_what_the_daemons_show() {
    let scene = Scene::new("observed", 1).await;
    let lists = scene.directory.path().join("lists");
    fs::create_dir(&lists).unwrap();
    write_snapshot(&lists, "2019-07-25-17-00-00", &[]);
    let mut ingester = scene.ingester(&[("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap())]);
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    let query = scene.query();
    let metrics = |admin: &str| testkit::http_get(admin, "/metrics").unwrap().1;
    let exposed = eventually("all series", PATIENCE, async || {
        let mut exposed = Exposed::new();
        expose(&metrics(&ingester.admin), &mut exposed);
        expose(&metrics(&query.running.admin), &mut exposed);
        // These appear after the first look at the partition's end, and at the list.
        let later = ["ingester_partition_state", "ingester_exit_list_age_seconds"];
        let there = |name: &&str| exposed.contains_key(&format!("publication_{name}"));
        later.iter().all(there).then_some(exposed)
    })
    .await;
    query.running.stop();
    ingester.stop();

    let rules = rules();
    assert!(check(&rules, &exposed).len() > 10);
    // The runbook uses prefixes of names.
    let runbook = fs::read_to_string(deploy("runbook.md")).unwrap();
    let shown = |name: &str| exposed.keys().any(|known| known.starts_with(name));
    for (name, _) in names(&runbook) {
        assert!(shown(name), "no daemon shows {name}, which the runbook names");
    }
    for (name, _) in names(&rules).into_iter().filter(|(name, _)| name.contains(':')) {
        assert!(values(&rules, "- record:").contains(&name), "{name} is recorded nowhere");
    }

    let dashboard = fs::read_to_string(deploy("grafana/publication-insights.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut all = Vec::new();
    targets(&dashboard, &mut all);
    let (mut shown, mut wrapped) = (BTreeSet::new(), Vec::new());
    for target in all {
        let text = format!("{} {}", target["expr"], target["legendFormat"]).replace("\\\"", "\"");
        let metrics = check(&text, &exposed);
        assert!(!metrics.is_empty(), "{text}");
        shown.extend(metrics.into_iter().map(str::to_owned));
        // Grafana replaces these variables.
        let expr = target["expr"].as_str().unwrap();
        let expr = expr.replace("$__rate_interval", "5m").replace("$__range", "1h");
        wrapped.push(json!({ "record": format!("dashboard:{}", wrapped.len()), "expr": expr }));
    }
    // The dashboard must show every metric.
    for name in exposed.keys().filter(|name| !name.ends_with("_sum") && !name.ends_with("_count")) {
        assert!(shown.contains(name), "{name} is not on the dashboard");
    }
    // JSON is valid YAML.
    let file = scene.directory.path().join("dashboard.rules.yml");
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": wrapped }] });
    fs::write(&file, groups.to_string()).unwrap();
    promtool(&["check", "rules"], &[file]);
}
