//! purls with qualifiers: one per line, or in an SBOM.

use model::{InvalidPurl, Purl};
use percent_encoding::percent_decode_str;
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
    let qualifiers = Qualifiers::read(text);
    let mut also: Vec<Location> = qualifiers.registry.iter().map(|text| registry(text)).collect();
    let location = match (location, qualifiers.download) {
        (Location::Unsaid | Location::Elsewhere(Kind::Sources), Some(download)) => {
            Location::read(&download)
        }
        (Location::Unsaid | Location::Elsewhere(Kind::Sources), None) if qualifiers.vcs => {
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
        line,
    })
}

/// The location of a `repository_url`, which often lacks `https://`.
fn registry(text: &str) -> Location {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    Url::parse(&text).map_or(Location::Elsewhere(Kind::OtherRegistry), Location::Registry)
}

struct Qualifiers {
    registry: Option<String>,
    download: Option<String>,
    vcs: bool,
}

impl Qualifiers {
    fn read(purl: &str) -> Self {
        let head = purl.split_once('#').map_or(purl, |(head, _)| head);
        let pairs = head.split_once('?').map_or("", |(_, pairs)| pairs);
        let value = |name: &str| {
            pairs.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                let value = percent_decode_str(value).decode_utf8_lossy();
                (key.eq_ignore_ascii_case(name) && !value.is_empty()).then(|| value.into_owned())
            })
        };
        Self {
            registry: value("repository_url"),
            download: value("download_url"),
            vcs: value("vcs_url").is_some(),
        }
    }
}
