//! Ends that nobody wished for: a neo-events that is dropped, a database that hangs while it stops, an attempt that
//! panics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use neo_events::{
    DeliveryStatus, EndpointDraft, EventDraft, Lookup, MasterKey, NeoEvents, Resolve, Shutdown, Sources,
    SubscriptionDraft,
};
use neo_events_test_postgres::{Cluster, database};

use crate::{
    receiver::{Answer, PATIENCE, Receiver},
    world::World,
};

/// The first so many requests hang.
fn hanging(many: usize) -> impl Fn(&crate::receiver::Received, usize) -> Answer {
    move |_, before| Answer {
        delay: if before < many { Duration::from_mins(1) } else { Duration::ZERO },
        ..Answer::status(200)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dropped_one_had_in_hand_is_soon_attempted_by_another_node() {
    let database = database().await;
    let key = MasterKey::generate(&Sources::system());
    let node = || NeoEvents::postgres(database.url()).master_keys(vec![key.clone()]).start();
    let (leaving, staying) = (node().await.unwrap(), node().await.unwrap());
    let world = World { neo: leaving, folder: tempfile::tempdir().unwrap() };
    let receiver = Receiver::answering(hanging(1)).await;
    world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    receiver.wait_for(1).await;

    let handle = world.tenant();
    drop(world);
    // Far less than the lease of an attempt.
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].id(), requests[1].id());
    // The handle is none the worse for it.
    handle.publish(EventDraft::new("user.created", "{}")).await.unwrap();
    receiver.wait_for(3).await;
    staying.shutdown(PATIENCE).await;
}

/// Calls to such a database take half a minute each until they are given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_does_not_keep_a_stop_from_its_end() {
    const IN_FLIGHT: usize = 20;
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let key = MasterKey::generate(&Sources::system());
    let neo = NeoEvents::postgres(cluster.url()).master_keys(vec![key]).start().await.unwrap();
    let world = World { neo, folder: tempfile::tempdir().unwrap() };
    let receiver = Receiver::answering(hanging(IN_FLIGHT)).await;
    for _ in 0..IN_FLIGHT {
        world.endpoint(&receiver.url).await;
    }
    world.publish("{}").await;
    receiver.wait_for(IN_FLIGHT).await;

    cluster.pause();
    let began = Instant::now();
    let stopped = tokio::time::timeout(Duration::from_secs(15), world.shutdown(Duration::ZERO)).await;
    cluster.resume();
    assert_eq!(stopped, Ok(Shutdown::CutOff), "after {:?}", began.elapsed());
}

/// A resolver of the embedding program's.
struct Panicking(AtomicBool);

impl Resolve for Panicking {
    fn lookup<'a>(&'a self, host: &'a str) -> Lookup<'a> {
        assert!(!self.0.load(Ordering::Relaxed), "no idea where {host} is");
        Box::pin(async { Err(neo_events::ResolveError::Failed("nobody knows".into())) })
    }
}

#[tokio::test]
async fn an_attempt_that_panics_has_failed_and_is_recorded() {
    let resolver = Arc::new(Panicking(AtomicBool::new(true)));
    let of_it = Arc::clone(&resolver);
    let world = World::with(move |builder| builder.resolver(of_it)).await;
    let draft = EndpointDraft {
        retry_backoff_seconds: Some(1),
        max_retry_attempts: Some(1),
        ..EndpointDraft::standard("named", "http://hooks.example/")
    };
    let created = world.tenant().create_endpoint(draft, None).await.unwrap();
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    world.tenant().create_subscription(created.endpoint.id, everything).await.unwrap();
    world.publish("{}").await;
    let history = world.only_delivery(DeliveryStatus::Retrying).await;
    assert_eq!(history.latest_attempt().unwrap().error_code.as_deref(), Some("connection_error"));
    let history = world.only_delivery(DeliveryStatus::Failed).await;
    assert_eq!(history.newest_attempts.len(), 2);
}
