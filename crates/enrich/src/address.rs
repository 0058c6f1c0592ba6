//! Addresses: strict parsing, the tables of addresses that are not global, and configured networks
//! (crates/enrich/README.md, Addresses).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The usefulness of an event's address. The address is canonical: IPv4-mapped IPv6 has become IPv4.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The text is not an address.
    Unusable,
    /// An address that no publisher on the global internet can have, or that hides the publisher's own address.
    NotGlobal(IpAddr),
    /// An address on the global internet.
    Global(IpAddr),
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never print an address.
        f.write_str(match self {
            Self::Unusable => "Unusable",
            Self::NotGlobal(_) => "NotGlobal",
            Self::Global(_) => "Global",
        })
    }
}

/// Parses an address strictly: no port, zone, prefix length, leading zeros in IPv4, spaces or list.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    match canonical(text) {
        None => Parsed::Unusable,
        Some(address) if is_global(address) => Parsed::Global(address),
        Some(address) => Parsed::NotGlobal(address),
    }
}

/// The canonical form of an address; `None` if the text is not an address.
///
/// The standard library's parser is as strict as the specification, which the tests below check.
#[must_use]
pub fn canonical(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Whether a canonical address belongs to the global internet and is the publisher's own, by the tables of
/// crates/enrich/README.md, Addresses.
#[must_use]
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            // The networks are in order and apart, so only the last that begins before the address can have it.
            let after = NOT_GLOBAL_V4.partition_point(|network| network.addr() <= address);
            !after.checked_sub(1).is_some_and(|last| NOT_GLOBAL_V4[last].contains(&address))
        }
        IpAddr::V6(address) => {
            let in_table = |table: &[Ipv6Net]| table.iter().any(|net| net.contains(&address));
            in_table(GLOBAL_V6) && !in_table(NOT_GLOBAL_V6)
        }
    }
}

const NOT_GLOBAL_V4: &[Ipv4Net] = &[
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 88, 99, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Unicast space in use, and NAT64, whose addresses are the publisher's own as seen by the registry's edge.
const GLOBAL_V6: &[Ipv6Net] = &[
    Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
];

/// Exceptions within [`GLOBAL_V6`]: protocol assignments with Teredo, documentation, 6to4, documentation.
const NOT_GLOBAL_V6: &[Ipv6Net] = &[
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// A configured network, for example `2405:8100:8000::/48`. A single address is a network too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

/// The text is not a network: no address, a length out of range, or bits set after the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a network: an address, a slash and a length, with no bits set behind the length")]
pub struct InvalidNetwork;

impl Network {
    /// Cloudflare's onion service. An origin server sees this network for a Tor user who connects without a Tor exit.
    pub const CLOUDFLARE_ONION: Self = Self(IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0x2405, 0x8100, 0x8000, 0, 0, 0, 0, 0),
        48,
    )));

    /// Whether a canonical address is in the network.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let network = match len {
            None => Ok(address.into()),
            // `u8::from_str` would accept `+8` and `08`.
            Some(len)
                if len.bytes().all(|byte| byte.is_ascii_digit())
                    && (len == "0" || !len.starts_with('0')) =>
            {
                IpNet::new(address, len.parse().map_err(|_| InvalidNetwork)?)
            }
            Some(_) => return Err(InvalidNetwork),
        };
        let network = network.map_err(|_| InvalidNetwork)?;
        if network != network.trunc() {
            return Err(InvalidNetwork);
        }
        // Addresses are compared in canonical form, so a network of IPv4-mapped addresses becomes an IPv4 network.
        match (address.to_canonical(), network.prefix_len()) {
            (mapped @ IpAddr::V4(_), len) if address.is_ipv6() && len >= 96 => {
                IpNet::new(mapped, len - 96).map(Self).map_err(|_| InvalidNetwork)
            }
            _ => Ok(Self(network)),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn global(text: &str) -> bool {
        matches!(parse(text), Parsed::Global(_))
    }

    fn not_global(text: &str) -> bool {
        matches!(parse(text), Parsed::NotGlobal(_))
    }

    #[test]
    fn parsing_is_strict() {
        for text in [
            "",
            " ",
            "8.8.8.8 ",
            " 8.8.8.8",
            "8.8.8.8\n",
            "8.8.8.8:443",
            "8.8.8.8/32",
            "08.8.8.8",
            "8.8.8.08",
            "8.8.8.00",
            "0x8.8.8.8",
            "8.8.8",
            "8.8.8.8.8",
            "8.8.8.256",
            "134744072",
            "8.8.8.8,9.9.9.9",
            "[2a00::1]",
            "[2a00::1]:443",
            "2a00::1%eth0",
            "2a00::1%1",
            "2a00::1/128",
            "2a00:::1",
            "2a00::1::2",
            "2a00:0:0:0:0:0:0:0:1",
            "02a00::1",
            "::ffff:08.8.8.8",
            "::ffff:8.8.8.8:1",
            "localhost",
            "unknown",
            "８.8.8.8",
        ] {
            assert!(parse(text) == Parsed::Unusable, "{text:?}");
        }
    }

    #[test]
    fn only_mapped_addresses_are_unwrapped() {
        let four: IpAddr = "81.2.69.160".parse().unwrap();
        assert!(parse("81.2.69.160") == Parsed::Global(four));
        assert!(parse("::ffff:81.2.69.160") == Parsed::Global(four));
        assert!(parse("::FFFF:5102:45A0") == Parsed::Global(four));
        assert!(not_global("::ffff:10.0.0.1"));
        // IPv4-compatible, 6to4 and Teredo.
        assert!(not_global("::81.2.69.160"));
        assert!(not_global("2002:5102:45a0::1"));
        assert!(not_global("2001:0:5102:45a0::"));
        // NAT64 is global and stays IPv6.
        assert!(
            parse("64:ff9b::5102:45a0") == Parsed::Global("64:ff9b::5102:45a0".parse().unwrap())
        );
        assert!(not_global("64:ff9b:1::5102:45a0"));
    }

    #[test]
    fn the_tables_hold_at_their_edges() {
        for (inside, outside) in [
            (vec!["0.0.0.0", "0.255.255.255"], vec!["1.0.0.0"]),
            (vec!["10.0.0.0", "10.255.255.255"], vec!["9.255.255.255", "11.0.0.0"]),
            (vec!["100.64.0.0", "100.127.255.255"], vec!["100.63.255.255", "100.128.0.0"]),
            (vec!["127.0.0.0", "127.255.255.255"], vec!["126.255.255.255", "128.0.0.0"]),
            (vec!["169.254.0.0", "169.254.255.255"], vec!["169.253.255.255", "169.255.0.0"]),
            (vec!["172.16.0.0", "172.31.255.255"], vec!["172.15.255.255", "172.32.0.0"]),
            (vec!["192.0.0.0", "192.0.0.255"], vec!["191.255.255.255", "192.0.1.0"]),
            (vec!["192.0.2.0", "192.0.2.255"], vec!["192.0.1.255", "192.0.3.0"]),
            (vec!["192.88.99.0", "192.88.99.255"], vec!["192.88.98.255", "192.88.100.0"]),
            (vec!["192.168.0.0", "192.168.255.255"], vec!["192.167.255.255", "192.169.0.0"]),
            (vec!["198.18.0.0", "198.19.255.255"], vec!["198.17.255.255", "198.20.0.0"]),
            (vec!["198.51.100.0", "198.51.100.255"], vec!["198.51.99.255", "198.51.101.0"]),
            (vec!["203.0.113.0", "203.0.113.255"], vec!["203.0.112.255", "203.0.114.0"]),
            (vec!["224.0.0.0", "255.255.255.255"], vec!["223.255.255.255"]),
            (
                vec![
                    "::",
                    "::1",
                    "1fff:ffff::",
                    "4000::",
                    "fc00::1",
                    "fd00::1",
                    "fe80::1",
                    "ff02::1",
                ],
                vec!["2000::", "3ffe:ffff::"],
            ),
            (vec!["64:ff9a:ffff::", "64:ff9b::1:0:0"], vec!["64:ff9b::", "64:ff9b::ffff:ffff"]),
            (vec!["2001::", "2001:1ff:ffff::"], vec!["2000:ffff::", "2001:200::"]),
            (vec!["2001:db8::", "2001:db8:ffff::"], vec!["2001:db7:ffff::", "2001:db9::"]),
            (vec!["2002::", "2002:ffff::"], vec!["2001:ffff::", "2003::"]),
            (vec!["3fff::", "3fff:fff:ffff::"], vec!["3ffe:ffff::", "3fff:1000::"]),
        ] {
            assert!(inside.iter().all(|text| not_global(text)), "{inside:?}");
            assert!(outside.iter().all(|text| global(text)), "{outside:?}");
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let network: Network = "2405:8100:8000::/48".parse().unwrap();
        assert_eq!(network, Network::CLOUDFLARE_ONION);
        assert_eq!(network.to_string(), "2405:8100:8000::/48");
        assert!(network.contains("2405:8100:8000:ffff::1".parse().unwrap()));
        assert!(!network.contains("2405:8100:8001::".parse().unwrap()));
        assert!(!network.contains("81.2.69.160".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        let one: Network = "10.0.0.1".parse().unwrap();
        assert!(one.contains("10.0.0.1".parse().unwrap()));
        assert!(!one.contains("10.0.0.2".parse().unwrap()));
        assert_eq!("::ffff:10.0.0.0/104".parse(), "10.0.0.0/8".parse::<Network>());
        for text in [
            "",
            "/8",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/",
            "2405::/129",
            "2405::1/64",
            "x/1",
        ] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
    }

    #[test]
    fn an_address_is_never_printed() {
        assert_eq!(format!("{:?}", parse("81.2.69.160")), "Global");
        assert_eq!(format!("{:?}", parse("10.0.0.1")), "NotGlobal");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = parse(&text);
            let _ = text.parse::<Network>();
        }

        #[test]
        fn every_address_reads_back(bits: u128, four: u32) {
            let six = Ipv6Addr::from(bits);
            prop_assert_eq!(canonical(&six.to_string()), Some(IpAddr::V6(six).to_canonical()));
            let four = Ipv4Addr::from(four);
            prop_assert_eq!(canonical(&four.to_string()), Some(IpAddr::V4(four)));
            prop_assert_eq!(canonical(&four.to_ipv6_mapped().to_string()), Some(IpAddr::V4(four)));
        }
    }
}
