//! What no call of the port does to rows, for planted bugs alone. The watcher is told of nothing here but of
//! deliveries written and dispatches ended: a mistake does not announce itself.

use std::sync::Arc;

use neo_events_domain::{
    SignedDuration, Timestamp,
    delivery::{Delivery, DeliveryState},
    event::DomainEvent,
    id::{DeliveryId, EndpointId, EventId},
    tenant::Schema,
};
use neo_events_store::{CatalogueVersion, EndpointClaim, EndpointQuota, NewDelivery};

use super::{
    MemoryStore,
    tables::{DeliveryRow, Tables},
};
use crate::effect::Watcher;

impl MemoryStore {
    fn tamper<T>(&self, schema: &Schema, with: impl FnOnce(&mut Tables, &Watcher) -> T) -> Option<T> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        database.of(schema).ok().map(|tables| with(tables, &watcher))
    }

    fn tamper_with_row<T>(
        &self,
        schema: &Schema,
        id: DeliveryId,
        with: impl FnOnce(&mut DeliveryRow) -> T,
    ) -> Option<T> {
        let on_row = |tables: &mut Tables, _: &Watcher| {
            let at = tables.deliveries_by_id.get(&id).copied()?;
            Some(with(&mut tables.deliveries[at]))
        };
        self.tamper(schema, on_row).flatten()
    }

    /// The token that holds a delivery now.
    pub(crate) fn token_on(&self, schema: &Schema, id: DeliveryId) -> Option<u64> {
        self.tamper_with_row(schema, id, |row| row.hold.map(|hold| hold.token)).flatten()
    }

    pub(crate) fn forget_lease(&self, schema: &Schema, id: DeliveryId) {
        self.tamper_with_row(schema, id, |row| row.hold = None);
    }

    pub(crate) fn forget_cancellation(&self, schema: &Schema, id: DeliveryId) {
        self.tamper_with_row(schema, id, |row| row.delivery.cancel_requested = None);
    }

    pub(crate) fn take_back_attempt(&self, schema: &Schema, id: DeliveryId) {
        self.tamper_with_row(schema, id, |row| {
            if !row.delivery.state.is_final() {
                row.delivery.current_attempt = row.delivery.current_attempt.saturating_sub(1);
            }
        });
    }

    pub(crate) fn queue_at_once(&self, schema: &Schema, id: DeliveryId) {
        self.tamper(schema, |tables, _| {
            let Some(at) = tables.deliveries_by_id.get(&id).copied() else { return };
            let delivery = tables.deliveries[at].delivery.clone();
            if !delivery.state.is_final() {
                let created_at = delivery.created_at;
                tables.put(at, delivery, created_at);
            }
        });
    }

    pub(crate) fn queue_late(&self, schema: &Schema, id: DeliveryId, by: SignedDuration) {
        self.tamper(schema, |tables, _| {
            let Some(at) = tables.deliveries_by_id.get(&id).copied() else { return };
            let delivery = tables.deliveries[at].delivery.clone();
            if let DeliveryState::Retrying { next_retry_at } = delivery.state {
                tables.put(at, delivery, next_retry_at + by);
            }
        });
    }

    pub(crate) fn drop_from_queue(&self, schema: &Schema, id: DeliveryId) {
        self.tamper(schema, |tables, _| {
            let at = tables.deliveries_by_id.get(&id).copied();
            tables.open.retain(|(.., queued)| Some(*queued) != at);
        });
    }

    pub(crate) fn forget_leases_until(&self, until: Timestamp) {
        let mut database = self.database();
        let rows = database.tenants.values_mut().flat_map(|tables| &mut tables.deliveries);
        for row in rows {
            row.hold.take_if(|hold| hold.until < until);
        }
    }

    pub(crate) fn bring_failed_back(&self, now: Timestamp) {
        let mut database = self.database();
        for tables in database.tenants.values_mut() {
            for at in 0..tables.deliveries.len() {
                let delivery = tables.deliveries[at].delivery.clone();
                if matches!(delivery.state, DeliveryState::Failed { .. }) {
                    let state = DeliveryState::Retrying { next_retry_at: now };
                    tables.put(at, Delivery { state, ..delivery }, now);
                }
            }
        }
    }

    pub(crate) fn cancel_what_waits(&self, now: Timestamp) {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        for tables in database.tenants.values_mut() {
            let open: Vec<_> = tables.open.iter().map(|(.., at)| *at).collect();
            for at in open {
                if tables.deliveries[at].delivery.current_attempt == 1 {
                    tables.cancel(at, "not worth it", now, &watcher);
                }
            }
        }
    }

    pub(crate) fn end_dispatch(&self, schema: &Schema, id: EventId, now: Timestamp) {
        self.tamper(schema, |tables, watcher| tables.end_dispatch(id, now, watcher));
    }

    pub(crate) fn insert_delivery(
        &self,
        schema: &Schema,
        (event_id, new): (EventId, &NewDelivery),
        now: Timestamp,
    ) {
        self.tamper(schema, |tables, watcher| tables.insert_delivery(event_id, new, now, watcher));
    }

    /// The present count of a tenant's catalogue.
    pub(crate) fn catalogue_version(&self, schema: &Schema) -> CatalogueVersion {
        CatalogueVersion(self.tamper(schema, |tables, _| tables.version).unwrap_or_default())
    }

    pub(crate) fn was_changed_since(&self, schema: &Schema, id: EndpointId, at: Timestamp) -> bool {
        let is_changed = |tables: &mut Tables, _: &Watcher| {
            tables.endpoint(id).is_some_and(|row| row.endpoint.updated_at > at)
        };
        self.tamper(schema, is_changed).unwrap_or_default()
    }

    pub(crate) fn event_of_another(&self, schema: &Schema) -> Option<Arc<DomainEvent>> {
        let database = self.database();
        let others = database.tenants.values().filter(|tables| tables.schema() != schema);
        others.flat_map(|tables| &tables.events).last().map(|row| Arc::clone(&row.event))
    }

    /// Claims as the port says, but also of endpoints that are inactive or deleted.
    pub(crate) fn claim_of_any(
        &self,
        quotas: &[EndpointQuota],
        now: Timestamp,
        until: Timestamp,
    ) -> Vec<EndpointClaim> {
        let terms = (self.holder, now, until);
        self.database().claim_deliveries(quotas, terms, |_| true, || false)
    }
}
