//! The brake: when record after record is rejected, something is wrong that no dead letter mends, and reading on would
//! only move the whole topic there (`reject.max_consecutive`, off by default).

use std::sync::Arc;

use crate::daemon::health::{Cause, Health};
use crate::kafka::CommitQueue;
use crate::pipeline::evaluate::Outcome;

/// Counts rejections in a row and stops the reading when there are too many. Only a restart releases it: by then an
/// operator has looked, and the next run rejects as many again before it stops.
pub(crate) struct RejectionLimit {
    /// 0 = never.
    max: u64,
    in_a_row: u64,
    pulled: bool,
    health: Arc<Health>,
    progress: Arc<CommitQueue>,
}

impl RejectionLimit {
    pub(crate) fn new(max: u64, health: Arc<Health>, progress: Arc<CommitQueue>) -> Self {
        Self { max, in_a_row: 0, pulled: false, health, progress }
    }

    /// Whether it can ever be pulled.
    pub(crate) fn is_set(&self) -> bool {
        self.max > 0
    }

    /// Whether nothing more is to be read.
    pub(crate) fn is_pulled(&self) -> bool {
        self.pulled
    }

    /// Counts a record; pulls the brake with the last that is allowed. Records passed over say nothing either way.
    pub(crate) fn judged(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Row(_) => self.in_a_row = 0,
            Outcome::Skip(_) => {}
            Outcome::Reject(rejection) => {
                self.in_a_row += 1;
                if self.in_a_row >= self.max {
                    self.pull(rejection.code.as_str());
                }
            }
        }
    }

    fn pull(&mut self, code: &str) {
        self.pulled = true;
        self.progress.halt();
        let reason = format!(
            "{} records in a row were rejected, the last as {code} (reject.max_consecutive): mend the producer or the \
             configuration, then restart",
            self.in_a_row
        );
        tracing::error!(reason, "reading stops");
        self.health.pause(Cause::Rejections, reason);
    }
}
