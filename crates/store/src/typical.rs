//! The row that shows whether a refusal is the row's fault or the table's (crates/model/README.md, Rejections).

use model::{
    Actor, Credential, EventIdentity, Integrity, InvalidName, PackageName, PackageVersion,
    Publication, PublicationId, PublicationInfo, TfaReason, Timestamp, TorReason, Username,
};

use crate::Error;

/// Letters of one to four bytes in UTF-8.
const LETTERS: &str = "typical row é ж 漢 𝒳 ";

/// The typical row, and the same publication with a higher revision, which must replace it.
pub(crate) fn typical_rows() -> Result<[Publication; 2], Error> {
    let row = typical_row()?;
    Ok([row.clone(), Publication { revision: row.revision + 1, ..row }])
}

/// The error when one of [`typical_rows`] is not in the table after it was written.
pub(crate) fn dropped(row: &Publication) -> Error {
    let words = if row.revision == 0 {
        "a row is not in the table publication after it was written: a trigger drops it"
    } else {
        "a row of the table publication is not changed by a higher revision: a trigger drops the change"
    };
    Error::Data(words.into())
}

/// A row with every field set, at its maximum length, with non-ASCII letters. No package can have its name, which has
/// the maximum length and begins with these letters.
fn typical_row() -> Result<Publication, Error> {
    let invalid = |_: InvalidName| Error::fatal("the typical row is not a row");
    let created = Timestamp::from_millis(1_564_078_151_204);
    Ok(Publication {
        id: PublicationId {
            name: PackageName::new(&long(PackageName::MAX_BYTES)).map_err(invalid)?,
            version: PackageVersion::new(&long(PackageVersion::MAX_BYTES)).map_err(invalid)?,
        },
        info: PublicationInfo {
            username: Some(Username::new(&long(Username::MAX_BYTES)).map_err(invalid)?),
            created,
            tor: Some(false),
            tfa: Some(true),
            tor_reason: TorReason::NotListed,
            tfa_reason: TfaReason::SecondFactor,
            tor_settled: true,
            credential: Credential::SessionToken,
            actor: Actor::User,
            disputed: false,
            integrity: Some(Integrity::new(&long(Integrity::MAX_BYTES)).map_err(invalid)?),
        },
        tor_evidence_until: Some(created),
        revision: 0,
        generation: 0,
        identity: EventIdentity([0; 16]),
    })
}

/// A text of exactly this many bytes.
fn long(bytes: usize) -> String {
    let mut text = String::new();
    for letter in LETTERS.chars().cycle() {
        if text.len() + letter.len_utf8() > bytes - 4 {
            break;
        }
        text.push(letter);
    }
    text.extend(std::iter::repeat_n('.', bytes - text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typical_row_is_as_long_as_can_be() {
        let row = typical_row().unwrap();
        assert_eq!(row.id.name.as_str().len(), PackageName::MAX_BYTES);
        assert_eq!(row.id.version.as_str().len(), PackageVersion::MAX_BYTES);
        assert!(row.id.name.as_str().starts_with("typical row"));
        assert!(!row.id.name.as_str().is_ascii());
    }
}
