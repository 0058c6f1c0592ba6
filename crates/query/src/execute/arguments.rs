//! Arguments of a field, from the document and the variables, read into the types below by serde. Types were checked
//! before: literals by the validation, variables when they were read. Only a null for a non-null argument is found at
//! run time, because a variable with a default may be null (GraphQL, "All Variable Usages Are Allowed").

use std::borrow::Cow;

use apollo_compiler::ast;
use apollo_compiler::executable::Field;
use serde::Deserialize;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use store::{Flag, Order};

use super::variables::{Value, Variables, is_absent};

/// A package version: its name and version.
#[derive(Debug, Deserialize)]
pub(super) struct PackageRef<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
}

#[derive(Debug, Deserialize)]
pub(super) struct Packages<'a> {
    #[serde(borrow)]
    pub(super) refs: Vec<PackageRef<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PackagesByPurl<'a> {
    #[serde(borrow)]
    pub(super) purls: Vec<&'a str>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Search<'a> {
    pub(super) prefix: &'a str,
    pub(super) first: i32,
    pub(super) after: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NodeById<'a> {
    pub(super) id: &'a str,
}

#[derive(Debug, Deserialize)]
pub(super) struct Publications<'a> {
    pub(super) first: i32,
    pub(super) after: Option<&'a str>,
    #[serde(borrow, default)]
    pub(super) filter: Option<PublicationFilter<'a>>,
    #[serde(default)]
    pub(super) order: Order,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PublicationFilter<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) username: Option<&'a str>,
    pub(super) tor: Option<Flag>,
    pub(super) tfa: Option<Flag>,
    pub(super) disputed: Option<bool>,
    pub(super) created_after: Option<&'a str>,
    pub(super) created_before: Option<&'a str>,
}

/// The arguments of a field, without absent variables.
pub(super) struct Arguments<'v>(Vec<(&'v str, Cow<'v, Value<'v>>)>);

impl<'v> Arguments<'v> {
    pub(super) fn of(field: &'v Field, variables: &'v Variables<'_>) -> Self {
        let given = field.arguments.iter().filter(|own| !is_absent(&own.value, variables));
        let read = given.filter_map(|argument| {
            let value = match &*argument.value {
                ast::Value::Variable(name) => Cow::Borrowed(variables.get(name)?),
                literal => {
                    let definition = field.definition.argument_by_name(&argument.name)?;
                    Cow::Owned(Value::literal(&definition.ty, literal, Some(variables)))
                }
            };
            Some((argument.name.as_str(), value))
        });
        Self(read.collect())
    }

    /// The length of a list, without reading its items.
    pub(super) fn length(&self, name: &str) -> u64 {
        match self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| &**value) {
            Some(Value::List(items)) => items.len() as u64,
            _ => 0,
        }
    }

    /// Reads the arguments into a type of this module. The error names the argument that must not be null.
    pub(super) fn read<'de, T: Deserialize<'de>>(&'de self) -> Result<T, String> {
        let source = MapDeserializer::new(self.0.iter().map(|(name, value)| (*name, &**value)));
        serde_path_to_error::deserialize(source)
            .map_err(|error| format!("argument `{}` must not be null", error.path()))
    }
}

impl<'de> IntoDeserializer<'de, Error> for &'de Value<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for &'de Value<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i32(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter())),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| (*name, value));
                visitor.visit_map(MapDeserializer::new(fields))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if *self == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Value::Text(word) => IntoDeserializer::<Error>::into_deserializer(&**word)
                .deserialize_enum(name, variants, visitor),
            other => other.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
