//! The deliver pass: due deliveries are claimed, performed, judged and settled.
//!
//! ```text
//! let attempt = webhook.perform(…).await;           // effect: never fails, every failure is an outcome
//! let verdict = judge(&attempt.outcome, …);         // decision: pure
//! store.settle(lease, attempt, verdict).await       // record: consumes the lease, fenced by its token
//! ```
//!
//! Beside what it claims there is what publishing has leased to this node already ([`crate::direct`]).
//!
//! Claimed is only what there is room for ([`crate::admission`]). A node that dies in the middle has recorded nothing:
//! its leases end, and the deliveries are made again with the same `webhook-id`.

mod complaints;
mod sweeps;

use std::{collections::HashMap, error::Error, pin::pin, sync::Arc, time::Duration};

use neo_events_domain::{
    Timestamp,
    delivery::{AttemptRecord, DeliveryState},
    endpoint::Endpoint,
    retry::{Outcome, Verdict, judge},
    time::later,
};
use neo_events_store::{
    DELIVERY_LEASE, DeliveryWork, EndpointClaim, Lease, Settled, Settlement, Store, StoreError, Unsettled,
};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::{
    Sources,
    admission::{Admission, AttemptHealth, Claimed, Key, Place, Turn},
    direct::Taken,
    stop::StopSignals,
    usage::UsageLog,
    watched::WatchedDeliveries,
    webhook::Webhook,
};

pub(crate) use complaints::Complaints;
use sweeps::Sweeps;

/// Least time between two claims that brought something, so that under load each brings more than one.
const CLAIM_PACE: Duration = Duration::from_millis(1);
/// What is due by the clock is looked for at least so often: it may be set.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// How many that were taken begin together.
const TAKEN_MAX: usize = 64;
/// How long to wait after the database failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// A delivery that was queued for this long is put back. It is less than the silence after which a session's leases are
/// given to others.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(2);
/// An answer that takes longer makes its endpoint a slow one.
const SLOW: Duration = Duration::from_secs(1);

/// What the pass works with.
pub(crate) struct Deliverer {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sources: Sources,
    pub(crate) admission: Arc<Admission>,
    pub(crate) usage: Arc<UsageLog>,
    pub(crate) watched: Arc<WatchedDeliveries>,
    pub(crate) webhook: Webhook,
    pub(crate) complaints: Complaints,
}

/// Whether a pass found anything to do.
enum Passed {
    Idle,
    Worked,
}

impl Deliverer {
    /// Runs until the stop, then lets what is in flight end until it is cut off, and gives the rest back.
    pub(crate) async fn run(self: Arc<Self>, taken: &mut UnboundedReceiver<Taken>, signals: StopSignals) {
        tokio::join!(self.run_sweeps(&signals), self.run_claimed(&signals), self.run_taken(taken, &signals));
    }

    /// What was leased to this node as it was written.
    async fn run_taken(self: &Arc<Self>, taken: &mut UnboundedReceiver<Taken>, signals: &StopSignals) {
        let (mut in_flight, mut batch) = (JoinSet::new(), Vec::new());
        while signals
            .stop
            .run_until_cancelled(taken.recv_many(&mut batch, TAKEN_MAX))
            .await
            .is_some_and(|n| n > 0)
        {
            for taken in batch.drain(..) {
                self.begin(taken, &mut in_flight, signals);
            }
            while let Some(ended) = in_flight.try_join_next() {
                log_panic(ended);
            }
        }
        taken.close();
        while let Some(Taken { lease, .. }) = taken.recv().await {
            let (deliverer, signals) = (Arc::clone(self), signals.clone());
            in_flight.spawn(async move { deliverer.give_back(lease, &signals).await });
        }
        while in_flight.join_next().await.is_some() {}
    }

    /// Asks the store who is due, time and again, and soon after another node says that there may be something. Passes do
    /// not wait for it.
    async fn run_sweeps(&self, signals: &StopSignals) {
        let mut sweeps = Sweeps::starting(Instant::now());
        let sweeping = async {
            loop {
                if sweeps.are_due(Instant::now()) {
                    self.sweep(&mut sweeps).await;
                }
                tokio::select! {
                    // In this order, and not one of those that are ready by chance: so a simulation replays exactly.
                    biased;
                    () = self.store.deliveries_hinted() => sweeps.hinted(),
                    () = tokio::time::sleep_until(sweeps.next_at()) => {}
                }
            }
        };
        let _ = signals.stop.run_until_cancelled(sweeping).await;
    }

    /// Passes over what is due.
    async fn run_claimed(self: &Arc<Self>, signals: &StopSignals) {
        let stop = &signals.stop;
        let mut in_flight = JoinSet::new();
        let mut listened_at = Instant::now();
        while !stop.is_cancelled() {
            if listened_at.elapsed() >= SLOW {
                self.admission.notice_silence();
                listened_at = Instant::now();
            }
            let pause = match self.pass(&mut in_flight, signals).await {
                Ok(Passed::Idle) => Duration::ZERO,
                Ok(Passed::Worked) => CLAIM_PACE,
                Err(error) => {
                    tracing::error!(error = &error as &dyn Error, "claiming failed; trying again");
                    RETRY_INTERVAL
                }
            };
            let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            let _ = stop.run_until_cancelled(self.wait()).await;
            while let Some(ended) = in_flight.try_join_next() {
                log_panic(ended);
            }
        }
        while in_flight.join_next().await.is_some() {}
    }

    /// Asks the store who is due: the truth behind the hints. If it cannot say, what is known already is delivered all
    /// the same.
    async fn sweep(&self, sweeps: &mut Sweeps) {
        let began = Instant::now();
        let answer = self.store.due_endpoints(self.sources.now()).await;
        sweeps.ended(began, Instant::now(), answer.is_ok());
        match answer {
            Ok(due) => {
                for due in due {
                    self.admission.owe((due.schema, due.endpoint_id), due.due_at);
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "who is due is not known; trying again");
            }
        }
    }

    /// Claims what there is room for and sets it going.
    async fn pass(
        self: &Arc<Self>,
        in_flight: &mut JoinSet<()>,
        signals: &StopSignals,
    ) -> Result<Passed, StoreError> {
        let now = self.sources.now();
        let mut reservation = self.admission.reserve(now);
        if reservation.quotas().is_empty() {
            return Ok(Passed::Idle);
        }
        let claims =
            self.store.claim_deliveries(now, reservation.quotas(), later(now, DELIVERY_LEASE)).await?;
        let claimed: HashMap<Key, Claimed> =
            claims.iter().map(|claim| (key_of(claim), counted(claim))).collect();
        reservation.end(|key| claimed.get(key).copied().unwrap_or_default());
        for claim in claims {
            let key = key_of(&claim);
            for lease in claim.work {
                let place = Arc::clone(&self.admission).place(key.clone());
                let endpoint = Arc::clone(&claim.endpoint);
                self.begin(Taken { place, endpoint, lease }, in_flight, signals);
            }
        }
        Ok(Passed::Worked)
    }

    /// Sets a delivery going, wherever it was leased.
    fn begin(self: &Arc<Self>, taken: Taken, in_flight: &mut JoinSet<()>, signals: &StopSignals) {
        let (deliverer, signals) = (Arc::clone(self), signals.clone());
        in_flight.spawn(Box::pin(async move {
            let Taken { place, endpoint, lease } = taken;
            deliverer.deliver(place, &endpoint, lease, &signals).await;
        }));
    }

    /// Until something is due and there is room for it, as far as admission knows.
    async fn wait(&self) {
        let now = self.sources.now();
        let until_due = self.admission.next_claim_at(now).map(|at| at.duration_since(now));
        let until_due = until_due.map_or(WAIT_MAX, |wait| Duration::try_from(wait).unwrap_or_default());
        tokio::select! {
            // In this order, as above.
            biased;
            () = self.admission.changed() => {}
            () = tokio::time::sleep(until_due.min(WAIT_MAX)) => {}
        }
    }

    /// One delivery: effect, decision, record. First it waits for its turn at the endpoint.
    async fn deliver(
        &self,
        mut place: Place,
        endpoint: &Endpoint,
        lease: Lease<DeliveryWork>,
        signals: &StopSignals,
    ) {
        let queued_since = Instant::now();
        let turn = signals.stop.run_until_cancelled(place.turn(lease.work().delivery_id)).await;
        if turn != Some(Turn::Come) || queued_since.elapsed() > QUEUE_WAIT_MAX {
            place.decline_turn();
            return self.put_back(place, lease, signals).await;
        }
        let performed = {
            let attempt = pin!(self.webhook.perform(endpoint, lease.work()));
            signals.abort.run_until_cancelled(attempt).await
        };
        let Some(attempt) = performed else {
            return self.give_back(lease, signals).await;
        };
        let DeliveryWork { delivery_id, progress, retry, .. } = *lease.work();
        let verdict = judge(&attempt.outcome, progress, &retry, self.sources.now(), self.sources.jitter());
        if verdict == Verdict::Gone {
            let (schema, endpoint_id) = (place.schema(), endpoint.id);
            tracing::warn!(%schema, %endpoint_id, "the receiver answered 410 Gone: its endpoint is deactivated");
            place.return_queued();
        }
        place.answered(health_of(&attempt));
        self.usage.endpoint_used(place.schema(), endpoint.id, attempt.attempted_at);
        place.retry_at = self.settle(Settlement { lease, attempt, verdict }, signals).await;
        self.watched.tell(delivery_id);
    }

    /// What was in hand and is not attempted: it waits in the database, where others find it too.
    async fn put_back(&self, place: Place, lease: Lease<DeliveryWork>, signals: &StopSignals) {
        let key = (place.schema().clone(), place.endpoint_id());
        self.give_back(lease, signals).await;
        // Free before it is owed, or it would stand in its own way.
        drop(place);
        self.admission.owe(key, self.sources.now());
    }

    /// Records until it is recorded: the attempt was made, and forgetting it would make it again. Answers when the
    /// next one is due.
    async fn settle(&self, mut settlement: Settlement, signals: &StopSignals) -> Option<Timestamp> {
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
                Err(Unsettled { work, error })
                    if signals.abort.is_cancelled() || self.is_hopeless(&work.lease, &error) =>
                {
                    let DeliveryWork { delivery_id, schema, .. } = work.lease.work();
                    tracing::error!(
                        error = &error as &dyn Error,
                        %schema,
                        %delivery_id,
                        "an attempt was not recorded"
                    );
                    // A store may keep it from others while its holder tries to settle it (SQLite does), so it is told
                    // that nobody tries any more. As it closes it gives all back.
                    if !signals.abort.is_cancelled() {
                        self.give_back(work.lease, signals).await;
                    }
                    return None;
                }
                Err(Unsettled { work, error }) => {
                    let schema = &work.lease.work().schema;
                    if self.complaints.may_be_said(schema, Instant::now()) {
                        let (error, unrecorded) =
                            (&error as &dyn Error, self.admission.unrecorded_of(schema));
                        tracing::warn!(error, %schema, unrecorded, "an attempt could not be recorded; trying again");
                        // While nothing can be recorded, nothing more should be attempted. Once a second will do: it walks over
                        // every endpoint that is known.
                        self.admission.return_queued_of(schema);
                    }
                    settlement = work;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Whether what failed will fail again, and the lease is over: the place is needed, and somebody else may try.
    fn is_hopeless(&self, lease: &Lease<DeliveryWork>, error: &StoreError) -> bool {
        !error.is_transient() && lease.expires_at() <= self.sources.now()
    }

    /// Until it is given back: while the lease lasts, nobody else may attempt it. What is cut off is given back by the
    /// store as it closes, all at once.
    async fn give_back(&self, mut lease: Lease<DeliveryWork>, signals: &StopSignals) {
        if signals.abort.is_cancelled() {
            return;
        }
        let delivery_id = lease.work().delivery_id;
        tracing::debug!(%delivery_id, "a delivery is given back; its attempt will be made, or made again");
        while let Err(Unsettled { work, error }) = self.store.release(lease).await {
            // The store gives back what is left as it closes, and what is over is free.
            if signals.stop.is_cancelled() || self.is_hopeless(&work, &error) {
                tracing::warn!(error = &error as &dyn Error, %delivery_id, "a lease was not given back");
                return;
            }
            lease = work;
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

/// Its lease runs out, and it is attempted again.
fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a delivery panicked");
    }
}

fn key_of(claim: &EndpointClaim) -> Key {
    (claim.schema.clone(), claim.endpoint.id)
}

fn counted(claim: &EndpointClaim) -> Claimed {
    let deliveries = u32::try_from(claim.work.len()).unwrap_or(u32::MAX);
    Claimed { deliveries, next_due_at: claim.next_due_at }
}

fn health_of(attempt: &AttemptRecord) -> AttemptHealth {
    match attempt.outcome {
        _ if attempt.response_time >= SLOW => AttemptHealth::Slow,
        // 429 and 503 ask for less; 502 and 504 come from a proxy behind which nobody answered: none of them counts as
        // an answer (ADR 8).
        Outcome::Answered { status: 429 | 502..=504, .. } | Outcome::Failed(_) => AttemptHealth::Failed,
        Outcome::Answered { status: 408 | 500..=599, .. } => AttemptHealth::Erred,
        Outcome::Answered { .. } => AttemptHealth::Good,
    }
}
