//! A TCP proxy that can do to a connection what networks do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How often a connection looks whether the network fault has changed.
const LOOK: Duration = Duration::from_millis(20);

/// What the network does to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFault {
    /// They pass: no fault.
    None,
    /// New connections end at once, and those that are there have ended.
    Cut,
    /// They pass after this much time, each way.
    Slow(Duration),
    /// Connections stay open and nothing passes, as behind a firewall that forgot them.
    HalfOpen,
    /// Requests pass and answers do not: what was asked is done, and nobody learns of it.
    AnswersLost,
    /// They pass, but for Kafka's requests with this API key: these are lost, and all others are answered.
    RequestsLost(u16),
}

/// A listener on 127.0.0.1 that passes connections on. It ends with its process; connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    fault: Mutex<NetworkFault>,
    open: Mutex<Vec<TcpStream>>,
    /// Connections made so far.
    made: AtomicU64,
    /// Of connections made before so many, nothing passes any more.
    silent: AtomicU64,
}

impl Proxy {
    /// Listens. Connections end at once until [`Proxy::forward_to`] says where they go.
    pub fn start() -> Self {
        // The kernel's choice is out of the range that other guards take their ports from, so nobody else was told it.
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("some port is free");
        let port = listener.local_addr().expect("a listener has an address").port();
        let shared = Arc::new(Shared {
            target: Mutex::new(None),
            fault: Mutex::new(NetworkFault::None),
            open: Mutex::default(),
            made: AtomicU64::new(0),
            silent: AtomicU64::new(0),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.accept(client);
            }
        });
        Self { port, shared }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that it listens on.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Passes new connections on to `address` (`127.0.0.1:port`).
    pub fn forward_to(&self, address: &str) {
        *lock(&self.shared.target) = Some(address.parse().expect("an address and a port"));
    }

    /// Sets the network fault, also for connections that are open.
    pub fn set(&self, fault: NetworkFault) {
        *lock(&self.shared.fault) = fault;
        if fault == NetworkFault::Cut {
            self.cut();
        }
    }

    /// Nothing passes any more on the connections that are there, and new ones work: so a host looks that died and whose
    /// address moved.
    pub fn silence(&self) {
        self.shared.silent.store(self.shared.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Ends all connections that are there.
    pub fn cut(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(NetworkFault::Cut);
    }
}

impl Shared {
    fn fault(&self) -> NetworkFault {
        *lock(&self.fault)
    }

    /// A client that cannot be served sees its connection end, as a client of a server that is away does.
    fn accept(self: &Arc<Self>, client: TcpStream) {
        let Some(target) = *lock(&self.target) else { return };
        if self.fault() == NetworkFault::Cut {
            return;
        }
        let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else {
            return;
        };
        let Ok(ends) = [&client, &client, &server, &server]
            .into_iter()
            .map(TcpStream::try_clone)
            .collect::<Result<Vec<_>, _>>()
        else {
            return;
        };
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        lock(&self.open).extend(ends);
        let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        let (there, back) = (self.clone(), self.clone());
        thread::spawn(move || there.pass(number, (from_client, server), false));
        thread::spawn(move || back.pass(number, (from_server, client), true));
    }

    fn pass(&self, number: u64, (mut from, mut to): (TcpStream, TcpStream), answers: bool) {
        let is_dead = || {
            let (fault, silent) = (self.fault(), self.silent.load(Ordering::SeqCst));
            fault == NetworkFault::HalfOpen || (number < silent && fault != NetworkFault::Cut)
        };
        let _ = from.set_read_timeout(Some(LOOK));
        let mut buffer = [0; 64 * 1024];
        loop {
            if is_dead() {
                thread::sleep(LOOK);
                continue;
            }
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    // What was under way when the line went dead is kept until it comes back.
                    while is_dead() {
                        thread::sleep(LOOK);
                    }
                    let mut bytes = buffer[..count].to_vec();
                    match self.fault() {
                        NetworkFault::AnswersLost if answers => continue,
                        NetworkFault::RequestsLost(key) if !answers => bytes = without(key, &bytes),
                        NetworkFault::Slow(time) => thread::sleep(time),
                        _ => {}
                    }
                    if to.write_all(&bytes).is_err() {
                        break;
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        // The other side learns of the end; both directions then end.
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// Leaves out the Kafka requests with this API key: each is its size in four bytes, its key in two, and the rest. A client
/// sends a request at once, so what is read here begins with one.
fn without(key: u16, mut bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    while let Some((size, rest)) = bytes.split_first_chunk::<4>() {
        let size = u32::from_be_bytes(*size) as usize;
        let end = (4 + size).min(bytes.len());
        if !rest.starts_with(&key.to_be_bytes()) {
            kept.extend_from_slice(&bytes[..end]);
        }
        bytes = &bytes[end..];
    }
    kept.extend_from_slice(bytes);
    kept
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with itself.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        address
    }

    #[test]
    fn network_faults_come_and_go() {
        let proxy = Proxy::start();
        proxy.forward_to(&echo().to_string());
        let connect = || {
            let stream = TcpStream::connect(proxy.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            stream
        };
        let ask = |stream: &mut TcpStream| {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        };
        let mut stream = connect();
        ask(&mut stream).unwrap();
        proxy.set(NetworkFault::HalfOpen);
        assert!(ask(&mut stream).is_err(), "nothing passes");
        proxy.set(NetworkFault::None);
        stream.read_exact(&mut [0]).unwrap();
        proxy.set(NetworkFault::AnswersLost);
        assert!(ask(&mut stream).is_err(), "no answer");
        proxy.set(NetworkFault::None);
        ask(&mut stream).unwrap();
        proxy.set(NetworkFault::Cut);
        assert!(ask(&mut stream).is_err(), "cut");
        assert!(ask(&mut connect()).is_err(), "and stays cut");
        proxy.set(NetworkFault::Slow(Duration::from_millis(1)));
        ask(&mut connect()).unwrap();
        proxy.set(NetworkFault::None);
        let mut old = connect();
        ask(&mut old).unwrap();
        proxy.silence();
        assert!(ask(&mut old).is_err(), "nothing passes");
        ask(&mut connect()).unwrap();
    }

    #[test]
    fn requests_are_lost_by_their_key() {
        let (nine, ten) = ([0, 0, 0, 3, 0, 9, 1], [0, 0, 0, 2, 0, 10]);
        let both = [&nine[..], &ten, &nine].concat();
        assert_eq!(without(9, &both), ten);
        assert_eq!(without(10, &both), [nine, nine].concat());
        assert_eq!(without(1, &both), both);
    }
}
