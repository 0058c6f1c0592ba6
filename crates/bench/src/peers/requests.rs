//! Requests for the same packages of the same table: this build, Mercurius, pgbench, and a static answer.

use anyhow::Result;
use testkit::Daemon;

use super::{mercurius, order};
use crate::args::Args;
use crate::query::{self, Served, Target, has_data, measure};
use crate::report::Report;
use crate::workspace::Workspace;

/// Maximum number of rows. With more rows lookups are not slower, but filling the table takes longer.
const MOST_ROWS: u32 = 1_000_000;

type Contender = fn(&Requests, &mut Report, u32) -> Result<()>;

const CONTENDERS: &[Contender] = &[
    Requests::ours,
    Requests::mercurius,
    Requests::pgbench,
    Requests::static_answer,
    Requests::ours_batch,
    Requests::mercurius_batch,
    Requests::pgbench_batch,
];

/// The servers that the contenders share.
struct Requests {
    served: Served,
    rows: u32,
    /// Mercurius, or why it cannot be measured.
    mercurius: Result<(Daemon, String)>,
}

pub(super) fn run(workspace: &Workspace, report: &mut Report, args: &Args) -> Result<()> {
    let rows = args.records.min(MOST_ROWS);
    eprintln!("bench: filling PostgreSQL with {rows} publications");
    let served = Served::start(workspace, rows)?;
    report.fact("Mercurius", mercurius::version());
    report.fact("requests", format!("{} connections, {rows} rows", query::CONNECTIONS));
    let mercurius = mercurius::fetch().map(|program| mercurius::start(&program, &served.database));
    let requests = Requests { served, rows, mercurius };
    for round in 0..args.rounds {
        for contender in order(CONTENDERS, round) {
            contender(&requests, report, round)?;
        }
    }
    report.add("query_peak", "ours: peak memory", requests.served.peak()?, "MiB");
    ratios(report);
    Ok(())
}

fn ratios(report: &mut Report) {
    for (key, text, above, below) in [
        ("query_per_pgbench", "one key, ours / pgbench", "query_one", "pgbench_one"),
        ("batch_per_pgbench", "1,000 keys, ours / pgbench", "query_batch", "pgbench_batch"),
        ("query_per_mercurius", "one key, ours / Mercurius", "query_one", "mercurius_one"),
        ("batch_per_mercurius", "1,000 keys, ours / Mercurius", "query_batch", "mercurius_batch"),
        ("query_per_static", "one key, ours / a static answer", "query_one", "static"),
    ] {
        report.ratio(key, text, above, below);
    }
}

impl Requests {
    fn ours(&self, report: &mut Report, _: u32) -> Result<()> {
        let measured = measure(&self.served.target(), &query::one(self.rows))?;
        report.add("query_one", "ours: one key a request", measured.rate, "requests/s");
        let text = "  its processor time a request";
        report.add("query_one_cpu", text, measured.cpu * 1e6, "µs");
        Ok(())
    }

    fn ours_batch(&self, report: &mut Report, _: u32) -> Result<()> {
        let measured = measure(&self.served.target(), &query::batch(self.rows))?;
        report.add("query_batch", "ours: 1,000 keys a request", measured.rate, "requests/s");
        let text = "  its processor time a request";
        report.add("query_batch_cpu", text, measured.cpu * 1e3, "ms");
        Ok(())
    }

    fn mercurius(&self, report: &mut Report, round: u32) -> Result<()> {
        const TEXT: &str = "Mercurius: one key a request";
        let Some(target) = self.target(report, TEXT, round) else { return Ok(()) };
        let measured = measure(&target, &query::one(self.rows))?;
        report.add("mercurius_one", TEXT, measured.rate, "requests/s");
        let text = "  its processor time a request";
        report.add("mercurius_one_cpu", text, measured.cpu * 1e6, "µs");
        Ok(())
    }

    fn mercurius_batch(&self, report: &mut Report, round: u32) -> Result<()> {
        const TEXT: &str = "Mercurius: 1,000 keys a request";
        let Some(target) = self.target(report, TEXT, round) else { return Ok(()) };
        let measured = measure(&target, &query::batch(self.rows))?;
        report.add("mercurius_batch", TEXT, measured.rate, "requests/s");
        Ok(())
    }

    /// Mercurius as a target; `None`, with a note in the report, when it cannot be measured.
    fn target(&self, report: &mut Report, text: &'static str, round: u32) -> Option<Target<'_>> {
        match &self.mercurius {
            Ok((daemon, http)) => {
                let postgres = self.served.postgres.pid();
                Some(Target { http, pid: daemon.pid(), postgres, right: has_data })
            }
            Err(error) => {
                if round == 0 {
                    report.missing(text, format!("{error:#}"));
                }
                None
            }
        }
    }

    fn pgbench(&self, report: &mut Report, _: u32) -> Result<()> {
        let rate = self.served.pgbench_one(self.rows)?;
        report.add("pgbench_one", "pgbench: the statement of one key", rate, "statements/s");
        Ok(())
    }

    fn pgbench_batch(&self, report: &mut Report, _: u32) -> Result<()> {
        let rate = self.served.pgbench_batch(self.rows)?;
        report.add("pgbench_batch", "pgbench: the statement of 1,000 keys", rate, "statements/s");
        Ok(())
    }

    /// The same daemon's HTTP server, without GraphQL and without the database.
    fn static_answer(&self, report: &mut Report, _: u32) -> Result<()> {
        let right = |body: &[u8]| !body.is_empty();
        let target = Target { http: &self.served.admin, right, ..self.served.target() };
        let request = |_| b"GET /livez HTTP/1.1\r\nhost: bench\r\n\r\n".to_vec();
        let measured = measure(&target, &request)?;
        report.add("static", "limit: a static HTTP answer", measured.rate, "requests/s");
        Ok(())
    }
}
