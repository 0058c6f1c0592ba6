//! What lasts is said again in the log: who reads it from the middle on is to see what the ingester waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::daemon::health::Health;

/// How often. The begin and the end of a wait have lines of their own.
const EVERY: Duration = Duration::from_secs(60);

/// Says once a minute what is waited for, with the newest words about it.
pub(crate) async fn remind(health: Arc<Health>, stop: CancellationToken) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        for lasting in health.lasting(EVERY) {
            let seconds = lasting.so_long.as_secs();
            let (cause, reason) = (lasting.cause.as_str(), lasting.reason);
            tracing::warn!(cause, reason, seconds, "still waiting");
        }
    }
    Ok(())
}
