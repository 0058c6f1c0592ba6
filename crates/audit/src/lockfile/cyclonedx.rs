//! CycloneDX JSON, 1.4 to 1.7.

use model::Purl;

use super::{Entry, LockfileError, purls};
use crate::location::{Kind, Location};
use crate::tree::Node;

/// All components, including nested ones, without the root that `metadata.component` names.
pub(super) fn entries(document: &Node) -> Result<Vec<Entry>, LockfileError> {
    let format = document.text_at("bomFormat").unwrap_or("none");
    let version = document.text_at("specVersion").unwrap_or("none");
    if format != "CycloneDX" || !matches!(version, "1.4" | "1.5" | "1.6" | "1.7") {
        return Err(LockfileError::UnknownVersion {
            what: "specVersion",
            version: format!("{version} of {format}"),
            known: "1.4 to 1.7 of CycloneDX",
        });
    }
    let root = document.get("metadata").and_then(|metadata| metadata.get("component"));
    let root = Root::of(root);
    let mut entries = Vec::new();
    if let Some(components) = document.get("components") {
        collect(components, &root, false, &mut entries);
    }
    // Components nested in the root are parts of the product and are listed too. cdxgen lists a project's own workspaces there.
    if let Some(components) = document
        .get("metadata")
        .and_then(|metadata| metadata.get("component"))
        .and_then(|component| component.get("components"))
    {
        collect(components, &root, true, &mut entries);
    }
    Ok(with_locations(entries))
}

/// The product itself, which other components may name again, with another spelling of its purl.
struct Root<'d> {
    reference: Option<&'d str>,
    /// The types, names and versions of its purls, one of which may be its reference.
    packages: Vec<(String, String, Option<String>)>,
}

impl<'d> Root<'d> {
    fn of(component: Option<&'d Node>) -> Self {
        let text = |key| component.and_then(|component| component.text_at(key));
        let texts = [text("bom-ref"), text("purl")];
        Self {
            reference: texts[0],
            packages: texts.into_iter().flatten().filter_map(package).collect(),
        }
    }

    fn is(&self, component: &Node) -> bool {
        let reference = component.text_at("bom-ref");
        reference.is_some() && reference == self.reference
            || component
                .text_at("purl")
                .and_then(package)
                .is_some_and(|package| self.packages.contains(&package))
    }
}

/// The type, name and version of a purl.
fn package(purl: &str) -> Option<(String, String, Option<String>)> {
    let purl = Purl::parse(purl).ok()?;
    let version = purl.version.map(Into::into);
    Some((purl.ecosystem.into_owned(), purl.name.into_owned(), version))
}

/// Collects components recursively. The depth is limited, because documents are at most 128 deep.
fn collect(components: &Node, root: &Root<'_>, is_product: bool, entries: &mut Vec<(Entry, bool)>) {
    for component in components.items() {
        if !root.is(component) {
            entries.push(entry(component, is_product));
        }
        if let Some(nested) = component.get("components") {
            collect(nested, root, is_product, entries);
        }
    }
}

/// `is_product`: whether it is nested in the root.
fn entry(component: &Node, is_product: bool) -> (Entry, bool) {
    let line = component.line;
    let other = || {
        let name = component.text_at("name").unwrap_or_default();
        (Entry::npm(name, line).elsewhere(Kind::Other), false)
    };
    let Some(purl) = component.text_at("purl") else { return other() };
    let properties = component.get("properties").map(Node::items).unwrap_or_default();
    let is = |property: &str| {
        properties.iter().any(|item| {
            item.text_at("name") == Some(property) && item.get("value").is_some_and(Node::is_true)
        })
    };
    let references = component.get("externalReferences").map(Node::items).unwrap_or_default();
    let mut distributions = references
        .iter()
        .filter(|reference| reference.text_at("type") == Some("distribution"))
        .filter_map(|reference| reference.text_at("url"))
        .map(Location::of_artifact);
    let location = distributions.next().unwrap_or(Location::Unsaid);
    let has_reference = location != Location::Unsaid;
    let Ok(mut entry) = purls::entry(purl, location, line) else { return other() };
    entry.also.extend(distributions);
    let is_part = is_product && component.text_at("type") == Some("application");
    if is("internal:is_workspace") || is_part && !has_reference {
        return (entry.elsewhere(Kind::Workspace), has_reference);
    }
    if is("cdx:npm:package:private") {
        return (entry.elsewhere(Kind::Private), has_reference);
    }
    if is("cdx:npm:package:bundled") && !has_reference {
        return (entry.elsewhere(Kind::Bundled), false);
    }
    (entry, has_reference)
}

/// Completes the entries of an SBOM, each with whether it has a reference to its artifact. When one entry has a
/// reference, entries without one are packages found on disk: workspaces, links, folders.
pub(super) fn with_locations(entries: Vec<(Entry, bool)>) -> Vec<Entry> {
    let has_references = entries.iter().any(|(_, has_reference)| *has_reference);
    let decide = |(entry, has_reference): (Entry, bool)| match entry.location {
        Location::Elsewhere(_) => entry,
        _ if has_references && !has_reference => entry.elsewhere(Kind::NoLocation),
        _ => entry,
    };
    entries.into_iter().map(decide).collect()
}
