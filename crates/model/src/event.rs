//! The publish event after decoding (crates/model/README.md, Publish event): every field checked, nothing evaluated yet.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::{Actor, Credential, Integrity, PublicationId, Timestamp, Username};

/// The identity of an event: the first 16 bytes of the SHA-256 of `source`, a line feed and `id`
/// (crates/model/README.md, Row).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventIdentity(pub [u8; 16]);

impl EventIdentity {
    /// From the CloudEvents attributes, which together name an event.
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

/// The publisher's address as the event carries it, unparsed. It cannot be printed: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address<'a>(Cow<'a, str>);

impl<'a> Address<'a> {
    /// Takes the text as it stands, any text.
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

/// What the registry verified on the act. A field that is missing is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecondFactor<'a> {
    /// Whether one was presented.
    pub presented: Option<bool>,
    /// Whether it was verified.
    pub verified: Option<bool>,
    /// `totp`, `webauthn`, `recovery_code`, `sms`, `email`, `remembered_device` or anything else.
    pub method: Option<Cow<'a, str>>,
    /// When, as the event carries it: an unusable time is a verdict, not a rejection.
    pub verified_at: Option<Cow<'a, str>>,
}

/// How the publisher authenticated. A missing block equals one without fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth<'a> {
    /// What was presented.
    pub credential: Credential,
    /// Whether the token is exempt from the second factor.
    pub bypass2fa: Option<bool>,
    /// OIDC authentication methods (RFC 8176).
    pub amr: Vec<Cow<'a, str>>,
    /// OIDC assurance level.
    pub acr: Option<Cow<'a, str>>,
    /// What the registry verified; `None` also when the block has no known field.
    pub second_factor: Option<SecondFactor<'a>>,
}

impl Default for Auth<'_> {
    fn default() -> Self {
        Self {
            credential: Credential::Unknown,
            bypass2fa: None,
            amr: Vec::new(),
            acr: None,
            second_factor: None,
        }
    }
}

/// One act: the publication, or the staging before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act<'a> {
    /// T, the time it happened.
    pub at: Timestamp,
    /// Who acted.
    pub actor: Actor,
    /// The account or workflow, where the registry says it.
    pub username: Option<Username>,
    /// The publisher's address.
    pub address: Option<Address<'a>>,
    /// The edge's own verdict on Tor.
    pub edge_tor: Option<bool>,
    /// How the publisher authenticated.
    pub auth: Auth<'a>,
}

/// A publish event, decoded and checked. It borrows from the record it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishEvent<'a> {
    /// Which event this is.
    pub identity: EventIdentity,
    /// What was published.
    pub id: PublicationId,
    /// The digest of the published artifact, where the registry says it.
    pub integrity: Option<Integrity>,
    /// 0 to 2³¹−1; a corrected event has a higher one.
    pub revision: u32,
    /// The act that made the version public (for a staged version the approval); its `at` is the publication's T.
    pub act: Act<'a>,
    /// The staging act of a staged version, not after T.
    pub staged: Option<Act<'a>>,
}

impl Act<'_> {
    /// The same act, borrowing nothing.
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
    /// The same event, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> PublishEvent<'static> {
        PublishEvent {
            identity: self.identity,
            id: self.id,
            integrity: self.integrity,
            revision: self.revision,
            act: self.act.into_owned(),
            staged: self.staged.map(Act::into_owned),
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
