//! Dispatch at the moment of publishing.
//!
//! A node that knows the tenant's catalogue matches an event before it is stored, and has its deliveries written with
//! it; those that it has room for are leased to it as they are written, and their attempts begin when the commit is
//! done. The store compares the catalogue's count, so nothing is matched with an old one. Whatever does not fit (a
//! tenant not met yet, a catalogue that has just changed, an event for very many) owes its dispatch, and goes the long
//! way.

use std::{sync::Arc, time::Duration};

use neo_events_domain::{
    Timestamp,
    endpoint::Endpoint,
    event::NewEvent,
    id::{DeliveryId, SubscriptionId},
    tenant::Schema,
    time::later,
};
use neo_events_store::{
    Arrival, DELIVERY_LEASE, DeliveryWork, DirectDelivery, DirectDispatch, HandOver, Lease,
};
use tokio::{sync::mpsc::UnboundedSender, time::Instant};

use crate::{
    Sources,
    admission::{Admission, Key, Place},
    dispatch::new_delivery,
    registry::{Matched, Matches, Registry, Subject},
    usage::UsageLog,
};

/// Most deliveries of an event that are written with it: its publisher waits for them.
const EVENT_DELIVERIES_MAX: usize = 100;
/// Most deliveries of one call's events.
const CALL_DELIVERIES_MAX: usize = 2000;
/// How long matching may keep a publisher, and the thread that serves it: what is left after that is dispatched by the
/// pass, where costly filters keep nobody but other dispatches.
const MATCHING_MAX: Duration = Duration::from_millis(5);

/// A delivery that was leased to this node, as it was written or since, with its place.
pub(crate) struct Taken {
    pub(crate) place: Place,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) lease: Lease<DeliveryWork>,
}

/// Finds an event's deliveries before it is stored.
pub(crate) struct DirectDispatcher {
    pub(crate) sources: Sources,
    pub(crate) registry: Arc<Registry>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) usage: Arc<UsageLog>,
    /// Where attempts begin. What waits there holds places, so there are never many.
    pub(crate) taken: UnboundedSender<Taken>,
}

impl DirectDispatcher {
    /// The events of one call, with their dispatches where they can be made now.
    pub(crate) fn arrivals(&self, schema: &Schema, events: Vec<NewEvent>, now: Timestamp) -> Vec<Arrival> {
        let (mut room, deadline) = (CALL_DELIVERIES_MAX, Instant::now() + MATCHING_MAX);
        let arrival = |event: NewEvent| {
            let max = room.min(EVENT_DELIVERIES_MAX);
            let matches =
                self.matches(schema, &event, deadline).filter(|matches| matches.wanted.len() <= max);
            room -= matches.as_ref().map_or(0, |matches| matches.wanted.len());
            let dispatch = matches.map(|matches| self.dispatch(schema, matches, now));
            Arrival { event, dispatch }
        };
        events.into_iter().map(arrival).collect()
    }

    fn matches(&self, schema: &Schema, event: &NewEvent, deadline: Instant) -> Option<Matches> {
        let (event_type, context_id) = (&event.event_type, event.context_id);
        let subject = Subject { event_type, context_id, data: event.event_data.as_str() };
        match self.registry.matches_at_once(schema, &subject, deadline) {
            Matched::Known(matches) => Some(matches),
            Matched::Unknown | Matched::TooCostly => None,
        }
    }

    fn dispatch(&self, schema: &Schema, matches: Matches, now: Timestamp) -> DirectDispatch {
        let (triggered, expected) = (Vec::new(), Vec::new());
        let mut after = Aftermath { schema: schema.clone(), at: now, triggered, expected };
        let mut deliveries = Vec::with_capacity(matches.wanted.len());
        for wish in matches.wanted {
            let endpoint = Arc::clone(&wish.endpoint);
            let place = self.admission.place_ahead((schema.clone(), endpoint.id), now);
            after.triggered.extend_from_slice(&wish.subscription_ids);
            let delivery = new_delivery(&self.sources, wish);
            let (id, is_taken) = (delivery.id, place.is_some());
            deliveries.push(DirectDelivery { delivery, is_taken });
            after.expected.push(Expected { id, endpoint, place });
        }
        let (catalogue_version, lease_until) = (matches.version, later(now, DELIVERY_LEASE));
        DirectDispatch { catalogue_version, deliveries, lease_until, hand_over: self.hand_over(after) }
    }

    fn hand_over(&self, after: Aftermath) -> HandOver {
        let (taken, usage, admission) =
            (self.taken.clone(), Arc::clone(&self.usage), Arc::clone(&self.admission));
        Box::new(move |leases| {
            usage.subscriptions_triggered(&after.schema, &after.triggered, after.at);
            let mut leases = leases.into_iter().peekable();
            for Expected { id, endpoint, place } in after.expected {
                let lease = leases.next_if(|lease| lease.work().delivery_id == id);
                match (lease, place) {
                    (Some(lease), Some(place)) => {
                        // If nobody attempts any more, the store gives the lease back as it closes.
                        let _ = taken.send(Taken { place, endpoint, lease });
                    }
                    (_, place) => {
                        // Free before it is owed, or it would stand in its own way.
                        drop(place);
                        let key: Key = (after.schema.clone(), endpoint.id);
                        admission.owe(key, after.at);
                    }
                }
            }
        })
    }
}

/// What is left to be done once the deliveries are written.
struct Aftermath {
    schema: Schema,
    at: Timestamp,
    triggered: Vec<SubscriptionId>,
    expected: Vec<Expected>,
}

/// A delivery, and the place that was found for it.
struct Expected {
    id: DeliveryId,
    endpoint: Arc<Endpoint>,
    place: Option<Place>,
}
