//! CollecTor's month archives, `exit-list-YYYY-MM.tar.xz`, as downloaded.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;
use model::Timestamp;

use super::MAX_LIST_BYTES;
use crate::{List, Refusal};

/// The maximum size of an archive's dictionary, in KiB: the strongest preset of xz needs 64 MiB.
const MAX_DICTIONARY_KIB: u32 = 128 << 10;
/// The maximum unpacked size of an archive in bytes: a month of exit lists is some 250 MiB.
const MAX_UNPACKED_BYTES: u64 = 4 << 30;

/// A member's name and its list.
pub(super) type Member = (PathBuf, Result<List, Refusal>);

pub(super) fn is_archive(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".tar.xz"))
}

/// Unpacks the members and parses each with its name and its modification time. A member may be refused alone. An
/// archive that cannot be unpacked completely is refused as a whole, because it is still being written or was cut off.
pub(super) fn lists(
    path: &Path,
    parse: impl Fn(&Path, Timestamp, &[u8]) -> Result<List, Refusal>,
) -> Result<Vec<Member>, Refusal> {
    let file = File::open(path).map_err(|_| Refusal::Unreadable)?;
    let unpacked = XzReader::new_mem_limit(BufReader::new(file), true, MAX_DICTIONARY_KIB);
    let mut archive = tar::Archive::new(unpacked.take(MAX_UNPACKED_BYTES));
    let members = members(&mut archive, parse).map_err(|_| Refusal::BadArchive)?;
    // The checksum follows the last member.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|_| Refusal::BadArchive)?;
    if rest.limit() == 0 {
        return Err(Refusal::TooLarge);
    }
    Ok(members)
}

fn members(
    archive: &mut tar::Archive<impl Read>,
    parse: impl Fn(&Path, Timestamp, &[u8]) -> Result<List, Refusal>,
) -> io::Result<Vec<Member>> {
    let mut members = Vec::new();
    let mut bytes = Vec::new();
    for member in archive.entries()? {
        let mut member = member?;
        if !member.header().entry_type().is_file() {
            continue;
        }
        let name = member.path()?.into_owned();
        if name.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let seconds = i64::try_from(member.header().mtime()?).unwrap_or(i64::MAX);
        let fetched = Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        bytes.clear();
        member.by_ref().take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes)?;
        let list = if bytes.len() as u64 > MAX_LIST_BYTES {
            Err(Refusal::TooLarge)
        } else {
            parse(&name, fetched, &bytes)
        };
        members.push((name, list));
    }
    Ok(members)
}
