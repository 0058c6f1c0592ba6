//! The sources of evidence, and the two families of addresses.

use std::net::IpAddr;

use model::TorReason;

/// A source of evidence, in the order of the table in crates/enrich/README.md, Evidence, which decides the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// TorDNSEL exit lists.
    ExitList,
    /// Lists of bare exit addresses.
    Snapshot,
    /// MaxMind Anonymous IP databases.
    AnonymousIp,
}

impl Source {
    /// Every source, in the table's order.
    pub const ALL: [Self; 3] = [Self::ExitList, Self::Snapshot, Self::AnonymousIp];

    /// The specification's word, which is the metrics' label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.reason().as_str()
    }

    /// The reason of a verdict that this source made true.
    #[must_use]
    pub const fn reason(self) -> TorReason {
        match self {
            Self::ExitList => TorReason::ExitList,
            Self::Snapshot => TorReason::Snapshot,
            Self::AnonymousIp => TorReason::AnonymousIp,
        }
    }

    /// The configuration key of this source's path.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::ExitList => "tor.exit_lists",
            Self::Snapshot => "tor.snapshots",
            Self::AnonymousIp => "tor.anonymous_ip",
        }
    }
}

/// The two families of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of a canonical address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}
