//! The row: what is known about one publication (crates/model/README.md, Row).

use crate::{
    Actor, Credential, EventIdentity, Integrity, PublicationId, TfaReason, TfaVerdict, TorReason,
    TorVerdict,
};
use crate::{PublishEvent, Timestamp, Username};

/// What the API answers about a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationInfo {
    /// Who published, where the registry said it.
    pub username: Option<Username>,
    /// T, when the version became public.
    pub created: Timestamp,
    /// Whether the publisher came over Tor; `None` = not determined.
    pub tor: Option<bool>,
    /// Whether a second factor was verified; `None` = not determined.
    pub tfa: Option<bool>,
    /// Why `tor` is what it is.
    pub tor_reason: TorReason,
    /// Why `tfa` is what it is.
    pub tfa_reason: TfaReason,
    /// Whether later exit lists can no longer change `tor`.
    pub tor_settled: bool,
    /// What the publisher authenticated with.
    pub credential: Credential,
    /// Who acted.
    pub actor: Actor,
    /// Whether two events of the kept revision disagree on `created`, `username` or `integrity`.
    pub disputed: bool,
    /// The digest of the published artifact; `None` = no event of the kept revision says it.
    pub integrity: Option<Integrity>,
}

/// A whole row: the information and what the merge rule needs to keep the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The primary key.
    pub id: PublicationId,
    /// What the API answers.
    pub info: PublicationInfo,
    /// The time of the newest valid exit list or database when `tor` was evaluated.
    pub tor_evidence_until: Option<Timestamp>,
    /// The event's revision, 0 to 2³¹−1.
    pub revision: u32,
    /// The operator's generation of rules and lists, 0 to 2³¹−1.
    pub generation: u32,
    /// Which event was kept.
    pub identity: EventIdentity,
}

impl Publication {
    /// Puts an event and its two verdicts together.
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
