//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Serves publications over GraphQL.
#[derive(Debug, Parser)]
#[command(name = "publication-query", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// The configuration file; without it config/query.toml, if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Answers queries until it is asked to stop by SIGTERM or Ctrl-C.
    Serve,
    /// Prints the GraphQL schema.
    Schema,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn config_may_stand_on_either_side_of_the_command() {
        for arguments in [["--config", "x", "serve"], ["serve", "--config", "x"]] {
            let cli =
                Cli::try_parse_from(["publication-query"].into_iter().chain(arguments)).unwrap();
            assert_eq!(cli.config.as_deref(), Some(Path::new("x")));
        }
        assert_eq!(Cli::try_parse_from(["publication-query"]).unwrap_err().exit_code(), 2);
        assert_eq!(Cli::try_parse_from(["publication-query", "x"]).unwrap_err().exit_code(), 2);
    }
}
