//! Measures an operation with its fragments expanded. The walk visits each definition once and saturates, so that
//! documents with exponential expansion are measured quickly.

use std::collections::HashMap;

use apollo_compiler::Node;
use apollo_compiler::ast::{Definition, Document, FragmentDefinition, Selection};

use crate::config::Limits;
use crate::error::QueryError;

/// The size of a selection set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    /// Selections with fragments expanded.
    selections: u64,
    /// Selections, each multiplied by the lengths of the introspection lists around it. A long key counts more, because each
    /// item of a list repeats it.
    cost: u64,
    /// Levels of selection sets and fragments.
    depth: usize,
}

/// The length of an introspection list, rounded up. Lists of data have weight 1, because their lengths are limited when
/// the keys are known.
fn weight(field: &str) -> u64 {
    match field {
        "types" => 32,
        "fields" | "inputFields" | "enumValues" => 8,
        "directives" | "args" | "locations" => 4,
        _ => 1,
    }
}

/// A response key of this length costs as much as one more selection.
const KEY_BYTES: usize = 64;

struct Walk<'a> {
    fragments: HashMap<&'a str, &'a Node<FragmentDefinition>>,
    /// `None` while the fragment is being measured, which means a cycle. The validation reports it.
    measured: HashMap<&'a str, Option<Size>>,
    max_depth: usize,
}

/// Refuses documents over `max_definitions`, `max_depth`, `max_selections` or `max_cost`.
pub(super) fn check(document: &Document, limits: &Limits) -> Result<(), QueryError> {
    let definitions = document.definitions.len();
    if definitions > limits.max_definitions {
        let counted = (definitions as u64, limits.max_definitions as u64);
        return Err(over("limits.max_definitions", "operations and fragments", counted));
    }
    let mut walk =
        Walk { fragments: HashMap::new(), measured: HashMap::new(), max_depth: limits.max_depth };
    for definition in &document.definitions {
        if let Definition::FragmentDefinition(fragment) = definition {
            walk.fragments.insert(fragment.name.as_str(), fragment);
        }
    }
    for definition in &document.definitions {
        let size = match definition {
            Definition::OperationDefinition(operation) => walk.size(&operation.selection_set, 1),
            // Fragments without a use count too, because they are validated as well.
            Definition::FragmentDefinition(fragment) => walk.size(&fragment.selection_set, 1),
            _ => continue,
        };
        let Some(size) = size else { return Err(too_deep(limits)) };
        if size.selections > limits.max_selections {
            let counted = (size.selections, limits.max_selections);
            return Err(over("limits.max_selections", "selections with fragments put in", counted));
        }
        if size.cost > limits.max_cost {
            let counted = (size.cost, limits.max_cost);
            return Err(over(
                "limits.max_cost",
                "selections counted by the lists around them",
                counted,
            ));
        }
    }
    Ok(())
}

impl<'a> Walk<'a> {
    /// Returns `None` when the set is too deep. `level` starts at 1 and bounds this function's recursion.
    fn size(&mut self, selections: &'a [Selection], level: usize) -> Option<Size> {
        if level > self.max_depth && !selections.is_empty() {
            return None;
        }
        let mut total = Size { depth: usize::from(!selections.is_empty()), ..Size::default() };
        for selection in selections {
            let (inner, weight, own) = match selection {
                Selection::Field(field) => {
                    let key = field.alias.as_ref().unwrap_or(&field.name).len();
                    let inner = self.size(&field.selection_set, level + 1)?;
                    (inner, weight(&field.name), 1 + (key / KEY_BYTES) as u64)
                }
                Selection::InlineFragment(inline) => {
                    (self.size(&inline.selection_set, level + 1)?, 1, 1)
                }
                Selection::FragmentSpread(spread) => {
                    (self.fragment(&spread.fragment_name, level + 1)?, 1, 1)
                }
            };
            let cost = inner.cost.saturating_mul(weight).saturating_add(own);
            total.selections = total.selections.saturating_add(inner.selections).saturating_add(1);
            total.cost = total.cost.saturating_add(cost);
            total.depth = total.depth.max(inner.depth + 1);
        }
        Some(total)
    }

    fn fragment(&mut self, name: &'a str, level: usize) -> Option<Size> {
        let size = match self.measured.get(name) {
            Some(measured) => measured.unwrap_or_default(),
            None => {
                let Some(&fragment) = self.fragments.get(name) else {
                    return Some(Size::default());
                };
                self.measured.insert(name, None);
                let size = self.size(&fragment.selection_set, level)?;
                self.measured.insert(name, Some(size));
                size
            }
        };
        (level + size.depth <= self.max_depth + 1).then_some(size)
    }
}

pub(super) fn too_deep(limits: &Limits) -> QueryError {
    let maximum = limits.max_depth as u64;
    let message = format!("the document is nested deeper than {maximum} levels (limits.max_depth)");
    QueryError::limit("limits.max_depth", maximum, None, message)
}

fn over(limit: &'static str, what: &str, (actual, maximum): (u64, u64)) -> QueryError {
    let counted = if actual == u64::MAX { "countless".to_owned() } else { actual.to_string() };
    let actual = (actual != u64::MAX).then_some(actual);
    let message =
        format!("the document has {counted} {what}, at most {maximum} are executed ({limit})");
    QueryError::limit(limit, maximum, actual, message)
}
