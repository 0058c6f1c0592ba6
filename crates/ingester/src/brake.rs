//! The brake: when record after record is rejected, something is wrong that no dead letter mends, and reading on would
//! only move the whole topic there (`reject.max_consecutive`, off by default).

use std::sync::Arc;

use crate::health::{Cause, Health};
use crate::judge::Outcome;
use crate::kafka::Progress;

/// Counts rejections in a row and stops the reading when there are too many. Only a restart releases it: by then an
/// operator has looked, and the next run rejects as many again before it stops.
pub(crate) struct Brake {
    /// 0 = never.
    max: u64,
    in_a_row: u64,
    pulled: bool,
    health: Arc<Health>,
    progress: Arc<Progress>,
}

impl Brake {
    pub(crate) fn new(max: u64, health: Arc<Health>, progress: Arc<Progress>) -> Self {
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
            Outcome::Record(_) => self.in_a_row = 0,
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
