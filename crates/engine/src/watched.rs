//! Deliveries whose end somebody waits for here.
//!
//! Whoever watches one is told as soon as this node has recorded an attempt of it, and needs not ask the database again
//! and again. It is a hint like every other: another node may make the attempt, and of that nothing is heard, so
//! whoever watches still asks now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use neo_events_domain::id::DeliveryId;
use tokio::sync::Notify;

/// Who is to be told of which delivery. As many as there are calls that wait.
#[derive(Default)]
pub(crate) struct WatchedDeliveries(Mutex<HashMap<DeliveryId, Arc<Notify>>>);

impl WatchedDeliveries {
    /// A delivery has one watcher: whoever made it.
    pub(crate) fn watch(self: &Arc<Self>, id: DeliveryId) -> DeliveryWatch {
        let changed = Arc::<Notify>::default();
        self.watched().insert(id, Arc::clone(&changed));
        DeliveryWatch { watched: Arc::clone(self), id, changed }
    }

    /// Something came of this delivery.
    pub(crate) fn tell(&self, id: DeliveryId) {
        if let Some(changed) = self.watched().get(&id) {
            changed.notify_one();
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<DeliveryId, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches a delivery until it is dropped.
pub struct DeliveryWatch {
    watched: Arc<WatchedDeliveries>,
    id: DeliveryId,
    changed: Arc<Notify>,
}

impl DeliveryWatch {
    /// Resolves once this node has recorded an attempt or cancelled the delivery, since it was watched or since this
    /// resolved last.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for DeliveryWatch {
    fn drop(&mut self) {
        self.watched.watched().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use neo_events_domain::Uuid;

    use super::*;

    #[test]
    fn a_watcher_is_told_of_its_own_delivery_until_it_goes() {
        let watched = Arc::<WatchedDeliveries>::default();
        let [one, other, third] = [1, 2, 3].map(|n| DeliveryId::from_uuid(Uuid::from_u128(n)));
        let both = [one, other].map(|id| watched.watch(id));
        let told = || both.each_ref().map(|watch| watch.changed().now_or_never().is_some());
        assert_eq!(told(), [false, false]);
        // Before anybody listens, and more than once.
        watched.tell(one);
        watched.tell(one);
        watched.tell(third);
        assert_eq!(told(), [true, false]);
        assert_eq!(told(), [false, false]);
        drop(both);
        assert!(watched.watched().is_empty());
    }
}
