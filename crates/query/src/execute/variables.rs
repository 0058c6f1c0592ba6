//! Variables: what the request gave, coerced to the types that the operation declares (GraphQL, "Coercing Variable
//! Values"). Values are taken over, not copied, and messages never quote them.

use std::borrow::Cow;
use std::collections::HashMap;

use apollo_compiler::Schema;
use apollo_compiler::ast::{Type, Value};
use apollo_compiler::executable::Operation;
use apollo_compiler::response::{JsonMap, JsonValue};
use apollo_compiler::schema::{ExtendedType, InputObjectType};
use apollo_compiler::validation::Valid;

use crate::error::{Code, QueryError};
use crate::json::{Array, Json};

/// The `variables` of a request.
pub(crate) type Given<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

/// Coerced values by variable name. A variable that was not given and has no default is not there.
#[derive(Debug, Default)]
pub(crate) struct Variables<'a>(HashMap<&'a str, Json<'a>>);

/// What does not fit, and where; the path is built from its end, and only when something is wrong.
struct Misfit {
    path: Vec<Segment>,
    expected: String,
}

enum Segment {
    Field(String),
    Index(usize),
}

type Coerced<'a> = Result<Json<'a>, Misfit>;

impl<'a> Variables<'a> {
    /// Coerces what was given to what `operation` declares; what it does not declare is ignored.
    pub(crate) fn coerce(
        schema: &Schema,
        operation: &'a Operation,
        given: Given<'a>,
    ) -> Result<Self, QueryError> {
        let mut given: HashMap<Cow<'a, str>, Json<'a>> = given.into_iter().collect();
        let mut coerced = HashMap::with_capacity(operation.variables.len());
        for definition in &operation.variables {
            let name = definition.name.as_str();
            let value = match (given.remove(name), &definition.default_value) {
                (Some(value), _) => coerce(schema, &definition.ty, value)
                    .map_err(|misfit| misfit.into_error(name))?,
                (None, Some(default)) => constant(&definition.ty, default),
                (None, None) if definition.ty.is_non_null() => {
                    let message =
                        format!("variable ${name} of type {} has no value", definition.ty);
                    return Err(QueryError::new(Code::BadUserInput, message));
                }
                (None, None) => continue,
            };
            coerced.insert(name, value);
        }
        Ok(Self(coerced))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.0.get(name)
    }

    /// The same as apollo-compiler's introspection wants them.
    pub(crate) fn to_apollo(&self) -> Valid<JsonMap> {
        let mut map = JsonMap::new();
        for (&name, value) in &self.0 {
            // The introspection takes booleans and one name; lists and objects are none of its business.
            let value = match value {
                Json::Null => JsonValue::Null,
                Json::Bool(value) => (*value).into(),
                Json::String(text) => text.as_ref().into(),
                _ => continue,
            };
            map.insert(name, value);
        }
        Valid::assume_valid(map)
    }
}

fn coerce<'a>(schema: &Schema, ty: &Type, value: Json<'a>) -> Coerced<'a> {
    if value == Json::Null {
        return if ty.is_non_null() { Err(Misfit::new(ty, &value)) } else { Ok(value) };
    }
    let name = match ty {
        Type::List(item) | Type::NonNullList(item) => return list(schema, item, value),
        Type::Named(name) | Type::NonNullNamed(name) => name,
    };
    match (schema.types.get(name), value) {
        (Some(ExtendedType::InputObject(definition)), Json::Object(fields)) => {
            object(schema, definition, fields)
        }
        (Some(ExtendedType::Scalar(_)), value) => {
            scalar(name, value).map_err(|value| Misfit::new(ty, &value))
        }
        (Some(ExtendedType::Enum(definition)), Json::String(word))
            if definition.values.contains_key(word.as_ref()) =>
        {
            Ok(Json::String(word))
        }
        (_, value) => Err(Misfit::new(ty, &value)),
    }
}

/// A value that is no list counts as a list of it alone.
fn list<'a>(schema: &Schema, item: &Type, value: Json<'a>) -> Coerced<'a> {
    let Json::Array(mut array) = value else {
        let items = vec![coerce(schema, item, value)?];
        return Ok(Json::Array(Array { items, length: 1 }));
    };
    for (index, slot) in array.items.iter_mut().enumerate() {
        let value = std::mem::replace(slot, Json::Null);
        *slot =
            coerce(schema, item, value).map_err(|misfit| misfit.within(Segment::Index(index)))?;
    }
    Ok(Json::Array(array))
}

fn object<'a>(schema: &Schema, definition: &InputObjectType, mut fields: Given<'a>) -> Coerced<'a> {
    for (name, slot) in &mut fields {
        let Some(field) = definition.fields.get(name.as_ref()) else {
            let expected = format!("a field of {}", definition.name);
            return Err(Misfit { path: vec![Segment::Field(name.to_string())], expected });
        };
        let value = std::mem::replace(slot, Json::Null);
        *slot = coerce(schema, &field.ty, value)
            .map_err(|misfit| misfit.within(Segment::Field(field.name.to_string())))?;
    }
    for field in definition.fields.values() {
        if fields.iter().any(|(name, _)| field.name == name.as_ref()) {
            continue;
        }
        if let Some(default) = &field.default_value {
            let default = owned(constant(&field.ty, default));
            fields.push((Cow::Owned(field.name.to_string()), default));
        } else if field.ty.is_non_null() {
            let expected = format!("{}, and it is missing", field.ty);
            return Err(Misfit { path: vec![Segment::Field(field.name.to_string())], expected });
        }
    }
    Ok(Json::Object(fields))
}

fn scalar<'a>(name: &str, value: Json<'a>) -> Result<Json<'a>, Json<'a>> {
    match (name, value) {
        ("String" | "ID", value @ Json::String(_))
        | ("Boolean", value @ Json::Bool(_))
        | ("Float", value @ Json::Float(_)) => Ok(value),
        ("Int", value) => int(&value).map(Json::Int).ok_or(value),
        ("Float", Json::Int(value)) => Ok(Json::Float(value as f64)),
        ("ID", Json::Int(value)) => Ok(Json::String(value.to_string().into())),
        (_, value) => Err(value),
    }
}

/// A 32-bit integer, also where JSON wrote it with a fraction of zero.
fn int(value: &Json<'_>) -> Option<i64> {
    let value = match value {
        Json::Int(value) => *value,
        #[expect(clippy::cast_possible_truncation, reason = "checked to be integral and small")]
        Json::Float(value) if value.fract() == 0.0 && value.abs() < 1e10 => *value as i64,
        _ => return None,
    };
    i32::try_from(value).ok().map(i64::from)
}

/// A default value of the document, which the validation has found to fit its type.
fn constant<'a>(ty: &Type, value: &'a Value) -> Json<'a> {
    let item = match ty {
        Type::List(item) | Type::NonNullList(item) => Some(item),
        _ => None,
    };
    match (item, value) {
        (_, Value::Null | Value::Variable(_)) => Json::Null,
        (item, Value::List(values)) => {
            let items: Vec<_> =
                values.iter().map(|value| constant(item.map_or(ty, |item| item), value)).collect();
            Json::Array(Array { length: items.len(), items })
        }
        (Some(item), value) => Json::Array(Array { items: vec![constant(item, value)], length: 1 }),
        (None, Value::Boolean(value)) => Json::Bool(*value),
        (None, Value::Int(value)) => value.as_str().parse().map_or(Json::Null, Json::Int),
        (None, Value::Float(value)) => value.as_str().parse().map_or(Json::Null, Json::Float),
        (None, Value::String(text)) => Json::String(Cow::Borrowed(text)),
        (None, Value::Enum(word)) => Json::String(Cow::Borrowed(word.as_str())),
        // The fields of the schema's input objects are no lists, so that their types are not needed.
        (None, Value::Object(fields)) => Json::Object(
            fields
                .iter()
                .map(|(name, value)| (name.as_str().into(), constant(ty, value)))
                .collect(),
        ),
    }
}

fn owned<'b>(value: Json<'_>) -> Json<'b> {
    match value {
        Json::Bool(value) => Json::Bool(value),
        Json::Int(value) => Json::Int(value),
        Json::Float(value) => Json::Float(value),
        Json::String(text) => Json::String(Cow::Owned(text.into_owned())),
        // No input field of the schema has a default that is a list or an object.
        Json::Null | Json::Array(_) | Json::Object(_) => Json::Null,
    }
}

impl Misfit {
    fn new(ty: &Type, value: &Json<'_>) -> Self {
        Self { path: Vec::new(), expected: format!("{ty}, and it is {}", value.kind()) }
    }

    fn within(mut self, segment: Segment) -> Self {
        self.path.push(segment);
        self
    }

    fn into_error(self, variable: &str) -> QueryError {
        let mut message = format!("variable ${variable}");
        for segment in self.path.iter().rev() {
            match segment {
                Segment::Field(name) => message.push_str(&format!(".{name}")),
                Segment::Index(index) => message.push_str(&format!("[{index}]")),
            }
        }
        message.push_str(&format!(" must be {}", self.expected));
        QueryError::new(Code::BadUserInput, message)
    }
}
