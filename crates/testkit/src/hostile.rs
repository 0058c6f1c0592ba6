//! Requests that are meant to hurt a GraphQL server, each with the questions that count: were others answered meanwhile,
//! how fast, and how much memory did it take?

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

use crate::http::http_request;

/// What one attack does over its connections.
#[derive(Debug, Clone)]
enum Kind {
    /// Sends a whole request and reads its answer.
    Post(Vec<u8>),
    /// The same in chunks, so that no length is announced.
    Chunked(Vec<u8>),
    /// Connections that each send a part of a request, or a whole one, and then nothing, and read nothing.
    Held(Crowd, Vec<u8>),
    /// Connections that each send a request and read a kilobyte of its answer now and then.
    SlowlyRead(usize, Vec<u8>),
}

/// How many connections, and from where.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    count: usize,
    /// Connections of one address; the addresses are 127.0.1.1 and those that follow.
    per_address: usize,
    /// Between one and the next.
    pause: Duration,
}

/// A hostile input.
#[derive(Debug, Clone)]
pub struct Attack {
    /// What it is, with the size that is really sent.
    pub name: String,
    kind: Kind,
}

/// The server under attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Where it serves GraphQL.
    pub http: SocketAddr,
    /// Where it serves probes and metrics.
    pub admin: SocketAddr,
    /// Its process.
    pub pid: u32,
}

/// What became of an attack.
#[derive(Debug, Clone)]
pub struct Survived {
    /// Bytes that were sent, over all connections.
    pub bytes: usize,
    /// The status and the error's code; or in words what happened.
    pub answer: String,
    /// From the first byte to the answer, or for as long as the connections were held.
    pub time: Duration,
    /// The server's largest memory meanwhile, in bytes.
    pub peak: u64,
    /// What each of the witnesses saw.
    pub witnesses: Vec<Seen>,
}

/// What a client saw that goes on asking while the server is attacked.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Who it is.
    pub name: &'static str,
    /// Requests that were answered.
    pub answered: usize,
    /// The longest that one of them waited.
    pub longest: Duration,
    /// The longest that one of them may wait.
    pub allowed: Duration,
    /// The answer that was none.
    pub failed: Option<String>,
}

impl Seen {
    /// Whether every request was answered in time.
    pub fn is_well(&self, slack: u32) -> bool {
        self.failed.is_none() && self.answered > 0 && self.longest <= self.allowed * slack
    }
}

/// How long connections are held open.
const HELD: Duration = Duration::from_secs(3);
/// Longer than the server's own time-out.
const PATIENCE: Duration = Duration::from_secs(30);

/// A body that asks for this document.
fn query(document: &str) -> Vec<u8> {
    body(document, "{}")
}

fn body(document: &str, variables: &str) -> Vec<u8> {
    let escaped = document.replace('\\', "\\\\").replace('"', "\\\"");
    format!(r#"{{"query":"{escaped}","variables":{variables}}}"#).into_bytes()
}

/// `#` in the name stands for the body's length.
fn post(name: &str, body: Vec<u8>) -> Attack {
    Attack { name: name.replace('#', &body.len().to_string()), kind: Kind::Post(body) }
}

/// Fragments that each spread the next one so many times.
fn fan(levels: usize, times: usize) -> String {
    let mut text = String::from("{ ...f0 }");
    for level in 0..levels {
        let spreads = format!("...f{} ", level + 1).repeat(times);
        text.push_str(&format!(" fragment f{level} on Query {{ {spreads}}}"));
    }
    text.push_str(&format!(" fragment f{levels} on Query {{ __typename }}"));
    text
}

/// Fragments in a chain, each nested in itself.
fn chain(fragments: usize, levels: usize) -> String {
    let (open, close) = ("...{".repeat(levels), "}".repeat(levels));
    let mut text = String::from("{ ...f0 }");
    for number in 0..fragments {
        text.push_str(&format!(" fragment f{number} on Query {{{open}...f{}{close}}}", number + 1));
    }
    text.push_str(&format!(" fragment f{fragments} on Query {{ __typename }}"));
    text
}

/// References as a variable.
fn references(count: usize) -> Vec<u8> {
    let reference = |n: usize| format!(r#"{{"name":"package-{n}","version":"1.0.0"}}"#);
    let refs: Vec<String> = (0..count).map(reference).collect();
    body(
        "query($refs: [PackageRef!]!) { packages(refs: $refs) { name version purl publicationInfo { username created tor tfa torReason torSettled tfaReason credential actor disputed } } }",
        &format!(r#"{{"refs":[{}]}}"#, refs.join(",")),
    )
}

/// Every attack. `size` is how deep and how often; 100,000 for the whole of it, less for a test that has little time.
pub fn attacks(size: usize) -> Vec<Attack> {
    let mut all = fragments();
    all.extend(literals(size));
    all.extend(repetitions(size));
    all.extend(bodies(size));
    all.extend(caps());
    all.extend(connections());
    all
}

fn fragments() -> Vec<Attack> {
    let levels = "{ofType".repeat(7) + "{name" + &"}".repeat(8);
    let types =
        |n: usize| format!("a{n}:__schema{{types{{fields{{type{levels}args{{type{levels}}}}}}}}}");
    let aliases: String = (0..20).map(types).collect();
    let nested = "fields{type{".repeat(10) + "name" + &"}}".repeat(10);
    let operations =
        |n: usize| format!("query q{n}{{...f{n}}} fragment f{n} on Query{{__typename}} ");
    vec![
        post("doubling fragments, 40 levels", query(&fan(40, 2))),
        post("fourfold fragments, 40 levels", query(&fan(40, 4))),
        post("90 chained fragments, 100 levels each", query(&chain(90, 100))),
        post("60 chained fragments, 30 levels each", query(&chain(60, 30))),
        post(
            "a circle of fragments",
            query("{...a} fragment a on Query{...b} fragment b on Query{...a}"),
        ),
        post("introspection times 20 aliases", query(&format!("{{{aliases}}}"))),
        post("introspection nested 10 times", query(&format!("{{__schema{{types{{{nested}}}}}}}"))),
        post(
            "1,000 operations, 1,000 fragments",
            query(&(0..1_000).map(operations).collect::<String>()),
        ),
    ]
}

fn literals(size: usize) -> Vec<Attack> {
    let list = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let object = |depth: usize| "{a:".repeat(depth) + "1" + &"}".repeat(depth);
    let argument = |value: &str| query(&format!("{{packages(refs:{value}){{name}}}}"));
    let default = |value: &str| {
        query(&format!("query($r:[PackageRef!]!={value}){{packages(refs:$r){{name}}}}"))
    };
    let variable = |value: &str| {
        body("query($r:[PackageRef!]!){packages(refs:$r){name}}", &format!(r#"{{"r":{value}}}"#))
    };
    let json = r#"{"a":"#.repeat(size) + "1" + &"}".repeat(size);
    vec![
        post(&format!("list literals {size} deep"), argument(&list(size))),
        post("list literals nested 1,500 deep (3 kB)", argument(&list(1_500))),
        post(&format!("object literals {size} deep"), argument(&object(size))),
        post("object literals nested 1,500 deep", argument(&object(1_500))),
        post(&format!("lists {size} deep in a default"), default(&list(size))),
        post("objects nested 1,500 deep in a default", default(&object(1_500))),
        post(&format!("lists {size} deep in a variable"), variable(&list(size))),
        post(&format!("objects {size} deep in a variable"), variable(&json)),
        post(&format!("selections {size} deep"), query(&("{a".repeat(size) + &"}".repeat(size)))),
        post(
            &format!("types {size} deep in a declaration"),
            query(&format!("query($a:{}Int{}){{a}}", "[".repeat(size), "]".repeat(size))),
        ),
    ]
}

fn repetitions(size: usize) -> Vec<Attack> {
    let aliases = |count: usize| {
        let field =
            |n: usize| format!("a{n}:package(name:\"package-{n}\",version:\"1.0.0\"){{name}}");
        query(&format!("{{{}}}", (0..count).map(field).collect::<String>()))
    };
    vec![
        post(&format!("{} aliases", size / 10), aliases(size / 10)),
        post("1,000 aliases", aliases(1_000)),
        post(
            &format!("the same field {size} times"),
            query(&format!("{{{}}}", "__typename ".repeat(size))),
        ),
        post("the same field 1,900 times", query(&format!("{{{}}}", "__typename ".repeat(1_900)))),
        post(&format!("{size} directives"), query(&format!("{{__typename{}}}", "@a".repeat(size)))),
        post("400 directives", query(&format!("{{__typename{}}}", "@skip(if:false)".repeat(400)))),
        post("60 kB of commas", query(&format!("{{__typename{}}}", ",".repeat(60_000)))),
        post(
            "unknown fields, an error each",
            query(&format!("{{{}}}", (0..1_500).map(|n| format!("x{n} ")).collect::<String>())),
        ),
    ]
}

fn bodies(size: usize) -> Vec<Attack> {
    let large = || vec![b' '; size * 500];
    let array = format!("[{}{{}}]", r#"{"query":"{__typename}"},"#.repeat(1_000));
    let numbers = body(
        "query($r:[PackageRef!]!){packages(refs:$r){name}}",
        &format!(r#"{{"r":[{}0]}}"#, "0,".repeat(size * 5)),
    );
    vec![
        post("a body of # bytes", large()),
        Attack { name: format!("{} bytes in chunks", size * 500), kind: Kind::Chunked(large()) },
        post("an array of 1,000 operations", array.into_bytes()),
        post("a list of numbers as references", numbers),
        post("5,000 references, all fields", references(5_000)),
    ]
}

/// At each of the default limits, and one over it.
fn caps() -> Vec<Attack> {
    let refs = |count| post(&format!("{count} references"), references(count));
    let padded = |length: usize| {
        let body = query("{__typename}");
        post("a body of # bytes", [body.as_slice(), &vec![b' '; length - body.len()]].concat())
    };
    let document = |length: usize| {
        let text = format!("{{__typename}}#{}", "x".repeat(length - 13));
        post(&format!("a document of {length} bytes"), query(&text))
    };
    let nested = |levels: usize| {
        let text = "...{".repeat(levels - 1);
        post(
            &format!("selections {levels} deep"),
            query(&format!("{{{text}__typename{}}}", "}".repeat(levels - 1))),
        )
    };
    let pages = |count: usize| {
        let page = |n: usize| format!("a{n}:publications(first:100){{edges{{node{{purl}}}}}}");
        let pages: String = (0..count).map(page).collect();
        post(&format!("{count} pages of 100"), query(&format!("{{{pages}}}")))
    };
    vec![
        refs(5_000),
        refs(5_001),
        padded(2 << 20),
        padded((2 << 20) + 1),
        document(64 << 10),
        document((64 << 10) + 1),
        nested(32),
        nested(33),
        pages(10),
        pages(11),
        post("the largest answer, 5,000 references with 60 purls each", wide(60)),
        post("more than the largest answer, 100 purls each", wide(100)),
    ]
}

/// 5,000 references, each answered with so many purls.
fn wide(purls: usize) -> Vec<u8> {
    let fields: String = (0..purls).map(|n| format!("a{n}:purl ")).collect();
    let reference = |n: usize| format!(r#"{{"name":"package-{n}","version":"1.0.0"}}"#);
    let refs: Vec<String> = (0..5_000).map(reference).collect();
    body(
        &format!("query($refs: [PackageRef!]!) {{ packages(refs: $refs) {{ {fields} }} }}"),
        &format!(r#"{{"refs":[{}]}}"#, refs.join(",")),
    )
}

fn connections() -> Vec<Attack> {
    let crowd = |count, per_address| Crowd { count, per_address, pause: Duration::ZERO };
    let held = |name: &str, crowd: Crowd, part: &[u8]| {
        let name = format!(
            "{} {name} ({} bytes), {} of an address",
            crowd.count,
            part.len(),
            crowd.per_address
        );
        Attack { name, kind: Kind::Held(crowd, part.to_vec()) }
    };
    let head = b"POST /graphql HTTP/1.1\r\nhost: x\r\n".as_slice();
    let long_head = |length: usize| [head, b"a: ", &vec![b'x'; length - head.len() - 3]].concat();
    let announced = |length: usize, body: &[u8]| {
        let rest = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        [head, rest.as_bytes(), body].concat()
    };
    let begun = |bytes: usize| {
        let body = query("{__typename}");
        let spaces = vec![b' '; bytes - body.len()];
        announced(2 << 20, &[&body[..body.len() - 1], spaces.as_slice()].concat())
    };
    let request = references(5_000);
    let whole = framed(&request, &format!("content-length: {}", request.len()));
    let request = wide(60);
    let largest = framed(&request, &format!("content-length: {}", request.len()));
    let slowly = |count| Attack {
        name: format!("{count} answers of some 15 MB that are read slowly"),
        kind: Kind::SlowlyRead(count, largest.clone()),
    };
    let paced = Crowd { count: 24, per_address: 256, pause: Duration::from_millis(125) };
    vec![
        held("open connections", crowd(2_000, 2_000), b""),
        held("half heads", crowd(4_200, 4_200), head),
        held("half heads", crowd(4_200, 200), head),
        held("long heads that stop", crowd(2_000, 2_000), &long_head(60_000)),
        held("long heads that stop", crowd(2_000, 200), &long_head(60_000)),
        held("heads one byte below the cap that stop", crowd(2_000, 200), &long_head(16_383)),
        held("short heads that stop", crowd(2_000, 200), &long_head(4_000)),
        held("heads for 2 MiB without a body, 8 each second", paced, &announced(2 << 20, b"")),
        held("bodies that stop", crowd(200, 200), &begun(1_000_000)),
        held("bodies that stop", crowd(400, 100), &begun(1_000_000)),
        held("bodies that stop", crowd(1_000, 100), &begun(10_000)),
        held("answers of 5,000 rows that nobody reads", crowd(60, 60), &whole),
        held("answers of 5,000 rows that nobody reads", crowd(60, 10), &whole),
        slowly(2),
        slowly(10),
    ]
}

fn framed(body: &[u8], length: &str) -> Vec<u8> {
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n{length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Carries it out while the witnesses go on asking.
pub fn carry_out(attack: &Attack, target: Target) -> Survived {
    // The peak begins anew; where it may not, it is the largest of all attacks so far.
    let _ = fs::write(format!("/proc/{}/clear_refs", target.pid), "5");
    // More connections than a shell's usual limit; where it may not be raised, fewer are opened.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
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
            Kind::Held(crowd, part) => hold(http, *crowd, part),
            Kind::SlowlyRead(count, request) => read_slowly(http, *count, request),
        };
        let time = began.elapsed();
        over.store(true, Ordering::Relaxed);
        let seen = asking.into_iter().filter_map(|asking| asking.join().ok());
        let witnesses = seen.collect();
        Survived { bytes, answer, time, peak: peak(target.pid), witnesses }
    })
}

/// A client that asks the same again and again.
struct Witness {
    name: &'static str,
    address: SocketAddr,
    method: &'static str,
    path: &'static str,
    body: String,
    /// How a right answer begins.
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
    /// Asks again and again, at least once.
    fn ask_until(&self, over: &AtomicBool) -> Seen {
        let (mut answered, mut longest) = (0, Duration::ZERO);
        let failed = loop {
            let began = Instant::now();
            let headers = [("content-type", "application/json")];
            let answer = http_request(self.address, self.method, self.path, &headers, &self.body);
            longest = longest.max(began.elapsed());
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
        };
        Seen { name: self.name, answered, longest, allowed: self.allowed, failed }
    }
}

/// Sends all of it, as far as it is taken, and reads the answer's status and code.
fn exchange(http: SocketAddr, request: &[u8]) -> (usize, String) {
    let answer = || -> io::Result<String> {
        let mut stream = TcpStream::connect(http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // A server may answer and close before it has taken everything.
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

/// A connection from an address of this machine's own network 127.0.0.0/8.
fn connect_from(source: Ipv4Addr, http: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(http) = http else { return TcpStream::connect(http) };
    let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The port is chosen with the peer in mind: there are more connections here than ports.
    setsockopt(&own, sockopt::IpBindAddressNoPort, &true)?;
    bind(own.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(own.as_raw_fd(), &SockaddrIn::from(http))?;
    Ok(TcpStream::from(own))
}

/// Opens the connections, sends the part on each and reads nothing for a while.
fn hold(http: SocketAddr, crowd: Crowd, part: &[u8]) -> (usize, String) {
    let first = Ipv4Addr::new(127, 0, 1, 1).to_bits();
    let (mut open, mut sent) = (Vec::new(), 0);
    for number in 0..crowd.count {
        let place = u32::try_from(number / crowd.per_address).unwrap_or_default();
        let Ok(mut stream) = connect_from(Ipv4Addr::from_bits(first + place), http) else {
            continue;
        };
        // What the server does not take is left; nobody waits for it.
        let _ = stream.set_nonblocking(true);
        let written = stream.write(part).unwrap_or_default();
        sent += written;
        open.push((stream, written));
        thread::sleep(crowd.pause);
    }
    let until = Instant::now() + HELD;
    while Instant::now() < until {
        for (stream, written) in &mut open {
            // What is larger than the buffers between goes on as far as it is taken.
            let more = stream.write(&part[*written..]).unwrap_or_default();
            *written += more;
            sent += more;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let opened = open.len();
    for (stream, _) in open {
        let _ = stream.shutdown(Shutdown::Both);
    }
    (sent, format!("{opened} of {} opened", crowd.count))
}

/// Sends the request so many times and reads a kilobyte of each answer ten times a second.
fn read_slowly(http: SocketAddr, count: usize, request: &[u8]) -> (usize, String) {
    let mut open = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = TcpStream::connect(http) else { continue };
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

fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1_024
}
