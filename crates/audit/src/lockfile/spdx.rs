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
    Ok(with_locations(packages.map(entry).collect()))
}

fn entry(package: &Node) -> (Entry, bool) {
    let line = package.line;
    let references = package.get("externalRefs").map(Node::items).unwrap_or_default();
    let purl = references
        .iter()
        .find(|reference| reference.text_at("referenceType") == Some("purl"))
        .and_then(|reference| reference.text_at("referenceLocator"));
    let location = match package.text_at("downloadLocation") {
        None | Some("NOASSERTION" | "NONE") => Location::Unsaid,
        Some(text) => Location::of_artifact(text),
    };
    let has_reference = location != Location::Unsaid;
    let entry = purl.and_then(|purl| purls::entry(purl, location, line).ok());
    entry.map_or_else(
        || {
            let name = package.text_at("name").unwrap_or_default();
            (Entry::npm(name, line).elsewhere(Kind::Other), false)
        },
        |entry| (entry, has_reference),
    )
}
