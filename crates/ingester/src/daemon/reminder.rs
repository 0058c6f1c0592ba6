//! Repeats log lines about long waits, for readers who see only the end of the log.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::daemon::health::Health;

/// How often. The start and the end of a wait have separate lines.
const EVERY: Duration = Duration::from_secs(60);

/// Logs once a minute the waits that last at least that long, each with its latest reason.
pub(crate) async fn remind(health: Arc<Health>, stop: CancellationToken) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        for lasting in health.lasting(EVERY) {
            let seconds = lasting.lasted.as_secs();
            let (cause, reason) = (lasting.cause.as_str(), lasting.reason);
            tracing::warn!(cause, reason, seconds, "still waiting");
        }
    }
    Ok(())
}
