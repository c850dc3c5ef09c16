//! The simulated time: what elapses is the paused runtime's, which jumps to the next timer when everybody waits. The
//! wall is a number of microseconds beside it, and jumps when the plan says so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use neo_events_domain::Timestamp;
use neo_events_engine::Clock;
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z, in microseconds.
const BEGINNING: i64 = 1_767_225_600_000_000;

/// The clock that all nodes of a world look at.
#[derive(Clone)]
pub(crate) struct SimulatedClock {
    began: Instant,
    wall_ahead: Arc<AtomicI64>,
}

impl SimulatedClock {
    /// Begins now, on a runtime whose time is paused.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), wall_ahead: Arc::new(AtomicI64::new(0)) }
    }

    /// Sets the wall forwards or backwards.
    pub(crate) fn jump(&self, micros: i64) {
        self.wall_ahead.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Default for SimulatedClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimulatedClock {
    fn wall(&self) -> Timestamp {
        let elapsed = i64::try_from(self.elapsed().as_micros()).unwrap_or(i64::MAX);
        let ahead = self.wall_ahead.load(Ordering::Relaxed);
        Timestamp::from_microsecond(BEGINNING + elapsed + ahead).unwrap_or(Timestamp::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}
