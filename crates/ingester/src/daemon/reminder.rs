//! Tells of a stuck poll thread, and repeats log lines about long waits for readers who see only the end of the log.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::daemon::health::Health;

/// The interval. The start and the end of a wait have separate lines, and a wait that has just begun is not repeated.
const EVERY: Duration = Duration::from_secs(60);

/// How often the poll thread is checked.
const CHECK: Duration = Duration::from_secs(5);

/// Shows in metrics and log that the poll thread is stuck.
pub(crate) async fn watch_poll_thread(
    health: Arc<Health>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(CHECK)).await.is_some() {
        health.check_poll_thread();
    }
    Ok(())
}

/// Logs once a minute the waits that last at least half as long, each with its latest reason.
pub(crate) async fn remind(health: Arc<Health>, stop: CancellationToken) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        for (cause, reason, lasted) in health.lasting(EVERY / 2) {
            let (cause, seconds) = (cause.as_str(), lasted.as_secs());
            tracing::warn!(cause, reason, seconds, "still waiting");
        }
    }
    Ok(())
}
