//! What goes wrong between nodes and their store just now.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    options::{Options, Trouble},
    random::Dice,
};

/// The present conditions, the same for all nodes but for who is cut off. Its clones are one.
#[derive(Clone)]
pub(crate) struct Weather(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    rates: Rates,
    cut: BTreeSet<usize>,
}

/// How often, in a thousand calls.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rates {
    /// It fails and has no effect.
    pub(crate) fails_before: u64,
    /// It fails, and has its effect all the same.
    pub(crate) fails_after: u64,
    /// It takes some milliseconds.
    pub(crate) is_delayed: u64,
    /// It takes seconds or minutes.
    pub(crate) is_stalled: u64,
    /// A wake-up does not come.
    pub(crate) hint_is_lost: u64,
    /// It does less than it could.
    pub(crate) is_partial: u64,
    /// The longest stall, in seconds.
    pub(crate) stall_seconds_max: u64,
}

impl Rates {
    /// Draws conditions, as far as they are allowed.
    pub(crate) fn draw(dice: &Dice, options: &Options) -> Self {
        let rate = |trouble, most| {
            let drawn = if dice.per_mille(600) { dice.below(most) } else { 0 };
            if options.has(trouble) { drawn } else { 0 }
        };
        Self {
            fails_before: rate(Trouble::Errors, 150),
            fails_after: rate(Trouble::Errors, 150),
            is_delayed: rate(Trouble::Delays, 700),
            is_stalled: rate(Trouble::Delays, 30),
            hint_is_lost: rate(Trouble::Hints, 1001),
            is_partial: rate(Trouble::Partial, 500),
            stall_seconds_max: dice.between(2, 90),
        }
    }
}

/// Before its effect, or after.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// The call does not come through.
pub(crate) struct Fails;

impl Weather {
    /// Nothing goes wrong.
    pub(crate) fn fair(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(State { dice, rates: Rates::default(), cut: BTreeSet::new() })))
    }

    /// Conditions change.
    pub(crate) fn change(&self, rates: Rates) {
        self.state().rates = rates;
    }

    /// Cuts a node off from the store, or joins it again.
    pub(crate) fn cut(&self, node: usize, is_cut: bool) {
        let mut state = self.state();
        if is_cut {
            state.cut.insert(node)
        } else {
            state.cut.remove(&node)
        };
    }

    /// Nothing goes wrong any more; what is stalled goes on.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.rates = Rates::default();
        state.cut.clear();
    }

    /// Waits as long as a call takes to get there, or back; says if it does not.
    pub(crate) async fn pass(&self, node: usize, moment: Moment) -> Result<(), Fails> {
        self.delay().await;
        let state = self.state();
        let rate = match moment {
            Moment::Before => state.rates.fails_before,
            Moment::After => state.rates.fails_after,
        };
        if state.cut.contains(&node) || state.dice.per_mille(rate) { Err(Fails) } else { Ok(()) }
    }

    pub(crate) fn hint_is_lost(&self, node: usize) -> bool {
        let state = self.state();
        state.cut.contains(&node) || state.dice.per_mille(state.rates.hint_is_lost)
    }

    /// Whether the store leaves out something that it need not do.
    pub(crate) fn is_partial(&self) -> bool {
        let state = self.state();
        state.dice.per_mille(state.rates.is_partial)
    }

    async fn delay(&self) {
        let (millis, seconds) = {
            let State { dice, rates, .. } = &*self.state();
            let millis = if dice.per_mille(rates.is_delayed) { dice.between(1, 40) } else { 0 };
            let stall = dice.per_mille(rates.is_stalled);
            (millis, if stall { dice.between(1, rates.stall_seconds_max) } else { 0 })
        };
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
        for _ in 0..seconds {
            if self.state().rates.is_stalled == 0 {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
