//! The work queue: claims, settlements and what ends without an attempt.

use std::sync::Arc;

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    delivery::{AttemptRecord, DeliveryState},
    endpoint::DISABLED_REASON_GONE,
    event::NewEvent,
    id::EndpointId,
    retry::{DUE_AHEAD_MAX, FIRST_DUE_AHEAD_MAX, Progress, Verdict},
    tenant::Schema,
    time::to_micros,
};
use neo_events_store::{
    Appended, Arrival, CatalogueVersion, DeliveryWork, DirectDelivery, DirectDispatch, DispatchClaim,
    Dispatched, DueEndpoint, EndpointClaim, EndpointQuota, HandOver, Lease, NewDelivery, OwedEvent, Settled,
    Settlement, StoreError, Unsettled, WorkQueue,
};

use super::{
    Holder, MemoryStore,
    deliveries::{brought_back, is_ending},
    tables::{Database, EndpointRow, Hold, Tables, is_live},
};
use crate::effect::{Effect, Grant, Watcher};

#[async_trait]
impl WorkQueue for MemoryStore {
    async fn dispatch_hinted(&self) {
        self.hints.to_dispatch.notified().await;
    }

    async fn deliveries_hinted(&self) {
        self.hints.to_deliver.notified().await;
    }

    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError> {
        Ok(self.claim_some_dispatches((now, lease_until), limit, |_| false))
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        let written = self.database().settle_dispatches(&dispatched, to_micros(now));
        self.hint(|hints| &hints.to_deliver);
        Ok(written)
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        let tables = database.of(schema)?;
        let appended = tables.append(&event, now, &watcher);
        if let Appended::Stored { .. } = appended {
            tables.write_delivery(event.id, &delivery, to_micros(now), &watcher);
            tables.end_dispatch(event.id, to_micros(now), &watcher);
        }
        Ok(appended)
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        let (appended, handed_over) =
            self.database().append_arrivals(schema, arrivals, (self.holder, now))?;
        self.hint(|hints| &hints.to_dispatch);
        self.hint(|hints| &hints.to_deliver);
        for (hand_over, leases) in handed_over {
            hand_over(leases);
        }
        // The answer comes later than the effect, as from any database.
        tokio::task::yield_now().await;
        Ok(appended)
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        Ok(self.database().tenants.values().flat_map(|tables| tables.due_endpoints(now)).collect())
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        Ok(self.claim_some_deliveries((now, lease_until), quotas, || false))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        Ok(self.database().settle(settlement))
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        let DeliveryWork { schema, delivery_id, .. } = lease.work();
        let tables = match database.of(schema) {
            Ok(tables) => tables,
            Err(error) => return Err(Unsettled { work: lease, error }),
        };
        let Some(at) = tables.deliveries_by_id.get(delivery_id).copied() else { return Ok(()) };
        let ended = tables.deliveries[at].hold.take_if(|hold| hold.token == lease.token());
        if let Some(ended) = ended {
            watcher.tell(schema, Effect::Freed(ended.token));
        }
        Ok(())
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        for lease in leases {
            let OwedEvent { schema, event } = lease.work();
            let row = database.of(schema)?.owed(event.id);
            let ended = row.and_then(|row| row.hold.take_if(|hold| hold.token == lease.token()));
            if let Some(ended) = ended {
                watcher.tell(schema, Effect::Freed(ended.token));
            }
        }
        Ok(())
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        for tables in database.tenants.values_mut() {
            tables.tend(to_micros(now), &watcher);
        }
        Ok(false)
    }
}

impl MemoryStore {
    /// Claims dispatches, but for the rows that it is told to pass over: of tenants that cannot be read, or that somebody
    /// else is at.
    pub(crate) fn claim_some_dispatches(
        &self,
        (now, until): (Timestamp, Timestamp),
        limit: u32,
        is_passed_over: impl FnMut(&Schema) -> bool,
    ) -> Vec<DispatchClaim> {
        self.database().claim_dispatches(limit, (self.holder, now, until), is_passed_over)
    }

    /// Claims deliveries, but for the rows that it is told to pass over. Nothing is said of when they are due.
    pub(crate) fn claim_some_deliveries(
        &self,
        (now, until): (Timestamp, Timestamp),
        quotas: &[EndpointQuota],
        is_passed_over: impl FnMut() -> bool,
    ) -> Vec<EndpointClaim> {
        let terms = (self.holder, now, until);
        self.database().claim_deliveries(quotas, terms, may_be_claimed, is_passed_over)
    }

    /// What was performed and could not be recorded stays with its holder until it gives it back, if that holds it still.
    pub(crate) fn keep_without_expiry(&self, lease: &Lease<DeliveryWork>) {
        let mut database = self.database();
        let DeliveryWork { schema, delivery_id, .. } = lease.work();
        let Ok(tables) = database.of(schema) else { return };
        let Some(at) = tables.deliveries_by_id.get(delivery_id).copied() else { return };
        if let Some(hold) = tables.deliveries[at].hold.as_mut().filter(|hold| hold.token == lease.token()) {
            hold.until = Timestamp::MAX;
        }
    }
}

/// Who claims, when by its clock, and until when.
type Terms = (Holder, Timestamp, Timestamp);

/// Leases, and who takes them once they are granted.
type HandedOver = Vec<(HandOver, Vec<Lease<DeliveryWork>>)>;

impl Database {
    fn claim_dispatches(
        &mut self,
        limit: u32,
        (holder, now, until): Terms,
        mut is_passed_over: impl FnMut(&Schema) -> bool,
    ) -> Vec<DispatchClaim> {
        let (mut claims, mut room) = (Vec::new(), limit as usize);
        let mut tenants = std::mem::take(&mut self.tenants);
        for (schema, tables) in &mut tenants {
            let mut owed = Vec::new();
            for row in &mut tables.events {
                let is_owed = row.processed_at.is_none() && !is_live(row.hold, now);
                if room == 0 || !is_owed || is_passed_over(schema) {
                    continue;
                }
                room -= 1;
                let token = self.token();
                row.hold = Some(Hold { holder, token, until });
                let grant = Grant { holder, token, now, until };
                self.watcher.tell(schema, Effect::DispatchClaimed(row.event.id, grant));
                let work = OwedEvent { schema: schema.clone(), event: Arc::clone(&row.event) };
                owed.push(Lease::grant(0, token, until, work));
            }
            if !owed.is_empty() {
                let catalogue_version = CatalogueVersion(tables.version);
                claims.push(DispatchClaim { schema: schema.clone(), catalogue_version, owed });
            }
        }
        self.tenants = tenants;
        claims
    }

    fn append_arrivals(
        &mut self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        (holder, now): (Holder, Timestamp),
    ) -> Result<(Vec<Appended>, HandedOver), StoreError> {
        let watcher = self.watcher.clone();
        let (mut answers, mut handed_over) = (Vec::new(), Vec::new());
        for Arrival { event, dispatch } in arrivals {
            let tables = self.of(schema)?;
            let appended = tables.append(&event, now, &watcher);
            let is_stored = matches!(appended, Appended::Stored { .. });
            answers.push(appended);
            let is_current = |dispatch: &DirectDispatch| dispatch.catalogue_version.0 == tables.version;
            let Some(dispatch) = dispatch.filter(|dispatch| is_stored && is_current(dispatch)) else {
                continue;
            };
            let mut leases = Vec::new();
            for DirectDelivery { delivery, is_taken } in &dispatch.deliveries {
                let token = self.token();
                let grant = Grant { holder, token, now, until: dispatch.lease_until };
                let tables = self.of(schema)?;
                let is_written = tables.write_delivery(event.id, delivery, to_micros(now), &watcher);
                if is_written && *is_taken {
                    let at = tables.deliveries.len() - 1;
                    tables.hold(at, grant, &watcher);
                    leases.push(Lease::grant(0, token, grant.until, tables.work(at)));
                }
            }
            self.of(schema)?.end_dispatch(event.id, to_micros(now), &watcher);
            handed_over.push((dispatch.hand_over, leases));
        }
        Ok((answers, handed_over))
    }

    fn settle_dispatches(&mut self, dispatched: &[Dispatched], now: Timestamp) -> u64 {
        let watcher = self.watcher.clone();
        let mut written = 0;
        for Dispatched { lease, deliveries } in dispatched {
            let OwedEvent { schema, event } = lease.work();
            let Ok(tables) = self.of(schema) else { continue };
            let held = tables.owed(event.id).and_then(|row| row.hold);
            if held.is_none_or(|hold| hold.token != lease.token()) {
                continue;
            }
            for delivery in deliveries {
                written += u64::from(tables.write_delivery(event.id, delivery, now, &watcher));
            }
            tables.end_dispatch(event.id, now, &watcher);
        }
        written
    }

    pub(super) fn claim_deliveries(
        &mut self,
        quotas: &[EndpointQuota],
        (holder, now, until): Terms,
        may_be_claimed: impl Fn(&EndpointRow) -> bool,
        mut is_passed_over: impl FnMut() -> bool,
    ) -> Vec<EndpointClaim> {
        let watcher = self.watcher.clone();
        let mut claims = Vec::new();
        for quota in quotas {
            let tables = self.of(&quota.schema).ok();
            let row = tables.and_then(|tables| tables.endpoints.get(&quota.endpoint_id));
            let Some(row) = row.filter(|row| may_be_claimed(row)) else { continue };
            let mut claim = EndpointClaim {
                schema: quota.schema.clone(),
                endpoint: Arc::new(row.endpoint.clone()),
                work: Vec::new(),
                next_due_at: None,
            };
            let tables = self.of(&quota.schema);
            let free = tables.map(|tables| tables.free(quota.endpoint_id, now)).unwrap_or_default();
            for (due_at, at) in free {
                if is_passed_over() {
                    continue;
                }
                if due_at > now || claim.work.len() >= quota.max as usize {
                    claim.next_due_at = Some(due_at);
                    break;
                }
                let token = self.token();
                let Ok(tables) = self.of(&quota.schema) else { continue };
                tables.hold(at, Grant { holder, token, now, until }, &watcher);
                claim.work.push(Lease::grant(0, token, until, tables.work(at)));
            }
            claims.push(claim);
        }
        claims
    }

    fn settle(&mut self, Settlement { lease, attempt, verdict }: Settlement) -> Settled {
        let watcher = self.watcher.clone();
        let DeliveryWork { schema, delivery_id, .. } = lease.work();
        let Ok(tables) = self.of(schema) else { return Settled::LeaseLost };
        let Some(at) = tables.deliveries_by_id.get(delivery_id).copied() else { return Settled::LeaseLost };
        let row = &tables.deliveries[at];
        let is_held = row.hold.is_some_and(|hold| hold.token == lease.token());
        if !is_held || row.delivery.current_attempt + 1 != attempt.attempt_number {
            return Settled::LeaseLost;
        }
        let state = as_stored(DeliveryState::after(verdict, row.delivery.cancel_requested.clone()));
        let endpoint_id = row.delivery.webhook_endpoint_id;
        let made = (attempt.attempt_number, attempt.request_id);
        if verdict == Verdict::Gone {
            tables.disable_gone(endpoint_id, &attempt, &watcher);
        }
        tables.record(at, attempt, &state);
        tables.tell_recorded(*delivery_id, lease.token(), made, (state.clone(), &watcher));
        Settled::Recorded(state)
    }
}

impl Tables {
    fn due_endpoints(&self, now: Timestamp) -> Vec<DueEndpoint> {
        let mut due: Vec<DueEndpoint> = Vec::new();
        for (endpoint_id, due_at, at) in &self.open {
            let row = &self.deliveries[*at];
            let is_known = due.last().is_some_and(|last| last.endpoint_id == *endpoint_id);
            let is_active = self.endpoint(*endpoint_id).is_some_and(|row| row.endpoint.is_active);
            if !is_known && is_active && !is_ending(&row.delivery) && !is_live(row.hold, now) {
                due.push(DueEndpoint {
                    schema: self.schema().clone(),
                    endpoint_id: *endpoint_id,
                    due_at: *due_at,
                });
            }
        }
        due
    }

    /// What an endpoint is owed and nobody holds, due first.
    fn free(&self, endpoint_id: EndpointId, now: Timestamp) -> Vec<(Timestamp, usize)> {
        let of_it =
            self.open.range((endpoint_id, Timestamp::MIN, 0)..=(endpoint_id, Timestamp::MAX, usize::MAX));
        let is_free = |at: usize| {
            let row = &self.deliveries[at];
            !is_ending(&row.delivery) && !is_live(row.hold, now)
        };
        of_it.filter(|(.., at)| is_free(*at)).map(|(_, due_at, at)| (*due_at, *at)).collect()
    }

    fn work(&self, at: usize) -> DeliveryWork {
        let row = &self.deliveries[at];
        DeliveryWork {
            schema: self.schema().clone(),
            delivery_id: row.delivery.id,
            endpoint_id: row.delivery.webhook_endpoint_id,
            event: Arc::clone(&self.events[row.event].event),
            progress: Progress {
                attempt: row.delivery.current_attempt + 1,
                max_attempts: row.delivery.max_attempts,
            },
            retry: row.delivery.retry,
        }
    }

    /// The receiver asked for no more, unless the endpoint was moved or activated since.
    fn disable_gone(&mut self, id: EndpointId, attempt: &AttemptRecord, watcher: &Watcher) {
        let Some(row) = self.endpoint(id).filter(|row| row.endpoint.is_active) else { return };
        let asked = row.revisions.iter().find(|known| known.revision == attempt.endpoint_revision);
        let is_same = asked.is_some_and(|asked| asked.endpoint_url == row.endpoint.endpoint_url);
        let mut since = row.revisions.iter().filter(|known| known.revision > attempt.endpoint_revision);
        if is_same && since.all(|known| known.is_active) {
            let disabled = row.endpoint.clone().disabled(DISABLED_REASON_GONE, attempt.completed_at);
            self.set_endpoint(&disabled, watcher);
        }
    }

    fn tend(&mut self, now: Timestamp, watcher: &Watcher) {
        let late = now.saturating_add(DUE_AHEAD_MAX).unwrap_or(Timestamp::MAX);
        let at_once = now.saturating_add(FIRST_DUE_AHEAD_MAX).unwrap_or(Timestamp::MAX);
        let open: Vec<_> = self.open.iter().map(|(.., at)| *at).collect();
        for at in open {
            let row = &self.deliveries[at];
            if let Some(reason) = row.delivery.cancel_requested.clone() {
                if !is_live(row.hold, now) {
                    self.cancel(at, &reason, now, watcher);
                }
            } else if row.due_at > late
                || (row.due_at > at_once && row.delivery.state == DeliveryState::Pending)
            {
                self.move_to(at, brought_back(&row.delivery, now), now, watcher);
            }
        }
    }
}

fn may_be_claimed(row: &EndpointRow) -> bool {
    row.endpoint.is_active && !row.is_deleted
}

/// A time as it is kept, to the microsecond.
fn as_stored(state: DeliveryState) -> DeliveryState {
    match state {
        DeliveryState::Retrying { next_retry_at } => {
            DeliveryState::Retrying { next_retry_at: to_micros(next_retry_at) }
        }
        other => other,
    }
}
