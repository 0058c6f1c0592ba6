//! Whom a request counts for, and whose word about that is believed.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use service::config::ConfigError;

use crate::config::AccessSettings;

/// Which header the proxies write. One of the two: a proxy that writes one of them passes the other on as the client
/// made it up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
}

/// Whom a request counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// The owner of the token in that place.
    Token(u32),
    /// An address; of IPv6 its network of 64 bits, which is what one customer has.
    Address(IpAddr),
}

impl Client {
    pub(super) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }
}

/// A network, `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        (bits <= all).then_some(Self { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The proxies whose headers are believed.
#[derive(Debug)]
pub(super) struct Proxies {
    trusted: Vec<Network>,
    header: ForwardedHeader,
}

impl Proxies {
    pub(super) fn new(settings: &AccessSettings) -> Result<Self, ConfigError> {
        let networks = settings.trusted_proxies.iter().map(|text| Network::parse(text));
        let trusted = networks.collect::<Option<_>>().ok_or_else(|| {
            ConfigError::invalid("access.trusted_proxies", "has what is no address or network")
        })?;
        Ok(Self { trusted, header: settings.forwarded_header })
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// The address of the client: of the addresses on the way, from the last to the first, the first that is no trusted
    /// proxy's. What stands before it anybody can have made up.
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
        // What is not visible ASCII is no address; the hop that passed it on is then the last one known.
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

/// An address with or without a port, `[…]` around one of IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse().map(IpAddr::V6).ok();
    }
    let alone = || text.parse().ok();
    alone().or_else(|| text.rsplit_once(':')?.0.parse().map(IpAddr::V4).ok())
}

/// The `for` of one element of `Forwarded`.
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
    fn networks_have_their_bounds() {
        let network = |text: &str| Network::parse(text);
        for text in ["10.0.0.0/33", "x", "::/129", "10.0.0.0/", "10.0.0.0/8/8", ""] {
            assert!(network(text).is_none(), "{text}");
        }
        let everything = network("0.0.0.0/0").unwrap();
        assert!(everything.contains("255.1.2.3".parse().unwrap()));
        assert!(!everything.contains("::1".parse().unwrap()));
        assert!(network("::/0").unwrap().contains("ffff::1".parse().unwrap()));
        let half = network("192.0.2.128/25").unwrap();
        assert!(half.contains("192.0.2.200".parse().unwrap()));
        assert!(!half.contains("192.0.2.127".parse().unwrap()));
    }

    #[test]
    fn one_customer_of_ipv6_is_one_client() {
        let of = |text: &str| Client::of_address(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
