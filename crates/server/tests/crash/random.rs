//! Decisions that a seed repeats.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::sleep;

use crate::setting;

/// Random numbers: xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    /// By the seed that the environment gives, or by another one, which is printed.
    pub(crate) fn of(whom: &str) -> Self {
        let seed =
            setting("NEO_EVENTS_SEED").unwrap_or_else(|| RandomState::new().hash_one(whom) % 1_000_000);
        println!("{whom}: NEO_EVENTS_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Sleeps for less than so many milliseconds.
    pub(crate) async fn pause(&mut self, milliseconds: u64) {
        sleep(Duration::from_millis(self.below(milliseconds))).await;
    }
}
