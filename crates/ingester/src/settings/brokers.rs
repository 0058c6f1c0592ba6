//! The addresses of `kafka.brokers`. librdkafka ignores an invalid address, waits for the others, and logs all of them.

use std::net::Ipv6Addr;

/// Checks a list of addresses. The error does not repeat an address, because it may contain a password.
///
/// # Errors
/// An address that is not `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
pub(super) fn check(brokers: &str) -> Result<(), &'static str> {
    let mut addresses = brokers.split(',').map(str::trim);
    if addresses.clone().any(|address| address.contains("://")) {
        return Err(
            "must be HOST:PORT, separated by commas, without a protocol in front: kafka.client.\"security.protocol\" \
             chooses between plain and TLS",
        );
    }
    if addresses.all(is_address) {
        Ok(())
    } else {
        Err("must be HOST:PORT, separated by commas; a user and a password belong in kafka.client")
    }
}

fn is_address(address: &str) -> bool {
    if let Some(rest) = address.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else { return false };
        return host.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    if address.parse::<Ipv6Addr>().is_ok() {
        return true;
    }
    let (host, port) = address.split_once(':').unwrap_or((address, "9092"));
    let may_have = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !host.is_empty() && host.bytes().all(may_have) && is_port(port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports() {
        for taken in [
            "localhost:9092",
            "a.example",
            "a_b-c.example:1, b:65535",
            "127.0.0.1:9092",
            "[::1]:9092",
            "[fe80::1]",
            "::1",
        ] {
            assert_eq!(check(taken), Ok(()), "{taken}");
        }
        for (refused, word) in [
            ("kafka://host", "protocol"),
            ("a:9092,ssl://b:9093", "protocol"),
            ("", "HOST:PORT"),
            ("a:9092,", "HOST:PORT"),
            ("user:hunter2@host:9092", "kafka.client"),
            ("host:port", "HOST:PORT"),
            ("host:0", "HOST:PORT"),
            ("host:70000", "HOST:PORT"),
            ("host:9092/path", "HOST:PORT"),
            ("host 9092", "HOST:PORT"),
            ("[::1:9092", "HOST:PORT"),
        ] {
            let problem = check(refused).unwrap_err();
            assert!(problem.contains(word) && !problem.contains("hunter2"), "{refused}: {problem}");
        }
    }
}
