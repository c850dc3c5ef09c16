//! The rows, and what may be done to them: every change goes through here and is told to the watcher.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use neo_events_domain::{
    Timestamp, Uuid,
    api_key::ApiKey,
    catalogue::EventTypeEntry,
    delivery::{AttemptRecord, Delivery, DeliveryState, Trigger},
    endpoint::Endpoint,
    event::DomainEvent,
    id::{DeliveryId, EndpointId, EventId, SubscriptionId},
    subscription::Subscription,
    tenant::{Schema, Tenant},
};
use neo_events_store::{KeyDigest, MasterKeyFingerprint, NewDelivery, StoreError};

use super::Holder;
use crate::effect::{Effect, Grant, Moved, Recorded, Watcher};

/// Everything.
pub(crate) struct Database {
    pub(super) tenants: BTreeMap<Schema, Tables>,
    pub(super) keys: Vec<KeyRow>,
    pub(super) master_key: Option<MasterKeyFingerprint>,
    pub(super) watcher: Watcher,
    tokens: u64,
    pub(super) numbers: u64,
}

/// An API key's row.
pub(super) struct KeyRow {
    pub(super) no: u64,
    pub(super) key: ApiKey,
    pub(super) digest: KeyDigest,
}

/// A tenant's rows.
pub(crate) struct Tables {
    pub(super) no: u64,
    pub(super) tenant: Tenant,
    pub(super) events: Vec<EventRow>,
    pub(super) events_by_id: BTreeMap<EventId, usize>,
    pub(super) heads: BTreeMap<(String, Uuid), u32>,
    pub(super) types: Vec<(u64, EventTypeEntry)>,
    pub(super) is_seeded: bool,
    pub(super) endpoints: BTreeMap<EndpointId, EndpointRow>,
    pub(super) subscriptions: BTreeMap<SubscriptionId, SubscriptionRow>,
    pub(super) version: u64,
    pub(super) changes: BTreeMap<u64, Change>,
    pub(super) deliveries: Vec<DeliveryRow>,
    pub(super) deliveries_by_id: BTreeMap<DeliveryId, usize>,
    /// Deliveries that are not over, in the order in which they are claimed.
    pub(super) open: BTreeSet<(EndpointId, Timestamp, usize)>,
    pairs: BTreeSet<(EventId, EndpointId, &'static str)>,
}

pub(super) struct EventRow {
    pub(super) event: Arc<DomainEvent>,
    pub(super) processed_at: Option<Timestamp>,
    pub(super) hold: Option<Hold>,
}

pub(super) struct EndpointRow {
    pub(super) no: u64,
    pub(super) endpoint: Endpoint,
    /// As it was at each revision.
    pub(super) revisions: Vec<Endpoint>,
    pub(super) is_deleted: bool,
    pub(super) secret_no: u64,
    pub(super) change: u64,
}

pub(super) struct SubscriptionRow {
    pub(super) no: u64,
    pub(super) subscription: Subscription,
    pub(super) change: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Change {
    Endpoint(EndpointId),
    EndpointDeleted(EndpointId),
    Subscription(SubscriptionId),
    SubscriptionDeleted(SubscriptionId),
}

pub(crate) struct DeliveryRow {
    pub(super) delivery: Delivery,
    pub(super) event: usize,
    pub(super) due_at: Timestamp,
    pub(super) hold: Option<Hold>,
    pub(super) attempts: Vec<AttemptRecord>,
}

/// A lease on a row.
#[derive(Clone, Copy)]
pub(crate) struct Hold {
    pub(crate) holder: Holder,
    pub(crate) token: u64,
    pub(crate) until: Timestamp,
}

pub(super) fn is_live(hold: Option<Hold>, now: Timestamp) -> bool {
    hold.is_some_and(|hold| hold.until > now)
}

impl Database {
    pub(super) fn new(watcher: Watcher) -> Self {
        let mut database = Self {
            tenants: BTreeMap::new(),
            keys: Vec::new(),
            master_key: None,
            watcher,
            tokens: 0,
            numbers: 0,
        };
        let admin = Tenant { schema: Schema::admin(), name: None, created_at: Timestamp::UNIX_EPOCH };
        database.add_tenant(admin);
        database
    }

    pub(super) fn add_tenant(&mut self, tenant: Tenant) {
        let no = self.number();
        self.tenants.insert(tenant.schema.clone(), Tables::new(no, tenant));
    }

    /// Numbers rows as they come.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A token that was never granted.
    pub(super) fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// A tenant's rows.
    pub(crate) fn of(&mut self, schema: &Schema) -> Result<&mut Tables, StoreError> {
        self.tenants.get_mut(schema).ok_or_else(|| StoreError::UnknownSchema(schema.clone()))
    }

    /// Ends the leases that are meant.
    pub(super) fn free(&mut self, is_meant: impl Fn(&Hold) -> bool) {
        for (schema, tables) in &mut self.tenants {
            let of_events = tables.events.iter_mut().map(|row| &mut row.hold);
            for hold in of_events.chain(tables.deliveries.iter_mut().map(|row| &mut row.hold)) {
                if let Some(ended) = hold.take_if(|hold| is_meant(hold)) {
                    self.watcher.tell(schema, Effect::Freed(ended.token));
                }
            }
        }
    }
}

impl Tables {
    fn new(no: u64, tenant: Tenant) -> Self {
        Self {
            no,
            tenant,
            events: Vec::new(),
            events_by_id: BTreeMap::new(),
            heads: BTreeMap::new(),
            types: Vec::new(),
            is_seeded: false,
            endpoints: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            version: 0,
            changes: BTreeMap::new(),
            deliveries: Vec::new(),
            deliveries_by_id: BTreeMap::new(),
            open: BTreeSet::new(),
            pairs: BTreeSet::new(),
        }
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.tenant.schema
    }

    /// Notes a change of the catalogue; what was noted of the row before moves behind it.
    pub(super) fn changed(&mut self, before: u64, change: Change) -> u64 {
        self.changes.remove(&before);
        self.version += 1;
        self.changes.insert(self.version, change);
        self.version
    }

    pub(super) fn endpoint(&self, id: EndpointId) -> Option<&EndpointRow> {
        self.endpoints.get(&id).filter(|row| !row.is_deleted)
    }

    /// The event that an id names, if its dispatch is owed.
    pub(super) fn owed(&mut self, id: EventId) -> Option<&mut EventRow> {
        let row = &mut self.events[*self.events_by_id.get(&id)?];
        row.processed_at.is_none().then_some(row)
    }

    /// Ends an event's owed dispatch.
    pub(crate) fn end_dispatch(&mut self, id: EventId, now: Timestamp, watcher: &Watcher) {
        if let Some(row) = self.owed(id) {
            row.processed_at = Some(now);
            row.hold = None;
            watcher.tell(self.schema(), Effect::Dispatched(id));
        }
    }

    /// Writes a delivery, due at once, unless it is there or its endpoint is not.
    pub(crate) fn write_delivery(
        &mut self,
        event_id: EventId,
        new: &NewDelivery,
        now: Timestamp,
        watcher: &Watcher,
    ) -> bool {
        let pair = (event_id, new.endpoint_id, new.trigger.as_str());
        let fits = self.endpoint(new.endpoint_id).is_some() && !self.pairs.contains(&pair);
        if fits {
            self.pairs.insert(pair);
            self.insert_delivery(event_id, new, now, watcher);
        }
        fits
    }

    /// Writes a delivery whatever is there.
    pub(crate) fn insert_delivery(
        &mut self,
        event_id: EventId,
        new: &NewDelivery,
        now: Timestamp,
        watcher: &Watcher,
    ) {
        let Some(event) = self.events_by_id.get(&event_id).copied() else { return };
        // A test goes before the backlog.
        let due_at = if new.trigger == Trigger::Test { Timestamp::UNIX_EPOCH } else { now };
        let delivery = Delivery {
            id: new.id,
            webhook_endpoint_id: new.endpoint_id,
            webhook_event_id: event_id,
            state: DeliveryState::Pending,
            current_attempt: 0,
            max_attempts: new.max_attempts,
            retry: new.retry,
            cancel_requested: None,
            trigger: new.trigger,
            subscription_ids: new.subscription_ids.clone(),
            created_at: now,
        };
        let at = self.deliveries.len();
        self.open.insert((new.endpoint_id, due_at, at));
        self.deliveries_by_id.insert(new.id, at);
        self.deliveries.push(DeliveryRow { delivery, event, due_at, hold: None, attempts: Vec::new() });
        watcher.tell(self.schema(), Effect::Written(event_id, Box::new(new.clone())));
    }

    /// Grants a lease on a delivery.
    pub(super) fn hold(&mut self, at: usize, grant: Grant, watcher: &Watcher) {
        let row = &mut self.deliveries[at];
        row.hold = Some(Hold { holder: grant.holder, token: grant.token, until: grant.until });
        let (id, attempt) = (row.delivery.id, row.delivery.current_attempt + 1);
        watcher.tell(self.schema(), Effect::Claimed(id, attempt, grant));
    }

    /// Brings a delivery into a state, queued at its time if it is not over. Who holds it keeps it.
    pub(super) fn put(&mut self, at: usize, delivery: Delivery, due_at: Timestamp) {
        let row = &mut self.deliveries[at];
        let endpoint_id = delivery.webhook_endpoint_id;
        self.open.remove(&(endpoint_id, row.due_at, at));
        row.due_at = due_at;
        if delivery.state.is_final() {
            row.hold = None;
        } else {
            self.open.insert((endpoint_id, due_at, at));
        }
        row.delivery = delivery;
    }

    /// Brings a delivery into a state without an attempt.
    pub(super) fn move_to(&mut self, at: usize, delivery: Delivery, due_at: Timestamp, watcher: &Watcher) {
        let (id, is_ending) = (delivery.id, delivery.cancel_requested.is_some());
        let moved = Moved { state: delivery.state.clone(), is_ending };
        self.put(at, delivery, due_at);
        watcher.tell(self.schema(), Effect::Moved(id, moved));
    }

    /// Records an attempt, and ends the lease.
    pub(super) fn record(&mut self, at: usize, attempt: AttemptRecord, state: &DeliveryState) {
        let row = &self.deliveries[at];
        let delivery = Delivery {
            state: state.clone(),
            current_attempt: attempt.attempt_number,
            cancel_requested: None,
            ..row.delivery.clone()
        };
        let due_at = match *state {
            DeliveryState::Retrying { next_retry_at } => next_retry_at,
            _ => row.due_at,
        };
        self.put(at, delivery, due_at);
        let row = &mut self.deliveries[at];
        row.hold = None;
        row.attempts.push(attempt);
    }

    pub(super) fn tell_recorded(
        &self,
        id: DeliveryId,
        token: u64,
        attempt: (u32, neo_events_domain::id::RequestId),
        (state, watcher): (DeliveryState, &Watcher),
    ) {
        let (attempt_number, request_id) = attempt;
        let recorded = Recorded { token, request_id, attempt_number, state };
        watcher.tell(self.schema(), Effect::Recorded(id, recorded));
    }
}
