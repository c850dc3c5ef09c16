//! The connectivity test: a HEAD request on a fresh connection, with the time of each step.

use std::time::Duration;

use http::StatusCode;

use crate::failure::Failure;
use crate::stats::Timings;

/// The report of one connectivity test.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// What came of it.
    pub outcome: ProbeOutcome,
    /// Where the time went, up to where the test got.
    pub timings: Timings,
    /// From beginning to end.
    pub elapsed: Duration,
}

/// The two ends of a connectivity test.
#[derive(Clone, Debug)]
pub enum ProbeOutcome {
    /// The receiver answered.
    Answered(StatusCode),
    /// It did not.
    Failed(Failure),
}

impl ProbeReport {
    /// Whether the receiver answered with a status below 500. What failed after a status came is no answer.
    pub fn is_success(&self) -> bool {
        match &self.outcome {
            ProbeOutcome::Answered(status) => status.as_u16() < 500,
            ProbeOutcome::Failed(_) => false,
        }
    }

    /// The status of the answer; of a failure, if it came so far.
    pub fn status(&self) -> Option<StatusCode> {
        match &self.outcome {
            ProbeOutcome::Answered(status) => Some(*status),
            ProbeOutcome::Failed(failure) => failure.status,
        }
    }
}
