//! Validation rules of GraphQL that apollo-compiler does not enforce. A document that breaks one would be answered as
//! if a part of it were missing.
//!
//! - Input Object Field Uniqueness: an object names each field once.
//! - Field Selection Merging: root fields with one response key have the same arguments. apollo-compiler compares lists
//!   only up to the shorter length. Only root fields have list arguments.
//! - All Variable Usages Are Allowed: a nullable variable fits a non-null position only by a non-null default.
//!   apollo-compiler accepts a null default, and does not check variables inside lists and objects.
//!
//! One rule is this service's own: no alias begins with [`one_of::MARK`], because [`one_of::restored`] would change its value.

use std::collections::{HashMap, HashSet};

use apollo_compiler::ast::{DirectiveList, Type, Value, VariableDefinition};
use apollo_compiler::executable::{Field, Operation, Selection, SelectionSet};
use apollo_compiler::schema::{ExtendedType, InputValueDefinition};
use apollo_compiler::{ExecutableDocument, Name, Node, Schema};

use crate::error::{Code, QueryError};
use crate::schema::one_of;

struct Walk<'a> {
    schema: &'a Schema,
    document: &'a ExecutableDocument,
    variables: &'a [Node<VariableDefinition>],
    /// The first root field of each response key.
    roots: HashMap<&'a str, &'a Field>,
    visited: HashSet<&'a str>,
}

/// Returns an error for the first of these rules that the document breaks.
pub(super) fn check(schema: &Schema, document: &ExecutableDocument) -> Result<(), QueryError> {
    for operation in document.operations.iter() {
        let Operation { variables, selection_set, directives, .. } = &**operation;
        let (roots, visited) = (HashMap::new(), HashSet::new());
        let mut walk = Walk { schema, document, variables, roots, visited };
        for default in variables.iter().filter_map(|variable| variable.default_value.as_ref()) {
            walk.value(None, default)?;
        }
        walk.directives(directives)?;
        walk.selections(selection_set, true)?;
    }
    Ok(())
}

impl<'a> Walk<'a> {
    fn selections(&mut self, set: &'a SelectionSet, is_root: bool) -> Result<(), QueryError> {
        for selection in &set.selections {
            self.directives(selection.directives())?;
            match selection {
                Selection::Field(field) => {
                    if let Some(alias) = &field.alias
                        && alias.starts_with(one_of::MARK)
                    {
                        let message =
                            format!("the alias `{alias}` must not begin with `{}`", one_of::MARK);
                        return Err(self.error(message, alias));
                    }
                    if is_root {
                        self.merges(field)?;
                    }
                    for argument in &field.arguments {
                        let definition = field.definition.argument_by_name(&argument.name);
                        self.value(definition.map(|own| &**own), &argument.value)?;
                    }
                    self.selections(&field.selection_set, false)?;
                }
                Selection::InlineFragment(inline) => {
                    self.selections(&inline.selection_set, is_root)?;
                }
                Selection::FragmentSpread(spread) => {
                    if self.visited.insert(&spread.fragment_name)
                        && let Some(fragment) = self.document.fragments.get(&spread.fragment_name)
                    {
                        self.selections(&fragment.selection_set, is_root)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn directives(&self, list: &'a DirectiveList) -> Result<(), QueryError> {
        for directive in list.iter() {
            let definition = self.schema.directive_definitions.get(&directive.name);
            for argument in &directive.arguments {
                let own = definition.and_then(|own| own.argument_by_name(&argument.name));
                self.value(own.map(|own| &**own), &argument.value)?;
            }
        }
        Ok(())
    }

    fn merges(&mut self, field: &'a Node<Field>) -> Result<(), QueryError> {
        let key = field.response_key();
        let first = *self.roots.entry(key).or_insert(field);
        if same_arguments(first, field) {
            return Ok(());
        }
        let message =
            format!("fields `{key}` have different arguments and cannot be merged; use an alias");
        Err(self.error(message, &field.name))
    }

    /// Checks a value for the argument or field that `place` defines.
    fn value(
        &self,
        place: Option<&InputValueDefinition>,
        value: &Node<Value>,
    ) -> Result<(), QueryError> {
        match place {
            Some(place) => self.typed(&place.ty, place.default_value.is_some(), value),
            None => self.unique(value),
        }
    }

    fn typed(&self, ty: &Type, has_default: bool, value: &Node<Value>) -> Result<(), QueryError> {
        match (&**value, ty) {
            (Value::Variable(name), _) => self.usage(name, ty, has_default, value),
            (Value::List(items), Type::List(item) | Type::NonNullList(item)) => {
                items.iter().try_for_each(|value| self.typed(item, false, value))
            }
            (_, Type::List(item) | Type::NonNullList(item)) => self.typed(item, false, value),
            (Value::Object(fields), Type::Named(name) | Type::NonNullNamed(name)) => {
                self.unique(value)?;
                let Some(ExtendedType::InputObject(definition)) = self.schema.types.get(name)
                else {
                    return Ok(());
                };
                fields.iter().try_for_each(|(name, value)| {
                    self.value(definition.fields.get(name).map(|field| &***field), value)
                })
            }
            _ => Ok(()),
        }
    }

    fn usage(
        &self,
        name: &Name,
        ty: &Type,
        has_default: bool,
        at: &Node<Value>,
    ) -> Result<(), QueryError> {
        let Some(variable) = self.variables.iter().find(|variable| variable.name == *name) else {
            return Ok(());
        };
        let own_default = variable.default_value.as_ref().is_some_and(|own| !own.is_null());
        let is_allowed = if ty.is_non_null() && !variable.ty.is_non_null() {
            (own_default || has_default) && variable.ty.is_assignable_to(&ty.clone().nullable())
        } else {
            variable.ty.is_assignable_to(ty)
        };
        if is_allowed {
            return Ok(());
        }
        let message =
            format!("variable ${name} of type {} is used where {ty} is needed", variable.ty);
        let error = QueryError::new(Code::ValidationFailed, message);
        Err(error.at(at.location(), &self.document.sources))
    }

    fn unique(&self, value: &Node<Value>) -> Result<(), QueryError> {
        match &**value {
            Value::List(items) => items.iter().try_for_each(|item| self.unique(item)),
            Value::Object(fields) => {
                let mut names = HashSet::new();
                fields.iter().try_for_each(|(name, value)| {
                    if names.insert(name) {
                        return self.unique(value);
                    }
                    let message = format!("the input field `{name}` is given twice in one object");
                    Err(self.error(message, name))
                })
            }
            _ => Ok(()),
        }
    }

    fn error(&self, message: String, at: &Name) -> QueryError {
        QueryError::new(Code::ValidationFailed, message).at(at.location(), &self.document.sources)
    }
}

fn same_arguments(left: &Field, right: &Field) -> bool {
    std::ptr::eq(left, right)
        || left.arguments.len() == right.arguments.len()
            && left.arguments.iter().all(|argument| {
                let other = right.arguments.iter().find(|other| other.name == argument.name);
                other.is_some_and(|other| same(&argument.value, &other.value))
            })
}

/// Whether two values are equal. The order of an object's fields does not count.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| {
                    let other = right.iter().find(|(other, _)| other == name);
                    other.is_some_and(|(_, other)| same(value, other))
                })
        }
        _ => left == right,
    }
}
