//! The only clock and the only randomness. Everything else is given time and random bytes as arguments, so that a
//! simulation can replay a run exactly.
//!
//! There are two times. The *wall* time is what receivers compare a signed timestamp with. The *steady* time decides
//! what is due: it follows the wall, but never goes back. When the wall jumps back, it goes on from where it was at
//! its own pace, since otherwise everything due would wait until the wall has caught up.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use neo_events_domain::{Timestamp, id::Id, time::to_micros};
use ring::rand::SecureRandom;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The wall's time. May jump in either direction.
    fn wall(&self) -> Timestamp;

    /// Time since some beginning. Never jumps.
    fn elapsed(&self) -> Duration;
}

/// Draws random bytes.
pub trait Random: Send + Sync {
    /// Fills the buffer with bytes fit for keys.
    fn fill(&self, buffer: &mut [u8]);
}

/// The system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    began: Instant,
}

impl SystemClock {
    /// Begins now.
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
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

    #[expect(clippy::expect_used, reason = "a system that cannot draw random bytes cannot make ids or keys")]
    fn draw(&self, buffer: &mut [u8]) {
        self.0.fill(buffer).expect("the system's random number generator works");
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        if buffer.len() > SMALL_DRAW_MAX {
            return self.draw(buffer);
        }
        DRAWN.with_borrow_mut(|drawn| {
            if drawn.left < buffer.len() {
                self.draw(&mut drawn.bytes);
                drawn.left = drawn.bytes.len();
            }
            let taken = &mut drawn.bytes[drawn.left - buffer.len()..drawn.left];
            buffer.copy_from_slice(taken);
            // What somebody has is nobody else's.
            taken.fill(0);
            drawn.left -= buffer.len();
        });
    }
}

/// Up to so many bytes are drawn ahead: a system call costs more than an id. Keys are not.
const SMALL_DRAW_MAX: usize = 16;

/// Bytes that were drawn ahead, on this thread.
struct Drawn {
    bytes: [u8; 512],
    /// How many of them nobody has had, from the beginning on.
    left: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; 512], left: 0 }) };
}

/// Where time and randomness come from.
#[derive(Clone)]
pub struct Sources {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Steady time = elapsed + this, in microseconds: the most that the wall was ever ahead of elapsed.
    lead: Arc<AtomicI64>,
}

impl Sources {
    /// The system's own.
    pub fn system() -> Self {
        Self::new(Arc::new(SystemClock::new()), Arc::new(SystemRandom::new()))
    }

    /// Others, for tests and simulations.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { clock, random, lead: Arc::new(AtomicI64::new(i64::MIN)) }
    }

    /// The wall's time, to the microsecond that stores keep.
    pub fn wall(&self) -> Timestamp {
        to_micros(self.clock.wall())
    }

    /// The steady time, to the microsecond that stores keep. Never decreases.
    pub fn now(&self) -> Timestamp {
        self.not_before(self.clock.wall())
    }

    /// Makes the steady time at least this, from now on: nothing is decided before what is already stored.
    pub fn not_before(&self, at: Timestamp) -> Timestamp {
        let elapsed = i64::try_from(self.clock.elapsed().as_micros()).unwrap_or(i64::MAX);
        let lead = at.as_microsecond() - elapsed;
        let lead = self.lead.fetch_max(lead, Ordering::Relaxed).max(lead);
        Timestamp::from_microsecond(elapsed + lead).unwrap_or(at)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The wall in seconds; a second passes whenever somebody asks for what elapsed.
    struct Walls {
        wall: AtomicI64,
        elapsed: AtomicI64,
    }

    impl Clock for Walls {
        fn wall(&self) -> Timestamp {
            Timestamp::from_second(self.wall.load(Ordering::Relaxed)).unwrap()
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.elapsed.fetch_add(1, Ordering::Relaxed).unsigned_abs())
        }
    }

    /// The same byte again and again.
    struct Byte(u8);

    impl Random for Byte {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    #[test]
    fn jitter_is_between_nothing_and_all() {
        let jitter = |byte| Sources::new(Arc::new(SystemClock::new()), Arc::new(Byte(byte))).jitter();
        let near = |of: f64, wanted: f64| (of - wanted).abs() < 1e-9;
        assert!(near(jitter(0), 0.0) && near(jitter(0xff), 1.0) && near(jitter(0x80), 128.0 / 255.0));
    }

    #[test]
    fn nothing_is_drawn_twice() {
        let random = SystemRandom::new();
        let mut seen = std::collections::HashSet::new();
        for bytes in (8..=24).cycle().take(1000) {
            let mut drawn = vec![0; bytes];
            random.fill(&mut drawn);
            assert!(seen.insert(drawn[..8].to_vec()), "2 to the 64 are enough for a thousand");
        }
    }

    #[test]
    fn steady_time_follows_the_wall_forward_and_goes_on_when_it_jumps_back() {
        let walls = Arc::new(Walls { wall: AtomicI64::new(1000), elapsed: AtomicI64::new(50) });
        let sources = Sources::new(Arc::clone(&walls) as Arc<dyn Clock>, Arc::new(SystemRandom::new()));
        let at = |wall: i64| {
            walls.wall.store(wall, Ordering::Relaxed);
            sources.now().as_second()
        };
        assert_eq!([at(1000), at(2000), at(1500), at(1501), at(3000)], [1000, 2000, 2001, 2002, 3000]);
        sources.not_before(Timestamp::from_second(5000).unwrap());
        assert_eq!(sources.now().as_second(), 5001);
        assert_eq!(sources.wall().as_second(), 3000);
    }
}
