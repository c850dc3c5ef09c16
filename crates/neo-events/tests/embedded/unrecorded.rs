//! Attempts that the database will not have: a bug, or a damaged file.

use neo_events::{
    Clock, DeliveryStatus, EndpointDraft, EventDraft, SubscriptionDraft, TenantDraft, rusqlite,
};

use crate::{
    receiver::{Receiver, eventually},
    world::{JumpingClock, World},
};

/// More than an endpoint may have in flight.
const EVENTS: usize = 300;
/// What a node may have in hand.
const NODE_MAX: usize = 1024;
/// Longer than a lease.
const LEASE_OVER: i64 = 600;

#[tokio::test]
async fn what_cannot_be_recorded_gives_its_place_back_when_its_lease_is_over() {
    let clock = JumpingClock::start();
    let sources = clock.sources();
    let (world, receiver) = (World::with(|builder| builder.sources(sources)).await, Receiver::start().await);
    world.endpoint(&receiver.url).await;
    let attempts_refused_before = clock.wall().as_microsecond() + LEASE_OVER * 1_000_000;
    let connection = rusqlite::Connection::open(world.database()).unwrap();
    connection
        .execute_batch(&format!(
            "create trigger refusing before insert on attempts when new.attempted_at < {attempts_refused_before}
             begin select raise(abort, 'not this one'); end"
        ))
        .unwrap();

    let drafts = (0..EVENTS).map(|_| EventDraft::new("user.created", "{}")).collect();
    world.tenant().publish_batch(drafts).await.unwrap();
    receiver.wait_for(1).await;
    // By now, or soon, each place that the endpoint has is held by an attempt that cannot be recorded.
    clock.jump(LEASE_OVER);
    eventually("the end of all deliveries", async || {
        let deliveries = world.deliveries().await;
        deliveries.iter().all(|delivery| delivery.state.status() == DeliveryStatus::Success).then_some(())
    })
    .await;
    let history = world.tenant().delivery_history(world.deliveries().await[0].id).await.unwrap();
    assert_eq!(
        history.newest_attempts.len(),
        1,
        "an attempt that was not recorded is made again, not counted"
    );
}

#[tokio::test]
async fn a_tenant_whose_attempts_cannot_be_recorded_does_not_hold_up_another() {
    let (world, stuck, receiver) = (World::new().await, Receiver::start().await, Receiver::start().await);
    world.endpoint(&stuck.url).await;
    let connection = rusqlite::Connection::open(world.database()).unwrap();
    connection
        .execute_batch(
            "create trigger refusing before insert on attempts begin select raise(abort, 'none'); end",
        )
        .unwrap();
    // More than the whole node may have in hand.
    for _ in 0..2 {
        let drafts = (0..1000).map(|_| EventDraft::new("user.created", "{}")).collect();
        world.tenant().publish_batch(drafts).await.unwrap();
    }
    stuck.wait_for(NODE_MAX / 4 * 3).await;

    let draft = TenantDraft { slug: Some("other".into()), ..TenantDraft::default() };
    let other = world.neo.directory().create_tenant(draft).await.unwrap();
    let other = world.neo.tenant(other.schema);
    let endpoint =
        other.create_endpoint(EndpointDraft::standard("test", receiver.url.clone()), None).await.unwrap();
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    other.create_subscription(endpoint.endpoint.id, everything).await.unwrap();
    for sent in 1..=20 {
        other.publish(EventDraft::new("user.created", "{}")).await.unwrap();
        receiver.wait_for(sent).await;
    }
    assert!(stuck.received().len() < NODE_MAX, "nothing new is begun for who cannot be recorded");
}
