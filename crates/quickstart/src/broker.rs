//! The in-process broker, and the producer of events.

use anyhow::Context;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};

use crate::events::Record;

/// The broker drops the oldest records of a partition beyond 5 MiB, read or not. More partitions keep more records to
/// look at.
const PARTITIONS: i32 = 8;

/// librdkafka's mock cluster: the real protocol, no disk, removed when this value is dropped.
pub(crate) struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts one broker with both topics.
    ///
    /// # Errors
    /// librdkafka returns an error.
    pub(crate) fn start(topic: &str, dead_letter_topic: &str) -> anyhow::Result<Self> {
        let start = || {
            let cluster = MockCluster::new(1)?;
            cluster.create_topic(topic, PARTITIONS, 1)?;
            cluster.create_topic(dead_letter_topic, 1, 1)?;
            Ok::<_, rdkafka::error::KafkaError>(cluster)
        };
        Ok(Self { cluster: start().context("starting the broker of this process")? })
    }

    /// The address for clients, such as the ingester and `kcat`.
    pub(crate) fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}

/// A producer, as a registry would have.
pub(crate) struct Feed {
    producer: FutureProducer,
    topic: String,
}

impl Feed {
    /// # Errors
    /// librdkafka returns an error.
    pub(crate) fn open(broker: &str, topic: &str) -> anyhow::Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", broker)
            .set("client.id", "quickstart")
            .set("linger.ms", "2")
            .set("enable.idempotence", "true")
            .create()
            .context("starting the producer")?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Produces records and waits until the broker has all of them. Their timestamps are the current time, so that old
    /// publications do not appear as years of lag.
    ///
    /// # Errors
    /// The broker did not accept a record.
    pub(crate) async fn send(&self, records: &[Record]) -> anyhow::Result<()> {
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let content_type =
                Header { key: "content-type", value: Some("application/cloudevents+json") };
            let record = FutureRecord::to(&self.topic)
                .key(&record.key)
                .payload(&record.value)
                .headers(OwnedHeaders::new_with_capacity(1).insert(content_type));
            deliveries.push(self.producer.send_result(record).map_err(|(error, _)| error)?);
        }
        for delivery in deliveries {
            delivery.await?.map_err(|(error, _)| error).context("producing an event")?;
        }
        Ok(())
    }
}
