//! Events that this process has just had in hand. They never change, so that what is here is what the database has, and
//! an event published, dispatched and delivered by one node is never read back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;
use neo_events_domain::{Uuid, event::DomainEvent};

/// What all of them may be together, in bytes.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an event takes beside its data and metadata, about.
const EVENT_BYTES: usize = 512;

/// The events used last.
pub(crate) struct EventCache(Mutex<Held>);

struct Held {
    /// By tenant and id.
    events: LruCache<(i32, Uuid), Arc<DomainEvent>>,
    bytes: usize,
}

/// What of some events is here.
pub(crate) struct Found {
    pub(crate) events: HashMap<Uuid, Arc<DomainEvent>>,
    pub(crate) missing: Vec<Uuid>,
}

impl Default for EventCache {
    fn default() -> Self {
        Self(Mutex::new(Held { events: LruCache::unbounded(), bytes: 0 }))
    }
}

impl EventCache {
    pub(crate) fn keep(&self, tenant_no: i32, events: impl IntoIterator<Item = Arc<DomainEvent>>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            held.bytes += bytes(&event);
            if let Some(before) = held.events.put((tenant_no, event.id.uuid()), event) {
                held.bytes -= bytes(&before);
            }
        }
        while held.bytes > BYTES_MAX
            && let Some((_, event)) = held.events.pop_lru()
        {
            held.bytes -= bytes(&event);
        }
    }

    pub(crate) fn find(&self, tenant_no: i32, ids: &[Uuid]) -> Found {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Found { events: HashMap::with_capacity(ids.len()), missing: Vec::new() };
        for id in ids {
            match held.events.get(&(tenant_no, *id)) {
                Some(event) => drop(found.events.insert(*id, Arc::clone(event))),
                None => found.missing.push(*id),
            }
        }
        found
    }
}

fn bytes(event: &DomainEvent) -> usize {
    event.event_data.as_str().len() + event.event_metadata.as_str().len() + EVENT_BYTES
}

#[cfg(test)]
mod tests {
    use neo_events_domain::{
        Timestamp,
        event::{DomainEvent, JsonObject},
        id::EventId,
    };

    use super::*;

    fn event(n: u128, size: usize) -> Arc<DomainEvent> {
        let at = Timestamp::UNIX_EPOCH;
        Arc::new(DomainEvent {
            id: EventId::from_uuid(Uuid::from_u128(n)),
            event_type: "a.b".parse().unwrap(),
            event_name: None,
            aggregate_id: Uuid::nil(),
            aggregate_type: "a".into(),
            aggregate_version: 1,
            correlation_id: None,
            causation_id: None,
            triggered_by_user_id: None,
            context_id: None,
            occurred_at: at,
            created_at: at,
            event_metadata: JsonObject::empty(),
            event_data: JsonObject::from_stored(&format!("{{\"a\":\"{}\"}}", "x".repeat(size))),
        })
    }

    #[test]
    fn events_are_found_in_their_own_tenant_alone() {
        let cache = EventCache::default();
        cache.keep(1, [event(7, 10)]);
        let (here, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let found = cache.find(1, &[here, other]);
        assert_eq!((found.events.len(), found.missing), (1, vec![other]));
        assert_eq!(cache.find(2, &[here]).missing, [here]);
    }

    #[test]
    fn the_ones_used_last_stay_within_the_limit() {
        let cache = EventCache::default();
        for n in 0..200 {
            cache.keep(1, [event(n, 100 * 1024)]);
            cache.keep(1, [event(0, 100 * 1024)]);
        }
        let held = cache.0.lock().unwrap();
        assert!(held.bytes <= BYTES_MAX && held.bytes > BYTES_MAX / 2);
        assert_eq!(held.bytes, held.events.iter().map(|(_, event)| bytes(event)).sum::<usize>());
        assert!(
            held.events.contains(&(1, Uuid::from_u128(0)))
                && held.events.contains(&(1, Uuid::from_u128(199)))
        );
        assert!(!held.events.contains(&(1, Uuid::from_u128(1))));
    }
}
