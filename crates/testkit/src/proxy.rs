//! A TCP proxy that simulates network faults.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How often a connection checks whether the fault has changed.
const LOOK: Duration = Duration::from_millis(20);

/// A network fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFault {
    /// No fault.
    None,
    /// Existing and new connections are closed.
    Cut,
    /// Bytes are delayed by this much in each direction.
    Slow(Duration),
    /// Connections stay open and no bytes pass, like behind a firewall that dropped its state.
    HalfOpen,
    /// Requests pass, answers are lost: the server does the work, and the client does not learn of it.
    AnswersLost,
    /// Kafka requests with this API key are lost; everything else passes.
    RequestsLost(u16),
}

/// A listener on 127.0.0.1 that forwards connections. It lives as long as the process; dropping it ends its connections.
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
    /// Number of connections so far.
    made: AtomicU64,
    /// Connections with a smaller number are silent: no bytes pass.
    silent: AtomicU64,
}

impl Proxy {
    /// Starts to listen. Connections are closed at once until [`Proxy::forward_to`] sets a target.
    pub fn start() -> Self {
        // The kernel chooses the port outside of the range of `free_port`, so there is no conflict.
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

    /// The port of the listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the listener.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Forwards new connections to `address` (`127.0.0.1:port`).
    pub fn forward_to(&self, address: &str) {
        *lock(&self.shared.target) = Some(address.parse().expect("an address and a port"));
    }

    /// Sets the fault, for open connections too.
    pub fn set(&self, fault: NetworkFault) {
        *lock(&self.shared.fault) = fault;
        if fault == NetworkFault::Cut {
            self.cut();
        }
    }

    /// No more bytes pass on existing connections, and new ones work. A failed host whose address was moved looks like
    /// this.
    pub fn silence(&self) {
        self.shared.silent.store(self.shared.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Closes all existing connections.
    pub fn cut(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            // It may have ended already.
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

    /// Closes the client's connection when it cannot be forwarded, like an unreachable server.
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
                    // Bytes in transit are kept until the connection works again.
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
        // Closing both sides ends the other direction too.
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// Removes the Kafka requests with this API key. A request is its size (four bytes), its key (two bytes), and the rest.
/// Clients write whole requests, so `bytes` begins with one.
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

    /// A server that echoes each byte.
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
