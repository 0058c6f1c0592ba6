//! The explanation of a verdict: the evidence and the lists that decided it (`tor explain`).

use model::{Timestamp, TorReason};

use crate::address::{self, Parsed};
use crate::{Covering, Evidence, ExitHistory, Family, tor};

/// A verdict on an address, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// True, false or not determined.
    pub tor: Option<bool>,
    /// The reason, which identifies the deciding rule.
    pub reason: TorReason,
    /// The parsed address; `Debug` does not show it.
    pub address: Parsed,
    /// Evidence within the relevant span, `(T − w, T + settle_after]`, by time.
    pub evidence: Vec<Evidence>,
    /// The lists and databases that cover the time, by time.
    pub covering: Vec<Covering>,
    /// The time of the newest valid list or database.
    pub evidence_until: Option<Timestamp>,
    /// Whether later lists can no longer change the verdict.
    pub settled: bool,
}

impl ExitHistory {
    /// Explains the verdict on an address at a time, without the edge's verdict. Slow, because it scans the lists.
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
