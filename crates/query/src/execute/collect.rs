//! Collecting fields (GraphQL, "Collecting Fields"): fragments put in, `@skip` and `@include` decided, fields of one
//! response key merged. The types of the schema are all objects, so that a fragment applies or does not whatever the
//! row: it is done once a request, not once a row.

use std::collections::HashMap;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::ast::{DirectiveList, Value};
use apollo_compiler::executable::{Field, Selection, SelectionSet};

use super::variables::Variables;
use crate::json::Json;

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

/// From how many groups on a map finds them faster than a search.
const SEARCHED: usize = 12;

pub(super) struct Collector<'a> {
    pub(super) document: &'a ExecutableDocument,
    pub(super) variables: &'a Variables<'a>,
}

struct Groups<'a> {
    list: Vec<Group<'a>>,
    index: HashMap<&'a str, usize>,
    visited: Vec<&'a str>,
}

impl<'a> Collector<'a> {
    /// The fields of an object whose selection sets are these.
    pub(super) fn collect(
        &self,
        ty: &str,
        sets: impl IntoIterator<Item = &'a SelectionSet>,
    ) -> Vec<Group<'a>> {
        let mut groups = Groups { list: Vec::new(), index: HashMap::new(), visited: Vec::new() };
        for set in sets {
            self.walk(ty, set, &mut groups);
        }
        groups.list
    }

    /// The fields of the object that a group's field is.
    pub(super) fn collect_under(&self, ty: &str, group: &Group<'a>) -> Vec<Group<'a>> {
        self.collect(ty, group.fields.iter().map(|field| &field.selection_set))
    }

    fn walk(&self, ty: &str, set: &'a SelectionSet, groups: &mut Groups<'a>) {
        for selection in &set.selections {
            if !self.is_included(selection.directives()) {
                continue;
            }
            match selection {
                Selection::Field(field) => groups.push(field),
                Selection::InlineFragment(inline) => {
                    if inline.type_condition.as_ref().is_none_or(|condition| condition == ty) {
                        self.walk(ty, &inline.selection_set, groups);
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let name = spread.fragment_name.as_str();
                    if groups.visited.contains(&name) {
                        continue;
                    }
                    groups.visited.push(name);
                    if let Some(fragment) = self.document.fragments.get(name)
                        && fragment.type_condition() == ty
                    {
                        self.walk(ty, &fragment.selection_set, groups);
                    }
                }
            }
        }
    }

    fn is_included(&self, directives: &DirectiveList) -> bool {
        directives.is_empty()
            || !self.condition(directives, "skip").unwrap_or(false)
                && self.condition(directives, "include").unwrap_or(true)
    }

    fn condition(&self, directives: &DirectiveList, name: &str) -> Option<bool> {
        let argument = directives.get(name)?.specified_argument_by_name("if")?;
        match argument.as_ref() {
            Value::Boolean(value) => Some(*value),
            Value::Variable(variable) => match self.variables.get(variable)? {
                Json::Bool(value) => Some(*value),
                _ => None,
            },
            _ => None,
        }
    }
}

impl<'a> Groups<'a> {
    fn push(&mut self, field: &'a Field) {
        let key = field.response_key().as_str();
        match self.find(key) {
            Some(at) => self.list[at].fields.push(field),
            None => {
                self.list.push(Group { key, fields: vec![field] });
                if self.list.len() > SEARCHED {
                    self.index.insert(key, self.list.len() - 1);
                }
            }
        }
    }

    /// The first ones by search, the others by the map.
    fn find(&self, key: &str) -> Option<usize> {
        let searched = self.list.iter().take(SEARCHED).position(|group| group.key == key);
        searched.or_else(|| self.index.get(key).copied())
    }
}
