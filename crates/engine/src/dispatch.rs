//! The dispatch pass: events that owe their dispatch become deliveries.
//!
//! Claim, match, write. A crash in between changes nothing: the events still owe their dispatch. Deliveries are
//! written in the transaction that ends what is owed, one for each endpoint however many subscriptions matched.

use std::{collections::HashMap, sync::Arc, time::Duration};

use neo_events_domain::{SignedDuration, Timestamp, delivery::Trigger, id::EndpointId, tenant::Schema};
use neo_events_store::{
    CatalogueVersion, DispatchClaim, Dispatched, Lease, NewDelivery, OwedEvent, Store, StoreError, Unsettled,
};
use tokio::{
    sync::Semaphore,
    task::{self, JoinSet},
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
/// Events of a tenant in trouble that wait for its claim before them.
const WAITING_MAX: usize = DISPATCH_BATCH_MAX as usize;
/// Tenants in trouble whose claims are tried again; those of others wait until their leases are over.
const TROUBLED_TENANTS_MAX: usize = 64;
/// Tenants in trouble that are tried at once.
const TROUBLED_TRIES_MAX: usize = 2;
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

/// A claim, or what is left of it.
struct Owed {
    claim: DispatchClaim,
    /// Others may claim the same from then on.
    lease_end: Timestamp,
}

/// What could not be dispatched, and why not.
type Left = Box<(Owed, StoreError)>;

/// Tenants whose claims could not be dispatched: their files are busy, somebody has locked their tables.
///
/// One tenant's trouble is not the others'. What was claimed of such a tenant is tried again beside the passes, for as long
/// as its leases last. What is claimed of it meanwhile waits behind that; more than [`WAITING_MAX`] wait until their leases
/// are over, for what is given back would be claimed over and over before everybody else's.
struct Troubled {
    dispatcher: Arc<Dispatcher>,
    stop: CancellationToken,
    tries: JoinSet<Result<(), Left>>,
    tenants: HashMap<task::Id, Waiting>,
    /// Each try may hold a connection for as long as a lock is waited for.
    turns: Arc<Semaphore>,
}

/// What was claimed of a tenant in trouble meanwhile.
struct Waiting {
    schema: Schema,
    next: Option<Owed>,
}

impl Troubled {
    fn new(dispatcher: &Arc<Dispatcher>, stop: &CancellationToken) -> Self {
        Self {
            dispatcher: Arc::clone(dispatcher),
            stop: stop.clone(),
            tries: JoinSet::new(),
            tenants: HashMap::new(),
            turns: Arc::new(Semaphore::new(TROUBLED_TRIES_MAX)),
        }
    }

    fn waiting(&mut self, schema: &Schema) -> Option<&mut Waiting> {
        self.tenants.values_mut().find(|waiting| waiting.schema == *schema)
    }

    /// Tries again after a while, if that may help. Else all of it waits until its leases are over.
    fn begin(&mut self, (left, error): (Owed, StoreError), next: Option<Owed>) {
        let now = self.dispatcher.sources.now();
        // What waits behind it may last longer.
        let (left, next) = match next {
            Some(next) if left.lease_end <= now => (next, None),
            next => (left, next),
        };
        let is_over = left.lease_end <= now;
        if is_over || !error.is_transient() || self.tenants.len() >= TROUBLED_TENANTS_MAX {
            return;
        }
        let (dispatcher, stop, turns) =
            (Arc::clone(&self.dispatcher), self.stop.clone(), Arc::clone(&self.turns));
        let schema = left.claim.schema.clone();
        let again = self.tries.spawn(async move {
            let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await;
            let _turn = turns.acquire_owned().await;
            dispatcher.dispatch_claim(left, &stop).await
        });
        self.tenants.insert(again.id(), Waiting { schema, next });
    }

    /// What became of those that were tried again.
    async fn look(&mut self) {
        while let Some(ended) = self.tries.try_join_next_with_id() {
            self.end(ended).await;
        }
    }

    async fn end(&mut self, ended: Result<(task::Id, Result<(), Left>), task::JoinError>) {
        match ended {
            Ok((id, answer)) => {
                let next = self.tenants.remove(&id).and_then(|waiting| waiting.next);
                match (answer, next) {
                    (Err(left), next) => {
                        tracing::warn!(error = %left.1, schema = %left.0.claim.schema, "a tenant's events were not dispatched, again");
                        self.begin(*left, next);
                    }
                    (Ok(()), Some(next)) => {
                        if let Err(left) = self.dispatcher.dispatch_claim(next, &self.stop).await {
                            self.begin(*left, None);
                        }
                    }
                    (Ok(()), None) => {}
                }
            }
            // As if it had been done in the pass, which is started again and knows nothing. Nobody may go on beside it.
            Err(error) => {
                self.tries.shutdown().await;
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Nothing is begun any more: whatever was claimed is given back.
    async fn give_back(mut self) {
        while let Some(ended) = self.tries.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(left)) => self.dispatcher.release(left.0).await,
                Err(error) => tracing::error!(%error, "a dispatch panicked as it was to stop"),
            }
        }
        // In an order, so that a simulation replays exactly.
        let mut waiting: Vec<_> = self.tenants.into_values().collect();
        waiting.sort_unstable_by(|one, other| one.schema.cmp(&other.schema));
        for next in waiting.into_iter().filter_map(|waiting| waiting.next) {
            self.dispatcher.release(next).await;
        }
    }
}

impl Waiting {
    fn add(&mut self, owed: Owed) {
        match &mut self.next {
            None => self.next = Some(owed),
            Some(Owed { claim: next, lease_end })
                if next.owed.len() + owed.claim.owed.len() <= WAITING_MAX =>
            {
                // Whose lease is over by then is refused alone.
                *lease_end = (*lease_end).max(owed.lease_end);
                next.catalogue_version = next.catalogue_version.max(owed.claim.catalogue_version);
                next.owed.extend(owed.claim.owed);
            }
            Some(_) => {}
        }
    }
}

impl Dispatcher {
    /// Runs passes until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.registry.clear();
        let mut troubled = Troubled::new(&self, &stop);
        while !stop.is_cancelled() {
            match self.pass(&mut troubled, &stop).await {
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
        troubled.give_back().await;
    }

    /// Dispatches what is owed, up to a batch. Answers how many events that was, those left aside not counted.
    async fn pass(&self, troubled: &mut Troubled, stop: &CancellationToken) -> Result<usize, StoreError> {
        troubled.look().await;
        let now = self.sources.now();
        let lease_end = later(now, DISPATCH_LEASE);
        let claims = self.store.claim_dispatches(now, DISPATCH_BATCH_MAX, lease_end).await?;
        let mut events = 0;
        for claim in claims {
            let owed = Owed { claim, lease_end };
            if let Some(waiting) = troubled.waiting(&owed.claim.schema) {
                waiting.add(owed);
                continue;
            }
            events += owed.claim.owed.len();
            if let Err(left) = self.dispatch_claim(owed, stop).await {
                let (left, error) = *left;
                tracing::error!(%error, schema = %left.claim.schema, "a tenant's events were not dispatched");
                if stop.is_cancelled() {
                    self.release(left).await;
                } else {
                    troubled.begin((left, error), None);
                }
            }
        }
        Ok(events)
    }

    /// Writes whenever enough deliveries have come together: an event for ten thousand endpoints must not make one
    /// transaction with hundreds of its like. Once nothing is to be begun any more, the rest is given back.
    async fn dispatch_claim(&self, owed: Owed, stop: &CancellationToken) -> Result<(), Left> {
        let Owed { claim: DispatchClaim { schema, catalogue_version, owed }, lease_end } = owed;
        let left = |owed| Owed {
            claim: DispatchClaim { schema: schema.clone(), catalogue_version, owed },
            lease_end,
        };
        if !stop.is_cancelled() {
            match self.registry.refresh(self.store.as_ref(), &schema, catalogue_version).await {
                Ok(changed) => self.recall(&schema, &changed),
                Err(error) => return Err(Box::new((left(owed), error))),
            }
        }
        let mut owed = owed.into_iter();
        loop {
            if stop.is_cancelled() {
                self.release(left(owed.collect())).await;
                return Ok(());
            }
            let (mut dispatched, mut deliveries) = (Vec::new(), 0);
            for lease in owed.by_ref() {
                let Some(one) = self.dispatch(lease, catalogue_version) else { continue };
                deliveries += one.deliveries.len();
                dispatched.push(one);
                if deliveries >= SETTLE_DELIVERIES_MAX {
                    break;
                }
            }
            if dispatched.is_empty() {
                return Ok(());
            }
            if let Err(Unsettled { work, error }) = self.settle(dispatched).await {
                let open = work.into_iter().map(|done| done.lease).chain(owed).collect();
                return Err(Box::new((left(open), error)));
            }
        }
    }

    /// Gives back what nobody will dispatch here.
    async fn release(&self, owed: Owed) {
        if let Err(error) = self.store.release_dispatches(owed.claim.owed).await {
            tracing::warn!(%error, schema = %owed.claim.schema, "dispatches were not given back");
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

    /// Matches; `None` if less of the catalogue is known than has to be: half a truth decides nothing.
    fn dispatch(&self, lease: Lease<OwedEvent>, version: CatalogueVersion) -> Option<Dispatched> {
        let OwedEvent { schema, event } = lease.work();
        let (event_type, context_id) = (&event.event_type, event.context_id);
        let subject = Subject { event_type, context_id, data: event.event_data.as_str() };
        let (known, wanted) = self
            .registry
            .matches(schema, &subject)
            .map_or_else(Default::default, |matches| (matches.version, matches.wanted));
        if known < version {
            return None;
        }
        let now = self.sources.now();
        for wish in &wanted {
            self.usage.subscriptions_triggered(schema, &wish.subscription_ids, now);
        }
        let deliveries = wanted.into_iter().map(|wish| new_delivery(&self.sources, wish)).collect();
        Some(Dispatched { deliveries, lease })
    }

    async fn settle(&self, dispatched: Vec<Dispatched>) -> Result<(), Unsettled<Vec<Dispatched>>> {
        let mut due: Vec<_> = dispatched
            .iter()
            .flat_map(|done| {
                done.deliveries.iter().map(|d| (done.lease.work().schema.clone(), d.endpoint_id))
            })
            .collect();
        due.sort_unstable();
        due.dedup();
        let now = self.sources.now();
        self.store.settle_dispatches(dispatched, now).await?;
        if let Some(admission) = &self.admission {
            for key in due {
                admission.owe(key, now);
            }
        }
        Ok(())
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
