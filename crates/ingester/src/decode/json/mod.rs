//! Reads known fields of JSON (RFC 8259) in one pass, without stopping at the first wrong field.
//!
//! The rejections have an order (crates/model/README.md, Rejections): a missing attribute precedes a field of the wrong
//! type, wherever the two are in the text. So a field is read as missing, wrong or there, and evaluated afterwards. The
//! last of repeated keys counts. Strings are borrowed from the record unless they have escapes.

mod reader;

use std::borrow::Cow;

use crate::decode::rejection::{Code, Path, Rejection};
pub(super) use reader::{NotJson, Reader};

/// A known field of the event.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// The field is missing, or null, which means the same.
    #[default]
    Missing,
    /// Another JSON type, or a value that cannot be represented: half a surrogate pair, a number out of range.
    Wrong,
    /// The field has a value.
    There(T),
}

impl<T> Field<T> {
    /// Takes the value out; `None` if it is missing.
    ///
    /// # Errors
    /// `bad_field` if the field is wrong; `path` is for the message.
    pub(super) fn take(&mut self, path: impl Into<Path>) -> Result<Option<T>, Rejection> {
        match std::mem::take(self) {
            Self::Missing => Ok(None),
            Self::Wrong => Err(wrong(path)),
            Self::There(value) => Ok(Some(value)),
        }
    }
}

impl<T: Default> Field<T> {
    /// The object in place, or an empty one if it is missing.
    ///
    /// # Errors
    /// `bad_field` if it is of another JSON type; `path` is for the message.
    pub(super) fn object(&mut self, path: impl Into<Path>) -> Result<&mut T, Rejection> {
        if matches!(self, Self::Missing) {
            *self = Self::There(T::default());
        }
        match self {
            Self::There(value) => Ok(value),
            Self::Missing | Self::Wrong => Err(wrong(path)),
        }
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Wrong, Self::There)
    }
}

fn wrong(path: impl Into<Path>) -> Rejection {
    Rejection::of_field(Code::BadField, path, "has the wrong JSON type or cannot be held")
}

/// Parses a whole JSON text into `place`.
///
/// # Errors
/// If the text is not JSON, even if only ignored parts break the grammar.
pub(super) fn read<'de, T: Leaf<'de>>(text: &'de str, place: &mut Field<T>) -> Result<(), NotJson> {
    let mut reader = Reader::new(text);
    field(&mut reader, place)?;
    reader.end()
}

/// Checks a whole JSON text.
///
/// # Errors
/// If the text is not JSON.
pub(super) fn check(text: &str) -> Result<(), NotJson> {
    let mut reader = Reader::new(text);
    reader.skip()?;
    reader.end()
}

/// Parses the next value into `place`. Every value is parsed in place, because an event is a kilobyte of fields, and
/// returning it by value through each level took as long as parsing it.
///
/// # Errors
/// If the text is not JSON.
pub(super) fn field<'de, T: Leaf<'de>>(
    reader: &mut Reader<'de>,
    place: &mut Field<T>,
) -> Result<(), NotJson> {
    match reader.peek() {
        Some(first) if T::begins_with(first) => T::read(reader, place),
        Some(b'n') => {
            *place = Field::Missing;
            reader.word("null")
        }
        _ => {
            *place = Field::Wrong;
            reader.skip()
        }
    }
}

/// A type that is parsed from one JSON type; values of other JSON types become [`Field::Wrong`].
pub(super) trait Leaf<'de>: Sized {
    /// Whether a value that begins with this byte is of the JSON type.
    fn begins_with(first: u8) -> bool;

    /// Parses a value, whose first byte has been checked.
    ///
    /// # Errors
    /// If the text is not JSON.
    fn read(reader: &mut Reader<'de>, place: &mut Field<Self>) -> Result<(), NotJson>;
}

impl Leaf<'_> for bool {
    fn begins_with(first: u8) -> bool {
        matches!(first, b't' | b'f')
    }
    fn read(reader: &mut Reader<'_>, place: &mut Field<Self>) -> Result<(), NotJson> {
        let value = reader.peek() == Some(b't');
        *place = Field::There(value);
        reader.word(if value { "true" } else { "false" })
    }
}

/// A number as its nearest binary64 (RFC 8259, section 6); a number out of range is infinite.
impl Leaf<'_> for f64 {
    fn begins_with(first: u8) -> bool {
        first == b'-' || first.is_ascii_digit()
    }
    fn read(reader: &mut Reader<'_>, place: &mut Field<Self>) -> Result<(), NotJson> {
        *place = reader.number()?.parse().ok().into();
        Ok(())
    }
}

impl<'de> Leaf<'de> for Cow<'de, str> {
    fn begins_with(first: u8) -> bool {
        first == b'"'
    }
    fn read(reader: &mut Reader<'de>, place: &mut Field<Self>) -> Result<(), NotJson> {
        *place = reader.string()?.into();
        Ok(())
    }
}

/// An array with only strings.
impl<'de> Leaf<'de> for Vec<Cow<'de, str>> {
    fn begins_with(first: u8) -> bool {
        first == b'['
    }
    fn read(reader: &mut Reader<'de>, place: &mut Field<Self>) -> Result<(), NotJson> {
        let mut all = Some(Vec::new());
        let mut more = reader.enter(b']')?;
        while more {
            let mut element = Field::Missing;
            field(reader, &mut element)?;
            match (element, &mut all) {
                (Field::There(text), Some(all)) => all.push(text),
                _ => all = None,
            }
            more = reader.another(b']')?;
        }
        *place = all.into();
        Ok(())
    }
}

/// For a field that is rare: a box takes the space of a pointer.
impl<'de, T: Leaf<'de>> Leaf<'de> for Box<T> {
    fn begins_with(first: u8) -> bool {
        T::begins_with(first)
    }
    fn read(reader: &mut Reader<'de>, place: &mut Field<Self>) -> Result<(), NotJson> {
        let mut field = Field::Missing;
        T::read(reader, &mut field)?;
        *place = match field {
            Field::Missing => Field::Missing,
            Field::Wrong => Field::Wrong,
            Field::There(value) => Field::There(Box::new(value)),
        };
        Ok(())
    }
}

/// Declares a struct of [`Field`]s with the given keys; unknown keys are ignored.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($key:literal => $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'de> {
            $(pub(super) $field: $crate::decode::json::Field<$type>,)*
            pub(super) _borrows: std::marker::PhantomData<&'de ()>,
        }

        impl<'de> $crate::decode::json::Leaf<'de> for $name<'de> {
            fn begins_with(first: u8) -> bool {
                first == b'{'
            }
            fn read(
                reader: &mut $crate::decode::json::Reader<'de>,
                place: &mut $crate::decode::json::Field<Self>,
            ) -> Result<(), $crate::decode::json::NotJson> {
                *place = $crate::decode::json::Field::There(Self::default());
                let $crate::decode::json::Field::There(fields) = place else { return Ok(()) };
                let mut more = reader.enter(b'}')?;
                // Most producers write the fields in this order, for which no key has to be searched.
                $(if more && reader.step_over_key(concat!("\"", $key, "\":")) {
                    $crate::decode::json::field(reader, &mut fields.$field)?;
                    more = reader.another(b'}')?;
                })*
                while more {
                    match reader.key()?.as_deref() {
                        $(Some($key) => $crate::decode::json::field(reader, &mut fields.$field)?,)*
                        _ => reader.skip()?,
                    }
                    more = reader.another(b'}')?;
                }
                Ok(())
            }
        }
    };
}
pub(super) use object;

#[cfg(test)]
mod tests;
