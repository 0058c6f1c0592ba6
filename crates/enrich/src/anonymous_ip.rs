//! MaxMind Anonymous IP databases.
//!
//! Loading extracts the networks of Tor exits and then frees the file. A database has millions of networks and a few
//! thousand Tor exits, so many builds fit in memory, a lookup is one binary search, and no error is possible when a
//! verdict is evaluated.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;

use maxminddb::{PathElement, Reader, WithinOptions};
use model::Timestamp;

use crate::{Family, Refusal};

/// The Tor exits of one database.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    time: Timestamp,
    covers_v6: bool,
    /// First and last address of each network, sorted and merged, in the database's address space, where IPv4 is the low end.
    networks: Box<[(u128, u128)]>,
    digest: u64,
}

impl Database {
    /// Parses a whole database (crates/enrich/README.md, Evidence). Only `is_tor_exit_node == true` counts; an empty record is
    /// not evidence. The database's time is its build epoch, and its `ip_version` says which families it covers.
    ///
    /// # Errors
    /// [`Refusal::BadDatabase`] if metadata, tree or a record is damaged; [`Refusal::NoTorExit`] if the database has no
    /// Tor exit. That is another product, whose lack of an address must not count as knowledge.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let reader = Reader::from_source(bytes).map_err(|_| Refusal::BadDatabase)?;
        let epoch = i64::try_from(reader.metadata().build_epoch).ok();
        let micros = epoch.and_then(|epoch| epoch.checked_mul(1_000_000));
        let time = Timestamp::from_micros(micros.ok_or(Refusal::BadDatabase)?);
        let covers_v6 = reader.metadata().ip_version == 6;
        let networks = merged(tor_networks(&reader)?);
        if networks.is_empty() {
            return Err(Refusal::NoTorExit);
        }
        let digest =
            BuildHasherDefault::<DefaultHasher>::default().hash_one((covers_v6, &networks));
        Ok(Self { time, covers_v6, networks, digest })
    }

    /// The build epoch.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// A hash of the networks and of the families covered, like that of a list.
    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether the database covers a family.
    #[must_use]
    pub const fn covers(&self, family: Family) -> bool {
        matches!(family, Family::V4) || self.covers_v6
    }

    /// Whether a canonical, global address is a Tor exit.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let key = key(address);
        let behind = self.networks.partition_point(|&(first, _)| first <= key);
        behind > 0 && self.networks[behind - 1].1 >= key
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never print addresses.
        f.debug_struct("Database")
            .field("time", &self.time)
            .field("covers_v6", &self.covers_v6)
            .field("networks", &self.networks.len())
            .finish()
    }
}

/// The address in the database's address space. IPv4 is at the low end of an IPv6 tree, where no global IPv6 address is.
fn key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Walks the whole tree, which also checks it. Skips the aliases of the IPv4 networks: looked-up addresses are
/// canonical, and Teredo and 6to4 addresses, which the aliases would misread, are not global.
fn tor_networks(reader: &Reader<&[u8]>) -> Result<Vec<(u128, u128)>, Refusal> {
    // A binary tree has one leaf more than it has nodes. With more leaves the data is not a tree, and the walk might not end.
    let most = u64::from(reader.metadata().node_count) + 1;
    let options = WithinOptions::default().include_networks_without_data();
    let mut is_tor_at = HashMap::new();
    let mut networks = Vec::new();
    let leaves = reader.networks(options).map_err(|_| Refusal::BadDatabase)?;
    for (count, leaf) in (1..).zip(leaves) {
        let leaf = leaf.map_err(|_| Refusal::BadDatabase)?;
        if count > most {
            return Err(Refusal::BadDatabase);
        }
        let Some(offset) = leaf.offset() else { continue };
        // Networks share records, so each record is decoded once.
        let is_tor = match is_tor_at.get(&offset) {
            Some(&known) => known,
            None => {
                let flag = leaf.decode_path::<bool>(&[PathElement::Key("is_tor_exit_node")]);
                let is_tor = flag.map_err(|_| Refusal::BadDatabase)? == Some(true);
                is_tor_at.insert(offset, is_tor);
                is_tor
            }
        };
        if is_tor {
            let network = leaf.network().map_err(|_| Refusal::BadDatabase)?;
            networks.push((key(network.network()), key(network.broadcast())));
        }
    }
    Ok(networks)
}

fn merged(mut networks: Vec<(u128, u128)>) -> Box<[(u128, u128)]> {
    networks.sort_unstable();
    networks.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1.saturating_add(1);
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
    networks.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &[u8] = include_bytes!("../tests/data/anonymous-ip/GeoIP2-Anonymous-IP-Test.mmdb");

    #[test]
    fn knows_the_exits_of_the_test_database_to_the_edge() {
        let database = Database::parse(REAL).unwrap();
        assert_eq!(database.time(), Timestamp::from_micros(1_770_245_369_000_000));
        assert!(database.covers(Family::V4) && database.covers(Family::V6));
        let is_tor = |text: &str| database.contains(text.parse().unwrap());
        for text in [
            "65.0.0.0",
            "65.0.0.1",
            "65.4.3.2",
            "65.7.255.255",
            "1.124.213.1",
            "81.2.69.0",
            "81.2.69.160",
            "81.2.69.255",
        ] {
            assert!(is_tor(text), "{text}");
        }
        for text in [
            "64.255.255.255",
            "65.8.0.0",
            "1.124.213.0",
            "1.124.213.2",
            "81.2.68.255",
            "81.2.70.0",
            // VPN, hosting, public proxy, residential proxy.
            "1.2.0.1",
            "6.1.0.0",
            "71.160.223.45",
            "6.1.0.2",
            "186.30.236.7",
            "6.1.0.3",
            "2001:480:3a::1",
            "6.1.0.4",
            // NAT64 is not converted to IPv4.
            "64:ff9b::5102:45a0",
            "2a00::1",
        ] {
            assert!(!is_tor(text), "{text}");
        }
    }

    #[test]
    fn agrees_with_the_reader_itself() {
        let (database, reader) =
            (Database::parse(REAL).unwrap(), Reader::from_source(REAL).unwrap());
        let mut tor = 0;
        for &(first, last) in &database.networks {
            for key in [first.saturating_sub(1), first, last, last + 1] {
                let address = IpAddr::V4(u32::try_from(key).unwrap().into());
                let record: Option<maxminddb::geoip2::AnonymousIp> =
                    reader.lookup(address).unwrap().decode().unwrap();
                let expected = record.and_then(|record| record.is_tor_exit_node) == Some(true);
                assert_eq!(database.contains(address), expected, "{address}");
                tor += usize::from(expected);
            }
        }
        assert!(tor >= 6);
    }

    #[test]
    fn refuses_what_is_damaged() {
        assert_eq!(Database::parse(b""), Err(Refusal::BadDatabase));
        assert_eq!(Database::parse(b"<html>"), Err(Refusal::BadDatabase));
        for end in (0..REAL.len()).step_by(7) {
            assert_eq!(Database::parse(&REAL[..end]), Err(Refusal::BadDatabase), "cut at {end}");
        }
    }

    #[test]
    fn touching_networks_become_one() {
        let max = u128::MAX;
        assert_eq!(
            *merged(vec![(5, 9), (1, 4), (11, 12), (12, 12), (max, max)]),
            [(1, 9), (11, 12), (max, max)]
        );
    }

    proptest! {
        #[test]
        fn a_flipped_byte_never_panics(at in 0..REAL.len(), byte: u8) {
            let mut bytes = REAL.to_vec();
            bytes[at] = byte;
            let _ = Database::parse(&bytes);
        }
    }
}
