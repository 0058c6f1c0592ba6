//! Why a verdict is what it is: the evidence and the lists that decided (`tor explain`).

use model::{Timestamp, TorReason};

use crate::address::{self, Parsed};
use crate::{Covering, Evidence, ExitHistory, Family, tor};

/// A verdict on an address with what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// True, false or not determined.
    pub tor: Option<bool>,
    /// The rule that decided, by its reason.
    pub reason: TorReason,
    /// What the address is worth; `Debug` does not show it.
    pub address: Parsed,
    /// Evidence within the spans that count, `(T − w, T + settle_after]`, by time.
    pub evidence: Vec<Evidence>,
    /// What covers the time, by time.
    pub covering: Vec<Covering>,
    /// The newest valid list or database of all.
    pub evidence_until: Option<Timestamp>,
    /// Whether later lists can no longer change the verdict.
    pub settled: bool,
}

impl ExitHistory {
    /// Explains the verdict on an address at a time, without an edge's verdict. Slow: it looks through the lists.
    #[must_use]
    pub fn explain(&self, address: &str, at: Timestamp) -> Explanation {
        let address = address::parse(address);
        let reason = tor::decide(Some(address), false, at, self);
        let tor = reason.verdict();
        let (evidence, covering) = match address {
            Parsed::Global(address) => {
                (self.evidence(address, at), self.covering_at(Family::of(address), at))
            }
            Parsed::NotGlobal(_) | Parsed::Unusable => Default::default(),
        };
        let settled = tor == Some(true) || tor::is_settled(reason, at, self);
        let evidence_until = self.evidence_until();
        Explanation { tor, reason, address, evidence, covering, evidence_until, settled }
    }
}
