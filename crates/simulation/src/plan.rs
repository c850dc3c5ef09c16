//! What happens next: each step's action is drawn from a stream of its own, so that a run with fewer steps or less
//! trouble begins in the same way.

use crate::{
    options::{Options, Trouble},
    random::Dice,
};

/// What a step does, before time goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Somebody publishes.
    Publish,
    /// Nothing but time passing.
    Wait,
    /// An endpoint or a subscription comes, changes or goes.
    Configure,
    /// Somebody cancels a delivery.
    Cancel,
    /// Somebody retries a delivery.
    Retry,
    /// A receiver changes its manner.
    ChangeReceiver,
    /// A node loses its network, or gets it back.
    CutNetwork,
    /// A node loses the store, or gets it back.
    CutStore,
    /// A tenant gets into trouble, or out of it, or a row is damaged.
    Damage,
    /// Conditions between nodes and store change.
    ChangeWeather,
    /// The wall clock jumps.
    JumpClock,
    /// A node dies.
    Crash,
    /// A node is shut down.
    ShutDown,
    /// A node's leases are freed while it lives.
    LoseSession,
}

/// How often each happens, and what trouble it is.
const WEIGHTS: [(u64, Option<Trouble>, Action); 14] = [
    (30, None, Action::Publish),
    (10, None, Action::Wait),
    (9, Some(Trouble::Configuration), Action::Configure),
    (4, Some(Trouble::People), Action::Cancel),
    (4, Some(Trouble::People), Action::Retry),
    (12, Some(Trouble::Network), Action::ChangeReceiver),
    (3, Some(Trouble::Network), Action::CutNetwork),
    (4, Some(Trouble::Cuts), Action::CutStore),
    (5, Some(Trouble::Damage), Action::Damage),
    (6, None, Action::ChangeWeather),
    (4, Some(Trouble::Clock), Action::JumpClock),
    (5, Some(Trouble::Crash), Action::Crash),
    (4, Some(Trouble::Shutdown), Action::ShutDown),
    (3, Some(Trouble::Sessions), Action::LoseSession),
];

impl Action {
    /// Draws one; trouble that is left out becomes waiting.
    pub(crate) fn draw(dice: &Dice, options: &Options) -> Self {
        let total = WEIGHTS.iter().map(|(weight, ..)| weight).sum();
        let mut drawn = dice.below(total);
        for (weight, trouble, action) in WEIGHTS {
            if drawn < weight {
                return if trouble.is_none_or(|trouble| options.has(trouble)) { action } else { Self::Wait };
            }
            drawn -= weight;
        }
        Self::Wait
    }
}
