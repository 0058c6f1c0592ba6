//! The words of the specification (crates/model/README.md): reasons, credentials, actors, and the two verdicts that
//! carry them.

use crate::Timestamp;

/// A word that the specification does not define, in a place that allows only defined words (a row of the database).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word for {kind}")]
pub struct UnknownWord {
    /// The enumeration that was parsed.
    pub kind: &'static str,
}

/// Declares enumerations of the specification's words, in the bytewise order of the words.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        ///
        /// Declared in the bytewise order of the words, so that the derived order is the merge rule's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every value, in bytewise order of the words.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The specification's word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The value of a word, compared byte for byte.
            ///
            /// # Errors
            /// [`UnknownWord`] if the specification does not define the word.
            pub fn parse(word: &str) -> Result<Self, $crate::UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::UnknownWord { kind: stringify!($name) }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

pub(crate) use words;

words! {
    /// The reason of a `tor` verdict (crates/enrich/README.md, Rules).
    TorReason {
        /// True: a MaxMind Anonymous IP database names the address as an exit.
        AnonymousIp = "anonymous_ip",
        /// Null: the text is not an address.
        BadAddress = "bad_address",
        /// True: the registry's edge reported it.
        Edge = "edge",
        /// True: a TorDNSEL exit list has the address.
        ExitList = "exit_list",
        /// Null: the address was seen as an exit only just after the act.
        ListedAfter = "listed_after",
        /// Null: the event has no address.
        NoAddress = "no_address",
        /// Null: no list of that time covers the address's family.
        NoCoverage = "no_coverage",
        /// Null: the address is not on the global internet.
        NotGlobal = "not_global",
        /// False: the lists of that time do not have the address.
        NotListed = "not_listed",
        /// True: the address is in a configured network.
        Prefix = "prefix",
        /// True: a list of exit addresses has the address.
        Snapshot = "snapshot",
    }

    /// The reason of a `tfa` verdict (crates/model/README.md, tfa).
    TfaReason {
        /// Decided by the assurance level and the configuration.
        Acr = "acr",
        /// Decided by the authentication methods of RFC 8176.
        Amr = "amr",
        /// False: a machine's credential, without a person.
        NoHumanFactor = "no_human_factor",
        /// False: the registry reports that no second factor was presented.
        NoSecondFactor = "no_second_factor",
        /// Null: the event does not say.
        NotReported = "not_reported",
        /// False: only a password.
        PasswordOnly = "password_only",
        /// True: the registry verified a second factor on this act.
        SecondFactor = "second_factor",
        /// False: a second factor was presented and does not count.
        SecondFactorRejected = "second_factor_rejected",
    }

    /// The credential with which the publisher authenticated.
    #[derive(Default)]
    Credential {
        /// A token for machines.
        AutomationToken = "automation_token",
        /// A token with narrow rights.
        GranularToken = "granular_token",
        /// An OpenID Connect token of a trusted publisher.
        Oidc = "oidc",
        /// A password.
        Password = "password",
        /// The token of a login session.
        SessionToken = "session_token",
        /// Not reported, or another word.
        #[default]
        Unknown = "unknown",
    }

    /// The kind of the acting party.
    Actor {
        /// Not reported, or another word.
        Unknown = "unknown",
        /// A person's account.
        User = "user",
        /// An automated workflow.
        Workflow = "workflow",
    }
}

impl TorReason {
    /// Whether the act came over Tor, which the reason alone decides. `None` = not determined.
    #[must_use]
    pub const fn verdict(self) -> Option<bool> {
        match self {
            Self::AnonymousIp | Self::Edge | Self::ExitList | Self::Prefix | Self::Snapshot => {
                Some(true)
            }
            Self::NotListed => Some(false),
            Self::BadAddress
            | Self::ListedAfter
            | Self::NoAddress
            | Self::NoCoverage
            | Self::NotGlobal => None,
        }
    }
}

impl TfaReason {
    /// The verdict of a reason that alone decides it. `acr` and `amr` do not, because each may mean true or false.
    #[must_use]
    pub const fn verdict(self) -> TfaVerdict {
        let tfa = match self {
            Self::SecondFactor => Some(true),
            Self::NoHumanFactor
            | Self::NoSecondFactor
            | Self::PasswordOnly
            | Self::SecondFactorRejected => Some(false),
            Self::Acr | Self::Amr | Self::NotReported => None,
        };
        TfaVerdict { tfa, reason: self }
    }
}

/// The verdict whether an act came over Tor: its reason, and whether it can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TorVerdict {
    /// The reason; [`TorReason::verdict`] is true, false, or not determined.
    pub reason: TorReason,
    /// The time of the newest valid list or database at the evaluation; `None` if there was none.
    pub evidence_until: Option<Timestamp>,
    /// Whether later lists can no longer change the verdict.
    pub settled: bool,
}

/// Whether a second factor was verified on the act that made the version public, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TfaVerdict {
    /// True, false, or not determined.
    pub tfa: Option<bool>,
    /// The reason.
    pub reason: TfaReason,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_bytewise_order<T: Copy>(
        all: &[T],
        word: fn(T) -> &'static str,
        parse: fn(&str) -> Result<T, UnknownWord>,
    ) {
        assert!(all.windows(2).all(|pair| word(pair[0]).as_bytes() < word(pair[1]).as_bytes()));
        assert!(
            all.iter()
                .all(|&value| parse(word(value)).map(word).as_ref().ok() == Some(&word(value)))
        );
    }

    #[test]
    fn words_are_declared_in_the_order_the_merge_rule_compares_them() {
        in_bytewise_order(TorReason::ALL, TorReason::as_str, TorReason::parse);
        in_bytewise_order(TfaReason::ALL, TfaReason::as_str, TfaReason::parse);
        in_bytewise_order(Credential::ALL, Credential::as_str, Credential::parse);
        in_bytewise_order(Actor::ALL, Actor::as_str, Actor::parse);
    }

    #[test]
    fn words_are_compared_byte_for_byte() {
        assert!(Credential::parse("OIDC").is_err());
        assert!(Actor::parse("").is_err());
    }
}
