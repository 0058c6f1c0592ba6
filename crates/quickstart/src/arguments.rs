//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Starts the whole service in this process on embedded parts, replays some 32,000 publications through it, asks it the
/// first question and serves until Ctrl-C
#[derive(Debug, Parser)]
#[command(name = "quickstart", version)]
pub(crate) struct Arguments {
    /// End after the answer; fails unless it is the expected one
    #[arg(long)]
    pub(crate) once: bool,
    /// Keep the database and the exit lists in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    /// Where GraphQL is served; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
}
