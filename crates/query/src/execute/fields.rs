//! The fields of the schema's objects: the name of each, and the function that writes it. A selection is compiled from
//! these tables once per request and written once per row.

use apollo_compiler::Name;
use model::{Integrity, PackageVersion, Publication, PublicationInfo, Timestamp, Username};

use super::collect::{Collector, Group};
use super::fetched::{FoundHistory, Listed};
use super::write::{Stop, Writer, Written};
use crate::config::RegistrySettings;
use crate::error::{QueryError, Segment};

/// An object type of the schema that is written from an `S`.
pub(super) struct Type<S: 'static> {
    name: &'static str,
    fields: &'static [(&'static str, Field<S>)],
}

/// How a field is written.
enum Field<S> {
    Leaf(fn(&mut Writer<'_>, &S)),
    /// Compiles the writer from the selections below the field.
    Nested(fn(&Collector<'_, '_>, &Group<'_>) -> Write<S>),
}

/// Writes a value from an `S`.
pub(super) type Write<S> = Box<dyn Fn(&mut Writer<'_>, &S) -> Written + Send + Sync>;

/// The compiled selections of an object.
pub(super) enum Selection<S: 'static> {
    /// The fields in order, with their response keys.
    Fields(Vec<(Name, Compiled<S>)>),
    /// The fields cannot be collected: each object of this selection gets the error.
    Broken(QueryError),
}

pub(super) enum Compiled<S: 'static> {
    Typename(&'static str),
    Leaf(fn(&mut Writer<'_>, &S)),
    Nested(Write<S>),
}

use Field::{Leaf, Nested};

pub(super) static PACKAGE: Type<Publication> = Type {
    name: "Package",
    fields: &[
        ("id", Leaf(|writer, row| writer.purl(row))),
        ("name", Leaf(|writer, row| writer.text(row.id.name.as_str()))),
        ("version", Leaf(|writer, row| writer.text(row.id.version.as_str()))),
        ("purl", Leaf(|writer, row| writer.purl(row))),
        (
            "publicationInfo",
            Nested(|collector, group| {
                let info = collector.select(&INFO, group);
                Box::new(move |writer, row| writer.nullable(|writer| info.write(writer, &row.info)))
            }),
        ),
        (
            "history",
            Nested(|collector, group| {
                collector.with_history.set(true);
                let history = collector.select(&HISTORY, group);
                Box::new(move |writer, row| {
                    let histories = writer.histories;
                    match histories.get(&row.id) {
                        Some(found) => writer.nullable(|writer| history.write(writer, found)),
                        None => writer.null(),
                    }
                })
            }),
        ),
    ],
};

static INFO: Type<PublicationInfo> = Type {
    name: "PublicationInfo",
    fields: &[
        (
            "username",
            Leaf(|writer, info| {
                writer.text_or_null(info.username.as_ref().map(Username::as_str));
            }),
        ),
        ("created", Leaf(|writer, info| writer.text(&info.created.to_rfc3339_millis()))),
        ("tor", Leaf(|writer, info| writer.flag(info.tor))),
        ("tfa", Leaf(|writer, info| writer.flag(info.tfa))),
        ("method", Leaf(|writer, info| writer.word(info.method().as_str()))),
        ("torReason", Leaf(|writer, info| writer.word(info.tor_reason.as_str()))),
        ("torSettled", Leaf(|writer, info| writer.flag(Some(info.tor_settled)))),
        ("tfaReason", Leaf(|writer, info| writer.word(info.tfa_reason.as_str()))),
        ("credential", Leaf(|writer, info| writer.word(info.credential.as_str()))),
        ("actor", Leaf(|writer, info| writer.word(info.actor.as_str()))),
        ("disputed", Leaf(|writer, info| writer.flag(Some(info.disputed)))),
        (
            "integrity",
            Leaf(|writer, info| {
                writer.text_or_null(info.integrity.as_ref().map(Integrity::as_str));
            }),
        ),
    ],
};

static HISTORY: Type<FoundHistory> = Type {
    name: "History",
    fields: &[
        ("earlier", Leaf(|writer, found| writer.raw(&found.history.earlier.to_string()))),
        (
            "strongest",
            Nested(|collector, group| {
                let earlier = collector.select(&EARLIER, group);
                Box::new(move |writer, found| match &found.history.strongest {
                    Some(_) => writer.nullable(|writer| earlier.write(writer, found)),
                    None => writer.null(),
                })
            }),
        ),
        ("weaker", Leaf(|writer, found| writer.flag(found.history.weaker))),
        ("newPublisher", Leaf(|writer, found| writer.flag(found.history.new_publisher))),
        (
            "publisherLast",
            Leaf(|writer, found| {
                let last = found.history.publisher_last.map(Timestamp::to_rfc3339_millis);
                writer.text_or_null(last.as_deref());
            }),
        ),
    ],
};

/// For a history with a strongest publication.
static EARLIER: Type<FoundHistory> = Type {
    name: "EarlierPublication",
    fields: &[
        (
            "version",
            Leaf(|writer, found| {
                let strongest = found.history.strongest.as_ref();
                writer.text_or_null(strongest.map(PackageVersion::as_str));
            }),
        ),
        (
            "publicationInfo",
            Nested(|collector, group| {
                collector.with_strongest.set(true);
                let info = collector.select(&INFO, group);
                Box::new(move |writer, found| match &found.strongest {
                    Some(strongest) => info.write(writer, strongest),
                    // The row was deleted after the history was read.
                    None => Err(Stop::Null),
                })
            }),
        ),
    ],
};

pub(super) static CONNECTION: Type<Listed> = Type {
    name: "PublicationConnection",
    fields: &[
        (
            "edges",
            Nested(|collector, group| {
                let edge = collector.select_items(&EDGE, group);
                Box::new(move |writer, listed| {
                    writer.list(&listed.rows, |writer, row| edge.write(writer, row))
                })
            }),
        ),
        (
            "pageInfo",
            Nested(|collector, group| {
                let page_info = collector.select(&PAGE_INFO, group);
                Box::new(move |writer, listed| page_info.write(writer, listed))
            }),
        ),
    ],
};

static EDGE: Type<Publication> = Type {
    name: "PublicationEdge",
    fields: &[
        ("cursor", Leaf(|writer, row| writer.cursor(Some(row)))),
        (
            "node",
            Nested(|collector, group| {
                let package = collector.select(&PACKAGE, group);
                Box::new(move |writer, row| package.write(writer, row))
            }),
        ),
    ],
};

static PAGE_INFO: Type<Listed> = Type {
    name: "PageInfo",
    fields: &[
        ("hasNextPage", Leaf(|writer, listed| writer.flag(Some(listed.has_next)))),
        ("hasPreviousPage", Leaf(|writer, listed| writer.flag(Some(listed.has_previous)))),
        ("startCursor", Leaf(|writer, listed| writer.cursor(listed.rows.first()))),
        ("endCursor", Leaf(|writer, listed| writer.cursor(listed.rows.last()))),
    ],
};

pub(super) static REGISTRY: Type<RegistrySettings> = Type {
    name: "Registry",
    fields: &[
        ("ecosystem", Leaf(|writer, registry| writer.text(&registry.ecosystem))),
        (
            "hosts",
            Leaf(|writer, registry| {
                // Writing to a vector cannot fail.
                let _ = serde_json::to_writer(&mut writer.out, &registry.hosts);
            }),
        ),
    ],
};

impl Collector<'_, '_> {
    /// Compiles the selections of an object field.
    pub(super) fn select<S>(&self, ty: &'static Type<S>, group: &Group<'_>) -> Selection<S> {
        self.compile(ty, group, &[Segment::Field(group.key.clone())])
    }

    /// Compiles the selections of the objects in a list field.
    pub(super) fn select_items<S>(&self, ty: &'static Type<S>, group: &Group<'_>) -> Selection<S> {
        self.compile(ty, group, &[Segment::Field(group.key.clone()), Segment::ListIndex(0)])
    }

    fn compile<S>(
        &self,
        ty: &'static Type<S>,
        group: &Group<'_>,
        path: &[Segment],
    ) -> Selection<S> {
        let length = self.path.borrow().len();
        self.path.borrow_mut().extend_from_slice(path);
        let sets = group.fields.iter().map(|field| &field.selection_set);
        let selection = match self.collect(ty.name, sets) {
            Ok(groups) => Selection::Fields(self.compiled(ty, &groups)),
            Err(error) => {
                Selection::Broken(QueryError { path: self.path.borrow().clone(), ..error })
            }
        };
        self.path.borrow_mut().truncate(length);
        selection
    }

    fn compiled<S>(&self, ty: &'static Type<S>, groups: &[Group<'_>]) -> Vec<(Name, Compiled<S>)> {
        let mut fields = Vec::with_capacity(groups.len());
        for group in groups {
            let known = ty.fields.iter().find(|(name, _)| *name == group.name());
            let field = match known {
                Some((_, Leaf(write))) => Compiled::Leaf(*write),
                Some((_, Nested(compile))) => Compiled::Nested(compile(self, group)),
                // The validation lets no other name pass. A test checks that every field of the schema has an entry.
                None => Compiled::Typename(ty.name),
            };
            // The name is shared with the document: each use of a fragment would hold the text of its keys again.
            fields.push((group.key.clone(), field));
        }
        fields
    }
}

impl<S> Selection<S> {
    pub(super) fn write(&self, writer: &mut Writer<'_>, source: &S) -> Written {
        let fields = match self {
            Self::Fields(fields) => fields,
            Self::Broken(error) => return writer.fail(error),
        };
        writer.out.push(b'{');
        for (index, (key, field)) in fields.iter().enumerate() {
            // A response key is a GraphQL name, so it needs no escaping.
            writer.raw(if index > 0 { ",\"" } else { "\"" });
            writer.raw(key);
            writer.raw("\":");
            match field {
                Compiled::Typename(name) => writer.text(name),
                Compiled::Leaf(write) => write(writer, source),
                Compiled::Nested(write) => write(writer, source)?,
            }
            // Check after each field: a row can be selected hundreds of times, so a check per row would be too late.
            writer.check()?;
        }
        writer.out.push(b'}');
        Ok(())
    }
}
