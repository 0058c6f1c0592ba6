//! Mercurius: a GraphQL server on Node.js, on the same table.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use testkit::{Daemon, free_port, wait_until};

use super::folder;
use crate::workspace::succeed;

const PROGRAM: &str = include_str!("mercurius.mjs");
const PACKAGES: [&str; 4] = ["fastify@5.12.8", "graphql@16.15.0", "mercurius@16.10.1", "pg@8.23.1"];
const START: Duration = Duration::from_secs(60);

/// The versions, for the report.
pub(super) fn version() -> String {
    let node = Command::new("node").arg("--version").output().map(|output| output.stdout);
    let node = String::from_utf8_lossy(&node.unwrap_or_default()).trim().to_owned();
    format!("{}, jit, Node.js {node}", PACKAGES.join(" "))
}

/// Downloads the packages with npm, unless they exist. Returns the path of the program.
pub(super) fn fetch() -> Result<PathBuf> {
    let folder = folder("mercurius")?;
    let (program, fetched) = (folder.join("mercurius.mjs"), folder.join("fetched"));
    fs::write(&program, PROGRAM)?;
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&fetched).is_ok_and(|there| there == wanted) {
        return Ok(program);
    }
    fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--save-exact"]);
    succeed("npm", npm.args(PACKAGES).current_dir(&folder))?;
    fs::write(fetched, wanted)?;
    Ok(program)
}

/// Starts the server. Returns it with its address once it accepts connections.
pub(super) fn start(program: &Path, database: &str) -> (Daemon, String) {
    let port = free_port();
    let daemon = Daemon::program("node")
        .arg(program)
        .env("NODE_ENV", "production")
        .env("DATABASE_URL", database)
        .env("PORT", port.to_string())
        .spawn();
    let http = format!("127.0.0.1:{port}");
    wait_until("Mercurius", START, || TcpStream::connect(&http).is_ok());
    (daemon, http)
}
