//! Last-used times of endpoints and subscriptions, collected in memory and written every few seconds: they are
//! accurate to 10 s and cost the hot path nothing.

use std::{
    collections::HashMap,
    error::Error,
    hash::Hash,
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
        self.with(schema, |times| note(&mut times.endpoints, id, at));
    }

    pub(crate) fn subscriptions_triggered(&self, schema: &Schema, ids: &[SubscriptionId], at: Timestamp) {
        self.with(schema, |times| ids.iter().for_each(|id| note(&mut times.subscriptions, *id, at)));
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
                tracing::warn!(%schema, error = &error as &dyn Error, "last-used times were not written");
            }
        }
    }

    fn with(&self, schema: &Schema, note: impl FnOnce(&mut Times)) {
        let mut collected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match collected.get_mut(schema) {
            Some(times) => note(times),
            None => note(collected.entry(schema.clone()).or_default()),
        }
    }
}

/// An attempt that takes long is noted after shorter ones that began after it.
fn note<Id: Eq + Hash>(times: &mut HashMap<Id, Timestamp>, id: Id, at: Timestamp) {
    times.entry(id).and_modify(|noted| *noted = at.max(*noted)).or_insert(at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_time_counts_whatever_is_noted_last() {
        let log = UsageLog::default();
        let (schema, id) = (Schema::admin(), EndpointId::from_uuid(neo_events_domain::Uuid::nil()));
        let at = |second| Timestamp::from_second(second).unwrap();
        for second in [29, 0, 28] {
            log.endpoint_used(&schema, id, at(second));
        }
        assert_eq!(log.0.lock().unwrap()[&schema].endpoints[&id], at(29));
    }
}
