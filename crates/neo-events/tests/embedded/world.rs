//! An embedded neo-events in a folder of its own.

use std::{path::PathBuf, time::Duration};

use neo_events::{
    Builder, CreatedEndpoint, Delivery, DeliveryHistory, DeliveryQuery, DeliveryStatus, EndpointDraft,
    EventDraft, NeoEvents, PageRequest, Published, Shutdown, SubscriptionDraft, Tenant,
};

use crate::receiver::eventually;

pub struct World {
    pub neo: NeoEvents,
    pub folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub async fn with(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let neo = settings(NeoEvents::builder(folder.path().join("admin.db"))).start().await.unwrap();
        Self { neo, folder }
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("admin.db")
    }

    pub fn tenant(&self) -> Tenant {
        self.neo.platform()
    }

    /// Shuts down and starts again on the same file.
    pub async fn restarted(self) -> Self {
        self.neo.shutdown(Duration::from_secs(10)).await;
        let neo = NeoEvents::builder(self.folder.path().join("admin.db")).start().await.unwrap();
        Self { neo, folder: self.folder }
    }

    pub async fn shutdown(self, grace: Duration) -> Shutdown {
        self.neo.shutdown(grace).await
    }

    /// An endpoint that gets everything; retries after a second.
    pub async fn endpoint(&self, url: &str) -> CreatedEndpoint {
        self.endpoint_for(url, SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() })
            .await
    }

    pub async fn endpoint_for(&self, url: &str, subscription: SubscriptionDraft) -> CreatedEndpoint {
        let draft = EndpointDraft {
            retry_backoff_seconds: Some(1),
            timeout_seconds: Some(5),
            ..EndpointDraft::standard("test", url)
        };
        let created = self.tenant().create_endpoint(draft, None).await.unwrap();
        self.tenant().create_subscription(created.endpoint.id, subscription).await.unwrap();
        created
    }

    pub async fn publish(&self, data: &str) -> Published {
        self.tenant().publish(EventDraft::new("user.created", data)).await.unwrap()
    }

    pub async fn deliveries(&self) -> Vec<Delivery> {
        self.tenant().deliveries(&DeliveryQuery::default(), PageRequest::first(1000)).await.unwrap().items
    }

    /// Waits until the only delivery has this status.
    pub async fn only_delivery(&self, status: DeliveryStatus) -> DeliveryHistory {
        let found = eventually(&format!("one delivery, {}", status.as_str()), async || {
            let deliveries = self.deliveries().await;
            assert!(deliveries.len() <= 1, "{deliveries:?}");
            deliveries.into_iter().find(|delivery| delivery.state.status() == status)
        });
        self.tenant().delivery(found.await.id).await.unwrap()
    }
}
