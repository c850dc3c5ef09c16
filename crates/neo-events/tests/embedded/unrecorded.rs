//! Attempts that the database will not have: a bug, or a damaged file.

use neo_events::{Clock, DeliveryStatus, EventDraft, rusqlite};

use crate::{
    receiver::{Receiver, eventually},
    world::{JumpingClock, World},
};

/// More than an endpoint may have in flight.
const EVENTS: usize = 300;
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
    let history = world.tenant().delivery(world.deliveries().await[0].id).await.unwrap();
    assert_eq!(history.attempts.len(), 1, "an attempt that was not recorded is made again, not counted");
}
