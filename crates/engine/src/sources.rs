//! The only clock and the only randomness. Everything else is given time and random bytes as arguments, so that a
//! simulation can replay a run exactly.

use std::{fmt, sync::Arc};

use neo_events_domain::{Timestamp, event::to_micros, id::Id};
use ring::rand::SecureRandom;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now. May jump in either direction.
    fn now(&self) -> Timestamp;
}

/// Draws random bytes.
pub trait Random: Send + Sync {
    /// Fills the buffer with bytes fit for keys.
    fn fill(&self, buffer: &mut [u8]);
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The system's random number generator.
#[derive(Debug, Clone)]
pub struct SystemRandom(ring::rand::SystemRandom);

impl SystemRandom {
    /// The system's generator.
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    #[expect(clippy::expect_used, reason = "a system that cannot draw random bytes cannot make ids or keys")]
    fn fill(&self, buffer: &mut [u8]) {
        self.0.fill(buffer).expect("the system's random number generator works");
    }
}

/// Where time and randomness come from.
#[derive(Clone)]
pub struct Sources {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Sources {
    /// The system's own.
    pub fn system() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SystemRandom::new()))
    }

    /// Others, for tests and simulations.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { clock, random }
    }

    /// Now, to the microsecond that stores keep.
    pub fn now(&self) -> Timestamp {
        to_micros(self.clock.now())
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }

    /// A new id of this instant.
    pub fn new_id<Kind>(&self) -> Id<Kind> {
        Id::new(self.now(), self.bytes())
    }

    /// A random number in 0…1.
    pub fn jitter(&self) -> f64 {
        f64::from(u32::from_ne_bytes(self.bytes())) / f64::from(u32::MAX)
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}
