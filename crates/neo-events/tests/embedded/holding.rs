//! Inactive and deleted endpoints, cancelling, retrying, testing, counting.

use std::time::{Duration, Instant};

use neo_events::{
    Conflict, CreatedEndpoint, DeliveryState, DeliveryStatus, EndpointPatch, Error, FailureCode,
    SignedDuration,
};

use tokio::sync::watch;

use crate::{
    receiver::{self, Answer, Receiver, eventually},
    world::World,
};

/// Of an endpoint whose retry is awaited, though only after something else was done.
const RETRY_SECONDS: u32 = 5;
/// Of one whose retry must not come in between.
const LATE_RETRY_SECONDS: u32 = 60;

/// From now on.
async fn retries_after(world: &World, created: &CreatedEndpoint, seconds: u32) {
    let patch = EndpointPatch { retry_backoff_seconds: Some(seconds), ..EndpointPatch::default() };
    world.tenant().update_endpoint(created.endpoint.id, patch, None).await.unwrap();
}

#[tokio::test]
async fn an_inactive_endpoint_holds_what_it_is_owed_and_is_owed_nothing_new() {
    let world = World::new().await;
    let receiver = Receiver::answering(|_, before| Answer::status(if before == 0 { 503 } else { 200 })).await;
    let created = world.endpoint(&receiver.url).await;
    retries_after(&world, &created, RETRY_SECONDS).await;
    world.publish(r#"{"n":1}"#).await;
    world.only_delivery(DeliveryStatus::Retrying).await;
    world.tenant().deactivate_endpoint(created.endpoint.id).await.unwrap();
    let second = world.publish(r#"{"n":2}"#).await;
    eventually("the second dispatch", async || world.tenant().event(second.id).await.unwrap().processed_at)
        .await;
    // Longer than the retry's delay: it must not come.
    tokio::time::sleep(Duration::from_secs(RETRY_SECONDS.into()) * 3 / 2).await;
    assert_eq!(receiver.received().len(), 1);
    let held = world.only_delivery(DeliveryStatus::Retrying).await.delivery;
    assert!(world.tenant().delivery(held.id).await.unwrap().is_held());
    let refused = world.tenant().retry_delivery(held.id).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::EndpointInactive))), "{refused:?}");
    world.tenant().activate_endpoint(created.endpoint.id).await.unwrap();
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].id(), requests[1].id());
    world.only_delivery(DeliveryStatus::Success).await;
}

#[tokio::test]
async fn deleting_an_endpoint_cancels_what_it_is_owed() {
    let (world, receiver) = (World::new().await, Receiver::answering(|_, _| Answer::status(503)).await);
    let created = world.endpoint(&receiver.url).await;
    retries_after(&world, &created, LATE_RETRY_SECONDS).await;
    world.publish("{}").await;
    let held = world.only_delivery(DeliveryStatus::Retrying).await;
    world.tenant().delete_endpoint(created.endpoint.id).await.unwrap();
    let cancelled = world.only_delivery(DeliveryStatus::Cancelled).await;
    assert_eq!(cancelled.delivery.state, DeliveryState::Cancelled { reason: "endpoint_deleted".into() });
    assert_eq!(cancelled.newest_attempts, held.newest_attempts, "history stays");
    assert!(matches!(world.tenant().endpoint(created.endpoint.id).await, Err(Error::NotFound("endpoint"))));
    assert!(matches!(world.tenant().delete_endpoint(created.endpoint.id).await, Err(Error::NotFound(_))));
    let refused = world.tenant().retry_delivery(held.delivery.id).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::EndpointDeleted))), "{refused:?}");
}

#[tokio::test]
async fn a_cancelled_delivery_can_be_retried_and_a_delivered_one_neither() {
    let world = World::new().await;
    let receiver = Receiver::answering(|_, before| Answer::status(if before == 0 { 503 } else { 200 })).await;
    let created = world.endpoint(&receiver.url).await;
    retries_after(&world, &created, LATE_RETRY_SECONDS).await;
    world.publish("{}").await;
    let id = world.only_delivery(DeliveryStatus::Retrying).await.delivery.id;
    let cancelled = world.tenant().cancel_delivery(id, "not needed").await.unwrap();
    assert_eq!(cancelled.state, DeliveryState::Cancelled { reason: "not needed".into() });
    assert!(matches!(
        world.tenant().cancel_delivery(id, "again").await,
        Err(Error::Conflict(Conflict::Illegal(_)))
    ));
    world.tenant().retry_delivery(id).await.unwrap();
    let history = world.only_delivery(DeliveryStatus::Success).await;
    assert_eq!(
        history.newest_attempts.iter().map(|attempt| attempt.attempt_number).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(matches!(world.tenant().retry_delivery(id).await, Err(Error::Conflict(Conflict::Illegal(_)))));
    assert!(matches!(
        world.tenant().cancel_delivery(id, "late").await,
        Err(Error::Conflict(Conflict::Illegal(_)))
    ));
}

#[tokio::test]
async fn cancelling_in_flight_takes_effect_when_the_attempt_ends() {
    let world = World::new().await;
    let (gate, closed) = watch::channel(false);
    let receiver =
        Receiver::answering(move |_, _| Answer { gate: Some(closed.clone()), ..Answer::status(503) }).await;
    world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    receiver.wait_for(1).await;
    let id = world.deliveries().await[0].id;
    let flying = world.tenant().cancel_delivery(id, "stop").await.unwrap();
    assert_eq!((flying.state, flying.cancel_requested.as_deref()), (DeliveryState::Pending, Some("stop")));
    gate.send_replace(true);
    let landed = world.only_delivery(DeliveryStatus::Cancelled).await;
    assert_eq!(landed.delivery.state, DeliveryState::Cancelled { reason: "stop".into() });
    assert_eq!(landed.newest_attempts.len(), 1);
}

#[tokio::test]
async fn a_test_goes_to_one_endpoint_once() {
    let (world, receiver) = (World::new().await, Receiver::answering(|_, _| Answer::status(500)).await);
    let (created, other) = (world.endpoint(&receiver.url).await, Receiver::start().await);
    world.endpoint(&other.url).await;
    let history =
        world.tenant().test_endpoint(created.endpoint.id, Some(r#"{"hello":"you"}"#)).await.unwrap();
    assert_eq!(history.delivery.state, DeliveryState::Failed { max_attempts_reached: true });
    assert_eq!((history.newest_attempts.len(), other.received().len()), (1, 0));
    assert_eq!(receiver.received()[0].header("x-neo-event-type"), "endpoint.test");
    world.tenant().deactivate_endpoint(created.endpoint.id).await.unwrap();
    let refused = world.tenant().test_endpoint(created.endpoint.id, None).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::EndpointInactive))));
}

/// After a while a test is looked for once a second, so whoever only looked would know of this end a second later.
#[tokio::test]
async fn the_end_of_a_test_is_known_when_it_comes() {
    const ANSWERS_AFTER: Duration = Duration::from_millis(2500);
    let world = World::new().await;
    let slow = || Answer { delay: ANSWERS_AFTER, ..Answer::status(200) };
    let receiver = Receiver::answering(move |_, _| slow()).await;
    let created = world.endpoint(&receiver.url).await;
    // A busy machine may hold one up, but not each.
    for _ in 0..3 {
        let began = Instant::now();
        let history = world.tenant().test_endpoint(created.endpoint.id, None).await.unwrap();
        assert_eq!(history.delivery.state, DeliveryState::Success);
        if began.elapsed() < ANSWERS_AFTER + Duration::from_millis(600) {
            return;
        }
    }
    panic!("each was known late");
}

#[tokio::test]
async fn verification_follows_reachability() {
    let (world, receiver) = (World::new().await, Receiver::answering(|_, _| Answer::status(405)).await);
    let created = world.endpoint(&receiver.url).await;
    let report = world.tenant().verify_endpoint(created.endpoint.id).await.unwrap();
    assert!(report.endpoint.is_verified && report.connectivity.reachable);
    assert_eq!((report.connectivity.status, receiver.received()[0].method.as_str()), (Some(405), "HEAD"));
    let deaf = receiver::deaf();
    let url = format!("http://{}/", deaf.local_addr().unwrap());
    let moved = world
        .tenant()
        .update_endpoint(created.endpoint.id, EndpointPatch::default(), Some(&url))
        .await
        .unwrap();
    assert!(!moved.is_verified, "another URL drops verification");
    let report = world.tenant().verify_endpoint(created.endpoint.id).await.unwrap();
    assert!(!report.endpoint.is_verified);
    assert_eq!(report.connectivity.error_code, Some(FailureCode::ConnectionRefused));
}

#[tokio::test]
async fn statistics_count_what_happened() {
    let world = World::new().await;
    let receiver = Receiver::answering(|_, before| Answer::status([200, 200, 404, 500][before.min(3)])).await;
    let created = world.endpoint(&receiver.url).await;
    for n in 1..=4 {
        world.publish("{}").await;
        receiver.wait_for(n).await;
    }
    let stats = eventually("four attempts", async || {
        let stats = world.tenant().endpoint_stats(created.endpoint.id, 7).await.unwrap();
        (stats.attempts == 4).then_some(stats)
    })
    .await;
    assert_eq!((stats.success, stats.failed, stats.retrying), (2, 1, 1));
    assert!((stats.success_rate().unwrap() - 2.0 / 3.0).abs() < 1e-9);
    assert!(stats.most_common_error.is_some_and(|(code, count)| code.starts_with("HTTP_") && count == 1));
}

#[tokio::test]
async fn a_rotated_secret_goes_on_signing_for_a_while() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let old = world.endpoint(&receiver.url).await;
    let hour = SignedDuration::from_hours(1);
    let new = world.tenant().rotate_secret(old.endpoint.id, None, hour).await.unwrap();
    world.publish("{}").await;
    let request = receiver.wait_for(1).await.remove(0);
    let timestamp = request.header("webhook-timestamp").parse().unwrap();
    for secret in [&old.secret, &new.secret] {
        assert!(secret.verifies_message(
            request.header("webhook-signature"),
            request.id(),
            timestamp,
            &request.body
        ));
    }
    assert!(new.secret.verifies_body(request.header("x-neo-signature"), &request.body));
    assert!(old.secret.verifies_body(request.header("x-neo-signature-previous"), &request.body));
    let newest = world.tenant().rotate_secret(old.endpoint.id, None, SignedDuration::ZERO).await.unwrap();
    world.publish("{}").await;
    let request = receiver.wait_for(2).await.remove(1);
    assert_eq!(request.header("webhook-signature").split(' ').count(), 1);
    assert!(newest.secret.verifies_body(request.header("x-neo-signature"), &request.body));
    assert_eq!(request.header("x-neo-signature-previous"), "");
}
