//! The command line.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::exit::Exit;

/// How the report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs; report.schema.json describes it.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Annotations of a GitHub workflow.
    Github,
}

const AFTER: &str = "Exit codes, the first that fits: 2 usage, policy or an unreadable file; 4 not everything was \
    answered; 1 a rule with the level error is broken; 3 nothing to audit; 0 none of these.\n\n\
    Sent are the names and versions of packages of the deployment's registry, and nothing else.";

/// Asks how each package of a lockfile was published.
#[derive(Debug, Clone, Parser)]
#[command(name = "publication-audit", version, after_help = AFTER)]
pub struct Cli {
    /// Lockfiles and SBOMs; `-` reads purls, one a line. Without any: the lockfiles of the present folder.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The address of the query API, for example `https://publications.example`.
    #[arg(long, env = "PUBLICATION_INSIGHTS_URL", hide_env_values = true)]
    pub url: Option<String>,
    /// A file with the API token. It is sent only over https or to a loopback address.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A host of the deployment's registry, beside those that the service names. Can be given several times.
    #[arg(long, value_name = "HOST[:PORT][/PATH]")]
    pub registry: Vec<String>,
    /// The lockfile as it was before: only what is new since then is audited.
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    /// The levels of the rules, and the exceptions; TOML.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// How the report is written.
    #[arg(long, value_enum, default_value = "text")]
    pub format: OutputFormat,
    /// Where the report is written, instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How many seconds all questions together may take.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

impl Cli {
    /// Parses the command line; or prints the help, the version or the error. clap itself would end with 0 even if the help
    /// cannot be written.
    ///
    /// # Errors
    /// The exit code.
    pub fn read() -> Result<Self, u8> {
        Self::try_parse().map_err(|said| {
            let exit = match said.print() {
                // A reader that closes the pipe has what it wants.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    let _ = writeln!(io::stderr(), "publication-audit: standard output: {error}");
                    Exit::Usage
                }
                _ if said.use_stderr() => Exit::Usage,
                _ => Exit::Clean,
            };
            exit.code()
        })
    }
}
