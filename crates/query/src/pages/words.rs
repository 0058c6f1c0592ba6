//! The words of a row in plain English. A sentence must not claim more than the word: "not known" is never "no", and a
//! Tor exit's address is not a person who uses Tor.

use model::{Actor, Credential, PublicationInfo, PublishMethod, TfaReason, Timestamp, TorReason};

/// The methods in the order of the timeline's lanes.
pub(super) const METHODS: [PublishMethod; 4] = [
    PublishMethod::SecondFactor,
    PublishMethod::TrustedPublisher,
    PublishMethod::SingleFactor,
    PublishMethod::Unknown,
];

/// The label of a method.
pub(super) const fn method(method: PublishMethod) -> &'static str {
    match method {
        PublishMethod::SecondFactor => "With a second factor",
        PublishMethod::TrustedPublisher => "By a trusted publisher",
        PublishMethod::SingleFactor => "By a single factor",
        PublishMethod::Unknown => "Not known how",
    }
}

/// The class of a method in the style sheet.
pub(super) const fn class(method: PublishMethod) -> &'static str {
    match method {
        PublishMethod::SecondFactor => "second",
        PublishMethod::TrustedPublisher => "trusted",
        PublishMethod::SingleFactor => "single",
        PublishMethod::Unknown => "unknown",
    }
}

/// The reason for the second-factor flag.
pub(super) const fn second_factor(info: &PublicationInfo) -> &'static str {
    match (info.tfa_reason, info.tfa) {
        (TfaReason::SecondFactor, _) => "The registry verified a second factor on this act.",
        (TfaReason::NoSecondFactor, _) => "The registry says that no second factor was presented.",
        (TfaReason::SecondFactorRejected, _) => {
            "A second factor was reported that does not count: it was not verified, not of a kind that counts, or not of \
             that time."
        }
        (TfaReason::NoHumanFactor, _) => {
            "No person's second factor: the credential is one for machines, or is exempt from the second factor."
        }
        (TfaReason::PasswordOnly, _) => "No second factor: a password is all that was reported.",
        (TfaReason::Amr, Some(true)) => {
            "A second factor, by the authentication methods that were reported."
        }
        (TfaReason::Amr, _) => {
            "No second factor, by the authentication methods that were reported: they are all of one kind."
        }
        (TfaReason::Acr, Some(true)) => {
            "A second factor, by the assurance level that was reported."
        }
        (TfaReason::Acr, _) => "No second factor, by the assurance level that was reported.",
        (TfaReason::NotReported, _) => {
            "Whether there was a second factor is not known: what the registry reported does not say."
        }
    }
}

/// The reason for the Tor flag.
pub(super) const fn tor(reason: TorReason) -> &'static str {
    match reason {
        TorReason::ExitList => {
            "The publisher's address was a Tor exit at that time: a Tor exit list had it."
        }
        TorReason::Snapshot => {
            "The publisher's address was a Tor exit at that time: a list of exit addresses had it."
        }
        TorReason::AnonymousIp => {
            "The publisher's address was a Tor exit at that time: a MaxMind Anonymous IP database named it one."
        }
        TorReason::Edge => "The registry's edge said that the publisher came over Tor.",
        TorReason::Prefix => {
            "The publisher's address lies within a network that counts as Tor by this service's configuration."
        }
        TorReason::NotListed => "Not a Tor exit: lists of that time do not have the address.",
        TorReason::ListedAfter => {
            "Whether the address was a Tor exit is not known: it was seen as one only just afterwards."
        }
        TorReason::NoAddress => {
            "Whether the address was a Tor exit is not known: the event has no address."
        }
        TorReason::BadAddress => {
            "Whether the address was a Tor exit is not known: what was sent is not an address."
        }
        TorReason::NotGlobal => {
            "Whether the address was a Tor exit is not known: it is not one of the global internet."
        }
        TorReason::NoCoverage => {
            "Whether the address was a Tor exit is not known: no list of that time covers it."
        }
    }
}

/// The credential that the publisher used.
pub(super) const fn credential(credential: Credential) -> &'static str {
    match credential {
        Credential::AutomationToken => "Authenticated with a token for machines.",
        Credential::GranularToken => "Authenticated with a token with narrow rights.",
        Credential::Oidc => "Authenticated with an OpenID Connect token of a trusted publisher.",
        Credential::Password => "Authenticated with a password.",
        Credential::SessionToken => "Authenticated with the token of a login session.",
        Credential::Unknown => "With what the publisher authenticated is not known.",
    }
}

/// The kind of actor; `None` when unknown.
pub(super) const fn actor(actor: Actor) -> Option<&'static str> {
    match actor {
        Actor::User => Some("a person's account"),
        Actor::Workflow => Some("an automated workflow"),
        Actor::Unknown => None,
    }
}

/// The day, in UTC.
pub(super) fn day(time: Timestamp) -> String {
    time.to_rfc3339_millis().chars().take(10).collect()
}

/// Day and minute, in UTC.
pub(super) fn minute(time: Timestamp) -> String {
    let text = time.to_rfc3339_millis();
    text.chars().take(16).map(|letter| if letter == 'T' { ' ' } else { letter }).collect()
}
