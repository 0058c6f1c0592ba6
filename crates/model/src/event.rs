//! The publish event after decoding (crates/model/README.md, Publish event): every field checked, no verdict evaluated yet.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::{Actor, Credential, Integrity, PublicationId, Timestamp, Username};

/// The identity of an event: the first 16 bytes of the SHA-256 of `source`, a line feed and `id`
/// (crates/model/README.md, Row).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventIdentity(pub [u8; 16]);

impl EventIdentity {
    /// Computes the identity from the CloudEvents attributes `source` and `id`, which together identify an event.
    #[must_use]
    pub fn new(source: &str, id: &str) -> Self {
        let digest =
            Sha256::new().chain_update(source).chain_update(b"\n").chain_update(id).finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(first)
    }
}

impl fmt::Debug for EventIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The publisher's address as the event has it, unparsed. `Debug` hides it, so that it is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Address<'a>(Cow<'a, str>);

impl<'a> Address<'a> {
    /// Takes any text, unchanged.
    pub fn new(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }

    /// The text, for parsing only.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[address]")
    }
}

/// The registry's report about the second factor on the act. A missing field is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecondFactor<'a> {
    /// Whether a second factor was presented.
    pub presented: Option<bool>,
    /// Whether it was verified.
    pub verified: Option<bool>,
    /// `totp`, `webauthn`, `recovery_code`, `sms`, `email`, `remembered_device` or anything else.
    pub method: Option<Cow<'a, str>>,
    /// The time of the verification, as the event has it: an unusable time affects the verdict, and does not reject the event.
    pub verified_at: Option<Cow<'a, str>>,
}

/// The publisher's authentication. A missing block equals a block without fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth<'a> {
    /// The credential that was presented.
    pub credential: Credential,
    /// Whether the token is exempt from the second factor.
    pub bypass2fa: Option<bool>,
    /// OIDC authentication methods (RFC 8176).
    pub amr: Vec<Cow<'a, str>>,
    /// OIDC assurance level.
    pub acr: Option<Cow<'a, str>>,
    /// The registry's report about the second factor; `None` also if the block has no known field.
    pub second_factor: Option<SecondFactor<'a>>,
}

/// One act: the publication, or the staging before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act<'a> {
    /// The time of the act, T.
    pub at: Timestamp,
    /// The kind of the acting party.
    pub actor: Actor,
    /// The account or workflow, if the registry reports it.
    pub username: Option<Username>,
    /// The publisher's address.
    pub address: Option<Address<'a>>,
    /// The registry edge's own verdict on Tor.
    pub edge_tor: Option<bool>,
    /// The publisher's authentication.
    pub auth: Auth<'a>,
}

/// A publish event, decoded and checked. It borrows from the record's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishEvent<'a> {
    /// The event's identity.
    pub identity: EventIdentity,
    /// The published package and version.
    pub id: PublicationId,
    /// The digest of the published artifact, if the registry reports it.
    pub integrity: Option<Integrity>,
    /// 0 to 2³¹−1; a corrected event has a higher revision.
    pub revision: u32,
    /// The act that made the version public (for a staged version the approval); its `at` is the publication's T.
    pub act: Act<'a>,
    /// The staging act of a staged version, not after T.
    pub staged: Option<Box<Act<'a>>>,
}

impl Act<'_> {
    /// The same act, without borrowed data.
    #[must_use]
    pub fn into_owned(self) -> Act<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let Auth { credential, bypass2fa, amr, acr, second_factor } = self.auth;
        let second_factor = second_factor.map(|factor| SecondFactor {
            presented: factor.presented,
            verified: factor.verified,
            method: factor.method.map(owned),
            verified_at: factor.verified_at.map(owned),
        });
        let amr = amr.into_iter().map(owned).collect();
        Act {
            at: self.at,
            actor: self.actor,
            username: self.username,
            address: self.address.map(|Address(text)| Address(owned(text))),
            edge_tor: self.edge_tor,
            auth: Auth { credential, bypass2fa, amr, acr: acr.map(owned), second_factor },
        }
    }
}

impl PublishEvent<'_> {
    /// The same event, without borrowed data.
    #[must_use]
    pub fn into_owned(self) -> PublishEvent<'static> {
        PublishEvent {
            identity: self.identity,
            id: self.id,
            integrity: self.integrity,
            revision: self.revision,
            act: self.act.into_owned(),
            staged: self.staged.map(|act| Box::new(act.into_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_a_truncated_sha256() {
        // printf '/registry/npm/publish\n01J3YQ6M2C' | sha256sum | cut -c1-32
        let identity = EventIdentity::new("/registry/npm/publish", "01J3YQ6M2C");
        assert_eq!(format!("{identity:?}"), "c8422a296711ad1e48f63350199e7346");
    }

    #[test]
    fn an_address_is_never_printed() {
        assert_eq!(format!("{:?}", Address::new("71.160.223.45")), "[address]");
    }
}
