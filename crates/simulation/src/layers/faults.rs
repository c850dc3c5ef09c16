//! What goes wrong on the way to the store and back: calls fail before or after their effect, take long, and wake-ups
//! are lost. A failure is always one that the port allows: if its effect was done, of the kind "the connection broke
//! before the answer came". A success, too, may be less than was asked for.

use std::io;

use async_trait::async_trait;
use neo_events_domain::{Timestamp, event::NewEvent, tenant::Schema};
use neo_events_store::{
    Appended, Arrival, Cause, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim,
    EndpointQuota, Lease, NewDelivery, OwedEvent, Settled, Settlement, StoreError, Unsettled, WorkQueue,
};

use super::{Unheard, transit::InTransit};
use crate::{
    happening::{Happening, Tally},
    judge::Judge,
    life::Life,
    memory::MemoryStore,
    weather::{Failing, Moment, Rows, Weather},
};

/// The decorator.
pub(super) struct Faults {
    pub(super) inner: MemoryStore,
    pub(super) life: Life,
    pub(super) weather: Weather,
    pub(super) judge: Judge,
    pub(super) tally: Tally,
    pub(super) unheard: Unheard,
    /// What could not be settled stays with its holder, whatever its lease says, until that gives it back.
    pub(super) keeps_unsettled: bool,
}

/// What the port calls it.
pub(crate) fn error_of(failing: Failing) -> StoreError {
    let cause = |kind: io::ErrorKind| -> Cause { Box::new(io::Error::from(kind)) };
    match failing {
        Failing::Unreachable => StoreError::Unavailable(cause(io::ErrorKind::ConnectionReset)),
        Failing::Full => StoreError::Full(cause(io::ErrorKind::StorageFull)),
        Failing::ReadOnly => StoreError::ReadOnly(cause(io::ErrorKind::ReadOnlyFilesystem)),
        Failing::Broken => StoreError::Broken(cause(io::ErrorKind::InvalidData)),
    }
}

impl Faults {
    async fn before(&self, rows: Rows<'_>) -> Result<(), StoreError> {
        self.weather.pass(self.life.node, Moment::Before(rows)).await.map_err(error_of)?;
        self.life.go_on().await;
        Ok(())
    }

    async fn after(&self) -> Result<(), StoreError> {
        self.life.go_on_or(|| self.tally.note(Happening::CrashBeforeAnswer)).await;
        self.weather.pass(self.life.node, Moment::After).await.map_err(error_of)
    }

    fn unheard_of(&self, tokens: impl Iterator<Item = u64>, what: Happening) {
        let tokens: Vec<_> = tokens.collect();
        self.tally.note_all(what, tokens.len());
        self.judge.are_adrift(&tokens);
        (self.unheard)(self.life.holder, tokens);
    }

    /// Of what could be done as an event is stored, the store may leave out what it likes.
    fn leave_out(&self, arrival: &mut Arrival) {
        if arrival.dispatch.is_some() && self.leaves_out(Happening::DispatchLeftOut) {
            arrival.dispatch = None;
        }
        let deliveries = arrival.dispatch.iter_mut().flat_map(|dispatch| &mut dispatch.deliveries);
        for direct in deliveries.filter(|direct| direct.is_taken) {
            direct.is_taken = !self.leaves_out(Happening::LeaseLeftOut);
        }
    }

    fn leaves_out(&self, what: Happening) -> bool {
        let is_left_out = self.weather.is_partial();
        self.tally.note_all(what, usize::from(is_left_out));
        is_left_out
    }
}

#[async_trait]
impl WorkQueue for Faults {
    async fn dispatch_hinted(&self) {
        loop {
            self.inner.dispatch_hinted().await;
            if !self.weather.hint_is_lost(self.life.node) {
                return;
            }
        }
    }

    async fn deliveries_hinted(&self) {
        loop {
            self.inner.deliveries_hinted().await;
            if !self.weather.hint_is_lost(self.life.node) {
                return;
            }
        }
    }

    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError> {
        self.before(Rows::OfAll).await?;
        let left_out = |schema: &Schema| {
            self.weather.is_ailing(Rows::Read(schema)) || self.leaves_out(Happening::RowPassedOver)
        };
        let claims = self.inner.claim_some_dispatches((now, lease_until), limit, left_out);
        self.after().await.inspect_err(|_| {
            let tokens = claims.iter().flat_map(|claim| claim.owed.iter().map(Lease::token));
            self.unheard_of(tokens, Happening::ClaimLost);
        })?;
        Ok(claims)
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        let Some(schema) = dispatched.first().map(|first| first.lease.work().schema.clone()) else {
            return Ok(0);
        };
        if let Err(error) = self.before(Rows::Written(&schema)).await {
            return Err(Unsettled { work: dispatched, error });
        }
        let work: Vec<_> = dispatched.iter().map(copy_of_dispatched).collect();
        let written = self.inner.settle_dispatches(dispatched, now).await?;
        self.after().await.map_err(|error| Unsettled { work, error })?;
        Ok(written)
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        self.before(Rows::Written(schema)).await?;
        let appended = self.inner.append_directed(schema, event, delivery, now).await?;
        self.after().await?;
        Ok(appended)
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        mut arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        self.before(Rows::Written(schema)).await?;
        let in_transit = InTransit::of(&self.life, &self.judge);
        for arrival in &mut arrivals {
            self.leave_out(arrival);
            arrival.dispatch.iter_mut().for_each(|dispatch| in_transit.hold_back(dispatch));
        }
        let appended = self.inner.append_arrivals(schema, arrivals, now).await?;
        self.after().await.inspect_err(|_| {
            self.unheard_of(in_transit.lose().into_iter(), Happening::HandOverLost);
        })?;
        Ok(appended)
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        self.before(Rows::OfAll).await?;
        let mut due = self.inner.due_endpoints(now).await?;
        due.retain(|due| !self.weather.is_ailing(Rows::Read(&due.schema)));
        self.after().await?;
        Ok(due)
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        self.before(Rows::OfAll).await?;
        let mut quotas = quotas.to_vec();
        quotas.retain(|quota| !self.weather.leaves_out(&quota.schema));
        let passed_over = || self.leaves_out(Happening::RowPassedOver);
        let claims = self.inner.claim_some_deliveries((now, lease_until), &quotas, passed_over);
        self.after().await.inspect_err(|_| {
            let tokens = claims.iter().flat_map(|claim| claim.work.iter().map(Lease::token));
            self.unheard_of(tokens, Happening::ClaimLost);
        })?;
        Ok(claims)
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        let DeliveryWork { schema, delivery_id, .. } = settlement.lease.work();
        if let Err(error) = self.before(Rows::Settled(schema, *delivery_id)).await {
            if self.keeps_unsettled {
                self.tally.note(Happening::KeptUnsettled);
                self.inner.keep_without_expiry(&settlement.lease);
            }
            return Err(Unsettled { work: settlement, error });
        }
        let work = copy_of_settlement(&settlement);
        let settled = self.inner.settle(settlement).await?;
        self.after().await.map_err(|error| Unsettled { work, error })?;
        Ok(settled)
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        if let Err(error) = self.before(Rows::OfAll).await {
            // A store that keeps what was not settled keeps it in memory: giving it back fails only for a while.
            let error = if self.keeps_unsettled { error_of(Failing::Unreachable) } else { error };
            return Err(Unsettled { work: lease, error });
        }
        let work = copy_of_lease(&lease);
        self.inner.release(lease).await?;
        self.after().await.map_err(|error| Unsettled { work, error })
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        let tokens: Vec<_> = leases.iter().map(Lease::token).collect();
        let released = async {
            self.before(Rows::OfAll).await?;
            self.inner.release_dispatches(leases).await?;
            self.after().await
        };
        // Whoever had them has dropped them.
        released.await.inspect_err(|_| self.unheard_of(tokens.into_iter(), Happening::ClaimLost))
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.before(Rows::OfAll).await?;
        let more = self.inner.tend(now).await?;
        self.after().await?;
        Ok(more)
    }
}

/// The same lease, for other work or none.
pub(crate) fn regrant<T, U>(lease: &Lease<T>, work: U) -> Lease<U> {
    Lease::grant(lease.key(), lease.token(), lease.expires_at(), work)
}

pub(crate) fn copy_of_work(work: &DeliveryWork) -> DeliveryWork {
    DeliveryWork {
        schema: work.schema.clone(),
        delivery_id: work.delivery_id,
        endpoint_id: work.endpoint_id,
        event: work.event.clone(),
        progress: work.progress,
        retry: work.retry,
    }
}

pub(super) fn copy_of_lease(lease: &Lease<DeliveryWork>) -> Lease<DeliveryWork> {
    regrant(lease, copy_of_work(lease.work()))
}

pub(super) fn copy_of_settlement(settlement: &Settlement) -> Settlement {
    let lease = copy_of_lease(&settlement.lease);
    Settlement { lease, attempt: settlement.attempt.clone(), verdict: settlement.verdict }
}

pub(crate) fn copy_of_dispatched(dispatched: &Dispatched) -> Dispatched {
    let OwedEvent { schema, event } = dispatched.lease.work();
    let work = OwedEvent { schema: schema.clone(), event: event.clone() };
    Dispatched { lease: regrant(&dispatched.lease, work), deliveries: dispatched.deliveries.clone() }
}
