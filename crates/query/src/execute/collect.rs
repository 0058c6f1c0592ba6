//! Collecting fields (GraphQL, "Collecting Fields"): fragments expanded, `@skip` and `@include` evaluated, fields with
//! the same response key merged. The type of each object is known without its row, so fields are collected once per
//! request, not once per row.

use std::cell::{Cell, RefCell};

use apollo_compiler::ast::{self, DirectiveList};
use apollo_compiler::collections::IndexMap;
use apollo_compiler::executable::{Field, Selection, SelectionSet};
use apollo_compiler::{ExecutableDocument, Name};

use super::variables::{Value, Variables};
use crate::error::{Code, QueryError, Segment};

/// All fields with one response key; never empty.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) key: &'a Name,
    pub(super) fields: Vec<&'a Field>,
}

impl<'a> Group<'a> {
    /// The first field. Its name and arguments count, because the validation has checked that the others agree.
    pub(super) fn field(&self) -> &'a Field {
        self.fields[0]
    }

    pub(super) fn name(&self) -> &'a str {
        self.field().name.as_str()
    }
}

pub(super) struct Collector<'a, 'v> {
    pub(super) document: &'a ExecutableDocument,
    pub(super) variables: &'v Variables<'a>,
    /// The path in the answer of the selection that is being collected.
    pub(super) path: RefCell<Vec<Segment>>,
    /// Number of fields collected so far; a long key counts more.
    pub(super) values: Cell<u64>,
    /// Whether `history` was among them, and `publicationInfo` of its strongest publication.
    pub(super) with_history: Cell<bool>,
    pub(super) with_strongest: Cell<bool>,
}

/// A response key of this length counts as one more value, because an alias can be long, and every row repeats it.
const KEY_BYTES: u64 = 1_024;

#[derive(Default)]
struct Groups<'a> {
    by_key: IndexMap<&'a Name, Vec<&'a Field>>,
    visited: Vec<&'a str>,
}

impl<'a> Collector<'a, '_> {
    /// Collects the fields of an object from its selection sets. The error is a field error at the object's path: the
    /// condition of `@skip` or `@include` is null.
    pub(super) fn collect(
        &self,
        ty: &str,
        sets: impl IntoIterator<Item = &'a SelectionSet>,
    ) -> Result<Vec<Group<'a>>, QueryError> {
        let mut groups = Groups::default();
        for set in sets {
            self.walk(ty, set, &mut groups)?;
        }
        let values = groups.by_key.keys().map(|key| 1 + key.len() as u64 / KEY_BYTES);
        self.values.set(self.values.get() + values.sum::<u64>());
        Ok(groups.by_key.into_iter().map(|(key, fields)| Group { key, fields }).collect())
    }

    fn walk(
        &self,
        ty: &str,
        set: &'a SelectionSet,
        groups: &mut Groups<'a>,
    ) -> Result<(), QueryError> {
        for selection in &set.selections {
            if !self.is_included(selection.directives())? {
                continue;
            }
            match selection {
                Selection::Field(field) => {
                    groups.by_key.entry(field.response_key()).or_default().push(field);
                }
                Selection::InlineFragment(inline) => {
                    if inline.type_condition.as_ref().is_none_or(|condition| applies(condition, ty))
                    {
                        self.walk(ty, &inline.selection_set, groups)?;
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let name = spread.fragment_name.as_str();
                    if groups.visited.contains(&name) {
                        continue;
                    }
                    groups.visited.push(name);
                    if let Some(fragment) = self.document.fragments.get(name)
                        && applies(fragment.type_condition(), ty)
                    {
                        self.walk(ty, &fragment.selection_set, groups)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Evaluates every condition below a selection set whose object is not collected here.
    pub(super) fn check_conditions(&self, set: &'a SelectionSet) -> Result<(), QueryError> {
        for selection in &set.selections {
            self.is_included(selection.directives())?;
            match selection {
                Selection::Field(field) => self.check_conditions(&field.selection_set)?,
                Selection::InlineFragment(inline) => {
                    self.check_conditions(&inline.selection_set)?
                }
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = self.document.fragments.get(&spread.fragment_name) {
                        self.check_conditions(&fragment.selection_set)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn is_included(&self, directives: &DirectiveList) -> Result<bool, QueryError> {
        if directives.is_empty() {
            return Ok(true);
        }
        Ok(!self.condition(directives, "skip")?.unwrap_or(false)
            && self.condition(directives, "include")?.unwrap_or(true))
    }

    fn condition(
        &self,
        directives: &DirectiveList,
        name: &str,
    ) -> Result<Option<bool>, QueryError> {
        let argument = directives.get(name).and_then(|own| own.specified_argument_by_name("if"));
        let Some(argument) = argument else { return Ok(None) };
        let given = match &**argument {
            ast::Value::Boolean(value) => Some(*value),
            ast::Value::Variable(variable) => match self.variables.get(variable) {
                Some(Value::Bool(value)) => Some(*value),
                _ => None,
            },
            _ => None,
        };
        if given.is_none() {
            let message = format!("argument `if` of @{name} must not be null");
            let error = QueryError::new(Code::BadUserInput, message);
            return Err(error.at(argument.location(), &self.document.sources));
        }
        Ok(given)
    }
}

/// Whether a fragment on `condition` applies to an object of type `ty`. `Node` is the only interface.
fn applies(condition: &str, ty: &str) -> bool {
    condition == ty || condition == "Node" && ty == "Package"
}
