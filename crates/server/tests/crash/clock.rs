//! A wall clock that is set while events flow.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use neo_events::{
    Clock, DeliveryQuery, DeliveryState, DeliveryStatus, EndpointDraft, EventDraft, NeoEvents, PageRequest,
    SignedDuration, Sources, SubscriptionDraft, SystemClock, SystemRandom, Tenant, Timestamp,
};

use tokio::time::sleep;

use crate::process::{
    Receiver,
    load::{Acknowledged, until},
    receiver::{Arrival, SECRET},
};

const EVENTS: usize = 25;
/// So many more are refused once, just before the step: as many as an endpoint that has failed may have in flight.
const REFUSED: usize = 2;
/// After which they are tried again, in seconds: longer than it takes from there to the step.
const BACKOFF: u32 = 10;
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
        retry_backoff_seconds: Some(BACKOFF),
        ..EndpointDraft::standard("test", receiver.url.clone())
    };
    let endpoint = platform.create_endpoint(draft, Some(SECRET)).await.unwrap().endpoint;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    platform.create_subscription(endpoint.id, everything).await.unwrap();

    let (acknowledged, mut overtaken, mut refused) =
        (Acknowledged::default(), HashSet::new(), HashSet::new());
    for step in [0, HOUR, -2 * HOUR, 24 * HOUR, -48 * HOUR, 0] {
        // Some wait for their next attempt at the step, some are in flight, and some are published after it.
        receiver.hold();
        let to_be_refused: HashSet<_> =
            publish(&platform, &acknowledged, REFUSED).await.into_iter().collect();
        until("they are in flight", async || receiver.arrivals.held().len() == REFUSED).await;
        receiver.fail_then_hold(to_be_refused.clone());
        until("they wait for their next attempt", async || waiting(&platform).await == REFUSED).await;
        receiver.hold();
        let before = publish(&platform, &acknowledged, EVENTS).await;
        until("requests are in flight", async || !receiver.arrivals.held().is_empty()).await;
        assert_eq!(waiting(&platform).await, REFUSED, "they wait still");
        if step > LEASE {
            // Which of them are in flight by now, and not only those that have arrived, nobody can say.
            overtaken.extend(before);
        }
        clock.by.fetch_add(step, Ordering::Relaxed);
        publish(&platform, &acknowledged, EVENTS).await;
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
        refused.extend(to_be_refused);
    }
    receiver.arrivals.assert_signed();
    judge(&receiver.arrivals.all(), &overtaken, &refused);
    neo.shutdown(Duration::from_secs(5)).await;
}

/// What was refused was attempted twice, everything else once; no attempt was repeated but those that a step overtook.
fn judge(arrivals: &HashMap<String, Vec<Arrival>>, overtaken: &HashSet<String>, refused: &HashSet<String>) {
    let mut repeated = 0;
    for (id, all) in arrivals {
        let numbers: BTreeSet<_> = all.iter().map(|arrival| arrival.attempt).collect();
        let last = if refused.contains(id) { 2 } else { 1 };
        assert_eq!(numbers, (1..=last).collect(), "{id}");
        if all.len() > numbers.len() {
            assert!(
                overtaken.contains(id),
                "{id} was repeated: only a lease that the step ended is another's"
            );
            repeated += 1;
        }
    }
    println!("{repeated} of {} that a step forward may have overtaken were repeated", overtaken.len());
}

/// How many deliveries wait for an attempt that is not the first.
async fn waiting(platform: &Tenant) -> usize {
    let query = DeliveryQuery { status: Some(DeliveryStatus::Retrying), ..DeliveryQuery::default() };
    platform.deliveries(&query, PageRequest::first(1000)).await.unwrap().items.len()
}

/// All at once.
async fn publish(platform: &Tenant, acknowledged: &Acknowledged, events: usize) -> Vec<String> {
    let published = (0..events).map(|_| platform.publish(EventDraft::new("a.b", "{}")));
    let ids = join_all(published).await.into_iter().map(|event| event.unwrap().id.to_string());
    ids.inspect(|id| acknowledged.add(id.clone())).collect()
}
