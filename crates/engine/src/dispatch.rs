//! The dispatch pass: events that owe their dispatch become deliveries.
//!
//! Claim, match, write. A crash in between changes nothing: the events still owe their dispatch. Deliveries are
//! written in the transaction that ends what is owed, one for each endpoint however many subscriptions matched.

use std::{sync::Arc, time::Duration};

use neo_events_domain::{SignedDuration, delivery::Trigger, id::EndpointId};
use neo_events_store::{
    DispatchClaim, Dispatched, Lease, NewDelivery, OwedEvent, Store, StoreError, Unsettled,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Sources,
    admission::Admission,
    registry::{Registry, Subject, Wanted},
    sources::later,
    usage::UsageLog,
};

/// Most events claimed at a time.
const DISPATCH_BATCH_MAX: u32 = 256;
/// Deliveries after which a transaction is closed; one event may exceed it.
const SETTLE_DELIVERIES_MAX: usize = 2000;
/// How long a claimed dispatch may take before others may claim it.
const DISPATCH_LEASE: SignedDuration = SignedDuration::from_secs(60);
/// How often the tables are looked at though nobody woke us.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long to wait after the database failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// What the pass works with.
pub(crate) struct Dispatcher {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sources: Sources,
    /// Told who is owed something; `None` where this node does not deliver.
    pub(crate) admission: Option<Arc<Admission>>,
    pub(crate) usage: Arc<UsageLog>,
    pub(crate) registry: Arc<Registry>,
}

impl Dispatcher {
    /// Runs passes until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        self.registry.clear();
        while !stop.is_cancelled() {
            match self.pass(&stop).await {
                Ok(0) => {
                    let _ = stop.run_until_cancelled(wait_for_work(self.store.as_ref())).await;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "dispatch failed; trying again"
                    );
                    let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await;
                }
            }
        }
    }

    /// Dispatches what is owed, up to a batch. Answers how many events that was.
    async fn pass(&self, stop: &CancellationToken) -> Result<usize, StoreError> {
        let now = self.sources.now();
        let claims = self.store.claim_dispatches(now, DISPATCH_BATCH_MAX, later(now, DISPATCH_LEASE)).await?;
        let (mut events, mut failed) = (0, None);
        for claim in claims {
            events += claim.owed.len();
            // One tenant's trouble is not the others'.
            if let Err(error) = self.dispatch_claim(claim, stop).await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(events), Err)
    }

    async fn dispatch_claim(
        &self,
        DispatchClaim { schema, catalogue_version, owed }: DispatchClaim,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        match self.registry.refresh(self.store.as_ref(), &schema, catalogue_version).await {
            // What stands in line for them here is claimed anew, as things are now.
            Ok(changed) => self.admission.iter().for_each(|admission| {
                let key = |endpoint_id: &EndpointId| (schema.clone(), *endpoint_id);
                changed.iter().map(key).for_each(|key| admission.send_line_away(&key));
            }),
            Err(error) => {
                self.give_back(owed, &error).await?;
                return Err(error);
            }
        }
        self.dispatch_all(owed, stop).await
    }

    /// Writes whenever enough deliveries have come together: an event for ten thousand endpoints must not make one
    /// transaction with hundreds of its like.
    async fn dispatch_all(
        &self,
        owed: Vec<Lease<OwedEvent>>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut owed = owed.into_iter();
        loop {
            let (mut dispatched, mut deliveries) = (Vec::new(), 0);
            for lease in owed.by_ref() {
                let one = self.dispatch(lease);
                deliveries += one.deliveries.len();
                dispatched.push(one);
                if deliveries >= SETTLE_DELIVERIES_MAX {
                    break;
                }
            }
            if dispatched.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.settle(dispatched, stop).await {
                self.give_back(owed.collect(), &error).await?;
                return Err(error);
            }
        }
    }

    /// What cannot be dispatched now: by others, if trying again may help; else not before its lease is over, or the
    /// same events would be claimed over and over before everybody else's.
    async fn give_back(&self, owed: Vec<Lease<OwedEvent>>, error: &StoreError) -> Result<(), StoreError> {
        if error.is_transient() { self.store.release_dispatches(owed).await } else { Ok(()) }
    }

    fn dispatch(&self, lease: Lease<OwedEvent>) -> Dispatched {
        let OwedEvent { schema, event } = lease.work();
        let (event_type, context_id) = (&event.event_type, event.context_id);
        let subject = Subject { event_type, context_id, data: event.event_data.as_str() };
        let wanted =
            self.registry.matches(schema, &subject).map(|matches| matches.wanted).unwrap_or_default();
        let now = self.sources.now();
        for wish in &wanted {
            self.usage.subscriptions_triggered(schema, &wish.subscription_ids, now);
        }
        let deliveries = wanted.into_iter().map(|wish| new_delivery(&self.sources, wish)).collect();
        Dispatched { deliveries, lease }
    }

    /// Writes until it is written: giving up would only mean matching everything again.
    async fn settle(
        &self,
        mut dispatched: Vec<Dispatched>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut due: Vec<_> = dispatched
            .iter()
            .flat_map(|done| {
                done.deliveries.iter().map(|d| (done.lease.work().schema.clone(), d.endpoint_id))
            })
            .collect();
        due.sort_unstable();
        due.dedup();
        loop {
            let now = self.sources.now();
            match self.store.settle_dispatches(dispatched, now).await {
                Ok(_) => {
                    if let Some(admission) = &self.admission {
                        for key in due {
                            admission.owe(key, now);
                        }
                    }
                    return Ok(());
                }
                Err(Unsettled { work, error }) if stop.is_cancelled() || !error.is_transient() => {
                    self.give_back(work.into_iter().map(|done| done.lease).collect(), &error).await?;
                    return Err(error);
                }
                Err(Unsettled { work, error }) => {
                    tracing::warn!(%error, "deliveries could not be written; trying again");
                    dispatched = work;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }
}

/// What an endpoint that wants an event is owed.
pub(crate) fn new_delivery(sources: &Sources, Wanted { endpoint, subscription_ids }: Wanted) -> NewDelivery {
    NewDelivery {
        id: sources.new_id(),
        endpoint_id: endpoint.id,
        trigger: Trigger::Event,
        max_attempts: 1 + endpoint.retry.max_retry_attempts,
        retry: endpoint.retry,
        subscription_ids,
    }
}

async fn wait_for_work(store: &dyn Store) {
    let _ = tokio::time::timeout(POLL_INTERVAL, store.wake_up()).await;
}
