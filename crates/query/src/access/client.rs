//! The client that a request is charged to, and the proxies whose headers are trusted.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};
use service::config::ConfigError;

use crate::config::{AccessSettings, ForwardedHeader};

/// The client that a request is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Client {
    /// The owner of the token whose SHA-256 begins with these eight bytes.
    Token(u64),
    /// An IPv4 address, or the /64 network of an IPv6 address: the smallest network that a customer gets.
    Address(IpAddr),
    /// An IPv6 /48 network: the largest network that a customer usually gets.
    Site(Ipv6Addr),
}

impl Client {
    pub(crate) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }

    /// The /48 network of an IPv6 client.
    pub(super) const fn site(self) -> Option<Self> {
        match self {
            Self::Address(IpAddr::V6(network)) => {
                Some(Self::Site(Ipv6Addr::from_bits(network.to_bits() >> 80 << 80)))
            }
            _ => None,
        }
    }
}

/// The proxies whose headers are trusted.
#[derive(Debug)]
pub(crate) struct Proxies {
    /// Addresses of proxies. Each opens connections for many clients.
    pub(crate) trusted: Arc<[IpNet]>,
    header: ForwardedHeader,
}

impl Proxies {
    pub(super) fn new(settings: &AccessSettings) -> Result<Self, ConfigError> {
        let networks = settings.trusted_proxies.iter().enumerate().map(|(index, text)| {
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map(canonical).map_err(|_| {
                let key = format!("access.trusted_proxies[{index}]");
                ConfigError::invalid(key, "is not an IP address or a CIDR network")
            })
        });
        Ok(Self { trusted: networks.collect::<Result<_, _>>()?, header: settings.forwarded_header })
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// The address of the client: the last address on the way that is not a trusted proxy. The addresses before it can
    /// be forged.
    pub(super) fn client(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        let mut client = peer.to_canonical();
        if self.trusted.is_empty() {
            return client;
        }
        let name = match self.header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let lines = headers.get_all(name).iter().rev();
        // Text that is not visible ASCII is not an address. Then the hop that added the text is the last known address.
        let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        for hop in hops {
            if !self.trusts(client) {
                break;
            }
            let address = match self.header {
                ForwardedHeader::XForwardedFor => address(hop),
                ForwardedHeader::Forwarded => forwarded_for(hop),
            };
            match address {
                Some(address) => client = address.to_canonical(),
                None => break,
            }
        }
        client
    }
}

/// An IPv4-mapped network as an IPv4 network, because addresses are compared in that form.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let prefix = mapped.prefix_len().checked_sub(96);
    let address = mapped.addr().to_ipv4_mapped();
    let v4 = address.zip(prefix).and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    v4.map_or(network, IpNet::V4)
}

/// Parses an address with or without a port; an IPv6 address may stand in `[…]`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse().map(IpAddr::V6).ok();
    }
    let alone = || text.parse().ok();
    alone().or_else(|| text.rsplit_once(':')?.0.parse().map(IpAddr::V4).ok())
}

/// The address of the `for` parameter in one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let named = name.trim().eq_ignore_ascii_case("for");
        named.then(|| address(value.trim().trim_matches('"'))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn proxies(trusted: &[&str], header: ForwardedHeader) -> Proxies {
        let trusted_proxies = trusted.iter().map(|text| (*text).to_owned()).collect();
        let settings = AccessSettings {
            trusted_proxies,
            forwarded_header: header,
            ..AccessSettings::default()
        };
        Proxies::new(&settings).unwrap()
    }

    fn client(proxies: &Proxies, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        proxies.client(&headers, peer.parse().unwrap()).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_what_they_saw() {
        let proxies = proxies(&["10.0.0.0/8", "2001:db8::/32"], ForwardedHeader::XForwardedFor);
        const XFF: &str = "x-forwarded-for";
        for (peer, lines, expected) in [
            ("192.0.2.1", &[(XFF, "198.51.100.7")][..], "192.0.2.1"),
            ("10.1.2.3", &[(XFF, "198.51.100.7")], "198.51.100.7"),
            ("::ffff:10.1.2.3", &[(XFF, "198.51.100.7")], "198.51.100.7"),
            ("2001:db8::1", &[(XFF, "[2001:4860::1]:443")], "2001:4860::1"),
            ("10.1.2.3", &[(XFF, "1.2.3.4, 198.51.100.7, 10.9.9.9")], "198.51.100.7"),
            ("10.1.2.3", &[(XFF, "1.2.3.4"), (XFF, "198.51.100.7:80")], "198.51.100.7"),
            ("10.1.2.3", &[(XFF, "1.2.3.4, nonsense, 10.9.9.9")], "10.9.9.9"),
            ("10.1.2.3", &[(XFF, "10.4.4.4")], "10.4.4.4"),
            ("10.1.2.3", &[(XFF, "")], "10.1.2.3"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &[("forwarded", "for=1.2.3.4")], "10.1.2.3"),
        ] {
            assert_eq!(client(&proxies, peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_mapped_network_is_one_of_ipv4() {
        for (trusted, is_trusted) in [
            ("::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", true),
            ("::ffff:0:0/96", true),
            ("::ffff:10.0.0.0/112", false),
            ("2001:db8::/96", false),
        ] {
            let proxies = proxies(&[trusted], ForwardedHeader::XForwardedFor);
            let seen = client(&proxies, "10.1.2.3", &[("x-forwarded-for", "192.0.2.7")]);
            assert_eq!(seen == "192.0.2.7", is_trusted, "{trusted}");
        }
    }

    #[test]
    fn the_forwarded_header_is_read_where_the_proxies_write_it() {
        let proxies = proxies(&["10.0.0.1"], ForwardedHeader::Forwarded);
        for (line, expected) in [
            ("for=192.0.2.43", "192.0.2.43"),
            ("For=\"[2001:db8:cafe::17]:4711\";proto=https", "2001:db8:cafe::17"),
            ("for=1.1.1.1, by=10.0.0.1;for=192.0.2.60;proto=http", "192.0.2.60"),
            ("for=\", for=192.0.2.61", "192.0.2.61"),
            ("for=_hidden", "10.0.0.1"),
        ] {
            assert_eq!(client(&proxies, "10.0.0.1", &[("forwarded", line)]), expected, "{line}");
        }
        let unbelieved = [("x-forwarded-for", "1.2.3.4")];
        assert_eq!(client(&proxies, "10.0.0.1", &unbelieved), "10.0.0.1");
    }

    #[test]
    fn what_is_not_a_network_is_refused_with_its_place() {
        for text in ["10.0.0.0/33", "x", "::/129", "10.0.0.0/", "10.0.0.0/8/8", ""] {
            let trusted_proxies = vec!["::1".to_owned(), text.to_owned()];
            let settings = AccessSettings { trusted_proxies, ..AccessSettings::default() };
            let error = Proxies::new(&settings).unwrap_err().to_string();
            assert!(error.contains("access.trusted_proxies[1]"), "{error}");
        }
    }

    #[test]
    fn one_customer_of_ipv6_is_one_client() {
        let of = |text: &str| Client::of_address(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_eq!(of("2001:db8:1:2::1").site(), of("2001:db8:1:3::1").site());
        assert_ne!(of("2001:db8:1:2::1").site(), of("2001:db8:2:2::1").site());
        assert_eq!(of("192.0.2.1").site(), None);
    }
}
