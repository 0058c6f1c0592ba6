//! Remembers finished replays, because a database that goes back in time loses their rows. Only an operator can decide
//! whether to run them again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use store::{JobState, Jobs};
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
        let mut known = self.went_back.lock().unwrap_or_else(PoisonError::into_inner);
        *known = (*known).max(last);
        self.notify.notify_one();
    }

    /// Reads the replays until `stop` is cancelled. After the database went back in time, logs those that it lost.
    pub(crate) async fn watch(
        self: Arc<Self>,
        jobs: Arc<dyn Jobs>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let (mut done, mut named) = (BTreeSet::new(), BTreeSet::new());
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
                        let mut known =
                            self.went_back.lock().unwrap_or_else(PoisonError::into_inner);
                        known.take()
                    };
                    let there = finished(&now);
                    let running = now.iter().filter(|job| job.state == JobState::Running);
                    let lost = lost(&done, &there, committed).chain(running.map(|job| job.id));
                    for replay in lost.filter(|&replay| named.insert(replay)) {
                        tracing::warn!(
                            replay,
                            "the database went back to before the end of a replay: what it wrote since is missing; run it again"
                        );
                    }
                    done = there;
                }
                Some((false, Ok(now))) => {
                    done.extend(finished(&now));
                    // The table has older ones too, which are not read.
                    let oldest = now.iter().map(|job| job.id).min().unwrap_or(0);
                    done.retain(|&id| id >= oldest);
                }
                // The writers report the errors of the database.
                Some((went_back, Err(error))) => {
                    tracing::debug!(%error, "replays cannot be read");
                    if went_back {
                        self.notify.notify_one();
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
            self.last.store(done.last().copied().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

fn finished(jobs: &[store::Job]) -> BTreeSet<i64> {
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
}
