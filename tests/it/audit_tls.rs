//! `publication-audit` over TLS, with a certificate authority of the environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use testkit::Daemon;

use crate::audit::{CALM, HOSTS, project};
use crate::graphql_bulk::migrate;
use crate::secure::Certificates;
use crate::support::{PATIENCE, Query};

/// A server that ends TLS in front of a query daemon. Ends with the test's process.
fn with_tls(certificates: &Certificates, target: &str) -> String {
    let certificate = CertificateDer::from_pem_slice(certificates.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (config, target) = (Arc::new(config), target.to_owned());
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("some port is free");
    let address = listener.local_addr().expect("a listener has an address").to_string();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            // A client that does not trust the certificate ends the connection.
            let _ = forward(StreamOwned::new(connection, client), &target);
        }
    });
    address
}

/// Forwards one request.
fn forward(stream: StreamOwned<ServerConnection, TcpStream>, target: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.expect("the length is known").parse().expect("it is a number")];
    stream.read_exact(&mut body)?;
    let body = String::from_utf8(body).expect("JSON is UTF-8");
    let (status, answer) = testkit::http_post(target, "/graphql", "application/json", &body)?;
    let length = answer.len();
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n");
    stream.get_mut().write_all(format!("{head}\r\n{answer}").as_bytes())?;
    stream.get_mut().flush()
}

#[test]
fn the_certificate_authority_of_the_environment_is_trusted_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let others = tempfile::tempdir().unwrap();
    let stranger = Certificates::make(others.path());
    let store = format!("sqlite://{}", folder.path().join("publications.db").display());
    migrate(&store);
    let query = Query::start(&store, &[HOSTS]);
    let address = with_tls(&certificates, &query.http);
    let project = project(CALM);
    for (authority, code, part) in [
        (certificates.authority.to_str(), 0, "1 package asked about"),
        (stranger.authority.to_str(), 4, "its certificate is not trusted (SSL_CERT_FILE)"),
        // Those of the system, which does not know a test.
        (None, 4, "its certificate is not trusted (SSL_CERT_FILE)"),
    ] {
        let command = Daemon::command("publication-audit")
            .dir(project.path())
            .env("HOME", project.path())
            .args(["--url", &format!("https://{address}")]);
        let command = match authority {
            Some(authority) => command.env("SSL_CERT_FILE", authority),
            None => command,
        };
        let mut audit = command.spawn();
        let status = audit.wait_exit(PATIENCE);
        let log = audit.log();
        assert_eq!(status.code(), Some(code), "{authority:?}: {log}");
        assert!(log.contains(part), "{authority:?}: {log}");
    }
    query.running.stop();
}
