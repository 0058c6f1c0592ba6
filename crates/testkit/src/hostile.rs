//! Hostile requests to a GraphQL server. Each attack measures whether other clients were answered meanwhile, how fast,
//! and how much memory the server needed.

mod attacks;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

use crate::daemon::peak_memory;
use crate::http::http_request;

pub use attacks::{attacks, bulk};
use attacks::{framed, references};

/// How long connections are held open.
const HELD: Duration = Duration::from_secs(3);
/// Longer than the server's own timeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an attack does on its connections.
#[derive(Debug, Clone)]
enum Kind {
    /// Sends a whole request and reads the answer.
    Post(Vec<u8>),
    /// The same with chunked encoding, so that the length is not announced.
    Chunked(Vec<u8>),
    /// Connections that each send a part of a request, or a whole one, and then neither send nor read.
    Held(Crowd, Vec<u8>),
    /// This many clients, each with its own address, that send a request again whenever it was answered.
    Repeated(usize, Vec<u8>),
    /// This many connections that each send a request and read its answer slowly, a kilobyte at a time.
    SlowlyRead(usize, Vec<u8>),
}

/// A number of connections and their source addresses.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    count: usize,
    /// Connections per source address. The addresses are 127.0.1.1 and following.
    per_address: usize,
    /// The pause between two connections.
    pause: Duration,
}

/// An attack.
#[derive(Debug, Clone)]
pub struct Attack {
    /// The name, including the size that is sent.
    pub name: String,
    kind: Kind,
}

/// The server under attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The address of the public listener.
    pub http: SocketAddr,
    /// The address of the admin listener.
    pub admin: SocketAddr,
    /// The process id.
    pub pid: u32,
}

/// The result of an attack.
#[derive(Debug, Clone)]
pub struct AttackResult {
    /// Bytes sent, over all connections.
    pub bytes: usize,
    /// The status and the error code, or a description of the result.
    pub answer: String,
    /// The time from the first byte to the answer, or for which the connections were held.
    pub time: Duration,
    /// The peak memory of the server during the attack, in bytes.
    pub peak: u64,
    /// The results of the witnesses: normal clients during the attack.
    pub witnesses: Vec<WitnessResult>,
}

/// The result of a client that sends requests during the attack.
#[derive(Debug, Clone)]
pub struct WitnessResult {
    /// The name of the client.
    pub name: &'static str,
    /// Requests that were answered.
    pub answered: usize,
    /// Answers "busy", and connections that were reset or closed without an answer. After each the witness retries a second
    /// later, as the answer asks.
    pub busy: usize,
    /// The longest wait for an answer, including retries.
    pub longest: Duration,
    /// The longest allowed wait.
    pub allowed: Duration,
    /// The first wrong answer or failure.
    pub failed: Option<String>,
}

impl WitnessResult {
    /// Whether every request was answered within `slack` times the allowed wait.
    pub fn is_well(&self, slack: u32) -> bool {
        self.failed.is_none() && self.answered > 0 && self.longest <= self.allowed * slack
    }
}

/// Runs the attack while the witnesses send requests.
pub fn run_attack(attack: &Attack, target: Target) -> AttackResult {
    // Resets the peak memory. Without permission it is the peak since the server's start.
    let _ = fs::write(format!("/proc/{}/clear_refs", target.pid), "5");
    // Needs more connections than a shell's usual limit.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a process may read its limits");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a process may raise its limit");
    let http = target.http;
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let asking: Vec<_> = witnesses(target)
            .into_iter()
            .map(|witness| scope.spawn(move || witness.ask_until(over)))
            .collect();
        let began = Instant::now();
        let (bytes, answer) = match &attack.kind {
            Kind::Post(body) => {
                exchange(http, &framed(body, &format!("content-length: {}", body.len())))
            }
            Kind::Chunked(body) => {
                let mut chunks = Vec::new();
                for chunk in body.chunks(64 * 1_024) {
                    chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    chunks.extend_from_slice(chunk);
                    chunks.extend_from_slice(b"\r\n");
                }
                chunks.extend_from_slice(b"0\r\n\r\n");
                exchange(http, &framed(&chunks, "transfer-encoding: chunked"))
            }
            Kind::Repeated(clients, request) => repeat(http, *clients, request),
            Kind::Held(crowd, part) => hold(http, *crowd, part),
            Kind::SlowlyRead(count, request) => read_slowly(http, *count, request),
        };
        let time = began.elapsed();
        over.store(true, Ordering::Relaxed);
        let seen = asking.into_iter().filter_map(|asking| asking.join().ok());
        let witnesses = seen.collect();
        let peak = peak_memory(target.pid).expect("the server is running");
        AttackResult { bytes, answer, time, peak, witnesses }
    })
}

/// A client that repeats one request.
struct Witness {
    name: &'static str,
    address: SocketAddr,
    method: &'static str,
    path: &'static str,
    body: String,
    /// The beginning of a correct answer.
    begins: &'static str,
    allowed: Duration,
    pause: Duration,
}

fn witnesses(target: Target) -> Vec<Witness> {
    const ONE: &str = r#"{"query":"{ package(name: \"pg\", version: \"7.12.0\") { name } }"}"#;
    const URL: &str =
        "/graphql?query=%7Bpackage(name%3A%22pg%22%2Cversion%3A%227.12.0%22)%7Bname%7D%7D";
    let second = Duration::from_secs(1);
    let graphql = |name, method, path, body, allowed, pause| Witness {
        name,
        address: target.http,
        method,
        path,
        body,
        begins: r#"{"data""#,
        allowed,
        pause: Duration::from_millis(pause),
    };
    let keys = |count| String::from_utf8_lossy(&references(count)).into_owned();
    let admin = |name, path, begins| Witness {
        address: target.admin,
        begins,
        ..graphql(name, "GET", path, String::new(), second, 50)
    };
    vec![
        graphql("one key", "POST", "/graphql", ONE.to_owned(), second, 5),
        graphql("one key by GET", "GET", URL, String::new(), second, 5),
        graphql("300 keys", "POST", "/graphql", keys(300), second, 50),
        graphql("5,000 keys", "POST", "/graphql", keys(5_000), 3 * second, 200),
        admin("/readyz", "/readyz", r#"{"reason""#),
        admin("/metrics", "/metrics", "# HELP"),
    ]
}

impl Witness {
    /// Repeats the request until `over` is set, at least once.
    fn ask_until(&self, over: &AtomicBool) -> WitnessResult {
        let (mut answered, mut busy, mut longest) = (0, 0, Duration::ZERO);
        let mut began = Instant::now();
        let failed = loop {
            let headers = [("content-type", "application/json")];
            let answer = http_request(self.address, self.method, self.path, &headers, &self.body);
            longest = longest.max(began.elapsed());
            let is_busy = match &answer {
                Ok(answer) => answer.status == 503 && answer.body.contains("BUSY"),
                // A refusal before the end of the body may be lost by a reset (RFC 9112, section 9.6), and at the most connections
                // one whose request has not been read is closed. Clients repeat the request then; the wait still counts.
                Err(error) => matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
                ),
            };
            if is_busy && began.elapsed() < PATIENCE {
                busy += 1;
                thread::sleep(Duration::from_secs(1));
                continue;
            }
            match answer {
                Ok(answer) if answer.status == 200 && answer.body.starts_with(self.begins) => {
                    answered += 1;
                }
                Ok(answer) => {
                    let beginning: String = answer.body.chars().take(120).collect();
                    break Some(format!("{} {beginning}", answer.status));
                }
                Err(error) => break Some(error.to_string()),
            }
            if over.load(Ordering::Relaxed) {
                break None;
            }
            thread::sleep(self.pause);
            began = Instant::now();
        };
        WitnessResult { name: self.name, answered, busy, longest, allowed: self.allowed, failed }
    }
}

/// Sends the request as far as the server accepts it, and reads the status and the code of the answer.
fn exchange(http: SocketAddr, request: &[u8]) -> (usize, String) {
    let answer = || -> io::Result<String> {
        let mut stream = TcpStream::connect(http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // A server may answer and close before it has read the whole request.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if answer.is_empty() {
            read?;
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let text = match answer() {
        Ok(text) if text.is_empty() => "closed".to_owned(),
        Ok(text) => summary(&text),
        Err(error) => format!("no answer: {error}"),
    };
    (request.len(), text)
}

fn summary(answer: &str) -> String {
    let status = answer.split(' ').nth(1).unwrap_or("?");
    match answer.split(r#""code":""#).nth(1).and_then(|rest| rest.split('"').next()) {
        Some(code) => format!("{status} {code}"),
        None => format!("{status}, {} bytes", answer.len()),
    }
}

/// Connects from an address in 127.0.0.0/8.
fn connect_from(source: Ipv4Addr, http: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(http) = http else { return TcpStream::connect(http) };
    let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Let the kernel choose the port by source and target together, because there are more connections than ports.
    setsockopt(&own, sockopt::IpBindAddressNoPort, &true)?;
    bind(own.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(own.as_raw_fd(), &SockaddrIn::from(http))?;
    Ok(TcpStream::from(own))
}

/// Sends the request from each address again and again.
fn repeat(http: SocketAddr, clients: usize, request: &[u8]) -> (usize, String) {
    let until = Instant::now() + HELD;
    let ask = |source| {
        let mut answers = 0;
        while Instant::now() < until {
            let mut stream = connect_from(source, http).expect("the server accepts");
            let _ = stream.write_all(request);
            let _ = io::copy(&mut stream, &mut io::sink());
            answers += 1;
        }
        answers
    };
    let answers: usize = thread::scope(|scope| {
        let sources = (Ipv4Addr::new(127, 0, 1, 1).to_bits()..).map(Ipv4Addr::from_bits);
        let asking = sources.take(clients).map(|source| scope.spawn(move || ask(source)));
        let asking: Vec<_> = asking.collect();
        asking.into_iter().filter_map(|asking| asking.join().ok()).sum()
    });
    (answers * request.len(), format!("{answers} answers"))
}

/// Opens the connections, sends the part on each, and reads nothing for a while.
fn hold(http: SocketAddr, crowd: Crowd, part: &[u8]) -> (usize, String) {
    let first = Ipv4Addr::new(127, 0, 1, 1).to_bits();
    let (mut open, mut sent) = (Vec::new(), 0);
    for number in 0..crowd.count {
        let place = u32::try_from(number / crowd.per_address).unwrap_or_default();
        let mut stream = connect_from(Ipv4Addr::from_bits(first + place), http)
            .unwrap_or_else(|error| panic!("connection {number} of {}: {error}", crowd.count));
        // Do not wait for bytes that the server does not read.
        let _ = stream.set_nonblocking(true);
        let written = stream.write(part).unwrap_or_default();
        sent += written;
        open.push((stream, written));
        thread::sleep(crowd.pause);
    }
    let until = Instant::now() + HELD;
    while Instant::now() < until {
        for (stream, written) in &mut open {
            // Send the rest of a part that did not fit into the socket buffers.
            let more = stream.write(&part[*written..]).unwrap_or_default();
            *written += more;
            sent += more;
        }
        thread::sleep(Duration::from_millis(50));
    }
    for (stream, _) in open {
        let _ = stream.shutdown(Shutdown::Both);
    }
    (sent, format!("{} opened", crowd.count))
}

/// Sends the request `count` times and reads a kilobyte of each answer ten times a second.
fn read_slowly(http: SocketAddr, count: usize, request: &[u8]) -> (usize, String) {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(http).expect("the server accepts");
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        let _ = stream.write_all(request);
        open.push(stream);
    }
    let until = Instant::now() + 2 * HELD;
    let mut read = 0;
    while Instant::now() < until {
        for stream in &mut open {
            read += stream.read(&mut [0; 1_024]).unwrap_or_default();
        }
        thread::sleep(Duration::from_millis(100));
    }
    (count * request.len(), format!("{read} bytes of {} answers read", open.len()))
}
