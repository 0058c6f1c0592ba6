//! The rejection limit: many rejections in a row have a cause that dead letters do not fix, and reading on would move the
//! whole topic to the dead letters (`reject.max_consecutive`, off by default).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::daemon::health::{Health, PauseCause};
use crate::pipeline::evaluate::Outcome;
use crate::pipeline::ports::SourceControl;

/// Counts rejections in a row and stops the reading at the limit. Reading continues only after a restart, when an
/// operator has looked; the next run rejects as many records again before it stops.
pub(crate) struct RejectionLimit {
    /// 0 = no limit.
    max: u64,
    in_a_row: u64,
    health: Arc<Health>,
    source: Arc<dyn SourceControl>,
}

impl RejectionLimit {
    /// At most `max` rejections in a row; 0 = no limit.
    pub(crate) fn new(max: u64, health: Arc<Health>, source: Arc<dyn SourceControl>) -> Self {
        Self { max, in_a_row: 0, health, source }
    }

    /// Counts a record. `Break` at the limit: this is the last record to take. A skipped record changes nothing.
    pub(crate) fn evaluated(&mut self, outcome: &Outcome) -> ControlFlow<()> {
        match outcome {
            Outcome::Row(_) => self.in_a_row = 0,
            Outcome::Skip => {}
            Outcome::Reject(rejection) => {
                self.in_a_row += 1;
                if self.in_a_row == self.max {
                    self.halt(rejection.code.as_str());
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn halt(&self, code: &str) {
        self.source.halt();
        let reason = format!(
            "{} records in a row were rejected, the last as {code} (reject.max_consecutive): correct the producer or the \
             configuration, then restart",
            self.in_a_row
        );
        tracing::error!(reason, "reading stops");
        self.health.pause(PauseCause::RejectionLimit, reason);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use prometheus::IntGauge;
    use service::admin::Health as _;

    use super::*;
    use crate::decode::rejection::{Code, Rejection};
    use crate::pipeline::ports::WrittenOffsets;

    #[derive(Default)]
    struct Source(AtomicBool);

    impl SourceControl for Source {
        fn written(&self, _: &WrittenOffsets) {}

        fn commit_soon(&self) {}

        fn halt(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn so_many_rejections_in_a_row_stop_the_reading() {
        let health = Arc::new(Health::new(Duration::ZERO, IntGauge::new("p", "p").unwrap()));
        let source = Arc::new(Source::default());
        let row = crate::pipeline::tests::row(0);
        let rejection = || Outcome::Reject(Rejection::new(Code::NotJson, "cut"));
        let skip = Outcome::Skip;
        let mut limit = RejectionLimit::new(2, health.clone(), source.clone());
        for outcome in [&rejection(), &row, &rejection(), &skip] {
            assert!(limit.evaluated(outcome).is_continue());
        }
        assert!(!source.0.load(Ordering::Relaxed));
        assert!(limit.evaluated(&rejection()).is_break());
        assert!(source.0.load(Ordering::Relaxed));
        let reason = health.ready().reason.unwrap();
        assert!(reason.starts_with("rejection_limit: 2 records in a row"), "{reason}");
        let mut none = RejectionLimit::new(0, health, source);
        assert!((0..100).all(|_| none.evaluated(&rejection()).is_continue()));
    }
}
