//! Arguments as they stand in the document, read through the variables without copying either.

use apollo_compiler::ast::Value;
use apollo_compiler::executable::Field;

use super::variables::Variables;
use crate::json::{self, Json};

/// A value that an argument, a list item or an input field was given. Types were checked before: literals by the
/// validation, variables by the coercion. What is left to run time is a variable that may be null where a value must
/// not be (GraphQL, "All Variable Usages Are Allowed": a default permits it).
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    /// Not given, or by a variable that was not given.
    Absent,
    Null,
    Literal(&'a Value),
    Json(&'a Json<'a>),
}

/// The argument of that name.
pub(super) fn argument<'a>(
    field: &'a Field,
    name: &str,
    variables: &'a Variables<'a>,
) -> Given<'a> {
    let argument = field.arguments.iter().find(|argument| argument.name == name);
    argument.map_or(Given::Absent, |argument| Given::literal(&argument.value, variables))
}

impl<'a> Given<'a> {
    fn literal(value: &'a Value, variables: &'a Variables<'a>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Variable(name) => variables.get(name).map_or(Self::Absent, Self::json),
            literal => Self::Literal(literal),
        }
    }

    fn json(value: &'a Json<'a>) -> Self {
        if *value == Json::Null { Self::Null } else { Self::Json(value) }
    }

    /// The text of a string or the word of an enumeration.
    pub(super) fn as_str(self) -> Option<&'a str> {
        match self {
            Self::Literal(Value::String(text)) => Some(text),
            Self::Literal(Value::Enum(word)) => Some(word.as_str()),
            Self::Json(value) => value.as_str(),
            _ => None,
        }
    }

    pub(super) fn as_int(self) -> Option<i64> {
        match self {
            Self::Literal(Value::Int(value)) => value.as_str().parse().ok(),
            Self::Json(Json::Int(value)) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn as_bool(self) -> Option<bool> {
        match self {
            Self::Literal(Value::Boolean(value)) => Some(*value),
            Self::Json(Json::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// How many items a list has; a single value counts as a list of it alone.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Absent | Self::Null => 0,
            Self::Literal(Value::List(items)) => items.len(),
            Self::Json(Json::Array(array)) => array.length,
            Self::Literal(_) | Self::Json(_) => 1,
        }
    }

    /// The items of a list.
    pub(super) fn items(
        self,
        variables: &'a Variables<'a>,
    ) -> Box<dyn Iterator<Item = Given<'a>> + 'a> {
        match self {
            Self::Absent | Self::Null => Box::new(std::iter::empty()),
            Self::Literal(Value::List(items)) => {
                Box::new(items.iter().map(|item| Self::literal(item, variables)))
            }
            Self::Json(Json::Array(array)) => Box::new(array.items.iter().map(Self::json)),
            single => Box::new(std::iter::once(single)),
        }
    }

    /// The field of an input object.
    pub(super) fn field(self, name: &str, variables: &'a Variables<'a>) -> Self {
        match self {
            Self::Literal(Value::Object(fields)) => {
                let field = fields.iter().find(|(own, _)| own == name);
                field.map_or(Self::Absent, |(_, value)| Self::literal(value, variables))
            }
            Self::Json(Json::Object(fields)) => {
                json::field(fields, name).map_or(Self::Absent, Self::json)
            }
            _ => Self::Absent,
        }
    }
}
