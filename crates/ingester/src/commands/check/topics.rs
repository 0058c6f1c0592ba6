//! Checks the two topics: rights, and settings that cause a loss.

use std::time::Duration;

use super::Findings;
use crate::kafka::{HEADER_BYTES, Inspected, Right, TopicFacts};
use crate::settings::Settings;

pub(super) fn check(findings: &mut Findings, settings: &Settings, inspected: &Inspected) {
    let kafka = &settings.kafka;
    right(findings, "source.read", &format!("reading {}", kafka.topic), &inspected.read);
    right(findings, "group", &format!("the group {}", kafka.group), &inspected.group);
    match &inspected.source {
        Ok(source) => {
            findings.ok("source", format!("{}: {} partitions", kafka.topic, source.partitions));
            check_source(findings, settings, source);
        }
        Err(error) => findings.problem("source", format!("{}: {error}", kafka.topic)),
    }
    match &inspected.dead_letters {
        Ok(letters) => {
            let topic = &kafka.dead_letter_topic;
            findings.ok("dead_letters", format!("{topic}: {} partitions", letters.partitions));
            right(findings, "dead_letters.write", &format!("writing {topic}"), &inspected.write);
            check_letters(findings, inspected.source.as_ref().ok(), letters);
        }
        Err(error) => findings.warning(
            "dead_letters",
            format!(
                "{}: {error}; `run` makes it at its start where it may, and pauses at the first rejected record where it may not",
                kafka.dead_letter_topic
            ),
        ),
    }
}

fn right(findings: &mut Findings, what: &'static str, subject: &str, right: &Right) {
    match right {
        Right::Given => findings.ok(what, format!("{subject} is allowed")),
        Right::Refused(error) => findings.problem(what, format!("{subject}: {error}")),
        Right::Unknown(why) => {
            findings.warning(what, format!("whether {subject} is allowed is not known: {why}"));
        }
    }
}

fn check_source(findings: &mut Findings, settings: &Settings, source: &TopicFacts) {
    if let Some(error) = &source.unread {
        return findings.warning("source.settings", unread(error));
    }
    if is_compacted(source) {
        findings.problem(
            "source.compacted",
            "cleanup.policy has compact, which keeps one record a key: the key has no version, so publications are deleted",
        );
    }
    replication(findings, "source.replication", source);
    retention(findings, settings, source);
    if source.config.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime") {
        findings.ok(
            "source.timestamps",
            "message.timestamp.type is LogAppendTime: future_time is evaluated by the broker's clock, and ranges by time mean when records arrived",
        );
    }
    let (limit, max) =
        (settings.limits.max_event_bytes.as_u64(), source.number("max.message.bytes"));
    if max.is_some_and(|max| u64::try_from(max).is_ok_and(|max| max > limit.saturating_add(4_096)))
    {
        findings.ok(
            "source.size",
            format!("the topic takes records of {} bytes; those over limits.max_event_bytes ({limit}) are rejected as too_large", max.unwrap_or(0)),
        );
    }
}

fn unread(error: &str) -> String {
    format!("the topic's settings (DescribeConfigs) are not checked: {error}")
}

fn is_compacted(topic: &TopicFacts) -> bool {
    topic.config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
}

fn retention(findings: &mut Findings, settings: &Settings, source: &TopicFacts) {
    let retention = source.number("retention.ms").unwrap_or(-1);
    let needed = settings.tor.settle_after + settings.tor.coverage;
    let kept = |span: Duration| {
        retention < 0 || u128::try_from(retention).is_ok_and(|kept| kept >= span.as_millis())
    };
    let words = |span: Duration| humantime::format_duration(span).to_string();
    let has = words(Duration::from_millis(u64::try_from(retention).unwrap_or(0)));
    if !kept(needed) {
        findings.problem(
            "source.retention",
            format!(
                "retention.ms is {has}, and settling reads records again for {} (tor.settle_after and tor.coverage): verdicts on Tor stay open for ever",
                words(needed)
            ),
        );
    } else if !kept(settings.tor.settle_horizon) {
        findings.warning(
            "source.retention",
            format!(
                "retention.ms is {has}, less than tor.settle_horizon ({}): lists that come later than that have no records to correct",
                words(settings.tor.settle_horizon)
            ),
        );
    } else if retention >= 0 {
        findings.ok(
            "source.retention",
            format!("records are kept for {has}; older ones cannot be replayed"),
        );
    } else {
        findings.ok("source.retention", "records are kept for ever");
    }
    if source.number("retention.bytes").is_some_and(|bytes| bytes >= 0) {
        findings.warning(
            "source.retention_bytes",
            "retention.bytes is set: a busy day may delete records before their time",
        );
    }
}

fn replication(findings: &mut Findings, what: &'static str, topic: &TopicFacts) {
    let in_sync = topic
        .number("min.insync.replicas")
        .and_then(|least| usize::try_from(least).ok())
        .unwrap_or(1);
    let replicas = topic.replicas;
    if replicas == 1 {
        findings.warning(what, "one replica: one broker's disk has the only copy of these records");
    } else if replicas <= in_sync {
        // A broker takes the number of replicas for a larger min.insync.replicas.
        findings.warning(what, format!("{replicas} replicas, and min.insync.replicas is {in_sync}: if one broker is away, nothing can be written"));
    } else if in_sync == 1 {
        findings.warning(what, format!("{replicas} replicas, but min.insync.replicas is 1: what one broker acknowledged alone is lost with it"));
    } else {
        findings.ok(what, format!("{replicas} replicas, of which {in_sync} must have a record"));
    }
    if topic.config.get("unclean.leader.election.enable").is_some_and(|enabled| enabled == "true") {
        findings.problem(what, "unclean.leader.election.enable: a replica that lacks acknowledged records may become the leader");
    }
}

fn check_letters(findings: &mut Findings, source: Option<&TopicFacts>, letters: &TopicFacts) {
    if let Some(error) = &letters.unread {
        return findings.warning("dead_letters.settings", unread(error));
    }
    if is_compacted(letters) {
        findings.problem(
            "dead_letters.compacted",
            "cleanup.policy has compact: of all dead letters of a package the last is kept",
        );
    }
    if letters.number("retention.ms").is_some_and(|retention| retention >= 0) {
        findings.warning(
            "dead_letters.retention",
            "retention.ms is set: dead letters carry the times of the records they repeat, so those of old records go at once; make it -1",
        );
    }
    if letters.number("retention.bytes").is_some_and(|retention| retention >= 0) {
        findings.warning(
            "dead_letters.retention",
            "retention.bytes is set: the oldest dead letters go when there are many; make it -1",
        );
    }
    replication(findings, "dead_letters.replication", letters);
    if let Some(source) = source {
        fits(findings, source, letters);
    }
}

/// Whether the topic accepts a dead letter of every record of the source. A refused letter is sent again with parts left out.
fn fits(findings: &mut Findings, source: &TopicFacts, letters: &TopicFacts) {
    let less = |name: &str, room: i64| {
        let (of_source, of_letters) = (source.number(name)?, letters.number(name)?);
        (of_letters < of_source.saturating_add(room)).then_some((of_letters, of_source))
    };
    if let Some((of_letters, of_source)) = less("max.message.bytes", HEADER_BYTES) {
        findings.warning(
            "dead_letters.size",
            format!("max.message.bytes is {of_letters}, less than the source's {of_source} and room for headers: the largest dead letters go without their value"),
        );
    }
    let largest = source.number("max.message.bytes").unwrap_or(0).saturating_add(HEADER_BYTES);
    if let Some(segment) = letters.number("segment.bytes").filter(|segment| *segment < largest) {
        findings.warning(
            "dead_letters.segment",
            format!("segment.bytes is {segment}, less than the largest dead letter ({largest}), which must fit into one: the largest dead letters go without their value"),
        );
    }
    for name in ["message.timestamp.before.max.ms", "message.timestamp.after.max.ms"] {
        if less(name, 0).is_some() {
            findings.warning(
                "dead_letters.timestamps",
                format!("{name} is less than the source's: dead letters of records out of these bounds have the present as their timestamp, and their own in the header publication.record.timestamp"),
            );
        }
    }
    let stamps = |topic: &TopicFacts| {
        topic.config.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime")
    };
    if stamps(letters) && !stamps(source) {
        findings.warning(
            "dead_letters.timestamps",
            "message.timestamp.type is LogAppendTime: the broker overwrites the times of the records, by which a redriven record's future_time is evaluated; make it CreateTime",
        );
    }
}

/// The guarantee that follows from the source topic's settings.
pub(super) fn guarantee(inspected: &Inspected) -> Option<String> {
    let source = inspected.source.as_ref().ok()?;
    let in_sync = source.number("min.insync.replicas").unwrap_or(1);
    Some(format!(
        "a record that its producer sent with acks=all survives the loss of {} of {} replicas",
        (in_sync - 1).clamp(0, i64::try_from(source.replicas).unwrap_or(0)),
        source.replicas
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Level;

    fn topic(replicas: usize, config: &[(&str, &str)]) -> TopicFacts {
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        TopicFacts { partitions: 1, replicas, config: config.collect(), unread: None }
    }

    fn found(act: impl FnOnce(&mut Findings)) -> Vec<(Level, &'static str)> {
        let mut findings = Findings::default();
        act(&mut findings);
        let found = findings.findings.iter().filter(|finding| finding.level > Level::Ok);
        found.map(|finding| (finding.level, finding.what)).collect()
    }

    #[test]
    fn replication_that_cannot_keep_its_word_is_named() {
        let of = |replicas, least| {
            found(|findings| {
                replication(findings, "r", &topic(replicas, &[("min.insync.replicas", least)]))
            })
        };
        assert_eq!(of(3, "2"), []);
        assert_eq!(of(3, "1"), [(Level::Warning, "r")]);
        assert_eq!(of(2, "2"), [(Level::Warning, "r")]);
        assert_eq!(of(1, "1"), [(Level::Warning, "r")]);
        assert_eq!(of(1, "2"), [(Level::Warning, "r")]);
        assert_eq!(of(2, "3"), [(Level::Warning, "r")]);
    }

    #[test]
    fn a_topic_that_does_not_take_every_letter_is_named() {
        let source = topic(
            1,
            &[
                ("max.message.bytes", "3000000"),
                ("segment.bytes", "1073741824"),
                ("message.timestamp.type", "CreateTime"),
                ("message.timestamp.before.max.ms", "9223372036854775807"),
                ("message.timestamp.after.max.ms", "9223372036854775807"),
            ],
        );
        let with = |name: &str, value: &str| {
            let mut letters = source.clone();
            letters.config.insert("max.message.bytes".into(), "3065536".into());
            letters.config.insert(name.into(), value.into());
            found(|findings| fits(findings, &source, &letters))
        };
        assert_eq!(with("segment.bytes", "3065536"), []);
        assert_eq!(with("segment.bytes", "3065535"), [(Level::Warning, "dead_letters.segment")]);
        assert_eq!(with("max.message.bytes", "3065535"), [(Level::Warning, "dead_letters.size")]);
        let timestamps = [(Level::Warning, "dead_letters.timestamps")];
        assert_eq!(with("message.timestamp.before.max.ms", "86400000"), timestamps);
        assert_eq!(with("message.timestamp.after.max.ms", "3600000"), timestamps);
        assert_eq!(with("message.timestamp.type", "LogAppendTime"), timestamps);
    }

    #[test]
    fn retention_is_compared_with_what_settling_reads() {
        let of = |millis| {
            let settings = Settings::default();
            found(|findings| retention(findings, &settings, &topic(3, &[("retention.ms", millis)])))
        };
        assert_eq!(of("-1"), []);
        assert_eq!(of("604800000"), []);
        assert_eq!(of("604799999"), [(Level::Warning, "source.retention")]);
        assert_eq!(of("32400000"), [(Level::Warning, "source.retention")]);
        assert_eq!(of("32399999"), [(Level::Problem, "source.retention")]);
    }
}
