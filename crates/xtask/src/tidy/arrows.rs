//! The allowed dependencies between members of the workspace.

use std::fs;

use anyhow::{Context, Result};
use cargo_metadata::DependencyKind;

use super::violation::Violation;
use crate::workspace::Workspace;

/// The allowed dependencies of each member on others. Dev-dependencies are not restricted.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("service", &[]),
    ("testkit", &[]),
    ("enrich", &["model"]),
    ("store", &["model"]),
    ("ingester", &["model", "enrich", "store", "service"]),
    ("query", &["model", "store", "service"]),
    ("audit", &["model"]),
    ("quickstart", &["ingester", "query", "model", "store", "service"]),
    ("tests", &[]),
    ("xtask", &["testkit"]),
    ("bench", &["testkit", "model", "enrich", "store", "ingester"]),
];

/// Dependencies that a member must not have, directly or by way of other members: the query daemon links no Kafka
/// client and no address database, the model links no runtime, database or Kafka client.
const NEVER: &[(&str, &[&str])] = &[
    ("query", &["rdkafka", "rdkafka-sys", "maxminddb", "enrich", "ingester"]),
    ("ingester", &["apollo-compiler", "query"]),
    ("model", &["tokio", "sqlx", "rusqlite", "rdkafka", "rdkafka-sys"]),
    (
        "audit",
        &["tokio", "sqlx", "rusqlite", "rdkafka", "rdkafka-sys", "maxminddb", "apollo-compiler"],
    ),
];

/// A member of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// The path of the manifest, from the workspace's root.
    pub(crate) path: String,
    /// The text of the manifest.
    pub(crate) manifest: String,
    /// The names of its dependencies, without dev-dependencies.
    pub(crate) uses: Vec<String>,
    /// The root files of its library and programs, from the workspace's root.
    pub(crate) roots: Vec<String>,
}

/// All members, from cargo's metadata.
pub(crate) fn members(workspace: &Workspace) -> Result<Vec<Member>> {
    let read = |package: &&cargo_metadata::Package| {
        let root = &workspace.metadata.workspace_root;
        let path = package.manifest_path.strip_prefix(root)?;
        let manifest = fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("cannot read {path}"))?;
        let used = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development);
        let targets = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
        let roots = targets
            .map(|target| Ok(target.src_path.strip_prefix(root)?.to_string()))
            .collect::<Result<Vec<String>>>()?;
        Ok(Member {
            name: package.name.to_string(),
            path: path.to_string(),
            manifest,
            uses: used.map(|dependency| dependency.name.clone()).collect(),
            roots,
        })
    };
    workspace.metadata.workspace_packages().iter().map(read).collect()
}

/// Checks the members' dependencies against the rules.
pub(crate) fn check(members: &[Member]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for member in members {
        match ARROWS.iter().find(|(name, _)| *name == member.name) {
            Some((_, allowed)) => {
                let of_the_house =
                    |used: &&String| members.iter().any(|other| other.name == **used);
                let drawn = |used: &&String| allowed.contains(&used.as_str());
                let wrong = member.uses.iter().filter(|used| !drawn(used)).filter(of_the_house);
                violations.extend(wrong.map(|used| {
                    violation(member, used, format!("{} must not depend on {used}", member.name))
                }));
            }
            None => violations.push(Violation::new(
                &member.path,
                1,
                format!("{} is not listed in arrows.rs", member.name),
            )),
        }
        let never =
            NEVER.iter().filter(|(name, _)| *name == member.name).flat_map(|(_, never)| *never);
        for (forbidden, by) in
            never.filter_map(|forbidden| Some((forbidden, reached_by(member, forbidden, members)?)))
        {
            let way =
                if by == *forbidden { String::new() } else { format!(", as it does by {by}") };
            violations.push(violation(
                member,
                &by,
                format!("{} must never come to {forbidden}{way}", member.name),
            ));
        }
    }
    violations
}

/// The dependency of `from` that is `wanted`, or leads to it by way of other members.
fn reached_by(from: &Member, wanted: &str, members: &[Member]) -> Option<String> {
    // The recursion ends, because cargo refuses cycles.
    let leads = |used: &&String| {
        *used == wanted
            || members.iter().any(|member| {
                member.name == **used && reached_by(member, wanted, members).is_some()
            })
    };
    from.uses.iter().find(leads).cloned()
}

fn violation(member: &Member, dependency: &str, rule: String) -> Violation {
    let names = |line: &str| {
        line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with([' ', '=', '.']))
    };
    let line = member.manifest.lines().position(names).map_or(1, |index| index + 1);
    Violation::new(&member.path, line, rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, uses: &[&str]) -> Member {
        let manifest = uses.iter().fold("[dependencies]\n".to_owned(), |text, used| {
            text + used + " = { workspace = true }\n"
        });
        let uses = uses.iter().map(|used| (*used).to_owned()).collect();
        Member {
            name: name.to_owned(),
            path: format!("crates/{name}/Cargo.toml"),
            manifest,
            uses,
            roots: Vec::new(),
        }
    }

    fn said(members: &[Member]) -> Vec<String> {
        check(members).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_house_as_drawn_is_right() {
        let all: Vec<Member> = ARROWS.iter().map(|(name, uses)| member(name, uses)).collect();
        assert_eq!(said(&all), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_named_with_its_line() {
        let all = [member("model", &["serde", "store"]), member("store", &[])];
        assert_eq!(said(&all), ["crates/model/Cargo.toml:3: model must not depend on store"]);
    }

    #[test]
    fn nobody_but_xtask_and_bench_uses_testkit_outside_of_tests() {
        let all =
            [member("testkit", &[]), member("xtask", &["testkit"]), member("store", &["testkit"])];
        assert_eq!(said(&all), ["crates/store/Cargo.toml:2: store must not depend on testkit"]);
    }

    #[test]
    fn what_is_forbidden_is_found_behind_others() {
        let all = [
            member("query", &["store"]),
            member("store", &["rdkafka"]),
            member("ingester", &["apollo-compiler"]),
        ];
        let said = said(&all);
        assert_eq!(
            said[0],
            "crates/query/Cargo.toml:2: query must never come to rdkafka, as it does by store"
        );
        assert_eq!(
            said[1],
            "crates/ingester/Cargo.toml:2: ingester must never come to apollo-compiler"
        );
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn a_new_member_must_be_listed() {
        assert_eq!(
            said(&[member("extra", &[])]),
            ["crates/extra/Cargo.toml:1: extra is not listed in arrows.rs"]
        );
    }
}
