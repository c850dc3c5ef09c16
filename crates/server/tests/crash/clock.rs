//! A wall clock that is set while events flow.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use neo_events::{
    Clock, DeliveryQuery, DeliveryState, EndpointDraft, EventDraft, NeoEvents, PageRequest, SignedDuration,
    Sources, SubscriptionDraft, SystemClock, SystemRandom, Tenant, Timestamp,
};

use tokio::time::sleep;

use crate::process::{
    Receiver,
    load::{Acknowledged, until},
    receiver::SECRET,
};

const EVENTS: usize = 25;
const HOUR: i64 = 3600;
/// A step further forward ends the leases of what is in flight, in seconds.
const LEASE: i64 = 360;
/// Passes look at everything that is due more often than this.
const SWEEP: Duration = Duration::from_millis(1500);

/// The system's, set by so many seconds.
#[derive(Default)]
struct SetClock {
    by: AtomicI64,
    system: SystemClock,
}

impl Clock for SetClock {
    fn wall(&self) -> Timestamp {
        self.system.wall() + SignedDuration::from_secs(self.by.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        self.system.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_the_clock_lose_and_delay_nothing_and_repeat_only_what_was_in_flight() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let clock = Arc::new(SetClock::default());
    let sources = Sources::new(Arc::clone(&clock) as Arc<dyn Clock>, Arc::new(SystemRandom::new()));
    let neo = NeoEvents::builder(folder.path().join("admin.db")).sources(sources).start().await.unwrap();
    let platform = neo.platform();
    let draft = EndpointDraft {
        retry_backoff_seconds: Some(1),
        ..EndpointDraft::standard("test", receiver.url.clone())
    };
    let endpoint = platform.create_endpoint(draft, Some(SECRET)).await.unwrap().endpoint;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    platform.create_subscription(endpoint.id, everything).await.unwrap();

    let (acknowledged, mut overtaken) = (Acknowledged::default(), HashSet::new());
    for step in [0, HOUR, -2 * HOUR, 24 * HOUR, -48 * HOUR, 0] {
        // Some are published before the step and in flight, some after it.
        receiver.hold();
        let before = publish(&platform, &acknowledged).await;
        until("requests are in flight", async || !receiver.arrivals.held().is_empty()).await;
        if step > LEASE {
            // Which of them are in flight by now, and not only those that have arrived, nobody can say.
            overtaken.extend(before);
        }
        clock.by.fetch_add(step, Ordering::Relaxed);
        publish(&platform, &acknowledged).await;
        // As long as it takes the passes to look at what is due by the new time.
        sleep(SWEEP).await;
        receiver.let_go();
        acknowledged.arrive_at(&receiver).await;
        until("every delivery has succeeded", async || {
            let page = PageRequest::first(1000);
            let deliveries = platform.deliveries(&DeliveryQuery::default(), page).await.unwrap().items;
            deliveries.iter().all(|delivery| matches!(delivery.state, DeliveryState::Success))
        })
        .await;
    }
    let arrivals = receiver.arrivals.all();
    let repeated: HashSet<_> =
        arrivals.into_iter().filter(|(_, times)| times.len() > 1).map(|(id, _)| id).collect();
    println!(
        "{} of {} that a step forward may have overtaken were repeated",
        repeated.len(),
        overtaken.len()
    );
    assert!(repeated.is_subset(&overtaken), "only a lease that the step ended is another's");
    receiver.arrivals.assert_signed_first_attempts();
    neo.shutdown(Duration::from_secs(5)).await;
}

async fn publish(platform: &Tenant, acknowledged: &Acknowledged) -> Vec<String> {
    let mut ids = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        let id = platform.publish(EventDraft::new("a.b", "{}")).await.unwrap().id.to_string();
        acknowledged.add(id.clone());
        ids.push(id);
    }
    ids
}
