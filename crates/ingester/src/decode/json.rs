//! Reading known fields out of JSON in one pass, without failing at the first that is wrong.
//!
//! The contract orders the rejections: an attribute that is missing outranks a field of the wrong type, wherever the two
//! stand in the text. So a field is read as missing, wrong or there, and judged afterwards. Of repeated keys the last
//! counts. Strings are borrowed from the record unless they hold escapes.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
    /// The value where it is there.
    ///
    /// # Errors
    /// `bad_field` when it is of another JSON type; `path` is for the message.
    pub(super) fn get(self, path: &'static str) -> Result<Option<T>, Rejection> {
        match self {
            Self::Missing => Ok(None),
            Self::Wrong => {
                Err(Rejection::new(Code::BadField, format!("{path} has the wrong JSON type")))
            }
            Self::There(value) => Ok(Some(value)),
        }
    }
}

/// What can be read from one JSON type; the others come out as `None`.
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
    fn array<A: SeqAccess<'de>>(mut array: A) -> Result<Option<Self>, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
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
    fn array<A: SeqAccess<'de>>(mut array: A) -> Result<Option<Self>, A::Error> {
        let mut all = Some(Vec::new());
        while let Some(element) = array.next_element::<Field<Cow<'de, str>>>()? {
            match element {
                Field::There(text) => all.iter_mut().for_each(|all| all.push(text.clone())),
                Field::Missing | Field::Wrong => all = None,
            }
        }
        Ok(all)
    }
}

impl<'de, T: Leaf<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Wrong, Self::There)
    }
}

impl<'de, T: Leaf<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Missing)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(T::boolean(value).into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(T::integer(value).into())
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Field::Wrong)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Field::Wrong)
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(T::text(Cow::Borrowed(value)).into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(T::text(Cow::Owned(value.to_owned())).into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Self::Value, A::Error> {
        T::array(array).map(Into::into)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::object(object).map(Into::into)
    }
}

/// An object's key, borrowed unless it holds escapes.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
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
            fn object<A: serde::de::MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
                let mut fields = Self::default();
                while let Some($crate::decode::json::Key(key)) = object.next_key()? {
                    match &*key {
                        $($key => fields.$field = object.next_value()?,)*
                        _ => { object.next_value::<serde::de::IgnoredAny>()?; }
                    }
                }
                Ok(Some(fields))
            }
        }
    };
}
pub(super) use object;
