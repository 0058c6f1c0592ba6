//! The final report. Its numbers are from the metrics and from the rows of the table.

use std::path::Path;
use std::time::Duration;

use indicatif::HumanCount;
use ingester::IngesterMetrics;
use store::{Cursor, Filter, PublicationReader};

use crate::ask;
use crate::daemons::Addresses;

/// Rows per page: the table is read page by page, like by a client of the API.
const PAGE: u32 = 10_000;

/// The counts of the rows in the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    rows: u64,
    over_tor: u64,
    tor_unknown: u64,
    with_second_factor: u64,
    without_second_factor: u64,
    second_factor_unknown: u64,
}

impl Counts {
    /// Counts all rows.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) async fn of(reader: &dyn PublicationReader) -> Result<Self, store::Error> {
        let mut counts = Self::default();
        let mut after: Option<Cursor> = None;
        loop {
            let page = reader.list(&Filter::default(), after.as_ref(), PAGE).await?;
            for row in &page {
                counts.rows += 1;
                counts.over_tor += u64::from(row.info.tor == Some(true));
                counts.tor_unknown += u64::from(row.info.tor.is_none());
                counts.with_second_factor += u64::from(row.info.tfa == Some(true));
                counts.without_second_factor += u64::from(row.info.tfa == Some(false));
                counts.second_factor_unknown += u64::from(row.info.tfa.is_none());
            }
            let Some(last) = page.into_iter().last() else { return Ok(counts) };
            after = Some(Cursor { created: last.info.created, id: last.id });
        }
    }

    /// Prints the outcomes of the records, and the counts of the rows.
    pub(crate) fn print(&self, metrics: &IngesterMetrics, took: Duration) {
        let of = |outcome: &str| metrics.records_total.with_label_values(&[outcome]).get();
        println!("Written in {:.1} s:", took.as_secs_f64());
        println!("  {:>7}  rows inserted", human(of("inserted")));
        for (outcome, what) in [
            ("updated", "rows changed that were there"),
            ("unchanged", "rows found as they were"),
            ("dead_lettered", "records rejected into the dead-letter topic"),
            ("skipped", "records skipped"),
        ] {
            if of(outcome) > 0 {
                println!("  {:>7}  {what}", human(of(outcome)));
            }
        }
        println!("The {} rows of the table say:", HumanCount(self.rows));
        println!("  {:>7}  published over Tor", human(self.over_tor));
        println!("  {:>7}  not determined whether over Tor", human(self.tor_unknown));
        println!("  {:>7}  with a second factor", human(self.with_second_factor));
        println!("  {:>7}  without a second factor", human(self.without_second_factor));
        println!(
            "  {:>7}  not determined whether with a second factor",
            human(self.second_factor_unknown)
        );
    }
}

/// Formats a count. `HumanCount` ignores the width of a format.
fn human(count: u64) -> String {
    HumanCount(count).to_string()
}

/// Prints the addresses and commands for the next steps.
pub(crate) fn print_places(addresses: &Addresses, broker: &str, topic: &str, lockfile: &Path) {
    println!("Look around:");
    let http = ask::url(addresses.http);
    println!("  In a browser           {http}");
    println!("  A package's history    {http}package/story-weaker");
    println!("  GraphiQL               {http}graphiql");
    println!("  GraphQL                {http}graphql");
    println!("  Metrics, ingester      {}metrics", ask::url(addresses.ingester_admin));
    println!("  Metrics, query server  {}metrics", ask::url(addresses.query_admin));
    println!("  Kafka broker           {broker}, topic {topic}");
    println!();
    println!("Audit a lockfile that depends on these packages:");
    println!(
        "  cargo run --profile quickstart --package audit -- --url {http} {}",
        lockfile.display()
    );
    println!();
    println!("Publish something yourself, then ask for hello 1.0.0 in GraphiQL:");
    println!(
        "  echo '{OWN_EVENT}' | kcat -P -b {broker} -t {topic} -H content-type=application/cloudevents+json"
    );
    println!();
    println!("Serving until Ctrl-C.");
}

/// A short event, on the day of the example because exit lists cover it.
const OWN_EVENT: &str = r#"{"specversion":"1.0","id":"mine-1","source":"/me","type":"registry.package.published.v1","data":{"package":{"ecosystem":"npm","name":"hello","version":"1.0.0"},"publishedAt":"2019-07-25T18:09:11Z","actor":{"kind":"user","username":"me"},"request":{"ip":"71.160.223.45"},"auth":{"secondFactor":{"presented":true,"verified":true,"method":"totp"}}}}"#;
