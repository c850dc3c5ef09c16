//! Who wants what, judged without the engine's index: each subscription is asked.

use std::{collections::BTreeSet, sync::Arc};

use neo_events_domain::{
    endpoint::Endpoint,
    event::{DomainEvent, EVENT_DEPTH_MAX},
    id::{EndpointId, EventId, SubscriptionId},
    json,
    subscription::{Subscription, effective_context},
    tenant::Schema,
};

use neo_events_store::NewDelivery;

use super::{Account, KnownEndpoint, KnownEvent, trace::short};
use crate::{effect::Grant, happening::Happening, property::Property};

impl Account {
    pub(super) fn endpoint_is(&mut self, schema: &Schema, endpoint: Endpoint) {
        self.changes += 1;
        let (id, changed_at) = (endpoint.id, self.changes);
        let known = KnownEndpoint { schema: schema.clone(), endpoint, is_deleted: false, changed_at };
        self.endpoints.insert(id, known);
    }

    pub(super) fn endpoint_deleted(&mut self, id: EndpointId) {
        self.touch(id);
        if let Some(known) = self.endpoints.get_mut(&id) {
            known.is_deleted = true;
        }
        self.subscriptions.retain(|_, subscription| subscription.endpoint_id != id);
    }

    pub(super) fn subscription_is(&mut self, subscription: Subscription) {
        self.touch(subscription.endpoint_id);
        self.subscriptions.insert(subscription.id, subscription);
    }

    pub(super) fn subscription_deleted(&mut self, id: SubscriptionId) {
        if let Some(gone) = self.subscriptions.remove(&id) {
            self.touch(gone.endpoint_id);
        }
    }

    fn touch(&mut self, id: EndpointId) {
        self.changes += 1;
        if let Some(known) = self.endpoints.get_mut(&id) {
            known.changed_at = self.changes;
        }
    }

    pub(super) fn stored(&mut self, schema: &Schema, event: &Arc<DomainEvent>) {
        let wanted = self.who_wants(schema, event);
        let known = KnownEvent {
            schema: schema.clone(),
            wanted,
            stored_at: self.changes,
            lease: None,
            is_dispatched: false,
            event: Arc::clone(event),
        };
        self.events.insert(event.id, known);
    }

    fn who_wants(&self, schema: &Schema, event: &DomainEvent) -> BTreeSet<EndpointId> {
        let Ok(data) = json::parse(event.event_data.as_str(), EVENT_DEPTH_MAX) else {
            return BTreeSet::new();
        };
        let wants = |subscription: &&Subscription| {
            let Some(known) = self.endpoints.get(&subscription.endpoint_id) else { return false };
            let context_id = effective_context(subscription.context_id, known.endpoint.context_id);
            known.schema == *schema
                && known.endpoint.is_active
                && subscription.is_active
                && subscription.pattern.matches(&event.event_type)
                && (context_id.is_none() || context_id == event.context_id)
                && subscription.filter.matches(&data)
        };
        self.subscriptions.values().filter(wants).map(|subscription| subscription.endpoint_id).collect()
    }

    /// What was wanted at publishing and did not change since.
    fn is_certain(&self, event: &KnownEvent, endpoint_id: EndpointId) -> bool {
        self.endpoints.get(&endpoint_id).is_some_and(|known| known.changed_at <= event.stored_at)
    }

    pub(super) fn dispatch_claimed(&mut self, id: EventId, grant: Grant) {
        let Some(event) = self.events.get_mut(&id) else { return };
        let (before, is_dispatched) = (event.lease.replace(grant), event.is_dispatched);
        self.exclusive(before, grant, || format!("the dispatch of {}", short(id)));
        self.require(!is_dispatched, Property::OverStaysOver, || {
            format!("the dispatch of {} was claimed and is over", short(id))
        });
    }

    pub(super) fn dispatched(&mut self, id: EventId) {
        let Some(event) = self.events.get_mut(&id) else { return };
        (event.lease, event.is_dispatched) = (None, true);
        let event = &self.events[&id];
        let missing = event.wanted.iter().copied().find(|endpoint_id| {
            self.is_certain(event, *endpoint_id) && !self.by_pair.contains_key(&(id, *endpoint_id))
        });
        if let Some(endpoint_id) = missing {
            let what = format!("event {} has no delivery to {}", short(id), short(endpoint_id));
            self.violated(Property::NothingIsLost, what);
        }
    }

    /// Whether a delivery was written that nobody wanted at any time since.
    pub(super) fn is_unwanted(&self, id: EventId, endpoint_id: EndpointId) -> bool {
        let Some(event) = self.events.get(&id) else { return true };
        self.is_certain(event, endpoint_id) && !event.wanted.contains(&endpoint_id)
    }

    /// Whether a delivery's policy is its endpoint's, as far as that is certain.
    pub(super) fn has_the_policy(&self, id: EventId, new: &NewDelivery) -> bool {
        let (Some(event), Some(known)) = (self.events.get(&id), self.endpoints.get(&new.endpoint_id)) else {
            return true;
        };
        let policy = known.endpoint.retry;
        let is_its = new.retry == policy && new.max_attempts == 1 + policy.max_retry_attempts;
        is_its || !self.is_certain(event, new.endpoint_id)
    }

    pub(super) fn exclusive(&mut self, before: Option<Grant>, grant: Grant, what: impl FnOnce() -> String) {
        let Some(before) = before else { return };
        self.require(before.until <= grant.now, Property::ExclusiveLeases, || {
            format!("{} was claimed by {} while {} held it", what(), grant.holder, before.holder)
        });
        self.taken.insert(before.token);
        self.tally.note(Happening::ExpiredReclaimed);
    }
}
