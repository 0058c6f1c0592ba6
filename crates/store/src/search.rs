//! Search of package names by prefix, for both databases. The key's index skips from name to name, over a package's versions.

/// The SQL of a search, and the values of its `$1` and `$2`.
pub(crate) struct Search {
    pub(crate) sql: String,
    pub(crate) from: String,
    pub(crate) end: Option<String>,
}

/// Names that begin with the prefix and are greater than `after`; comparisons in the databases are bytewise.
pub(crate) fn search(prefix: &str, after: Option<&str>, first: u32) -> Search {
    let (from, compare) = match after {
        Some(after) if after >= prefix => (after, ">"),
        _ => (prefix, ">="),
    };
    let end = end(prefix);
    let before_end = if end.is_some() { " AND p.name < $2" } else { "" };
    let next = |after: &str| {
        format!(
            "SELECT p.name FROM publication AS p WHERE p.name {after}{before_end} ORDER BY p.name LIMIT 1"
        )
    };
    let sql = format!(
        "WITH RECURSIVE found(name) AS (SELECT * FROM ({}) AS f \
         UNION ALL SELECT ({}) FROM found WHERE found.name IS NOT NULL) \
         SELECT name FROM found WHERE name IS NOT NULL LIMIT {first}",
        next(&format!("{compare} $1")),
        next("> found.name"),
    );
    Search { sql, from: from.to_owned(), end }
}

/// The smallest text that is greater than all texts that begin with the prefix; `None` if there is none.
fn end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_behind_every_text_with_the_prefix() {
        assert_eq!(end("ab").as_deref(), Some("ac"));
        assert_eq!(end("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(end("\u{10ffff}"), None);
        // There is no code point between these two.
        assert_eq!(end("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(end(""), None);
    }
}
