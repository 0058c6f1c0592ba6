//! Reading known fields out of JSON in one pass, without failing at the first that is wrong.
//!
//! The contract orders the rejections: an attribute that is missing outranks a field of the wrong type, wherever the two
//! stand in the text. So a field is read as missing, wrong or there, and judged afterwards. Of repeated keys the last
//! counts. Strings are borrowed from the record unless they hold escapes.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::reject::{Code, Rejection};

/// A known field of the event.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// Not there, or null, which is the same.
    #[default]
    Missing,
    /// Of another JSON type.
    Wrong,
    /// There.
    There(T),
}

impl<T> Field<T> {
    /// The value where it is there, taken out.
    ///
    /// # Errors
    /// `bad_field` when it is of another JSON type; `path` is for the message.
    pub(super) fn take(&mut self, path: &'static str) -> Result<Option<T>, Rejection> {
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
    pub(super) fn object(&mut self, path: &'static str) -> Result<&mut T, Rejection> {
        if matches!(self, Self::Missing) {
            *self = Self::There(T::default());
        }
        match self {
            Self::There(value) => Ok(value),
            Self::Missing | Self::Wrong => Err(wrong(path)),
        }
    }
}

fn wrong(path: &'static str) -> Rejection {
    Rejection::new(Code::BadField, format!("{path} has the wrong JSON type"))
}

/// What can be read from one JSON type; the others come out as [`Field::Wrong`]. Everything is read into its place:
/// an event is a kilobyte of fields, and handing it up level by level took as long as reading it.
pub(super) trait Leaf<'de>: Sized {
    fn boolean(_: bool) -> Option<Self> {
        None
    }
    fn integer(_: u64) -> Option<Self> {
        None
    }
    fn text(_: Cow<'de, str>) -> Option<Self> {
        None
    }
    fn array<A: SeqAccess<'de>>(_: &mut Field<Self>, mut array: A) -> Result<(), A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn object<A: MapAccess<'de>>(_: &mut Field<Self>, mut object: A) -> Result<(), A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

impl Leaf<'_> for bool {
    fn boolean(value: bool) -> Option<Self> {
        Some(value)
    }
}

/// An integer that is not negative; others, and fractions, are of the wrong type or range alike.
impl Leaf<'_> for u64 {
    fn integer(value: u64) -> Option<Self> {
        Some(value)
    }
}

impl<'de> Leaf<'de> for Cow<'de, str> {
    fn text(value: Cow<'de, str>) -> Option<Self> {
        Some(value)
    }
}

/// An array of strings and nothing else.
impl<'de> Leaf<'de> for Vec<Cow<'de, str>> {
    fn array<A: SeqAccess<'de>>(place: &mut Field<Self>, mut array: A) -> Result<(), A::Error> {
        let mut all = Some(Vec::new());
        loop {
            let mut element = Field::Missing;
            if array.next_element_seed(Place(&mut element))?.is_none() {
                break;
            }
            match (element, &mut all) {
                (Field::There(text), Some(all)) => all.push(text),
                _ => all = None,
            }
        }
        *place = all.into();
        Ok(())
    }
}

/// For what is seldom there: it takes the room of a pointer.
impl<'de, T: Leaf<'de> + Default> Leaf<'de> for Box<T> {
    fn object<A: MapAccess<'de>>(place: &mut Field<Self>, object: A) -> Result<(), A::Error> {
        let mut field = Field::Missing;
        T::object(&mut field, object)?;
        if let Field::There(value) = field {
            *place = Field::There(Box::new(value));
        }
        Ok(())
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Wrong, Self::There)
    }
}

/// Where a field is read into.
pub(super) struct Place<'f, T>(pub(super) &'f mut Field<T>);

impl<'de, T: Leaf<'de>> DeserializeSeed<'de> for Place<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Also where the value is an array or an object and none is wanted; of repeated keys the last counts.
        *self.0 = Field::Wrong;
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Leaf<'de>> Visitor<'de> for Place<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        *self.0 = Field::Missing;
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        *self.0 = T::boolean(value).into();
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        *self.0 = T::integer(value).into();
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<(), E> {
        *self.0 = T::text(Cow::Borrowed(value)).into();
        Ok(())
    }
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        *self.0 = T::text(Cow::Owned(value.to_owned())).into();
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        T::array(self.0, array)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        T::object(self.0, object)
    }
}

/// Reads a whole JSON text into `place`.
///
/// # Errors
/// When it is no JSON, or holds in a known field what cannot be held.
pub(super) fn read<'de, T: Leaf<'de>>(
    text: &'de str,
    place: &mut Field<T>,
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Place(place).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// An object's key, borrowed unless it holds escapes. In bytes: a key may hold half a surrogate pair, which JSON's grammar
/// allows and no string can hold, and such a key is one that is ignored.
pub(super) struct Key<'de>(pub(super) Cow<'de, [u8]>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_bytes<E>(self, key: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_bytes(KeyVisitor)
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
            fn object<A: serde::de::MapAccess<'de>>(
                place: &mut $crate::decode::json::Field<Self>,
                mut object: A,
            ) -> Result<(), A::Error> {
                *place = $crate::decode::json::Field::There(Self::default());
                let $crate::decode::json::Field::There(fields) = place else { return Ok(()) };
                while let Some($crate::decode::json::Key(key)) = object.next_key()? {
                    match &*key {
                        $($key => object.next_value_seed($crate::decode::json::Place(&mut fields.$field))?,)*
                        _ => { object.next_value::<serde::de::IgnoredAny>()?; }
                    }
                }
                Ok(())
            }
        }
    };
}
pub(super) use object;
