//! Writes letters as JSON lines.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempPath;
use tokio_util::sync::CancellationToken;

use super::{each, mask};
use crate::commands::dead_letter_source::{DeadLetter, Selection};
use crate::commands::record_file::{Bytes, Line};
use crate::record::{Header, Record};
use crate::settings::Settings;

/// Writes the selected letters to the file, or to standard output. `false` if letters are gone.
///
/// # Errors
/// If the topic cannot be read, or the file cannot be written, which then stays as it was.
pub(super) async fn run(
    settings: &Settings,
    selection: Selection,
    with_addresses: bool,
    file: Option<&Path>,
) -> anyhow::Result<bool> {
    let written = match file {
        Some(path) => write_file(settings, selection, with_addresses, path).await,
        None => write(settings, selection, with_addresses, &mut io::stdout()).await,
    };
    match written {
        // The reader has closed the pipe: `dead-letters export | head`.
        Err(error) if is_broken_pipe(&error) => Ok(true),
        written => written,
    }
}

async fn write_file(
    settings: &Settings,
    selection: Selection,
    with_addresses: bool,
    path: &Path,
) -> anyhow::Result<bool> {
    let creating = || format!("creating {}", path.display());
    let mut target = Target::open(path, with_addresses).with_context(creating)?;
    let is_whole = write(settings, selection, with_addresses, &mut target.out).await?;
    target.finish().with_context(|| format!("writing {}", path.display()))?;
    Ok(is_whole)
}

async fn write(
    settings: &Settings,
    selection: Selection,
    with_addresses: bool,
    to: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    let is_whole = each(settings, selection, CancellationToken::new(), async |mut record| {
        // A replay of the file evaluates the record as it was.
        record.timestamp = DeadLetter(&record).timestamp().or(record.timestamp);
        let record = if with_addresses { Line::from(&record) } else { without_addresses(&record) };
        serde_json::to_writer(&mut *to, &record).map_err(io::Error::from)?;
        Ok(to.write_all(b"\n")?)
    })
    .await?;
    to.flush()?;
    Ok(is_whole)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// An open file. A regular file keeps its former content until the new one is whole: that is written to a file beside it,
/// which goes away with this.
struct Target {
    out: BufWriter<File>,
    /// The temporary file in the same folder, and the file that it becomes.
    temporary: Option<(TempPath, PathBuf)>,
}

impl Target {
    /// A file with addresses is readable by its owner only, even if it existed with wider permissions.
    fn open(path: &Path, with_addresses: bool) -> io::Result<Self> {
        // Who may not write to the file may not replace it either.
        let former = match File::options().write(true).open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let former = former.map(|file| file.metadata().map(|about| (file, about))).transpose()?;
        // A stream of the process is written to itself, even if it leads to a regular file.
        let streams = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
        let is_stream = streams.iter().any(|stream| path.starts_with(stream));
        match former {
            Some((file, about)) if is_stream || !about.is_file() => {
                if about.is_file() {
                    file.set_len(0)?;
                    if with_addresses {
                        file.set_permissions(Permissions::from_mode(mode(with_addresses)))?;
                    }
                }
                Ok(Self { out: BufWriter::new(file), temporary: None })
            }
            former => Self::create_temporary(path, with_addresses, former.map(|(_, about)| about)),
        }
    }

    fn create_temporary(
        path: &Path,
        with_addresses: bool,
        former: Option<std::fs::Metadata>,
    ) -> io::Result<Self> {
        // A link keeps leading to the file.
        let path = if former.is_some() { path.canonicalize()? } else { path.to_owned() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let (file, temporary) = tempfile::Builder::new()
            .prefix(".dead-letters-")
            .permissions(Permissions::from_mode(mode(with_addresses)))
            .tempfile_in(folder.unwrap_or(Path::new(".")))?
            .into_parts();
        if let Some(former) = former {
            // Only an administrator may give a file to its former owner.
            let _ = fchown(&file, Some(former.uid()), Some(former.gid()));
            if !with_addresses {
                file.set_permissions(former.permissions())?;
            }
        }
        Ok(Self { out: BufWriter::new(file), temporary: Some((temporary, path)) })
    }

    fn finish(self) -> io::Result<()> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some((temporary, path)) = self.temporary {
            // Without this the name could survive a crash of the machine, and the content not.
            file.sync_all()?;
            temporary.persist(path).map_err(|error| error.error)?;
        }
        Ok(())
    }
}

/// The mode of a new file, which the process's mask narrows.
fn mode(with_addresses: bool) -> u32 {
    if with_addresses { 0o600 } else { 0o666 }
}

/// The record with every part masked.
pub(super) fn without_addresses(record: &Record) -> Line {
    let masked = |bytes: &Option<bytes::Bytes>| {
        bytes.as_deref().map(|bytes| Bytes::Text(mask::masked(bytes)))
    };
    let header = |header: &Header| {
        let value = header.value.as_deref();
        let value = value.map(|bytes| Bytes::Text(mask::masked_member(&header.name, bytes)));
        (mask::masked(header.name.as_bytes()), value)
    };
    Line {
        key: masked(&record.key),
        headers: record.headers.iter().map(header).collect(),
        value: masked(&record.value),
        masked: true,
        ..Line::from(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_record_is_masked() {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: Some(value.to_owned().into()),
        };
        let record = Record {
            position: model::Position { topic: "letters".into(), partition: 0, offset: 7 },
            timestamp: None,
            key: Some("client:71.160.223.45".into()),
            value: Some(r#"{"data_base64":"eyJpcCI6IjcxLjE2MC4yMjMuNDUifQ=="}"#.into()),
            headers: vec![
                header("x-real-ip", "71.160.223.45:443"),
                header("remote-user", "brianc@home"),
                header("71.160.223.45", "1"),
                header("ce_source", "/registry/npm/publish"),
            ],
        };
        let shown = serde_json::to_value(without_addresses(&record)).unwrap();
        let text = |text: &str| serde_json::json!({ "text": text });
        assert_eq!(shown["key"], text("client:[address]"));
        assert_eq!(shown["value"], text(r#"{"data_base64":"{\"ip\":\"[address]\"}"}"#));
        let headers = serde_json::json!([
            ["x-real-ip", text("[address]")],
            ["remote-user", text("[address]")],
            ["[address]", text("1")],
            ["ce_source", text("/registry/npm/publish")],
        ]);
        assert_eq!(shown["headers"], headers);
    }
}
