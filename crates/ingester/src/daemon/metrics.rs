//! The ingester's metrics (crates/ingester/README.md, Metrics). The sum of `records_total` counts finished records.

use enrich::Source;
use model::{TfaReason, TorReason};
use service::metrics::{IntCounter, Registry, RegistryError};

use crate::decode::rejection::Code;
use crate::evidence::EvidenceObserver;

const OUTCOMES: &[&str] = &["inserted", "updated", "unchanged", "dead_lettered", "skipped"];
/// From the latency of one fast write to an outage of a night.
const LATENCY_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 3_600.0, 28_800.0,
];
const WRITE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const ROW_BUCKETS: &[f64] =
    &[1.0, 10.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 20_000.0];

service::metrics! {
    /// The ingester's metrics.
    pub struct IngesterMetrics "publication_ingester_" {
        /// Finished records, by outcome. A record that another record of its batch replaces is unchanged; a publication that two batches write at the same time may be inserted in both.
        pub records_total: IntCounterVec["outcome" = OUTCOMES],
        /// Records of an assigned partition not yet written; -1 while its end is not known.
        pub lag_records: IntGaugeVec["topic", "partition"],
        /// Age in seconds of the oldest record of an assigned partition not yet written; 0 when all are.
        pub lag_seconds: GaugeVec["topic", "partition"],
        /// State of an assigned partition over the last two minutes: 0 ok; 1 warn, the position moves and the lag never
        /// falls; 2 stall, the position stands still with lag while something is paused; 3 stop, it stands still and
        /// nothing is paused.
        pub partition_state: IntGaugeVec["topic", "partition"],
        /// From a record's Kafka timestamp to its row, in seconds.
        pub publish_to_row_seconds: Histogram(LATENCY_BUCKETS),
        /// Records written together.
        pub batch_rows: Histogram(ROW_BUCKETS),
        /// How long writing a batch took, with its retries, in seconds.
        pub store_write_seconds: Histogram(WRITE_BUCKETS),
        /// Writes tried again, by the class of the error.
        pub store_retries_total: IntCounterVec["class" = &["transient", "conflict", "timed_out", "busy", "data", "fatal"]],
        /// Records read again because the database went back in time and lacked what they had written.
        pub store_rewound_records_total: IntCounter,
        /// 1 while something that the ingester needs is away (Kafka, the topic, the leader of a partition, the database, the
        /// dead-letter topic), or everything is rejected. Other partitions than those without a leader are still read.
        pub paused: IntGauge,
        /// Partitions assigned or revoked, counted once a callback.
        pub rebalances_total: IntCounter,
        /// Records lost before they were read, as far as their number is known: to retention, with a topic that was
        /// deleted and created again, in a batch that is damaged, or skipped because somebody set the group's offset forwards.
        pub offset_gap_records_total: IntCounter,
        /// Dead letters acknowledged by the broker, by code.
        pub dead_letters_total: IntCounterVec["code"],
        /// Verdicts on Tor, by verdict (true, false, null) and reason.
        pub tor_verdicts_total: IntCounterVec["verdict", "reason"],
        /// Verdicts on the second factor, by verdict (true, false, null) and reason.
        pub tfa_verdicts_total: IntCounterVec["verdict", "reason"],
        /// Age in seconds of the newest valid exit list or database, by source; 0 for one of a time in the future, no series without any.
        pub exit_list_age_seconds: GaugeVec["source"],
        /// Exit lists and databases refused, by source; a series for each source that is set.
        pub exit_lists_refused_total: IntCounterVec["source"],
        /// Publications that became disputed.
        pub disputed_total: IntCounter,
        /// Always 1; which build this is.
        pub build_info: IntGaugeVec["version", "librdkafka"],
    }
}

/// The counter of each verdict, looked up once, because it is used up to a million times a second.
#[derive(Debug)]
pub(crate) struct Verdicts {
    /// By reason; each reason has one verdict.
    tor: Vec<IntCounter>,
    /// By reason, then by verdict null, false, true; a reason has one or two of the verdicts.
    tfa: Vec<[IntCounter; 3]>,
}

impl IngesterMetrics {
    /// Registers all metrics; series whose labels are known start at zero.
    pub(crate) fn create(registry: &Registry, librdkafka: &str) -> Result<Self, RegistryError> {
        let metrics = Self::register(registry)?;
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), librdkafka]).set(1);
        for code in Code::ALL {
            metrics.dead_letters_total.with_label_values(&[code.as_str()]);
        }
        Ok(metrics)
    }

    /// Shows these sources of exit lists from the start: the alert on a source without a list compares with them.
    pub(crate) fn show_sources(&self, sources: impl Iterator<Item = Source>) {
        for source in sources {
            self.exit_lists_refused_total.with_label_values(&[source.as_str()]);
        }
    }

    pub(crate) fn verdicts(&self) -> Verdicts {
        let word = |verdict: Option<bool>| match verdict {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        };
        let tor = |&reason: &TorReason| {
            self.tor_verdicts_total.with_label_values(&[word(reason.verdict()), reason.as_str()])
        };
        let tfa = |&reason: &TfaReason| {
            // Two reasons have two verdicts. A slot of a verdict that a reason cannot have repeats another one.
            let verdicts = match reason {
                TfaReason::Acr | TfaReason::Amr => ["false", "false", "true"],
                _ => [word(reason.verdict().tfa); 3],
            };
            verdicts.map(|verdict| {
                self.tfa_verdicts_total.with_label_values(&[verdict, reason.as_str()])
            })
        };
        Verdicts {
            tor: TorReason::ALL.iter().map(tor).collect(),
            tfa: TfaReason::ALL.iter().map(tfa).collect(),
        }
    }
}

impl EvidenceObserver for IngesterMetrics {
    fn refused(&self, source: Source) {
        self.exit_lists_refused_total.with_label_values(&[source.as_str()]).inc();
    }

    fn newest(&self, source: Source, age: Option<f64>) {
        let labels = [source.as_str()];
        match age {
            Some(age) => self.exit_list_age_seconds.with_label_values(&labels).set(age),
            // An error only means that there is no such series.
            None => drop(self.exit_list_age_seconds.remove_label_values(&labels)),
        }
    }
}

impl Verdicts {
    /// Counts the verdicts of a publication.
    pub(crate) fn count(&self, info: &model::PublicationInfo) {
        let place = info.tfa.map_or(0, |flag| 1 + usize::from(flag));
        self.tor[info.tor_reason as usize].inc();
        self.tfa[info.tfa_reason as usize][place].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_shows_every_metric() {
        let guide = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
        let table = service::metrics::markdown_table(&IngesterMetrics::descriptions());
        assert!(guide.contains(&table), "crates/ingester/README.md is to hold:\n{table}");
    }
}
