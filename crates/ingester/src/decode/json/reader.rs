//! A reader of JSON text (RFC 8259), token by token.
//!
//! It is hand-written, and property tests compare it with `serde_json`: an event is sixty short tokens, and with `serde_json`
//! for the events without an error the whole ingester took 1.34 times the processor time (crates/MEASUREMENTS.md, The
//! libraries). `serde_json` decodes the escapes, the difficult part of a token. The functions that return a string or a key are
//! always inlined: returning it through memory took a tenth of an event's time.

use std::borrow::Cow;

use crate::decode::rejection::{Code, Rejection};

/// The maximum nesting of arrays and objects (crates/model/README.md, Rejections).
const MAX_DEPTH: usize = 128;

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::decode) enum NotJson {
    /// The text breaks the grammar.
    #[error("is not a JSON text")]
    Syntax,
    /// Arrays and objects are nested deeper than [`MAX_DEPTH`].
    #[error("is nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

impl From<NotJson> for Rejection {
    fn from(reason: NotJson) -> Self {
        Self::new(Code::NotJson, format!("the value {reason}"))
    }
}

/// A position in a JSON text. Every step fails if the text breaks the grammar.
pub(in crate::decode) struct Reader<'de> {
    text: &'de str,
    at: usize,
    depth: usize,
}

impl<'de> Reader<'de> {
    /// Begins before the text's first value.
    pub(in crate::decode) fn new(text: &'de str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Skips the next value.
    pub(in crate::decode) fn skip(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"') => self.string_token().map(drop),
            Some(b'{') => {
                let mut more = self.enter(b'}')?;
                while more {
                    self.key()?;
                    self.skip()?;
                    more = self.another(b'}')?;
                }
                Ok(())
            }
            Some(b'[') => {
                let mut more = self.enter(b']')?;
                while more {
                    self.skip()?;
                    more = self.another(b']')?;
                }
                Ok(())
            }
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.number().map(drop),
        }
    }

    /// Enters the array or object that begins here; returns whether it has an element.
    pub(in crate::decode) fn enter(&mut self, end: u8) -> Result<bool, NotJson> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(NotJson::TooDeep);
        }
        let is_empty = self.peek() == Some(end);
        if is_empty {
            self.at += 1;
            self.depth -= 1;
        }
        Ok(!is_empty)
    }

    /// Skips the separator after an element; returns whether another element follows, `false` at the end.
    pub(in crate::decode) fn another(&mut self, end: u8) -> Result<bool, NotJson> {
        let next = self.peek();
        self.at += 1;
        match next {
            Some(b',') => Ok(true),
            Some(next) if next == end => {
                self.depth -= 1;
                Ok(false)
            }
            _ => Err(NotJson::Syntax),
        }
    }

    /// Reads a key and its colon; `None` for a key that a string cannot represent.
    #[inline(always)]
    pub(in crate::decode) fn key(&mut self) -> Result<Option<Cow<'de, str>>, NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson::Syntax);
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(NotJson::Syntax);
        }
        self.at += 1;
        Ok(key)
    }

    /// Skips this key, given in quotes with its colon, if it comes next without white space.
    #[inline(always)]
    pub(in crate::decode) fn step_over_key(&mut self, key: &str) -> bool {
        let is_next = self.text.as_bytes()[self.at..].starts_with(key.as_bytes());
        self.at += if is_next { key.len() } else { 0 };
        is_next
    }

    /// Reads the string that begins here; `None` if an escape is half a surrogate pair, which the grammar allows but a
    /// string cannot represent.
    #[inline(always)]
    pub(in crate::decode) fn string(&mut self) -> Result<Option<Cow<'de, str>>, NotJson> {
        let start = self.at;
        let is_plain = self.string_token()?;
        if is_plain {
            return Ok(Some(Cow::Borrowed(&self.text[start + 1..self.at - 1])));
        }
        Ok(unescaped(&self.text[start..self.at]))
    }

    /// Skips the string that begins here; returns whether it has no escapes.
    fn string_token(&mut self) -> Result<bool, NotJson> {
        self.at += 1;
        while let Some(word) = self.text.as_bytes()[self.at..].first_chunk() {
            let plain = plain(u64::from_le_bytes(*word));
            self.at += plain;
            if plain == 8 {
                continue;
            }
            if self.text.as_bytes()[self.at] != b'"' {
                break;
            }
            self.at += 1;
            return Ok(true);
        }
        self.rest_of_string()
    }

    /// Skips the rest of a string, byte by byte; returns whether the rest has no escapes.
    #[cold]
    fn rest_of_string(&mut self) -> Result<bool, NotJson> {
        let mut is_plain = true;
        loop {
            match &self.text.as_bytes()[self.at..] {
                [b'"', ..] => {
                    self.at += 1;
                    return Ok(is_plain);
                }
                [b'\\', rest @ ..] => {
                    is_plain = false;
                    self.at += 1 + escape(rest)?;
                }
                [] | [0..0x20, ..] => return Err(NotJson::Syntax),
                [_, ..] => self.at += 1,
            }
        }
    }

    /// Reads the number that begins here.
    pub(in crate::decode) fn number(&mut self) -> Result<&'de str, NotJson> {
        let start = self.at;
        self.step_over(b"-");
        if !self.step_over(b"0") {
            self.digits()?;
        }
        if self.step_over(b".") {
            self.digits()?;
        }
        if self.step_over(b"eE") {
            self.step_over(b"+-");
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count > 0 { Ok(()) } else { Err(NotJson::Syntax) }
    }

    /// Skips the next byte if it is one of `any`; returns whether it was.
    fn step_over(&mut self, any: &[u8]) -> bool {
        let is_one = self.text.as_bytes().get(self.at).is_some_and(|next| any.contains(next));
        self.at += usize::from(is_one);
        is_one
    }

    /// Skips `true`, `false` or `null`.
    pub(in crate::decode) fn word(&mut self, word: &str) -> Result<(), NotJson> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += word.len();
        if rest.starts_with(word.as_bytes()) { Ok(()) } else { Err(NotJson::Syntax) }
    }

    /// Checks that only white space is left.
    pub(in crate::decode) fn end(&mut self) -> Result<(), NotJson> {
        if self.peek().is_none() { Ok(()) } else { Err(NotJson::Syntax) }
    }

    /// Skips white space and returns the next byte, without consuming it.
    pub(in crate::decode) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                next => return next.copied(),
            }
        }
    }
}

/// The decoded text of a string with escapes; `None` for half a surrogate pair.
#[cold]
fn unescaped<'de>(token: &str) -> Option<Cow<'de, str>> {
    serde_json::from_str(token).ok().map(Cow::Owned)
}

/// The length of an escape after its backslash.
fn escape(rest: &[u8]) -> Result<usize, NotJson> {
    match rest {
        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Ok(1),
        [b'u', digits @ ..]
            if digits.iter().take(4).filter(|digit| digit.is_ascii_hexdigit()).count() == 4 =>
        {
            Ok(5)
        }
        _ => Err(NotJson::Syntax),
    }
}

/// The number of the eight bytes, lowest first, before the first quote, backslash or control character.
fn plain(word: u64) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    let (quote, backslash) = (word ^ (ONES * 0x22), word ^ (ONES * 0x5c));
    // The highest bit of a byte is set if the byte is zero, or below 0x20. A borrow affects only bytes after such a byte.
    let found = (quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash)
        | (word.wrapping_sub(ONES * 0x20) & !word);
    (found & (ONES * 0x80)).trailing_zeros() as usize / 8
}
