//! Metrics as structs: [`metrics!`](crate::metrics!) turns a field into a metric whose doc comment is its HELP text.
//!
//! The caller passes in a registry, so that two daemons in one process do not share metrics. If the values of every
//! label are known, all series exist at zero from the start: a counter that first appears with its first event hides
//! that event from `rate()`.

use std::fmt::Write as _;

use prometheus::{Error, HistogramOpts, Opts};
pub use prometheus::{Error as RegistryError, Registry};
pub use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

/// One label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The label's name.
    pub name: &'static str,
    /// All its possible values, if they are known.
    pub values: Option<&'static [&'static str]>,
}

/// The description of a field of [`metrics!`](crate::metrics!).
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The full name, with the prefix.
    pub name: String,
    /// `counter`, `gauge` or `histogram`, as Prometheus calls it.
    pub kind: &'static str,
    /// The labels, in order.
    pub labels: Vec<Label>,
    /// The HELP text.
    pub help: String,
    /// The upper bounds of a histogram's buckets, in the metric's unit; `None` = the library's defaults.
    pub buckets: Option<&'static [f64]>,
}

impl Description {
    fn opts(&self) -> Opts {
        Opts::new(&self.name, &self.help)
    }

    fn histogram_opts(&self) -> HistogramOpts {
        let opts = HistogramOpts::from(self.opts());
        match self.buckets {
            Some(buckets) => opts.buckets(buckets.to_vec()),
            None => opts,
        }
    }

    fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    /// Every combination of the labels' values; empty if the values of a label are not known.
    fn combinations(&self) -> Vec<Vec<&'static str>> {
        let mut rows = vec![Vec::with_capacity(self.labels.len())];
        for label in &self.labels {
            let Some(values) = label.values else { return Vec::new() };
            rows = rows
                .iter()
                .flat_map(|row| values.iter().map(|&value| [row.as_slice(), &[value]].concat()))
                .collect();
        }
        rows
    }
}

/// A kind of metric that [`metrics!`](crate::metrics!) can hold.
pub trait Metric: Sized {
    /// The type's name in Prometheus.
    const KIND: &'static str;

    /// Creates the metric, registers it, and sets its known series to zero.
    ///
    /// # Errors
    /// If the name or a label is malformed, or the registry has the name already.
    fn register(description: &Description, registry: &Registry) -> Result<Self, Error>;
}

macro_rules! single {
    ($($type:ident $kind:literal $opts:ident;)*) => {$(
        impl Metric for $type {
            const KIND: &'static str = $kind;

            fn register(description: &Description, registry: &Registry) -> Result<Self, Error> {
                let metric = Self::with_opts(description.$opts())?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            }
        }
    )*};
}

macro_rules! family {
    ($($type:ident $kind:literal $opts:ident;)*) => {$(
        impl Metric for $type {
            const KIND: &'static str = $kind;

            fn register(description: &Description, registry: &Registry) -> Result<Self, Error> {
                let metric = Self::new(description.$opts(), &description.label_names())?;
                registry.register(Box::new(metric.clone()))?;
                for values in description.combinations() {
                    metric.get_metric_with_label_values(&values)?;
                }
                Ok(metric)
            }
        }
    )*};
}

single! {
    IntCounter "counter" opts;
    Gauge "gauge" opts;
    IntGauge "gauge" opts;
    Histogram "histogram" histogram_opts;
}

family! {
    IntCounterVec "counter" opts;
    GaugeVec "gauge" opts;
    IntGaugeVec "gauge" opts;
    HistogramVec "histogram" histogram_opts;
}

/// A table of a crate's metrics for its guide, in Markdown: name, type, labels, help.
#[must_use]
pub fn markdown_table(descriptions: &[Description]) -> String {
    let mut table =
        String::from("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for description in descriptions {
        let labels: Vec<String> = description.labels.iter().map(describe_label).collect();
        let (name, kind, help) = (&description.name, description.kind, &description.help);
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    table
}

fn describe_label(label: &Label) -> String {
    match label.values {
        Some(values) => format!("`{}` ({})", label.name, values.join(" ")),
        None => format!("`{}`", label.name),
    }
}

/// Declares a struct of metrics, `register` and `descriptions`.
///
/// ```
/// service::metrics! {
///     /// What the example counts.
///     pub struct ExampleMetrics "example_" {
///         /// Records read.
///         pub records_total: IntCounterVec["outcome" = &["inserted", "skipped"]],
///         /// Records of a topic waiting.
///         pub lag_records: IntGaugeVec["topic"],
///         /// Time a write took, in seconds.
///         pub write_seconds: Histogram(&[0.01, 0.1, 1.0]),
///     }
/// }
/// let registry = prometheus::Registry::new();
/// let metrics = ExampleMetrics::register(&registry).unwrap();
/// metrics.records_total.with_label_values(&["inserted"]).inc();
/// assert_eq!(ExampleMetrics::descriptions()[0].help, "Records read.");
/// ```
#[macro_export]
macro_rules! metrics {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $struct:ident $prefix:literal {
            $(
                $(#[doc = $help:literal])+
                $field_visibility:vis $field:ident: $kind:ident
                $([$($label:literal $(= $values:expr)?),+ $(,)?])?
                $(($buckets:expr))?
            ),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone)]
        $visibility struct $struct {
            $(
                $(#[doc = $help])+
                $field_visibility $field: $crate::metrics::$kind,
            )*
        }

        impl $struct {
            /// Creates and registers all metrics; series with known label values start at zero.
            ///
            /// # Errors
            /// If the registry has one of the names already.
            $visibility fn register(
                registry: &$crate::metrics::Registry,
            ) -> ::std::result::Result<Self, $crate::metrics::RegistryError> {
                let mut descriptions = Self::descriptions().into_iter();
                // The fields are in the same order as in `descriptions`.
                let mut next = || descriptions.next().ok_or_else(|| {
                    $crate::metrics::RegistryError::Msg("a metric without a description".into())
                });
                ::std::result::Result::Ok(Self {
                    $($field: <$crate::metrics::$kind as $crate::metrics::Metric>::register(&next()?, registry)?,)*
                })
            }

            /// Names, kinds, labels and HELP texts, in the order of the fields.
            #[must_use]
            $visibility fn descriptions() -> ::std::vec::Vec<$crate::metrics::Description> {
                ::std::vec![$(
                    $crate::metrics::Description {
                        name: ::std::concat!($prefix, ::std::stringify!($field)).into(),
                        kind: <$crate::metrics::$kind as $crate::metrics::Metric>::KIND,
                        labels: ::std::vec![$($(
                            $crate::metrics::Label {
                                name: $label,
                                values: $crate::metrics!(@optional $($values)?),
                            },
                        )+)?],
                        help: ::std::string::String::from(::std::concat!($($help),+).trim()),
                        buckets: $crate::metrics!(@optional $($buckets)?),
                    },
                )*]
            }
        }
    };
    (@optional) => { ::std::option::Option::None };
    (@optional $value:expr) => { ::std::option::Option::Some($value) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder, TextEncoder};

    const OUTCOMES: &[&str] = &["inserted", "skipped"];

    crate::metrics! {
        /// For the tests.
        struct Sample "sample_" {
            /// Records read,
            /// by outcome.
            records_total: IntCounterVec["outcome" = OUTCOMES, "kind" = &["a", "b"]],
            /// Open.
            lag_records: IntGaugeVec["topic"],
            /// Alone.
            paused: IntGauge,
            /// Seconds.
            write_seconds: Histogram(&[0.5, 1.0]),
            /// Seconds by store.
            store_seconds: HistogramVec["store" = &["sqlite"]](&[2.0]),
        }
    }

    fn text(registry: &Registry) -> String {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn known_series_are_there_at_zero_and_the_doc_comment_is_the_help() {
        let registry = Registry::new();
        let sample = Sample::register(&registry).unwrap();
        let text = text(&registry);
        for line in [
            "# HELP sample_records_total Records read, by outcome.",
            "sample_records_total{kind=\"a\",outcome=\"inserted\"} 0",
            "sample_records_total{kind=\"b\",outcome=\"skipped\"} 0",
            "sample_paused 0",
            "sample_write_seconds_bucket{le=\"0.5\"} 0",
            "sample_store_seconds_bucket{store=\"sqlite\",le=\"2\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("sample_lag_records"), "an open label has no series yet");
        sample.lag_records.with_label_values(&["t"]).set(1);
        sample.paused.set(1);
        sample.write_seconds.observe(0.1);
        sample.store_seconds.with_label_values(&["sqlite"]).observe(0.1);
        sample.records_total.with_label_values(&["inserted", "a"]).inc();
    }

    #[test]
    fn two_registries_do_not_meet_and_one_takes_a_name_once() {
        let registry = Registry::new();
        Sample::register(&registry).unwrap();
        Sample::register(&Registry::new()).unwrap();
        assert!(Sample::register(&registry).is_err());
    }

    #[test]
    fn the_table_lists_names_labels_and_help() {
        let table = markdown_table(&Sample::descriptions());
        assert!(table.contains(
            "| `sample_records_total` | counter | `outcome` (inserted skipped), `kind` (a b) | Records read, by outcome. |"
        ), "{table}");
        assert!(table.contains("| `sample_lag_records` | gauge | `topic` | Open. |"), "{table}");
    }
}
