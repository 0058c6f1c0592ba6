//! The metrics of the query daemon.

use crate::error::Code;

service::metrics! {
    /// The metrics of the query daemon (crates/query/README.md, Metrics). No label ever holds a package, a user or an
    /// address.
    pub struct QueryMetrics "publication_query_" {
        /// Requests answered or refused, by the class of the HTTP status and by outcome; GraphiQL's files and the schema aside.
        pub requests_total: IntCounterVec["status" = &["2xx", "3xx", "4xx", "5xx"], "outcome" = Code::OUTCOMES],
        /// Time from the end of a request's head to its answer, in seconds, by outcome.
        pub request_seconds: HistogramVec["outcome" = Code::OUTCOMES](&[
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ]),
        /// Publications that an executed operation asked for.
        pub keys: Histogram(&[0.0, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0]),
        /// Documents looked up by their text, by whether they were there.
        pub document_cache_lookups_total: IntCounterVec["result" = &["hit", "miss"]],
        /// Estimated memory of the cached documents, in bytes.
        pub document_cache_bytes: IntGauge,
        /// Persisted queries asked for by their hash alone, by whether they were there.
        pub persisted_query_lookups_total: IntCounterVec["result" = &["hit", "miss"]],
        /// Memory that the texts of persisted queries take, in bytes.
        pub persisted_query_bytes: IntGauge,
        /// Clients that the rate limit counts at the moment.
        pub rate_limit_clients: IntGauge,
        /// Time of a statement of the store, in seconds.
        pub store_seconds: HistogramVec["statement" = &["find", "list", "history", "search"]](&[
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ]),
        /// Statements of the store that failed, by the class of the error.
        pub store_errors_total: IntCounterVec["class" = &["transient", "conflict", "timed_out", "busy", "data", "fatal"]],
        /// 1 while the database answers, as `/readyz` says; else 0.
        pub ready: IntGauge,
        /// Connections that are open.
        pub connections: IntGauge,
        /// Bytes of answers that are being sent.
        pub answers_bytes: IntGauge,
        /// Always 1; the label says which build this is.
        pub build_info: IntGaugeVec["version"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_shows_every_metric() {
        let guide = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
        let table = service::metrics::markdown_table(&QueryMetrics::descriptions());
        assert!(guide.contains(&table), "crates/query/README.md is to hold:\n{table}");
    }
}
