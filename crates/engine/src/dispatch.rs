//! The dispatch pass: events that owe their dispatch become deliveries.
//!
//! Claim, match, write. A crash in between changes nothing: the events still owe their dispatch. Deliveries are
//! written in the transaction that ends what is owed, one for each endpoint however many subscriptions matched.

mod troubled_tenants;

use std::{error::Error, panic::resume_unwind, sync::Arc, time::Duration};

use neo_events_domain::{
    SignedDuration, Timestamp, delivery::Trigger, event::DomainEvent, id::EndpointId, tenant::Schema,
    time::later,
};
use neo_events_store::{
    CatalogueVersion, DispatchClaim, Dispatched, Lease, NewDelivery, OwedEvent, Store, StoreError, Unsettled,
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use troubled_tenants::TroubledTenants;

use crate::{
    Sources,
    admission::Admission,
    registry::{Matched, Registry, Subject, Wanted},
    usage::UsageLog,
};

/// Most events claimed at a time.
const DISPATCH_BATCH_MAX: u32 = 256;
/// Deliveries after which a transaction is closed; one event may exceed it.
const SETTLE_DELIVERIES_MAX: usize = 2000;
/// After how long what was matched is written, however little it is.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);
/// How long matching an event may keep a thread that serves.
const MATCHING_MAX: Duration = Duration::from_millis(20);
/// How long before the end of their leases events are given back that were not matched yet.
const LEASE_MARGIN: SignedDuration = SignedDuration::from_secs(10);
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
    /// Whose turn it is to match what is costly.
    pub(crate) costly: Semaphore,
}

/// A claim, or what is left of it.
struct ClaimedEvents {
    claim: DispatchClaim,
    /// Others may claim the same from then on.
    leased_until: Timestamp,
}

/// What could not be dispatched, and why not.
struct Undispatched {
    events: ClaimedEvents,
    error: StoreError,
}

impl Dispatcher {
    /// Runs passes until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.registry.clear();
        let mut troubled = TroubledTenants::new(&self, &stop);
        while !stop.is_cancelled() {
            match self.pass(&mut troubled, &stop).await {
                Ok(0) => troubled.rest(wait_for_work(self.store.as_ref())).await,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(error = &error as &dyn Error, "dispatch failed; trying again");
                    let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await;
                }
            }
        }
        troubled.give_back().await;
    }

    /// Dispatches what is owed, up to a batch. Answers how many events that was, those left aside not counted.
    async fn pass(
        &self,
        troubled: &mut TroubledTenants,
        stop: &CancellationToken,
    ) -> Result<usize, StoreError> {
        troubled.collect_ended().await;
        let now = self.sources.now();
        let leased_until = later(now, DISPATCH_LEASE);
        let claims = self.store.claim_dispatches(now, DISPATCH_BATCH_MAX, leased_until).await?;
        let mut count = 0;
        for claim in claims {
            let events = ClaimedEvents { claim, leased_until };
            let Some(events) = troubled.wait_behind(events).await else { continue };
            count += events.claim.owed.len();
            if let Err(failed) = troubled.dispatch(events).await {
                let Undispatched { events, error } = failed.as_ref();
                tracing::error!(
                    error = error as &dyn Error,
                    schema = %events.claim.schema,
                    "a tenant's events were not dispatched"
                );
                if stop.is_cancelled() {
                    self.release(failed.events).await;
                } else {
                    troubled.retry_later(*failed, None);
                }
            }
        }
        Ok(count)
    }

    /// Writes whenever enough deliveries have come together, or took long enough to find: an event for ten thousand
    /// endpoints must not make one transaction with hundreds of its like, and costly filters must not bring all to
    /// nothing when the leases end. Once nothing is to be begun any more, or not here, the rest is given back.
    async fn dispatch_claim(
        &self,
        events: ClaimedEvents,
        stop: &CancellationToken,
    ) -> Result<(), Box<Undispatched>> {
        let ClaimedEvents { claim: DispatchClaim { schema, catalogue_version, owed }, leased_until } = events;
        let left = |owed| ClaimedEvents {
            claim: DispatchClaim { schema: schema.clone(), catalogue_version, owed },
            leased_until,
        };
        if !stop.is_cancelled() {
            match self.registry.refresh(self.store.as_ref(), &schema, catalogue_version).await {
                Ok(changed) => self.recall(&schema, &changed),
                Err(error) => return Err(Box::new(Undispatched { events: left(owed), error })),
            }
        }
        let mut owed = owed.into_iter();
        loop {
            let is_late = later(self.sources.now(), LEASE_MARGIN) >= leased_until;
            if stop.is_cancelled() || is_late {
                self.release(left(owed.collect())).await;
                return Ok(());
            }
            let (mut dispatched, mut deliveries, began) = (Vec::new(), 0, Instant::now());
            for lease in owed.by_ref() {
                let Some(one) = self.dispatch(lease, catalogue_version).await else { continue };
                deliveries += one.deliveries.len();
                dispatched.push(one);
                if deliveries >= SETTLE_DELIVERIES_MAX || began.elapsed() >= SETTLE_INTERVAL {
                    break;
                }
            }
            if dispatched.is_empty() {
                return Ok(());
            }
            if let Err(Unsettled { work, error }) = self.settle(dispatched).await {
                let open = work.into_iter().map(|done| done.lease).chain(owed).collect();
                return Err(Box::new(Undispatched { events: left(open), error }));
            }
        }
    }

    /// Gives back what nobody will dispatch here.
    async fn release(&self, events: ClaimedEvents) {
        if let Err(error) = self.store.release_dispatches(events.claim.owed).await {
            tracing::warn!(
                error = &error as &dyn Error,
                schema = %events.claim.schema,
                "dispatches were not given back"
            );
        }
    }

    /// What is queued here for changed endpoints is given back and claimed again, as the endpoints are now.
    fn recall(&self, schema: &Schema, changed: &[EndpointId]) {
        if let Some(admission) = &self.admission {
            for endpoint_id in changed {
                admission.return_queued(&(schema.clone(), *endpoint_id));
            }
        }
    }

    /// Matches; `None` if less of the catalogue is known than has to be: half a truth decides nothing.
    async fn dispatch(&self, lease: Lease<OwedEvent>, version: CatalogueVersion) -> Option<Dispatched> {
        let OwedEvent { schema, event } = lease.work();
        let (known, wanted) = match self.matched(schema, event).await {
            Matched::Known(matches) => (matches.version, matches.wanted),
            Matched::Unknown | Matched::TooCostly => Default::default(),
        };
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

    /// Matches here as long as that takes no time, and else on a thread of its own, one event at a time: as many at once as
    /// there are processors would leave none to those who serve.
    async fn matched(&self, schema: &Schema, event: &Arc<DomainEvent>) -> Matched {
        let deadline = Instant::now() + MATCHING_MAX;
        match self.registry.matches_until(schema, &subject(event), deadline) {
            Matched::TooCostly => {}
            matched => return matched,
        }
        let Ok(_turn) = self.costly.acquire().await else { return Matched::Unknown };
        let (registry, schema, event) = (Arc::clone(&self.registry), schema.clone(), Arc::clone(event));
        let matching = tokio::task::spawn_blocking(move || registry.matches(&schema, &subject(&event)));
        match matching.await {
            Ok(matched) => matched,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime is being shut down.
            Err(_) => Matched::Unknown,
        }
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

fn subject(event: &DomainEvent) -> Subject<'_> {
    let (event_type, context_id) = (&event.event_type, event.context_id);
    Subject { event_type, context_id, data: event.event_data.as_str() }
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
    let _ = tokio::time::timeout(POLL_INTERVAL, store.dispatch_hinted()).await;
}
