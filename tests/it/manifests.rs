//! The files to run the daemons: systemd units, containers, Kubernetes. They are not run here, but checked with the
//! tools that read them, and their settings with the daemons.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::Daemon;

use crate::deploy::deploy;
use crate::support::STOP;

/// Whether the daemon accepts these variables and this file as its configuration.
fn accepts(daemon: &str, environment: &[(String, String)], file: Option<&str>) -> bool {
    let directory = tempfile::tempdir().unwrap();
    // Both commands load the configuration and end soon.
    let (command, prefix) = match daemon {
        "ingester" => (&["tor", "coverage"][..], "INGESTER_"),
        _ => (&["schema"][..], "QUERY_"),
    };
    let mut command = Daemon::command(&format!("publication-{daemon}")).args(command);
    if let Some(text) = file {
        let path = directory.path().join("config.toml");
        fs::write(&path, text).unwrap();
        command = command.arg("--config").arg(path);
    }
    for (name, value) in environment {
        assert!(name.starts_with(prefix), "{name} is no variable of the {daemon}");
        command = command.env(name, value);
    }
    let mut running = command.spawn();
    let code = running.wait_exit(STOP).code().unwrap();
    // Exit lists that do not exist on this machine are not a configuration error.
    assert!(matches!(code, 0 | 1 | 78), "{code}: {}", running.log());
    code != 78
}

#[test]
fn a_key_that_does_not_exist_is_seen() {
    for (daemon, key) in [("ingester", "INGESTER_KAFKA__BROKER"), ("query", "QUERY_SERVICE_HOST")] {
        assert!(!accepts(daemon, &[(key.into(), "x".into())], None), "{key}");
    }
}

#[test]
fn systemd_takes_the_units_and_the_daemons_their_settings() {
    let directory = tempfile::tempdir().unwrap();
    for daemon in ["ingester", "query"] {
        let name = format!("publication-{daemon}.service");
        let unit = fs::read_to_string(deploy("systemd").join(&name)).unwrap();
        // The program is not installed on this machine.
        let program = format!("ExecStart=/usr/local/bin/publication-{daemon} ");
        assert!(unit.contains(&program));
        let copy = directory.path().join(&name);
        fs::write(&copy, unit.replace(&program, "ExecStart=/bin/true ")).unwrap();
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&copy)
            .output()
            .expect("systemd-analyze runs; cargo xtask setup installs it with systemd");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        // An unknown setting is a warning, with exit code 0.
        assert!(output.status.success() && text.trim().is_empty(), "{name}: {text}");
        for setting in ["Type=notify", "WatchdogSec=120", "RestartPreventExitStatus=2 65 77 78"] {
            assert!(unit.lines().any(|line| line == setting), "{name}: {setting}");
        }
        if daemon == "ingester" {
            // The folder that the comments and the runbook name, for a daemon that fetches lists.
            let folder = "ExecStartPre=/bin/mkdir -p /var/lib/publication-ingester/exit-lists";
            assert!(unit.lines().any(|line| line == folder), "{name}");
        }
        let environment = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
        let environment: Vec<_> = environment
            .map(|line| line.split_once('=').unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        assert!(accepts(daemon, &environment, None), "{name}: {environment:?}");
    }
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {}: {error}; `cargo xtask setup` installs Python", program.display())
    });
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{} {arguments:?}:\n{text}{error}", program.display());
    text
}

/// The variables of a container, as Kubernetes lists them or compose maps them.
fn environment(of: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("x").to_owned();
    match of {
        Value::Array(list) => {
            list.iter().map(|entry| (text(&entry["name"]), text(&entry["value"]))).collect()
        }
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        _ => Vec::new(),
    }
}

/// Replaces variables like compose does: `${NAME:?message}`.
fn interpolated(text: &str) -> String {
    match text.split_once("${").and_then(|(head, rest)| Some((head, rest.split_once('}')?.1))) {
        Some((head, rest)) => format!("{head}value{}", interpolated(rest)),
        None => text.to_owned(),
    }
}

fn of_kind<'d>(documents: &'d [Value], kind: &str) -> Vec<&'d Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

#[test]
fn kubernetes_and_containers_are_configured_with_keys_that_exist() {
    let directory = tempfile::tempdir().unwrap();
    let environment_of_python = directory.path().join("python");
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    run(Path::new("python3"), &["-m", "venv", environment_of_python.to_str().unwrap()]);
    let bin = environment_of_python.join("bin");
    let requirements = manifests.join("requirements.txt");
    let install = ["install", "--quiet", "--disable-pip-version-check", "--no-compile", "-r"];
    run(&bin.join("pip"), &[&install[..], &[requirements.to_str().unwrap()]].concat());

    let dockerfile = deploy("docker/Dockerfile");
    run(&bin.join("hadolint"), &[dockerfile.to_str().unwrap()]);

    let script = manifests.join("manifests.py");
    let files = ["docker/compose.yml", "kubernetes/ingester.yaml", "kubernetes/query.yaml"];
    let files = files.iter().chain(&["kubernetes/network.yaml", "kubernetes/kustomization.yaml"]);
    let files: Vec<_> = files.map(|file| deploy(file).to_str().unwrap().to_owned()).collect();
    let mut arguments = vec![script.to_str().unwrap()];
    arguments.extend(files.iter().map(String::as_str));
    let documents: Vec<Value> =
        serde_json::from_str(&run(&bin.join("python"), &arguments)).unwrap();

    let compose = &documents[0]["services"];
    // The root is read-only, and reconcile and replay --dry-run need room for temporary files on a disk.
    let mounts = compose["ingester"]["volumes"].as_array().unwrap();
    assert!(mounts.contains(&"ingester-tmp:/tmp".into()), "{mounts:?}");
    assert!(documents[0]["volumes"].as_object().unwrap().contains_key("ingester-tmp"));
    let image = fs::read_to_string(&dockerfile).unwrap();
    for daemon in ["ingester", "query"] {
        let mut variables = environment(&compose[daemon]["environment"]);
        variables.iter_mut().for_each(|(_, value)| *value = interpolated(value));
        assert!(!variables.is_empty() && accepts(daemon, &variables, None), "{variables:?}");
        let prefix = format!("{}_", daemon.to_uppercase());
        let set = image.split_whitespace().filter(|word| word.starts_with(&prefix));
        let set = set.filter_map(|word| word.split_once('='));
        let set: Vec<_> = set.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        assert!(!set.is_empty() && accepts(daemon, &set, None), "{set:?}");
        // The image's variables have precedence, so an address in a ConfigMap would change nothing.
        let map = fs::read_to_string(deploy(&format!("kubernetes/{daemon}.yaml"))).unwrap();
        assert!(!map.contains("listen ="), "{map}");
    }
    // The label that gives a ServiceMonitor the jobs that the rules ask for.
    let services = of_kind(&documents, "Service").into_iter();
    let scraped = services.filter(|service| service["spec"]["ports"][0]["name"] == "admin");
    let jobs: Vec<_> =
        scraped.map(|service| &service["metadata"]["labels"]["app.kubernetes.io/name"]).collect();
    assert_eq!(jobs, ["publication-ingester", "publication-query"]);

    // Secrets are referenced, never included.
    assert!(of_kind(&documents, "Secret").is_empty());
    let maps = of_kind(&documents, "ConfigMap");
    let workloads =
        [of_kind(&documents, "StatefulSet"), of_kind(&documents, "Deployment")].concat();
    assert_eq!((maps.len(), workloads.len()), (2, 2));
    for workload in workloads {
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let container = &pod["containers"][0];
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        let daemon = container["name"].as_str().unwrap();
        if daemon == "ingester" {
            let mounts = container["volumeMounts"].as_array().unwrap();
            let mount = mounts.iter().find(|mount| mount["mountPath"] == "/tmp").unwrap();
            let volumes = pod["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            assert!(volume["emptyDir"]["sizeLimit"].is_string(), "{volume}");
        }
        let map = maps.iter().find(|map| map["metadata"]["name"] == workload["metadata"]["name"]);
        let file = map.unwrap()["data"][format!("{daemon}.toml")].as_str().unwrap();
        assert!(accepts(daemon, &environment(&container["env"]), Some(file)), "{daemon}");
        // An invalid key in the file would be detected.
        assert!(!accepts(daemon, &[], Some(&file.replace("url_file", "url_files"))));
        // The probes use the port on which the image lets the daemon listen.
        for port in container["ports"].as_array().unwrap() {
            let listen = format!("LISTEN=0.0.0.0:{}", port["containerPort"]);
            assert!(image.contains(&listen), "{daemon}: {listen}");
        }
    }
}
