use super::*;
use axum::Extension;
use axum::routing::get;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const HOUR: Duration = Duration::from_secs(3_600);

fn bounds() -> Bounds {
    Bounds {
        max_connections: 10,
        max_per_address: 10,
        exempt: Arc::new([]),
        max_long_heads: 10,
        idle_timeout: HOUR,
        write_timeout: HOUR,
        min_rate: 1,
    }
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

async fn start(router: Router, bounds: Bounds) -> Running {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let serving =
        tokio::spawn(async move { serve(listener, router, bounds, None, &stopping).await });
    Running { address, stop, serving }
}

fn short() -> Router {
    Router::new().route("/", get(async || "short").post(async || "short"))
}

/// Reads one response of the short route.
async fn answered(stream: &mut TcpStream) {
    let mut answer = String::new();
    while !answer.ends_with("short") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "{answer}");
        answer.push(char::from(byte[0]));
    }
}

/// Whether the server has closed the connection.
async fn is_ended(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
}

async fn connect(address: SocketAddr, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

async fn rest(mut stream: TcpStream) -> usize {
    let mut rest = Vec::new();
    // A connection may also end by a reset, if its data was not read.
    let _ = stream.read_to_end(&mut rest).await;
    rest.len()
}

#[tokio::test]
async fn only_requests_in_progress_are_let_finish() {
    // More than the buffers at both ends of a connection hold.
    const LENGTH: usize = 32 << 20;
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (asked, answer) = (asked.clone(), answer.clone());
        async move || {
            asked.notify_one();
            answer.notified().await;
            "x".repeat(LENGTH)
        }
    };
    let router = short().route("/long", get(handler));
    let Running { address, stop, serving } = start(router, bounds()).await;
    let nothing = connect(address, b"").await;
    let half = connect(address, b"GET /met").await;
    let mut second_half = connect(address, HEAD).await;
    second_half.read_exact(&mut [0; 64]).await.unwrap();
    second_half.write_all(b"GET").await.unwrap();
    let mut sending = connect(address, b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await;
    asked.notified().await;
    answer.notify_one();
    sending.read_exact(&mut [0; 64]).await.unwrap();
    let waiting = connect(address, b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await;
    asked.notified().await;
    stop.cancel();
    for idle in [nothing, half, second_half] {
        assert!(rest(idle).await < 200);
    }
    answer.notify_one();
    assert!(rest(sending).await > LENGTH);
    assert!(rest(waiting).await > LENGTH);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_request_that_waits_for_its_client_gives_way_and_one_that_works_does_not() {
    let waiting = Arc::new(Notify::new());
    let waits = waiting.clone();
    let receive = async move |Extension(peer): Extension<Peer>| {
        peer.receives(true);
        waits.notify_one();
        std::future::pending::<&str>().await
    };
    let works = waiting.clone();
    let work = async move || {
        works.notify_one();
        std::future::pending::<&str>().await
    };
    let router = short().route("/receive", get(receive)).route("/work", get(work));
    let running = start(router, Bounds { max_connections: 3, ..bounds() }).await;
    let _working = connect(running.address, b"GET /work HTTP/1.1\r\nhost: x\r\n\r\n").await;
    waiting.notified().await;
    let mut receiving = Vec::new();
    for _ in 0..2 {
        let head = b"GET /receive HTTP/1.1\r\nhost: x\r\n\r\n";
        receiving.push(connect(running.address, head).await);
        waiting.notified().await;
    }
    // The request of the first new one is still on its way when the second comes.
    let mut new = connect(running.address, b"").await;
    assert!(is_ended(&mut receiving[0]).await);
    let mut newer = connect(running.address, HEAD).await;
    answered(&mut newer).await;
    assert!(is_ended(&mut receiving[1]).await);
    new.write_all(HEAD).await.unwrap();
    answered(&mut new).await;
}

#[tokio::test]
async fn one_connection_too_many_ends_the_one_that_was_idle_for_the_longest() {
    let running = start(short(), Bounds { max_connections: 2, ..bounds() }).await;
    let mut first = connect(running.address, HEAD).await;
    answered(&mut first).await;
    // Half a head does not count as activity.
    let mut second = connect(running.address, b"GET / HT").await;
    let mut third = connect(running.address, HEAD).await;
    answered(&mut third).await;
    assert!(is_ended(&mut first).await);
    second.write_all(b"TP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    answered(&mut second).await;
    let mut fourth = connect(running.address, HEAD).await;
    answered(&mut fourth).await;
    assert!(is_ended(&mut third).await);
    running.stop.cancel();
    running.serving.await.unwrap();
}

#[tokio::test]
async fn an_address_has_its_share_unless_it_is_excepted() {
    let shares = Bounds { max_per_address: 2, ..bounds() };
    let running = start(short(), shares.clone()).await;
    let mut own = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(running.address, HEAD).await;
        answered(&mut stream).await;
        own.push(stream);
    }
    assert!(is_ended(&mut own[0]).await && is_ended(&mut own[1]).await);
    own[3].write_all(HEAD).await.unwrap();
    answered(&mut own[3]).await;

    let exempt = Arc::new(["127.0.0.0/8".parse().unwrap()]);
    let running = start(short(), Bounds { exempt, ..shares }).await;
    let mut own = Vec::new();
    for _ in 0..4 {
        own.push(connect(running.address, b"").await);
    }
    for stream in &mut own {
        stream.write_all(HEAD).await.unwrap();
        answered(stream).await;
    }
}

#[tokio::test]
async fn one_long_head_too_many_ends_the_oldest() {
    let running = start(short(), Bounds { max_long_heads: 2, ..bounds() }).await;
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}", "x".repeat(8_000));
    let mut long = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(running.address, HEAD).await;
        answered(&mut stream).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        long.push(stream);
    }
    assert!(is_ended(&mut long[0]).await);
    long[2].write_all(b"\r\n\r\n").await.unwrap();
    answered(&mut long[2]).await;
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_refused_with_a_body() {
    let running = start(short(), bounds()).await;
    let long = "x".repeat(20_000);
    for (sent, status, code) in [
        (format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n"), "431", "HEAD_TOO_LARGE"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "431", "HEAD_TOO_LARGE"),
        ("GET / HTTP/1.1\r\na b: c\r\n\r\n".to_owned(), "400", "BAD_REQUEST"),
        ("\0\0\0\0\r\n\r\n".to_owned(), "400", "BAD_REQUEST"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400", "BAD_REQUEST"),
        ("GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n".to_owned(), "400", "BAD_REQUEST"),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(), "400", "BAD_REQUEST"),
        ("GET / HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n".to_owned(), "400", "BAD_REQUEST"),
    ] {
        let mut stream = connect(running.address, sent.as_bytes()).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.get(8..13), Some(&*format!(" {status} ")), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["errors"][0]["extensions"]["code"], code, "{answer}");
    }
}

#[tokio::test]
async fn the_routers_own_refusals_stay_as_they_are() {
    let running = start(short(), bounds()).await;
    for (sent, begins) in [
        ("GET /other HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "HTTP/1.1 404 "),
        ("DELETE / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "HTTP/1.1 405 "),
    ] {
        let mut stream = connect(running.address, sent.as_bytes()).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(begins) && answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(begins.contains("405"), answer.contains("allow: GET,HEAD,POST"), "{answer}");
    }
}

#[tokio::test]
async fn a_host_may_be_empty_and_http_1_0_needs_none() {
    let running = start(short(), bounds()).await;
    for sent in [
        "GET / HTTP/1.1\r\nhost:\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: publication_query\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        answered(&mut connect(running.address, sent.as_bytes()).await).await;
    }
}

#[tokio::test]
async fn an_http2_client_is_told_to_use_http_1_1() {
    let running = start(short(), bounds()).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for first in [preface.len(), 1, 8, 14] {
        let mut stream = connect(running.address, &preface[..first]).await;
        // When a later connection has been answered, the first bytes have been read.
        answered(&mut connect(running.address, HEAD).await).await;
        stream.write_all(&preface[first..]).await.unwrap();
        let mut answer = [0; 26];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[3], 4, "SETTINGS");
        assert_eq!((answer[12], answer[25]), (7, 0x0d), "GOAWAY, HTTP_1_1_REQUIRED");
    }
}

#[tokio::test]
async fn a_request_that_begins_as_http2_would_is_answered() {
    let running = start(short(), bounds()).await;
    let mut stream = connect(running.address, b"P").await;
    answered(&mut connect(running.address, HEAD).await).await;
    stream.write_all(b"OST / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    answered(&mut stream).await;
    let mut stream = connect(running.address, b"PRI").await;
    stream.shutdown().await.unwrap();
    assert!(is_ended(&mut stream).await);
}

#[tokio::test]
async fn a_client_that_is_answered_early_reads_its_answer() {
    // The server responds without reading the body.
    let running = start(short(), bounds()).await;
    let head =
        b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 20000000\r\n\r\n";
    let mut stream = connect(running.address, head).await;
    stream.write_all(&vec![b'x'; 20_000_000]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("short"), "{answer}");
}

#[tokio::test]
async fn who_reads_too_slowly_is_cut_off_and_who_reads_fast_enough_is_not() {
    const LENGTH: usize = 48 << 20;
    let router = Router::new().route("/", get(async || "x".repeat(LENGTH)));
    let limits =
        Bounds { write_timeout: Duration::from_millis(300), min_rate: 1 << 20, ..bounds() };
    let running = start(router, limits).await;
    let read = async |is_slow: bool| {
        let mut stream = connect(running.address, HEAD).await;
        let (mut room, mut count) = (vec![0; 256 << 10], 0);
        let mut interval = tokio::time::interval(Duration::from_millis(500));
        while count < LENGTH {
            if is_slow {
                interval.tick().await;
            }
            match stream.read(&mut room).await {
                Ok(0) | Err(_) => break,
                Ok(bytes) => count += bytes,
            }
        }
        count
    };
    assert!(read(false).await >= LENGTH);
    assert!(read(true).await < LENGTH);
}
