//! The row: the stored facts and verdicts of one publication (crates/model/README.md, Row).

use crate::{
    Actor, Credential, EventIdentity, Integrity, PublicationId, PublishEvent, TfaReason,
    TfaVerdict, Timestamp, TorReason, TorVerdict, Username,
};

/// The part of a publication that the API returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationInfo {
    /// The publisher, if the registry reported it.
    pub username: Option<Username>,
    /// T, the time at which the version became public.
    pub created: Timestamp,
    /// Whether the publisher came over Tor; `None` = not determined.
    pub tor: Option<bool>,
    /// Whether a second factor was verified; `None` = not determined.
    pub tfa: Option<bool>,
    /// The reason of `tor`.
    pub tor_reason: TorReason,
    /// The reason of `tfa`.
    pub tfa_reason: TfaReason,
    /// Whether later exit lists can no longer change `tor`.
    pub tor_settled: bool,
    /// The credential with which the publisher authenticated.
    pub credential: Credential,
    /// The kind of the acting party.
    pub actor: Actor,
    /// Whether two events of the kept revision disagree on `created`, `username` or `integrity`.
    pub disputed: bool,
    /// The digest of the published artifact; `None` = no event of the kept revision has it.
    pub integrity: Option<Integrity>,
}

/// A complete row: the API's part and the fields that the merge rule needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The primary key.
    pub id: PublicationId,
    /// The part that the API returns.
    pub info: PublicationInfo,
    /// The time of the newest valid exit list or database when `tor` was evaluated.
    pub tor_evidence_until: Option<Timestamp>,
    /// The event's revision, 0 to 2³¹−1.
    pub revision: u32,
    /// The operator's generation of rules and lists, 0 to 2³¹−1.
    pub generation: u32,
    /// The identity of the kept event.
    pub identity: EventIdentity,
}

impl Publication {
    /// Builds a row from an event and its two verdicts.
    #[must_use]
    pub fn new(event: PublishEvent<'_>, tor: TorVerdict, tfa: TfaVerdict, generation: u32) -> Self {
        Self {
            id: event.id,
            info: PublicationInfo {
                username: event.act.username,
                created: event.act.at,
                tor: tor.reason.verdict(),
                tfa: tfa.tfa,
                tor_reason: tor.reason,
                tfa_reason: tfa.reason,
                tor_settled: tor.settled,
                credential: event.act.auth.credential,
                actor: event.act.actor,
                disputed: false,
                integrity: event.integrity,
            },
            tor_evidence_until: tor.evidence_until,
            revision: event.revision,
            generation,
            identity: event.identity,
        }
    }
}
