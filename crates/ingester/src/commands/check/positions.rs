//! Compares the positions of the group and of the table.

use std::collections::BTreeMap;

use store::Access;

use super::Findings;
use crate::kafka::{GroupPosition, Inspected};
use crate::settings::Settings;

const WHAT: &str = "positions";

/// Compares each partition's stored position, committed offset and end offset.
pub(super) async fn check(
    findings: &mut Findings,
    settings: &Settings,
    inspected: &Inspected,
    access: &Access,
) {
    let positions = match &inspected.positions {
        Ok(positions) => positions,
        Err(error) => {
            return findings.warning(WHAT, format!("the committed offsets are not known: {error}"));
        }
    };
    if let Some(problem) = misled(positions, access) {
        return findings.problem(WHAT, problem);
    }
    if !access.pending.is_empty() {
        // The table of positions does not exist yet, or must be migrated.
        for GroupPosition { partition, committed, end, .. } in positions {
            let committed = shown(*committed);
            findings.ok(WHAT, format!("partition {partition}: committed {committed}, end {end}"));
        }
        return;
    }
    let accounts = match accounts(settings, inspected.topic_id.as_deref()).await {
        Ok(accounts) => accounts,
        Err(error) => {
            return findings.problem(WHAT, format!("the table's account cannot be read: {error}"));
        }
    };
    for position in positions {
        compare(findings, position, accounts.get(&position.partition).copied());
    }
}

/// The reason why this is not the database to which the group has written.
fn misled(positions: &[GroupPosition], access: &Access) -> Option<String> {
    let has_account = positions.iter().any(|position| position.has_account);
    let then = "`run` would create it and read the topic from its first record";
    if !has_account || access.has_rows {
        None
    } else if let Some(file) = &access.missing_file {
        let file = file.display();
        Some(format!(
            "the group has written rows, and there is no file {file}, because a mount is missing or store.url is wrong: {then}"
        ))
    } else {
        Some(format!(
            "the group has written rows, and this database has no table publication, so that store.url may be wrong: {then}"
        ))
    }
}

/// The next offset of each partition in the table.
async fn accounts(
    settings: &Settings,
    topic_id: Option<&str>,
) -> Result<BTreeMap<i32, i64>, store::Error> {
    let Some(topic_id) = topic_id else { return Ok(BTreeMap::new()) };
    let accounts = store::open(&settings.store)?.positions.accounts(&settings.kafka.group).await?;
    let of_topic = accounts.into_iter().filter(|(topic, _)| *topic == topic_id);
    Ok(of_topic
        .filter_map(|(_, account)| Some((account.partition, account.position?.next_offset)))
        .collect())
}

fn shown(offset: Option<i64>) -> String {
    offset.map_or("none".to_owned(), |offset| offset.to_string())
}

fn compare(findings: &mut Findings, position: &GroupPosition, account: Option<i64>) {
    let GroupPosition { partition, committed, has_account, start, end, stable } = *position;
    let line = format!(
        "partition {partition}: account {}, committed {}, end {end}",
        shown(account),
        shown(committed)
    );
    // Where the account is gone, reading begins with the first record.
    let reached = account.into_iter().chain(committed).min();
    let reached = reached.filter(|_| account.is_some() || !has_account);
    let lost = reached.map_or(0, |reached| start - reached);
    if stable < end {
        let what = "an open transaction: the records from offset";
        findings.warning(
            WHAT,
            format!("partition {partition}: {what} {stable} to the end {end} are not read before it ends"),
        );
    }
    match (account, committed) {
        _ if lost > 0 => {
            let what = format!(
                "the log begins at {start}: the {lost} records before it are lost, and `run` counts them as a gap"
            );
            findings.warning(WHAT, format!("{line}; {what}"));
        }
        (_, Some(committed)) if committed > end => {
            let what = "the log ends before the group's offset: it was cut, or somebody else set the offset; `run` says which";
            findings.warning(WHAT, format!("{line}: {what}"));
        }
        (Some(account), Some(committed)) if account < committed => {
            let what = "the database went back, and `run` reads again what it lost; or somebody else set the group's offset, and `run` starts there";
            findings.warning(WHAT, format!("{line}: {what}"));
        }
        (None, Some(_)) if has_account => {
            let what = "the account is gone, and `run` reads the topic from its first record; or a member of the same group writes to another database, which is not allowed";
            findings.warning(WHAT, format!("{line}: {what}"));
        }
        _ => findings.ok(WHAT, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Level;

    const POSITION: GroupPosition = GroupPosition {
        partition: 0,
        committed: None,
        has_account: true,
        start: 0,
        end: 9,
        stable: 9,
    };

    #[test]
    fn an_empty_database_of_a_group_that_has_written_is_named() {
        let position =
            |has_account| [GroupPosition { committed: Some(7), has_account, ..POSITION }];
        let empty = Access::default();
        assert_eq!(
            misled(&position(false), &empty),
            None,
            "an earlier version, or another program"
        );
        assert!(misled(&position(true), &empty).is_some_and(|said| said.contains("store.url")));
        let file = Access { missing_file: Some("/mnt/rows.db".into()), ..Access::default() };
        assert!(misled(&position(true), &file).is_some_and(|said| said.contains("/mnt/rows.db")));
        let filled = Access { has_rows: true, ..Access::default() };
        assert_eq!(misled(&position(true), &filled), None);
    }

    #[test]
    fn a_table_that_is_behind_its_group_is_named() {
        let level = |account, committed, has_account| {
            let mut findings = Findings::default();
            let position = GroupPosition { committed, has_account, ..POSITION };
            compare(&mut findings, &position, account);
            (findings.findings[0].level, findings.findings.remove(0).message)
        };
        let line = "partition 0: account 7, committed 7, end 9".to_owned();
        assert_eq!(level(Some(7), Some(7), true), (Level::Ok, line));
        assert_eq!(level(Some(8), Some(7), true).0, Level::Ok);
        assert_eq!(level(None, None, false).0, Level::Ok);
        assert_eq!(level(None, Some(7), false).0, Level::Ok, "of an earlier version");
        assert_eq!(level(None, Some(7), true).0, Level::Warning);
        assert_eq!(level(Some(6), Some(7), true).0, Level::Warning);
    }

    #[test]
    fn records_that_are_lost_or_cannot_be_read_yet_are_named() {
        let found = |start, stable| {
            let mut findings = Findings::default();
            let position = GroupPosition { committed: Some(7), start, stable, ..POSITION };
            compare(&mut findings, &position, Some(6));
            let found = findings.findings.iter();
            found.map(|found| format!("{:?} {}", found.level, found.message)).collect::<Vec<_>>()
        };
        let lost = &found(8, 9)[0];
        assert!(lost.starts_with("Warning") && lost.contains("the 2 records before"), "{lost}");
        let open = &found(0, 7)[0];
        assert!(open.starts_with("Warning") && open.contains("from offset 7"), "{open}");
        assert_eq!(found(6, 9).len(), 1);
    }
}
