//! Variables, read by the types that the operation declares (GraphQL, "Coercing Variable Values"). They are parsed
//! without a JSON tree, and undeclared variables are not kept. Error messages quote no values, except the words of an
//! enumeration.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;

use apollo_compiler::Schema;
use apollo_compiler::ast::{self, Type};
use apollo_compiler::executable::Operation;
use apollo_compiler::response::{JsonMap, JsonValue};
use apollo_compiler::schema::{EnumType, ExtendedType, InputObjectType};
use apollo_compiler::validation::Valid;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::Limits;
use crate::error::{Code, QueryError};

/// An input value of the declared type. Strings without escapes borrow from the request or the document.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i32),
    /// A string, an id, or a value of an enumeration.
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    /// Fields by name. Fields that were not given are absent.
    Object(Vec<(&'a str, Value<'a>)>),
}

/// Values by variable name. A variable without a value and without a default is absent.
#[derive(Debug, Default)]
pub(super) struct Variables<'a>(HashMap<&'a str, Value<'a>>);

impl<'a> Variables<'a> {
    /// Reads the variables that `operation` declares and ignores others.
    pub(super) fn read(
        schema: &'a Schema,
        operation: &'a Operation,
        limits: &Limits,
        given: Option<&'a RawValue>,
    ) -> Result<Self, QueryError> {
        let wrong = RefCell::new(Wrong::default());
        let items = Cell::new(0);
        let reader = Reader { schema, items: &items, max_items: limits.max_refs, wrong: &wrong };
        let text = given.map_or("{}", RawValue::get);
        let mut values = serde_json::Deserializer::from_str(text)
            .deserialize_map(All { reader, operation })
            .map_err(|_| wrong.take().into_error(limits))?;
        for definition in &operation.variables {
            let name = definition.name.as_str();
            if values.contains_key(name) {
                continue;
            }
            if let Some(default) = &definition.default_value {
                values.insert(name, Value::literal(&definition.ty, default, None));
            } else if definition.ty.is_non_null() {
                let message = format!("variable ${name} of type {} has no value", definition.ty);
                return Err(
                    QueryError::new(Code::BadUserInput, message).cut(limits.max_error_length)
                );
            }
        }
        Ok(Self(values))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.get(name)
    }

    /// The variables for apollo-compiler's introspection, which needs booleans and one name. The plan keeps them, so texts are cut:
    /// no type has a longer name.
    pub(super) fn to_apollo(&self) -> Valid<JsonMap> {
        let plain = self.0.iter().filter_map(|(&name, value)| {
            let value = match value {
                Value::Null => JsonValue::Null,
                Value::Bool(value) => (*value).into(),
                Value::Text(text) => beginning(text).into(),
                Value::Int(_) | Value::List(_) | Value::Object(_) => return None,
            };
            Some((name, value))
        });
        Valid::assume_valid(plain.map(|(name, value)| (name.into(), value)).collect())
    }
}

/// The most bytes of a text that the plan keeps: more than any name has, so that the rest changes no comparison with one.
const LONGEST_KEPT: usize = 1_024;

/// The beginning of a text, of at most [`LONGEST_KEPT`] bytes.
pub(super) fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_KEPT)]
}

impl<'a> Value<'a> {
    /// The value of a literal in the document. The validation has checked its type. An absent variable counts as null. Texts
    /// of variables are borrowed: a document can name one of two megabytes a thousand times.
    pub(super) fn literal(
        ty: &Type,
        value: &'a ast::Value,
        variables: Option<&'a Variables<'_>>,
    ) -> Self {
        let item = match ty {
            Type::List(item) | Type::NonNullList(item) => Some(&**item),
            Type::Named(_) | Type::NonNullNamed(_) => None,
        };
        match (item, value) {
            (_, ast::Value::Null) => Self::Null,
            (_, ast::Value::Variable(name)) => variables
                .and_then(|variables| variables.get(name))
                .map_or(Self::Null, Value::borrowed),
            (Some(item), ast::Value::List(values)) => {
                Self::List(values.iter().map(|own| Self::literal(item, own, variables)).collect())
            }
            (Some(item), single) => Self::List(vec![Self::literal(item, single, variables)]),
            (None, ast::Value::Boolean(value)) => Self::Bool(*value),
            (None, ast::Value::Int(value)) if ty.inner_named_type() == "ID" => {
                Self::Text(value.as_str().into())
            }
            (None, ast::Value::Int(value)) => value.try_to_i32().map_or(Self::Null, Self::Int),
            (None, ast::Value::String(text)) => Self::Text(text.as_str().into()),
            (None, ast::Value::Enum(word)) => Self::Text(word.as_str().into()),
            (None, ast::Value::Object(fields)) => {
                let given = fields
                    .iter()
                    .filter(|(_, value)| !variables.is_some_and(|own| is_absent(value, own)));
                // No field of the schema's input objects is a list, so their types are not needed.
                let fields =
                    given.map(|(name, value)| (name.as_str(), Self::literal(ty, value, variables)));
                Self::Object(fields.collect())
            }
            // No type of the schema has other values.
            (None, ast::Value::Float(_) | ast::Value::List(_)) => Self::Null,
        }
    }

    fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::List(items) => Value::List(items.iter().map(Self::borrowed).collect()),
            Self::Object(fields) => Value::Object(
                fields.iter().map(|(name, value)| (*name, value.borrowed())).collect(),
            ),
        }
    }
}

/// Whether the value is a variable that was not given.
pub(super) fn is_absent(value: &ast::Value, variables: &Variables<'_>) -> bool {
    matches!(value, ast::Value::Variable(name) if variables.get(name).is_none())
}

/// The first error, and its path.
#[derive(Debug, Default)]
struct Wrong {
    path: String,
    message: String,
    /// The number of items, if the lists have more than any operation may ask for.
    too_many: Option<u64>,
}

impl Wrong {
    fn into_error(self, limits: &Limits) -> QueryError {
        let Self { path, message, too_many } = self;
        if let Some(actual) = too_many {
            let maximum = u64::from(limits.max_refs);
            let message = format!(
                "the variables up to ${path} have {actual} items, at most {maximum} publications are answered in one operation (limits.max_refs)"
            );
            let error = QueryError::limit("limits.max_refs", maximum, too_many, message);
            return error.cut(limits.max_error_length);
        }
        if path.is_empty() {
            return QueryError::new(Code::BadRequest, "parameter `variables` is not a JSON object");
        }
        let message = if message.is_empty() {
            // JSON by its grammar alone.
            format!("variable ${path} has a number out of range, or a text that is not Unicode")
        } else {
            format!("variable ${path} must be {message}")
        };
        QueryError::new(Code::BadUserInput, message).cut(limits.max_error_length)
    }
}

#[derive(Debug, Clone, Copy)]
struct Reader<'s, 'w> {
    schema: &'s Schema,
    /// Number of items of all lists so far. A request can have hundreds of lists, and was admitted for one.
    items: &'w Cell<u32>,
    max_items: u32,
    wrong: &'w RefCell<Wrong>,
}

impl<'s> Reader<'s, '_> {
    /// Reads a value with `segment` added to the path.
    fn within<T, E>(
        self,
        segment: impl fmt::Display,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        use fmt::Write;
        let length = self.wrong.borrow().path.len();
        // Writing to a string cannot fail.
        let _ = write!(self.wrong.borrow_mut().path, "{segment}");
        let value = read()?;
        self.wrong.borrow_mut().path.truncate(length);
        Ok(value)
    }

    fn refuse<T, E: Error>(self, message: String) -> Result<T, E> {
        self.wrong.borrow_mut().message = message;
        Err(E::custom("refused"))
    }
}

/// Reads the whole object `variables`.
struct All<'s, 'w> {
    reader: Reader<'s, 'w>,
    operation: &'s Operation,
}

impl<'de: 's, 's> Visitor<'de> for All<'s, '_> {
    type Value = HashMap<&'s str, Value<'s>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = HashMap::with_capacity(self.operation.variables.len());
        while let Some(Key(name)) = map.next_key()? {
            let mut declared = self.operation.variables.iter();
            let Some(definition) = declared.find(|definition| definition.name == *name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let name = definition.name.as_str();
            let typed = Typed { reader: self.reader, ty: &definition.ty };
            values.insert(name, self.reader.within(name, || map.next_value_seed(typed))?);
        }
        Ok(values)
    }
}

/// An object key. Without escapes it borrows from the request.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a value of one type.
#[derive(Clone, Copy)]
struct Typed<'s, 'w> {
    reader: Reader<'s, 'w>,
    ty: &'s Type,
}

impl<'s, 'w> Typed<'s, 'w> {
    fn item(self) -> Option<Self> {
        match self.ty {
            Type::List(item) | Type::NonNullList(item) => Some(Self { ty: item, ..self }),
            Type::Named(_) | Type::NonNullNamed(_) => None,
        }
    }

    /// A value that is not a list is coerced to a list of one item.
    fn single<E>(self, read: impl FnOnce(Self) -> Result<Value<'s>, E>) -> Result<Value<'s>, E> {
        match self.item() {
            Some(item) => Ok(Value::List(vec![item.single(read)?])),
            None => read(self),
        }
    }

    fn misfit<E: Error>(self, kind: &str) -> Result<Value<'s>, E> {
        self.reader.refuse(format!("{}, and it is {kind}", self.ty))
    }

    fn name(self) -> &'s str {
        self.ty.inner_named_type()
    }

    fn text<E: Error>(self, text: Cow<'s, str>) -> Result<Value<'s>, E> {
        self.single(|own| match own.reader.schema.types.get(own.name()) {
            Some(ExtendedType::Enum(definition)) => own.word(definition, text),
            Some(ExtendedType::Scalar(_)) if matches!(own.name(), "String" | "ID") => {
                Ok(Value::Text(text))
            }
            _ => own.misfit("a string"),
        })
    }

    fn word<E: Error>(self, definition: &EnumType, word: Cow<'s, str>) -> Result<Value<'s>, E> {
        if definition.values.contains_key(word.as_ref()) {
            return Ok(Value::Text(word));
        }
        let allowed: Vec<&str> = definition.values.keys().map(|name| name.as_str()).collect();
        let message = format!("one of {}, and it is \"{word}\"", allowed.join(", "));
        self.reader.refuse(message)
    }

    fn int<E: Error>(self, value: Option<i32>, kind: &str) -> Result<Value<'s>, E> {
        self.single(|own| match (own.name(), value) {
            ("Int", Some(value)) => Ok(Value::Int(value)),
            _ => own.misfit(kind),
        })
    }

    fn object<'de: 's, A: MapAccess<'de>>(
        self,
        definition: &'s InputObjectType,
        mut map: A,
    ) -> Result<Value<'s>, A::Error> {
        let mut fields: Vec<(&'s str, Value<'s>)> = Vec::with_capacity(definition.fields.len());
        while let Some(Key(name)) = map.next_key()? {
            let Some(field) = definition.fields.get(&*name) else {
                let unknown = || self.reader.refuse(format!("a field of {}", definition.name));
                return self.reader.within(format_args!(".{name}"), unknown);
            };
            let (name, typed) = (field.name.as_str(), Self { ty: &field.ty, ..self });
            let value =
                self.reader.within(format_args!(".{name}"), || map.next_value_seed(typed))?;
            // Of repeated keys the last one counts, as in JSON parsers.
            fields.retain(|(other, _)| *other != name);
            fields.push((name, value));
        }
        for field in definition.fields.values() {
            let name = field.name.as_str();
            if field.is_required() && !fields.iter().any(|(own, _)| *own == name) {
                let missing = || self.reader.refuse(format!("{}, and it is missing", field.ty));
                return self.reader.within(format_args!(".{name}"), missing);
            }
        }
        Ok(Value::Object(fields))
    }
}

impl<'de: 's, 's> DeserializeSeed<'de> for Typed<'s, '_> {
    type Value = Value<'s>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value<'s>, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de: 's, 's> Visitor<'de> for Typed<'s, '_> {
    type Value = Value<'s>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ty)
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'s>, E> {
        if self.ty.is_non_null() { self.misfit("null") } else { Ok(Value::Null) }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'s>, E> {
        self.single(|own| match own.name() {
            "Boolean" => Ok(Value::Bool(value)),
            _ => own.misfit("a boolean"),
        })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value<'s>, E> {
        self.visit_i128(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value<'s>, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value<'s>, E> {
        if self.name() == "ID" {
            return self.text(value.to_string().into());
        }
        let kind = if self.name() == "Int" { "out of its range, 32 bits" } else { "an integer" };
        self.int(i32::try_from(value).ok(), kind)
    }

    /// A float with fraction zero is accepted as an integer, as JavaScript does.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'s>, E> {
        #[expect(clippy::cast_possible_truncation, reason = "integral, and small by the condition")]
        let whole = (value.fract() == 0.0 && value.abs() < 1e10).then_some(value as i64);
        self.int(whole.and_then(|value| i32::try_from(value).ok()), "a number")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'s>, E> {
        self.text(text.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'s>, E> {
        self.text(text.to_owned().into())
    }

    /// Items beyond the limit of any operation are counted and not kept. The lists of all variables count together.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value<'s>, A::Error> {
        let Some(item) = self.item() else { return self.misfit("a list") };
        let mut items = Vec::with_capacity(list.size_hint().unwrap_or_default());
        while self.reader.items.get() < self.reader.max_items {
            let segment = format_args!("[{}]", items.len());
            match self.reader.within(segment, || list.next_element_seed(item))? {
                Some(value) => items.push(value),
                None => return Ok(Value::List(items)),
            }
            self.reader.items.update(|count| count + 1);
        }
        let mut count = u64::from(self.reader.max_items);
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        if count > u64::from(self.reader.max_items) {
            self.reader.wrong.borrow_mut().too_many = Some(count);
            return Err(A::Error::custom("too many"));
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value<'s>, A::Error> {
        self.single(|own| match own.reader.schema.types.get(own.name()) {
            Some(ExtendedType::InputObject(definition)) => own.object(definition, map),
            _ => own.misfit("an object"),
        })
    }
}
