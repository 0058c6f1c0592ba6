//! Checks the group's members: an ingester cannot join a group whose members use another assignor.

use super::Findings;
use crate::kafka::Group;
use crate::settings::{Kafka, OUR_ASSIGNOR};

const WHAT: &str = "group.members";
/// The maximum number of members to list.
const NAMED: usize = 10;

pub(super) fn check(findings: &mut Findings, kafka: &Kafka, group: &Result<Group, String>) {
    let group = match group {
        Ok(group) => group,
        Err(error) => {
            return findings.warning(WHAT, format!("the members are not known: {error}"));
        }
    };
    if group.members.is_empty() {
        return findings.ok(WHAT, "nobody is in the group");
    }
    let line = describe(group);
    let is_known = group.is_broker_assigned || group.assignor.is_empty();
    if is_known || kafka.is_broker_assigned() || group.assignor == OUR_ASSIGNOR {
        let ours = kafka.client_id();
        if group.members.iter().all(|(client, _)| client == ours) {
            return findings.ok(WHAT, line);
        }
        let what = format!(
            "not all are {ours}: what another program reads of this group's partitions is not ingested"
        );
        return findings.warning(WHAT, format!("{line}; {what}"));
    }
    let message = format!(
        "{line}; `run` uses {OUR_ASSIGNOR}, and the group does not take it while they are there: stop them, or give them \
         another group"
    );
    findings.problem(WHAT, message);
}

fn describe(group: &Group) -> String {
    let count = group.members.len();
    let way = if group.is_broker_assigned { "the broker assigns by" } else { "assignor" };
    let named = group.members.iter().take(NAMED);
    let named: Vec<_> = named.map(|(client, host)| format!("{client} ({host})")).collect();
    let more = if count > NAMED { ", and more" } else { "" };
    format!("{count} members, {way} {}: {}{more}", group.assignor, named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Level;

    #[test]
    fn members_with_another_assignor_are_a_problem() {
        let found = |is_broker_assigned, assignor: &str, members: usize| {
            let mut findings = Findings::default();
            let member = |n| (format!("client-{}", n % 10), "/127.0.0.1".to_owned());
            let members = (0..members).map(member).collect();
            let group = Group { is_broker_assigned, assignor: assignor.into(), members };
            let mut kafka = Kafka::default();
            kafka.client.insert("client.id".into(), "client-0".into());
            check(&mut findings, &kafka, &Ok(group));
            let found = findings.findings.remove(0);
            (found.level, found.message)
        };
        assert_eq!(found(false, "range", 0).0, Level::Ok);
        assert_eq!(found(false, "cooperative-sticky", 1).0, Level::Ok);
        assert_eq!(found(false, "", 1).0, Level::Ok, "they are joining");
        assert_eq!(found(true, "uniform", 1).0, Level::Ok);
        assert_eq!(found(false, "cooperative-sticky", 2).0, Level::Warning, "another program");
        let (level, message) = found(false, "range", 11);
        assert_eq!(level, Level::Problem);
        for word in ["11 members", "assignor range", "client-9 (/127.0.0.1), and more"] {
            assert!(message.contains(word), "{message}");
        }
    }
}
