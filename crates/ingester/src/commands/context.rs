//! The common parts of the commands that read records again: present evidence and rules, the database, and the ingest loop.

use std::sync::Arc;

use anyhow::Context as _;
use enrich::ExitHistory;
use store::{Jobs, PublicationReader, PublicationTable, Retrying};
use tokio::sync::mpsc::Receiver;

use crate::commands::ranges;
use crate::commands::waits::Waits;
use crate::evidence::EvidenceLoader;
use crate::kafka::{self, Bound, DeadLetters, OffsetRanges};
use crate::pipeline::evaluate::{Evaluator, check_generation};
use crate::pipeline::ports::{BatchObserver, RowStore, SourceEvent};
use crate::pipeline::write::{Delivery, Writer};
use crate::pipeline::{BatchLimits, Ingest};
use crate::record::Record;
use crate::settings::Settings;

/// Calls `act` for every record of a range until the source reports the end.
///
/// # Errors
/// The error of `act`, or the source's failure. A source that ends without a report has failed too: to treat that as
/// the end of the range would leave records out.
pub(crate) async fn each_record(
    mut events: Receiver<SourceEvent>,
    mut act: impl AsyncFnMut(Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while let Some(event) = events.recv().await {
        match event {
            SourceEvent::Records(chunk) => {
                for record in chunk.records {
                    act(record).await?;
                }
            }
            SourceEvent::Failed(error) => return Err(error.into()),
            SourceEvent::Ended => return Ok(()),
            // Only a group's consumer sends this event; ranges are read without a group.
            SourceEvent::Revoking { .. } => {}
        }
    }
    anyhow::bail!("reading broke off before the end of the range")
}

async fn load_lists(settings: &Settings) -> anyhow::Result<Arc<ExitHistory>> {
    let settings = settings.clone();
    // A command's metrics are not scraped.
    let load = move || EvidenceLoader::load(&settings, Arc::new(()));
    Ok(tokio::task::spawn_blocking(load).await??.history())
}

/// The parts of the ingest loop, for a command. Every use of the database waits until it is available.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) evaluator: Evaluator,
    pub(crate) store: Arc<Retrying<dyn PublicationTable>>,
    pub(crate) rows: Arc<Retrying<dyn PublicationReader>>,
    pub(crate) jobs: Arc<Retrying<dyn Jobs>>,
    pub(crate) waits: Arc<Waits>,
}

impl Context {
    /// Loads the evidence and opens the database, without writing to it.
    ///
    /// # Errors
    /// If exit lists cannot be read, or the database cannot be used.
    pub(crate) async fn load(settings: Settings) -> anyhow::Result<Self> {
        let history = load_lists(&settings).await?;
        let waits = Arc::new(Waits::default());
        // Opened once: two connections to an SQLite file would wait for each other's lock.
        let opened = store::open(&settings.store)?;
        Ok(Self {
            evaluator: Evaluator::new(&settings, history),
            store: Arc::new(Retrying::new(opened.table, waits.clone())),
            rows: Arc::new(Retrying::new(store::open_reader(&settings.store)?, waits.clone())),
            jobs: Arc::new(Retrying::new(opened.jobs, waits.clone())),
            waits,
            settings,
        })
    }

    /// Loads the lists again. Fails if one came meanwhile that concerns acts whose verdicts were settled without it: the daemon's
    /// settling pass has seen only the rows that were there.
    ///
    /// # Errors
    /// Such a list; also if exit lists cannot be read.
    pub(crate) async fn no_older_lists_came(&self) -> anyhow::Result<()> {
        let Some(before) = self.evaluator.history.fingerprint() else { return Ok(()) };
        let differs = load_lists(&self.settings).await?.differs_since(&before);
        anyhow::ensure!(
            differs.is_none(),
            "the exit lists of the past changed while it ran: run it again from its beginning"
        );
        Ok(())
    }

    /// For rows that were refused before (see [`Retrying::evaluating_rows_alone`]).
    pub(crate) fn evaluating_rows_alone(self) -> Self {
        let table = Retrying::new(self.store.inner().clone(), self.waits.clone());
        Self { store: Arc::new(table.evaluating_rows_alone()), ..self }
    }

    /// The highest generation in the table.
    ///
    /// # Errors
    /// If it is higher than the configured generation, because new verdicts would be older than those in the table.
    pub(crate) async fn table_generation(&self) -> anyhow::Result<u32> {
        let table =
            self.store.generation().await.context("asking the table; `migrate` makes it")?;
        check_generation(&self.settings, table)?;
        Ok(table)
    }

    /// The offsets of the source topic between two bounds.
    ///
    /// # Errors
    /// If the broker does not answer, does not have the topic, or has not reached the first offset.
    pub(crate) async fn find_ranges(&self, bounds: (Bound, Bound)) -> anyhow::Result<OffsetRanges> {
        let topic = self.settings.kafka.topic.clone();
        ranges::ask(&self.settings, move |reader| {
            let partitions = reader.partitions(&topic, &[])?;
            let found = ranges::between(reader, &topic, &partitions, bounds)?;
            if found.partitions.is_empty() {
                ranges::not_still_to_come(reader, &topic, &partitions, bounds.0)?;
            }
            Ok(found)
        })
        .await
    }

    /// The ingest loop that writes to the table; rejected records are also sent to the dead-letter topic.
    ///
    /// # Errors
    /// If librdkafka refuses a setting; the error names it.
    pub(crate) async fn ingest_with_dead_letters(
        &self,
        observer: Box<dyn BatchObserver>,
    ) -> anyhow::Result<Ingest> {
        if let Err(error) = kafka::create_topic(&self.settings).await {
            let topic = self.settings.kafka.dead_letter_topic.as_str();
            tracing::warn!(topic, %error, "no answer about the dead-letter topic");
        }
        let topic = Box::new(DeadLetters::open(&self.settings).map_err(kafka::refused)?);
        let delivery = Delivery { topic, observer: self.waits.clone() };
        Ok(self.ingest(self.store.clone(), Some(delivery), observer))
    }

    /// The ingest loop that writes to these rows; without a delivery, rejected records are only counted.
    pub(crate) fn ingest(
        &self,
        rows: Arc<dyn RowStore>,
        dead_letters: Option<Delivery>,
        observer: Box<dyn BatchObserver>,
    ) -> Ingest {
        Ingest {
            evaluator: self.evaluator.clone(),
            evidence: Box::new(self.evaluator.history.clone()),
            writer: Arc::new(Writer { rows, dead_letters }),
            observer,
            limits: BatchLimits::from(&self.settings),
        }
    }
}

/// Opens only the jobs of replays.
///
/// # Errors
/// If the database cannot be used.
pub(crate) fn jobs(settings: &Settings) -> anyhow::Result<Retrying<dyn Jobs>> {
    Ok(Retrying::new(store::open(&settings.store)?.jobs, Arc::new(Waits::default())))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::pipeline::ports::{Chunk, SourceError};

    async fn read(events: Vec<SourceEvent>) -> anyhow::Result<()> {
        let (source, receiver) = mpsc::channel(8);
        for event in events {
            source.send(event).await.unwrap();
        }
        drop(source);
        each_record(receiver, async |_| Ok(())).await
    }

    #[tokio::test]
    async fn only_the_word_that_it_has_ended_is_the_end_of_a_range() {
        let none =
            || SourceEvent::Records(Chunk { records: Vec::new(), assignment: Default::default() });
        read(vec![none(), SourceEvent::Ended]).await.unwrap();
        let error = read(vec![none()]).await.unwrap_err();
        assert!(error.to_string().contains("broke off"), "{error}");
        let failed = SourceEvent::Failed(SourceError::Range("cut".into()));
        let error = read(vec![failed, SourceEvent::Ended]).await.unwrap_err();
        assert!(error.to_string().contains("cut"), "{error}");
    }
}
