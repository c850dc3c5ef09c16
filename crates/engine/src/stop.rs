//! Stopping: its two stages, and how it went.

use tokio_util::sync::CancellationToken;

/// The two stages of a stop.
#[derive(Clone, Default)]
pub(crate) struct StopSignals {
    /// Nothing new is begun.
    pub(crate) stop: CancellationToken,
    /// What is in flight is cut off.
    pub(crate) abort: CancellationToken,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Everything in flight ended and was recorded.
    Drained,
    /// Time ran out: what was in flight was cut off and will be made again.
    CutOff,
}
