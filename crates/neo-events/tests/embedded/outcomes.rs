//! What receivers answer, and what becomes of the delivery.

use std::time::Duration;

use neo_events::{
    Delivery, DeliveryState, DeliveryStatus, EndpointDraft, EndpointPatch, EventDraft, SubscriptionDraft,
    Timestamp,
    domain::{delivery::AttemptStatus, id::EndpointId},
};

use tokio::{sync::watch, time::timeout};

use crate::{
    receiver::{self, Answer, Receiver, eventually},
    world::World,
};

#[tokio::test]
async fn a_published_event_arrives_signed_with_its_bytes_unchanged() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let created = world.endpoint(&receiver.url).await;
    let data = r#"{ "z": 1.50, "a": "\u00e9\/", "big": 12345678901234567890.0010, "z": null }"#;
    let published = world.publish(data).await;
    let request = receiver.wait_for(1).await.remove(0);
    let body = std::str::from_utf8(&request.body).unwrap();
    assert!(body.contains(&format!(r#""data":{data}"#)), "{body}");
    assert_eq!(request.path, "/hook");
    assert_eq!(request.method, "POST");
    assert_eq!(request.id(), published.id.to_string());
    assert_eq!(request.header("content-type"), "application/json");
    assert!(request.header("user-agent").starts_with("neo-events/"));
    assert_eq!(request.header("x-neo-tenant-id"), "admin");
    assert_eq!(request.header("x-neo-event-type"), "user.created");
    assert_eq!(request.header("x-neo-attempt"), "1");
    let timestamp = request.header("webhook-timestamp").parse().unwrap();
    let secret = &created.secret;
    assert!(secret.verifies_message(
        request.header("webhook-signature"),
        request.id(),
        timestamp,
        &request.body
    ));
    assert!(secret.verifies_body(request.header("x-neo-signature"), &request.body));

    let history = world.only_delivery(DeliveryStatus::Success).await;
    let attempt = history.latest_attempt().unwrap();
    assert_eq!(attempt.delivery_status, AttemptStatus::Success);
    assert_eq!(attempt.response.as_ref().unwrap().status, 204);
    assert_eq!(attempt.request_url, receiver.url);
    assert_eq!(attempt.signature.as_deref(), Some(request.header("webhook-signature")));
    assert_eq!(attempt.request_body.as_bytes(), request.body);
    for (name, value) in &attempt.request_headers {
        assert_eq!(request.header(name), value, "the attempt shows what was sent");
    }
    assert!(world.tenant().event(published.id).await.unwrap().processed_at.is_some());
}

#[tokio::test]
async fn a_failure_is_tried_again_with_the_same_id_and_the_next_number() {
    let world = World::new().await;
    let receiver = Receiver::answering(|_, before| Answer::status(if before == 0 { 503 } else { 200 })).await;
    world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    let requests = receiver.wait_for(2).await;
    let waited = requests[1].at - requests[0].at;
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert_eq!(requests[0].id(), requests[1].id());
    assert_eq!((requests[0].header("x-neo-attempt"), requests[1].header("x-neo-attempt")), ("1", "2"));
    assert_eq!(requests[0].body, requests[1].body);
    assert_ne!(requests[0].header("x-neo-request-id"), requests[1].header("x-neo-request-id"));
    let history = world.only_delivery(DeliveryStatus::Success).await;
    let codes: Vec<_> = history.newest_attempts.iter().map(|attempt| attempt.error_code.as_deref()).collect();
    assert_eq!(codes, [Some("HTTP_503"), None]);
}

#[tokio::test]
async fn attempts_end_when_they_are_used_up() {
    let (world, receiver) = (World::new().await, Receiver::answering(|_, _| Answer::status(500)).await);
    let created = world.endpoint(&receiver.url).await;
    let once = EndpointPatch { max_retry_attempts: Some(1), ..EndpointPatch::default() };
    world.tenant().update_endpoint(created.endpoint.id, once, None).await.unwrap();
    world.publish("{}").await;
    let history = world.only_delivery(DeliveryStatus::Failed).await;
    assert_eq!(history.delivery.state, DeliveryState::Failed { max_attempts_reached: true });
    assert_eq!((history.newest_attempts.len(), receiver.received().len()), (2, 2));
}

#[tokio::test]
async fn other_4xx_are_permanent_and_redirects_are_failures() {
    for status in [302, 400, 404, 422] {
        let world = World::new().await;
        let receiver = Receiver::answering(move |_, _| Answer {
            headers: vec![("location", "/elsewhere".to_owned())],
            ..Answer::status(status)
        })
        .await;
        world.endpoint(&receiver.url).await;
        world.publish("{}").await;
        let history = world.only_delivery(DeliveryStatus::Failed).await;
        assert_eq!(history.delivery.state, DeliveryState::Failed { max_attempts_reached: false }, "{status}");
        assert_eq!(receiver.received().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let world = World::new().await;
    let receiver = Receiver::answering(|_, _| Answer {
        headers: vec![("retry-after", "120".to_owned())],
        ..Answer::status(429)
    })
    .await;
    world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    let history = world.only_delivery(DeliveryStatus::Retrying).await;
    let DeliveryState::Retrying { next_retry_at } = history.delivery.state else { unreachable!() };
    let ended = history.latest_attempt().unwrap().completed_at;
    let waits = next_retry_at.duration_since(ended).as_secs_f64();
    assert!((119.5..130.0).contains(&waits), "{waits} s");
}

#[tokio::test]
async fn gone_disables_the_endpoint() {
    let (world, receiver) = (World::new().await, Receiver::answering(|_, _| Answer::status(410)).await);
    let created = world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    world.only_delivery(DeliveryStatus::Failed).await;
    let endpoint = world.tenant().endpoint(created.endpoint.id).await.unwrap();
    assert!(!endpoint.is_active);
    assert!(endpoint.disabled_reason.unwrap().contains("410"));
    world.publish("{}").await;
    let reactivated = world.tenant().activate_endpoint(created.endpoint.id).await.unwrap();
    assert_eq!(reactivated.disabled_reason, None);
}

/// Of what the node has in hand for the endpoint only what was on its way already goes there.
#[tokio::test]
async fn gone_spares_what_stands_in_line() {
    const PROOFS: usize = 40;
    let answer = |_: &_, before| match before {
        ..PROOFS => Answer::status(200),
        _ => Answer { delay: Duration::from_millis(300), ..Answer::status(410) },
    };
    let (world, receiver) = (World::new().await, Receiver::answering(answer).await);
    let created = world.endpoint(&receiver.url).await;
    for sent in 1..=PROOFS {
        world.publish("{}").await;
        receiver.wait_for(sent).await;
    }
    let drafts = (0..300).map(|_| EventDraft::new("user.created", "{}")).collect();
    world.tenant().publish_batch(drafts).await.unwrap();
    let count = |deliveries: &[Delivery], status| {
        deliveries.iter().filter(|delivery| delivery.state.status() == status).count()
    };
    let (failed, pending) = eventually("the end of what is in flight", async || {
        let (deliveries, arrived) = (world.deliveries().await, receiver.received().len());
        let failed = count(&deliveries, DeliveryStatus::Failed);
        let is_active = world.tenant().endpoint(created.endpoint.id).await.unwrap().is_active;
        let is_over = !is_active && failed > 0 && failed == arrived - PROOFS;
        is_over.then(|| (failed, count(&deliveries, DeliveryStatus::Pending)))
    })
    .await;
    // A claim may have come between the first answer and its record.
    assert!(failed <= 2 * IN_FLIGHT_MAX, "{failed} were sent to an endpoint that was gone");
    assert_eq!(failed + pending, 300);
}

/// How many deliveries of an endpoint are in flight at most.
const IN_FLIGHT_MAX: usize = 64;

/// Within it an endpoint that answers nothing is found to be silent.
const SILENCE: Duration = Duration::from_secs(5);
const BUSY_TRIES_MAX: usize = 5;

/// An endpoint that has answered well and now keeps everybody waiting until it is told to answer.
struct Busy {
    id: EndpointId,
    receiver: Receiver,
    gate: watch::Sender<bool>,
}

/// With as much in flight as it may have, and so many deliveries behind that. On a machine that has other things to do it
/// may seem silent before so much is in flight; then it answers, and it begins again.
async fn busy_endpoint(world: &World, event_type: &str, behind: usize) -> Busy {
    const PROOFS: usize = 40;
    let (gate, seen) = watch::channel(true);
    let answer = move |_: &_, _| Answer { gate: Some(seen.clone()), ..Answer::status(200) };
    let receiver = Receiver::answering(answer).await;
    let only = SubscriptionDraft { event_type: event_type.into(), ..SubscriptionDraft::default() };
    let id = world.endpoint_for(&receiver.url, only).await.endpoint.id;
    let patient = EndpointPatch { timeout_seconds: Some(30), ..EndpointPatch::default() };
    world.tenant().update_endpoint(id, patient, None).await.unwrap();
    for _ in 0..BUSY_TRIES_MAX {
        let before = receiver.received().len();
        for sent in 1..=PROOFS {
            world.tenant().publish(EventDraft::new(event_type, "{}")).await.unwrap();
            receiver.wait_for(before + sent).await;
        }
        gate.send_replace(false);
        let drafts = (0..IN_FLIGHT_MAX + behind).map(|_| EventDraft::new(event_type, "{}")).collect();
        world.tenant().publish_batch(drafts).await.unwrap();
        let all_in_flight = receiver.wait_for(before + PROOFS + IN_FLIGHT_MAX);
        if timeout(SILENCE, all_in_flight).await.is_ok() {
            return Busy { id, receiver, gate };
        }
        gate.send_replace(true);
        receiver.wait_for(before + PROOFS + IN_FLIGHT_MAX + behind).await;
    }
    panic!("there are never {IN_FLIGHT_MAX} in flight");
}

/// Deliveries that are not over.
async fn open_deliveries(world: &World) -> Vec<Delivery> {
    let mut deliveries = world.deliveries().await;
    deliveries.retain(|delivery| !delivery.state.is_final());
    deliveries
}

#[tokio::test]
async fn deactivating_an_endpoint_spares_what_stands_in_line() {
    const BEHIND: usize = 50;
    let world = World::new().await;
    let Busy { id, receiver, gate } = busy_endpoint(&world, "user.created", BEHIND).await;
    world.tenant().deactivate_endpoint(id).await.unwrap();
    let arrived = receiver.received().len();
    gate.send_replace(true);
    eventually("the end of what was in flight", async || {
        (open_deliveries(&world).await.len() <= BEHIND).then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), arrived, "attempted though its endpoint had been deactivated");
}

#[tokio::test]
async fn cancelling_a_delivery_that_stands_in_line_ends_it_without_an_attempt() {
    let world = World::new().await;
    let Busy { receiver, gate, .. } = busy_endpoint(&world, "user.created", 1).await;
    let arrived: Vec<_> = receiver.received().iter().map(|request| request.id().to_owned()).collect();
    let mut in_line = open_deliveries(&world).await;
    in_line.retain(|delivery| !arrived.contains(&delivery.webhook_event_id.to_string()));
    let [delivery] = in_line.as_slice() else { panic!("{} stand in line", in_line.len()) };
    world.tenant().cancel_delivery(delivery.id, "not wanted").await.unwrap();
    gate.send_replace(true);
    let ended = eventually("its end", async || {
        let history = world.tenant().delivery_history(delivery.id).await.unwrap();
        history.delivery.state.is_final().then_some(history)
    })
    .await;
    assert_eq!(ended.delivery.state, DeliveryState::Cancelled { reason: "not wanted".into() });
    assert!(ended.newest_attempts.is_empty());
    assert_eq!(receiver.received().len(), arrived.len());
}

#[tokio::test]
async fn endpoints_that_fall_silent_do_not_keep_newcomers_waiting() {
    let world = World::new().await;
    let mut silent = Vec::new();
    for n in 0..6 {
        silent.push(busy_endpoint(&world, &format!("silent.n{n}"), 200).await);
    }
    let newcomer = Receiver::start().await;
    let only = SubscriptionDraft { event_type: "user.created".into(), ..SubscriptionDraft::default() };
    world.endpoint_for(&newcomer.url, only).await;
    world.publish("{}").await;
    // Long before any of the others has timed out.
    newcomer.wait_for(1).await;
}

#[tokio::test]
async fn who_cannot_be_reached_is_named() {
    let world = World::new().await;
    let deaf = receiver::deaf();
    world.endpoint(&format!("http://{}/", deaf.local_addr().unwrap())).await;
    world.publish("{}").await;
    let history = world.only_delivery(DeliveryStatus::Retrying).await;
    let attempt = history.latest_attempt().unwrap();
    assert_eq!(attempt.error_code.as_deref(), Some("connection_refused"));
    assert!(attempt.error_message.is_some() && attempt.response.is_none());
}

#[tokio::test]
async fn a_receiver_that_hangs_times_out() {
    let world = World::new().await;
    let hanging = Answer { delay: Duration::from_mins(1), ..Answer::status(200) };
    let receiver = Receiver::answering(move |_, _| hanging.clone()).await;
    world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    let history = world.only_delivery(DeliveryStatus::Retrying).await;
    let attempt = history.latest_attempt().unwrap();
    assert_eq!(
        (attempt.delivery_status, attempt.error_code.as_deref()),
        (AttemptStatus::Timeout, Some("timeout_total"))
    );
}

#[tokio::test]
async fn a_hanging_endpoint_does_not_hold_up_another() {
    let world = World::new().await;
    let hanging = Answer { delay: Duration::from_mins(1), ..Answer::status(200) };
    let (dead, alive) = (Receiver::answering(move |_, _| hanging.clone()).await, Receiver::start().await);
    world.endpoint(&dead.url).await;
    world.endpoint(&alive.url).await;
    let drafts = (0..1000).map(|n| EventDraft::new("user.created", format!("{{\"n\":{n}}}"))).collect();
    let answers = world.tenant().publish_batch(drafts).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
    alive.wait_for(1000).await;
    assert!(dead.received().len() <= 16, "{} places were taken by the dead endpoint", dead.received().len());
}

#[tokio::test]
async fn filters_patterns_and_contexts_decide_who_gets_what() {
    let world = World::new().await;
    let (pro, orders, team) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let team_id = neo_events::Uuid::from_u128(7);
    let draft = |event_type: &str| SubscriptionDraft {
        event_type: event_type.into(),
        ..SubscriptionDraft::default()
    };
    let only_pro = SubscriptionDraft { event_filters: Some(r#"{"plan":"pro"}"#.into()), ..draft("user.*") };
    world.endpoint_for(&pro.url, only_pro).await;
    world.endpoint_for(&orders.url, draft("order.paid")).await;
    world.endpoint_for(&team.url, SubscriptionDraft { context_id: Some(team_id), ..draft("*") }).await;
    let publish = |event_type: &str, data: &str, context_id| {
        let draft = EventDraft { context_id, ..EventDraft::new(event_type, data) };
        let tenant = world.tenant();
        async move { tenant.publish(draft).await.unwrap().id.to_string() }
    };
    let first = publish("user.created", r#"{"plan":"free"}"#, None).await;
    let second = publish("user.created", r#"{"plan":"pro"}"#, Some(team_id)).await;
    let third = publish("order.paid", r#"{"plan":"pro"}"#, None).await;
    eventually("every dispatch", async || {
        let owed = neo_events::EventQuery { processed: Some(false), ..Default::default() };
        (world.tenant().count_events(&owed).await.unwrap() == 0).then_some(())
    })
    .await;
    for (receiver, expected) in [(&pro, &second), (&orders, &third), (&team, &second)] {
        let got = receiver.wait_for(1).await;
        assert_eq!(got.iter().map(super::receiver::Received::id).collect::<Vec<_>>(), [expected.as_str()]);
    }
    assert_eq!(world.deliveries().await.len(), 3, "{first} goes to nobody");
}

#[tokio::test]
async fn two_subscriptions_of_an_endpoint_make_one_delivery() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let created = world.endpoint(&receiver.url).await;
    let another = SubscriptionDraft { event_type: "user.*".into(), ..SubscriptionDraft::default() };
    world.tenant().create_subscription(created.endpoint.id, another).await.unwrap();
    world.publish("{}").await;
    let history = world.only_delivery(DeliveryStatus::Success).await;
    assert_eq!(history.delivery.subscription_ids.len(), 2);
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn last_used_times_are_noted_soon() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let created = world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    let used: Timestamp = eventually("last_used_at", async || {
        world.tenant().endpoint(created.endpoint.id).await.unwrap().last_used_at
    })
    .await;
    assert!(used >= created.endpoint.created_at);
}

/// Whoever is led to can verify the signature, wherever the endpoint has it, and learns nothing else of the endpoint.
#[tokio::test]
async fn a_redirect_to_another_origin_takes_the_signature_along_and_no_credentials() {
    let there = Receiver::start().await;
    let url = there.url.clone();
    let redirecting =
        move |_: &_, _| Answer { headers: vec![("location", url.clone())], ..Answer::status(307) };
    let (world, here) = (World::new().await, Receiver::answering(redirecting).await);
    let draft = EndpointDraft {
        follow_redirects: Some(true),
        signature_header: Some("X-Hub-Signature-256".into()),
        custom_headers: vec![("X-Api-Key".into(), "of this origin".into())],
        ..EndpointDraft::standard("test", &*here.url)
    };
    let endpoint = world.tenant().create_endpoint(draft, None).await.unwrap().endpoint;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    world.tenant().create_subscription(endpoint.id, everything).await.unwrap();
    world.publish("{}").await;
    let led_to = &there.wait_for(1).await[0];
    assert!(led_to.header("x-hub-signature-256").starts_with("sha256="));
    assert_eq!(led_to.header("x-api-key"), "");
    assert_eq!(here.received()[0].header("x-api-key"), "of this origin");
}
