//! Tenants whose claims could not be dispatched, or not soon: their files are busy, somebody has locked their tables.
//!
//! One tenant's trouble is not the others'. What takes long goes on beside the passes; what failed is tried again
//! beside them, for as long as its leases last. What is claimed of such a tenant meanwhile waits behind that. More than
//! [`WAITING_MAX`] events hold up the passes where the claim before them only takes long, for that may be a tenant who
//! is owed much. Where it failed they wait until their leases are nearly over: what is given back is claimed again, before
//! everybody else's.

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

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
/// How long a pass waits for one tenant's claim.
const PATIENCE: Duration = Duration::from_millis(100);
/// Claims that go on beside the passes because they take long. Each may hold a connection; if there are more, it is not
/// a tenant's trouble, and the passes wait.
const SLOW_CLAIMS_MAX: usize = 8;

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
struct Waiting {
    schema: Schema,
    /// Whether the claim before was begun by a pass, and has not failed.
    is_behind_slow_one: bool,
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

    /// Lets a claim wait behind its tenant's before; answers it if the tenant is not in trouble, or no longer.
    pub(super) async fn wait_behind(&mut self, events: ClaimedEvents) -> Option<ClaimedEvents> {
        loop {
            let Some(waiting) = self.waiting(&events.claim.schema) else { return Some(events) };
            if waiting.has_room_for(&events) || !waiting.is_behind_slow_one {
                waiting.add(events);
                return None;
            }
            let ended = self.tries.join_next_with_id().await?;
            self.end(ended).await;
        }
    }

    fn waiting(&mut self, schema: &Schema) -> Option<&mut Waiting> {
        self.tenants.values_mut().find(|waiting| waiting.schema == *schema)
    }

    /// Dispatches a claim of a tenant that is not in trouble, to the end unless that takes long.
    pub(super) async fn dispatch(&mut self, events: ClaimedEvents) -> Result<(), Box<Undispatched>> {
        let schema = events.claim.schema.clone();
        let (dispatcher, stop) = (Arc::clone(&self.dispatcher), self.stop.clone());
        let mut dispatching = Box::pin(async move { dispatcher.dispatch_claim(events, &stop).await });
        let slow = self.tenants.values().filter(|waiting| waiting.is_behind_slow_one).count();
        if slow >= SLOW_CLAIMS_MAX || self.tenants.len() >= TROUBLED_TENANTS_MAX {
            return dispatching.await;
        }
        if let Ok(dispatched) = tokio::time::timeout(PATIENCE, &mut dispatching).await {
            return dispatched;
        }
        tracing::debug!(%schema, "a tenant's events take long to be dispatched; the others go on");
        let goes_on = self.tries.spawn(dispatching);
        self.tenants.insert(goes_on.id(), Waiting { schema, is_behind_slow_one: true, next: None });
        Ok(())
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
        self.tenants.insert(again.id(), Waiting { schema, is_behind_slow_one: false, next });
    }

    /// Until there is work, a try has ended, or nothing is to be begun any more.
    pub(super) async fn rest(&mut self, work: impl Future<Output = ()>) {
        let ended = tokio::select! {
            // In this order, and not one of those that are ready by chance: so a simulation replays exactly.
            biased;
            Some(ended) = self.tries.join_next_with_id() => ended,
            _ = self.stop.run_until_cancelled(work) => return,
        };
        self.end(ended).await;
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
                            error = error as &dyn Error,
                            schema = %events.claim.schema,
                            "a tenant's events were not dispatched beside the passes"
                        );
                        self.retry_later(*failed, next);
                    }
                    (Ok(()), Some(next)) => {
                        if let Err(failed) = self.dispatch(next).await {
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
    fn has_room_for(&self, events: &ClaimedEvents) -> bool {
        let fits = |next: &ClaimedEvents| next.claim.owed.len() + events.claim.owed.len() <= WAITING_MAX;
        self.next.as_ref().is_none_or(fits)
    }

    /// What there is no room for waits until its leases are over.
    fn add(&mut self, events: ClaimedEvents) {
        let has_room = self.has_room_for(&events);
        match &mut self.next {
            None => self.next = Some(events),
            Some(ClaimedEvents { claim: next, leased_until }) if has_room => {
                // Whose lease is over by then is refused alone.
                *leased_until = (*leased_until).max(events.leased_until);
                next.catalogue_version = next.catalogue_version.max(events.claim.catalogue_version);
                next.owed.extend(events.claim.owed);
            }
            Some(_) => {}
        }
    }
}
