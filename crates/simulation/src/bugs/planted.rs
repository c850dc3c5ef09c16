//! Mistakes of a store. Where a mistake needs to do to rows what no call of the port does, it reaches into the model.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use neo_events_domain::{
    SignedDuration, Timestamp, endpoint::Endpoint, event::NewEvent, id::EndpointId, retry::Verdict,
    tenant::Schema,
};
use neo_events_store::{
    Appended, Arrival, CatalogueVersion, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim,
    EndpointQuota, Lease, NewDelivery, OwedEvent, Settled, Settlement, StoreError, Unsettled, WorkQueue,
};
use tokio::time::{Instant, sleep};

use super::Bug;
use crate::{
    layers::{Queue, copy_of_dispatched, copy_of_work, regrant},
    memory::MemoryStore,
};

/// How often one that sweeps slowly does.
const SWEEPS_EVERY: Duration = Duration::from_secs(10);

/// A work queue with a mistake.
pub(crate) struct Planted {
    bug: Bug,
    inner: Queue,
    memory: MemoryStore,
    is_woken_to_dispatch: AtomicBool,
    is_woken_to_deliver: AtomicBool,
    swept_at: Mutex<Option<Instant>>,
    /// Each endpoint as it was when it was claimed of first.
    endpoints: Mutex<BTreeMap<EndpointId, Arc<Endpoint>>>,
    /// What each tenant's first claim said of its catalogue.
    catalogues: Mutex<BTreeMap<Schema, CatalogueVersion>>,
}

impl Planted {
    pub(crate) fn new(bug: Bug, inner: Queue, memory: MemoryStore) -> Self {
        let (to_dispatch, to_deliver) = (AtomicBool::new(true), AtomicBool::new(true));
        Self {
            bug,
            inner,
            memory,
            is_woken_to_dispatch: to_dispatch,
            is_woken_to_deliver: to_deliver,
            swept_at: Mutex::default(),
            endpoints: Mutex::default(),
            catalogues: Mutex::default(),
        }
    }

    fn has_just_swept(&self) -> bool {
        let mut swept_at = self.swept_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_soon = swept_at.is_some_and(|at| at.elapsed() < SWEEPS_EVERY);
        if !is_soon {
            *swept_at = Some(Instant::now());
        }
        is_soon
    }

    fn is(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// Whoever has the lease now.
    fn present_token(&self, lease: &Lease<DeliveryWork>) -> u64 {
        let DeliveryWork { schema, delivery_id, .. } = lease.work();
        self.memory.token_on(schema, *delivery_id).unwrap_or(lease.token())
    }

    async fn marked_before_written(&self, dispatched: Vec<Dispatched>, now: Timestamp) -> u64 {
        for Dispatched { lease, .. } in &dispatched {
            let OwedEvent { schema, event } = lease.work();
            self.memory.end_dispatch(schema, event.id, now);
        }
        sleep(Duration::from_millis(5)).await;
        self.write(&dispatched, now)
    }

    fn without_changed(&self, mut dispatched: Dispatched) -> Dispatched {
        let OwedEvent { schema, event } = dispatched.lease.work();
        let is_changed = |id| self.memory.was_changed_since(schema, id, event.created_at);
        dispatched.deliveries.retain(|delivery| !is_changed(delivery.endpoint_id));
        dispatched
    }

    fn write(&self, dispatched: &[Dispatched], now: Timestamp) -> u64 {
        for Dispatched { lease, deliveries } in dispatched {
            let OwedEvent { schema, event } = lease.work();
            for delivery in deliveries {
                self.memory.insert_delivery(schema, (event.id, delivery), now);
            }
        }
        dispatched.iter().map(|dispatched| dispatched.deliveries.len() as u64).sum()
    }

    /// The same work with another tenant's event, if there is one.
    fn with_foreign_event(&self, lease: &Lease<DeliveryWork>) -> Lease<DeliveryWork> {
        let mut work = copy_of_work(lease.work());
        if work.progress.attempt > 1
            && let Some(event) = self.memory.event_of_another(&work.schema)
        {
            work.event = event;
        }
        regrant(lease, work)
    }

    /// The same work with one attempt less.
    fn with_less_patience(lease: &Lease<DeliveryWork>) -> Lease<DeliveryWork> {
        let mut work = copy_of_work(lease.work());
        work.progress.max_attempts = work.progress.max_attempts.saturating_sub(1).max(1);
        regrant(lease, work)
    }

    /// The endpoint, but for what a cache still has of it.
    fn with_what_is_cached(&self, endpoint: &Arc<Endpoint>) -> Endpoint {
        let mut known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let first = known.entry(endpoint.id).or_insert_with(|| Arc::clone(endpoint));
        let endpoint = Endpoint::clone(endpoint);
        match self.bug {
            Bug::StaleSecret => Endpoint { secrets: first.secrets.clone(), ..endpoint },
            _ => Endpoint { endpoint_url: first.endpoint_url.clone(), ..endpoint },
        }
    }

    fn spoilt(&self, mut claim: EndpointClaim) -> EndpointClaim {
        if let Bug::StaleSecret | Bug::StaleTarget = self.bug {
            claim.endpoint = Arc::new(self.with_what_is_cached(&claim.endpoint));
        }
        for lease in &mut claim.work {
            let work = lease.work();
            match self.bug {
                Bug::ClaimWithoutLease => self.memory.forget_lease(&work.schema, work.delivery_id),
                Bug::ForeignEvent => *lease = self.with_foreign_event(lease),
                Bug::GivesUpEarly => *lease = Self::with_less_patience(lease),
                _ => {}
            }
        }
        claim
    }
}

#[async_trait]
impl WorkQueue for Planted {
    async fn dispatch_hinted(&self) {
        self.inner.dispatch_hinted().await;
        self.is_woken_to_dispatch.store(true, Ordering::Relaxed);
    }

    async fn deliveries_hinted(&self) {
        self.inner.deliveries_hinted().await;
        self.is_woken_to_deliver.store(true, Ordering::Relaxed);
    }

    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError> {
        if self.is(Bug::WakeUpAsTruth) && !self.is_woken_to_dispatch.swap(false, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let until = if self.is(Bug::LeaseNeverExpires) { Timestamp::MAX } else { lease_until };
        let mut claims = self.inner.claim_dispatches(now, limit, until).await?;
        if self.is(Bug::StaleCatalogue) {
            for claim in &mut claims {
                let mut known = self.catalogues.lock().unwrap_or_else(PoisonError::into_inner);
                claim.catalogue_version =
                    *known.entry(claim.schema.clone()).or_insert(claim.catalogue_version);
            }
        }
        Ok(claims)
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        if self.is(Bug::MarkedBeforeWritten) {
            return Ok(self.marked_before_written(dispatched, now).await);
        }
        let dispatched = if self.is(Bug::ChangedForgotten) {
            dispatched.into_iter().map(|one| self.without_changed(one)).collect()
        } else {
            dispatched
        };
        let copy: Vec<_> = dispatched.iter().map(copy_of_dispatched).collect();
        let written = self.inner.settle_dispatches(dispatched, now).await?;
        let is_repeated = written == 0 && copy.iter().any(|dispatched| !dispatched.deliveries.is_empty());
        if self.is(Bug::WrittenTwice) && is_repeated {
            return Ok(self.write(&copy, now));
        }
        Ok(written)
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        self.inner.append_directed(schema, event, delivery, now).await
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        let mut arrivals = arrivals;
        let forgotten = match self.bug {
            Bug::AcknowledgedBeforeStored if arrivals.len() > 2 => arrivals.pop(),
            _ => None,
        };
        let version = self.memory.catalogue_version(schema);
        for dispatch in arrivals.iter_mut().filter_map(|arrival| arrival.dispatch.as_mut()) {
            match self.bug {
                Bug::CatalogueNotCompared => dispatch.catalogue_version = version,
                Bug::HandOverForgotten => dispatch.hand_over = Box::new(|_| {}),
                _ => {}
            }
        }
        let mut appended = self.inner.append_arrivals(schema, arrivals, now).await?;
        appended.extend(forgotten.map(|_| Appended::Stored { created_at: now, aggregate_version: 1 }));
        Ok(appended)
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        if self.is(Bug::WakeUpAsTruth) && !self.is_woken_to_deliver.swap(false, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        if self.is(Bug::SlowSweep) && self.has_just_swept() {
            return Ok(Vec::new());
        }
        self.inner.due_endpoints(now).await
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        let until = if self.is(Bug::LeaseNeverExpires) { Timestamp::MAX } else { lease_until };
        if self.is(Bug::InactiveClaimed) {
            return Ok(self.memory.claim_of_any(quotas, now, until));
        }
        let mut quotas = quotas.to_vec();
        if self.is(Bug::QuotaIgnored) {
            for quota in &mut quotas {
                quota.max = 1000;
            }
        }
        let claims = self.inner.claim_deliveries(now, &quotas, until).await?;
        if self.is(Bug::ClaimPanics) {
            assert_eq!(claims.len(), quotas.len(), "a claim that panics");
        }
        Ok(claims.into_iter().map(|claim| self.spoilt(claim)).collect())
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        let DeliveryWork { schema, delivery_id, .. } = settlement.lease.work();
        let (schema, id) = (schema.clone(), *delivery_id);
        let token = settlement.lease.token();
        let settlement = match (self.bug, settlement.verdict) {
            (Bug::SettleWithoutFence, _) => {
                let present = self.present_token(&settlement.lease);
                with_token(settlement, present)
            }
            (Bug::ExpiryAsLoss, _) if settlement.lease.expires_at() <= settlement.attempt.completed_at => {
                return Ok(Settled::LeaseLost);
            }
            (Bug::SuccessAsRetrying, Verdict::Succeeded) => {
                let at = settlement.attempt.completed_at + SignedDuration::from_secs(1);
                Settlement { verdict: Verdict::Retry(at), ..settlement }
            }
            (Bug::CancellationForgotten, _) => {
                self.memory.forget_cancellation(&schema, id);
                settlement
            }
            _ => settlement,
        };
        let settled = self.inner.settle(settlement).await;
        let with_its_own = |Unsettled { work, error }| Unsettled { work: with_token(work, token), error };
        let settled = settled.map_err(with_its_own)?;
        match self.bug {
            Bug::RetryWithoutIncrement => self.memory.take_back_attempt(&schema, id),
            Bug::RetryAtOnce => self.memory.queue_at_once(&schema, id),
            Bug::RetryLate => self.memory.queue_late(&schema, id, SignedDuration::from_secs(3)),
            _ => {}
        }
        Ok(settled)
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        if self.is(Bug::ReleaseForgotten) {
            return Ok(());
        }
        if self.is(Bug::ReleaseDropsTheRow) {
            let DeliveryWork { schema, delivery_id, .. } = lease.work();
            self.memory.drop_from_queue(schema, *delivery_id);
        }
        self.inner.release(lease).await
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        self.inner.release_dispatches(leases).await
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        if self.is(Bug::ImpatientTending) {
            self.memory.forget_leases_until(now + SignedDuration::from_secs(359));
        }
        match self.bug {
            Bug::FailedBroughtBack => self.memory.bring_failed_back(now),
            Bug::CancelledUnasked => self.memory.cancel_what_waits(now),
            _ => {}
        }
        self.inner.tend(now).await
    }
}

fn with_token(Settlement { lease, attempt, verdict }: Settlement, token: u64) -> Settlement {
    let lease = Lease::grant(lease.key(), token, lease.expires_at(), copy_of_work(lease.work()));
    Settlement { lease, attempt, verdict }
}
