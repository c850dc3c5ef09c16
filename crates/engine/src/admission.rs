//! How many deliveries of which endpoint may be claimed now.
//!
//! Each endpoint has a bound on its deliveries in flight. It starts small, doubles while the receiver answers well and
//! fast, and halves when it fails or is slow; so a dead endpoint holds a handful of places and not all of them, and
//! its backlog stays in the database. All endpoints share the node's places; those that are due take turns.
//!
//! What is known here about who is due is a hint: the store's own answer, read every now and then, is the truth.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use neo_events_domain::{Timestamp, id::EndpointId, tenant::Schema};
use neo_events_store::EndpointQuota;
use tokio::sync::Notify;

/// Most deliveries in flight on a node.
pub(crate) const IN_FLIGHT_MAX: u32 = 512;
/// Most deliveries in flight to one endpoint.
pub(crate) const ENDPOINT_IN_FLIGHT_MAX: u32 = 64;
/// Deliveries in flight to an endpoint that has not answered yet.
const ENDPOINT_IN_FLIGHT_INITIAL: u32 = 8;
/// Deliveries in flight to an endpoint that keeps failing.
const ENDPOINT_IN_FLIGHT_MIN: u32 = 2;

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
    endpoints: HashMap<Key, Flow>,
    due: BTreeSet<(Timestamp, Key)>,
    last_served: Option<Key>,
}

struct Flow {
    in_flight: u32,
    bound: u32,
    due_at: Option<Timestamp>,
}

impl Admission {
    /// An endpoint owes a delivery that is due at this time.
    pub(crate) fn owe(&self, key: Key, due_at: Timestamp) {
        self.state().advance_due(key, due_at);
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
            state.advance_due(key.clone(), at);
        }
        state.forget_if_idle(key);
    }

    /// The place of one claimed delivery. It comes back however the delivery ends, also by a panic.
    pub(crate) const fn place<'a>(&'a self, key: &'a Key) -> Place<'a> {
        Place { admission: self, key, bearing: Bearing::Badly, retry_at: None }
    }

    fn finished(&self, key: &Key, bearing: Bearing, retry_at: Option<Timestamp>) {
        let mut state = self.state();
        if let Some(flow) = state.endpoints.get_mut(key) {
            flow.bound = match bearing {
                Bearing::Well => (flow.bound * 2).min(ENDPOINT_IN_FLIGHT_MAX),
                Bearing::Badly => (flow.bound / 2).max(ENDPOINT_IN_FLIGHT_MIN),
            };
        }
        state.give_back(key, 1);
        if let Some(at) = retry_at {
            state.advance_due(key.clone(), at);
        }
        state.forget_if_idle(key);
        drop(state);
        self.changed.notify_one();
    }

    /// When the earliest endpoint is due that is not so already.
    pub(crate) fn next_due_at(&self, now: Timestamp) -> Option<Timestamp> {
        let state = self.state();
        state.due.iter().map(|(at, _)| *at).find(|at| *at > now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that a claimed delivery holds.
pub(crate) struct Place<'a> {
    admission: &'a Admission,
    key: &'a Key,
    /// How the endpoint bore it; badly unless somebody says otherwise.
    pub(crate) bearing: Bearing,
    /// When the endpoint's next try of it is due.
    pub(crate) retry_at: Option<Timestamp>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.admission.finished(self.key, self.bearing, self.retry_at);
    }
}

impl State {
    fn reserve(&mut self, now: Timestamp) -> Vec<EndpointQuota> {
        let mut free = IN_FLIGHT_MAX - self.in_flight;
        let mut due: Vec<Key> =
            self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect();
        // Turns: begin after the endpoint that was served last.
        due.sort_unstable();
        let begin = self.last_served.as_ref().map_or(0, |last| due.partition_point(|key| key <= last));
        due.rotate_left(begin);
        let mut waiting = u32::try_from(due.len()).unwrap_or(u32::MAX);
        let mut quotas = Vec::new();
        for key in due {
            let Some(flow) = self.endpoints.get_mut(&key) else { continue };
            let room = flow.bound.saturating_sub(flow.in_flight);
            let max = room.min(free.div_ceil(waiting.max(1)));
            waiting -= 1;
            if max == 0 {
                continue;
            }
            flow.in_flight += max;
            self.in_flight += max;
            free -= max;
            if let Some(at) = flow.due_at.take() {
                self.due.remove(&(at, key.clone()));
            }
            quotas.push(EndpointQuota { schema: key.0.clone(), endpoint_id: key.1, max });
            self.last_served = Some(key);
        }
        quotas
    }

    fn advance_due(&mut self, key: Key, at: Timestamp) {
        let flow = self.endpoints.entry(key.clone()).or_insert_with(Flow::new);
        if flow.due_at.is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = flow.due_at.replace(at) {
            self.due.remove(&(later, key.clone()));
        }
        self.due.insert((at, key));
    }

    fn give_back(&mut self, key: &Key, places: u32) {
        self.in_flight -= places;
        if let Some(flow) = self.endpoints.get_mut(key) {
            flow.in_flight -= places;
        }
    }

    /// An endpoint that owes nothing costs nothing, but one in trouble is remembered while it owes.
    fn forget_if_idle(&mut self, key: &Key) {
        let idle = self.endpoints.get(key).is_some_and(|flow| flow.in_flight == 0 && flow.due_at.is_none());
        let unremarkable =
            self.endpoints.get(key).is_some_and(|flow| flow.bound >= ENDPOINT_IN_FLIGHT_INITIAL);
        if idle && unremarkable && self.endpoints.len() > ENDPOINTS_REMEMBERED {
            self.endpoints.remove(key);
        }
    }
}

/// Endpoints whose bound is kept though they owe nothing.
const ENDPOINTS_REMEMBERED: usize = 10_000;

impl Flow {
    const fn new() -> Self {
        Self { in_flight: 0, bound: ENDPOINT_IN_FLIGHT_INITIAL, due_at: None }
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

    #[test]
    fn a_failing_endpoint_holds_few_places_and_a_good_one_many() {
        let admission = Admission::default();
        for (n, bearing) in [(1, Bearing::Well), (2, Bearing::Badly)] {
            for _ in 0..10 {
                admission.owe(key(n), at(0));
                let reserved = quotas(&admission, 0)[0].1;
                admission.claimed(&key(n), reserved, 1, None);
                admission.finished(&key(n), bearing, None);
            }
        }
        admission.owe(key(1), at(0));
        admission.owe(key(2), at(0));
        let mut shares = quotas(&admission, 0);
        shares.sort_unstable();
        assert_eq!(shares, [(1, ENDPOINT_IN_FLIGHT_MAX), (2, ENDPOINT_IN_FLIGHT_MIN)]);
    }

    #[test]
    fn places_never_run_over_and_come_back() {
        let admission = Admission::default();
        for n in 0..1000 {
            admission.owe(key(n), at(0));
        }
        let first = quotas(&admission, 0);
        assert_eq!(first.iter().map(|(_, max)| max).sum::<u32>(), IN_FLIGHT_MAX);
        assert!(quotas(&admission, 0).is_empty());
        for (n, max) in &first {
            admission.claimed(&key(*n), *max, 0, None);
        }
        let second = quotas(&admission, 0);
        assert!(!second.is_empty());
        assert!(first.iter().all(|(n, _)| second.iter().all(|(m, _)| n != m)), "endpoints take turns");
    }

    #[test]
    fn due_times_only_move_forward_by_serving() {
        let admission = Admission::default();
        admission.owe(key(1), at(20));
        admission.owe(key(1), at(10));
        admission.owe(key(1), at(30));
        assert_eq!(admission.next_due_at(at(0)), Some(at(10)));
        assert!(quotas(&admission, 9).is_empty());
        assert_eq!(quotas(&admission, 10).len(), 1);
        assert_eq!(admission.next_due_at(at(0)), None);
    }
}
