//! Remembers finished replays, because a database that goes back in time loses their rows. Only an operator can decide
//! whether to run them again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

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
    /// The last finished replay according to the group's commits; 0 where they name none.
    committed: AtomicI64,
    /// Whether the database went back in time since the last read.
    went_back: AtomicBool,
    notify: Notify,
}

impl Replays {
    /// The number of the last finished replay that is known.
    pub(crate) fn last(&self) -> Option<i64> {
        Some(self.last.load(Ordering::Relaxed)).filter(|&last| last > 0)
    }

    /// The group's commit says that this replay has finished.
    pub(crate) fn committed(&self, last: i64) {
        self.committed.fetch_max(last, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// The database went back in time.
    pub(crate) fn went_back(&self) {
        self.went_back.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// Reads the replays until `stop` is cancelled, and logs those that the database has lost. That shows here alone if no new
    /// record was written since, so that no position went back.
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
                // Either way the table is read, after what it is compared with.
                drop(tokio::time::timeout(pause, self.notify.notified()).await);
                let went_back = self.went_back.swap(false, Ordering::Relaxed);
                let committed = self.committed.load(Ordering::Relaxed);
                (went_back, committed, jobs.jobs(REMEMBERED).await)
            };
            match stop.run_until_cancelled(read).await {
                None => return Ok(()),
                Some((went_back, committed, Ok(now))) => {
                    for replay in known.read(&now, committed, went_back) {
                        tracing::warn!(
                            replay,
                            "the database went back to before the end of a replay: what it wrote since is missing; run it again"
                        );
                    }
                }
                // The writers report the errors of the database.
                Some((went_back, _, Err(error))) => {
                    tracing::debug!(%error, "replays cannot be read");
                    if went_back {
                        self.went_back.store(true, Ordering::Relaxed);
                        wait = Duration::from_secs(1);
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
    /// Takes in the table. Returns the replays that it has lost and that are not named yet; after the database went back in time
    /// also those that run, because it lacks a part of their rows.
    fn read(&mut self, now: &[Job], committed: i64, went_back: bool) -> Vec<i64> {
        let there = finished(now);
        // A number is given again after the table has lost it, and its new replay can be lost too.
        self.named.retain(|id| !there.contains(id));
        // The table has older ones too, which are not read.
        let oldest = now.iter().map(|job| job.id).min().unwrap_or(0);
        self.done.retain(|&id| id >= oldest);
        let running = now.iter().filter(|job| went_back && job.state == JobState::Running);
        // If older rows were not read, the commit may speak of one of them.
        let first = if now.len() < REMEMBERED as usize { 0 } else { oldest };
        let lost = lost(&self.done, &there, committed).filter(|&replay| replay >= first);
        let lost = lost.chain(running.map(|job| job.id));
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
    committed: i64,
) -> impl Iterator<Item = i64> + 'a {
    let newest = there.last().max(known.last()).copied().unwrap_or(0);
    let by_commit = (newest + 1).max(committed - i64::from(REMEMBERED))..=committed;
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
        assert_eq!(lost(&[1, 2, 4], &[1, 2], 4), [4]);
        assert_eq!(lost(&[], &[1, 2], 4), [3, 4], "after a restart the commit says it");
        assert_eq!(lost(&[], &[1, 2, 4], 4), [0; 0]);
        assert_eq!(lost(&[1], &[1], 0), [0; 0]);
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
        assert_eq!(
            known.read(&table(&[(6, JobState::Done), (7, JobState::Done)]), 0, false),
            [0; 0]
        );
        let restored = table(&[(6, JobState::Done)]);
        assert_eq!(known.read(&restored, 0, false), [7], "no position needs to go back");
        assert_eq!(known.read(&restored, 7, true), [0; 0], "each loss is named once");
        // The operator runs it again, under the same number.
        let running = table(&[(6, JobState::Done), (7, JobState::Running)]);
        assert_eq!(known.read(&running, 7, false), [0; 0]);
        assert_eq!(
            known.read(&table(&[(6, JobState::Done), (7, JobState::Done)]), 7, false),
            [0; 0]
        );
        assert_eq!(known.read(&restored, 7, true), [7]);
        let half = table(&[(6, JobState::Done), (8, JobState::Running)]);
        assert_eq!(known.read(&half, 7, true), [8], "a part of its rows is gone");
    }
}
