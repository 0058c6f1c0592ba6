//! purls with qualifiers: one per line, or in an SBOM.

use model::{InvalidPurl, Purl};
use url::Url;

use super::{Entry, LockfileError};
use crate::location::{Kind, Location};

/// The entries of a list of purls, one per line.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, LockfileError> {
    let lines = text.lines().enumerate().map(|(index, line)| (index, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            entry(line, Location::Unsaid, number)
                .map_err(|error| LockfileError::structure(number, error.to_string()))
        })
        .collect()
}

/// The entry of a purl. `location` is the location that the SBOM gives. Without one, and if it is the address of sources,
/// `download_url` is the location, and a `vcs_url` alone means that the package comes from a repository.
pub(super) fn entry(text: &str, location: Location, line: u32) -> Result<Entry, InvalidPurl> {
    let purl = Purl::parse(text)?;
    let mut also: Vec<Location> =
        purl.qualifier("repository_url").iter().map(|text| registry(text)).collect();
    let location = match (location, purl.qualifier("download_url")) {
        (Location::Unsaid | Location::Elsewhere(Kind::Sources), Some(download)) => {
            Location::read(&download)
        }
        (Location::Unsaid | Location::Elsewhere(Kind::Sources), None)
            if purl.qualifier("vcs_url").is_some() =>
        {
            Location::Elsewhere(Kind::Git)
        }
        (location, download) => {
            also.extend(download.map(|download| Location::read(&download)));
            location
        }
    };
    Ok(Entry {
        ecosystem: purl.ecosystem.into_owned(),
        name: purl.name.into_owned(),
        version: purl.version.map(Into::into),
        location,
        also,
        integrity: None,
        has_shrinkwrap: false,
        line,
    })
}

/// The location of a `repository_url`, which often lacks `https://`.
fn registry(text: &str) -> Location {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    Url::parse(&text).map_or(Location::Elsewhere(Kind::OtherRegistry), Location::Registry)
}
