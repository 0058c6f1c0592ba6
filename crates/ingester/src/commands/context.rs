//! What the commands that read records again have in common: today's evidence and rules, the database, and the one loop.

use std::sync::Arc;

use anyhow::Context as _;
use store::{Jobs, PublicationReader, PublicationTable, Retrying};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::commands::ranges;
use crate::commands::waits::Waits;
use crate::evidence::EvidenceLoader;
use crate::kafka::{self, Bound, DeadLetters, OffsetRanges, RateLimit};
use crate::pipeline::evaluate::Evaluator;
use crate::pipeline::ports::{BatchObserver, RowStore, SourceEvent};
use crate::pipeline::write::{Delivery, Writer};
use crate::pipeline::{BatchLimits, Ingest};
use crate::record::Record;
use crate::settings::Settings;

/// Acts on every record of a range until the source says that it has ended.
///
/// # Errors
/// What `act` answers; why the source cannot go on. A source that ends without a word has failed too: taken for the end
/// of the range, it would leave records out.
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
            // Of a group's consumer only, which reads no range.
            SourceEvent::Revoking { .. } => {}
        }
    }
    anyhow::bail!("reading broke off before the end of the range")
}

/// The parts of the loop, for a command. The database is waited for, whatever a command asks of it.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) evaluator: Evaluator,
    pub(crate) store: Arc<Retrying<dyn PublicationTable>>,
    pub(crate) rows: Arc<Retrying<dyn PublicationReader>>,
    pub(crate) jobs: Arc<Retrying<dyn Jobs>>,
    pub(crate) waits: Arc<Waits>,
}

impl Context {
    /// Loads the evidence and opens the database, which is not written to.
    ///
    /// # Errors
    /// Exit lists that cannot be read, a database that cannot be used.
    pub(crate) async fn load(settings: Settings) -> anyhow::Result<Self> {
        let of = settings.clone();
        // Nobody scrapes the metrics of a command.
        let load = move || EvidenceLoader::load(&of, Arc::new(()));
        let history = tokio::task::spawn_blocking(load).await??.history();
        let evaluator = Evaluator {
            decode: settings.decode_rules(),
            history,
            tfa: settings.tfa_rules(),
            generation: settings.enrich.generation,
        };
        let waits = Arc::new(Waits::default());
        Ok(Self {
            evaluator,
            store: Arc::new(Retrying::new(store::open_writer(&settings.store)?, waits.clone())),
            rows: Arc::new(Retrying::new(store::open_reader(&settings.store)?, waits.clone())),
            jobs: jobs(&settings, &waits)?,
            waits,
            settings,
        })
    }

    /// The highest generation of the table.
    ///
    /// # Errors
    /// When it is higher than the configuration's: what is evaluated now would be older than what the table says.
    pub(crate) async fn table_generation(&self) -> anyhow::Result<u32> {
        let table =
            self.store.generation().await.context("asking the table; `migrate` makes it")?;
        let ours = self.settings.enrich.generation;
        anyhow::ensure!(
            ours >= table,
            "enrich.generation is {ours}, and the table has verdicts of generation {table}: set it to {table} or higher"
        );
        Ok(table)
    }

    /// What the source topic holds between two bounds.
    ///
    /// # Errors
    /// When the broker does not answer, or does not have the topic.
    pub(crate) async fn find_ranges(&self, bounds: (Bound, Bound)) -> anyhow::Result<OffsetRanges> {
        let topic = self.settings.kafka.topic.clone();
        ranges::find(&self.settings, topic, Vec::new(), bounds).await
    }

    /// Reads ranges of a topic.
    ///
    /// # Errors
    /// When librdkafka refuses a setting, by name.
    pub(crate) fn read(
        &self,
        ranges: OffsetRanges,
        limit: RateLimit,
        stop: CancellationToken,
    ) -> anyhow::Result<Receiver<SourceEvent>> {
        ranges::read(&self.settings, ranges, limit, stop)
    }

    /// The loop into these rows; rejected records are counted only.
    pub(crate) fn ingest(
        &self,
        rows: Arc<dyn RowStore>,
        observer: Box<dyn BatchObserver>,
    ) -> Ingest {
        self.ingest_with(rows, None, observer)
    }

    /// The loop into the table; rejected records are sent to the dead-letter topic too.
    ///
    /// # Errors
    /// When librdkafka refuses a setting, by name.
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
        Ok(self.ingest_with(self.store.clone(), Some(delivery), observer))
    }

    fn ingest_with(
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

/// The jobs of replays, without the rest.
///
/// # Errors
/// A database that cannot be used.
pub(crate) fn jobs(
    settings: &Settings,
    waits: &Arc<Waits>,
) -> anyhow::Result<Arc<Retrying<dyn Jobs>>> {
    Ok(Arc::new(Retrying::new(store::open_jobs(&settings.store)?, waits.clone())))
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
