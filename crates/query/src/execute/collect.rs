//! Collecting fields (GraphQL, "Collecting Fields"): fragments put in, `@skip` and `@include` decided, fields of one
//! response key merged. Which object a selection is for is known without its row, so that a fragment applies or does not:
//! it is done once a request, not once a row.

use std::cell::{Cell, RefCell};

use apollo_compiler::ExecutableDocument;
use apollo_compiler::ast::{self, DirectiveList};
use apollo_compiler::collections::IndexMap;
use apollo_compiler::executable::{Field, Selection, SelectionSet};

use super::variables::{Value, Variables};
use crate::error::{Code, QueryError, Segment};

/// All fields of one response key; never empty.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) key: &'a str,
    pub(super) fields: Vec<&'a Field>,
}

impl<'a> Group<'a> {
    /// The field whose name and arguments count: the validation has found the others to agree.
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
    /// Where in the answer the selection is for that is being collected.
    pub(super) path: RefCell<Vec<Segment>>,
    /// Fields that were collected so far.
    pub(super) values: Cell<u64>,
    /// Whether a history was among them, and the row of a strongest publication.
    pub(super) with_history: Cell<bool>,
    pub(super) with_strongest: Cell<bool>,
}

#[derive(Default)]
struct Groups<'a> {
    by_key: IndexMap<&'a str, Vec<&'a Field>>,
    visited: Vec<&'a str>,
}

impl<'a> Collector<'a, '_> {
    /// The fields of an object whose selection sets are these. An error is one of the answer, at the object's place: the
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
        self.values.set(self.values.get() + groups.by_key.len() as u64);
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

    /// Decides every condition in the selections of a group, for an object that is not collected here.
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

/// Whether what is selected on `condition` is for an object of this type: `Node` is the schema's one interface.
fn applies(condition: &str, ty: &str) -> bool {
    condition == ty || condition == "Node" && ty == "Package"
}
