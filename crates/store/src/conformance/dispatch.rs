//! Owed dispatches.

use neo_events_domain::{
    delivery::{DeliveryState, Trigger},
    event::EventDraft,
    id::EventId,
};

use super::world::{World, at, done};
use crate::{Appended, DeliveryQuery, Dispatched, Lease, NewDelivery, OwedEvent, PageRequest, Store};

fn draft() -> EventDraft {
    EventDraft::new("user.created", "{}")
}

fn ids(leases: &[Lease<OwedEvent>]) -> Vec<EventId> {
    leases.iter().map(|lease| lease.work().event.id).collect()
}

/// What one has claimed, nobody else gets; what is released, everybody can get.
pub async fn dispatch_claims_are_exclusive(store: &dyn Store) {
    let world = World::new(store);
    let mut published = Vec::new();
    for second in 0..5 {
        published.push(world.publish(draft(), second).await);
    }
    assert!(world.claim_dispatches(10, 0, 100).await.is_empty());
    let mine = world.claim_dispatches(10, 2, 100).await;
    let yours = world.claim_dispatches(10, 10, 100).await;
    assert_eq!((ids(&mine), ids(&yours)), (published[..2].to_vec(), published[2..].to_vec()));
    assert!(world.claim_dispatches(99, 10, 200).await.is_empty());
    done(store.release_dispatches(mine).await);
    let again = world.claim_dispatches(11, 10, 100).await;
    assert_eq!(ids(&again), published[..2]);
    let settled = again.into_iter().chain(yours).map(|lease| Dispatched { lease, deliveries: Vec::new() });
    world.settle_dispatches(settled.collect(), 12).await;
    assert!(world.claim_dispatches(1000, 10, 2000).await.is_empty());
}

/// An abandoned claim expires; its holder, coming late, writes nothing.
pub async fn expired_dispatches_are_claimed_again(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    world.publish(draft(), 0).await;
    world.publish(draft(), 0).await;
    let mut first = world.claim_dispatches(1, 2, 10).await;
    assert!(world.claim_dispatches(9, 2, 20).await.is_empty());
    let kept = first.remove(1);
    let mut second = world.claim_dispatches(10, 1, 20).await;
    let late = Dispatched { lease: first.remove(0), deliveries: vec![world.new_delivery(&endpoint, 11)] };
    // It had expired too, but nobody else took it: then it still counts.
    let in_time = Dispatched { lease: kept, deliveries: vec![world.new_delivery(&endpoint, 11)] };
    assert_eq!(world.settle_dispatches(vec![late, in_time], 11).await, 1);
    let holder = Dispatched { lease: second.remove(0), deliveries: vec![world.new_delivery(&endpoint, 12)] };
    assert_eq!(world.settle_dispatches(vec![holder], 12).await, 1);
    let listed =
        done(store.deliveries(&world.schema, &DeliveryQuery::default(), PageRequest::first(9)).await);
    assert_eq!(listed.items.len(), 2);
}

/// However often it is written: one delivery per event, endpoint and trigger.
pub async fn one_delivery_per_event_endpoint_and_trigger(store: &dyn Store) {
    let world = World::new(store);
    let (one, two) = (world.endpoint().await, world.endpoint().await);
    world.publish(draft(), 0).await;
    let lease = world.claim_dispatches(1, 1, 10).await.remove(0);
    let test = NewDelivery { trigger: Trigger::Test, ..world.new_delivery(&one, 1) };
    let deliveries = vec![
        world.new_delivery(&one, 1),
        world.new_delivery(&two, 1),
        world.new_delivery(&one, 1),
        test,
        world.new_delivery(&world.new_endpoint(), 1),
    ];
    let (first, second) = (deliveries[0].clone(), deliveries[1].id);
    assert_eq!(world.settle_dispatches(vec![Dispatched { lease, deliveries }], 1).await, 3);

    let delivery = world.delivery_now(first.id).await;
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert_eq!((delivery.webhook_endpoint_id, delivery.trigger), (one.id, Trigger::Event));
    assert_eq!((delivery.current_attempt, delivery.max_attempts), (0, first.max_attempts));
    assert_eq!((delivery.retry, delivery.created_at), (first.retry, at(1)));
    assert_eq!(delivery.subscription_ids, first.subscription_ids);
    assert_eq!(world.claim(&one, 10, 2).await.len(), 2);
    assert_eq!(world.claim_one(&two, 2).await.work().delivery_id, second);
}

/// An event for one endpoint alone comes with its delivery, and nobody matches it.
pub async fn directed_events_owe_no_dispatch(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let id = Some(world.id::<()>(0).uuid());
    let event = || world.event(EventDraft { id, ..draft() }, 0);
    let delivery = NewDelivery { trigger: Trigger::Test, ..world.new_delivery(&endpoint, 0) };
    let appended = done(store.append_directed(&world.schema, event(), delivery.clone(), at(3)).await);
    assert!(matches!(appended, Appended::Stored { .. }));
    let appended = done(store.append_directed(&world.schema, event(), delivery.clone(), at(4)).await);
    assert!(matches!(appended, Appended::Duplicate { .. }));
    assert!(world.claim_dispatches(5, 10, 10).await.is_empty());
    let stored = done(store.event(&world.schema, event().id).await).expect("there");
    assert_eq!(stored.processed_at, Some(at(3)));
    let claimed = world.claim_one(&endpoint, 5).await;
    assert_eq!(claimed.work().delivery_id, delivery.id);
    assert_eq!(*claimed.work().event, stored.event);
    assert_eq!(world.delivery_now(delivery.id).await.trigger, Trigger::Test);
}

/// A test is claimed before everything that its endpoint owes, and shown like any other delivery.
pub async fn tests_do_not_wait_for_the_backlog(store: &dyn Store) {
    let world = World::new(store);
    let (endpoint, idle) = (world.endpoint().await, world.endpoint().await);
    for second in 0..5 {
        world.delivery_to(&endpoint, second).await;
    }
    let month = 30 * 24 * 3600;
    for to in [&endpoint, &idle] {
        let delivery = NewDelivery { trigger: Trigger::Test, ..world.new_delivery(to, month) };
        let event = world.event(draft(), month);
        let appended = done(store.append_directed(&world.schema, event, delivery.clone(), at(month)).await);
        assert!(matches!(appended, Appended::Stored { .. }));
        let stored = world.delivery_now(delivery.id).await;
        assert_eq!((stored.state, stored.created_at), (DeliveryState::Pending, at(month)));
        let claimed = world.claim(to, 1, month).await;
        assert_eq!(claimed[0].work().delivery_id, delivery.id, "however old the backlog is");
    }
    assert_eq!(world.claim(&endpoint, 10, month).await.len(), 5);
}
