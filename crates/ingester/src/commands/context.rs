//! What the commands that read records again have in common: today's evidence and rules, and the one loop with another
//! end.

use std::sync::Arc;

use anyhow::Context as _;
use service::metrics::Registry;
use store::{Jobs, PublicationReader, PublicationTable, PublicationWriter, Retrying};
use tokio::sync::mpsc;

use crate::daemon::health::Health;
use crate::daemon::metrics::IngesterMetrics;
use crate::daemon::observer::Waits;
use crate::evidence::EvidenceLoader;
use crate::kafka::{self, DeadLetters};
use crate::pipeline::Ingest;
use crate::pipeline::evaluate::Evaluator;
use crate::pipeline::ports::{BatchObserver, SourceEvent};
use crate::pipeline::write::{Delivery, Writer};
use crate::record::Record;
use crate::settings::Settings;

/// Acts on every record of a range until the source says that it has ended.
///
/// # Errors
/// What `act` answers; why the source cannot go on. A source that ends without a word has failed too: taken for the end
/// of the range, it would leave records out.
pub(crate) async fn each_record(
    mut events: mpsc::Receiver<SourceEvent>,
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

/// The parts of the loop, for a command.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) evaluator: Evaluator,
    pub(crate) store: Arc<dyn PublicationTable>,
    pub(crate) rows: Arc<dyn PublicationReader>,
    pub(crate) jobs: Arc<dyn Jobs>,
    pub(crate) health: Arc<Health>,
    metrics: Arc<IngesterMetrics>,
}

impl Context {
    /// Loads the evidence and opens the database, which is not written to.
    ///
    /// # Errors
    /// Exit lists that cannot be read, a database that cannot be used.
    pub(crate) async fn load(settings: Settings) -> anyhow::Result<Self> {
        // Nobody scrapes a command; the loop's parts count all the same.
        let metrics = Arc::new(IngesterMetrics::create(&Registry::new(), &kafka::version())?);
        let (of, counted) = (settings.clone(), metrics.clone());
        let exits =
            tokio::task::spawn_blocking(move || EvidenceLoader::load(&of, counted)).await??;
        let evaluator = Evaluator {
            decode: settings.decode_rules(),
            history: exits.history(),
            tfa: settings.tfa_rules(),
            generation: settings.enrich.generation,
        };
        Ok(Self {
            evaluator,
            store: store::open_writer(&settings.store)?,
            jobs: store::open_jobs(&settings.store)?,
            rows: store::open_reader(&settings.store)?,
            health: Arc::new(Health::new(settings.kafka.revoke_timeout, metrics.paused.clone())),
            metrics,
            settings,
        })
    }

    /// The highest generation of the table.
    ///
    /// # Errors
    /// When it is higher than the configuration's: what is judged now would be older than what the table says.
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

    /// The loop into the table.
    ///
    /// # Errors
    /// When librdkafka refuses a setting, by name.
    pub(crate) async fn to_table(
        &self,
        dead_letter: bool,
        books: Box<dyn BatchObserver>,
    ) -> anyhow::Result<Ingest> {
        if dead_letter {
            kafka::create_topic(&self.settings).await;
        }
        let dead_letters = dead_letter.then(|| DeadLetters::open(&self.settings)).transpose();
        let dead_letters = dead_letters.map_err(kafka::refused)?;
        Ok(self.ingest(self.store.clone(), dead_letters, books))
    }

    /// The loop into something that only looks like the table.
    pub(crate) fn to_other(
        &self,
        store: Arc<dyn PublicationWriter>,
        books: Box<dyn BatchObserver>,
    ) -> Ingest {
        self.ingest(store, None, books)
    }

    fn ingest(
        &self,
        store: Arc<dyn PublicationWriter>,
        dead_letters: Option<DeadLetters>,
        books: Box<dyn BatchObserver>,
    ) -> Ingest {
        let waits = Arc::new(Waits { health: self.health.clone(), metrics: self.metrics.clone() });
        let dead_letters =
            dead_letters.map(|topic| Delivery { topic: Box::new(topic), observer: waits.clone() });
        let rows = Arc::new(Retrying::new(store, waits));
        Ingest {
            evaluator: self.evaluator.clone(),
            evidence: Box::new(self.evaluator.history.clone()),
            writer: Arc::new(Writer { rows, dead_letters }),
            observer: books,
            limits: crate::daemon::batch_limits(&self.settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::ports::{AssignmentId, Chunk, SourceError};

    async fn read(events: Vec<SourceEvent>) -> anyhow::Result<()> {
        let (source, receiver) = mpsc::channel(8);
        for event in events {
            source.send(event).await.unwrap();
        }
        drop(source);
        each_record(receiver, async |_| Ok(())).await
    }

    fn empty() -> SourceEvent {
        SourceEvent::Records(Chunk { records: Vec::new(), assignment: AssignmentId::default() })
    }

    #[tokio::test]
    async fn only_the_word_that_it_has_ended_is_the_end_of_a_range() {
        read(vec![empty(), SourceEvent::Ended]).await.unwrap();
        let error = read(vec![empty()]).await.unwrap_err();
        assert!(error.to_string().contains("broke off"), "{error}");
        let failed = SourceEvent::Failed(SourceError::Range("cut".into()));
        let error = read(vec![failed, SourceEvent::Ended]).await.unwrap_err();
        assert!(error.to_string().contains("cut"), "{error}");
    }
}
