//! Where to begin in each endpoint's queue: a low-water mark for each, here called its floor.
//!
//! What was delivered lies dead at the head of the queue, and beside a transaction that stays open somewhere it cannot
//! be removed: every claim would walk over all of it. So a claim remembers what it has seen taken or gone, and the next
//! one begins there. Something may still come before that place (a lease that was given back, a commit that was late,
//! a node whose clock is behind): [`due_endpoints`](neo_events_store::WorkQueue::due_endpoints) looks at everything, as
//! often as it can afford, and lowers the floor to what it finds. It is the truth; a floor is a mere shortcut.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use neo_events_domain::{SignedDuration, Timestamp, Uuid};

/// What is due so shortly before now may still be on its way into the table.
const MARGIN: SignedDuration = SignedDuration::from_millis(200);
/// Before everything that was ever due, in the calendar of the database (1900).
const BEGINNING: Timestamp = Timestamp::constant(-2_208_988_800, 0);
/// Endpoints that are remembered; then it begins anew.
const ENDPOINTS_MAX: usize = 20_000;

/// Tenant and endpoint.
type Key = (i32, Uuid);

/// Where to begin in one endpoint's queue.
#[derive(Clone, Copy)]
struct Floor {
    at: Timestamp,
    /// The earliest that was written since the last claim began: that claim may not have seen it.
    noted: Timestamp,
}

/// Before these times nothing is left to be claimed, as far as is known.
#[derive(Default)]
pub(crate) struct Floors(Mutex<Known>);

#[derive(Default)]
struct Known {
    floors: HashMap<Key, Floor>,
    /// When the first of the leases granted here can be over: what is leased is not seen until then.
    leases_end_at: Option<Timestamp>,
}

impl Floors {
    /// From when on to look now.
    pub(crate) fn of(&self, key: Key, now: Timestamp) -> Timestamp {
        let mut known = self.known();
        if known.leases_end_at.take_if(|at| *at <= now).is_some() || known.floors.len() >= ENDPOINTS_MAX {
            known.floors.clear();
        }
        let floor = known.floors.entry(key).or_insert(Floor { at: BEGINNING, noted: Timestamp::MAX });
        floor.noted = Timestamp::MAX;
        floor.at
    }

    /// A claim looked `now`, and what is left is due at `left` or later; `None` if nothing is.
    pub(crate) fn has_seen(&self, key: Key, now: Timestamp, left: Option<Timestamp>) {
        let recent = now.saturating_sub(MARGIN).unwrap_or(BEGINNING);
        // If it was forgotten meanwhile, it stays so.
        if let Some(floor) = self.known().floors.get_mut(&key) {
            floor.at = floor.at.max(left.map_or(recent, |left| left.min(recent)).min(floor.noted));
        }
    }

    /// Something was leased until this time.
    pub(crate) fn leased(&self, until: Timestamp) {
        let mut known = self.known();
        known.leases_end_at = Some(known.leases_end_at.map_or(until, |at| at.min(until)));
    }

    /// Something is there that is due at this time.
    pub(crate) fn lower(&self, key: Key, due_at: Timestamp) {
        if let Some(floor) = self.known().floors.get_mut(&key) {
            floor.at = floor.at.min(due_at);
            floor.noted = floor.noted.min(due_at);
        }
    }

    /// Something of the endpoint may be there again, from whatever time.
    pub(crate) fn forget(&self, key: Key) {
        self.lower(key, BEGINNING);
    }

    /// Anything may be there again.
    pub(crate) fn forget_all(&self) {
        self.known().floors.clear();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (1, Uuid::nil());

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_was_seen_is_not_looked_at_again_until_something_is_found_there() {
        let floors = Floors::default();
        let of = || floors.of(KEY, at(1000));
        let recent = |second| at(second) - MARGIN;
        assert_eq!(of(), BEGINNING);
        floors.has_seen(KEY, at(100), None);
        assert_eq!(of(), recent(100), "what is on its way has a moment");
        floors.has_seen(KEY, at(200), Some(at(150)));
        assert_eq!(of(), at(150), "an older one is left");
        floors.has_seen(KEY, at(300), Some(at(400)));
        assert_eq!(of(), recent(300), "the next is due later");
        floors.lower(KEY, at(50));
        floors.has_seen(KEY, at(310), None);
        assert_eq!(of(), at(50), "a claim that began before does not know of it");
        floors.has_seen(KEY, at(5), None);
        assert_eq!(of(), at(50), "a clock that is behind takes nothing back");
        floors.has_seen(KEY, at(320), None);
        assert_eq!(of(), recent(320));
        floors.lower(KEY, at(330));
        floors.has_seen(KEY, at(400), None);
        assert_eq!(of(), at(330), "written while the claim looked, above the floor");
        floors.forget(KEY);
        floors.has_seen(KEY, at(500), None);
        assert_eq!(of(), BEGINNING);
        floors.forget_all();
        floors.has_seen(KEY, at(500), None);
        assert_eq!(of(), BEGINNING);
        floors.has_seen(KEY, at(400), None);
        floors.leased(at(2000));
        assert_eq!(floors.of(KEY, at(1999)), recent(400));
        assert_eq!(floors.of(KEY, at(2000)), BEGINNING, "a lease may have run out");
    }
}
