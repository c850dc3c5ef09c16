//! What callers tell the engine: events to store, and what they changed.
//!
//! Only events have to come this way. The rest are hints: without them the passes find the same in the tables, later.

use std::sync::Arc;

use neo_events_domain::{
    Timestamp,
    event::NewEvent,
    id::{DeliveryId, EndpointId},
    tenant::Schema,
};
use neo_events_store::{Appended, StoreError};

use crate::{DeliveryWatch, Passes, supervisor::Parts};

/// A hand on the engine that can be shared.
#[derive(Clone)]
pub struct EngineHandle(Arc<Parts>);

impl EngineHandle {
    pub(crate) const fn new(parts: Arc<Parts>) -> Self {
        Self(parts)
    }

    /// Stores events as [`EventLog::append`](neo_events_store::EventLog::append) does, and where this node both
    /// dispatches and delivers, dispatches them in the same transaction if it can.
    pub async fn append(
        &self,
        schema: &Schema,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        let Parts { store, runs, signals, direct, .. } = self.0.as_ref();
        if *runs != Passes::ALL || signals.stop.is_cancelled() {
            return store.append(schema, events, now).await;
        }
        store.append_arrivals(schema, direct.arrivals(schema, events, now), now).await
    }

    /// An endpoint may have deliveries due now. Without this hint they are found within half a second.
    pub fn due_now(&self, schema: &Schema, endpoint_id: EndpointId) {
        if self.0.runs.deliver {
            self.0.admission.owe((schema.clone(), endpoint_id), self.0.sources.now());
        }
    }

    /// An endpoint was changed. What is queued for it on this node is given back and claimed again, as the endpoint is
    /// now. Without this hint it is attempted as the endpoint was, or put back, within two seconds.
    pub fn endpoint_changed(&self, schema: &Schema, endpoint_id: EndpointId) {
        self.0.admission.return_queued(&(schema.clone(), endpoint_id));
        self.due_now(schema, endpoint_id);
    }

    /// A delivery is to end without another attempt. If it is queued on this node, it is given back, and ends.
    pub fn delivery_cancelled(&self, schema: &Schema, endpoint_id: EndpointId, id: DeliveryId) {
        self.0.admission.return_one(&(schema.clone(), endpoint_id), id);
        self.0.watched.tell(id);
    }

    /// Says what becomes of a delivery on this node from now on. To be called before it is written.
    pub fn watch(&self, id: DeliveryId) -> DeliveryWatch {
        self.0.watched.watch(id)
    }
}
