//! Parses one file: its modules, definitions, imports, and the paths that it mentions.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Item, Visibility};

/// A path in a `use`, a signature, a body or a macro's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    /// The segments, beginning with `crate`, `self`, `super` or a known name. Inline modules are removed. For all names of a
    /// module (`use a::*`) the last segment is `*`.
    pub(super) path: Vec<String>,
    /// The line, from 1.
    pub(super) line: usize,
    /// Whether it is in a `pub use`, which may be only a re-export.
    pub(super) reexport: bool,
}

/// A name that a `use` binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    /// The bound name; `None` for all names of the path (`*`).
    pub(super) name: Option<String>,
    /// The path that it refers to.
    pub(super) path: Vec<String>,
}

/// The content of a file without its tests (`#[cfg(test)]`).
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The child modules with their own files.
    pub(super) children: Vec<String>,
    /// The names that the file defines.
    pub(super) definitions: Vec<String>,
    /// The names that the file imports.
    pub(super) imports: Vec<Import>,
    /// Every path in the file.
    pub(super) mentions: Vec<Mention>,
}

impl Source {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The text does not parse.
    pub(super) fn parse(text: &str) -> syn::Result<Self> {
        let file = syn::parse_file(text)?;
        let mut source = Self::default();
        if !is_test(&file.attrs) {
            source.read_items(file.items, 0);
        }
        Ok(source)
    }

    /// Reads the items inside `depth` inline modules.
    fn read_items(&mut self, items: Vec<Item>, depth: usize) {
        for item in items {
            let Some((attributes, name)) = head(&item) else { continue };
            if is_test(attributes) {
                continue;
            }
            if depth == 0 && !matches!(&item, Item::Mod(module) if module.content.is_none()) {
                self.definitions.extend(name);
            }
            match item {
                Item::Mod(module) => match module.content {
                    Some((_, items)) => self.read_items(items, depth + 1),
                    None => self.children.push(module.ident.to_string()),
                },
                Item::Use(item) => {
                    let reexport = !matches!(item.vis, Visibility::Inherited);
                    for named in paths(item.tree.to_token_stream()) {
                        self.mention(&named, reexport, depth);
                        self.imports.extend(named.import(depth));
                    }
                }
                other => {
                    for named in paths(other.to_token_stream()) {
                        self.mention(&named, false, depth);
                    }
                }
            }
        }
    }

    fn mention(&mut self, named: &Named, reexport: bool, depth: usize) {
        if let Some(mut path) = leave_inline_modules(&named.path, depth) {
            path.extend(named.all.then(|| "*".to_owned()));
            self.mentions.push(Mention { path, line: named.line, reexport });
        }
    }
}

/// The attributes and the name of an item. `None` for syntax that `syn` does not know.
fn head(item: &Item) -> Option<(&[Attribute], Option<String>)> {
    let (attributes, name) = match item {
        Item::Const(item) => (&item.attrs, Some(&item.ident)),
        Item::Enum(item) => (&item.attrs, Some(&item.ident)),
        Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
        Item::Impl(item) => (&item.attrs, None),
        Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
        Item::Mod(item) => (&item.attrs, Some(&item.ident)),
        Item::Static(item) => (&item.attrs, Some(&item.ident)),
        Item::Struct(item) => (&item.attrs, Some(&item.ident)),
        Item::Trait(item) => (&item.attrs, Some(&item.ident)),
        Item::Type(item) => (&item.attrs, Some(&item.ident)),
        Item::Union(item) => (&item.attrs, Some(&item.ident)),
        Item::Use(item) => (&item.attrs, None),
        Item::ForeignMod(item) => (&item.attrs, None),
        _ => return None,
    };
    Some((attributes, name.map(ToString::to_string)))
}

/// Whether an item is compiled for tests only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let words = attribute.to_token_stream().to_string();
        let has = |wanted: &str| {
            words.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == wanted)
        };
        attribute.path().is_ident("cfg") && has("test") && !has("not")
    })
}

/// A path found in code.
struct Named {
    path: Vec<String>,
    /// The name after `as`.
    alias: Option<String>,
    /// Whether `::*` follows.
    all: bool,
    line: usize,
}

impl Named {
    fn import(&self, depth: usize) -> Option<Import> {
        let name = self.alias.clone().or_else(|| self.path.last().cloned());
        let path = leave_inline_modules(&self.path, depth)?;
        Some(Import { name: name.filter(|_| !self.all), path })
    }
}

/// All paths in a piece of code. Macros are not expanded, but their arguments are read.
fn paths(code: TokenStream) -> Vec<Named> {
    let mut found = Vec::new();
    scan(code, &[], &mut found);
    found
}

/// Finds the paths in `code`. With a prefix, `code` is the content of the braces in `use prefix::{…}`.
fn scan(code: TokenStream, prefix: &[String], found: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = code.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            // Skip `::name` after a path without a first name: `<T as Trait>::name`, `::std`.
            _ if is_separator(&tokens, at) => at = after_path(&tokens, at + 2),
            TokenTree::Ident(word) if word == "pub" => {
                at += 1 + usize::from(is_visibility(&tokens, at + 1))
            }
            TokenTree::Ident(first) => {
                let end = after_path(&tokens, at);
                let mut path = prefix.to_vec();
                path.extend(tokens[at..end].iter().filter_map(ident));
                let line = first.span().start().line;
                at = read_end(&tokens, end, Named { path, alias: None, all: false, line }, found);
            }
            TokenTree::Group(group) => {
                scan(group.stream(), &[], found);
                at += 1;
            }
            // `use a::{*, b}`
            TokenTree::Punct(star) if star.as_char() == '*' && !prefix.is_empty() => {
                let line = star.span().start().line;
                found.push(Named { path: prefix.to_vec(), alias: None, all: true, line });
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// Reads the tokens after a path's names. Returns the index of the next token.
fn read_end(tokens: &[TokenTree], end: usize, mut named: Named, found: &mut Vec<Named>) -> usize {
    let mut next = end;
    if is_separator(tokens, end) {
        match tokens.get(end + 2) {
            Some(TokenTree::Group(tree)) => {
                scan(tree.stream(), &named.path, found);
                return end + 3;
            }
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => named.all = true,
            _ => {}
        }
    } else if tokens.get(end).and_then(ident).is_some_and(|word| word == "as") {
        // In `x as crate::T` the word after `as` is not an alias, but another path.
        named.alias =
            tokens.get(end + 1).and_then(ident).filter(|_| !is_separator(tokens, end + 2));
        next = end + if named.alias.is_some() { 2 } else { 1 };
    }
    // `use a::{self}` names `a`.
    if named.path.len() > 1 && named.path.last().is_some_and(|last| last == "self") {
        named.path.pop();
    }
    found.push(named);
    next
}

/// The index after the names joined by `::` that begin at `at`.
fn after_path(tokens: &[TokenTree], mut at: usize) -> usize {
    if !matches!(tokens.get(at), Some(TokenTree::Ident(_))) {
        return at;
    }
    at += 1;
    while is_separator(tokens, at) && matches!(tokens.get(at + 2), Some(TokenTree::Ident(_))) {
        at += 3;
    }
    at
}

/// Whether the tokens at `at` are `::`.
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |token: Option<&TokenTree>, spacing: Option<Spacing>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':' && spacing.is_none_or(|wanted| punct.spacing() == wanted));
    colon(tokens.get(at), Some(Spacing::Joint)) && colon(tokens.get(at + 1), None)
}

/// Whether the token at `at` is the parentheses of `pub(…)`. Their path is not a use.
fn is_visibility(tokens: &[TokenTree], at: usize) -> bool {
    let Some(TokenTree::Group(group)) = tokens.get(at) else { return false };
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Parenthesis
        && first
            .as_ref()
            .and_then(ident)
            .is_some_and(|word| ["crate", "super", "self", "in"].contains(&word.as_str()))
}

fn ident(token: &TokenTree) -> Option<String> {
    let TokenTree::Ident(ident) = token else { return None };
    Some(ident.to_string())
}

/// The path relative to the file's own module; `None` when it stays within the file.
fn leave_inline_modules(path: &[String], depth: usize) -> Option<Vec<String>> {
    if depth == 0 || !["self", "super"].contains(&path.first()?.as_str()) {
        return Some(path.to_vec());
    }
    let ups = path.iter().take_while(|name| *name == "super").count();
    let mut left = vec!["self".to_owned()];
    left.extend(path.get(depth..).filter(|_| ups >= depth)?.iter().cloned());
    if left.get(1).is_some_and(|name| name == "super") {
        left.remove(0);
    }
    Some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentioned(text: &str) -> Vec<String> {
        let source = Source::parse(text).unwrap();
        let names = source.mentions.iter().filter(|mention| mention.path.len() > 1);
        names.map(|mention| mention.path.join("::")).collect()
    }

    #[test]
    fn every_form_of_use_is_read() {
        let text = "use crate::a::{self, b::C, d as e};\npub use super::f::*;\n";
        assert_eq!(mentioned(text), ["crate::a", "crate::a::b::C", "crate::a::d", "super::f::*"]);
        let source = Source::parse(text).unwrap();
        let names: Vec<Option<&str>> =
            source.imports.iter().map(|import| import.name.as_deref()).collect();
        assert_eq!(names, [Some("a"), Some("C"), Some("e"), None]);
        assert_eq!(
            source.mentions.iter().map(|mention| mention.reexport).collect::<Vec<_>>(),
            [false, false, false, true]
        );
        assert_eq!(source.mentions[3].line, 2);
    }

    #[test]
    fn paths_in_bodies_types_and_macros_are_read() {
        let text = "fn f(x: crate::a::A) -> Vec<super::B> {\n    use crate::c::{d, e};\n    println!(\"{}\", crate::g::h());\n    <crate::i::J as K>::l(1 as crate::m::N);\n    ::std::mem::take(x)\n}\n";
        assert_eq!(
            mentioned(text),
            [
                "crate::a::A",
                "super::B",
                "crate::c::d",
                "crate::c::e",
                "crate::g::h",
                "crate::i::J",
                "crate::m::N"
            ]
        );
    }

    #[test]
    fn a_visibility_uses_nothing() {
        assert_eq!(
            mentioned("pub(in crate::a) struct S { pub(super) x: u8, pub y: crate::b::C }"),
            ["crate::b::C"]
        );
    }

    #[test]
    fn tests_are_left_out() {
        let text = "#[cfg(test)]\nmod tests { use crate::a::A; }\n#[cfg(test)]\nmod suite;\n#[cfg(test)]\nuse crate::b::B;\n#[cfg(not(test))]\nuse crate::c::C;\n";
        assert_eq!(mentioned(text), ["crate::c::C"]);
        assert_eq!(Source::parse(text).unwrap().children, Vec::<String>::new());
        assert_eq!(mentioned("#![cfg(test)]\nuse crate::a::A;\n"), Vec::<String>::new());
    }

    #[test]
    fn inline_modules_belong_to_their_file() {
        let text = "mod a { use super::super::b::C; use super::D; use self::e::F; mod g { use super::super::super::h::I; } }";
        assert_eq!(mentioned(text), ["super::b::C", "self::D", "super::h::I"]);
    }
}
