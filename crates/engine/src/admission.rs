//! How many deliveries of which endpoint may be claimed now.
//!
//! Each endpoint has a bound on its deliveries in flight. It starts small, doubles while the receiver answers well and
//! fast, and halves when it fails or is slow; so a dead endpoint holds a handful of places and not all of them, and
//! its backlog stays in the database. All endpoints share the node's places and take turns; those whose last answer
//! was not a good one share half of them, so that many dead endpoints do not hold up those that work.
//!
//! What is known here about who is due is a hint: the store's own answer, read every now and then, is the truth.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use neo_events_domain::{Timestamp, id::EndpointId, tenant::Schema};
use neo_events_store::EndpointQuota;
use tokio::sync::Notify;

/// Most deliveries in flight on a node.
const IN_FLIGHT_MAX: u32 = 512;
/// Most deliveries in flight to endpoints whose last answer was not a good one: dead endpoints, however many, cannot
/// fill the node.
const UNPROVEN_IN_FLIGHT_MAX: u32 = IN_FLIGHT_MAX / 2;
/// Most deliveries in flight to one endpoint.
const ENDPOINT_IN_FLIGHT_MAX: u32 = 64;
/// Deliveries in flight to an endpoint that has not answered yet, or keeps failing.
const ENDPOINT_IN_FLIGHT_MIN: u32 = 2;
/// Endpoints whose bound is kept though they owe nothing.
const ENDPOINTS_REMEMBERED: usize = 10_000;

/// Which endpoint.
pub(crate) type Key = (Schema, EndpointId);

/// How an endpoint bore a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bearing {
    /// It answered well and fast.
    Well,
    /// It failed, or took long.
    Badly,
}

/// Shared by the passes.
#[derive(Default)]
pub(crate) struct Admission {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    in_flight: u32,
    unproven_in_flight: u32,
    flows: HashMap<Key, Flow>,
    /// Endpoints in [`Due::Later`].
    later: BTreeSet<(Timestamp, Key)>,
    /// Endpoints in [`Due::Ready`], in turn.
    ready: VecDeque<Key>,
    /// Endpoints in [`Due::Ready`] whose turn must wait until an unproven place is free.
    blocked: VecDeque<Key>,
}

struct Flow {
    in_flight: u32,
    bound: u32,
    proven: bool,
    due: Due,
}

/// Where an endpoint stands in the order of turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// It owes nothing, as far as is known.
    No,
    /// From this time on.
    Later(Timestamp),
    /// Now, and it has room.
    Ready,
    /// Now, but its own bound is reached.
    Full,
}

impl Admission {
    /// An endpoint owes a delivery that is due at this time.
    pub(crate) fn owe(&self, key: Key, due_at: Timestamp) {
        self.state().owe(key, due_at);
        self.changed.notify_one();
    }

    /// Resolves when something changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What to claim: each due endpoint's share of the free places, taken until [`Self::claimed`] answers.
    pub(crate) fn reserve(&self, now: Timestamp) -> Vec<EndpointQuota> {
        self.state().reserve(now)
    }

    /// How many of a reservation were claimed, and when the endpoint's next delivery is due.
    pub(crate) fn claimed(&self, key: &Key, reserved: u32, claimed: u32, next_due_at: Option<Timestamp>) {
        let mut state = self.state();
        state.give_back(key, reserved - claimed);
        if let Some(at) = next_due_at {
            state.owe(key.clone(), at);
        }
    }

    /// The place of one claimed delivery. It comes back however the delivery ends, also by a panic.
    pub(crate) const fn place(self: Arc<Self>, key: Key) -> Place {
        Place { admission: self, key, stage: Stage::AtEndpoint, retry_at: None }
    }

    /// A place for a delivery that is only being written, if there is one and nothing that waits would be overtaken.
    pub(crate) fn place_ahead(self: &Arc<Self>, key: Key, now: Timestamp) -> Option<Place> {
        let admission = Arc::clone(self);
        let is_free = self.state().take_ahead(&key, now);
        is_free.then(|| Place { admission, key, stage: Stage::Ahead, retry_at: None })
    }

    /// When there is something to claim: now, later, or as far as is known never.
    pub(crate) fn next_claim_at(&self, now: Timestamp) -> Option<Timestamp> {
        let state = self.state();
        let now = (!state.ready.is_empty() && state.in_flight < IN_FLIGHT_MAX).then_some(now);
        now.or_else(|| state.later.first().map(|(at, _)| *at))
    }

    fn answered(&self, key: &Key, bearing: Bearing) {
        let mut state = self.state();
        state.learn(key, bearing);
        state.leave_endpoint(key, 1);
        drop(state);
        self.changed.notify_one();
    }

    fn not_needed(&self, key: &Key) {
        self.state().give_back(key, 1);
        self.changed.notify_one();
    }

    fn finished(&self, key: &Key, retry_at: Option<Timestamp>) {
        let mut state = self.state();
        state.leave_node(1);
        if let Some(at) = retry_at {
            state.owe(key.clone(), at);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that a claimed delivery holds: one at its endpoint until that has answered, and one on the node until what
/// it answered is recorded.
pub(crate) struct Place {
    admission: Arc<Admission>,
    key: Key,
    stage: Stage,
    /// When the endpoint's next try of it is due.
    pub(crate) retry_at: Option<Timestamp>,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is not there yet, and perhaps never will be.
    Ahead,
    /// It is being attempted.
    AtEndpoint,
    /// It has been; what came of it is being recorded.
    Answered,
}

impl Place {
    /// Whose delivery it is.
    pub(crate) const fn schema(&self) -> &Schema {
        &self.key.0
    }

    /// The delivery is there, and its attempt begins.
    pub(crate) const fn begin(&mut self) {
        self.stage = Stage::AtEndpoint;
    }

    /// The attempt is over, and the endpoint bore it like this: another one may go there.
    pub(crate) fn answered(&mut self, bearing: Bearing) {
        self.stage = Stage::Answered;
        self.admission.answered(&self.key, bearing);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.stage {
            // Nothing was attempted, so nothing was learned.
            Stage::Ahead => return self.admission.not_needed(&self.key),
            Stage::AtEndpoint => self.answered(Bearing::Badly),
            Stage::Answered => {}
        }
        self.admission.finished(&self.key, self.retry_at);
    }
}

impl State {
    fn reserve(&mut self, now: Timestamp) -> Vec<EndpointQuota> {
        self.ripen(now);
        let mut quotas = Vec::new();
        let turns = self.ready.len();
        for turn in 0..turns {
            let free = IN_FLIGHT_MAX - self.in_flight;
            if free == 0 {
                break;
            }
            let waiting = u32::try_from(turns - turn).unwrap_or(u32::MAX);
            let Some(key) = self.ready.pop_front() else { break };
            quotas.extend(self.take_turn(key, free.div_ceil(waiting)));
        }
        quotas
    }

    /// Endpoints that have become due join the turns.
    fn ripen(&mut self, now: Timestamp) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.later.pop_first() else { break };
            let Some(flow) = self.flows.get_mut(&key) else { continue };
            flow.due = if flow.has_room() { Due::Ready } else { Due::Full };
            if flow.due == Due::Ready {
                self.ready.push_back(key);
            }
        }
    }

    fn take_turn(&mut self, key: Key, share: u32) -> Option<EndpointQuota> {
        let flow = self.flows.get_mut(&key)?;
        let unproven_free = UNPROVEN_IN_FLIGHT_MAX.saturating_sub(self.unproven_in_flight);
        let allowed = if flow.proven { share } else { share.min(unproven_free) };
        let max = flow.bound.saturating_sub(flow.in_flight).min(allowed);
        if max == 0 {
            self.blocked.push_back(key);
            return None;
        }
        flow.in_flight += max;
        flow.due = Due::No;
        self.in_flight += max;
        self.unproven_in_flight += if flow.proven { 0 } else { max };
        Some(EndpointQuota { schema: key.0, endpoint_id: key.1, max })
    }

    /// Takes a place out of turn, which is fair only as long as nobody waits: neither another endpoint for a place on
    /// the node, nor an older delivery of this one.
    fn take_ahead(&mut self, key: &Key, now: Timestamp) -> bool {
        if self.in_flight >= IN_FLIGHT_MAX || !self.ready.is_empty() {
            return false;
        }
        let flow = self.flows.entry(key.clone()).or_insert_with(Flow::new);
        let waits = match flow.due {
            Due::No => false,
            Due::Later(at) => at <= now,
            Due::Ready | Due::Full => true,
        };
        let is_barred = !flow.proven && self.unproven_in_flight >= UNPROVEN_IN_FLIGHT_MAX;
        if waits || is_barred || !flow.has_room() {
            return false;
        }
        flow.in_flight += 1;
        self.in_flight += 1;
        self.unproven_in_flight += u32::from(!flow.proven);
        true
    }

    fn owe(&mut self, key: Key, at: Timestamp) {
        let flow = self.flows.entry(key.clone()).or_insert_with(Flow::new);
        match flow.due {
            Due::Ready | Due::Full => return,
            Due::Later(earlier) if earlier <= at => return,
            Due::Later(later) => drop(self.later.remove(&(later, key.clone()))),
            Due::No => {}
        }
        flow.due = Due::Later(at);
        self.later.insert((at, key));
    }

    fn learn(&mut self, key: &Key, bearing: Bearing) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let proven = bearing == Bearing::Well;
        flow.bound = if proven {
            (flow.bound * 2).min(ENDPOINT_IN_FLIGHT_MAX)
        } else {
            (flow.bound / 2).max(ENDPOINT_IN_FLIGHT_MIN)
        };
        match (flow.proven, proven) {
            (true, false) => self.unproven_in_flight += flow.in_flight,
            (false, true) => self.unproven_in_flight -= flow.in_flight,
            _ => {}
        }
        flow.proven = proven;
    }

    /// What was reserved and not claimed.
    fn give_back(&mut self, key: &Key, places: u32) {
        self.leave_node(places);
        self.leave_endpoint(key, places);
    }

    const fn leave_node(&mut self, places: u32) {
        self.in_flight -= places;
    }

    fn leave_endpoint(&mut self, key: &Key, places: u32) {
        self.ready.append(&mut self.blocked);
        let remembered = self.flows.len();
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.in_flight -= places;
        self.unproven_in_flight -= if flow.proven { 0 } else { places };
        if flow.due == Due::Full && flow.has_room() {
            flow.due = Due::Ready;
            self.ready.push_back(key.clone());
        }
        if flow.in_flight == 0 && flow.due == Due::No && remembered > ENDPOINTS_REMEMBERED {
            self.flows.remove(key);
        }
    }
}

impl Flow {
    const fn new() -> Self {
        Self { in_flight: 0, bound: ENDPOINT_IN_FLIGHT_MIN, proven: false, due: Due::No }
    }

    const fn has_room(&self) -> bool {
        self.in_flight < self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neo_events_domain::Uuid;

    fn key(n: u128) -> Key {
        (Schema::admin(), EndpointId::from_uuid(Uuid::from_u128(n)))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn quotas(admission: &Admission, now: i64) -> Vec<(u128, u32)> {
        admission.reserve(at(now)).iter().map(|q| (q.endpoint_id.uuid().as_u128(), q.max)).collect()
    }

    fn finish(admission: &Admission, n: u128, bearing: Bearing) {
        admission.answered(&key(n), bearing);
        admission.finished(&key(n), None);
    }

    #[test]
    fn an_endpoint_that_has_answered_is_free_though_its_answer_is_not_yet_recorded() {
        let admission = Arc::new(Admission::default());
        admission.owe(key(1), at(0));
        assert_eq!(quotas(&admission, 0), [(1, ENDPOINT_IN_FLIGHT_MIN)]);
        let mut places: Vec<_> =
            (0..ENDPOINT_IN_FLIGHT_MIN).map(|_| Arc::clone(&admission).place(key(1))).collect();
        admission.owe(key(1), at(0));
        assert!(quotas(&admission, 0).is_empty());
        for place in &mut places {
            place.answered(Bearing::Badly);
        }
        assert_eq!(quotas(&admission, 0), [(1, ENDPOINT_IN_FLIGHT_MIN)]);
        assert_eq!(admission.state().in_flight, 2 * ENDPOINT_IN_FLIGHT_MIN, "the node still holds the first");
        drop(places);
        assert_eq!(admission.state().in_flight, ENDPOINT_IN_FLIGHT_MIN);
    }

    #[test]
    fn a_place_ahead_overtakes_nobody_and_teaches_nothing() {
        let admission = Arc::new(Admission::default());
        let ahead = |n, now| admission.place_ahead(key(n), at(now));
        let places = [ahead(1, 0).unwrap(), ahead(1, 0).unwrap()];
        assert!(ahead(1, 0).is_none(), "its bound holds");
        drop(places);
        assert_eq!(admission.state().in_flight, 0);
        admission.owe(key(1), at(10));
        drop(ahead(1, 9).expect("what is due later is not overtaken"));
        assert!(ahead(1, 10).is_none(), "an older delivery waits");
        assert!(ahead(2, 10).is_some());
        assert_eq!(quotas(&admission, 10), [(1, ENDPOINT_IN_FLIGHT_MIN)], "nothing was learned of it");
        admission.owe(key(3), at(0));
        admission.state().ripen(at(0));
        assert!(ahead(2, 10).is_none(), "another endpoint's turn has come");
        let mut begun = {
            admission.reserve(at(0));
            ahead(2, 10).unwrap()
        };
        begun.begin();
        begun.answered(Bearing::Well);
        assert!(admission.state().flows[&key(2)].proven);
    }

    #[test]
    fn a_failing_endpoint_holds_few_places_and_a_good_one_many() {
        let admission = Admission::default();
        for (n, bearing) in [(1, Bearing::Well), (2, Bearing::Badly)] {
            for _ in 0..10 {
                admission.owe(key(n), at(0));
                let reserved = quotas(&admission, 0)[0].1;
                admission.claimed(&key(n), reserved, 1, None);
                finish(&admission, n, bearing);
            }
        }
        admission.owe(key(1), at(0));
        admission.owe(key(2), at(0));
        let mut shares = quotas(&admission, 0);
        shares.sort_unstable();
        assert_eq!(shares, [(1, ENDPOINT_IN_FLIGHT_MAX), (2, ENDPOINT_IN_FLIGHT_MIN)]);
    }

    #[test]
    fn dead_endpoints_cannot_fill_the_node() {
        let admission = Admission::default();
        admission.owe(key(0), at(0));
        assert_eq!(quotas(&admission, 0), [(0, ENDPOINT_IN_FLIGHT_MIN)]);
        finish(&admission, 0, Bearing::Well);
        for n in 1..=1000 {
            admission.owe(key(n), at(0));
        }
        let taken: u32 = (0..20).flat_map(|_| quotas(&admission, 0)).map(|(_, max)| max).sum();
        assert_eq!(taken, UNPROVEN_IN_FLIGHT_MAX);
        admission.owe(key(0), at(0));
        assert_eq!(
            quotas(&admission, 0).iter().map(|(n, _)| *n).collect::<Vec<_>>(),
            [0],
            "a proven one goes on"
        );
        assert_eq!(admission.next_claim_at(at(0)), None, "nothing to do until a place is free");
    }

    #[test]
    fn places_never_run_over_come_back_and_endpoints_take_turns() {
        let admission = Admission::default();
        for n in 0..1000 {
            admission.owe(key(n), at(0));
        }
        let first = quotas(&admission, 0);
        assert_eq!(first.iter().map(|(_, max)| max).sum::<u32>(), UNPROVEN_IN_FLIGHT_MAX);
        assert!(quotas(&admission, 0).is_empty());
        for (n, max) in &first {
            admission.claimed(&key(*n), *max, 0, Some(at(0)));
        }
        let second = quotas(&admission, 0);
        assert!(!second.is_empty());
        assert!(first.iter().all(|(n, _)| second.iter().all(|(m, _)| n != m)), "endpoints take turns");
        let state = admission.state();
        assert_eq!(state.in_flight, state.flows.values().map(|flow| flow.in_flight).sum::<u32>());
        assert_eq!(state.in_flight, state.unproven_in_flight);
    }

    #[test]
    fn due_times_only_move_forward_by_serving() {
        let admission = Admission::default();
        admission.owe(key(1), at(20));
        admission.owe(key(1), at(10));
        admission.owe(key(1), at(30));
        assert_eq!(admission.next_claim_at(at(0)), Some(at(10)));
        assert!(quotas(&admission, 9).is_empty());
        assert_eq!(quotas(&admission, 10).len(), 1);
        assert_eq!(admission.next_claim_at(at(0)), None);
    }

    #[test]
    fn an_endpoint_at_its_bound_goes_on_when_a_place_comes_back() {
        let admission = Admission::default();
        admission.owe(key(1), at(0));
        assert_eq!(quotas(&admission, 0), [(1, 2)]);
        admission.claimed(&key(1), 2, 2, Some(at(0)));
        assert!(quotas(&admission, 0).is_empty());
        assert_eq!(admission.next_claim_at(at(0)), None);
        finish(&admission, 1, Bearing::Badly);
        assert_eq!(admission.next_claim_at(at(0)), Some(at(0)));
        assert_eq!(quotas(&admission, 0), [(1, 1)]);
    }
}
