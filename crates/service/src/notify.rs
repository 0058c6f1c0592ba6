//! Notifications to systemd (`Type=notify`): the daemon is up, its status, and the watchdog.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::admin::Health;
use crate::quiet::Quiet;

/// How often to check for a change of the status to report.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Notifies the service manager that the daemon is up, then of its status whenever that changes, and feeds the watchdog
/// while [`Health::live`] is true. Up means that the configuration is valid and the admin listener is bound: a daemon
/// that waits for its database is up, because a restart would not help. The stop is notified as soon as `stop` is
/// cancelled. Returns at once if there is no service manager (`NOTIFY_SOCKET` is not set), and otherwise never.
pub async fn report_to_supervisor(health: Arc<dyn Health>, stop: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let quiet = Quiet::default();
    tell(&quiet, &[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    // Half the time, as sd_watchdog_enabled(3) recommends.
    let every = watchdog.map_or(LOOK_EVERY, |within| LOOK_EVERY.min(within / 2));
    let (mut told, mut stopping) = (String::new(), false);
    loop {
        let readiness = health.ready();
        let reason = readiness.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        // A line feed would end the status and begin another variable.
        let status = format!("{}{reason}", readiness.state.as_str()).replace('\n', " ");
        if status != told {
            tell(&quiet, &[NotifyState::Status(&status)]);
            told = status;
        }
        if watchdog.is_some() && health.live() {
            tell(&quiet, &[NotifyState::Watchdog]);
        }
        tokio::select! {
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                tell(&quiet, &[NotifyState::Stopping]);
            }
            () = tokio::time::sleep(every) => {}
        }
    }
}

fn tell(quiet: &Quiet, news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news)
        && let Some(left_out) = quiet.next()
    {
        tracing::warn!(%error, left_out, "cannot notify the service manager");
    }
}
