//! The work queue: one table of all tenants for each kind of work, claimed by updates in place.

use async_trait::async_trait;
use neo_events_domain::{Timestamp, event::NewEvent, id::EndpointId, tenant::Schema};
use neo_events_store::{
    Appended, Arrival, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim, EndpointQuota,
    Lease, NewDelivery, OwedEvent, Settled, Settlement, StoreError, Unsettled, WorkQueue,
};

use crate::{
    columns::Columns,
    delivery_claims,
    dispatches::{self, ClaimTerms},
    failure::Failure,
    sql,
    store::PostgresStore,
    tenants::TenantTerms,
    tend,
};

#[async_trait]
impl WorkQueue for PostgresStore {
    async fn dispatch_hinted(&self) {
        self.inner.hints.dispatches.wait().await;
    }

    async fn deliveries_hinted(&self) {
        self.inner.hints.deliveries.wait().await;
    }

    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError> {
        self.give_back_lost_dispatches(now).await;
        let terms = ClaimTerms { now, until: lease_until, limit };
        Ok(dispatches::claim(self, terms).await?)
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        let settled = dispatches::settle(self, &dispatched, now).await;
        if let Some(first) = dispatched.first() {
            let written = dispatched.iter().flat_map(|done| &done.deliveries);
            let endpoints = written.map(|delivery| delivery.endpoint_id);
            self.lower_floors(&first.lease.work().schema, endpoints, now);
        }
        if settled.as_ref().is_ok_and(|deliveries| *deliveries > 0) {
            self.inner.hints.deliveries.announce_elsewhere();
        }
        settled.map_err(|failure| Unsettled { work: dispatched, error: failure.into() })
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        let tenant_no = self.tenant_no(schema).await?;
        let terms = TenantTerms { schema, tenant_no, now };
        let Self { inner } = self;
        // A user asks for it, and whoever stands before a lock of the tenant's has a connection.
        let _place = inner.changes.enter(tenant_no).await?;
        let appended = inner.appends.append_directed(&inner.connections, terms, &event, &delivery).await?;
        // A test is due before everything.
        inner.floors.forget((tenant_no, delivery.endpoint_id.uuid()));
        Ok(appended)
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        let tenant_no = self.tenant_no(schema).await?;
        let leases_end = arrivals.iter().filter_map(|arrival| Some(arrival.dispatch.as_ref()?.lease_until));
        if let Some(until) = leases_end.min() {
            self.inner.floors.leased(until);
        }
        let direct = arrivals.iter().filter_map(|arrival| arrival.dispatch.as_ref());
        let left = direct.flat_map(|dispatch| &dispatch.deliveries).filter(|direct| !direct.is_taken);
        let left: Vec<EndpointId> = left.map(|direct| direct.delivery.endpoint_id).collect();
        let answer = self.inner.appends.append(TenantTerms { schema, tenant_no, now }, arrivals).await;
        // Also after a failure: they may have been written all the same.
        self.lower_floors(schema, left, now);
        let answer = answer?;
        if answer.owes_dispatch {
            self.announce();
        }
        Ok(answer.appended)
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        // Else nobody would know of them: what is leased is not due.
        self.give_back_lost_deliveries(now).await;
        let conn = self.inner.connections.work().await?;
        let rows = conn.query(sql::DELIVERY_QUEUE_DUE_ENDPOINTS, &Schema::admin(), &[&now]).await?;
        let nos = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<Vec<i32>, Failure>>()?;
        self.learn_tenants(&conn, &nos).await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut columns = Columns::of(row);
            let no = columns.take()?;
            let (endpoint_id, due_at) = (columns.id()?, columns.time()?);
            let Some(schema) = self.inner.tenants.schema(no) else { continue };
            self.inner.floors.lower((no, endpoint_id.uuid()), due_at);
            due.push(DueEndpoint { schema, endpoint_id, due_at });
        }
        Ok(due)
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        self.give_back_lost_deliveries(now).await;
        Ok(delivery_claims::claim(self, quotas, (now, lease_until)).await?)
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        match self.tenant_no(&settlement.lease.work().schema).await {
            Ok(tenant_no) => self.inner.settlements.settle(tenant_no, settlement).await,
            Err(failure) => Err(Unsettled { work: settlement, error: failure.into() }),
        }
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        match delivery_claims::release(self, &lease).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(Unsettled { work: lease, error: failure.into() }),
        }
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        Ok(dispatches::release(self, leases).await?)
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        Ok(tend::tend(self, now).await?)
    }
}

impl PostgresStore {
    /// Deliveries were written that are due at this time, and may lie before what was claimed meanwhile.
    fn lower_floors(
        &self,
        schema: &Schema,
        endpoints: impl IntoIterator<Item = EndpointId>,
        due_at: Timestamp,
    ) {
        let Some(tenant_no) = self.inner.tenants.no(schema) else { return };
        for endpoint_id in endpoints {
            self.inner.floors.lower((tenant_no, endpoint_id.uuid()), due_at);
        }
    }

    /// If it fails, work goes on: it is tried again in a while.
    async fn give_back_lost_dispatches(&self, now: Timestamp) {
        match self.inner.lost_dispatches.give_back(self, now).await {
            Ok(true) => self.inner.horizon.forget(),
            Ok(false) => {}
            Err(failure) => {
                tracing::warn!(%failure, "dispatches that may be leased in vain were not given back");
            }
        }
    }

    /// The same for deliveries.
    async fn give_back_lost_deliveries(&self, now: Timestamp) {
        match self.inner.lost_deliveries.give_back(self, now).await {
            Ok(true) => self.inner.floors.forget_all(),
            Ok(false) => {}
            Err(failure) => {
                tracing::warn!(%failure, "deliveries that may be leased in vain were not given back");
            }
        }
    }
}
