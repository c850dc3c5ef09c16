//! Nodes on one database whose clocks differ by minutes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use neo_events::{
    Clock, DeliveryQuery, DeliveryStatus, EndpointDraft, EventDraft, MasterKey, NeoEvents, PageRequest,
    SignedDuration, Sources, SubscriptionDraft, SystemClock, SystemRandom, Timestamp,
};
use neo_events_test_postgres::database;

use crate::{
    receiver::{Answer, Received, Receiver, eventually},
    world::{JumpingClock, World},
};

/// Each node is off by so much, one ahead and one behind: together less than a lease lasts.
const OFF: SignedDuration = SignedDuration::from_mins(2);
const EVENTS: usize = 300;
/// For how long a secret signs after it was rotated out.
const OVERLAP: SignedDuration = SignedDuration::from_secs(60);

struct Off(SystemClock, SignedDuration);

impl Clock for Off {
    fn wall(&self) -> Timestamp {
        self.0.wall() + self.1
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

fn off(by: SignedDuration) -> Sources {
    Sources::new(Arc::new(Off(SystemClock::new(), by)), Arc::new(SystemRandom::new()))
}

/// One in three is refused at first: its retry is due by the clock of one node, and made by whichever comes to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_clocks_differ_lose_and_repeat_nothing() {
    let refusing = |request: &Received, _| {
        let is_of_some = request.id().as_bytes().last().is_some_and(|last| last % 3 == 0);
        let is_refused = is_of_some && request.header("x-neo-attempt") == "1";
        Answer::status(if is_refused { 503 } else { 200 })
    };
    let (database, receiver) = (database().await, Receiver::answering(refusing).await);
    let key = MasterKey::generate(&Sources::system());
    let start = |by| {
        let builder = NeoEvents::postgres(database.url()).master_keys(vec![key.clone()]).sources(off(by));
        async move { builder.start().await.unwrap() }
    };
    let ahead = start(OFF).await;
    let behind = start(-OFF).await;
    let draft =
        EndpointDraft { retry_backoff_seconds: Some(1), ..EndpointDraft::standard("test", &*receiver.url) };
    let endpoint = ahead.platform().create_endpoint(draft, None).await.unwrap().endpoint;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    ahead.platform().create_subscription(endpoint.id, everything).await.unwrap();

    for n in 0..EVENTS {
        let node = if n % 2 == 0 { &ahead } else { &behind };
        node.platform().publish(EventDraft::new("user.created", "{}")).await.unwrap();
    }
    let query = DeliveryQuery { status: Some(DeliveryStatus::Success), ..DeliveryQuery::default() };
    let succeeded = eventually("every delivery has succeeded", async || {
        let page = behind.platform().deliveries(&query, PageRequest::first(1000)).await.unwrap();
        (page.items.len() == EVENTS).then_some(page.items)
    })
    .await;
    let mut arrivals: HashMap<String, u32> = HashMap::new();
    for request in receiver.received() {
        *arrivals.entry(request.id().to_owned()).or_default() += 1;
    }
    assert_eq!(arrivals.len(), EVENTS, "each has arrived");
    assert!(succeeded.iter().any(|delivery| delivery.current_attempt > 1), "some were refused at first");
    for delivery in succeeded {
        let attempts = arrivals[&delivery.webhook_event_id.to_string()];
        assert_eq!(attempts, delivery.current_attempt, "no attempt was made twice");
    }
    for node in [ahead, behind] {
        node.shutdown(Duration::from_secs(10)).await;
    }
}

/// The overlap of a rotated secret is set and judged by one clock: after the wall has been set back, the old secret signs no
/// longer than it was to.
#[tokio::test]
async fn a_rotated_out_secret_ends_in_time_though_the_wall_was_set_back() {
    let (clock, receiver) = (JumpingClock::start(), Receiver::start().await);
    let world = World::with(|builder| builder.sources(clock.sources())).await;
    let endpoint = world.endpoint(&receiver.url).await.endpoint;
    clock.jump(3600);
    world.publish("{}").await;
    receiver.wait_for(1).await;
    clock.jump(-3600);
    world.tenant().rotate_secret(endpoint.id, None, OVERLAP).await.unwrap();
    clock.jump(OVERLAP.as_secs());
    world.publish("{}").await;
    let request = receiver.wait_for(2).await.remove(1);
    assert_eq!(request.header("webhook-signature").split(' ').count(), 1);
}
