//! Says in the log what becomes of records that become no rows: metrics alone are not seen before the first scrape.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::pipeline::batch::Batch;

/// The shortest time between two lines about dead letters.
const INTERVAL: Duration = Duration::from_secs(60);
/// After so many skipped records and no others `events.type` is probably wrong.
const ONLY_SKIPPED: u64 = 1_000;

/// The records since the last line.
#[derive(Debug, Default)]
pub(crate) struct OutcomeLog {
    /// Dead letters by code.
    dead_letters: BTreeMap<&'static str, u64>,
    said: Option<Instant>,
    /// Records skipped since the start; `None` as soon as one was not, or after the line.
    only_skipped: Option<u64>,
}

impl OutcomeLog {
    pub(crate) fn new() -> Self {
        Self { only_skipped: Some(0), ..Self::default() }
    }

    /// Counts a written batch. Returns the dead letters by code for a line, at most once a minute.
    pub(crate) fn dead_letters(&mut self, batch: &Batch, now: Instant) -> Option<String> {
        for (rejection, _) in &batch.rejected {
            *self.dead_letters.entry(rejection.code.as_str()).or_default() += 1;
        }
        let is_early = self.said.is_some_and(|said| now.saturating_duration_since(said) < INTERVAL);
        if self.dead_letters.is_empty() || is_early {
            return None;
        }
        self.said = Some(now);
        let counts = std::mem::take(&mut self.dead_letters).into_iter();
        let counts: Vec<_> = counts.map(|(code, count)| format!("{code} {count}")).collect();
        Some(counts.join(", "))
    }

    /// Counts a written batch. Returns once how many records were skipped, if no other came and they are many.
    pub(crate) fn only_skipped(&mut self, batch: &Batch) -> Option<u64> {
        let skipped = self.only_skipped.take()? + batch.skipped;
        if batch.rows() > 0 {
            return None;
        }
        if skipped >= ONLY_SKIPPED {
            return Some(skipped);
        }
        self.only_skipped = Some(skipped);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use enrich::{ExitHistory, TorRules};

    use super::*;
    use crate::decode::rejection::{Code, Rejection};
    use crate::pipeline::evaluate::Outcome;
    use crate::pipeline::ports::AssignmentId;
    use crate::pipeline::tests::record;

    fn batch(outcomes: &[Outcome]) -> Batch {
        let mut batch = Batch::new(Arc::new(ExitHistory::new(TorRules::default())));
        for outcome in outcomes {
            batch.add(record(0), AssignmentId(0), outcome.clone());
        }
        batch
    }

    #[test]
    fn dead_letters_are_said_at_once_and_then_once_a_minute() {
        let rejected = |code| Outcome::Reject(Rejection::new(code, "no"));
        let (mut log, start) = (OutcomeLog::new(), Instant::now());
        let two = batch(&[rejected(Code::NotJson), rejected(Code::NotJson)]);
        assert_eq!(log.dead_letters(&two, start).as_deref(), Some("not_json 2"));
        let other = batch(&[rejected(Code::TooLarge)]);
        assert_eq!(log.dead_letters(&other, start + INTERVAL / 2), None);
        assert_eq!(
            log.dead_letters(&two, start + INTERVAL).as_deref(),
            Some("not_json 2, too_large 1")
        );
        assert_eq!(log.dead_letters(&batch(&[Outcome::Skip]), start + INTERVAL * 3), None);
    }

    #[test]
    fn a_topic_of_which_everything_is_skipped_is_said_once() {
        let skipped = batch(&vec![Outcome::Skip; 600]);
        let mut log = OutcomeLog::new();
        let said = [(); 3].map(|()| log.only_skipped(&skipped));
        assert_eq!(said, [None, Some(1_200), None]);
        let mut log = OutcomeLog::new();
        let rejection = Outcome::Reject(Rejection::new(Code::NotJson, "no"));
        assert_eq!(log.only_skipped(&batch(&[rejection])), None);
        assert_eq!([(); 3].map(|()| log.only_skipped(&skipped)), [None; 3]);
    }
}
