//! The rules: names and default levels.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($($rule:ident $name:literal $level:ident $text:literal $advice:literal;)*) => {
        /// A rule that a package can break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Rule { $(#[doc = $text] $rule,)* }

        impl Rule {
            /// All rules, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)* }
            }

            /// The level without a setting in the policy.
            #[must_use]
            pub const fn default_level(self) -> Level {
                match self { $(Self::$rule => Level::$level,)* }
            }

            /// The meaning of the rule, in one sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$rule => $text,)* }
            }

            /// The recommended action.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$rule => $advice,)* }
            }
        }
    };
}

rules! {
    Tor "tor" Error "The version was published over Tor."
        "Do not install it before its maintainers confirm that they published it.";
    Weaker "weaker" Error "The version was published by a weaker method than an earlier one."
        "Pin the earlier version, and ask the maintainers whether they published this one.";
    Location "location" Error "The location in the lockfile is not that of the listed package."
        "Somebody may have edited the lockfile: recreate it from the manifest and compare.";
    Integrity "integrity" Error "The digest in the lockfile is not that of the published artifact."
        "Do not install it: the artifact was replaced, or the lockfile was edited.";
    NewPublisher "new-publisher" Warn "The account never published this package before."
        "Look whether the project announced a new maintainer.";
    ReturningPublisher "returning-publisher" Warn
        "The account published this package again after a long time."
        "An old account may have been taken over: look whether the project knows of the release.";
    Disputed "disputed" Warn "The registry's records of this version contradict each other."
        "Ask the operator of the service which record is right.";
    Unknown "unknown" Warn "The service does not know how the version was published."
        "It may be too new, or published before the records begin; wait, or check it by hand.";
    NoSecondFactor "no-second-factor" Off "The version was published without a second factor."
        "Ask the maintainers to publish with a second factor or by trusted publishing.";
    TooYoung "too-young" Off "The version was published a short time ago."
        "Wait: most malicious versions are found within days.";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The level of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The rule is not checked.
    Off,
    /// The rule is reported.
    Warn,
    /// The rule is reported and causes exit code 1.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}
