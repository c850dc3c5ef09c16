//! What goes wrong between nodes and their store just now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use neo_events_domain::{id::DeliveryId, tenant::Schema};
use tokio::time::sleep;

use crate::{
    happening::{Happening, Tally},
    options::{Options, Trouble},
    random::Dice,
};

/// How late a call's effect may be, at most.
const LATENESS_MS_MAX: u64 = 12_000;

/// The present conditions, the same for all nodes but for who is cut off. Its clones are one.
#[derive(Clone)]
pub(crate) struct Weather(Arc<Mutex<State>>);

struct State {
    tally: Tally,
    dice: Dice,
    rates: Rates,
    cut: BTreeSet<usize>,
    /// Tenants whose calls fail.
    ailing: BTreeMap<Schema, Failing>,
    /// Deliveries that cannot be settled.
    damaged: BTreeSet<DeliveryId>,
    /// Whether nothing goes wrong any more.
    is_healed: bool,
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
    /// Nobody waits for it, and it has its effect later.
    pub(crate) is_abandoned: u64,
    /// If it fails before its effect: it is not the connection, but the disk or the database itself.
    pub(crate) is_the_database: u64,
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
            is_abandoned: rate(Trouble::Late, 200),
            is_delayed: rate(Trouble::Delays, 700),
            is_stalled: rate(Trouble::Delays, 30),
            hint_is_lost: rate(Trouble::Hints, 1001),
            is_partial: rate(Trouble::Partial, 500),
            is_the_database: rate(Trouble::Damage, 500),
            stall_seconds_max: dice.between(2, 90),
        }
    }
}

/// Before a call's effect, or after.
#[derive(Clone, Copy)]
pub(crate) enum Moment<'a> {
    Before(Rows<'a>),
    After,
}

/// Which rows a call is about.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Whatever there is: a tenant in trouble is left out, and the call does not fail for it.
    OfAll,
    /// A tenant's, to be read.
    Read(&'a Schema),
    /// A tenant's, to be written.
    Written(&'a Schema),
    /// A tenant's delivery, to be settled.
    Settled(&'a Schema, DeliveryId),
}

/// Why a call does not come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    /// The connection broke, or somebody's lock is in the way.
    Unreachable,
    /// No room is left.
    Full,
    /// Nothing can be written.
    ReadOnly,
    /// It fails now and will fail again.
    Broken,
}

impl Failing {
    /// Whether reading fails too.
    const fn concerns_reading(self) -> bool {
        matches!(self, Self::Unreachable | Self::Broken)
    }
}

impl Weather {
    /// Nothing goes wrong.
    pub(crate) fn fair(dice: Dice, tally: Tally) -> Self {
        Self(Arc::new(Mutex::new(State {
            tally,
            dice,
            rates: Rates::default(),
            cut: BTreeSet::new(),
            ailing: BTreeMap::new(),
            damaged: BTreeSet::new(),
            is_healed: false,
        })))
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

    /// A tenant's calls fail from now on, or no more.
    pub(crate) fn ail(&self, schema: &Schema, how: Option<Failing>) {
        let ailing = &mut self.state().ailing;
        match how {
            Some(how) => ailing.insert(schema.clone(), how),
            None => ailing.remove(schema),
        };
    }

    /// A delivery cannot be settled until that is mended.
    pub(crate) fn damage(&self, id: DeliveryId) {
        self.state().damaged.insert(id);
    }

    /// What is damaged.
    pub(crate) fn damaged(&self) -> BTreeSet<DeliveryId> {
        self.state().damaged.clone()
    }

    /// Somebody repairs what is damaged.
    pub(crate) fn mend(&self) {
        self.state().damaged.clear();
    }

    /// Nothing goes wrong any more but what must be mended; what is stalled goes on, and what is late is soon done.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.is_healed = true;
        state.rates = Rates::default();
        state.cut.clear();
        state.ailing.clear();
    }

    /// Waits as long as a call takes to get there, or back; says if it does not.
    pub(crate) async fn pass(&self, node: usize, moment: Moment<'_>) -> Result<(), Failing> {
        self.delay().await;
        self.fails(node, moment).map_or(Ok(()), Err)
    }

    /// Whether, and how, a call fails.
    pub(crate) fn fails(&self, node: usize, moment: Moment<'_>) -> Option<Failing> {
        let state = self.state();
        if state.cut.contains(&node) {
            state.tally.note(Happening::StoreCut);
            return Some(Failing::Unreachable);
        }
        match moment {
            Moment::Before(rows) => state.ails(rows).or_else(|| state.fails_before()),
            Moment::After if state.dice.per_mille(state.rates.fails_after) => {
                state.tally.note(Happening::ErrorAfter);
                Some(Failing::Unreachable)
            }
            Moment::After => None,
        }
    }

    /// Whether claims leave a tenant out: it is in trouble, or they have no time for it.
    pub(crate) fn leaves_out(&self, schema: &Schema) -> bool {
        let is_left_out = self.is_ailing(Rows::Read(schema)) || self.state().is_partial(4);
        if is_left_out {
            self.state().tally.note(Happening::TenantLeftOut);
        }
        is_left_out
    }

    /// Whether these rows are in trouble, whoever comes for them.
    pub(crate) fn is_ailing(&self, rows: Rows<'_>) -> bool {
        self.state().ailment_of(rows).is_some()
    }

    /// Whether a call gets to the store, its node hears no word of it, and it is done later: how much later.
    pub(crate) fn abandons(&self, node: usize) -> Option<Duration> {
        let State { dice, rates, cut, .. } = &*self.state();
        let is_abandoned = !cut.contains(&node) && dice.per_mille(rates.is_abandoned);
        // Before its caller tries again, about as often as long after.
        let (least, most) = if dice.per_mille(500) { (1, 400) } else { (400, LATENESS_MS_MAX) };
        is_abandoned.then(|| Duration::from_millis(dice.between(least, most)))
    }

    /// Is late; but not for long once nothing goes wrong any more.
    pub(crate) async fn lag(&self, lateness: Duration) {
        let mut left = lateness;
        while !left.is_zero() && !self.state().is_healed {
            let while_nothing_heals = left.min(Duration::from_secs(1));
            sleep(while_nothing_heals).await;
            left -= while_nothing_heals;
        }
    }

    pub(crate) fn hint_is_lost(&self, node: usize) -> bool {
        let state = self.state();
        let is_lost = state.cut.contains(&node) || state.dice.per_mille(state.rates.hint_is_lost);
        if is_lost {
            state.tally.note(Happening::HintLost);
        }
        is_lost
    }

    /// Whether the store leaves out something that it need not do, for now.
    pub(crate) fn is_partial(&self) -> bool {
        self.state().is_partial(1)
    }

    /// Waits as long as a call takes to get there, or back.
    pub(crate) async fn delay(&self) {
        let (millis, seconds) = {
            let State { dice, rates, tally, .. } = &*self.state();
            let millis = if dice.per_mille(rates.is_delayed) { dice.between(1, 40) } else { 0 };
            let stall = dice.per_mille(rates.is_stalled);
            tally.note_all(Happening::Stall, usize::from(stall));
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

impl State {
    /// How a call fails for the trouble that its tenant or its row is in.
    fn ails(&self, rows: Rows<'_>) -> Option<Failing> {
        let how = self.ailment_of(rows)?;
        let is_the_row = matches!(rows, Rows::Settled(_, id) if self.damaged.contains(&id));
        self.tally.note(if is_the_row { Happening::RowDamaged } else { Happening::TenantAiling });
        Some(how)
    }

    fn ailment_of(&self, rows: Rows<'_>) -> Option<Failing> {
        match rows {
            Rows::OfAll => None,
            Rows::Read(schema) => self.ailing.get(schema).copied().filter(|how| how.concerns_reading()),
            Rows::Settled(_, id) if self.damaged.contains(&id) => Some(Failing::Broken),
            Rows::Written(schema) | Rows::Settled(schema, _) => self.ailing.get(schema).copied(),
        }
    }

    fn fails_before(&self) -> Option<Failing> {
        if !self.dice.per_mille(self.rates.fails_before) {
            return None;
        }
        let others = [Failing::Full, Failing::ReadOnly, Failing::Broken];
        let other =
            self.dice.per_mille(self.rates.is_the_database).then(|| self.dice.pick(&others)).flatten();
        let how = *other.unwrap_or(&Failing::Unreachable);
        self.tally.note(match how {
            Failing::Unreachable => Happening::ErrorBefore,
            Failing::Full => Happening::Full,
            Failing::ReadOnly => Happening::ReadOnly,
            Failing::Broken => Happening::Broken,
        });
        Some(how)
    }

    /// One in so many of the cases in which something is left out.
    fn is_partial(&self, one_in: u64) -> bool {
        self.dice.per_mille(self.rates.is_partial / one_in)
    }
}
