//! What building and testing need on a machine, and how to get it.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::kafka;
use crate::workspace::{Workspace, succeed};

/// Kafka 4 asks for Java 17.
const JAVA: u32 = 17;

/// Something a machine has or lacks.
struct Need {
    what: &'static str,
    /// Debian's packages; of several on one line with `|`, the first that the distribution knows.
    packages: &'static [&'static str],
    present: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        what: "Java 17 or newer, for Kafka",
        packages: &["openjdk-21-jdk-headless|openjdk-17-jdk-headless|default-jdk-headless"],
        present: || java_version().is_some_and(|version| version >= JAVA),
    },
    Need {
        what: "Maven, which fetches Kafka",
        packages: &["maven"],
        present: || runs("mvn", &["--version"]),
    },
    // Debian's package also makes and perhaps starts a cluster on the usual port; the tests choose free ports and leave it be.
    Need {
        what: "the PostgreSQL server",
        packages: &["postgresql"],
        present: || {
            ["initdb", "postgres", "pg_isready"]
                .iter()
                .all(|name| testkit::postgres_program(name).is_some())
        },
    },
    Need {
        what: "make and a C++ compiler, for librdkafka",
        packages: &["make", "g++"],
        present: || runs("make", &["--version"]) && runs("c++", &["--version"]),
    },
    Need {
        what: "pkg-config and the OpenSSL headers, for TLS to Kafka",
        packages: &["pkg-config", "libssl-dev"],
        present: || runs("pkg-config", &["--exists", "openssl"]),
    },
    Need {
        what: "Node.js and npm, for the audits of GraphQL over HTTP",
        packages: &["nodejs", "npm"],
        present: || runs("node", &["--version"]) && runs("npm", &["--version"]),
    },
    Need {
        what: "a headless Chromium, for GraphiQL",
        packages: &["chromium-headless-shell|chromium"],
        present: || {
            ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
                .iter()
                .any(|name| runs(name, &["--version"]))
        },
    },
    Need {
        what: "promtool, for the alerts",
        packages: &["prometheus"],
        present: || runs("promtool", &["--version"]),
    },
    Need {
        what: "systemd-analyze, for the units",
        packages: &["systemd"],
        present: || runs("systemd-analyze", &["--version"]),
    },
    Need {
        what: "Python with virtual environments, for the schemas of Kubernetes",
        packages: &["python3", "python3-venv"],
        present: || runs("python3", &["-c", "import ensurepip, venv"]),
    },
    Need {
        what: "kcat, a second Kafka client",
        packages: &["kcat"],
        present: || runs("kcat", &["-V"]),
    },
];

/// Installs what is missing and fetches Kafka; says exactly what to install where it cannot.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        for need in &missing {
            eprintln!("missing: {}", need.what);
        }
        let failed = install(&missing).err();
        let still = self::missing();
        if !still.is_empty() {
            let reason = failed.map(|error| format!(" ({error:#})")).unwrap_or_default();
            bail!(
                "cannot install what is missing{reason}; please install {}, then try again",
                names(&still).join(", ")
            );
        }
    }
    kafka::fetch(workspace)
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.present)()).collect()
}

/// The packages as a person reads them.
fn names(needs: &[&Need]) -> Vec<String> {
    needs
        .iter()
        .flat_map(|need| need.packages)
        .map(|package| package.replace('|', " or "))
        .collect()
}

fn install(missing: &[&Need]) -> Result<()> {
    if !runs("apt-get", &["--version"]) {
        bail!("there is no apt-get");
    }
    succeed("apt-get update", apt()?.arg("update").arg("-qq"))?;
    let packages: Vec<&str> =
        missing.iter().flat_map(|need| need.packages).map(|choice| first_known(choice)).collect();
    eprintln!("installing {}", packages.join(" "));
    succeed(
        "apt-get install",
        apt()?.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages),
    )
}

/// `apt-get` with the rights it needs, or an error where nobody can give them without a password.
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

fn first_known(choice: &str) -> &str {
    let known = choice.split('|').find(|package| runs("apt-cache", &["show", package]));
    known.or(choice.split('|').next_back()).unwrap_or(choice)
}

fn java_version() -> Option<u32> {
    // Of all programs this one tells its version on standard error.
    let output = Command::new("java").arg("-version").output().ok()?;
    major_version(&String::from_utf8_lossy(&output.stderr))
}

/// `17` from `openjdk version "17.0.15" 2025-04-15`; the old scheme's `"1.8.0"` is 1, which is too old either way.
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
    fn names_the_choice_of_packages() {
        let needs: Vec<&Need> = NEEDS.iter().take(2).collect();
        assert_eq!(
            names(&needs)[0],
            "openjdk-21-jdk-headless or openjdk-17-jdk-headless or default-jdk-headless"
        );
        assert_eq!(names(&needs)[1], "maven");
    }
}
