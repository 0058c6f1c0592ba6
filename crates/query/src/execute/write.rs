//! Rows straight into the text of the answer.

use apollo_compiler::response::JsonMap;
use model::{Publication, Purl};

use super::cursor;
use super::plan::{Page, Plan, RootValue};
use super::shape::{ConnectionField, EdgeField, InfoField, PackageField, PageInfoField, Shape};
use crate::json::write_str;

/// What the store and the introspection answered.
pub(super) struct Answers<'a> {
    /// As long as the plan's keys.
    pub(super) rows: &'a [Option<Publication>],
    /// For each page of the plan, up to one row more than it asks for.
    pub(super) pages: &'a [Vec<Publication>],
    pub(super) meta: Option<&'a JsonMap>,
}

/// The answer has become longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

pub(super) struct Writer<'a> {
    pub(super) out: String,
    pub(super) ecosystem: &'a str,
    pub(super) max_length: usize,
}

impl Writer<'_> {
    /// `{…}`, or `null` where a field that must not be null is.
    pub(super) fn data(&mut self, plan: &Plan<'_>, answers: &Answers<'_>) -> Result<(), TooLong> {
        let nulled = |value: &RootValue| matches!(value, RootValue::Nulled { non_null: true });
        if plan.roots.iter().any(|root| nulled(&root.value)) {
            self.out.push_str("null");
            return Ok(());
        }
        self.out.push('{');
        for (index, root) in plan.roots.iter().enumerate() {
            self.out.push_str(if index > 0 { ",\"" } else { "\"" });
            self.out.push_str(root.key);
            self.out.push_str("\":");
            self.root(root.key, &root.value, (plan, answers))?;
        }
        self.out.push('}');
        self.check()
    }

    fn root(
        &mut self,
        key: &str,
        value: &RootValue,
        (plan, answers): (&Plan<'_>, &Answers<'_>),
    ) -> Result<(), TooLong> {
        let row = |slot: Option<usize>| answers.rows.get(slot?)?.as_ref();
        match value {
            RootValue::Typename => self.out.push_str("\"Query\""),
            RootValue::Nulled { .. } => self.out.push_str("null"),
            RootValue::Meta => match answers.meta.and_then(|meta| meta.get(key)) {
                // A map of strings, numbers and lists cannot fail to be written.
                Some(value) => self.out.push_str(&serde_json::to_string(value).unwrap_or_default()),
                None => self.out.push_str("null"),
            },
            RootValue::One(slot, shape) => self.package_or_null(row(*slot), shape)?,
            RootValue::Many(slots, shape) => {
                self.list(slots, |writer, slot| writer.package_or_null(row(*slot), shape))?;
            }
            RootValue::Page(index, shape) => {
                if let (Some(page), Some(rows)) =
                    (plan.pages.get(*index), answers.pages.get(*index))
                {
                    self.connection(page, rows, shape)?;
                }
            }
        }
        Ok(())
    }

    fn object<F>(
        &mut self,
        shape: &Shape<F>,
        mut value: impl FnMut(&mut Self, &F) -> Result<(), TooLong>,
    ) -> Result<(), TooLong> {
        self.out.push('{');
        for (key, field) in &shape.0 {
            self.out.push_str(key);
            value(self, field)?;
        }
        self.out.push('}');
        Ok(())
    }

    fn list<T>(
        &mut self,
        items: &[T],
        mut write: impl FnMut(&mut Self, &T) -> Result<(), TooLong>,
    ) -> Result<(), TooLong> {
        self.out.push('[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            write(self, item)?;
            self.check()?;
        }
        self.out.push(']');
        Ok(())
    }

    fn check(&self) -> Result<(), TooLong> {
        if self.out.len() > self.max_length { Err(TooLong) } else { Ok(()) }
    }

    fn package_or_null(
        &mut self,
        row: Option<&Publication>,
        shape: &Shape<PackageField>,
    ) -> Result<(), TooLong> {
        match row {
            Some(row) => self.package(row, shape),
            None => {
                self.out.push_str("null");
                Ok(())
            }
        }
    }

    fn package(&mut self, row: &Publication, shape: &Shape<PackageField>) -> Result<(), TooLong> {
        self.object(shape, |writer, field| {
            match field {
                PackageField::Typename => writer.out.push_str("\"Package\""),
                PackageField::Name => write_str(&mut writer.out, row.id.name.as_str()),
                PackageField::Version => write_str(&mut writer.out, row.id.version.as_str()),
                PackageField::Purl => {
                    write_str(&mut writer.out, &Purl::canonical(writer.ecosystem, &row.id));
                }
                PackageField::Info(shape) => {
                    return writer.object(shape, |writer, field| {
                        writer.info(row, *field);
                        Ok(())
                    });
                }
            }
            // One row can be selected hundreds of times over, so that a check after each row would come late.
            writer.check()
        })
    }

    fn info(&mut self, row: &Publication, field: InfoField) {
        let info = &row.info;
        match field {
            InfoField::Typename => self.out.push_str("\"PublicationInfo\""),
            InfoField::Username => match &info.username {
                Some(username) => write_str(&mut self.out, username.as_str()),
                None => self.out.push_str("null"),
            },
            InfoField::Created => write_str(&mut self.out, &info.created.to_rfc3339_millis()),
            InfoField::Tor => self.flag(info.tor),
            InfoField::Tfa => self.flag(info.tfa),
            InfoField::TorReason => self.word(info.tor_reason.as_str()),
            InfoField::TorSettled => self.flag(Some(info.tor_settled)),
            InfoField::TfaReason => self.word(info.tfa_reason.as_str()),
            InfoField::Credential => self.word(info.credential.as_str()),
            InfoField::Actor => self.word(info.actor.as_str()),
            InfoField::Disputed => self.flag(Some(info.disputed)),
        }
    }

    fn flag(&mut self, flag: Option<bool>) {
        self.out.push_str(match flag {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        });
    }

    /// A word of the row as a value of its enumeration.
    fn word(&mut self, word: &str) {
        self.out.push('"');
        self.out.extend(word.chars().map(|letter| letter.to_ascii_uppercase()));
        self.out.push('"');
    }

    fn connection(
        &mut self,
        page: &Page,
        rows: &[Publication],
        shape: &Shape<ConnectionField>,
    ) -> Result<(), TooLong> {
        let shown = &rows[..rows.len().min(page.first as usize)];
        self.object(shape, |writer, field| match field {
            ConnectionField::Typename => {
                writer.out.push_str("\"PublicationConnection\"");
                Ok(())
            }
            ConnectionField::Edges(shape) => {
                writer.list(shown, |writer, row| writer.edge(row, shape))
            }
            ConnectionField::PageInfo(shape) => writer.object(shape, |writer, field| {
                match field {
                    PageInfoField::Typename => writer.out.push_str("\"PageInfo\""),
                    PageInfoField::HasNextPage => writer.flag(Some(rows.len() > shown.len())),
                    PageInfoField::HasPreviousPage => writer.flag(Some(page.after.is_some())),
                    PageInfoField::StartCursor => writer.cursor(shown.first()),
                    PageInfoField::EndCursor => writer.cursor(shown.last()),
                }
                writer.check()
            }),
        })
    }

    fn edge(&mut self, row: &Publication, shape: &Shape<EdgeField>) -> Result<(), TooLong> {
        self.object(shape, |writer, field| {
            match field {
                EdgeField::Typename => writer.out.push_str("\"PublicationEdge\""),
                EdgeField::Cursor => writer.cursor(Some(row)),
                EdgeField::Node(shape) => return writer.package(row, shape),
            }
            writer.check()
        })
    }

    fn cursor(&mut self, row: Option<&Publication>) {
        match row {
            Some(row) => write_str(&mut self.out, &cursor::encode(row.info.created, &row.id)),
            None => self.out.push_str("null"),
        }
    }
}
