//! The outermost layer: nothing passes for a node that died, and the judge is told what the engine wants recorded.

use async_trait::async_trait;
use neo_events_domain::{Timestamp, event::NewEvent, tenant::Schema};
use neo_events_engine::Sources;
use neo_events_store::{
    Appended, Arrival, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim, EndpointQuota,
    Lease, NewDelivery, OwedEvent, Settled, Settlement, StoreError, Unsettled, WorkQueue,
};

use super::{Queue, turnstile::Turnstile};
use crate::{judge::Judge, life::Life};

/// The decorator.
pub(super) struct Gate {
    pub(super) inner: Queue,
    pub(super) life: Life,
    pub(super) judge: Judge,
    pub(super) sources: Sources,
    pub(super) turnstile: Turnstile,
}

#[async_trait]
impl WorkQueue for Gate {
    async fn dispatch_hinted(&self) {
        self.inner.dispatch_hinted().await;
    }

    async fn deliveries_hinted(&self) {
        self.inner.deliveries_hinted().await;
    }

    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError> {
        self.life.go_on().await;
        self.inner.claim_dispatches(now, limit, lease_until).await
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        self.life.go_on().await;
        let settled = self.inner.settle_dispatches(dispatched, now).await;
        settled.inspect_err(|Unsettled { work, error }| {
            if let Some(first) = work.first() {
                let schema = &first.lease.work().schema;
                self.judge.cannot_dispatch(self.life.holder, schema, error);
            }
        })
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        self.life.go_on().await;
        self.inner.append_directed(schema, event, delivery, now).await
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        self.life.go_on().await;
        self.inner.append_arrivals(schema, arrivals, now).await
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        self.life.go_on().await;
        self.inner.due_endpoints(now).await
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        self.life.go_on().await;
        let claims = self.inner.claim_deliveries(now, quotas, lease_until).await?;
        self.judge.claimed_for(quotas, &claims);
        Ok(claims)
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        self.life.go_on().await;
        let settling = self.judge.settling(&self.life, &settlement, self.sources.now());
        let settled = self.inner.settle(settlement).await;
        let settled = settled.inspect_err(|failed| self.judge.unsettled(&settling, &failed.error))?;
        self.judge.settled(&settling, &settled);
        Ok(settled)
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        self.turnstile.pass(lease.token()).await;
        self.life.go_on().await;
        self.judge.gives_back(&lease, self.sources.now());
        let token = lease.token();
        let released = self.inner.release(lease).await;
        released.inspect_err(|_| self.judge.is_kept_in_vain(self.life.holder, token))
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        self.life.go_on().await;
        self.inner.release_dispatches(leases).await
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.life.go_on().await;
        self.inner.tend(now).await
    }
}
