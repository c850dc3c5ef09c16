//! The dispatch pass: events that owe their dispatch become deliveries.
//!
//! Claim, match, write. A crash in between changes nothing: the events still owe their dispatch. Deliveries are
//! written in the transaction that ends what is owed, one for each endpoint however many subscriptions matched.

use std::{collections::HashMap, sync::Arc, time::Duration};

use neo_events_domain::{SignedDuration, Timestamp, delivery::Trigger, id::EndpointId, tenant::Schema};
use neo_events_store::{
    DispatchClaim, Dispatched, Lease, NewDelivery, OwedEvent, Store, StoreError, Unsettled,
};
use tokio::{
    task::{self, JoinSet},
    time::{Instant, timeout_at},
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
/// Events of a tenant that wait, claimed, for its claim before them.
const WAITING_MAX: usize = DISPATCH_BATCH_MAX as usize;
/// Events that are claimed and not dispatched, of all tenants.
const HELD_MAX: usize = 8 * DISPATCH_BATCH_MAX as usize;
/// How long a pass waits for a tenant that cannot be dispatched at once.
const PATIENCE: Duration = Duration::from_secs(1);
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

/// How long a claim is worked on.
#[derive(Clone)]
struct Effort {
    stop: CancellationToken,
    /// Others may claim the same from then on.
    lease_end: Timestamp,
}

impl Effort {
    /// Whether to try again, after a while.
    fn goes_on(&self, error: &StoreError, now: Timestamp) -> bool {
        error.is_transient() && now < self.lease_end && !self.stop.is_cancelled()
    }
}

/// The claims that are being dispatched, at most one of each tenant.
///
/// One tenant's trouble is not the others': whoever cannot be dispatched now (its file is busy, somebody has locked its
/// tables) is tried for as long as its leases last, beside the passes that follow.
struct AtWork {
    dispatcher: Arc<Dispatcher>,
    claims: JoinSet<Result<(), StoreError>>,
    tenants: HashMap<task::Id, Busy>,
}

/// A tenant one of whose claims is being dispatched.
struct Busy {
    schema: Schema,
    /// How many events the claim brought.
    events: usize,
    /// Until when a pass waits for it.
    awaited_until: Instant,
    /// What was claimed of it meanwhile.
    next: Option<(DispatchClaim, Effort)>,
}

impl AtWork {
    fn new(dispatcher: &Arc<Dispatcher>) -> Self {
        Self { dispatcher: Arc::clone(dispatcher), claims: JoinSet::new(), tenants: HashMap::new() }
    }

    /// How many events more may be claimed.
    fn room(&self) -> u32 {
        let held: usize = self.tenants.values().map(Busy::held).sum();
        u32::try_from(HELD_MAX.saturating_sub(held)).unwrap_or(u32::MAX).min(DISPATCH_BATCH_MAX)
    }

    fn begin(&mut self, claim: DispatchClaim, effort: Effort) {
        if let Some(busy) = self.tenants.values_mut().find(|busy| busy.schema == claim.schema) {
            return busy.add(claim, effort);
        }
        let dispatcher = Arc::clone(&self.dispatcher);
        let (schema, events) = (claim.schema.clone(), claim.owed.len());
        let work = self.claims.spawn(async move { dispatcher.dispatch_claim(claim, effort).await });
        let busy = Busy { schema, events, awaited_until: Instant::now() + PATIENCE, next: None };
        self.tenants.insert(work.id(), busy);
    }

    /// Waits for those that have just begun, but not for tenants in trouble. Answers what one of them failed with.
    async fn end(&mut self) -> Option<StoreError> {
        let mut failed = None;
        while let Some(deadline) = self.tenants.values().map(|busy| busy.awaited_until).max() {
            match timeout_at(deadline, self.claims.join_next_with_id()).await {
                Ok(Some(Ok((id, answer)))) => {
                    failed = answer.err().or(failed);
                    if let Some((claim, effort)) = self.tenants.remove(&id).and_then(|busy| busy.next) {
                        self.begin(claim, effort);
                    }
                }
                // As if it had been done here: the pass is started again, and knows nothing.
                Ok(Some(Err(error))) => std::panic::resume_unwind(error.into_panic()),
                Ok(None) | Err(_) => break,
            }
        }
        failed
    }
}

impl Busy {
    fn held(&self) -> usize {
        self.events + self.next.as_ref().map_or(0, |(next, _)| next.owed.len())
    }

    /// Puts a claim behind the one that is being dispatched. What is too much waits until its lease is over: given back,
    /// it would be claimed over and over before everybody else's.
    fn add(&mut self, claim: DispatchClaim, effort: Effort) {
        match &mut self.next {
            None => self.next = Some((claim, effort)),
            Some((next, _)) if next.owed.len() + claim.owed.len() <= WAITING_MAX => {
                next.catalogue_version = next.catalogue_version.max(claim.catalogue_version);
                next.owed.extend(claim.owed);
            }
            Some(_) => {}
        }
    }
}

impl Dispatcher {
    /// Runs passes until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.registry.clear();
        let mut at_work = AtWork::new(&self);
        while !stop.is_cancelled() {
            match self.pass(&mut at_work, &stop).await {
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
        // They end with the stop.
        while at_work.claims.join_next().await.is_some() {}
    }

    /// Dispatches what is owed, up to a batch. Answers how many events that was.
    async fn pass(&self, at_work: &mut AtWork, stop: &CancellationToken) -> Result<usize, StoreError> {
        let now = self.sources.now();
        let effort = Effort { stop: stop.clone(), lease_end: later(now, DISPATCH_LEASE) };
        let claims = match at_work.room() {
            0 => Vec::new(),
            limit => self.store.claim_dispatches(now, limit, effort.lease_end).await?,
        };
        let mut events = 0;
        for claim in claims {
            events += claim.owed.len();
            at_work.begin(claim, effort.clone());
        }
        at_work.end().await.map_or(Ok(events), Err)
    }

    async fn dispatch_claim(
        &self,
        DispatchClaim { schema, catalogue_version, owed }: DispatchClaim,
        effort: Effort,
    ) -> Result<(), StoreError> {
        loop {
            match self.registry.refresh(self.store.as_ref(), &schema, catalogue_version).await {
                Ok(changed) => {
                    self.recall(&schema, &changed);
                    return self.dispatch_all(owed, &effort).await;
                }
                Err(error) if effort.goes_on(&error, self.sources.now()) => {
                    tracing::warn!(%error, %schema, "the catalogue could not be read; trying again");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => {
                    self.give_back(owed, &effort).await?;
                    return Err(error);
                }
            }
        }
    }

    /// What stands in line for changed endpoints here is claimed anew, as things are now.
    fn recall(&self, schema: &Schema, changed: &[EndpointId]) {
        if let Some(admission) = &self.admission {
            for endpoint_id in changed {
                admission.send_line_away(&(schema.clone(), *endpoint_id));
            }
        }
    }

    /// Writes whenever enough deliveries have come together: an event for ten thousand endpoints must not make one
    /// transaction with hundreds of its like.
    async fn dispatch_all(&self, owed: Vec<Lease<OwedEvent>>, effort: &Effort) -> Result<(), StoreError> {
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
            if let Err(error) = self.settle(dispatched, effort).await {
                self.give_back(owed.collect(), effort).await?;
                return Err(error);
            }
        }
    }

    /// Once nothing is begun here any more. Else what could not be dispatched waits until its lease is over, or the same
    /// events would be claimed over and over before everybody else's.
    async fn give_back(&self, owed: Vec<Lease<OwedEvent>>, effort: &Effort) -> Result<(), StoreError> {
        if effort.stop.is_cancelled() { self.store.release_dispatches(owed).await } else { Ok(()) }
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
    async fn settle(&self, mut dispatched: Vec<Dispatched>, effort: &Effort) -> Result<(), StoreError> {
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
                Err(Unsettled { work, error }) if effort.goes_on(&error, self.sources.now()) => {
                    tracing::warn!(%error, "deliveries could not be written; trying again");
                    dispatched = work;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(Unsettled { work, error }) => {
                    self.give_back(work.into_iter().map(|done| done.lease).collect(), effort).await?;
                    return Err(error);
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
