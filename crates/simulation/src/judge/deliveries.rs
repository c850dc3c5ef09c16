//! Deliveries: written once, claimed by one, ended for good.

use std::collections::{BTreeMap, BTreeSet};

use neo_events_domain::{
    Timestamp,
    delivery::DeliveryState,
    id::{DeliveryId, EndpointId, EventId},
    tenant::Schema,
};
use neo_events_engine::Clock;
use neo_events_store::{EndpointClaim, EndpointQuota, NewDelivery};

use super::{Account, Judge, KnownDelivery, trace::short};
use crate::{
    effect::{Grant, Moved},
    happening::Happening,
    property::Property,
};

impl Judge {
    /// A claim was answered. Of an endpoint that no quota names, nothing was asked for.
    pub(crate) fn claimed_for(&self, quotas: &[EndpointQuota], claims: &[EndpointClaim]) {
        let mut account = self.account();
        for claim in claims {
            let is_its = |quota: &&EndpointQuota| {
                quota.schema == claim.schema && quota.endpoint_id == claim.endpoint.id
            };
            let max = quotas.iter().find(is_its).map_or(0, |quota| quota.max as usize);
            account.require(claim.work.len() <= max, Property::ClaimsFitQuotas, || {
                format!(
                    "{} of {} were claimed, asked for were {max}",
                    claim.work.len(),
                    short(claim.endpoint.id)
                )
            });
        }
    }
}

impl Account {
    pub(super) fn written(&mut self, schema: &Schema, event_id: EventId, new: &NewDelivery) {
        let (id, to) = (new.id, new.endpoint_id);
        let what = || format!("delivery {} of {} to {}", short(id), short(event_id), short(to));
        let is_of = |of: Option<&Schema>| of == Some(schema);
        let is_apart = is_of(self.events.get(&event_id).map(|event| &event.schema))
            && is_of(self.endpoints.get(&to).map(|endpoint| &endpoint.schema));
        self.require(is_apart, Property::TenantsApart, what);
        self.require(!self.is_unwanted(event_id, to), Property::NothingUnwanted, what);
        self.require(self.has_the_policy(event_id, new), Property::AttemptsEnd, what);
        let twin = self.by_pair.insert((event_id, to), id);
        self.require(twin.is_none(), Property::OneDelivery, what);
        let known = KnownDelivery {
            schema: schema.clone(),
            endpoint_id: to,
            state: DeliveryState::Pending,
            is_ending: false,
            recorded: 0,
            max_attempts: new.max_attempts,
            retry: new.retry,
            due_at: Some(self.clock.wall()),
            lease: None,
            granted_at: BTreeMap::new(),
            losers: BTreeSet::new(),
        };
        self.deliveries.insert(id, known);
    }

    pub(super) fn claimed(&mut self, id: DeliveryId, attempt: u32, grant: Grant) {
        let at = self.elapsed();
        let Some(delivery) = self.deliveries.get_mut(&id) else { return };
        delivery.granted_at.entry((grant.holder, attempt)).or_insert(at);
        let (before, due_at) = (delivery.lease.replace(grant), delivery.due_at.take());
        delivery.losers.extend(before.map(|before| before.holder));
        let (state, recorded, max) = (delivery.state.clone(), delivery.recorded, delivery.max_attempts);
        let (endpoint_id, is_ending) = (delivery.endpoint_id, delivery.is_ending);
        let what = || format!("delivery {}", short(id));
        self.exclusive(before, grant, what);
        self.require(!state.is_final(), Property::OverStaysOver, || {
            format!("delivery {} was claimed and is {state:?}", short(id))
        });
        self.require(!is_ending, Property::CancellationsHold, || {
            format!("delivery {} was claimed though it was cancelled", short(id))
        });
        self.require(attempt == recorded + 1, Property::AttemptsCountByOne, || {
            format!("delivery {} was claimed for attempt {attempt} after {recorded}", short(id))
        });
        self.require(attempt <= max, Property::AttemptsEnd, || {
            format!("delivery {} was claimed for attempt {attempt} of {max}", short(id))
        });
        self.require(self.may_be_sent_to(endpoint_id), Property::InactiveRests, || {
            format!("delivery {} was claimed for endpoint {}", short(id), short(endpoint_id))
        });
        if let DeliveryState::Retrying { next_retry_at } = state {
            self.require(next_retry_at <= grant.now, Property::RetriesWait, || {
                format!("delivery {} was claimed at {} and is due at {next_retry_at}", short(id), grant.now)
            });
        }
        // What has waited for its endpoint waits for the next look at all endpoints, and that is late if the last one was slow.
        let was_active =
            |at: &Timestamp| self.endpoints.get(&endpoint_id).is_some_and(|known| known.active_since <= *at);
        if let Some(due_at) = due_at.filter(was_active) {
            self.in_time(id, due_at);
        }
    }

    fn may_be_sent_to(&self, id: EndpointId) -> bool {
        self.endpoints.get(&id).is_some_and(|known| known.endpoint.is_active && !known.is_deleted)
    }

    /// Whether the first claim since a delivery is due comes soon. In worlds that become calm all clocks tell one time.
    fn in_time(&mut self, id: DeliveryId, due_at: Timestamp) {
        let now = self.clock.wall();
        // What is leased as it is written waits for nobody.
        if self.calm_since.is_none_or(|since| due_at < since) || due_at == now {
            return;
        }
        self.tally.note(Happening::PromptClaim);
        self.require(now.duration_since(due_at).as_millis() <= 1000, Property::DueWorkIsPrompt, || {
            format!("delivery {} was claimed at {now} and was due at {due_at}", short(id))
        });
    }

    pub(super) fn freed(&mut self, token: u64) {
        let is_it = |lease: &mut super::Grant| lease.token == token;
        for event in self.events.values_mut() {
            event.lease.take_if(is_it);
        }
        for delivery in self.deliveries.values_mut() {
            let ended = delivery.lease.take_if(is_it);
            delivery.losers.extend(ended.map(|ended| ended.holder));
        }
        self.taken.insert(token);
    }

    pub(super) fn moved(&mut self, id: DeliveryId, moved: Moved) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let (was, unasked) = (delivery.state.clone(), self.is_unasked(id, delivery, &moved));
        self.require(was != DeliveryState::Success, Property::OverStaysOver, || {
            format!("delivery {} had arrived and became {:?}", short(id), moved.state)
        });
        if let Some((property, how)) = unasked {
            self.violated(property, format!("delivery {} {how}: {was:?}, {:?}", short(id), moved.state));
        }
        if was.is_final() && !moved.state.is_final() {
            self.tally.note(Happening::RetriedByHand);
        }
        let Some(delivery) = self.deliveries.get_mut(&id) else { return };
        if moved.is_ending && delivery.lease.is_some() {
            self.tally.note(Happening::CancelledInFlight);
        }
        delivery.is_ending = moved.is_ending;
        if moved.state.is_final() {
            let ended = delivery.lease.take();
            delivery.losers.extend(ended.map(|lease| lease.holder));
            self.taken.extend(ended.map(|lease| lease.token));
        } else if let DeliveryState::Retrying { next_retry_at } = moved.state {
            delivery.max_attempts = delivery.max_attempts.max(delivery.recorded + 1);
            delivery.due_at = delivery.lease.is_none().then_some(next_retry_at);
        }
        delivery.state = moved.state;
    }
}
