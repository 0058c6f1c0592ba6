//! `tor`: was the publisher's address a Tor exit at the time of the act? (crates/enrich/README.md)

use model::{Act, PublishEvent, Timestamp, TorReason, TorVerdict};

use crate::address::{self, Parsed};
use crate::{ExitHistory, Finding};

/// Evaluates an event: its act, and for a staged version the staging act too, each at its own time. True if either is,
/// with the outer act's reason first; false if both are; else null, with the outer act's reason if that is null.
///
/// Pure, and without allocation. The rules are those of the history.
#[must_use]
pub fn verdict(event: &PublishEvent<'_>, history: &ExitHistory) -> TorVerdict {
    let outer = evaluate(&event.act, history);
    let staging = event.staged.as_ref().map(|act| (evaluate(act, history), act.at));
    let is = |reason: TorReason, verdict| reason.verdict() == verdict;
    let reason = match staging {
        Some((staging, _)) if !is(outer, Some(true)) && is(staging, Some(true)) => staging,
        Some((staging, _)) if is(outer, Some(false)) && is(staging, None) => staging,
        _ => outer,
    };
    let settled = is(reason, Some(true))
        || (is_settled(outer, event.act.at, history)
            && staging.is_none_or(|(staging, at)| is_settled(staging, at, history)));
    TorVerdict { reason, evidence_until: history.evidence_until(), settled }
}

/// Whether later lists cannot make an act `true` that is not: its address never counts, or the newest list is past the
/// time up to which evidence applies to the act.
pub(crate) fn is_settled(reason: TorReason, at: Timestamp, history: &ExitHistory) -> bool {
    let never_counts =
        matches!(reason, TorReason::NoAddress | TorReason::BadAddress | TorReason::NotGlobal);
    let settles_at = at.after(history.rules().settle_after);
    never_counts || history.evidence_until().is_some_and(|until| until >= settles_at)
}

/// Rules 1 to 5 for one act.
fn evaluate(act: &Act<'_>, history: &ExitHistory) -> TorReason {
    let address = act.address.as_ref().map(|address| address::parse(address.as_str()));
    decide(address, act.edge_tor == Some(true), act.at, history)
}

/// Applies rules 1 to 5 of crates/enrich/README.md. The reason of a true verdict is the first that matches in the
/// table's order: the lists and databases, then the edge, then a prefix.
pub(crate) fn decide(
    address: Option<Parsed>,
    edge: bool,
    at: Timestamp,
    history: &ExitHistory,
) -> TorReason {
    let finding = match address {
        Some(Parsed::Global(address)) => Some(history.find(address, at)),
        _ => None,
    };
    if let Some(Finding::Exit(source)) = finding {
        return source.reason();
    }
    if edge {
        return TorReason::Edge;
    }
    if let Some(Parsed::Global(address) | Parsed::NotGlobal(address)) = address
        && history.rules().prefixes.iter().any(|network| network.contains(address))
    {
        return TorReason::Prefix;
    }
    match (address, finding) {
        (None, _) => TorReason::NoAddress,
        (Some(Parsed::Unusable), _) => TorReason::BadAddress,
        (Some(Parsed::NotGlobal(_)), _) => TorReason::NotGlobal,
        (_, Some(Finding::ListedAfter)) => TorReason::ListedAfter,
        (_, Some(Finding::NotListed)) => TorReason::NotListed,
        _ => TorReason::NoCoverage,
    }
}
