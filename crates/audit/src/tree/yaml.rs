//! YAML. Scalars stay text, as in YAML's failsafe schema: `1.10` must not become the number 1.1.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::{MAX_DEPTH, Map, Node, SyntaxError, Value};

/// Parses all documents of a YAML stream and skips empty ones.
///
/// # Errors
/// [`SyntaxError`] when the text is not YAML, is nested too deep, or has an alias, a merge key, a tag or a duplicate key.
pub fn yaml_documents(text: &str) -> Result<Vec<Node>, SyntaxError> {
    parse(text, Builder::default())
}

/// Parses YAML in which aliases may be, which are not expanded.
///
/// # Errors
/// [`SyntaxError`] as for [`yaml_documents`], but for aliases.
pub fn yaml_with_aliases(text: &str) -> Result<Vec<Node>, SyntaxError> {
    parse(text, Builder { keeps_aliases: true, ..Builder::default() })
}

fn parse(text: &str, mut builder: Builder) -> Result<Vec<Node>, SyntaxError> {
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| scan_error(&error))?;
        builder.take(event, line(&span.start))?;
    }
    Ok(builder.documents)
}

fn line(marker: &Marker) -> u32 {
    u32::try_from(marker.line()).unwrap_or(u32::MAX)
}

fn scan_error(error: &ScanError) -> SyntaxError {
    SyntaxError::grammar(line(error.marker()), error.info())
}

/// A list or mapping that is not closed yet.
enum Open {
    List(u32, Vec<Node>),
    /// The third field is the key whose value comes next.
    Map(u32, Map, Option<(String, u32)>),
}

#[derive(Default)]
struct Builder {
    keeps_aliases: bool,
    documents: Vec<Node>,
    open: Vec<Open>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<(), SyntaxError> {
        match event {
            // The tag `!!merge` makes a merge key of any key.
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_))
                if !self.keeps_aliases =>
            {
                Err(SyntaxError::Merge(line))
            }
            Event::Alias(_) if self.keeps_aliases => self.add(Node { line, value: Value::Alias }),
            Event::Alias(_) => Err(SyntaxError::Alias(line)),
            Event::Scalar(text, style, _, _) => {
                let is_null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                let value = if is_null { Value::Null } else { Value::Text(text.into_owned()) };
                self.add(Node { line, value })
            }
            Event::SequenceStart(..) => self.open(Open::List(line, Vec::new()), line),
            Event::MappingStart(..) => self.open(Open::Map(line, Map::default(), None), line),
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop() {
                    Some(Open::List(line, items)) => Node { line, value: Value::List(items) },
                    Some(Open::Map(line, map, _)) => Node { line, value: Value::Map(map) },
                    None => return Ok(()),
                };
                self.add(node)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open, line: u32) -> Result<(), SyntaxError> {
        if self.open.len() == MAX_DEPTH {
            return Err(SyntaxError::TooDeep(line));
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<(), SyntaxError> {
        match self.open.last_mut() {
            None if node.value == Value::Null => {}
            None => self.documents.push(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, map, awaited)) => match awaited.take() {
                None => {
                    let line = node.line;
                    let key = match node.value {
                        Value::Text(key) => key,
                        Value::Null => String::new(),
                        _ => return Err(SyntaxError::grammar(line, "a key that is not a text")),
                    };
                    if key == "<<" && !self.keeps_aliases {
                        return Err(SyntaxError::Merge(line));
                    }
                    *awaited = Some((key, line));
                }
                Some((key, line)) => {
                    if map.insert(key, Node { line, value: node.value }) {
                        return Err(SyntaxError::DuplicateKey(line));
                    }
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        yaml_documents(text).unwrap().remove(0)
    }

    #[test]
    fn scalars_stay_text_and_members_have_the_line_of_their_key() {
        let node = one(
            "lockfileVersion: 5.10\na:\n  '@s/x@1.0.0':\n    resolution: {integrity: sha512-x==}\n    dev: true\n",
        );
        assert_eq!(node.text_at("lockfileVersion"), Some("5.10"));
        let entry = node.get("a").unwrap().get("@s/x@1.0.0").unwrap();
        assert_eq!(entry.line, 3);
        assert_eq!(entry.get("resolution").unwrap().text_at("integrity"), Some("sha512-x=="));
        assert!(entry.get("dev").unwrap().is_true());
    }

    #[test]
    fn several_documents() {
        let documents = yaml_documents("---\na: 1\n---\nb: 2\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert!(yaml_documents("").unwrap().is_empty());
    }

    #[test]
    fn aliases_duplicates_and_cut_files_are_refused() {
        assert_eq!(yaml_documents("a: &x 1\nb: *x\n"), Err(SyntaxError::Alias(2)));
        for text in ["a: 1\n<<: {b: 2}\n", "a: 1\n!!merge x: {b: 2}\n", "a:\n- !!omap [b: 2]\n"] {
            assert_eq!(yaml_documents(text), Err(SyntaxError::Merge(2)), "{text}");
        }
        assert_eq!(yaml_documents("a: 1\nb: 2\na: 3\n"), Err(SyntaxError::DuplicateKey(3)));
        for text in ["a:\n  b: {c: d", "a:\n  b: 'c", "a: 1\nb\n", "a: 1\n  b: 2\n"] {
            assert!(yaml_documents(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nesting_ends_at_128() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(yaml_documents(&nested(128)).is_ok());
        assert!(matches!(yaml_documents(&nested(129)), Err(SyntaxError::TooDeep(_))));
    }
}
