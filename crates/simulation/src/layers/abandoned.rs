//! Calls that nobody waits for any more. The connection breaks while the server is at the statement: the caller hears no
//! word, which is the kind of failure that may have happened all the same, and the server goes on and commits moments or
//! seconds later, whatever its caller has done, claimed or published since, and whether or not it is still alive.
//!
//! What a claim or a publish is granted so late nobody hears of. It is freed as what was lost with an answer is.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use neo_events_domain::{Timestamp, event::NewEvent, tenant::Schema};
use neo_events_store::{
    Appended, Arrival, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim, EndpointQuota,
    Lease, NewDelivery, OwedEvent, Settled, Settlement, StoreError, Unsettled, WorkQueue,
};
use tokio::task::JoinSet;

use super::{
    Queue, Unheard,
    faults::{copy_of_dispatched, copy_of_lease, copy_of_settlement, error_of},
};
use crate::{
    happening::{Happening, Tally},
    judge::Judge,
    life::Life,
    memory::MemoryStore,
    weather::{Failing, Rows, Weather},
};

/// What the server is still at. It outlives whoever called. Its clones are one.
#[derive(Clone, Default)]
pub(crate) struct Stragglers(Arc<Mutex<JoinSet<()>>>);

impl Stragglers {
    /// Whether the server is at nothing any more.
    pub(crate) fn are_done(&self) -> bool {
        let mut stragglers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while stragglers.try_join_next().is_some() {}
        stragglers.is_empty()
    }
}

/// Who may be left at a call, and carries it out then.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) memory: MemoryStore,
    pub(super) life: Life,
    pub(super) weather: Weather,
    pub(super) judge: Judge,
    pub(super) tally: Tally,
    pub(super) unheard: Unheard,
    pub(super) stragglers: Stragglers,
    /// Whether there is a connection that may break. A file has none.
    pub(super) is_remote: bool,
}

impl Server {
    /// Whether nobody waits for this call until it is done, and how long it takes.
    async fn is_abandoned(&self) -> Option<Duration> {
        let lateness = self.weather.abandons(self.life.node).filter(|_| self.is_remote)?;
        self.weather.delay().await;
        self.life.go_on().await;
        Some(lateness)
    }

    /// Goes on for so long, then does it. Answers what the caller is told meanwhile.
    fn carry_out_after<F>(&self, lateness: Duration, call: impl FnOnce(Self) -> F) -> StoreError
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (weather, call) = (self.weather.clone(), call(self.clone()));
        let straggler = async move {
            weather.lag(lateness).await;
            call.await;
        };
        self.stragglers.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(straggler);
        error_of(Failing::Unreachable)
    }

    /// Stores events though their publisher was told that there was no word; `None` if it waits for them.
    pub(super) async fn append_late(
        &self,
        schema: &Schema,
        events: &[NewEvent],
        now: Timestamp,
    ) -> Option<StoreError> {
        let lateness = self.is_abandoned().await?;
        let arrivals = events.iter().cloned().map(Arrival::from).collect();
        Some(self.store_after(lateness, (schema.clone(), arrivals), now))
    }

    fn store_after(
        &self,
        lateness: Duration,
        (schema, mut arrivals): (Schema, Vec<Arrival>),
        now: Timestamp,
    ) -> StoreError {
        for dispatch in arrivals.iter_mut().filter_map(|arrival| arrival.dispatch.as_mut()) {
            let server = self.clone();
            // Whoever was to take what is leased is gone with its call, and has let go of the places that it had for it.
            dispatch.hand_over = Box::new(move |leases| server.nobody_hears_of(&leases));
        }
        self.carry_out_after(lateness, |server| async move {
            if server.weather.is_ailing(Rows::Written(&schema)) {
                return;
            }
            let appended = server.memory.append_arrivals(&schema, arrivals, now).await;
            let is_stored = |appended: &Appended| matches!(appended, Appended::Stored { .. });
            let stored = appended.map_or(0, |all| all.iter().filter(|one| is_stored(one)).count());
            server.tally.note_all(Happening::LateAppend, stored);
        })
    }

    fn nobody_hears_of<T>(&self, leases: &[Lease<T>]) {
        let tokens: Vec<_> = leases.iter().map(Lease::token).collect();
        self.tally.note_all(Happening::LateGrant, tokens.len());
        self.judge.are_adrift(&tokens);
        (self.unheard)(self.life.holder, tokens);
    }
}

/// The decorator.
pub(super) struct Abandoned {
    pub(super) inner: Queue,
    pub(super) server: Server,
}

#[async_trait]
impl WorkQueue for Abandoned {
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
        let Some(lateness) = self.server.is_abandoned().await else {
            return self.inner.claim_dispatches(now, limit, lease_until).await;
        };
        Err(self.server.carry_out_after(lateness, |server| async move {
            let left_out = |schema: &Schema| server.weather.is_ailing(Rows::Read(schema));
            for claim in server.memory.claim_some_dispatches((now, lease_until), limit, left_out) {
                server.nobody_hears_of(&claim.owed);
            }
        }))
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        let Some(lateness) = self.server.is_abandoned().await else {
            return self.inner.settle_dispatches(dispatched, now).await;
        };
        let work = dispatched.iter().map(copy_of_dispatched).collect();
        let error = self.server.carry_out_after(lateness, |server| async move {
            let schemas = dispatched.iter().map(|one| &one.lease.work().schema);
            if schemas.into_iter().any(|schema| server.weather.is_ailing(Rows::Written(schema))) {
                return;
            }
            let written = server.memory.settle_dispatches(dispatched, now).await.unwrap_or(0);
            server.tally.note_all(Happening::LateDispatch, usize::from(written > 0));
        });
        Err(Unsettled { work, error })
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        // For tests of endpoints, which nobody makes here.
        self.inner.append_directed(schema, event, delivery, now).await
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        match self.server.is_abandoned().await {
            None => self.inner.append_arrivals(schema, arrivals, now).await,
            Some(lateness) => Err(self.server.store_after(lateness, (schema.clone(), arrivals), now)),
        }
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        self.inner.due_endpoints(now).await
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        let Some(lateness) = self.server.is_abandoned().await else {
            return self.inner.claim_deliveries(now, quotas, lease_until).await;
        };
        let mut quotas = quotas.to_vec();
        Err(self.server.carry_out_after(lateness, |server| async move {
            quotas.retain(|quota| !server.weather.is_ailing(Rows::Read(&quota.schema)));
            for claim in server.memory.claim_some_deliveries((now, lease_until), &quotas, || false) {
                server.nobody_hears_of(&claim.work);
            }
        }))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        let Some(lateness) = self.server.is_abandoned().await else {
            return self.inner.settle(settlement).await;
        };
        let work = copy_of_settlement(&settlement);
        let error = self.server.carry_out_after(lateness, |server| async move {
            let DeliveryWork { schema, delivery_id, .. } = settlement.lease.work();
            if server.weather.is_ailing(Rows::Settled(schema, *delivery_id)) {
                return;
            }
            let settled = server.memory.settle(settlement).await;
            let is_recorded = matches!(settled, Ok(Settled::Recorded(_)));
            server.tally.note_all(Happening::LateRecord, usize::from(is_recorded));
        });
        Err(Unsettled { work, error })
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        let Some(lateness) = self.server.is_abandoned().await else {
            return self.inner.release(lease).await;
        };
        let work = copy_of_lease(&lease);
        let error = self.server.carry_out_after(lateness, |server| async move {
            drop(server.memory.release(lease).await);
        });
        Err(Unsettled { work, error })
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        let Some(lateness) = self.server.is_abandoned().await else {
            return self.inner.release_dispatches(leases).await;
        };
        // Whoever had them has dropped them.
        let tokens: Vec<_> = leases.iter().map(Lease::token).collect();
        self.server.judge.are_adrift(&tokens);
        (self.server.unheard)(self.server.life.holder, tokens);
        Err(self.server.carry_out_after(lateness, |server| async move {
            drop(server.memory.release_dispatches(leases).await);
        }))
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        let Some(lateness) = self.server.is_abandoned().await else {
            return self.inner.tend(now).await;
        };
        Err(self.server.carry_out_after(lateness, |server| async move {
            drop(server.memory.tend(now).await);
        }))
    }
}
