//! The query daemon over HTTP, compared with `pgbench` running the same statement on PostgreSQL.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::{Daemon, Postgres, free_address, postgres_program};
use tokio::runtime::Runtime;

use crate::postgres;
use crate::process::{cpu, cpu_with_children, memory};
use crate::report::Report;
use crate::workspace::Workspace;

const ROWS: u32 = 1_000_000;
/// The number of connections in the performance goal.
pub(crate) const CONNECTIONS: usize = 16;
const KEYS: u32 = 1_000;
/// Fills the caches of both sides, prepares the statements and opens the connections.
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);
/// The keys in the daemon's statement.
const PARAMETERS: &str = "$1::text[], $2::text[]";
/// The settings of the daemon's sessions.
const SESSION: &str =
    "-c plan_cache_mode=force_generic_plan -c enable_hashjoin=off -c enable_mergejoin=off";

/// A query daemon with its own PostgreSQL.
pub(crate) struct Served {
    pub(crate) daemon: Daemon,
    pub(crate) http: String,
    pub(crate) admin: String,
    pub(crate) database: String,
    pub(crate) postgres: Postgres,
    pub(crate) runtime: Runtime,
    /// The statement with which the daemon finds rows.
    statement: String,
}

impl Served {
    /// Builds the daemon, and starts it on a PostgreSQL with `rows` rows.
    pub(crate) fn start(workspace: &Workspace, rows: u32) -> Result<Self> {
        workspace.build("query")?;
        let (postgres, runtime) = (postgres::start(), Runtime::new()?);
        let database = runtime.block_on(postgres.database()).url;
        runtime.block_on(fill(workspace, &database, rows))?;
        let (http, admin) = (free_address(), free_address());
        let mut daemon = Daemon::command("publication-query")
            .arg("serve")
            .env("QUERY_STORE__URL", &database)
            .env("QUERY_HTTP__LISTEN", &http)
            .env("QUERY_ADMIN__LISTEN", &admin)
            .spawn();
        daemon.wait_ready(&admin);
        let statement = runtime.block_on(statement(&http, &database))?;
        Ok(Self { daemon, http, admin, database, postgres, runtime, statement })
    }

    /// The daemon as a target of requests.
    pub(crate) fn target(&self) -> Target<'_> {
        let (pid, postgres) = (self.daemon.pid(), self.postgres.pid());
        Target { http: &self.http, pid, postgres, right: has_data }
    }

    /// The daemon's peak memory, in MiB.
    pub(crate) fn peak(&self) -> Result<f64> {
        memory(&self.daemon.pid().to_string(), "VmHWM")
    }
}

/// The daemon's statement for one key, as PostgreSQL has received it, so that `pgbench` runs the same one.
async fn statement(http: &str, database: &str) -> Result<String> {
    let mut connection = PgConnection::connect(database).await?;
    let sql = "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND strpos(query, $1) > 0 LIMIT 1";
    let (mut line, mut body) = (String::new(), Vec::new());
    // The daemon's probe may have used the session since.
    for _ in 0..100 {
        let mut stream = TcpStream::connect(http)?;
        stream.write_all(&request(&[0]))?;
        read_answer(&mut BufReader::new(stream), &mut line, &mut body)?;
        let found = sqlx::query_scalar(sql).bind(PARAMETERS).fetch_optional(&mut connection);
        if let Some(statement) = found.await? {
            return Ok(statement);
        }
    }
    bail!("no session of the daemon has run a statement with {PARAMETERS}")
}

/// Creates the tables with the migrations, and generates the rows in the database.
async fn fill(workspace: &Workspace, database: &str, rows: u32) -> Result<()> {
    let folder = workspace.root().join("crates/store/migrations/postgres");
    let files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut connection = PgConnection::connect(database).await?;
    for file in files {
        let sql = fs::read_to_string(&file)?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    }
    let sql = format!(
        "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason, credential,
             actor, tor_settled, disputed, tor, tfa, username, event_identity)
         SELECT 'package-' || n, '1.0.0', timestamptz '2024-01-01' + n * interval '1 s', 0, 0, 'not_listed',
             'second_factor', 'session_token', 'user', true, false, false, true, 'user-' || n % 1000,
             decode(md5(n::text), 'hex')
         FROM generate_series(0, {rows} - 1) AS n"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    sqlx::raw_sql("VACUUM ANALYZE publication").execute(&mut connection).await?;
    postgres::settle(database).await
}

/// Measures and reports. Returns the running daemon.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<Served> {
    eprintln!("bench: filling PostgreSQL with {ROWS} publications");
    let served = Served::start(workspace, ROWS)?;
    let version = served.runtime.block_on(postgres::version(&served.postgres.url()))?;
    report.fact("query", format!("{ROWS} rows, {CONNECTIONS} connections, PostgreSQL {version}"));

    let daemon = served.target();
    let requests = measure(&daemon, &one(ROWS))?;
    report.add("query_one", "query daemon: one key a request", requests.rate, "requests/s");
    report.add("query_one_cpu", "  its processor time a request", requests.cpu * 1e6, "µs");
    report.add("query_one_postgres", "  PostgreSQL's", requests.postgres * 1e6, "µs");
    let alone = served.pgbench_one(ROWS)?;
    report.add("pgbench_one", "pgbench: the same statement", alone, "statements/s");
    report.ratio("query_per_pgbench", "one key, daemon / pgbench", "query_one", "pgbench_one");

    let batches = measure(&daemon, &batch(ROWS))?;
    report.add("query_batch", "query daemon: 1,000 keys a request", batches.rate, "batches/s");
    report.add("query_batch_cpu", "  its processor time a batch", batches.cpu * 1e3, "ms");
    report.add("query_batch_postgres", "  PostgreSQL's", batches.postgres * 1e3, "ms");
    let alone = served.pgbench_batch(ROWS)?;
    report.add("pgbench_batch", "pgbench: the same statement", alone, "statements/s");
    let text = "1,000 keys, daemon / pgbench";
    report.ratio("batch_per_pgbench", text, "query_batch", "pgbench_batch");
    report.add("query_peak", "query daemon: peak memory", served.peak()?, "MiB");
    Ok(served)
}

/// Generates requests for one package each, out of `rows` packages.
pub(crate) fn one(rows: u32) -> impl Fn(u32) -> Vec<u8> + Sync {
    move |n| request(&[n % rows])
}

/// Generates requests for 1,000 packages each.
pub(crate) fn batch(rows: u32) -> impl Fn(u32) -> Vec<u8> + Sync {
    move |n| request(&(0..KEYS).map(|key| spread(n, key, rows)).collect::<Vec<_>>())
}

/// The package number of a key in a batch. Consecutive keys are far apart.
fn spread(n: u32, key: u32, rows: u32) -> u32 {
    (n.wrapping_mul(7_919) + key * 997) % rows
}

/// A request for these packages with the fields of the README.
fn request(places: &[u32]) -> Vec<u8> {
    let body = match places {
        [one] => format!(
            r#"{{"query":"query($n:String!){{package(name:$n,version:\"1.0.0\"){{publicationInfo{{username tor tfa}}}}}}","variables":{{"n":"package-{one}"}}}}"#
        ),
        many => {
            let refs =
                many.iter().map(|n| format!(r#"{{"name":"package-{n}","version":"1.0.0"}}"#));
            let refs = refs.collect::<Vec<_>>().join(",");
            format!(
                r#"{{"query":"query($r:[PackageRef!]!){{packages(refs:$r){{publicationInfo{{username tor tfa}}}}}}","variables":{{"r":[{refs}]}}}}"#
            )
        }
    };
    post(&body)
}

/// The request with this body, as bytes.
pub(crate) fn post(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /graphql HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A server to measure, and its processes.
pub(crate) struct Target<'a> {
    pub(crate) http: &'a str,
    pub(crate) pid: u32,
    pub(crate) postgres: Option<u32>,
    /// Whether the body of an answer is correct.
    pub(crate) right: fn(&[u8]) -> bool,
}

/// Whether the body has data, and not `null` for the last package.
pub(crate) fn has_data(body: &[u8]) -> bool {
    body.starts_with(b"{\"data\"") && !body.ends_with(b":null}}")
}

/// The result of a measurement.
pub(crate) struct Measured {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Processor time of the daemon, and of PostgreSQL, per request, in seconds.
    pub(crate) cpu: f64,
    pub(crate) postgres: f64,
}

/// Sends requests on all connections in parallel. Each connection waits for its answer before the next request.
pub(crate) fn measure(
    target: &Target<'_>,
    request: &(dyn Fn(u32) -> Vec<u8> + Sync),
) -> Result<Measured> {
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let used = || -> Result<(f64, f64)> {
        let postgres = target.postgres.map_or(Ok(0.0), cpu_with_children)?;
        Ok((cpu(target.pid)?, postgres))
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0_u32..)
            .take(CONNECTIONS)
            .map(|client| {
                scope.spawn({
                    let (done, over) = (&done, &over);
                    move || ask(target, client, request, (done, over))
                })
            })
            .collect();
        thread::sleep(WARM_UP);
        let (before, used_before, began) = (done.load(Ordering::Relaxed), used(), Instant::now());
        thread::sleep(MEASURED);
        let count = (done.load(Ordering::Relaxed) - before) as f64;
        let (used_after, seconds) = (used(), began.elapsed().as_secs_f64());
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().ok().context("a client panicked")??;
        }
        let (before, after) = (used_before?, used_after?);
        ensure!(count > 0.0, "no request was answered");
        let (cpu, postgres) = ((after.0 - before.0) / count, (after.1 - before.1) / count);
        Ok(Measured { rate: count / seconds, cpu, postgres })
    })
}

fn ask(
    target: &Target<'_>,
    client: u32,
    request: &(dyn Fn(u32) -> Vec<u8> + Sync),
    (done, over): (&AtomicU64, &AtomicBool),
) -> Result<()> {
    // Generate the requests before the measurement, so that this does not cost time in it.
    let requests: Vec<Vec<u8>> =
        (0..64).map(|turn| request((client * 64 + turn).wrapping_mul(48_271))).collect();
    let mut stream = TcpStream::connect(target.http)?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::with_capacity(64 * 1_024, stream.try_clone()?);
    let (mut line, mut body) = (String::new(), Vec::new());
    for request in requests.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        stream.write_all(request)?;
        read_answer(&mut answers, &mut line, &mut body)?;
        ensure!((target.right)(&body), "a wrong answer: {}", String::from_utf8_lossy(&body));
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads an HTTP answer, and its body into `body`.
pub(crate) fn read_answer(
    answers: &mut impl BufRead,
    line: &mut String,
    body: &mut Vec<u8>,
) -> Result<()> {
    let mut length = 0;
    loop {
        line.clear();
        ensure!(answers.read_line(line)? > 0, "the server closed a connection");
        let header = line.split_once(':');
        if let Some((name, value)) = header
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    body.resize(length, 0);
    Ok(answers.read_exact(body)?)
}

impl Served {
    /// Statements of one key per second, by `pgbench`.
    pub(crate) fn pgbench_one(&self, rows: u32) -> Result<f64> {
        let keys = "ARRAY['package-' || :n], ARRAY['1.0.0']";
        self.pgbench(&format!("\\set n random(0, {})\n", rows - 1), keys, &[])
    }

    /// Statements of 1,000 keys per second, by `pgbench`.
    pub(crate) fn pgbench_batch(&self, rows: u32) -> Result<f64> {
        let list = |value: &dyn Fn(u32) -> String| {
            let items: Vec<String> = (0..KEYS).map(value).collect();
            format!("{{{}}}", items.join(","))
        };
        let names = format!("names={}", list(&|key| format!("package-{}", spread(1, key, rows))));
        let versions = format!("versions={}", list(&|_| "1.0.0".to_owned()));
        let keys = ":names::text[], :versions::text[]";
        self.pgbench("", keys, &["-D", &names, "-D", &versions])
    }

    /// Statements per second of `pgbench`, over the same number of connections.
    fn pgbench(&self, before: &str, keys: &str, more: &[&str]) -> Result<f64> {
        let script = tempfile::NamedTempFile::new()?;
        let statement = self.statement.replace(PARAMETERS, keys);
        fs::write(script.path(), format!("{before}{statement};\n"))?;
        let program = postgres_program("pgbench").context("no pgbench beside postgres")?;
        let clients = CONNECTIONS.to_string();
        let seconds = MEASURED.as_secs().to_string();
        let output = Command::new(program)
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--client", &clients])
            .args(["--time", &seconds, "--file"])
            .arg(script.path())
            .args(more)
            .arg(&self.database)
            .env("PGOPTIONS", SESSION)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
        rate.and_then(|rate| rate.parse().ok()).context("pgbench printed no rate")
    }
}
