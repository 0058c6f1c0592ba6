//! Requests that are meant to hurt a GraphQL server, each with the one question that counts: were others answered
//! meanwhile?

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::http_post;

/// What one attack does over its connections.
#[derive(Debug, Clone)]
enum Kind {
    /// Sends a whole request and reads its answer.
    Post(Vec<u8>),
    /// The same in chunks, so that no length is announced.
    Chunked(Vec<u8>),
    /// So many connections that each send a part of a request and then nothing.
    Held(usize, Vec<u8>),
    /// So many connections that each send a request and do not read the answer.
    Unread(usize, Vec<u8>),
}

/// A hostile input.
#[derive(Debug, Clone)]
pub struct Attack {
    /// What it is.
    pub name: &'static str,
    kind: Kind,
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
    /// Ordinary requests that were answered meanwhile.
    pub others: usize,
    /// The longest that one of them waited; none when one of them was not answered.
    pub longest: Option<Duration>,
}

/// A request whose answer says that the server is well; it asks for a row.
const ORDINARY: &str = r#"{"query":"{ package(name: \"pg\", version: \"7.12.0\") { name } }"}"#;
/// How long connections are held open.
const HELD: Duration = Duration::from_secs(2);
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

fn post(name: &'static str, body: Vec<u8>) -> Attack {
    Attack { name, kind: Kind::Post(body) }
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

/// Every attack. `size` is how deep and how often, 100,000 as the names say; less for a test that has little time.
pub fn attacks(size: usize) -> Vec<Attack> {
    let mut all = fragments();
    all.extend(literals(size));
    all.extend(repetitions(size));
    all.extend(bodies(size));
    all.extend(connections(size));
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
        post("list literals 100,000 deep", argument(&list(size))),
        post("list literals nested 1,500 deep (3 kB)", argument(&list(1_500))),
        post("object literals 100,000 deep", argument(&object(size))),
        post("object literals nested 1,500 deep", argument(&object(1_500))),
        post("lists 100,000 deep in a default", default(&list(size))),
        post("objects nested 1,500 deep in a default", default(&object(1_500))),
        post("lists 100,000 deep in a variable", variable(&list(size))),
        post("objects 100,000 deep in a variable", variable(&json)),
        post("selections 100,000 deep", query(&("{a".repeat(size) + &"}".repeat(size)))),
        post(
            "types 100,000 deep in a declaration",
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
        post("10,000 aliases", aliases(size / 10)),
        post("1,000 aliases", aliases(1_000)),
        post("the same field 100,000 times", query(&format!("{{{}}}", "__typename ".repeat(size)))),
        post("the same field 1,900 times", query(&format!("{{{}}}", "__typename ".repeat(1_900)))),
        post("100,000 directives", query(&format!("{{__typename{}}}", "@a".repeat(size)))),
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
        post("a body of 50 MB", large()),
        Attack { name: "the same in chunks", kind: Kind::Chunked(large()) },
        post("an array of 1,000 operations", array.into_bytes()),
        post("a list of numbers as references", numbers),
        post("5,000 references, all fields", references(5_000)),
    ]
}

fn connections(size: usize) -> Vec<Attack> {
    let head = b"POST /graphql HTTP/1.1\r\nhost: x\r\n".to_vec();
    let begun = [
        head.as_slice(),
        b"content-type: application/json\r\ncontent-length: 1500000\r\n\r\n{\"query\":\"{ package",
    ]
    .concat();
    let request = references(5_000);
    let whole = framed(&request, &format!("content-length: {}", request.len()));
    vec![
        Attack { name: "200 heads that never end", kind: Kind::Held(200, head) },
        Attack { name: "200 bodies that never end", kind: Kind::Held(200, begun) },
        Attack {
            name: "60 answers of 5,000 rows that nobody reads",
            kind: Kind::Unread(60, whole),
        },
        Attack { name: "2,000 open connections", kind: Kind::Held(size / 50, Vec::new()) },
    ]
}

fn framed(body: &[u8], length: &str) -> Vec<u8> {
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n{length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Carries it out against the server of this process at `http`, while an ordinary client goes on asking.
pub fn carry_out(attack: &Attack, http: SocketAddr, pid: u32) -> Survived {
    // The peak begins anew; where it may not, it is the largest of all attacks so far.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = scope.spawn(|| ask_until(&over, http));
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
            Kind::Held(count, part) | Kind::Unread(count, part) => hold(http, *count, part),
        };
        let time = began.elapsed();
        over.store(true, Ordering::Relaxed);
        let (others, longest) = others.join().unwrap_or((0, None));
        Survived { bytes, answer, time, peak: peak(pid), others, longest }
    })
}

/// Asks again and again, at least once; the count, and the longest wait unless one was not answered.
fn ask_until(over: &AtomicBool, http: SocketAddr) -> (usize, Option<Duration>) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    loop {
        let began = Instant::now();
        match http_post(http, "/graphql", "application/json", ORDINARY) {
            Ok((200, body)) if body.starts_with(r#"{"data""#) => count += 1,
            _ => return (count, None),
        }
        longest = longest.max(began.elapsed());
        if over.load(Ordering::Relaxed) {
            return (count, Some(longest));
        }
        thread::sleep(Duration::from_millis(5));
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

/// Opens so many connections, sends the part on each and reads nothing for a while.
fn hold(http: SocketAddr, count: usize, part: &[u8]) -> (usize, String) {
    let mut open = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = TcpStream::connect(http) else { break };
        let _ = stream.set_write_timeout(Some(HELD));
        let _ = stream.write_all(part);
        open.push(stream);
    }
    thread::sleep(HELD);
    let held = open.len();
    for stream in open {
        let _ = stream.shutdown(Shutdown::Both);
    }
    (held * part.len(), format!("{held} of {count} held"))
}

fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1_024
}
