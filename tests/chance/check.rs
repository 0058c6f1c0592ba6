//! The check after every step, from outside: rows, dead letters, positions, probes, metrics, memory; no address and no
//! secret may appear anywhere.

use std::collections::BTreeMap;
use std::time::Instant;

use testkit::{ConsumedRecord, consume_all, eventually};

use crate::database::SECRET;
use crate::record::Expected;
use crate::rule::{self, SentEvent};
use crate::run::Run;
use crate::schedule::Fault;
use crate::support::{Row, STOP};

/// Memory limit of an ingester: its buffers, and 64 MiB for the rest of the program.
const MEMORY: u64 = (48 + 64) << 20;
/// With more events of a publication that may or may not have been read, its row is not compared.
const UNSURE: usize = 8;
/// Texts that only records may contain: addresses and invalid values.
const PRIVATE: [&str; 6] =
    [SECRET, "193.218.118.", "2620:7:6001", "2405:8100:8000", "10.1.2.3", "not an address"];
/// The exit code for lost records with `kafka.on_gap = "stop"`.
const GAP: i32 = 65;

/// `records_total` of all ingesters at a moment. Valid until an ingester is started or ends.
#[derive(Clone, Copy)]
pub(crate) struct Totals {
    changes: usize,
    records: f64,
}

impl Run<'_> {
    pub(crate) fn totals(&self) -> Totals {
        Totals { changes: self.changes, records: self.counted("records_total") }
    }

    /// Waits until the state is as expected, then checks what would not change by waiting.
    pub(crate) async fn check(&mut self, fault: Fault, before: Totals) {
        self.servers.mend_network();
        self.start_all();
        self.settle(fault).await;
        self.compare_metrics(fault, before);
        self.look_for_secrets().await;
        self.sent.found(self.evidence.lists.len());
        if self.reads_on {
            // The operator has accepted the gap, and now restores the setting.
            self.reads_on = false;
            self.stop_all();
            self.start_all();
            self.settle(Fault::Nothing).await;
        }
    }

    /// Waits until the ingesters have finished all records that were sent so far.
    pub(crate) async fn settle(&mut self, fault: Fault) {
        let until = Instant::now() + self.patience();
        eventually("what must come of a step", self.patience() * 2, async || {
            self.supervise(fault);
            let wrong = match self.at_rest().await {
                Ok(()) => self.compare(fault).await,
                wrong => wrong,
            };
            let wrong = wrong.err();
            if let Some(wrong) = wrong.as_ref().filter(|_| Instant::now() >= until) {
                self.blame_brokers().await;
                panic!("after \"{}\": {wrong}", fault.name());
            }
            wrong.is_none()
        })
        .await;
    }

    /// Panics if a cluster has lost records that it must have.
    async fn blame_brokers(&self) {
        if self.settings.cluster {
            let lost = self.compare_topic().await;
            lost.unwrap_or_else(|lost| panic!("the cluster is at fault: {lost}"));
        }
    }

    /// Does what an operator must do with `kafka.on_gap = "stop"`. An ingester may end for no other reason.
    fn supervise(&mut self, fault: Fault) {
        let mut number = 0;
        while number < self.ingesters.len() {
            if self.ingesters[number].daemon.is_running() {
                number += 1;
                continue;
            }
            let mut ended = self.ingesters.remove(number);
            let code = ended.daemon.wait_exit(STOP).code();
            let log = ended.daemon.log();
            let allowed = code == Some(GAP) && self.settings.stop_on_gap && fault.loses();
            assert!(allowed, "an ingester ended with {code:?} after \"{}\":\n{log}", fault.name());
            self.logs.push_str(&log);
            self.reads_on = true;
            self.start_ingester();
        }
    }

    /// Whether all ingesters are ready, all partitions are assigned, and nothing is left to read or commit.
    async fn at_rest(&self) -> Result<(), String> {
        let mut assigned = 0;
        for running in &self.ingesters {
            let ready = running.readyz().ok_or("no answer of /readyz")?;
            if ready.0 != 200 || ready.1["state"] != "ready" {
                return Err(format!("/readyz answers {} {}", ready.0, ready.1));
            }
            let live = testkit::http_get(&running.admin, "/livez");
            if live.map_err(|error| error.to_string())?.0 != 200 {
                return Err("/livez is not 200".to_owned());
            }
            let metrics = running.metrics();
            assigned += metrics.family("lag_records").len();
            let lag = metrics.sum("lag_records");
            if lag != 0.0 || metrics.sum("paused") != 0.0 {
                return Err(format!("lag_records is {lag}, paused {}", metrics.sum("paused")));
            }
        }
        let partitions = usize::try_from(self.settings.partitions).unwrap_or(0);
        if assigned != partitions {
            return Err(format!("{assigned} of {partitions} partitions are assigned"));
        }
        match self.scene.lag().await {
            0 => Ok(()),
            lag => Err(format!("the group has not committed {lag} offsets")),
        }
    }

    /// Compares rows and dead letters with the records that were sent.
    pub(crate) async fn compare(&mut self, fault: Fault) -> Result<(), String> {
        let rows = self.database.rows().await.ok_or("the database does not answer")?;
        self.compare_rows(&rows)?;
        let letters = consume_all(&self.scene.brokers, &self.scene.dead_letters).await;
        self.compare_letters(fault, &letters)
    }

    fn compare_rows(&self, rows: &[Row]) -> Result<(), String> {
        let mut expected = self.sent.publications(self.evidence.lists.len());
        for row in rows {
            let column = |name: &str| row[name].as_deref().unwrap_or_default();
            let events = expected.remove(&(column("name"), column("version")));
            self.compare_row(row, &events.ok_or_else(|| format!("a row of no event: {row:?}"))?)?;
        }
        match expected.iter().find(|(_, events)| events.iter().any(|sent| sent.must)) {
            Some((key, events)) => Err(format!("no row for {key:?} of {events:?}")),
            None => Ok(()),
        }
    }

    /// The row must result from all events that were read, and from some of those that may have been read.
    fn compare_row(&self, row: &Row, events: &[SentEvent<'_>]) -> Result<(), String> {
        let generation = row["generation"].as_deref().and_then(|text| text.parse::<i32>().ok());
        let generation = generation.ok_or("a row without a generation")?;
        let unsure = events.iter().filter(|sent| !sent.must).count();
        if unsure > UNSURE {
            return Ok(());
        }
        let mut nearest = None;
        for chosen in (0..1_u32 << unsure).rev() {
            let mut place = 0;
            let read = events.iter().filter(|sent| {
                place += u32::from(!sent.must);
                sent.must || chosen >> (place - 1) & 1 == 1
            });
            let read: Vec<&SentEvent<'_>> = read.collect();
            if read.is_empty() {
                continue;
            }
            let (expected, least) = rule::row(&read, &self.evidence, generation, row);
            let columns = expected.iter().filter(|(name, value)| row.get(*name) != Some(value));
            let wrong: Vec<_> = columns.collect();
            let within = (least..=self.generation).contains(&generation);
            if wrong.is_empty() && within {
                return Ok(());
            }
            nearest.get_or_insert_with(|| format!("{wrong:?}, generation at least {least}"));
        }
        Err(format!("the row {row:?} should have {}; of {events:?}", nearest.unwrap_or_default()))
    }

    /// Each rejected record has a dead letter. It has a second one only when the record was read twice.
    fn compare_letters(&mut self, fault: Fault, letters: &[ConsumedRecord]) -> Result<(), String> {
        let mut expected = BTreeMap::new();
        for sent in &self.sent.records {
            if let Expected::Rejected(code) = sent.outgoing.expected {
                expected.insert(sent.outgoing.record.key.as_deref(), (code, sent, 0_usize));
            }
        }
        for letter in letters {
            let code = letter.header("publication.error.code").unwrap_or_default();
            let place = ["partition", "offset"]
                .map(|name| letter.header(&format!("__connect.errors.{name}")).unwrap_or_default());
            let Some((planted, sent, count)) = expected.get_mut(&letter.key.as_deref()) else {
                return Err(format!("a dead letter {code} of a good record: {letter:?}"));
            };
            let from = [sent.partition.to_string(), sent.offset.to_string()];
            if *planted != code || place != from {
                return Err(format!(
                    "a dead letter {code} of {place:?}, not {planted} of {from:?}"
                ));
            }
            let record = &sent.outgoing.record;
            if (&letter.value, letter.timestamp.filter(|_| record.timestamp.is_some()))
                != (&record.value, record.timestamp)
            {
                return Err(format!("a dead letter {code} is not the record of {place:?}"));
            }
            *count += 1;
        }
        let missing =
            expected.values().find(|(_, sent, count)| sent.must_be_rejected() && *count == 0);
        if let Some((code, sent, _)) = missing {
            return Err(format!("no dead letter {code} of {}:{}", sent.partition, sent.offset));
        }
        let repeated = expected.values().map(|(_, _, count)| count.saturating_sub(1)).sum();
        if repeated > self.repeated && !fault.rereads() {
            let more = repeated - self.repeated;
            panic!("{more} dead letters came twice after \"{}\"", fault.name());
        }
        self.repeated = repeated;
        Ok(())
    }

    /// Compares the sums of the metrics.
    fn compare_metrics(&self, fault: Fault, before: Totals) {
        let mut gap = 0.0;
        for running in &self.ingesters {
            let metrics = running.metrics();
            let rejected = metrics.get("records_total{outcome=\"dead_lettered\"}");
            assert_eq!(rejected, Some(metrics.sum("dead_letters_total")), "dead letters");
            gap += metrics.sum("offset_gap_records_total");
            if let Some(peak) = running.daemon.peak_memory() {
                assert!(peak < MEMORY, "an ingester took {} MiB", peak >> 20);
            }
        }
        let now = self.totals();
        if now.changes == before.changes && !fault.rereads() {
            let read = now.records - before.records;
            let sent = self.sent_now;
            assert!((read - sent as f64).abs() < 0.5, "records_total grew by {read} of {sent}");
        }
        if let Some(lost) = self.gap.filter(|_| !self.settings.stop_on_gap) {
            assert!((gap - lost).abs() < 0.5, "{gap} records counted as lost, not {lost}");
        }
    }

    /// Checks that logs, metrics, probes and tables contain no address and no secret.
    pub(crate) async fn look_for_secrets(&self) {
        let tables = self.database.text().await;
        let rows = self.database.rows().await.expect("the database answers");
        let names = rows.iter().filter_map(|row| row["name"].as_deref());
        assert!(names.take(1).all(|name| tables.contains(name)), "the tables are searched");
        let mut texts = vec![("a log", self.logs.clone()), ("a table", tables)];
        for running in &self.ingesters {
            texts.push(("a log", running.daemon.log()));
            for page in ["/metrics", "/readyz"] {
                let answer = testkit::http_get(&running.admin, page);
                texts.push((page, answer.expect("the daemon answers").1));
            }
        }
        for (place, text) in texts {
            for private in PRIVATE {
                let line = text.lines().find(|line| line.contains(private));
                assert!(line.is_none(), "{private} in {place}: {}", line.unwrap_or_default());
            }
        }
    }
}
