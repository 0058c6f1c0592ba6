//! Reading known fields out of JSON (RFC 8259) in one pass, without failing at the first that is wrong.
//!
//! The contract orders the rejections: an attribute that is missing outranks a field of the wrong type, wherever the two
//! stand in the text. So a field is read as missing, wrong or there, and judged afterwards. Of repeated keys the last
//! counts. Strings are borrowed from the record unless they hold escapes.

mod reader;

use std::borrow::Cow;

use crate::decode::rejection::{Code, Path, Rejection};
pub(super) use reader::{NotJson, Reader};

/// A known field of the event.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// Not there, or null, which is the same.
    #[default]
    Missing,
    /// Of another JSON type, or what nothing can hold: half a surrogate pair, a number beyond the range.
    Wrong,
    /// There.
    There(T),
}

impl<T> Field<T> {
    /// The value where it is there, taken out.
    ///
    /// # Errors
    /// `bad_field` when it is wrong; `path` is for the message.
    pub(super) fn take(&mut self, path: impl Into<Path>) -> Result<Option<T>, Rejection> {
        match std::mem::take(self) {
            Self::Missing => Ok(None),
            Self::Wrong => Err(wrong(path)),
            Self::There(value) => Ok(Some(value)),
        }
    }
}

impl<T: Default> Field<T> {
    /// The object where it lies, an empty one where there is none.
    ///
    /// # Errors
    /// `bad_field` when it is of another JSON type; `path` is for the message.
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

/// Reads a whole JSON text into `place`.
///
/// # Errors
/// When it is no JSON text, also where only what is ignored breaks the grammar.
pub(super) fn read<'de, T: Leaf<'de>>(text: &'de str, place: &mut Field<T>) -> Result<(), NotJson> {
    let mut reader = Reader::new(text);
    field(&mut reader, place)?;
    reader.end()
}

/// Reads over a whole JSON text.
///
/// # Errors
/// When it is no JSON text.
pub(super) fn check(text: &str) -> Result<(), NotJson> {
    let mut reader = Reader::new(text);
    reader.skip()?;
    reader.end()
}

/// Reads the next value into its place. Everything is read into its place: an event is a kilobyte of fields, and handing
/// it up level by level took as long as reading it.
///
/// # Errors
/// When the text is no JSON.
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

/// What can be read from one JSON type; the others come out as [`Field::Wrong`].
pub(super) trait Leaf<'de>: Sized {
    /// Whether a value that begins with this byte is of its type.
    fn begins_with(first: u8) -> bool;

    /// Reads a value that begins so.
    ///
    /// # Errors
    /// When the text is no JSON.
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

/// A number, as its nearest binary64 (RFC 8259, section 6); one beyond the range is infinite.
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

/// An array of strings and nothing else.
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

/// For what is seldom there: it takes the room of a pointer.
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

/// A struct of [`Field`]s read from the keys given; unknown keys are ignored.
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
                // Most producers write the fields in this order, in which no key has to be looked up.
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
