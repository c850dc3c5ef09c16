//! How many deliveries of which endpoint may be taken in hand now, and which of those may be attempted.
//!
//! Each endpoint has a bound on its attempts in flight. It starts small, doubles while the receiver answers well and
//! fast, and halves when it fails or is slow; so a dead endpoint holds a handful of places and not all of them, and
//! its backlog stays in the database. All endpoints share the node's places and take turns; those whose last answer
//! was not a good one share a part of them, so that many dead endpoints do not hold up those that work.
//!
//! Of an endpoint that answers well more is taken in hand than may be attempted: the rest stands in line, so that the
//! next attempt begins the moment another has been answered and not a round trip to the database later. If the endpoint
//! fails until its bound is at its least, what stands in line is given back. If it goes on failing, it rests between two
//! turns, longer each time: a receiver that refuses at once would else be claimed for as often as the database bears.
//!
//! What is known here about who is due is a hint: the store's own answer, read every now and then, is the truth.

mod state;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use neo_events_domain::{
    Timestamp,
    id::{DeliveryId, EndpointId},
    tenant::Schema,
};
use neo_events_store::EndpointQuota;
use tokio::sync::{Notify, oneshot};

use state::{IN_HAND_MAX, State};

/// Which endpoint.
pub(crate) type Key = (Schema, EndpointId);

/// How an endpoint bore a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bearing {
    /// It answered well and fast.
    Well,
    /// It failed, and at once.
    Badly,
    /// It took long, whatever came of it.
    Slowly,
}

/// Shared by the passes.
#[derive(Default)]
pub(crate) struct Admission {
    state: Mutex<State>,
    changed: Notify,
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

    /// What to claim: each due endpoint's share of the free places, taken until it is known what was claimed.
    pub(crate) fn reserve(&self, now: Timestamp) -> Reservation<'_> {
        Reservation { admission: self, quotas: self.state().reserve(now).into(), at: now }
    }

    fn claimed(&self, key: &Key, reserved: u32, Claimed { deliveries, next_due_at }: Claimed) {
        assert!(deliveries <= reserved, "{deliveries} were claimed where {reserved} had been reserved");
        let mut state = self.state();
        state.claimed(key, reserved);
        state.give_back(key, reserved - deliveries);
        if let Some(at) = next_due_at {
            state.owe(key.clone(), at);
        }
    }

    /// The place of one claimed delivery. It comes back however the delivery ends, also by a panic.
    pub(crate) const fn place(self: Arc<Self>, key: Key) -> Place {
        Place { admission: self, key, stage: Stage::InHand, retry_at: None }
    }

    /// A place for a delivery that is only being written, if there is one that nobody who waits is to have.
    pub(crate) fn place_ahead(self: &Arc<Self>, key: Key, now: Timestamp) -> Option<Place> {
        let admission = Arc::clone(self);
        let is_free = self.state().take_ahead(&key, now);
        is_free.then(|| Place { admission, key, stage: Stage::InHand, retry_at: None })
    }

    /// Whoever stands in line for this endpoint gives back what it has in hand.
    pub(crate) fn send_line_away(&self, key: &Key) {
        if let Some(flow) = self.state().flows.get_mut(key) {
            flow.line.clear();
        }
    }

    /// This delivery gives back what it has in hand, if it stands in line.
    pub(crate) fn send_away(&self, key: &Key, id: DeliveryId) {
        if let Some(flow) = self.state().flows.get_mut(key) {
            flow.line.retain(|waiting| waiting.delivery_id != id);
        }
    }

    /// To be called every now and then, not before an answer counts as slow: endpoints that have had attempts in flight since the last
    /// call, and have answered none, bear them badly, whatever comes of them. Until their timeouts they would else hold what
    /// they were given when they answered well.
    pub(crate) fn notice_silence(&self) {
        self.state().notice_silence();
        self.changed.notify_one();
    }

    /// Whoever stands in line for an endpoint of this tenant gives back what it has in hand.
    pub(crate) fn send_lines_away_of(&self, schema: &Schema) {
        let mut state = self.state();
        let of_it = state.flows.iter_mut().filter(|(key, _)| key.0 == *schema);
        of_it.for_each(|(_, flow)| flow.line.clear());
    }

    /// When there is something to claim: now, later, or as far as is known never.
    pub(crate) fn next_claim_at(&self, now: Timestamp) -> Option<Timestamp> {
        let state = self.state();
        let now = (!state.ready.is_empty() && state.in_hand < IN_HAND_MAX).then_some(now);
        now.or_else(|| state.later.first().map(|(at, _)| *at))
    }

    fn answered(&self, key: &Key, bearing: Bearing) {
        let mut state = self.state();
        state.learn(key, bearing);
        state.end_attempt(key);
        let is_more_due = state.leave_endpoint(key, 1);
        drop(state);
        self.tell(is_more_due);
    }

    fn not_needed(&self, key: &Key) {
        let is_more_due = self.state().give_back(key, 1);
        self.tell(is_more_due);
    }

    fn finished(&self, key: &Key, retry_at: Option<Timestamp>) {
        let mut state = self.state();
        state.leave_node(1);
        if let Some(at) = retry_at {
            state.owe(key.clone(), at);
        }
        let is_more_due = retry_at.is_some() || !state.ready.is_empty();
        drop(state);
        self.tell(is_more_due);
    }

    /// Most answers change nothing for whoever claims, and each wake-up costs as much as an answer.
    fn tell(&self, is_more_due: bool) {
        if is_more_due {
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places that are taken while deliveries for them are being claimed. Those of which nothing is said come back when it is
/// dropped, also by a panic, and their endpoints stay due.
pub(crate) struct Reservation<'a> {
    admission: &'a Admission,
    quotas: VecDeque<EndpointQuota>,
    at: Timestamp,
}

/// What a claim brought of one endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Claimed {
    /// How many.
    pub(crate) deliveries: u32,
    /// When its next one is due, of those that were not claimed.
    pub(crate) next_due_at: Option<Timestamp>,
}

impl Reservation<'_> {
    /// At most how many of whom; empty if there is nobody, or no room.
    pub(crate) fn quotas(&mut self) -> &[EndpointQuota] {
        self.quotas.make_contiguous()
    }

    /// Says of each endpoint what was claimed.
    pub(crate) fn end(mut self, mut claimed: impl FnMut(&Key) -> Claimed) {
        while let Some(EndpointQuota { schema, endpoint_id, max }) = self.quotas.front() {
            let key = (schema.clone(), *endpoint_id);
            self.admission.claimed(&key, *max, claimed(&key));
            self.quotas.pop_front();
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        for EndpointQuota { schema, endpoint_id, max } in self.quotas.drain(..) {
            let nothing = Claimed { deliveries: 0, next_due_at: Some(self.at) };
            self.admission.claimed(&(schema, endpoint_id), max, nothing);
        }
    }
}

/// A place that a delivery in hand holds: one at its endpoint until that has answered, and one on the node until what it
/// answered is recorded.
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
    /// It is not attempted yet, and perhaps never will be.
    InHand,
    /// It is being attempted.
    AtEndpoint,
    /// It has been; what came of it is being recorded.
    Answered,
}

/// What standing in line came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The attempt may begin.
    Come,
    /// The endpoint bears no more: give it back.
    Gone,
}

impl Place {
    /// Whose delivery it is.
    pub(crate) const fn schema(&self) -> &Schema {
        &self.key.0
    }

    /// Which endpoint it is for.
    pub(crate) const fn endpoint_id(&self) -> EndpointId {
        self.key.1
    }

    /// Resolves when the endpoint may have one attempt more, for this delivery, in the order of calls.
    pub(crate) async fn turn(&mut self, id: DeliveryId) -> Turn {
        let joined = self.admission.state().join_line(&self.key, id);
        if let Some(called) = joined {
            let mut waiting = InLine { admission: &self.admission, key: &self.key, called };
            // The one who calls counts the attempt.
            if (&mut waiting.called).await.is_err() {
                return Turn::Gone;
            }
        }
        self.stage = Stage::AtEndpoint;
        Turn::Come
    }

    /// The turn has come and is not used: nothing was attempted, so nothing is learned.
    pub(crate) fn forgo(&mut self) {
        if self.stage == Stage::AtEndpoint {
            self.stage = Stage::InHand;
            self.admission.state().end_attempt(&self.key);
        }
    }

    /// The endpoint wants no more: whoever stands in line for it gives back what it has in hand.
    pub(crate) fn send_line_away(&self) {
        self.admission.send_line_away(&self.key);
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
            Stage::InHand => return self.admission.not_needed(&self.key),
            Stage::AtEndpoint => self.answered(Bearing::Badly),
            Stage::Answered => {}
        }
        self.admission.finished(&self.key, self.retry_at);
    }
}

/// Somebody who stands in line. Who leaves it after having been called, but before having heard of it, lets the next go.
struct InLine<'a> {
    admission: &'a Admission,
    key: &'a Key,
    called: oneshot::Receiver<()>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.called.close();
        if self.called.try_recv().is_ok() {
            self.admission.state().end_attempt(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::state::{
        ENDPOINT_IN_FLIGHT_MAX, ENDPOINT_IN_FLIGHT_MIN, IN_HAND_PER_FLIGHT, LINE_BOUND_MIN, Parts,
        SLOW_IN_HAND_MAX, UNPROVEN_IN_HAND_MAX,
    };
    use neo_events_domain::{SignedDuration, Uuid};
    use std::task::{Context, Poll, Waker};

    /// Where it does not matter which delivery it is.
    const NOBODY: DeliveryId = DeliveryId::from_uuid(Uuid::nil());

    fn key(n: u128) -> Key {
        (Schema::admin(), EndpointId::from_uuid(Uuid::from_u128(n)))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// What may be claimed now, and is being claimed from now on.
    fn quotas(admission: &Admission, now: i64) -> Vec<(u128, u32)> {
        quotas_at(admission, at(now))
    }

    fn quotas_at(admission: &Admission, now: Timestamp) -> Vec<(u128, u32)> {
        let taken = std::mem::take(&mut admission.reserve(now).quotas);
        taken.iter().map(|quota| (quota.endpoint_id.uuid().as_u128(), quota.max)).collect()
    }

    fn claimed(
        admission: &Admission,
        n: u128,
        reserved: u32,
        deliveries: u32,
        next_due_at: Option<Timestamp>,
    ) {
        admission.claimed(&key(n), reserved, Claimed { deliveries, next_due_at });
    }

    /// One of those in hand is attempted, and answered like this.
    fn finish(admission: &Admission, n: u128, bearing: Bearing) {
        assert!(admission.state().join_line(&key(n), NOBODY).is_none(), "its turn comes at once");
        admission.answered(&key(n), bearing);
        admission.finished(&key(n), None);
    }

    /// Whether the turn of a place has come.
    fn come(place: &mut Place) -> Option<Turn> {
        let mut turn = std::pin::pin!(place.turn(NOBODY));
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    /// As many as are reserved for an endpoint are claimed.
    fn places(admission: &Arc<Admission>, n: u128, now: i64) -> Vec<Place> {
        admission.owe(key(n), at(now));
        let max = quotas(admission, now).into_iter().find(|(of, _)| *of == n).map_or(0, |(_, max)| max);
        claimed(admission, n, max, max, None);
        (0..max).map(|_| Arc::clone(admission).place(key(n))).collect()
    }

    /// Answers well until its bound is at its most.
    fn proven(admission: &Arc<Admission>, n: u128) {
        for _ in 0..8 {
            let mut place = places(admission, n, 0).swap_remove(0);
            assert_eq!(come(&mut place), Some(Turn::Come));
            place.answered(Bearing::Well);
        }
    }

    /// An endpoint with as many in flight as it may have, and one more in hand.
    fn all_in_flight(admission: &Arc<Admission>) -> (Vec<Place>, Place) {
        proven(admission, 1);
        let mut in_hand = places(admission, 1, 0);
        let last = in_hand.pop().unwrap();
        in_hand.truncate(ENDPOINT_IN_FLIGHT_MAX as usize);
        assert!(in_hand.iter_mut().all(|place| come(place) == Some(Turn::Come)));
        (in_hand, last)
    }

    #[test]
    fn an_endpoint_that_has_answered_is_free_though_its_answer_is_not_yet_recorded() {
        let admission = Arc::new(Admission::default());
        let mut first = places(&admission, 1, 0);
        assert_eq!(first.len(), ENDPOINT_IN_FLIGHT_MIN as usize);
        assert!(places(&admission, 1, 0).is_empty());
        for place in &mut first {
            assert_eq!(come(place), Some(Turn::Come));
            place.answered(Bearing::Badly);
        }
        assert_eq!(quotas(&admission, 1), [(1, ENDPOINT_IN_FLIGHT_MIN)]);
        assert_eq!(admission.state().in_hand, 2 * ENDPOINT_IN_FLIGHT_MIN, "the node still holds the first");
        drop(first);
        assert_eq!(admission.state().in_hand, ENDPOINT_IN_FLIGHT_MIN);
    }

    #[test]
    fn a_place_ahead_leaves_those_that_wait_their_share_and_teaches_nothing() {
        let admission = Arc::new(Admission::default());
        let ahead = |n, now| admission.place_ahead(key(n), at(now));
        let taken = [ahead(1, 0).unwrap(), ahead(1, 0).unwrap()];
        assert!(ahead(1, 0).is_none(), "its bound holds");
        drop(taken);
        assert_eq!(admission.state().in_hand, 0);
        admission.owe(key(1), at(10));
        drop(ahead(1, 9).expect("what is due later does not wait"));
        assert!(ahead(1, 10).is_none(), "an older delivery waits for one that is not proven");
        assert_eq!(quotas(&admission, 10), [(1, ENDPOINT_IN_FLIGHT_MIN)], "nothing was learned of it");

        proven(&admission, 2);
        admission.owe(key(2), at(10));
        let beside: Vec<_> = (0..).map_while(|_| ahead(2, 10)).collect();
        assert_eq!(beside.len(), ENDPOINT_IN_FLIGHT_MAX as usize);
        let left = ENDPOINT_IN_FLIGHT_MAX * (IN_HAND_PER_FLIGHT - 1);
        assert_eq!(quotas(&admission, 10), [(2, left)], "what waits has the larger part");
        assert!(ahead(2, 10).is_none(), "also while it is being claimed");
        claimed(&admission, 2, left, 0, None);
        assert!(ahead(2, 10).is_some(), "nothing waits");

        proven(&admission, 3);
        admission.owe(key(3), at(10));
        let all = ENDPOINT_IN_FLIGHT_MAX * IN_HAND_PER_FLIGHT;
        assert!(quotas(&admission, 10).contains(&(3, all)));
        let beside: Vec<_> = (0..).map_while(|_| ahead(3, 10)).collect();
        assert_eq!(
            beside.len(),
            ENDPOINT_IN_FLIGHT_MAX as usize,
            "a claim of all it may have is no reason to wait"
        );
    }

    #[test]
    fn what_waits_elsewhere_keeps_half_of_the_node() {
        let admission = Arc::new(Admission::default());
        let endpoints = 2 + IN_HAND_MAX / ENDPOINT_IN_FLIGHT_MAX;
        (1..=endpoints).for_each(|n| proven(&admission, n.into()));
        admission.owe(key(99), at(0));
        admission.state().ripen(at(0));
        let ahead = |n: u32| admission.place_ahead(key(n.into()), at(0));
        let taken: Vec<_> =
            (1..=endpoints).flat_map(|n| (0..ENDPOINT_IN_FLIGHT_MAX).map_while(move |_| ahead(n))).collect();
        assert_eq!(taken.len(), IN_HAND_MAX as usize / 2);
        assert_eq!(quotas(&admission, 0), [(99, ENDPOINT_IN_FLIGHT_MIN)]);
        assert!(ahead(endpoints).is_some());
    }

    #[test]
    fn all_places_are_given_out_and_everybody_who_waits_has_some() {
        let admission = Arc::new(Admission::default());
        let endpoints = 2 * IN_HAND_MAX / (ENDPOINT_IN_FLIGHT_MAX * IN_HAND_PER_FLIGHT);
        (1..=endpoints).for_each(|n| proven(&admission, n.into()));
        (1..=endpoints).for_each(|n| admission.owe(key(n.into()), at(0)));
        let shares: Vec<u32> = quotas(&admission, 0).into_iter().map(|(_, max)| max).collect();
        assert_eq!((shares.iter().sum::<u32>(), shares.len()), (IN_HAND_MAX, endpoints as usize));
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
    }

    #[test]
    fn what_comes_new_for_who_is_not_proven_has_a_part_of_the_node_and_half_of_it_while_others_wait() {
        let admission = Arc::new(Admission::default());
        proven(&admission, 1);
        let mut endpoints = 2..;
        let mut ahead = |admission: &Arc<Admission>| -> Vec<Place> {
            let two =
                |n| (0..ENDPOINT_IN_FLIGHT_MIN).map_while(move |_| admission.place_ahead(key(n), at(0)));
            endpoints.by_ref().take(IN_HAND_MAX as usize).flat_map(two).collect()
        };
        let all = ahead(&admission);
        assert_eq!(all.len(), UNPROVEN_IN_HAND_MAX as usize);
        assert!(admission.place_ahead(key(1), at(0)).is_some(), "a proven one goes on");
        drop(all);
        admission.owe(key(1_000_000), at(0));
        admission.state().ripen(at(0));
        let half = ahead(&admission);
        assert_eq!(half.len(), UNPROVEN_IN_HAND_MAX as usize / 2);
        assert!(admission.place_ahead(key(1), at(0)).is_some());
    }

    #[test]
    fn attempts_begin_in_order_and_never_beyond_the_bound() {
        let admission = Arc::new(Admission::default());
        proven(&admission, 1);
        let mut in_hand = places(&admission, 1, 0);
        assert_eq!(in_hand.len(), (ENDPOINT_IN_FLIGHT_MAX * IN_HAND_PER_FLIGHT) as usize);
        let mut in_line = in_hand.split_off(ENDPOINT_IN_FLIGHT_MAX as usize);
        assert!(in_hand.iter_mut().all(|place| come(place) == Some(Turn::Come)));
        let (mut second, mut first) = (in_line.pop().unwrap(), in_line.pop().unwrap());
        let mut context = Context::from_waker(Waker::noop());
        let mut of_first = Box::pin(first.turn(NOBODY));
        assert!(of_first.as_mut().poll(&mut context).is_pending());
        let mut of_second = Box::pin(second.turn(NOBODY));
        assert!(of_second.as_mut().poll(&mut context).is_pending());
        in_hand.pop().unwrap().answered(Bearing::Well);
        assert!(of_second.as_mut().poll(&mut context).is_pending(), "one after the other");
        // Called, but gone before it heard of it.
        drop(of_first);
        assert_eq!(of_second.as_mut().poll(&mut context), Poll::Ready(Turn::Come));
        drop(of_second);
        assert_eq!(admission.state().flows[&key(1)].in_flight, ENDPOINT_IN_FLIGHT_MAX);
        // What is not attempted after all lets another go, and teaches nothing.
        second.forgo();
        assert_eq!(come(&mut first), Some(Turn::Come));
        drop((first, second, in_hand, in_line));
        let state = admission.state();
        let flow = &state.flows[&key(1)];
        assert_eq!((flow.in_flight, flow.in_hand, state.in_hand, &state.parts), (0, 0, 0, &Parts::default()));
    }

    #[test]
    fn who_stands_in_line_is_sent_away_once_the_endpoint_bears_no_more() {
        let admission = Arc::new(Admission::default());
        let (mut in_flight, mut last) = all_in_flight(&admission);
        let mut context = Context::from_waker(Waker::noop());
        let mut turn = Box::pin(last.turn(NOBODY));
        let mut fails = || in_flight.pop().unwrap().answered(Bearing::Badly);
        for _ in 0..4 {
            fails();
            assert!(turn.as_mut().poll(&mut context).is_pending(), "it may yet answer");
        }
        fails();
        assert_eq!(turn.as_mut().poll(&mut context), Poll::Ready(Turn::Gone));
    }

    #[test]
    fn one_delivery_is_sent_away_and_the_others_stay_in_line() {
        let admission = Arc::new(Admission::default());
        let (mut in_flight, mut last) = all_in_flight(&admission);
        let mut other = admission.place_ahead(key(1), at(0)).unwrap();
        let ids = [1, 2].map(|n| DeliveryId::from_uuid(Uuid::from_u128(n)));
        let mut context = Context::from_waker(Waker::noop());
        let (mut cancelled, mut kept) = (Box::pin(last.turn(ids[0])), Box::pin(other.turn(ids[1])));
        assert!(cancelled.as_mut().poll(&mut context).is_pending());
        assert!(kept.as_mut().poll(&mut context).is_pending());
        admission.send_away(&key(1), ids[0]);
        assert_eq!(cancelled.as_mut().poll(&mut context), Poll::Ready(Turn::Gone));
        assert!(kept.as_mut().poll(&mut context).is_pending());
        in_flight[0].answered(Bearing::Well);
        assert_eq!(kept.as_mut().poll(&mut context), Poll::Ready(Turn::Come));
    }

    #[test]
    fn an_endpoint_that_falls_silent_keeps_nothing_but_what_is_in_flight() {
        let admission = Arc::new(Admission::default());
        let (mut in_flight, mut last) = all_in_flight(&admission);
        let mut context = Context::from_waker(Waker::noop());
        let mut turn = Box::pin(last.turn(NOBODY));
        assert!(turn.as_mut().poll(&mut context).is_pending());
        admission.notice_silence();
        assert!(turn.as_mut().poll(&mut context).is_pending(), "its attempts may have begun just now");
        in_flight[0].answered(Bearing::Well);
        admission.notice_silence();
        assert_eq!(turn.as_mut().poll(&mut context), Poll::Ready(Turn::Come), "it answers");
        drop(turn);
        let mut late = admission.place_ahead(key(1), at(0)).unwrap();
        let mut turn = Box::pin(late.turn(NOBODY));
        assert!(turn.as_mut().poll(&mut context).is_pending());
        admission.notice_silence();
        assert_eq!(turn.as_mut().poll(&mut context), Poll::Ready(Turn::Gone), "no answer between two looks");
        assert!(admission.place_ahead(key(1), at(0)).is_none(), "nothing new until it answers");
        drop(turn);
        drop((late, last, in_flight));
        let state = admission.state();
        assert_eq!((state.in_hand, &state.parts), (0, &Parts::default()));
    }

    #[test]
    fn what_the_silent_hold_does_not_keep_newcomers_waiting() {
        let admission = Arc::new(Admission::default());
        let mut in_flight = Vec::new();
        for n in 1..=2 {
            proven(&admission, n);
            let ahead = (0..ENDPOINT_IN_FLIGHT_MAX).map_while(|_| admission.place_ahead(key(n), at(0)));
            in_flight.extend(ahead);
        }
        assert!(in_flight.iter_mut().all(|place| come(place) == Some(Turn::Come)));
        assert_eq!(in_flight.len(), 2 * ENDPOINT_IN_FLIGHT_MAX as usize);
        (0..2).for_each(|_| admission.notice_silence());
        assert_eq!(admission.state().parts, Parts { unproven: 0, slow: 2 * ENDPOINT_IN_FLIGHT_MIN });

        // Newcomers that hang, too, keep others waiting no longer than until that is noticed.
        let mut newcomers = 100..;
        for round in 1..=2 {
            let two = newcomers.by_ref().take(500).flat_map(|n| [n, n]);
            let mut taken: Vec<_> = two.map_while(|n| admission.place_ahead(key(n), at(0))).collect();
            assert_eq!(taken.len(), UNPROVEN_IN_HAND_MAX as usize, "round {round}");
            assert!(taken.iter_mut().all(|place| come(place) == Some(Turn::Come)));
            in_flight.append(&mut taken);
            (0..2).for_each(|_| admission.notice_silence());
            assert_eq!(admission.state().parts.unproven, 0);
        }
        assert!(admission.state().parts.slow > SLOW_IN_HAND_MAX);

        // But of the node they have three quarters together, so that those that answer well go on.
        let two = newcomers.by_ref().take(500).flat_map(|n| [n, n]);
        in_flight.extend(two.map_while(|n| admission.place_ahead(key(n), at(0))));
        let Parts { unproven, slow } = admission.state().parts;
        assert_eq!(unproven + slow, IN_HAND_MAX * 3 / 4);
        drop(in_flight);
        let state = admission.state();
        assert_eq!((state.in_hand, &state.parts), (0, &Parts::default()));
    }

    #[test]
    fn who_waits_for_a_place_of_the_silent_has_it_once_they_are_known_for_it() {
        let admission = Arc::new(Admission::default());
        let two = (100..1000).flat_map(|n| [n, n]);
        let mut hanging: Vec<_> = two.map_while(|n| admission.place_ahead(key(n), at(0))).collect();
        assert!(hanging.iter_mut().all(|place| come(place) == Some(Turn::Come)));
        admission.owe(key(1), at(0));
        assert!(quotas(&admission, 0).is_empty());
        (0..2).for_each(|_| admission.notice_silence());
        assert_eq!(quotas(&admission, 0), [(1, ENDPOINT_IN_FLIGHT_MIN)]);
    }

    #[test]
    fn slow_endpoints_have_a_part_of_their_own() {
        let admission = Arc::new(Admission::default());
        let ahead = |from: u128| -> Vec<Place> {
            let two = (from..from + 1000).flat_map(|n| [n, n]);
            two.map_while(|n| admission.place_ahead(key(n), at(0))).collect()
        };
        for n in 1..=1000 {
            let mut place = admission.place_ahead(key(n), at(0)).unwrap();
            assert_eq!(come(&mut place), Some(Turn::Come));
            place.answered(Bearing::Slowly);
        }
        // Rested.
        let mut state = admission.state();
        state.flows.values_mut().for_each(|flow| flow.rest = SignedDuration::ZERO);
        drop(state);
        let (slow, new) = (ahead(1), ahead(2000));
        assert_eq!((slow.len(), new.len()), (SLOW_IN_HAND_MAX as usize, UNPROVEN_IN_HAND_MAX as usize));
    }

    #[test]
    fn lines_are_sent_away_without_ending_what_is_in_flight() {
        for whole in [false, true] {
            let admission = Arc::new(Admission::default());
            let (in_flight, mut last) = all_in_flight(&admission);
            let mut context = Context::from_waker(Waker::noop());
            let mut turn = Box::pin(last.turn(NOBODY));
            assert!(turn.as_mut().poll(&mut context).is_pending());
            if whole {
                admission.send_lines_away_of(&Schema::admin());
            } else {
                in_flight[0].send_line_away();
            }
            assert_eq!(turn.as_mut().poll(&mut context), Poll::Ready(Turn::Gone));
            assert_eq!(admission.state().flows[&key(1)].in_flight, ENDPOINT_IN_FLIGHT_MAX);
        }
    }

    #[test]
    fn an_endpoint_that_fails_now_and_then_has_no_line() {
        let admission = Arc::new(Admission::default());
        for (now, bearing) in (0..).zip([Bearing::Well, Bearing::Badly].repeat(5)) {
            let mut place = places(&admission, 1, now).swap_remove(0);
            assert_eq!(come(&mut place), Some(Turn::Come));
            place.answered(bearing);
            drop(place);
            let state = admission.state();
            let flow = &state.flows[&key(1)];
            assert!(flow.bound < LINE_BOUND_MIN && flow.in_hand_max() == flow.bound);
        }
    }

    #[test]
    fn a_failing_endpoint_holds_few_places_and_a_good_one_many() {
        let admission = Arc::new(Admission::default());
        proven(&admission, 1);
        for now in 0..10 {
            let mut place = places(&admission, 2, now).swap_remove(0);
            assert_eq!(come(&mut place), Some(Turn::Come));
            place.answered(Bearing::Badly);
        }
        admission.owe(key(1), at(10));
        admission.owe(key(2), at(10));
        let mut shares = quotas(&admission, 10);
        shares.sort_unstable();
        assert_eq!(shares, [(1, ENDPOINT_IN_FLIGHT_MAX * IN_HAND_PER_FLIGHT), (2, ENDPOINT_IN_FLIGHT_MIN)]);
    }

    #[test]
    fn who_keeps_failing_is_claimed_for_ever_less_often_until_it_answers() {
        let admission = Arc::new(Admission::default());
        let mut now = at(0);
        // It owes more than can be claimed, and what is claimed is over at once.
        let mut turns_in_a_second = |bearing| {
            let (end, mut turns) = (now + SignedDuration::from_secs(1), 0);
            while now < end {
                admission.owe(key(1), now);
                for (_, max) in quotas_at(&admission, now) {
                    turns += 1;
                    claimed(&admission, 1, max, max, Some(now));
                    for _ in 0..max {
                        finish(&admission, 1, bearing);
                    }
                    let is_new_taken = admission.place_ahead(key(1), now).is_some();
                    assert!(bearing == Bearing::Well || !is_new_taken, "nor is anything new");
                }
                now += SignedDuration::from_millis(1);
            }
            turns
        };
        assert_eq!(turns_in_a_second(Bearing::Badly), 8, "at 0, 1, 9, 41, 169, 425, 681, 937 ms");
        assert_eq!(turns_in_a_second(Bearing::Badly), 4, "it rests no longer than that");
        assert!(turns_in_a_second(Bearing::Well) > 700, "the first good answer ends it");
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
        assert_eq!(taken, UNPROVEN_IN_HAND_MAX);
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
        assert_eq!(first.iter().map(|(_, max)| max).sum::<u32>(), UNPROVEN_IN_HAND_MAX);
        assert!(quotas(&admission, 0).is_empty());
        for (n, max) in &first {
            claimed(&admission, *n, *max, 0, Some(at(0)));
        }
        let second = quotas(&admission, 0);
        assert!(!second.is_empty());
        assert!(first.iter().all(|(n, _)| second.iter().all(|(m, _)| n != m)), "endpoints take turns");
        let state = admission.state();
        assert_eq!(state.in_hand, state.flows.values().map(|flow| flow.in_hand).sum::<u32>());
        assert_eq!(state.in_hand, state.parts.unproven);
    }

    #[test]
    fn what_a_claim_says_nothing_of_comes_back_and_stays_due() {
        let admission = Admission::default();
        (1..=3).for_each(|n| admission.owe(key(n), at(0)));
        drop(admission.reserve(at(0)));
        assert_eq!(admission.state().in_hand, 0, "the claim failed");
        let reservation = admission.reserve(at(0));
        let more_than_reserved = [2, 3].map(|deliveries| Claimed { deliveries, next_due_at: None });
        let mut claimed = more_than_reserved.into_iter();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            reservation.end(|_| claimed.next().unwrap_or_default());
        }));
        assert!(panicked.is_err());
        assert_eq!(admission.state().in_hand, 2, "the first one's were claimed");
        let mut left = quotas(&admission, 0);
        left.sort_unstable();
        assert_eq!(left, [(2, ENDPOINT_IN_FLIGHT_MIN), (3, ENDPOINT_IN_FLIGHT_MIN)]);
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
        claimed(&admission, 1, 2, 2, Some(at(0)));
        assert!(quotas(&admission, 0).is_empty());
        assert_eq!(admission.next_claim_at(at(0)), None);
        finish(&admission, 1, Bearing::Well);
        assert_eq!(admission.next_claim_at(at(0)), Some(at(0)));
        assert_eq!(quotas(&admission, 0), [(1, 3)]);
    }
}
