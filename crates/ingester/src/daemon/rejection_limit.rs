//! The rejection limit: when record after record is rejected, something is wrong that no dead letter mends, and reading
//! on would only move the whole topic there (`reject.max_consecutive`, off by default).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::daemon::health::{Health, PauseCause};
use crate::pipeline::evaluate::Outcome;
use crate::pipeline::ports::SourceControl;

/// Counts rejections in a row and stops the reading when there are too many. Only a restart goes on: by then an
/// operator has looked, and the next run rejects as many again before it stops.
pub(crate) struct RejectionLimit {
    /// 0 = none.
    max: u64,
    in_a_row: u64,
    health: Arc<Health>,
    source: Arc<dyn SourceControl>,
}

impl RejectionLimit {
    /// At most `max` in a row; 0 = any number.
    pub(crate) fn new(max: u64, health: Arc<Health>, source: Arc<dyn SourceControl>) -> Self {
        Self { max, in_a_row: 0, health, source }
    }

    /// Counts a record. `Break` with the last that is allowed. A skipped record says nothing either way.
    pub(crate) fn evaluated(&mut self, outcome: &Outcome) -> ControlFlow<()> {
        match outcome {
            Outcome::Row(_) => self.in_a_row = 0,
            Outcome::Skip(_) => {}
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
            "{} records in a row were rejected, the last as {code} (reject.max_consecutive): mend the producer or the \
             configuration, then restart",
            self.in_a_row
        );
        tracing::error!(reason, "reading stops");
        self.health.pause(PauseCause::RejectionLimit, reason);
    }
}
