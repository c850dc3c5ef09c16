//! All randomness of a run, from its seed: streams of their own for the plan, the faults, the network and each life of
//! a node, so that leaving out one thing does not change what the others draw.

use std::sync::{Arc, Mutex, PoisonError};

use neo_events_engine::Random;

/// A stream of random numbers (`SplitMix64`), shared by its clones.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    /// The stream of a seed with this name and number.
    pub(crate) fn new(seed: u64, name: &str, number: u64) -> Self {
        let mut state = mixed(seed ^ mixed(number.wrapping_add(0x5eed)));
        for byte in name.bytes() {
            state = mixed(state ^ u64::from(byte));
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// Any number.
    pub(crate) fn draw(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(*state)
    }

    /// 0 ≤ number < `limit`; 0 if there is none.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.draw() % limit.max(1)
    }

    /// `from` ≤ number ≤ `to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Whether one of so many thousand cases is drawn.
    pub(crate) fn per_mille(&self, cases: u64) -> bool {
        self.below(1000) < cases
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.below(of.len() as u64)).unwrap_or(0))
    }

    /// Random bytes.
    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

impl Random for Dice {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw().to_le_bytes()[..chunk.len()]);
        }
    }
}

const fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
