//! The cost of `history`: a request for 5,000 publications with it, compared with the same request without it.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::query::{Served, has_data, post, read_answer};
use crate::report::Report;

/// The default limit of references in a request.
const NAMES: u32 = 5_000;
/// The number of versions of one name.
const LONGEST: u32 = 4_000;
/// The n-th other name has this divided by √n versions: 195,944 in total, so that the mean of all names is 40.
const SKEW: f64 = 1_400.0;
/// Rounds of each of the two requests, in turn.
const ROUNDS: usize = 15;
/// Rounds that are not counted, to fill plans, caches and the document cache.
const WARM_UP: usize = 3;

/// Measures and reports, in a table that already has other rows.
pub(crate) fn run(served: &Served, report: &mut Report) -> Result<()> {
    let rows = served.runtime.block_on(fill(&served.database))?;
    let mean = f64::from(rows) / f64::from(NAMES);
    report.fact(
        "history",
        format!("{NAMES} names of {mean:.1} versions in the mean, one of {LONGEST}"),
    );
    let info = "publicationInfo{username tor tfa}";
    let history = "history{earlier strongest{version} weaker newPublisher publisherLast}";
    let plain = request(info);
    let with_history = request(&format!("{info} {history}"));
    let mut client = Client::connect(&served.http)?;
    for round in 0..WARM_UP + ROUNDS {
        let (without, with) = (client.ask(&plain)?, client.ask(&with_history)?);
        if round >= WARM_UP {
            report.add("refs_plain", "query daemon: 5,000 references", without * 1e3, "ms");
            report.add("refs_history", "  the same with their histories", with * 1e3, "ms");
        }
    }
    let text = "5,000 references, without / with history";
    report.ratio("history_cost", text, "refs_plain", "refs_history");
    report.add("history_peak", "query daemon: peak memory with histories", served.peak()?, "MiB");
    Ok(())
}

fn versions(name: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "1,400 at most")]
    #[expect(clippy::cast_sign_loss, reason = "a root is not negative")]
    match name {
        0 => LONGEST,
        name => (SKEW / f64::from(name).sqrt()).round() as u32,
    }
}

/// Inserts the versions of the names. Returns the number of rows.
async fn fill(database: &str) -> Result<u32> {
    let counts: Vec<u32> = (0..NAMES).map(versions).collect();
    let list = counts.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut connection = PgConnection::connect(database).await?;
    let sql = format!(
        "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason, credential,
             actor, tor_settled, disputed, tor, tfa, username, event_identity)
         SELECT 'history-' || name - 1, '1.' || version || '.0', timestamptz '2015-01-01' + version * interval '1 day', 0, 0,
             'not_listed', 'second_factor', 'session_token', 'user', true, false, false, version % 9 <> 0,
             'user-' || version % 3, decode(md5(version::text), 'hex')
         FROM unnest(ARRAY[{list}]) WITH ORDINALITY AS names (versions, name), generate_series(1, versions) AS version"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    sqlx::raw_sql("VACUUM ANALYZE publication").execute(&mut connection).await?;
    Ok(counts.iter().sum())
}

/// A request for the newest version of each name.
fn request(fields: &str) -> Vec<u8> {
    let newest = |name| json!({"name": format!("history-{name}"), "version": format!("1.{}.0", versions(name))});
    let refs: Vec<_> = (0..NAMES).map(newest).collect();
    let query = format!("query($refs:[PackageRef!]!){{packages(refs:$refs){{{fields}}}}}");
    post(&json!({"query": query, "variables": {"refs": refs}}).to_string())
}

struct Client {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Client {
    fn connect(http: &str) -> Result<Self> {
        let stream = TcpStream::connect(http).context("no connection to the daemon")?;
        stream.set_nodelay(true)?;
        Ok(Self { answers: BufReader::with_capacity(64 * 1_024, stream.try_clone()?), stream })
    }

    /// Sends a request. Returns the seconds until the whole answer was read.
    fn ask(&mut self, request: &[u8]) -> Result<f64> {
        let (mut line, mut body) = (String::new(), Vec::new());
        let began = Instant::now();
        self.stream.write_all(request)?;
        read_answer(&mut self.answers, &mut line, &mut body)?;
        let seconds = began.elapsed().as_secs_f64();
        // A missing package is null in the list.
        let is_missing = |part: &[u8]| part == b"[null" || part == b",null";
        ensure!(has_data(&body) && !body.windows(5).any(is_missing), "a wrong answer");
        Ok(seconds)
    }
}
