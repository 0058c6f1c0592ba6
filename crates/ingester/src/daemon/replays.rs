//! Remembers finished replays, because a database that goes back in time loses their rows. Only an operator can decide
//! whether to run them again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use store::{Job, JobState, Jobs};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often the table of replays is read.
const READ_EVERY: Duration = Duration::from_secs(10);
/// How many of the newest replays are read.
const REMEMBERED: u32 = 100;

/// The replays that are known.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    /// The number of the last finished replay; 0 where none is known.
    last: AtomicI64,
    /// The last finished replay according to the group's commit, set when the database went back in time.
    went_back: Mutex<Option<i64>>,
    notify: Notify,
}

impl Replays {
    /// The number of the last finished replay that is known.
    pub(crate) fn last(&self) -> Option<i64> {
        Some(self.last.load(Ordering::Relaxed)).filter(|&last| last > 0)
    }

    /// The database went back in time. `last`: the last finished replay according to the commit.
    pub(crate) fn went_back(&self, last: Option<i64>) {
        let mut known = self.went_back.lock();
        *known = (*known).max(last);
        self.notify.notify_one();
    }

    /// Reads the replays until `stop` is cancelled. After the database went back in time, logs those that it lost.
    pub(crate) async fn watch(
        self: Arc<Self>,
        jobs: Arc<dyn Jobs>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut known = KnownReplays::default();
        // The first commits name the last replay only after a first read.
        let mut wait = Duration::ZERO;
        loop {
            let pause = std::mem::replace(&mut wait, READ_EVERY);
            let read = async {
                let went_back = tokio::select! {
                    () = self.notify.notified() => true,
                    () = tokio::time::sleep(pause) => false,
                };
                (went_back, jobs.jobs(REMEMBERED).await)
            };
            match stop.run_until_cancelled(read).await {
                None => return Ok(()),
                Some((true, Ok(now))) => {
                    let committed = {
                        let mut went_back = self.went_back.lock();
                        went_back.take()
                    };
                    for replay in known.went_back(&now, committed) {
                        tracing::warn!(
                            replay,
                            "the database went back to before the end of a replay: what it wrote since is missing; run it again"
                        );
                    }
                }
                Some((false, Ok(now))) => known.read(&now),
                // The writers report the errors of the database.
                Some((went_back, Err(error))) => {
                    tracing::debug!(%error, "replays cannot be read");
                    if went_back {
                        self.notify.notify_one();
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
            self.last.store(known.done.last().copied().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// What was read of the table so far.
#[derive(Debug, Default)]
struct KnownReplays {
    /// The finished replays.
    done: BTreeSet<i64>,
    /// The lost replays that were named and have not been finished since.
    named: BTreeSet<i64>,
}

impl KnownReplays {
    fn read(&mut self, now: &[Job]) {
        let there = finished(now);
        self.named.retain(|id| !there.contains(id));
        self.done.extend(there);
        // The table has older ones too, which are not read.
        let oldest = now.iter().map(|job| job.id).min().unwrap_or(0);
        self.done.retain(|&id| id >= oldest);
    }

    /// Reads a table that went back in time; returns the replays that it lost and that are not named yet.
    fn went_back(&mut self, now: &[Job], committed: Option<i64>) -> Vec<i64> {
        let there = finished(now);
        // A number is given again after the table has lost it, and its new replay can be lost too.
        self.named.retain(|id| !there.contains(id));
        let running = now.iter().filter(|job| job.state == JobState::Running);
        let lost = lost(&self.done, &there, committed).chain(running.map(|job| job.id));
        let news = lost.filter(|&replay| self.named.insert(replay)).collect();
        self.done = there;
        news
    }
}

fn finished(jobs: &[Job]) -> BTreeSet<i64> {
    jobs.iter().filter(|job| job.state == JobState::Done).map(|job| job.id).collect()
}

/// The replays that were finished as far as is known, but that the table does not show as finished. The commit has the number of
/// the last one alone, and of those before it that nobody knows some may have been cancelled.
fn lost<'a>(
    known: &'a BTreeSet<i64>,
    there: &'a BTreeSet<i64>,
    committed: Option<i64>,
) -> impl Iterator<Item = i64> + 'a {
    let newest = there.last().max(known.last()).copied().unwrap_or(0);
    let by_commit = committed
        .into_iter()
        .flat_map(move |last| (newest + 1).max(last - i64::from(REMEMBERED))..=last);
    known.difference(there).copied().chain(by_commit)
}

#[cfg(test)]
mod tests {
    use model::Timestamp;
    use store::JobProgress;

    use super::*;

    #[test]
    fn what_was_done_and_is_not_done_by_the_table_is_lost() {
        let lost = |known: &[i64], there: &[i64], committed| {
            let (known, there) = (known.iter().copied().collect(), there.iter().copied().collect());
            lost(&known, &there, committed).collect::<Vec<_>>()
        };
        assert_eq!(lost(&[1, 2, 4], &[1, 2], Some(4)), [4]);
        assert_eq!(lost(&[], &[1, 2], Some(4)), [3, 4], "after a restart the commit says it");
        assert_eq!(lost(&[], &[1, 2, 4], Some(4)), [0; 0]);
        assert_eq!(lost(&[1], &[1], None), [0; 0]);
    }

    #[test]
    fn a_replay_that_is_lost_again_under_its_number_is_named_again() {
        let table = |jobs: &[(i64, JobState)]| -> Vec<Job> {
            let job = |&(id, state)| Job {
                id,
                who: String::new(),
                reason: None,
                what: serde_json::Value::Null,
                progress: JobProgress::default(),
                state,
                note: None,
                started: Timestamp::from_micros(0),
                updated: Timestamp::from_micros(0),
            };
            jobs.iter().map(job).collect()
        };
        let mut known = KnownReplays::default();
        known.read(&table(&[(6, JobState::Done), (7, JobState::Done)]));
        let restored = table(&[(6, JobState::Done)]);
        assert_eq!(known.went_back(&restored, None), [7]);
        assert_eq!(known.went_back(&restored, Some(7)), [0; 0], "each loss is named once");
        // The operator runs it again, under the same number.
        let running = table(&[(6, JobState::Done), (7, JobState::Running)]);
        known.read(&running);
        assert_eq!(known.went_back(&running, None), [0; 0]);
        known.read(&table(&[(6, JobState::Done), (7, JobState::Done)]));
        assert_eq!(known.went_back(&restored, None), [7]);
    }
}
