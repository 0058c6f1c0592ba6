//! The releases to replay: real publications of npm, and the README's example.

use std::io::Read;

use anyhow::Context;
use flate2::read::GzDecoder;
use model::{PackageName, PackageVersion, PublicationId, Timestamp};

/// The publish event of the example, exactly as a registry would send it. Its flags are documented.
pub(crate) use model::EXAMPLE_EVENT as EXAMPLE;

const TABLE: &[u8] = include_bytes!("../data/npm-publications.tsv.gz");

const EXAMPLE_TIME: &str = "2019-07-25T18:09:11.204Z";

/// A row of the table of publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// The time of the publication.
    pub(crate) created: Timestamp,
    /// The package and the version.
    pub(crate) id: PublicationId,
    /// The publisher; `None` when the registry did not publish it.
    pub(crate) username: Option<String>,
}

impl Release {
    /// Whether this is the example, whose event is [`EXAMPLE`].
    pub(crate) fn is_example(&self) -> bool {
        self.id.name.as_str() == "pg" && self.id.version.as_str() == "7.12.0"
    }
}

/// All releases, sorted by time.
///
/// # Errors
/// The embedded table is damaged.
pub(crate) fn load() -> anyhow::Result<Vec<Release>> {
    let mut text = String::new();
    GzDecoder::new(TABLE).read_to_string(&mut text)?;
    let rows = text.lines().skip(1);
    let mut releases = rows
        .map(|row| release(row).with_context(|| format!("the table of publications: {row:?}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    // If the table has the example too, keep only the example's own event.
    releases.retain(|release| !release.is_example());
    releases.push(release(&format!("{EXAMPLE_TIME}\tpg\t7.12.0\tbrianc"))?);
    releases.sort_by_key(|release| release.created);
    Ok(releases)
}

fn release(row: &str) -> anyhow::Result<Release> {
    let mut fields = row.split('\t');
    let mut field = || fields.next().context("a field is missing");
    Ok(Release {
        created: Timestamp::parse(field()?)?,
        id: PublicationId {
            name: PackageName::new(field()?)?,
            version: PackageVersion::new(field()?)?,
        },
        username: Some(field()?).filter(|name| !name.is_empty()).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_whole_and_names_each_version_once() {
        let releases = load().unwrap();
        assert_eq!(releases.len(), 31_927);
        assert_eq!(releases.iter().filter(|release| release.is_example()).count(), 1);
        assert_eq!(releases.iter().filter(|release| release.username.is_none()).count(), 533);
        let ids: HashSet<_> =
            releases.iter().map(|r| (r.id.name.as_str(), r.id.version.as_str())).collect();
        assert_eq!(ids.len(), releases.len());
        assert!(releases.is_sorted_by_key(|release| release.created));
    }
}
