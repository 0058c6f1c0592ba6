//! SPDX JSON, 2.3.

use std::collections::HashSet;

use super::{Entry, LockfileError, cyclonedx::with_locations, purls};
use crate::location::{Kind, Location};
use crate::tree::Node;

/// The packages, without those that the document describes, because these are the product itself.
pub(super) fn entries(document: &Node) -> Result<Vec<Entry>, LockfileError> {
    let version = document.text_at("spdxVersion").unwrap_or("none");
    if version != "SPDX-2.3" {
        return Err(LockfileError::UnknownVersion {
            what: "spdxVersion",
            version: version.to_owned(),
            known: "SPDX-2.3",
        });
    }
    let items = |key: &str| document.get(key).map(Node::items).unwrap_or_default();
    let described = items("documentDescribes").iter().filter_map(Node::text);
    let by_relation = items("relationships").iter().filter_map(|relation| {
        let is = |key, value| relation.text_at(key) == Some(value);
        if is("relationshipType", "DESCRIBES") && is("spdxElementId", "SPDXRef-DOCUMENT") {
            relation.text_at("relatedSpdxElement")
        } else if is("relationshipType", "DESCRIBED_BY")
            && is("relatedSpdxElement", "SPDXRef-DOCUMENT")
        {
            relation.text_at("spdxElementId")
        } else {
            None
        }
    });
    let roots: HashSet<&str> = described.chain(by_relation).collect();
    let is_root = |package: &&Node| package.text_at("SPDXID").is_some_and(|id| roots.contains(id));
    let packages = items("packages").iter().filter(|package| !is_root(package));
    Ok(with_locations(packages.flat_map(entries_of).collect()))
}

/// An entry for each purl of a package.
fn entries_of(package: &Node) -> Vec<(Entry, bool)> {
    let line = package.line;
    let references = package.get("externalRefs").map(Node::items).unwrap_or_default();
    let purls = references
        .iter()
        .filter(|reference| reference.text_at("referenceType") == Some("purl"))
        .filter_map(|reference| reference.text_at("referenceLocator"));
    let location = match package.text_at("downloadLocation") {
        None | Some("NOASSERTION" | "NONE") => Location::Unsaid,
        Some(text) => Location::of_artifact(text),
    };
    let has_reference = location != Location::Unsaid;
    let entries = purls.filter_map(|purl| purls::entry(purl, location.clone(), line).ok());
    let mut entries: Vec<_> = entries.map(|entry| (entry, has_reference)).collect();
    if entries.is_empty() {
        let name = package.text_at("name").unwrap_or_default();
        entries.push((Entry::npm(name, line).elsewhere(Kind::Other), false));
    }
    entries
}
