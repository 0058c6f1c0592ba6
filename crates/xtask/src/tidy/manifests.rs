//! Every dependency comes from the one table of the root manifest.

use super::violation::Violation;

/// Checks a member's manifest, line by line, as they are written here: one dependency, one key.
pub(crate) fn check(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut in_table = false;
    let mut open_brackets: usize = 0;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if open_brackets == 0 && line.starts_with('[') {
            let table = line.trim_matches(['[', ']']);
            in_table = table.ends_with("dependencies");
            if table.contains("dependencies.") {
                violations.push(Violation::new(
                    path,
                    index + 1,
                    "write a dependency as one key, not as a table of its own",
                ));
            }
            continue;
        }
        if in_table && open_brackets == 0 && line.contains('=') && !comes_from_the_workspace(line) {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            violations.push(Violation::new(
                path,
                index + 1,
                format!("{name} must come from the workspace's table (workspace = true)"),
            ));
        }
        open_brackets = (open_brackets + line.matches(['[', '{']).count())
            .saturating_sub(line.matches([']', '}']).count());
    }
    violations
}

fn comes_from_the_workspace(line: &str) -> bool {
    let squeezed: String = line.split_whitespace().collect();
    squeezed.contains("workspace=true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_its_own_is_named() {
        let text = "[package]\nversion = \"1\"\n\n[dependencies]\nserde.workspace = true\ntoml = \"1\"\n\n[dev-dependencies]\nrand = { version = \"1\" }\n";
        let said: Vec<String> = check("Cargo.toml", text).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "Cargo.toml:6: toml must come from the workspace's table (workspace = true)",
                "Cargo.toml:9: rand must come from the workspace's table (workspace = true)"
            ]
        );
    }

    #[test]
    fn features_over_several_lines_are_part_of_their_key() {
        let text = "[dependencies]\ntokio = { workspace = true, features = [\n  \"fs\", # why = because\n  \"net\",\n] }\n[features]\ntls = []\n";
        assert_eq!(check("Cargo.toml", text), []);
    }

    #[test]
    fn a_table_of_its_own_is_named() {
        assert_eq!(check("Cargo.toml", "[dependencies.serde]\nworkspace = true\n").len(), 1);
    }
}
