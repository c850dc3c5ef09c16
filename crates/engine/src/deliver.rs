//! The deliver pass: due deliveries are claimed, performed, judged and settled.
//!
//! ```text
//! let attempt = webhook.perform(&work).await;      // effect: never fails, every failure is an outcome
//! let verdict = judge(&attempt.outcome, …);         // decision: pure
//! store.settle(lease, attempt, verdict).await       // record: consumes the lease, fenced by its token
//! ```
//!
//! Claimed is only what there is room for ([`crate::admission`]). A node that dies in the middle has recorded nothing:
//! its leases end, and the deliveries are made again with the same `webhook-id`.

use std::{sync::Arc, time::Duration};

use neo_events_domain::{
    Timestamp,
    delivery::{AttemptRecord, DeliveryState},
    endpoint::Endpoint,
    retry::{Outcome, judge},
    tenant::Schema,
};
use neo_events_store::{
    DELIVERY_LEASE, DeliveryWork, EndpointClaim, EndpointQuota, Lease, Settled, Settlement, Store,
    StoreError, Unsettled,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Sources,
    admission::{Admission, Bearing, Key},
    dispatch::later,
    usage::UsageLog,
    webhook::Webhook,
};

/// How often the store is asked who is due, whatever the hints say.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Least time between two claims while deliveries are in flight, so that a claim brings more than one.
const CLAIM_PACE: Duration = Duration::from_millis(1);
/// How long to wait after the database failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// An answer that takes longer makes its endpoint a slow one.
const SLOW: Duration = Duration::from_secs(1);

/// What the pass works with.
pub(crate) struct Deliverer {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sources: Sources,
    pub(crate) admission: Arc<Admission>,
    pub(crate) usage: Arc<UsageLog>,
    pub(crate) webhook: Webhook,
}

impl Deliverer {
    /// Runs passes until `stop`, then lets what is in flight end until `abort`, and gives the rest back.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken, abort: CancellationToken) {
        let mut in_flight = JoinSet::new();
        let mut swept_at: Option<Instant> = None;
        while !stop.is_cancelled() {
            let passed = async {
                if swept_at.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL) {
                    self.sweep().await?;
                    swept_at = Some(Instant::now());
                }
                self.pass(&mut in_flight, &abort).await
            };
            if let Err(error) = passed.await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "claiming deliveries failed; trying again"
                );
                let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await;
            }
            let pace = if in_flight.is_empty() { Duration::ZERO } else { CLAIM_PACE };
            let _ = stop.run_until_cancelled(self.wait(pace)).await;
            while in_flight.try_join_next().is_some() {}
        }
        while in_flight.join_next().await.is_some() {}
    }

    /// Asks the store who is due: the truth behind the hints.
    async fn sweep(&self) -> Result<(), StoreError> {
        for due in self.store.due_endpoints(self.sources.now()).await? {
            self.admission.owe((due.schema, due.endpoint_id), due.due_at);
        }
        Ok(())
    }

    /// Claims what there is room for and sets it going.
    async fn pass(
        self: &Arc<Self>,
        in_flight: &mut JoinSet<()>,
        abort: &CancellationToken,
    ) -> Result<(), StoreError> {
        let now = self.sources.now();
        let quotas = self.admission.reserve(now);
        if quotas.is_empty() {
            return Ok(());
        }
        let claims = match self.store.claim_deliveries(now, &quotas, later(now, DELIVERY_LEASE)).await {
            Ok(claims) => claims,
            Err(error) => {
                for EndpointQuota { schema, endpoint_id, max } in quotas {
                    self.admission.claimed(&(schema, endpoint_id), max, 0, Some(now));
                }
                return Err(error);
            }
        };
        for quota in quotas {
            let claim =
                claims.iter().find(|c| c.endpoint.id == quota.endpoint_id && c.schema == quota.schema);
            let (claimed, next_due_at) =
                claim.map_or((0, None), |claim| (claim.work.len(), claim.next_due_at));
            let claimed = u32::try_from(claimed).unwrap_or(quota.max);
            self.admission.claimed(&(quota.schema, quota.endpoint_id), quota.max, claimed, next_due_at);
        }
        for EndpointClaim { schema, endpoint, work, .. } in claims {
            for lease in work {
                let (deliverer, schema, endpoint) = (Arc::clone(self), schema.clone(), Arc::clone(&endpoint));
                let abort = abort.clone();
                in_flight.spawn(async move { deliverer.deliver(&schema, &endpoint, lease, &abort).await });
            }
        }
        Ok(())
    }

    /// Until something is due, a hint comes or it is time to sweep; at least `pace`.
    async fn wait(&self, pace: Duration) {
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
        let now = self.sources.now();
        let until_due = self.admission.next_due_at(now).map(|at| at.duration_since(now));
        let until_due = until_due.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or(SWEEP_INTERVAL);
        let _ = tokio::time::timeout(until_due.min(SWEEP_INTERVAL), self.admission.changed()).await;
    }

    /// One delivery: effect, decision, record.
    async fn deliver(
        &self,
        schema: &Schema,
        endpoint: &Endpoint,
        lease: Lease<DeliveryWork>,
        abort: &CancellationToken,
    ) {
        let key: Key = (schema.clone(), endpoint.id);
        let mut place = self.admission.place(&key);
        let performed = abort.run_until_cancelled(self.webhook.perform(schema, endpoint, lease.work())).await;
        let Some(attempt) = performed else {
            return self.give_back(lease).await;
        };
        let DeliveryWork { progress, retry, .. } = *lease.work();
        let verdict = judge(&attempt.outcome, progress, &retry, self.sources.now(), self.sources.jitter());
        place.bearing = bearing(&attempt);
        self.usage.endpoint_used(schema, endpoint.id, attempt.attempted_at);
        place.retry_at = self.settle(Settlement { lease, attempt, verdict }, abort).await;
    }

    /// Records until it is recorded: the attempt was made, and forgetting it would make it again. Answers when the
    /// next one is due.
    async fn settle(&self, mut settlement: Settlement, abort: &CancellationToken) -> Option<Timestamp> {
        loop {
            match self.store.settle(settlement).await {
                Ok(Settled::Recorded(DeliveryState::Retrying { next_retry_at })) => {
                    return Some(next_retry_at);
                }
                Ok(Settled::Recorded(_)) => return None,
                Ok(Settled::LeaseLost) => {
                    tracing::warn!("an attempt ended after its lease; another one counts");
                    return None;
                }
                Err(Unsettled { work, error }) if abort.is_cancelled() => {
                    tracing::error!(%error, delivery_id = %work.lease.work().delivery_id, "an attempt was not recorded");
                    return None;
                }
                Err(Unsettled { work, error }) => {
                    tracing::warn!(%error, "an attempt could not be recorded; trying again");
                    settlement = work;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn give_back(&self, lease: Lease<DeliveryWork>) {
        let delivery_id = lease.work().delivery_id;
        tracing::info!(%delivery_id, "the attempt was cut off by shutting down; it will be made again");
        if let Err(error) = self.store.release(lease).await {
            tracing::warn!(%error, %delivery_id, "a lease was not given back; it will expire");
        }
    }
}

fn bearing(attempt: &AttemptRecord) -> Bearing {
    let answered_well = match attempt.outcome {
        Outcome::Answered { status, .. } => !matches!(status, 408 | 429 | 500..=599),
        Outcome::Failed(_) => false,
    };
    if answered_well && attempt.response_time < SLOW { Bearing::Well } else { Bearing::Badly }
}
