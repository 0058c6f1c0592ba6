//! Completes letters with omitted parts, by reading their original records.

use std::sync::Arc;

use parking_lot::Mutex;

use super::DeadLetter;
use crate::kafka::{self, RangeReader};
use crate::record::Record;
use crate::settings::Settings;

/// In KiB: one record is read at a time.
const BUFFER: u64 = 4_096;

/// Reads the original records of letters, as needed.
#[derive(Clone)]
pub(crate) struct Originals {
    settings: Settings,
    reader: Arc<Mutex<Option<RangeReader>>>,
}

impl Originals {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), reader: Arc::default() }
    }

    /// The complete record as it was rejected, at the letter's position; `None` if the letter omits a part of it and
    /// the original record is no longer in its topic.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub(crate) async fn whole(&self, record: &Record) -> anyhow::Result<Option<Record>> {
        let letter = DeadLetter(record);
        if !letter.is_without("value") && !letter.is_without("headers") {
            // Only the key may be omitted, and the evaluation does not use it.
            let timestamp = letter.timestamp().or(record.timestamp);
            return Ok(Some(Record { timestamp, ..record.clone() }));
        }
        let Some((topic, partition, offset)) = letter.place() else { return Ok(None) };
        let originals = self.clone();
        let find = move || originals.find(&topic, partition, offset);
        let original = tokio::task::spawn_blocking(find).await??;
        let original = original.filter(|original| letter.is_of(original));
        Ok(original.map(|original| Record { position: record.position.clone(), ..original }))
    }

    fn find(&self, topic: &str, partition: i32, offset: i64) -> anyhow::Result<Option<Record>> {
        let mut reader = self.reader.lock();
        let reader = match &mut *reader {
            Some(reader) => reader,
            none => none.insert(RangeReader::open(&self.settings, BUFFER).map_err(kafka::refused)?),
        };
        Ok(reader.record_at(topic, partition, offset)?)
    }
}

impl DeadLetter<'_> {
    /// Whether the letter can be of this record. If the topic was created again, its position may belong to another record.
    fn is_of(&self, original: &Record) -> bool {
        let has_its_key = self.is_without("key") || self.0.key == original.key;
        has_its_key && self.timestamp().is_none_or(|time| original.timestamp == Some(time))
    }
}

#[cfg(test)]
mod tests {
    use model::Position;

    use super::*;
    use crate::record::Header;

    fn record(headers: &[(&str, &str)]) -> Record {
        let header = |(name, value): &(&str, &str)| Header {
            name: (*name).into(),
            value: Some(value.to_string().into()),
        };
        Record {
            position: Position { topic: "letters".into(), partition: 3, offset: 7 },
            timestamp: Some(9),
            key: Some("k".into()),
            value: Some("{".into()),
            headers: headers.iter().map(header).collect(),
        }
    }

    #[tokio::test]
    async fn a_letter_that_lacks_nothing_but_its_time_needs_no_original() {
        let originals = Originals::new(&Settings::default());
        let plain = record(&[]);
        assert_eq!(originals.whole(&plain).await.unwrap(), Some(plain));
        let timed =
            record(&[("publication.record.timestamp", "5"), ("publication.key.omitted", "true")]);
        let whole = originals.whole(&timed).await.unwrap().unwrap();
        assert_eq!((whole.timestamp, whole.value), (Some(5), timed.value));
        let nowhere = record(&[("publication.value.omitted", "true")]);
        assert_eq!(originals.whole(&nowhere).await.unwrap(), None);
    }

    #[test]
    fn another_record_at_the_place_is_not_the_original() {
        let original = record(&[]);
        assert!(DeadLetter(&record(&[])).is_of(&original));
        assert!(!DeadLetter(&Record { key: None, ..record(&[]) }).is_of(&original));
        let keyless = record(&[("publication.key.omitted", "true")]);
        assert!(DeadLetter(&Record { key: None, ..keyless }).is_of(&original));
        let timed = |time| record(&[("publication.record.timestamp", time)]);
        assert!(DeadLetter(&timed("9")).is_of(&original));
        assert!(!DeadLetter(&timed("8")).is_of(&original));
    }
}
