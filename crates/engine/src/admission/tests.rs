//! Places, turns and queues: what admission promises, without a store.

mod walk;

use super::*;
use crate::admission::state::{
    ENDPOINT_IN_FLIGHT_MAX, ENDPOINT_IN_FLIGHT_MIN, IN_HAND_PER_FLIGHT, QUEUE_BOUND_MIN,
    RESTRICTED_IN_HAND_MAX, RestrictedShares, SLOW_IN_HAND_MAX, UNPROVEN_IN_HAND_MAX,
    UNRECORDED_BLOCKING_MIN,
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

fn claimed(admission: &Admission, n: u128, reserved: u32, deliveries: u32, next_due_at: Option<Timestamp>) {
    admission.claimed(&key(n), reserved, Claimed { deliveries, next_due_at });
}

/// One delivery in hand is attempted, with this result.
fn finish(admission: &Admission, n: u128, health: AttemptHealth) {
    assert!(admission.state().join_queue(&key(n), NOBODY).is_none(), "its turn comes at once");
    admission.answered(&key(n), health);
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
    (0..8).for_each(|_| finish_one(admission, n));
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
        place.answered(AttemptHealth::Failed);
    }
    assert_eq!(quotas(&admission, 1), [(1, ENDPOINT_IN_FLIGHT_MIN)]);
    assert_eq!(admission.state().in_hand, 2 * ENDPOINT_IN_FLIGHT_MIN, "the node still holds the first");
    drop(first);
    assert_eq!(admission.state().in_hand, ENDPOINT_IN_FLIGHT_MIN);
}

#[test]
fn the_next_place_is_a_tenants_whose_turn_it_is_however_many_endpoints_another_one_has() {
    const MANY: u128 = 600;
    let admission = Arc::new(Admission::default());
    (0..MANY).for_each(|n| finish_one(&admission, n));
    (0..MANY).for_each(|n| admission.owe(key(n), at(0)));
    let mut held = Vec::new();
    for (n, max) in quotas(&admission, 0) {
        claimed(&admission, n, max, max, Some(at(0)));
        held.extend((0..max).map(|_| Arc::clone(&admission).place(key(n))));
    }
    assert_eq!(admission.state().in_hand, IN_HAND_MAX);
    assert!(quotas(&admission, 0).is_empty(), "they owe more, and the node is full");
    let theirs: Key = (Schema::tenant("theirs").unwrap(), EndpointId::from_uuid(Uuid::from_u128(MANY)));
    admission.owe(theirs.clone(), at(0));
    drop(held.drain(..2));
    let next = quotas(&admission, 0);
    assert!(next.contains(&(MANY, 1)), "one of the next two places is theirs: {next:?}");
}

#[test]
fn a_tenant_whose_attempts_are_not_recorded_leaves_a_quarter_of_the_node_to_others() {
    let admission = Arc::new(Admission::default());
    let theirs: Key = (Schema::tenant("theirs").unwrap(), EndpointId::from_uuid(Uuid::from_u128(1)));
    let mut unrecorded = Vec::new();
    loop {
        let mut claimed = places(&admission, 1, 0);
        let mut attempted = 0;
        for place in &mut claimed {
            if come(place) == Some(Turn::Come) {
                place.answered(AttemptHealth::Good);
                attempted += 1;
            }
        }
        claimed.truncate(attempted);
        unrecorded.append(&mut claimed);
        if attempted == 0 {
            break;
        }
    }
    assert_eq!(unrecorded.len(), IN_HAND_MAX as usize / 4 * 3, "nothing is begun beyond that");
    assert!(admission.place_ahead(key(2), at(1)).is_none(), "for no other endpoint of it");
    let mut other = admission.place_ahead(theirs.clone(), at(1)).unwrap();
    assert_eq!(come(&mut other), Some(Turn::Come), "others go on");
    other.answered(AttemptHealth::Good);
    drop(other);

    admission.owe(theirs, at(1));
    assert_eq!(quotas(&admission, 1).len(), 1, "the other tenant's alone: it is still due and waits");
    drop(unrecorded.pop());
    assert_eq!(quotas(&admission, 1)[0].0, 1, "once one is recorded, it goes on");
}

#[test]
fn who_stands_queued_of_a_tenant_that_is_not_recorded_goes_on_with_it_or_is_sent_away_in_the_end() {
    let admission = Arc::new(Admission::default());
    proven(&admission, 1);
    let mut in_hand = places(&admission, 1, 0);
    let bar = || (0..IN_HAND_MAX).for_each(|_| admission.state().begin_record(&Schema::admin()));
    let unbar = || (0..IN_HAND_MAX).for_each(|_| admission.state().end_record(&Schema::admin()));
    for is_for_long in [false, true] {
        bar();
        let mut place = in_hand.pop().unwrap();
        let mut turn = std::pin::pin!(place.turn(NOBODY));
        let mut poll = || turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll(), Poll::Pending, "nothing is begun");
        admission.notice_silence();
        assert_eq!(poll(), Poll::Pending, "it may be a moment");
        if is_for_long {
            admission.notice_silence();
            assert_eq!(poll(), Poll::Ready(Turn::Gone));
        } else {
            unbar();
            assert_eq!(poll(), Poll::Ready(Turn::Come));
            admission.notice_silence();
        }
    }
}

/// A tenant's limit depends on what the others leave: what they record may unblock it too.
#[test]
fn who_stands_queued_goes_on_when_its_tenant_is_unblocked_by_what_another_one_records() {
    let admission = Arc::new(Admission::default());
    let theirs = Schema::tenant("theirs").unwrap();
    proven(&admission, 1);
    let mut in_hand = places(&admission, 1, 0);
    (0..400).for_each(|_| admission.state().begin_record(&theirs));
    (0..468).for_each(|_| admission.state().begin_record(&Schema::admin()));
    let mut place = in_hand.pop().unwrap();
    let mut turn = std::pin::pin!(place.turn(NOBODY));
    let mut poll = || turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll(), Poll::Pending, "nothing is begun");
    (0..400).for_each(|_| admission.state().end_record(&theirs));
    assert_eq!(poll(), Poll::Ready(Turn::Come));
}

#[test]
fn no_tenant_is_blocked_while_few_attempts_are_unrecorded() {
    let tenants = [Schema::admin(), Schema::tenant("theirs").unwrap()];
    for own in 1..UNRECORDED_BLOCKING_MIN {
        let mut state = State::default();
        (0..own).for_each(|_| state.begin_record(&tenants[0]));
        for _ in own..UNRECORDED_BLOCKING_MIN {
            assert!(!state.unrecorded.blocks_new_work_for(&tenants[0]), "{:?}", state.unrecorded);
            state.begin_record(&tenants[1]);
        }
    }
}

#[test]
fn who_waits_for_a_place_of_its_part_has_its_turn_when_one_is_free_and_not_before() {
    let admission = Arc::new(Admission::default());
    proven(&admission, 0);
    let mut unproven: Vec<_> = (1..=200).flat_map(|n| places(&admission, n, 0)).collect();
    assert_eq!(unproven.len(), UNPROVEN_IN_HAND_MAX as usize);
    let waiting = admission.state().blocked.len();
    assert!(waiting > 0);
    finish_one(&admission, 0);
    assert_eq!(
        admission.state().blocked.len(),
        waiting,
        "the answer of who needs no place of the part frees none"
    );
    let mut place = unproven.pop().unwrap();
    assert_eq!(come(&mut place), Some(Turn::Come));
    place.answered(AttemptHealth::Failed);
    assert_eq!(quotas(&admission, 0).len(), 1, "one place, one turn");
}

/// One delivery of an endpoint is claimed, attempted and answered well.
fn finish_one(admission: &Arc<Admission>, n: u128) {
    let mut place = places(admission, n, 0).swap_remove(0);
    assert_eq!(come(&mut place), Some(Turn::Come));
    place.answered(AttemptHealth::Good);
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
        let two = |n| (0..ENDPOINT_IN_FLIGHT_MIN).map_while(move |_| admission.place_ahead(key(n), at(0)));
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
    let mut queued = in_hand.split_off(ENDPOINT_IN_FLIGHT_MAX as usize);
    assert!(in_hand.iter_mut().all(|place| come(place) == Some(Turn::Come)));
    let (mut second, mut first) = (queued.pop().unwrap(), queued.pop().unwrap());
    let mut context = Context::from_waker(Waker::noop());
    let mut of_first = Box::pin(first.turn(NOBODY));
    assert!(of_first.as_mut().poll(&mut context).is_pending());
    let mut of_second = Box::pin(second.turn(NOBODY));
    assert!(of_second.as_mut().poll(&mut context).is_pending());
    in_hand.pop().unwrap().answered(AttemptHealth::Good);
    assert!(of_second.as_mut().poll(&mut context).is_pending(), "one after the other");
    // It was called, and is dropped before it has received the call.
    drop(of_first);
    assert_eq!(of_second.as_mut().poll(&mut context), Poll::Ready(Turn::Come));
    drop(of_second);
    assert_eq!(admission.state().endpoints[&key(1)].in_flight, ENDPOINT_IN_FLIGHT_MAX);
    // A turn that is declined lets the next begin, and nothing is learned from it.
    second.decline_turn();
    assert_eq!(come(&mut first), Some(Turn::Come));
    drop((first, second, in_hand, queued));
    let state = admission.state();
    let load = &state.endpoints[&key(1)];
    assert_eq!(
        (load.in_flight, load.in_hand, state.in_hand, &state.shares.held),
        (0, 0, 0, &RestrictedShares::default())
    );
}

#[test]
fn who_stands_queued_is_sent_away_once_the_endpoint_bears_no_more() {
    let admission = Arc::new(Admission::default());
    let (mut in_flight, mut last) = all_in_flight(&admission);
    let mut context = Context::from_waker(Waker::noop());
    let mut turn = Box::pin(last.turn(NOBODY));
    let mut fails = || in_flight.pop().unwrap().answered(AttemptHealth::Failed);
    for _ in 0..4 {
        fails();
        assert!(turn.as_mut().poll(&mut context).is_pending(), "it may yet answer");
    }
    fails();
    assert_eq!(turn.as_mut().poll(&mut context), Poll::Ready(Turn::Gone));
}

#[test]
fn one_delivery_is_sent_away_and_the_others_stay_queued() {
    let admission = Arc::new(Admission::default());
    let (mut in_flight, mut last) = all_in_flight(&admission);
    let mut other = admission.place_ahead(key(1), at(0)).unwrap();
    let ids = [1, 2].map(|n| DeliveryId::from_uuid(Uuid::from_u128(n)));
    let mut context = Context::from_waker(Waker::noop());
    let (mut cancelled, mut kept) = (Box::pin(last.turn(ids[0])), Box::pin(other.turn(ids[1])));
    assert!(cancelled.as_mut().poll(&mut context).is_pending());
    assert!(kept.as_mut().poll(&mut context).is_pending());
    admission.return_one(&key(1), ids[0]);
    assert_eq!(cancelled.as_mut().poll(&mut context), Poll::Ready(Turn::Gone));
    assert!(kept.as_mut().poll(&mut context).is_pending());
    in_flight[0].answered(AttemptHealth::Good);
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
    in_flight[0].answered(AttemptHealth::Good);
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
    assert_eq!((state.in_hand, &state.shares.held), (0, &RestrictedShares::default()));
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
    assert_eq!(
        admission.state().shares.held,
        RestrictedShares { unproven: 0, slow: 2 * ENDPOINT_IN_FLIGHT_MIN }
    );

    // New endpoints that hang, too, keep others waiting only until that is noticed.
    let mut newcomers = 100..;
    for round in 1..=2 {
        let two = newcomers.by_ref().take(500).flat_map(|n| [n, n]);
        let mut taken: Vec<_> = two.map_while(|n| admission.place_ahead(key(n), at(0))).collect();
        assert_eq!(taken.len(), UNPROVEN_IN_HAND_MAX as usize, "round {round}");
        assert!(taken.iter_mut().all(|place| come(place) == Some(Turn::Come)));
        in_flight.append(&mut taken);
        (0..2).for_each(|_| admission.notice_silence());
        assert_eq!(admission.state().shares.held.unproven, 0);
    }
    assert!(admission.state().shares.held.slow > SLOW_IN_HAND_MAX);

    // Of both shares one tenant has three quarters, and each further one three quarters of the rest: whose endpoints are
    // new waits for nobody else's that hang.
    let mut held_before = 0;
    for slug in ["", "one", "two", "three"] {
        let key = |n| if slug.is_empty() { key(n) } else { (Schema::tenant(slug).unwrap(), key(n).1) };
        let two = newcomers.by_ref().take(500).flat_map(|n| [n, n]);
        in_flight.extend(two.map_while(|n| admission.place_ahead(key(n), at(0))));
        let RestrictedShares { unproven, slow } = admission.state().shares.held;
        assert_eq!(unproven + slow, held_before + (RESTRICTED_IN_HAND_MAX - held_before) / 4 * 3, "{slug}");
        held_before = unproven + slow;
    }
    // And both together have three quarters of the node, so that endpoints that answer well go on.
    assert!(held_before < RESTRICTED_IN_HAND_MAX);
    drop(in_flight);
    let state = admission.state();
    assert_eq!((state.in_hand, &state.shares.held), (0, &RestrictedShares::default()));
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
        place.answered(AttemptHealth::Slow);
    }
    // Their rest is over.
    let mut state = admission.state();
    state.endpoints.values_mut().for_each(|load| load.rest = SignedDuration::ZERO);
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
            admission.return_queued_of(&Schema::admin());
        } else {
            in_flight[0].return_queued();
        }
        assert_eq!(turn.as_mut().poll(&mut context), Poll::Ready(Turn::Gone));
        assert_eq!(admission.state().endpoints[&key(1)].in_flight, ENDPOINT_IN_FLIGHT_MAX);
    }
}

#[test]
fn an_endpoint_that_fails_now_and_then_has_no_line() {
    let admission = Arc::new(Admission::default());
    for (now, health) in (0..).zip([AttemptHealth::Good, AttemptHealth::Failed].repeat(5)) {
        let mut place = places(&admission, 1, now).swap_remove(0);
        assert_eq!(come(&mut place), Some(Turn::Come));
        place.answered(health);
        drop(place);
        let state = admission.state();
        let load = &state.endpoints[&key(1)];
        assert!(load.bound < QUEUE_BOUND_MIN && load.in_hand_max() == load.bound);
    }
}

#[test]
fn a_failing_endpoint_holds_few_places_and_a_good_one_many() {
    let admission = Arc::new(Admission::default());
    proven(&admission, 1);
    for now in 0..10 {
        let mut place = places(&admission, 2, now).swap_remove(0);
        assert_eq!(come(&mut place), Some(Turn::Come));
        place.answered(AttemptHealth::Failed);
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
    // It owes more than can be claimed, and every attempt ends at once.
    let mut turns_in_a_second = |health| {
        let (end, mut turns) = (now + SignedDuration::from_secs(1), 0);
        while now < end {
            admission.owe(key(1), now);
            for (_, max) in quotas_at(&admission, now) {
                turns += 1;
                claimed(&admission, 1, max, max, Some(now));
                for _ in 0..max {
                    finish(&admission, 1, health);
                }
                let is_new_taken = admission.place_ahead(key(1), now).is_some();
                assert!(health == AttemptHealth::Good || !is_new_taken, "nor is anything new");
            }
            now += SignedDuration::from_millis(1);
        }
        turns
    };
    assert_eq!(turns_in_a_second(AttemptHealth::Failed), 8, "at 0, 1, 9, 41, 169, 425, 681, 937 ms");
    assert_eq!(turns_in_a_second(AttemptHealth::Failed), 4, "it rests no longer than that");
    let answering = turns_in_a_second(AttemptHealth::Erred);
    assert!((22..=32).contains(&answering), "{answering}: it is there, and is asked more often");
    assert!(turns_in_a_second(AttemptHealth::Good) > 700, "the first good answer ends it");
}

#[test]
fn dead_endpoints_cannot_fill_the_node() {
    let admission = Admission::default();
    admission.owe(key(0), at(0));
    assert_eq!(quotas(&admission, 0), [(0, ENDPOINT_IN_FLIGHT_MIN)]);
    finish(&admission, 0, AttemptHealth::Good);
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
    assert_eq!(state.in_hand, state.endpoints.values().map(|load| load.in_hand).sum::<u32>());
    assert_eq!(state.in_hand, state.shares.held.unproven);
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
    finish(&admission, 1, AttemptHealth::Good);
    assert_eq!(admission.next_claim_at(at(0)), Some(at(0)));
    assert_eq!(quotas(&admission, 0), [(1, 3)]);
}
