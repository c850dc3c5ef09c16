//! Shutting down, starting again, and what a crash leaves.

use std::{collections::HashSet, sync::Arc, time::Duration};

use neo_events::{
    Clock, DeliveryQuery, DeliveryStatus, EndpointDraft, EventDraft, EventQuery, MasterKey, NeoEvents,
    PageRequest, Passes, Shutdown, SignedDuration, Sources, StartError, SubscriptionDraft, SystemClock,
    SystemRandom, TenantDraft, Timestamp,
};

use crate::{
    receiver::{Answer, Receiver, eventually},
    world::{JumpingClock, World},
};

#[tokio::test]
async fn a_graceful_stop_under_load_makes_no_duplicate_and_loses_nothing() {
    let quick = |_: &_, _| Answer { delay: Duration::from_millis(2), ..Answer::status(200) };
    let (mut world, receiver) = (World::new().await, Receiver::answering(quick).await);
    world.endpoint(&receiver.url).await;
    let mut published = HashSet::new();
    for round in 0..3 {
        for _ in 0..5 {
            let drafts =
                (0..200).map(|n| EventDraft::new("user.created", format!("{{\"n\":{n}}}"))).collect();
            let answers = world.tenant().publish_batch(drafts).await.unwrap();
            published.extend(answers.into_iter().map(|answer| answer.unwrap().id.to_string()));
        }
        // Stop in the middle: some are delivered, some are in flight, some wait.
        receiver.wait_for(round * 1000 + 300).await;
        world = world.restarted().await;
    }
    let requests = receiver.wait_for(3000).await;
    eventually("every delivery settled", async || {
        let query = neo_events::DeliveryQuery { status: Some(DeliveryStatus::Pending), ..Default::default() };
        let pending = world.tenant().deliveries(&query, neo_events::PageRequest::first(1)).await.unwrap();
        pending.items.is_empty().then_some(())
    })
    .await;
    let delivered: HashSet<_> = requests.iter().map(|request| request.id().to_owned()).collect();
    assert_eq!(delivered, published);
    assert_eq!(receiver.received().len(), 3000, "a duplicate was sent");
}

#[tokio::test]
async fn what_hangs_is_cut_off_and_made_again() {
    let hanging = |_: &_, before| Answer {
        delay: if before == 0 { Duration::from_mins(1) } else { Duration::ZERO },
        ..Answer::status(200)
    };
    let (world, receiver) = (World::new().await, Receiver::answering(hanging).await);
    world.endpoint(&receiver.url).await;
    let published = world.publish("{}").await;
    receiver.wait_for(1).await;
    let World { neo, folder } = world;
    assert_eq!(neo.shutdown(Duration::from_millis(100)).await, Shutdown::CutOff);
    let neo = NeoEvents::builder(folder.path().join("admin.db")).start().await.unwrap();
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[1].id(), published.id.to_string());
    assert_eq!(requests[1].header("x-neo-attempt"), "1", "the attempt that was cut off was never recorded");
    let world = World { neo, folder };
    assert_eq!(world.only_delivery(DeliveryStatus::Success).await.newest_attempts.len(), 1);
    assert_eq!(world.shutdown(Duration::from_secs(5)).await, Shutdown::Drained);
}

#[tokio::test]
async fn one_process_per_file() {
    let world = World::new().await;
    let second = NeoEvents::builder(world.database()).start().await;
    assert!(matches!(second, Err(StartError::Sqlite(_))));
    world.publish("{}").await;
}

#[tokio::test]
async fn secrets_are_not_in_the_files() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let created = world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    receiver.wait_for(1).await;
    let token = created.secret.reveal_token().as_bytes().to_vec();
    let World { neo, folder } = world;
    neo.shutdown(Duration::from_secs(5)).await;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(token.len()).any(|window| window == token));
    }
    let neo = NeoEvents::builder(folder.path().join("admin.db")).start().await.unwrap();
    let count = neo.platform().count_events(&EventQuery::default()).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_master_key_is_required_outside_development() {
    let folder = tempfile::tempdir().unwrap();
    let builder = NeoEvents::builder(folder.path().join("admin.db")).profile(neo_events::Profile::Production);
    assert!(matches!(builder.start().await, Err(StartError::MasterKeyMissing)));
}

#[tokio::test]
async fn a_wrong_or_lost_master_key_is_found_before_anything_is_delivered() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver.url).await;
    let World { neo, folder } = world;
    neo.shutdown(Duration::from_secs(5)).await;
    let builder = || NeoEvents::builder(folder.path().join("admin.db"));
    let other = vec![MasterKey::generate(&Sources::system())];
    assert!(matches!(builder().master_keys(other).start().await, Err(StartError::Keyring(_))));
    let key_file = folder.path().join("admin.db.key");
    let kept = std::fs::read_to_string(&key_file).unwrap();
    std::fs::remove_file(&key_file).unwrap();
    assert!(
        matches!(builder().start().await, Err(StartError::KeyFile { .. })),
        "a new key would open nothing"
    );
    assert!(!key_file.exists());
    let right = vec![MasterKey::parse(&kept).unwrap()];
    assert!(builder().master_keys(right).start().await.is_ok());
}

/// Also by less than a policy may put off, and where nothing of the platform's own says how late it had been.
#[tokio::test]
async fn what_was_never_attempted_does_not_wait_for_a_clock_that_was_set_back_a_little() {
    const HALF_AN_HOUR: i64 = 1800;
    let (clock, receiver) = (JumpingClock::start(), Receiver::start().await);
    let only_dispatches = Passes { dispatch: true, deliver: false };
    let World { neo, folder } =
        World::with(|builder| builder.sources(clock.sources()).passes(only_dispatches)).await;
    let draft = TenantDraft { slug: Some("acme".into()), ..TenantDraft::default() };
    let schema = neo.directory().create_tenant(draft).await.unwrap().schema;
    let tenant = neo.tenant(schema);
    let endpoint = EndpointDraft::standard("n", &*receiver.url);
    let id = tenant.create_endpoint(endpoint, None).await.unwrap().endpoint.id;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    tenant.create_subscription(id, everything).await.unwrap();
    clock.jump(HALF_AN_HOUR);
    tenant.create_and_publish("a.b", "{}").await.unwrap();
    eventually("a delivery", async || {
        let found = tenant.deliveries(&DeliveryQuery::default(), PageRequest::first(1)).await.unwrap();
        (found.items.len() == 1).then_some(())
    })
    .await;
    drop(tenant);
    neo.shutdown(Duration::from_secs(5)).await;
    clock.jump(-HALF_AN_HOUR);
    let builder = NeoEvents::builder(folder.path().join("admin.db")).sources(clock.sources());
    let neo = builder.start().await.unwrap();
    receiver.wait_for(1).await;
    neo.shutdown(Duration::from_secs(5)).await;
}

/// The wall, some hours back.
struct SetBack(SystemClock);

impl Clock for SetBack {
    fn wall(&self) -> Timestamp {
        self.0.wall() - SignedDuration::from_hours(5)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_meanwhile_delays_nothing() {
    let (world, receiver) = (
        World::new().await,
        Receiver::answering(|_, before| Answer::status(if before == 0 { 503 } else { 200 })).await,
    );
    world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    world.only_delivery(DeliveryStatus::Retrying).await;
    let World { neo, folder } = world;
    neo.shutdown(Duration::from_secs(5)).await;
    let sources = Sources::new(Arc::new(SetBack(SystemClock::new())), Arc::new(SystemRandom::new()));
    let neo = NeoEvents::builder(folder.path().join("admin.db")).sources(sources).start().await.unwrap();
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].id(), requests[1].id());
    World { neo, folder }.only_delivery(DeliveryStatus::Success).await;
}
