//! What is to be written for an object: its fields in order, with their keys ready as text. Made once a request, written
//! once a row.

use apollo_compiler::executable::Field;

use super::collect::{Collector, Group};

/// An object's fields. A key is `"name":`, with the comma before it where it is not the first.
#[derive(Debug)]
pub(super) struct Shape<F>(pub(super) Vec<(String, F)>);

impl<F> Shape<F> {
    fn new<'a>(groups: &[Group<'a>], mut field: impl FnMut(&Group<'a>) -> Option<F>) -> Self {
        let mut fields = Vec::with_capacity(groups.len());
        for group in groups {
            if let Some(field) = field(group) {
                let comma = if fields.is_empty() { "" } else { "," };
                // A response key is a GraphQL name, in which nothing needs escaping.
                fields.push((format!("{comma}\"{}\":", group.key), field));
            }
        }
        Self(fields)
    }
}

#[derive(Debug)]
pub(super) enum PackageField {
    Typename,
    Name,
    Version,
    Purl,
    Info(Shape<InfoField>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum InfoField {
    Typename,
    Username,
    Created,
    Tor,
    Tfa,
    TorReason,
    TorSettled,
    TfaReason,
    Credential,
    Actor,
    Disputed,
}

#[derive(Debug)]
pub(super) enum ConnectionField {
    Typename,
    Edges(Shape<EdgeField>),
    PageInfo(Shape<PageInfoField>),
}

#[derive(Debug)]
pub(super) enum EdgeField {
    Typename,
    Cursor,
    Node(Shape<PackageField>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum PageInfoField {
    Typename,
    HasNextPage,
    HasPreviousPage,
    StartCursor,
    EndCursor,
}

// A field that no arm knows cannot pass the validation; a test walks the schema to see that every field has its arm.
impl<'a> Collector<'a> {
    pub(super) fn package(&self, group: &Group<'a>) -> Shape<PackageField> {
        Shape::new(&self.collect_under("Package", group), |group| {
            Some(match group.name() {
                "__typename" => PackageField::Typename,
                "name" => PackageField::Name,
                "version" => PackageField::Version,
                "purl" => PackageField::Purl,
                "publicationInfo" => PackageField::Info(self.info(group)),
                _ => return None,
            })
        })
    }

    fn info(&self, group: &Group<'a>) -> Shape<InfoField> {
        Shape::new(&self.collect_under("PublicationInfo", group), |group| info_field(group.field()))
    }

    pub(super) fn connection(&self, group: &Group<'a>) -> Shape<ConnectionField> {
        Shape::new(&self.collect_under("PublicationConnection", group), |group| {
            Some(match group.name() {
                "__typename" => ConnectionField::Typename,
                "edges" => ConnectionField::Edges(self.edge(group)),
                "pageInfo" => ConnectionField::PageInfo(self.page_info(group)),
                _ => return None,
            })
        })
    }

    fn edge(&self, group: &Group<'a>) -> Shape<EdgeField> {
        Shape::new(&self.collect_under("PublicationEdge", group), |group| {
            Some(match group.name() {
                "__typename" => EdgeField::Typename,
                "cursor" => EdgeField::Cursor,
                "node" => EdgeField::Node(self.package(group)),
                _ => return None,
            })
        })
    }

    fn page_info(&self, group: &Group<'a>) -> Shape<PageInfoField> {
        Shape::new(&self.collect_under("PageInfo", group), |group| {
            Some(match group.name() {
                "__typename" => PageInfoField::Typename,
                "hasNextPage" => PageInfoField::HasNextPage,
                "hasPreviousPage" => PageInfoField::HasPreviousPage,
                "startCursor" => PageInfoField::StartCursor,
                "endCursor" => PageInfoField::EndCursor,
                _ => return None,
            })
        })
    }
}

fn info_field(field: &Field) -> Option<InfoField> {
    Some(match field.name.as_str() {
        "__typename" => InfoField::Typename,
        "username" => InfoField::Username,
        "created" => InfoField::Created,
        "tor" => InfoField::Tor,
        "tfa" => InfoField::Tfa,
        "torReason" => InfoField::TorReason,
        "torSettled" => InfoField::TorSettled,
        "tfaReason" => InfoField::TfaReason,
        "credential" => InfoField::Credential,
        "actor" => InfoField::Actor,
        "disputed" => InfoField::Disputed,
        _ => return None,
    })
}
