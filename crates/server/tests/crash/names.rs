//! Names that stop to resolve for a while.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use neo_events::{
    DeliveryQuery, DeliveryState, EndpointDraft, EventDraft, Lookup, NeoEvents, PageRequest, Resolve,
    ResolveError, Resolved, SubscriptionDraft,
};

use crate::process::{
    Receiver,
    load::{Acknowledged, until},
    receiver::SECRET,
};

const EVENTS: usize = 50;

/// A name server that can be away.
#[derive(Default)]
struct NameServer {
    is_away: AtomicBool,
}

impl Resolve for NameServer {
    fn lookup<'a>(&'a self, _host: &'a str) -> Lookup<'a> {
        let is_away = self.is_away.load(Ordering::Relaxed);
        Box::pin(async move {
            if is_away {
                return Err(ResolveError::Failed("no name server answers".into()));
            }
            Ok(Resolved { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ttl: Duration::ZERO })
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_names_is_retried_until_they_resolve() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let names = Arc::new(NameServer::default());
    let database = folder.path().join("admin.db");
    let resolver = Arc::clone(&names) as Arc<dyn Resolve>;
    let neo = NeoEvents::builder(database).resolver(resolver).start().await.unwrap();
    let platform = neo.platform();
    let draft = EndpointDraft {
        retry_backoff_seconds: Some(1),
        ..EndpointDraft::standard("named", receiver.url.replace("127.0.0.1", "hooks.example"))
    };
    let endpoint = platform.create_endpoint(draft, Some(SECRET)).await.unwrap().endpoint;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    platform.create_subscription(endpoint.id, everything).await.unwrap();

    names.is_away.store(true, Ordering::Relaxed);
    let acknowledged = Acknowledged::default();
    for _ in 0..EVENTS {
        acknowledged.add(platform.publish(EventDraft::new("a.b", "{}")).await.unwrap().id.to_string());
    }
    let deliveries = async || {
        platform.deliveries(&DeliveryQuery::default(), PageRequest::first(1000)).await.unwrap().items
    };
    until("every first attempt has failed", async || {
        let deliveries = deliveries().await;
        let is_retried = |state: &DeliveryState| matches!(state, DeliveryState::Retrying { .. });
        deliveries.len() == EVENTS && deliveries.iter().all(|delivery| is_retried(&delivery.state))
    })
    .await;
    let history = platform.delivery_history(deliveries().await[0].id).await.unwrap();
    assert_eq!(history.latest_attempt().unwrap().error_code.as_deref(), Some("dns"));
    assert_eq!(receiver.arrivals.events(), 0);

    names.is_away.store(false, Ordering::Relaxed);
    acknowledged.arrive_at(&receiver).await;
    until("every delivery has succeeded", async || {
        deliveries().await.iter().all(|delivery| matches!(delivery.state, DeliveryState::Success))
    })
    .await;
    neo.shutdown(Duration::from_secs(5)).await;
}
