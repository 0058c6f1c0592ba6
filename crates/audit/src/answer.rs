//! What the query API answers, as far as the rules read it.

use serde::Deserialize;

/// A package with its publication and history.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// The name, to check that the answer is for what was asked.
    pub name: String,
    /// The version, to check the same.
    pub version: String,
    /// The publication.
    pub publication_info: Option<Info>,
    /// How it compares with those before it.
    pub history: History,
}

/// A publication's facts.
#[derive(Debug, Clone, Deserialize)]
pub struct Info {
    /// Who published.
    pub username: Option<String>,
    /// When, RFC 3339.
    pub created: Option<String>,
    /// Over Tor; none where it is not known.
    pub tor: Option<bool>,
    /// With a second factor; none where it is not known.
    pub tfa: Option<bool>,
    /// Whether records contradict each other.
    pub disputed: bool,
    /// The digest of the published artifact.
    pub integrity: Option<String>,
}

/// How a publication compares with those of the same package before it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The latest earlier one that was published by a strong method.
    pub strongest: Option<Earlier>,
    /// Whether this one was published by a weaker method than that.
    pub weaker: Option<bool>,
    /// Whether the account never published this package before.
    pub new_publisher: Option<bool>,
    /// When the account last published this package before, RFC 3339.
    pub publisher_last: Option<String>,
}

/// An earlier publication.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Earlier {
    /// Its version.
    pub version: String,
    /// When and how it was published.
    pub publication_info: EarlierInfo,
}

/// When and how an earlier version was published.
#[derive(Debug, Clone, Deserialize)]
pub struct EarlierInfo {
    /// RFC 3339.
    pub created: Option<String>,
    /// `SECOND_FACTOR`, `TRUSTED_PUBLISHER`, `SINGLE_FACTOR` or `UNKNOWN`.
    pub method: Option<String>,
}
