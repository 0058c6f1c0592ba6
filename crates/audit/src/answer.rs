//! The answers of the query API: the fields that the rules read.

use serde::Deserialize;

/// A package with its publication and history.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// The name, compared with the name in the request.
    pub name: String,
    /// The version, compared likewise.
    pub version: String,
    /// The publication.
    pub publication_info: Option<Info>,
    /// How the publication compares with earlier ones.
    pub history: History,
}

/// The facts of a publication.
#[derive(Debug, Clone, Deserialize)]
pub struct Info {
    /// The account that published.
    pub username: Option<String>,
    /// The time of the publication, RFC 3339.
    pub created: Option<String>,
    /// Whether it was published over Tor; `None` when not known.
    pub tor: Option<bool>,
    /// Whether a second factor was given; `None` when not known.
    pub tfa: Option<bool>,
    /// Whether the records of the publication contradict each other.
    pub disputed: bool,
    /// The digest of the published artifact.
    pub integrity: Option<String>,
}

/// How a publication compares with earlier ones of the same package.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The latest earlier publication by a strong method.
    pub strongest: Option<Earlier>,
    /// Whether this publication used a weaker method than `strongest`.
    pub weaker: Option<bool>,
    /// Whether the account had never published this package before.
    pub new_publisher: Option<bool>,
    /// The last time before that the account published this package, RFC 3339.
    pub publisher_last: Option<String>,
}

/// An earlier publication.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Earlier {
    /// The version.
    pub version: String,
    /// The time and method of the publication.
    pub publication_info: EarlierInfo,
}

/// The time and method of an earlier publication.
#[derive(Debug, Clone, Deserialize)]
pub struct EarlierInfo {
    /// The time, RFC 3339.
    pub created: Option<String>,
    /// `SECOND_FACTOR`, `TRUSTED_PUBLISHER`, `SINGLE_FACTOR` or `UNKNOWN`.
    pub method: Option<String>,
}
