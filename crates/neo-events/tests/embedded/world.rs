//! An embedded neo-events in a folder of its own.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use neo_events::{
    Builder, Clock, CreatedEndpoint, Delivery, DeliveryHistory, DeliveryQuery, DeliveryStatus, EndpointDraft,
    EventDraft, NeoEvents, PageRequest, Published, Shutdown, Sources, SubscriptionDraft, SystemClock,
    SystemRandom, Tenant, Timestamp,
};

use crate::receiver::eventually;

pub(crate) struct World {
    pub(crate) neo: NeoEvents,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let neo = settings(NeoEvents::builder(folder.path().join("admin.db"))).start().await.unwrap();
        Self { neo, folder }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("admin.db")
    }

    pub(crate) fn tenant(&self) -> Tenant {
        self.neo.platform()
    }

    /// Shuts down and starts again on the same file.
    pub(crate) async fn restarted(self) -> Self {
        self.neo.shutdown(Duration::from_secs(10)).await;
        let neo = NeoEvents::builder(self.folder.path().join("admin.db")).start().await.unwrap();
        Self { neo, folder: self.folder }
    }

    pub(crate) async fn shutdown(self, grace: Duration) -> Shutdown {
        self.neo.shutdown(grace).await
    }

    /// An endpoint that gets everything; retries after a second.
    pub(crate) async fn endpoint(&self, url: &str) -> CreatedEndpoint {
        self.endpoint_for(url, SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() })
            .await
    }

    pub(crate) async fn endpoint_for(&self, url: &str, subscription: SubscriptionDraft) -> CreatedEndpoint {
        let draft = EndpointDraft {
            retry_backoff_seconds: Some(1),
            timeout_seconds: Some(5),
            ..EndpointDraft::standard("test", url)
        };
        let created = self.tenant().create_endpoint(draft, None).await.unwrap();
        self.tenant().create_subscription(created.endpoint.id, subscription).await.unwrap();
        created
    }

    pub(crate) async fn publish(&self, data: &str) -> Published {
        self.tenant().publish(EventDraft::new("user.created", data)).await.unwrap()
    }

    pub(crate) async fn deliveries(&self) -> Vec<Delivery> {
        self.tenant().deliveries(&DeliveryQuery::default(), PageRequest::first(1000)).await.unwrap().items
    }

    /// Waits until the only delivery has this status.
    pub(crate) async fn only_delivery(&self, status: DeliveryStatus) -> DeliveryHistory {
        let what = format!("one delivery, {}", status.as_str());
        let found = eventually(&what, async || {
            let deliveries = self.deliveries().await;
            assert!(deliveries.len() <= 1, "{deliveries:?}");
            deliveries.into_iter().find(|delivery| delivery.state.status() == status)
        });
        self.tenant().delivery_history(found.await.id).await.unwrap()
    }
}

/// A wall that stands still at a second, but for its jumps.
pub(crate) struct JumpingClock {
    second: AtomicI64,
    system: SystemClock,
}

impl JumpingClock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self { second: AtomicI64::new(1_800_000_000), system: SystemClock::new() })
    }

    pub(crate) fn sources(self: &Arc<Self>) -> Sources {
        Sources::new(Arc::clone(self) as Arc<dyn Clock>, Arc::new(SystemRandom::new()))
    }

    /// By so many seconds.
    pub(crate) fn jump(&self, by: i64) {
        self.second.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for JumpingClock {
    fn wall(&self) -> Timestamp {
        Timestamp::from_second(self.second.load(Ordering::Relaxed)).unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.system.elapsed()
    }
}
