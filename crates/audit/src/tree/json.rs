//! JSON: strict for npm and SBOMs, with trailing commas for bun.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::{MAX_DEPTH, Map, Node, SyntaxError, Value};

const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Parses strict JSON.
///
/// # Errors
/// [`SyntaxError`] when the text is empty, is not JSON, or is nested too deep.
pub fn json(text: &str) -> Result<Node, SyntaxError> {
    parse(text, &STRICT)
}

/// Parses JSON with trailing commas, as in `bun.lock`. Comments are allowed too, because bun accepts them.
///
/// # Errors
/// [`SyntaxError`] as for [`json`].
pub fn json_with_trailing_commas(text: &str) -> Result<Node, SyntaxError> {
    parse(text, &ParseOptions { allow_comments: true, allow_trailing_commas: true, ..STRICT })
}

fn parse(text: &str, options: &ParseOptions) -> Result<Node, SyntaxError> {
    let lines = Lines::new(text);
    let parsed = parse_to_ast(text, &CollectOptions::default(), options).map_err(|error| {
        let line = lines.of(error.range().start);
        match error.kind() {
            jsonc_parser::errors::ParseErrorKind::NestingDepthExceeded => {
                SyntaxError::TooDeep(line)
            }
            kind => SyntaxError::grammar(line, kind.to_string()),
        }
    })?;
    let value = parsed.value.ok_or_else(|| SyntaxError::grammar(1, "no JSON value"))?;
    lines.node(value, 0)
}

/// The byte offsets of the lines, to find line numbers.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        Self(starts.map(|(at, _)| at + 1).collect())
    }

    /// The line of a byte offset, from 1.
    fn of(&self, byte: usize) -> u32 {
        let before = self.0.partition_point(|&start| start <= byte);
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }

    fn node(&self, value: ast::Value<'_>, depth: usize) -> Result<Node, SyntaxError> {
        let line = self.of(value.range().start);
        self.node_at(line, value, depth)
    }

    fn node_at(&self, line: u32, value: ast::Value<'_>, depth: usize) -> Result<Node, SyntaxError> {
        let value = match value {
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::BooleanLit(literal) => Value::Bool(literal.value),
            ast::Value::NumberLit(literal) => Value::Number(literal.value.to_owned()),
            ast::Value::StringLit(literal) => Value::Text(literal.value.into_owned()),
            ast::Value::Array(_) | ast::Value::Object(_) if depth == MAX_DEPTH => {
                return Err(SyntaxError::TooDeep(line));
            }
            ast::Value::Array(array) => {
                let items = array.elements.into_iter().map(|item| self.node(item, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            ast::Value::Object(object) => {
                let mut map = Map::default();
                for property in object.properties {
                    let line = self.of(property.range.start);
                    let node = self.node_at(line, property.value, depth + 1)?;
                    if map.insert(property.name.into_string(), node) {
                        return Err(SyntaxError::DuplicateKey(line));
                    }
                }
                Value::Map(map)
            }
        };
        Ok(Node { line, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_the_line_of_their_key() {
        let node = json("{\n \"a\": {\n\"é\":\n 1}, \"b\":\n [true, \"\\u00e9\"]\n}\n").unwrap();
        let a = node.get("a").unwrap();
        assert_eq!((a.line, a.get("é").unwrap().line), (2, 3));
        assert_eq!(a.get("é").unwrap().scalar(), Some("1"));
        assert_eq!(node.get("b").unwrap().items()[1].text(), Some("é"));
    }

    #[test]
    fn a_key_twice_is_refused() {
        for text in ["{\"a\":1,\n\"a\":2}", "{\"a\":1,\n\"\\u0061\":2}"] {
            assert_eq!(json(text), Err(SyntaxError::DuplicateKey(2)), "{text}");
            assert_eq!(json_with_trailing_commas(text), Err(SyntaxError::DuplicateKey(2)));
        }
    }

    #[test]
    fn strict_json_refuses_what_only_bun_writes() {
        for text in ["", " ", "{\"a\":1,}", "{\"a\":1", "[1] 2", "{a:1}", "// x\n1", "{'a':1}"] {
            assert!(json(text).is_err(), "{text:?}");
        }
        assert!(json_with_trailing_commas("{\"a\":[1,],}").is_ok());
        assert!(json_with_trailing_commas("{\"a\":[1,").is_err());
    }

    #[test]
    fn nesting_ends_at_128() {
        let nested =
            |depth: usize| format!("{}{}", "{\"a\":[".repeat(depth / 2), "]}".repeat(depth / 2));
        assert!(json(&nested(128)).is_ok());
        for depth in [130, 600, 200_000] {
            assert!(matches!(json(&nested(depth)), Err(SyntaxError::TooDeep(1))), "{depth}");
        }
    }
}
