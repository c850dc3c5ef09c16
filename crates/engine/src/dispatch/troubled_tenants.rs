//! Tenants whose claims could not be dispatched: their files are busy, somebody has locked their tables.
//!
//! One tenant's trouble is not the others'. What was claimed of such a tenant is tried again beside the passes, for as
//! long as its leases last. What is claimed of it meanwhile waits behind that; more than [`WAITING_MAX`] wait until
//! their leases are over, for what is given back would be claimed over and over before everybody else's.

use std::{collections::HashMap, sync::Arc};

use neo_events_domain::tenant::Schema;
use tokio::{
    sync::Semaphore,
    task::{self, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{ClaimedEvents, DISPATCH_BATCH_MAX, Dispatcher, RETRY_INTERVAL, Undispatched};

/// Events of a tenant in trouble that wait for its claim before them.
const WAITING_MAX: usize = DISPATCH_BATCH_MAX as usize;
/// Tenants in trouble whose claims are tried again; those of others wait until their leases are over.
const TROUBLED_TENANTS_MAX: usize = 64;
/// Tenants in trouble that are tried at once.
const TROUBLED_TRIES_MAX: usize = 2;

/// The tenants in trouble, and the tries of their claims.
pub(super) struct TroubledTenants {
    dispatcher: Arc<Dispatcher>,
    stop: CancellationToken,
    tries: JoinSet<Result<(), Box<Undispatched>>>,
    tenants: HashMap<task::Id, Waiting>,
    /// Each try may hold a connection for as long as a lock is waited for.
    turns: Arc<Semaphore>,
}

/// What was claimed of a tenant in trouble while its claim before is tried again.
pub(super) struct Waiting {
    schema: Schema,
    next: Option<ClaimedEvents>,
}

impl TroubledTenants {
    pub(super) fn new(dispatcher: &Arc<Dispatcher>, stop: &CancellationToken) -> Self {
        Self {
            dispatcher: Arc::clone(dispatcher),
            stop: stop.clone(),
            tries: JoinSet::new(),
            tenants: HashMap::new(),
            turns: Arc::new(Semaphore::new(TROUBLED_TRIES_MAX)),
        }
    }

    /// Where a tenant's further claims wait; `None` if it is not in trouble.
    pub(super) fn waiting(&mut self, schema: &Schema) -> Option<&mut Waiting> {
        self.tenants.values_mut().find(|waiting| waiting.schema == *schema)
    }

    /// Tries again after a while, if that may help. Else all of it waits until its leases are over.
    pub(super) fn retry_later(
        &mut self,
        Undispatched { events, error }: Undispatched,
        next: Option<ClaimedEvents>,
    ) {
        let now = self.dispatcher.sources.now();
        // What waits behind it may last longer.
        let (events, next) = match next {
            Some(next) if events.leased_until <= now => (next, None),
            next => (events, next),
        };
        let is_over = events.leased_until <= now;
        if is_over || !error.is_transient() || self.tenants.len() >= TROUBLED_TENANTS_MAX {
            return;
        }
        let (dispatcher, stop, turns) =
            (Arc::clone(&self.dispatcher), self.stop.clone(), Arc::clone(&self.turns));
        let schema = events.claim.schema.clone();
        let again = self.tries.spawn(async move {
            let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await;
            let _turn = turns.acquire_owned().await;
            dispatcher.dispatch_claim(events, &stop).await
        });
        self.tenants.insert(again.id(), Waiting { schema, next });
    }

    /// Takes in those tries that have ended; a claim that waited behind one is dispatched here.
    pub(super) async fn collect_ended(&mut self) {
        while let Some(ended) = self.tries.try_join_next_with_id() {
            self.end(ended).await;
        }
    }

    async fn end(&mut self, ended: Result<(task::Id, Result<(), Box<Undispatched>>), task::JoinError>) {
        match ended {
            Ok((id, answer)) => {
                let next = self.tenants.remove(&id).and_then(|waiting| waiting.next);
                match (answer, next) {
                    (Err(failed), next) => {
                        let Undispatched { events, error } = failed.as_ref();
                        tracing::warn!(
                            %error,
                            schema = %events.claim.schema,
                            "a tenant's events were not dispatched, again"
                        );
                        self.retry_later(*failed, next);
                    }
                    (Ok(()), Some(next)) => {
                        if let Err(failed) = self.dispatcher.dispatch_claim(next, &self.stop).await {
                            self.retry_later(*failed, None);
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
    pub(super) async fn give_back(mut self) {
        while let Some(ended) = self.tries.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(failed)) => self.dispatcher.release(failed.events).await,
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
    pub(super) fn add(&mut self, events: ClaimedEvents) {
        match &mut self.next {
            None => self.next = Some(events),
            Some(ClaimedEvents { claim: next, leased_until })
                if next.owed.len() + events.claim.owed.len() <= WAITING_MAX =>
            {
                // Whose lease is over by then is refused alone.
                *leased_until = (*leased_until).max(events.leased_until);
                next.catalogue_version = next.catalogue_version.max(events.claim.catalogue_version);
                next.owed.extend(events.claim.owed);
            }
            Some(_) => {}
        }
    }
}
