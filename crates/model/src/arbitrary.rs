//! Random publications with few distinct values, for property tests of the merge: every rule decides some pairs.

use proptest::prelude::*;
use proptest::sample::select;

use crate::{
    Actor, Credential, EventIdentity, Integrity, Publication, PublicationId, PublicationInfo,
    TfaReason, Timestamp, TorReason, Username,
};

fn flag() -> impl Strategy<Value = Option<bool>> {
    select(vec![None, Some(false), Some(true)])
}

fn info() -> impl Strategy<Value = PublicationInfo> {
    let username = select(vec![None, Some("a"), Some("b")])
        .prop_map(|name| name.and_then(|name| Username::new(name).ok()));
    let integrity = select(vec![None, Some("sha512-a"), Some("sha512-b")])
        .prop_map(|text| text.and_then(|text| Integrity::new(text).ok()));
    (
        (username, integrity),
        0..2_i64,
        flag(),
        flag(),
        select(TorReason::ALL),
        select(TfaReason::ALL),
        any::<bool>(),
        select(Credential::ALL),
        select(Actor::ALL),
    )
        .prop_map(
            |(
                (username, integrity),
                created,
                tor,
                tfa,
                tor_reason,
                tfa_reason,
                tor_settled,
                credential,
                actor,
            )| {
                PublicationInfo {
                    username,
                    created: Timestamp::from_micros(created),
                    tor,
                    tfa,
                    tor_reason,
                    tfa_reason,
                    tor_settled,
                    credential,
                    actor,
                    disputed: false,
                    integrity,
                }
            },
        )
}

/// A record as the ingester would write it, with one of the given names.
pub fn publication(names: &'static [&'static str]) -> impl Strategy<Value = Publication> {
    let ids: Vec<PublicationId> =
        names.iter().filter_map(|name| PublicationId::new(name, "1.0.0").ok()).collect();
    let evidence =
        select(vec![None, Some(0), Some(1)]).prop_map(|at| at.map(Timestamp::from_micros));
    (select(ids), info(), evidence, 0..2_u32, 0..2_u32, 0..2_u8).prop_map(
        |(id, info, tor_evidence_until, revision, generation, identity)| Publication {
            id,
            info,
            tor_evidence_until,
            revision,
            generation,
            identity: EventIdentity([identity; 16]),
        },
    )
}
