//! What systemd is told (`Type=notify`): that the daemon is up, what it does, and that it lives.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::admin::Health;

/// How often it is looked at what there is to tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells the service manager that the daemon is up, then a line of status whenever its state changes, and feeds the
/// watchdog for as long as [`Health::live`] says that the daemon is worth keeping. Up means that the configuration is
/// good and the admin listener bound: a daemon that waits for its database is up, and a restart would not help it. That
/// it stops is told as soon as `stop` is cancelled. Returns at once where nobody listens (`NOTIFY_SOCKET` is not set),
/// and else never.
pub async fn keep_told(health: Arc<dyn Health>, stop: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tell(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    // Half the time, as sd_watchdog_enabled(3) recommends.
    let every = watchdog.map_or(LOOK_EVERY, |within| LOOK_EVERY.min(within / 2));
    let (mut told, mut stopping) = (String::new(), false);
    loop {
        let readiness = health.ready();
        let reason = readiness.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        // A line feed would end the line and begin another variable.
        let status = format!("{}{reason}", readiness.state.as_str()).replace('\n', " ");
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
        if watchdog.is_some() && health.live() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                tell(&[NotifyState::Stopping]);
            }
            () = tokio::time::sleep(every) => {}
        }
    }
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!(%error, "the service manager was not told");
    }
}
