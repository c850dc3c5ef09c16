//! Looking at deliveries, cancelling and retrying them.

use std::time::Duration;

use neo_events_domain::{
    Uuid,
    delivery::{CANCEL_REASON_ENDPOINT_DELETED, Delivery, DeliveryState, DeliveryStatus, IllegalTransition},
    endpoint::Endpoint,
    event::EventDraft,
    id::DeliveryId,
    retry::{FailureCode, Outcome, Verdict},
    stats::EndpointStats,
};

use super::world::{World, all_pages, at, done};
use crate::{Changed, DeliveryQuery, EndpointStanding, Settled, Settlement, Store, TimeRange, Updated};

fn cancelled(reason: &str) -> DeliveryState {
    DeliveryState::Cancelled { reason: reason.into() }
}

async fn cancel(world: &World<'_>, id: DeliveryId, second: i64) -> Changed {
    done(world.store.cancel_delivery(&world.schema, id, "not wanted", at(second)).await)
}

fn done_with(changed: Changed) -> Delivery {
    match changed {
        Changed::Done(delivery) => delivery,
        other => panic!("{other:?}"),
    }
}

/// A delivery that nobody works on ends at once.
pub async fn waiting_deliveries_are_cancelled_at_once(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let (pending, retrying, expired) = (
        world.delivery_to(&endpoint, 0).await,
        world.delivery_to(&endpoint, 1).await,
        world.delivery_to(&endpoint, 2).await,
    );
    let mut claimed = world.claim(&endpoint, 3, 3).await;
    let late = claimed.remove(2);
    world.settle(claimed.remove(1), Verdict::Retry(at(200)), 4).await;
    world.release(claimed.remove(0)).await;
    for id in [pending, retrying, expired] {
        let delivery = done_with(cancel(&world, id, 100).await);
        assert_eq!((&delivery.state, &delivery.cancel_requested), (&cancelled("not wanted"), &None));
        assert_eq!(world.delivery_now(id).await, delivery);
    }
    assert_eq!(world.settle(late, Verdict::Succeeded, 101).await, Settled::LeaseLost);
    assert!(world.claim(&endpoint, 10, 1000).await.is_empty());
    let again = cancel(&world, pending, 101).await;
    assert_eq!(again, Changed::Illegal(IllegalTransition::Cancel(DeliveryStatus::Cancelled)));
    assert_eq!(cancel(&world, world.id(0), 101).await, Changed::Missing);
}

/// A delivery in flight lands first: a success counts, another try does not come.
pub async fn deliveries_in_flight_are_cancelled_when_they_land(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let cases = [
        (Verdict::Retry(at(50)), cancelled("not wanted")),
        (Verdict::Succeeded, DeliveryState::Success),
        (Verdict::Exhausted, DeliveryState::Failed { max_attempts_reached: true }),
    ];
    for (verdict, expected) in cases {
        let id = world.delivery_to(&endpoint, 0).await;
        let lease = world.claim_one(&endpoint, 1).await;
        let requested = done_with(cancel(&world, id, 2).await);
        assert_eq!(requested.state, DeliveryState::Pending);
        assert_eq!(requested.cancel_requested.as_deref(), Some("not wanted"));
        assert_eq!(world.delivery_now(id).await, requested);
        world.tend(3).await;
        assert_eq!(world.delivery_now(id).await, requested, "tending waits for it too");
        assert_eq!(world.settle(lease, verdict, 4).await, Settled::Recorded(expected.clone()));
        let delivery = world.delivery_now(id).await;
        assert_eq!((delivery.state, delivery.cancel_requested), (expected, None));
        assert_eq!(world.attempts(id).await.len(), 1);
    }
    assert!(world.claim(&endpoint, 10, 1000).await.is_empty());
}

/// If the attempt never ends, the cancellation does not wait for ever, and nobody tries again before.
pub async fn cancellations_whose_attempt_never_ended_are_finished(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let (abandoned, released) =
        (world.delivery_to(&endpoint, 0).await, world.delivery_to(&endpoint, 0).await);
    let mut claimed = world.claim(&endpoint, 2, 1).await;
    for id in [abandoned, released] {
        assert_eq!(done_with(cancel(&world, id, 2).await).state, DeliveryState::Pending);
    }
    world.release(claimed.remove(1)).await;
    assert!(world.claim(&endpoint, 10, 100).await.is_empty(), "neither is claimed again");
    assert!(done(store.due_endpoints(at(100)).await).is_empty());
    world.tend(100).await;
    for id in [abandoned, released] {
        assert_eq!(world.delivery_now(id).await.state, cancelled("not wanted"));
    }
    assert_eq!(world.settle(claimed.remove(0), Verdict::Succeeded, 101).await, Settled::LeaseLost);
    assert!(world.attempts(abandoned).await.is_empty());
}

/// Retrying by hand is for what ended without success or waits for its next try, and leaves an attempt.
pub async fn retry_now_in_every_state(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let retry = async |id, second| done(store.retry_delivery(&world.schema, id, at(second)).await);
    let illegal = |status| Changed::Illegal(IllegalTransition::Retry(status));

    let pending = world.delivery_to(&endpoint, 0).await;
    assert_eq!(retry(pending, 1).await, illegal(DeliveryStatus::Pending));
    let lease = world.claim_one(&endpoint, 1).await;
    world.settle(lease, Verdict::Succeeded, 2).await;
    assert_eq!(retry(pending, 3).await, illegal(DeliveryStatus::Success));
    assert_eq!(retry(world.id(0), 3).await, Changed::Missing);

    for verdict in [Verdict::Retry(at(500)), Verdict::Exhausted, Verdict::Rejected] {
        let id = world.delivery_to(&endpoint, 10).await;
        let lease = world.claim_one(&endpoint, 10).await;
        world.settle(lease, verdict, 11).await;
        assert!(world.claim(&endpoint, 10, 20).await.is_empty());
        let retried = done_with(retry(id, 20).await);
        assert_eq!(retried.state, DeliveryState::Retrying { next_retry_at: at(20) });
        assert_eq!(world.delivery_now(id).await, retried);
        let lease = world.claim_one(&endpoint, 20).await;
        assert_eq!((lease.work().delivery_id, lease.work().progress.attempt), (id, 2));
        assert_eq!(
            world.settle(lease, Verdict::Succeeded, 21).await,
            Settled::Recorded(DeliveryState::Success)
        );
        assert!(world.claim(&endpoint, 10, 1000).await.is_empty(), "it is queued once");
    }

    let id = world.delivery_to(&endpoint, 30).await;
    cancel(&world, id, 31).await;
    done_with(retry(id, 32).await);
    let lease = world.claim_one(&endpoint, 32).await;
    assert_eq!(lease.work().progress.attempt, 1);
    cancel(&world, id, 33).await;
    done_with(retry(id, 34).await);
    world.tend(34).await;
    let settled = world.settle(lease, Verdict::Retry(at(40)), 35).await;
    assert_eq!(
        settled,
        Settled::Recorded(DeliveryState::Retrying { next_retry_at: at(40) }),
        "it was taken back"
    );

    done(store.delete_endpoint(&world.schema, endpoint.id, at(50)).await);
    world.tend(50).await;
    assert_eq!(world.delivery_now(id).await.state, cancelled(CANCEL_REASON_ENDPOINT_DELETED));
    assert_eq!(retry(id, 51).await, illegal(DeliveryStatus::Cancelled), "there is nobody to deliver to");
}

/// With an endpoint its deliveries end, however many, those in flight when they land.
pub async fn deleting_an_endpoint_cancels_its_deliveries(store: &dyn Store) {
    let world = World::new(store);
    let (doomed, other) = (world.endpoint().await, world.endpoint().await);
    let events = (0..1200).map(|_| world.event(EventDraft::new("user.created", "{}"), 0)).collect();
    world.append(events, 0).await;
    world.dispatch(&[&doomed, &other], 1).await;
    let mut claimed = world.claim(&doomed, 2, 2).await;
    let (retried, succeeded) = (claimed.remove(0), claimed.remove(0));
    let ids = (retried.work().delivery_id, succeeded.work().delivery_id);

    done(store.delete_endpoint(&world.schema, doomed.id, at(3)).await);
    assert!(world.claim(&doomed, 10, 3).await.is_empty());
    world.tend(4).await;
    let count = async |endpoint: &Endpoint, status| {
        let query = DeliveryQuery { endpoint_id: Some(endpoint.id), status, ..DeliveryQuery::default() };
        all_pages(1000, async |page| store.deliveries(&world.schema, &query, page).await).await.len()
    };
    assert_eq!(count(&doomed, Some(DeliveryStatus::Cancelled)).await, 1198);
    let reason = cancelled(CANCEL_REASON_ENDPOINT_DELETED);
    assert_eq!(world.settle(retried, Verdict::Retry(at(9)), 5).await, Settled::Recorded(reason));
    assert_eq!(
        world.settle(succeeded, Verdict::Succeeded, 5).await,
        Settled::Recorded(DeliveryState::Success)
    );
    world.tend(6).await;
    assert_eq!(count(&doomed, Some(DeliveryStatus::Cancelled)).await, 1199);
    assert_eq!(count(&doomed, None).await, 1200);
    assert_eq!(count(&other, Some(DeliveryStatus::Pending)).await, 1200);
    assert_eq!(world.attempts(ids.0).await.len(), 1);
    assert_eq!(world.delivery_now(ids.1).await.webhook_endpoint_id, doomed.id);
}

/// Every combination of conditions finds exactly what a look at each delivery finds, in pages.
pub async fn deliveries_are_filtered_in_pages(store: &dyn Store) {
    let world = World::new(store);
    let context_id = Some(Uuid::from_u128(7));
    let bound = Endpoint { context_id, ..world.new_endpoint() };
    let endpoints = [world.endpoint().await, world.insert_endpoint(bound).await];
    let mut events = Vec::new();
    for second in 0..10 {
        events.push(world.publish(EventDraft::new("user.created", "{}"), second).await);
        world.dispatch(&[&endpoints[0], &endpoints[1]], second).await;
    }
    for endpoint in &endpoints {
        let verdicts = [Verdict::Succeeded, Verdict::Retry(at(100)), Verdict::Exhausted, Verdict::Rejected];
        for (lease, verdict) in
            world.claim(endpoint, 8, 20).await.into_iter().zip(verdicts.into_iter().cycle())
        {
            world.settle(lease, verdict, 20).await;
        }
        let id = world.next_due(endpoint, 20).await;
        done_with(cancel(&world, id, 21).await);
    }
    let list = async |query: &DeliveryQuery| {
        all_pages(3, async |page| store.deliveries(&world.schema, query, page).await).await
    };
    let all = list(&DeliveryQuery::default()).await;
    assert_eq!(all.len(), 20);
    assert!(all.is_sorted_by_key(|delivery| std::cmp::Reverse(delivery.created_at)), "newest first");
    let statuses = std::iter::once(None).chain(DeliveryStatus::ALL.map(Some));
    for (status, choice) in statuses.flat_map(|status| (0..16_u32).map(move |choice| (status, choice))) {
        let chosen = |bit: u32| choice & (1 << bit) != 0;
        let query = DeliveryQuery {
            event_id: chosen(0).then(|| events[3]),
            endpoint_id: chosen(1).then(|| endpoints[1].id),
            context_id: context_id.filter(|_| chosen(3)),
            status,
            created: TimeRange { from: chosen(2).then(|| at(2)), to: chosen(2).then(|| at(7)) },
        };
        let expected = all.iter().filter(|delivery| {
            query.event_id.is_none_or(|id| id == delivery.webhook_event_id)
                && query.endpoint_id.is_none_or(|id| id == delivery.webhook_endpoint_id)
                && (query.context_id.is_none() || delivery.webhook_endpoint_id == endpoints[1].id)
                && query.status.is_none_or(|status| status == delivery.state.status())
                && query.created.from.is_none_or(|from| from <= delivery.created_at)
                && query.created.to.is_none_or(|to| delivery.created_at < to)
        });
        assert_eq!(list(&query).await, expected.cloned().collect::<Vec<_>>(), "{query:?}");
    }
    for query in [
        DeliveryQuery { event_id: Some(world.id(0)), ..DeliveryQuery::default() },
        DeliveryQuery { endpoint_id: Some(world.id(0)), ..DeliveryQuery::default() },
        DeliveryQuery { context_id: Some(Uuid::from_u128(8)), ..DeliveryQuery::default() },
    ] {
        assert!(list(&query).await.is_empty(), "nothing is nobody's");
    }
}

/// Who reads a delivery learns with it whether somebody delivers it, and whose it is.
pub async fn a_delivery_tells_how_its_endpoint_stands(store: &dyn Store) {
    let world = World::new(store);
    let mut endpoint = world.new_endpoint();
    endpoint.context_id = Some(Uuid::from_u128(7));
    let (of_context, of_nobody) = (world.insert_endpoint(endpoint).await, world.endpoint().await);
    let (id, other) = (world.delivery_to(&of_context, 0).await, world.delivery_to(&of_nobody, 0).await);
    let found = async |id| {
        let found = world.stored_delivery(id).await;
        (found.endpoint, found.is_held(), found.context_id)
    };
    assert_eq!(found(id).await, (EndpointStanding::Active, false, Some(Uuid::from_u128(7))));
    assert_eq!(found(other).await, (EndpointStanding::Active, false, None));
    let inactive = of_context.deactivated(at(1));
    assert_eq!(done(store.update_endpoint(&world.schema, &inactive).await), Updated::Written);
    assert_eq!(found(id).await, (EndpointStanding::Inactive, true, Some(Uuid::from_u128(7))));
    cancel(&world, id, 2).await;
    assert_eq!(found(id).await, (EndpointStanding::Inactive, false, Some(Uuid::from_u128(7))));
    done(store.delete_endpoint(&world.schema, inactive.id, at(3)).await);
    assert_eq!(found(id).await, (EndpointStanding::Deleted, false, Some(Uuid::from_u128(7))));
    assert_eq!(found(other).await.0, EndpointStanding::Active, "another's");
    assert_eq!(done(store.delivery(&world.schema, world.id(0)).await), None);
}

/// Statistics count deliveries and attempts of one endpoint since a time.
pub async fn statistics_count_what_happened(store: &dyn Store) {
    let world = World::new(store);
    let (endpoint, other) = (world.endpoint().await, world.endpoint().await);
    let stats = async |since| done(store.endpoint_stats(&world.schema, endpoint.id, at(since)).await);
    assert_eq!(stats(0).await, EndpointStats::default());
    for second in 0..6 {
        world.publish(EventDraft::new("user.created", "{}"), second).await;
        world.dispatch(&[&endpoint, &other], second).await;
    }
    let outcomes = [
        (Outcome::Answered { status: 200, retry_after: None }, Verdict::Succeeded),
        (Outcome::Answered { status: 503, retry_after: None }, Verdict::Retry(at(100))),
        (Outcome::Failed(FailureCode::Dns), Verdict::Exhausted),
        (Outcome::Answered { status: 503, retry_after: None }, Verdict::Rejected),
    ];
    let claimed = world.claim(&endpoint, 4, 10).await;
    let mut ms = 0;
    for (lease, (outcome, verdict)) in claimed.into_iter().zip(outcomes) {
        ms += 100;
        let mut attempt = world.attempt(1, outcome, 10);
        attempt.response_time = Duration::from_millis(ms);
        world.record(Settlement { lease, attempt, verdict }).await;
    }
    let waiting = world.next_due(&endpoint, 11).await;
    done_with(cancel(&world, waiting, 12).await);

    let all = stats(0).await;
    let counts = (all.pending, all.retrying, all.success, all.failed, all.cancelled);
    assert_eq!((counts, all.attempts), ((1, 1, 1, 2, 1), 4));
    assert_eq!(all.most_common_error, Some(("HTTP_503".into(), 2)));
    // The name that was not resolved took its time too, but nobody answered.
    let times = all.response_times.expect("three were answered");
    assert!((times.mean_ms - 700.0 / 3.0).abs() < 1e-9);
    assert_eq!((times.p50_ms, times.p99_ms), (200, 400));
    let recent = stats(2).await;
    let counts = (recent.pending, recent.retrying, recent.success, recent.failed, recent.cancelled);
    assert_eq!((counts, recent.attempts), ((1, 0, 0, 2, 1), 2));
    assert_eq!(done(store.endpoint_stats(&world.schema, world.id(0), at(0)).await), EndpointStats::default());
}
