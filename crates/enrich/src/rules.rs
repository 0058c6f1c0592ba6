//! What an operator may set about the two verdicts.

use std::time::Duration;

use crate::address::Network;

const HOUR: u64 = 3_600;

/// The rules of `tor` (crates/enrich/README.md, Rules). The defaults stand there too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorRules {
    /// w: a sighting makes the acts of this span after it `true`; 24 h, the window ExoneraTor uses.
    pub window: Duration,
    /// How long after an act evidence still concerns it; 3 h, since lists lag by about two.
    pub settle_after: Duration,
    /// c: how old the newest list before an act may be for its silence to count; 6 h.
    pub coverage: Duration,
    /// Window and coverage of an Anonymous IP database; 48 h, since builds come daily.
    pub max_age: Duration,
    /// The distinct addresses a list must hold, and a family must have to be covered; 50.
    pub min_addresses: usize,
    /// Networks that count as Tor by themselves. The default holds Cloudflare's onion service, because an address
    /// within it can be nothing else, and a registry that is not behind Cloudflare never sees one.
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

/// The rules of `tfa` (crates/model/README.md, tfa). The defaults are empty: what a level means is the identity
/// provider's word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TfaRules {
    /// Assurance levels that say a second factor was verified; compared byte for byte, and before the next.
    pub acr_true: Vec<String>,
    /// Assurance levels that say none was.
    pub acr_false: Vec<String>,
}
