//! The graph of a crate's modules, built from the paths in its files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use super::source::{Import, Mention, Source};
use crate::tidy::violation::Violation;

/// Imports can refer to other imports. A chain longer than this is a cycle of `use`.
const LONGEST_CHAIN: usize = 16;

/// A module with its own file.
#[derive(Debug)]
struct Module {
    /// The path from the crate's root; empty for the root.
    path: Vec<String>,
    /// The file, from the workspace's root.
    file: String,
    source: Source,
}

/// A use of one module by another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tidy) struct Arrow {
    /// The module with the use.
    pub(in crate::tidy) from: Vec<String>,
    /// The module that is used.
    pub(in crate::tidy) to: Vec<String>,
    /// The file of the use, from the workspace's root.
    pub(in crate::tidy) file: String,
    /// The line of the use.
    pub(in crate::tidy) line: usize,
}

/// A crate's modules and the uses between them (arrows).
#[derive(Debug)]
pub(in crate::tidy) struct Graph {
    modules: BTreeMap<Vec<String>, Module>,
    /// Sorted. Of several uses of one module by another, only the first.
    pub(in crate::tidy) arrows: Vec<Arrow>,
}

impl Graph {
    /// Reads a crate from its root file (`crates/a/src/lib.rs`). `read` returns the text of a file, or `None` when
    /// there is no such file.
    ///
    /// # Errors
    /// A file does not parse, or a module has no file.
    pub(in crate::tidy) fn read(root: &str, read: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let mut graph = Self { modules: BTreeMap::new(), arrows: Vec::new() };
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
        graph.add(Vec::new(), root, folder, read)?;
        graph.arrows = graph.find_arrows();
        Ok(graph)
    }

    fn add(
        &mut self,
        path: Vec<String>,
        file: &str,
        folder: &str,
        read: &dyn Fn(&str) -> Option<String>,
    ) -> Result<()> {
        let text = read(file).with_context(|| format!("cannot read {file}"))?;
        let source = Source::parse(&text).with_context(|| format!("cannot understand {file}"))?;
        for child in &source.children {
            let below = format!("{folder}/{child}");
            let files = [format!("{below}.rs"), format!("{below}/mod.rs")];
            let found: Vec<&String> = files.iter().filter(|file| read(file).is_some()).collect();
            ensure!(found.len() == 1, "{file}: module {child} has {} files", found.len());
            let path = path.iter().cloned().chain([child.clone()]).collect();
            self.add(path, found[0], &below, read)?;
        }
        self.modules.insert(path.clone(), Module { path, file: file.to_owned(), source });
        Ok(())
    }

    fn find_arrows(&self) -> Vec<Arrow> {
        let mut arrows = BTreeMap::new();
        for module in self.modules.values() {
            for mention in &module.source.mentions {
                let Some(to) = self.used_module(module, mention) else { continue };
                let arrow = Arrow {
                    from: module.path.clone(),
                    to: to.to_vec(),
                    file: module.file.clone(),
                    line: mention.line,
                };
                arrows.entry((arrow.from.clone(), arrow.to.clone())).or_insert(arrow);
            }
        }
        arrows.into_values().collect()
    }

    /// The module from which a mention uses an item, or all items (`use crate::a::*;`). A mention of the module alone
    /// (`use crate::a;`) does not count as a use.
    fn used_module(&self, module: &Module, mention: &Mention) -> Option<&[String]> {
        let (owner, is_item) = self.resolve(module, &mention.path, LONGEST_CHAIN)?;
        let handed_on = mention.reexport && owner.path.starts_with(&module.path);
        (is_item && !handed_on && owner.path != module.path).then_some(&owner.path)
    }

    /// The module that defines the path's name, and whether the path names an item in it. `None` for other crates and
    /// local names.
    fn resolve(&self, module: &Module, path: &[String], chain: usize) -> Option<(&Module, bool)> {
        let (first, rest) = path.split_first()?;
        let absolute = match first.as_str() {
            "crate" => rest.to_vec(),
            "self" => [&module.path, rest].concat(),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                [&module.path[..module.path.len().checked_sub(ups)?], &path[ups..]].concat()
            }
            name if module.source.children.iter().any(|child| child == name) => {
                [&module.path, path].concat()
            }
            name => {
                // A single name was counted at its import.
                let import = import_of(module, name).filter(|_| !rest.is_empty() && chain > 0)?;
                let path = [&import.path, rest].concat();
                return self.resolve(module, &path, chain - 1);
            }
        };
        self.find(&absolute, chain)
    }

    /// Follows a path from the crate's root: through modules, then through re-exports of the last one.
    fn find(&self, path: &[String], chain: usize) -> Option<(&Module, bool)> {
        let depth =
            (0..=path.len()).rev().find(|depth| self.modules.contains_key(&path[..*depth]))?;
        let module = &self.modules[&path[..depth]];
        let Some(name) = path.get(depth) else { return Some((module, false)) };
        let is_defined = |module: &Module| module.source.definitions.contains(name);
        if is_defined(module) || chain == 0 {
            return Some((module, true));
        }
        if let Some(import) = import_of(module, name) {
            let path = [&import.path, &path[depth + 1..]].concat();
            // An item of another crate counts as defined by the module that re-exports it.
            return Some(self.resolve(module, &path, chain - 1).unwrap_or((module, true)));
        }
        let all = module.source.imports.iter().filter(|import| import.name.is_none());
        let handed_on = all
            .filter_map(|import| self.resolve(module, &import.path, chain - 1))
            .find(|(owner, _)| is_defined(owner));
        Some((handed_on.map_or(module, |(owner, _)| owner), true))
    }
}

fn import_of<'a>(module: &'a Module, name: &str) -> Option<&'a Import> {
    let bound = |import: &&Import| import.name.as_deref() == Some(name);
    // `use a::b` in a module named `b` would resolve to itself.
    module.source.imports.iter().find(|import| bound(import) && import.path.len() > 1)
}

impl Graph {
    /// All paths that the files mention: module, file and path.
    pub(super) fn mentions(&self) -> impl Iterator<Item = (&[String], &str, &Mention)> {
        self.modules.values().flat_map(|module| {
            let mentions = module.source.mentions.iter();
            mentions.map(|mention| (module.path.as_slice(), module.file.as_str(), mention))
        })
    }

    /// Reports cycles: the modules of each folder, with their submodules, must have an order in which each uses only
    /// earlier ones.
    ///
    /// A module and its submodules count as one, so a submodule may use its parent.
    pub(in crate::tidy) fn circles(&self) -> Vec<Violation> {
        let folders: BTreeSet<&[String]> =
            self.modules.keys().filter_map(|path| Some(path.split_last()?.1)).collect();
        folders.into_iter().flat_map(|folder| self.circles_in(folder)).collect()
    }

    fn circles_in(&self, folder: &[String]) -> Vec<Violation> {
        let mut uses: BTreeMap<&str, BTreeMap<&str, &Arrow>> = BTreeMap::new();
        for arrow in &self.arrows {
            let (Some(from), Some(to)) = (part(&arrow.from, folder), part(&arrow.to, folder))
            else {
                continue;
            };
            if from != to {
                uses.entry(from).or_default().entry(to).or_insert(arrow);
            }
        }
        let mut told = BTreeSet::new();
        let mut violations = Vec::new();
        for start in uses.keys() {
            let Some(circle) = shortest_way_back(&uses, start) else { continue };
            if circle.iter().all(|name| told.insert(*name)) {
                violations.push(name_circle(folder, &circle, &uses));
            }
        }
        violations
    }
}

/// The module in `folder` that is or contains `module`.
fn part<'a>(module: &'a [String], folder: &[String]) -> Option<&'a str> {
    module.strip_prefix(folder)?.first().map(String::as_str)
}

/// The modules of the shortest cycle through `start`, beginning with it.
fn shortest_way_back<'a>(
    uses: &BTreeMap<&'a str, BTreeMap<&'a str, &Arrow>>,
    start: &'a str,
) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for used in uses.get(module).into_iter().flat_map(BTreeMap::keys) {
            if *used == start {
                let mut circle = vec![module];
                while let Some(before) = came_from.get(circle[circle.len() - 1]) {
                    circle.push(before);
                }
                circle.reverse();
                return Some(circle);
            }
            if !came_from.contains_key(used) {
                came_from.insert(used, module);
                queue.push_back(used);
            }
        }
    }
    None
}

fn name_circle(
    folder: &[String],
    circle: &[&str],
    uses: &BTreeMap<&str, BTreeMap<&str, &Arrow>>,
) -> Violation {
    let next = |index: usize| circle[(index + 1) % circle.len()];
    let arrows: Vec<&Arrow> =
        circle.iter().enumerate().map(|(index, from)| uses[from][next(index)]).collect();
    let steps: Vec<String> = arrows
        .iter()
        .enumerate()
        .map(|(index, arrow)| format!("{} ({}:{})", next(index), arrow.file, arrow.line))
        .collect();
    let place = [&["crate".to_owned()], folder].concat().join("::");
    let rule =
        format!("a circle of modules in {place}: {} uses {}", circle[0], steps.join(" uses "));
    Violation::new(&arrows[0].file, arrows[0].line, rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The graph of a crate with these files; paths are below `src`.
    fn graph(files: &[(&str, &str)]) -> Graph {
        let read = |path: &str| {
            let found = files.iter().find(|(file, _)| path == format!("src/{file}"));
            found.map(|(_, text)| (*text).to_owned())
        };
        Graph::read("src/lib.rs", &read).unwrap()
    }

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let arrows = graph(files).arrows;
        let name = |path: &[String]| path.join("::");
        arrows.iter().map(|arrow| format!("{} > {}", name(&arrow.from), name(&arrow.to))).collect()
    }

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        graph(files).circles().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn two_modules_that_use_each_other_are_a_circle() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "use crate::b::B;\npub struct A;\n"),
            ("b.rs", "pub struct B;\nfn f() { crate::a::A; }\n"),
        ];
        assert_eq!(
            circles(&files),
            ["src/a.rs:1: a circle of modules in crate: a uses b (src/a.rs:1) uses a (src/b.rs:2)"]
        );
    }

    #[test]
    fn a_circle_over_three_folders_is_found_from_the_folders() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a/mod.rs", "mod x;\n"),
            ("a/x.rs", "use crate::b::B;\npub struct X;\n"),
            ("b.rs", "use super::c::C;\npub struct B;\n"),
            ("c/mod.rs", "mod y;\npub struct C;\n"),
            ("c/y.rs", "fn f(_: crate::a::x::X) {}\n"),
        ];
        assert_eq!(
            circles(&files),
            [
                "src/a/x.rs:1: a circle of modules in crate: a uses b (src/a/x.rs:1) uses c (src/b.rs:1) uses a (src/c/y.rs:1)"
            ]
        );
    }

    #[test]
    fn a_circle_within_a_folder_is_found() {
        let files = [
            ("lib.rs", "mod a;\n"),
            ("a/mod.rs", "mod x;\nmod y;\n"),
            ("a/x.rs", "use super::y::Y;\npub struct X;\n"),
            ("a/y.rs", "pub struct Y(super::x::X);\n"),
        ];
        let said = circles(&files);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("in crate::a: x uses y"), "{said:?}");
    }

    #[test]
    fn an_order_is_no_circle_and_neither_are_tests_or_a_part_that_uses_its_module() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use b::B;\n"),
            (
                "a.rs",
                "mod part;\npub struct A;\nfn f() { part::p() }\n#[cfg(test)]\nmod tests { use crate::b::B; }\n",
            ),
            ("a/part.rs", "use super::A;\npub fn p() {}\n"),
            ("b.rs", "use crate::a::A;\npub struct B;\n"),
        ];
        assert_eq!(circles(&files), Vec::<String>::new());
        assert_eq!(arrows(&files), ["a > a::part", "a::part > a", "b > a"]);
    }

    #[test]
    fn a_name_that_is_handed_on_leads_to_where_it_is_defined() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use a::{X, Y as Z};\n"),
            ("a/mod.rs", "mod x;\nmod y;\npub use x::*;\npub use y::Y;\npub use std::mem::take;\n"),
            ("a/x.rs", "pub struct X;\n"),
            ("a/y.rs", "pub struct Y;\n"),
            ("b.rs", "use crate::{X, Z};\nuse crate::a;\nfn f() { a::take(a::Y) }\n"),
        ];
        assert_eq!(arrows(&files), ["b > a", "b > a::x", "b > a::y"]);
    }

    #[test]
    fn a_module_without_a_file_is_an_error() {
        let read = |path: &str| (path == "src/lib.rs").then(|| "mod a;".to_owned());
        let error = Graph::read("src/lib.rs", &read).unwrap_err();
        assert_eq!(error.to_string(), "src/lib.rs: module a has 0 files");
    }
}
