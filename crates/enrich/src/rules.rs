//! The configurable rules of the two verdicts.

use std::time::Duration;

use crate::address::Network;

const HOUR: u64 = 3_600;

/// The rules of `tor` (crates/enrich/README.md, Rules, which also has the defaults).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorRules {
    /// w: a sighting makes the acts in this span after it `true`; 24 h, the window that ExoneraTor uses.
    pub window: Duration,
    /// How long after an act evidence still applies to it; 3 h, because lists lag by about two.
    pub settle_after: Duration,
    /// c: the maximum age of the newest list before an act for an unlisted address to count as `false`; 6 h.
    pub coverage: Duration,
    /// Window and coverage of an Anonymous IP database; 48 h, because builds are published daily.
    pub max_age: Duration,
    /// The number of distinct addresses that a list must have, and that a family in it needs to be covered; 50.
    pub min_addresses: usize,
    /// Networks that count as Tor without a list. The default is Cloudflare's onion service, because every address in
    /// it is a Tor user, and a registry that is not behind Cloudflare never sees such an address.
    pub prefixes: Vec<Network>,
}

impl Default for TorRules {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(24 * HOUR),
            settle_after: Duration::from_secs(3 * HOUR),
            coverage: Duration::from_secs(6 * HOUR),
            max_age: Duration::from_secs(48 * HOUR),
            min_addresses: 50,
            prefixes: vec![Network::CLOUDFLARE_ONION],
        }
    }
}

/// The rules of `tfa` (crates/model/README.md, tfa). The defaults are empty, because each identity provider defines
/// what its levels mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TfaRules {
    /// Assurance levels that mean a verified second factor; compared byte for byte, and before `acr_false`.
    pub acr_true: Vec<String>,
    /// Assurance levels that mean no verified second factor.
    pub acr_false: Vec<String>,
}
