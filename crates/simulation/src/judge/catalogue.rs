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
use neo_events_engine::Clock;
use neo_events_store::NewDelivery;

use super::{Account, KnownEndpoint, KnownEvent, trace::short};
use crate::{effect::Grant, happening::Happening, property::Property};

impl Account {
    pub(super) fn endpoint_is(&mut self, schema: &Schema, endpoint: Endpoint) {
        let id = endpoint.id;
        let before = self.endpoints.get(&id).filter(|known| known.endpoint.is_active);
        let active_since = before.map_or_else(|| self.clock.wall(), |known| known.active_since);
        self.takes_form(&endpoint);
        let known = KnownEndpoint { schema: schema.clone(), endpoint, active_since, is_deleted: false };
        self.endpoints.insert(id, known);
        self.changed(id);
    }

    pub(super) fn endpoint_deleted(&mut self, id: EndpointId) {
        if let Some(known) = self.endpoints.get_mut(&id) {
            known.is_deleted = true;
        }
        self.subscriptions.retain(|_, subscription| subscription.endpoint_id != id);
        self.changed(id);
    }

    pub(super) fn subscription_is(&mut self, subscription: Subscription) {
        let endpoint_id = subscription.endpoint_id;
        self.subscriptions.insert(subscription.id, subscription);
        self.changed(endpoint_id);
    }

    pub(super) fn subscription_deleted(&mut self, id: SubscriptionId) {
        if let Some(gone) = self.subscriptions.remove(&id) {
            self.changed(gone.endpoint_id);
        }
    }

    /// What an endpoint wants may be something else from now on, of what is not dispatched yet.
    fn changed(&mut self, id: EndpointId) {
        let Some(known) = self.endpoints.get(&id) else { return };
        let (schema, policy) = (known.schema.clone(), known.endpoint.retry);
        let mut events = std::mem::take(&mut self.events);
        let of_it = events.values_mut().filter(|event| !event.is_dispatched && event.schema == schema);
        for event in of_it {
            if self.who_wants(&schema, &event.event).contains(&id) {
                event.wanted_ever.entry(id).or_default().push(policy);
            } else {
                event.wanted_always.remove(&id);
            }
        }
        self.events = events;
    }

    pub(super) fn stored(&mut self, schema: &Schema, event: &Arc<DomainEvent>) {
        let wanted_always = self.who_wants(schema, event);
        let policy = |id: &EndpointId| self.endpoints.get(id).map(|known| known.endpoint.retry);
        let with_policy = |id: &EndpointId| (*id, policy(id).into_iter().collect());
        let known = KnownEvent {
            schema: schema.clone(),
            wanted_ever: wanted_always.iter().map(with_policy).collect(),
            wanted_always,
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
        let mut always = event.wanted_always.iter().copied();
        if let Some(endpoint_id) = always.find(|to| !self.by_pair.contains_key(&(id, *to))) {
            let what = format!("event {} has no delivery to {}", short(id), short(endpoint_id));
            self.violated(Property::NothingIsLost, what);
        }
    }

    /// Whether a delivery was written that nobody wanted at any time since.
    pub(super) fn is_unwanted(&self, id: EventId, endpoint_id: EndpointId) -> bool {
        self.events.get(&id).is_none_or(|event| !event.wanted_ever.contains_key(&endpoint_id))
    }

    /// Whether a delivery's policy is one that its endpoint had while it wanted the event.
    pub(super) fn has_the_policy(&self, id: EventId, new: &NewDelivery) -> bool {
        let its = self.events.get(&id).and_then(|event| event.wanted_ever.get(&new.endpoint_id));
        let is_whole = new.max_attempts == 1 + new.retry.max_retry_attempts;
        its.is_none_or(|policies| is_whole && policies.contains(&new.retry))
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
