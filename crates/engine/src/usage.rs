//! Last-used times of endpoints and subscriptions, collected in memory and written every few seconds: they are
//! accurate to 10 s and cost the hot path nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use neo_events_domain::{
    Timestamp,
    id::{EndpointId, SubscriptionId},
    tenant::Schema,
};
use neo_events_store::{Store, Usage};

/// How often collected times are written.
pub(crate) const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Times {
    endpoints: HashMap<EndpointId, Timestamp>,
    subscriptions: HashMap<SubscriptionId, Timestamp>,
}

/// Times not yet written.
#[derive(Default)]
pub(crate) struct UsageLog(Mutex<HashMap<Schema, Times>>);

impl UsageLog {
    pub(crate) fn endpoint_used(&self, schema: &Schema, id: EndpointId, at: Timestamp) {
        self.with(schema, |times| times.endpoints.insert(id, at));
    }

    pub(crate) fn subscriptions_triggered(&self, schema: &Schema, ids: &[SubscriptionId], at: Timestamp) {
        self.with(schema, |times| times.subscriptions.extend(ids.iter().map(|id| (*id, at))));
    }

    /// Writes what was collected. What cannot be written now is lost, and logged: the next use tells it again.
    pub(crate) async fn flush(&self, store: &dyn Store) {
        let collected = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (schema, times) in collected {
            let usage = Usage {
                endpoints: times.endpoints.into_iter().collect(),
                subscriptions: times.subscriptions.into_iter().collect(),
            };
            if let Err(error) = store.note_usage(&schema, usage).await {
                tracing::warn!(%schema, %error, "last-used times were not written");
            }
        }
    }

    fn with<T>(&self, schema: &Schema, note: impl FnOnce(&mut Times) -> T) {
        let mut collected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match collected.get_mut(schema) {
            Some(times) => note(times),
            None => note(collected.entry(schema.clone()).or_default()),
        };
    }
}
