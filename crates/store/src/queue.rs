//! The work queue: what is owed, claimed by lease, settled once.
//!
//! Two kinds of rows are owed. An event owes its *dispatch* until its deliveries are written; a delivery owes its next
//! *attempt* until its state is final. Claiming takes no more than the caller has room for, and for deliveries says
//! how many from each endpoint, so that a bad endpoint's backlog stays in the database.

use std::sync::Arc;

use async_trait::async_trait;
use neo_events_domain::{
    SignedDuration, Timestamp,
    delivery::{AttemptRecord, DeliveryState, Trigger},
    endpoint::{Endpoint, TIMEOUT_SECONDS_MAX},
    event::{DomainEvent, NewEvent},
    id::{DeliveryId, EndpointId, SubscriptionId},
    retry::{Progress, RetryPolicy, Verdict},
    tenant::Schema,
};

use crate::{Appended, CatalogueVersion, Lease, StoreError};

/// How long an attempt may hold its lease: the longest timeout of an endpoint, and time to wait for its turn before and
/// to settle after that.
pub const DELIVERY_LEASE: SignedDuration = SignedDuration::from_secs(TIMEOUT_SECONDS_MAX as i64 + 60);

/// An event that owes its dispatch.
#[derive(Debug)]
pub struct OwedEvent {
    /// Whose.
    pub schema: Schema,
    /// The event.
    pub event: Arc<DomainEvent>,
}

/// Claimed dispatches of one schema, oldest first.
#[derive(Debug)]
pub struct DispatchClaim {
    /// Whose.
    pub schema: Schema,
    /// The matcher must know the catalogue at least up to here.
    pub catalogue_version: CatalogueVersion,
    /// The events.
    pub owed: Vec<Lease<OwedEvent>>,
}

/// A delivery to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDelivery {
    /// UUIDv7.
    pub id: DeliveryId,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// Why.
    pub trigger: Trigger,
    /// Which subscriptions matched.
    pub subscription_ids: Vec<SubscriptionId>,
    /// Attempts in all.
    pub max_attempts: u32,
    /// The endpoint's settings.
    pub retry: RetryPolicy,
}

/// An event with the deliveries that matching found.
#[derive(Debug)]
pub struct Dispatched {
    /// The claimed event.
    pub lease: Lease<OwedEvent>,
    /// One for each endpoint; none if nobody wants it.
    pub deliveries: Vec<NewDelivery>,
}

/// An event to be stored whose matches the publishing node has found already, if it could.
pub struct Arrival {
    /// What to store.
    pub event: NewEvent,
    /// What to do with it; `None`: its dispatch is owed.
    pub dispatch: Option<DirectDispatch>,
}

impl From<NewEvent> for Arrival {
    fn from(event: NewEvent) -> Self {
        Self { event, dispatch: None }
    }
}

/// The dispatch of an event at the moment of its publishing, in the same transaction.
pub struct DirectDispatch {
    /// The catalogue that matching knew. If the store's is another, the dispatch is owed instead.
    pub catalogue_version: CatalogueVersion,
    /// One for each endpoint; none if nobody wants it.
    pub deliveries: Vec<DirectDelivery>,
    /// Until when taken deliveries are leased; a store may make it a few microseconds later.
    pub lease_until: Timestamp,
    /// Called after the commit, and only if the deliveries were written, with the leases of those that were taken, in
    /// their order; fewer or none if the store could not grant them. It must not block. Whoever published may have gone
    /// away by then: what was leased is in good hands all the same.
    pub hand_over: HandOver,
}

/// Takes what was leased.
pub type HandOver = Box<dyn FnOnce(Vec<Lease<DeliveryWork>>) + Send + Sync>;

/// A delivery of a [`DirectDispatch`].
#[derive(Debug, Clone, PartialEq)]
pub struct DirectDelivery {
    /// What to write.
    pub delivery: NewDelivery,
    /// Whether the caller has room for it now: it is leased as it is written.
    pub is_taken: bool,
}

/// An endpoint that owes deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DueEndpoint {
    /// Whose.
    pub schema: Schema,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// When its earliest unclaimed delivery is due; may lie in the past.
    pub due_at: Timestamp,
}

/// How many deliveries of an endpoint the caller has room for.
#[derive(Debug, Clone)]
pub struct EndpointQuota {
    /// Whose.
    pub schema: Schema,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Most to claim.
    pub max: u32,
}

/// Claimed deliveries of one endpoint, due first.
#[derive(Debug)]
pub struct EndpointClaim {
    /// Whose.
    pub schema: Schema,
    /// The endpoint as it is now.
    pub endpoint: Arc<Endpoint>,
    /// The deliveries.
    pub work: Vec<Lease<DeliveryWork>>,
    /// When its earliest delivery that is still unclaimed is due, if there is one.
    pub next_due_at: Option<Timestamp>,
}

/// A delivery to attempt.
#[derive(Debug)]
pub struct DeliveryWork {
    /// Whose.
    pub schema: Schema,
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// What to send.
    pub event: Arc<DomainEvent>,
    /// Which attempt this will be.
    pub progress: Progress,
    /// When to try again.
    pub retry: RetryPolicy,
}

impl DeliveryWork {
    /// The first attempt of a delivery that is being written.
    pub fn first(schema: &Schema, event: &Arc<DomainEvent>, delivery: &NewDelivery) -> Self {
        Self {
            schema: schema.clone(),
            delivery_id: delivery.id,
            endpoint_id: delivery.endpoint_id,
            event: Arc::clone(event),
            progress: Progress { attempt: 1, max_attempts: delivery.max_attempts },
            retry: delivery.retry,
        }
    }
}

/// An attempt with what it means, to be recorded.
#[derive(Debug)]
pub struct Settlement {
    /// The claimed delivery.
    pub lease: Lease<DeliveryWork>,
    /// What happened.
    pub attempt: AttemptRecord,
    /// What it means. [`Verdict::Gone`] also disables the endpoint, unless its URL was changed or it was activated
    /// again since the attempt began.
    pub verdict: Verdict,
}

/// What became of a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Recorded; the delivery is in this state now.
    Recorded(DeliveryState),
    /// The lease had expired and somebody else claimed the work. Nothing was recorded.
    LeaseLost,
}

/// A settlement that could not be stored, given back to be tried again.
#[derive(Debug)]
pub struct Unsettled<T> {
    /// What was to be settled.
    pub work: T,
    /// Why it was not.
    pub error: StoreError,
}

/// Claim, settle and release what is owed.
#[async_trait]
pub trait WorkQueue {
    /// Resolves when there may be new events to dispatch. A hint: it may be late, spurious or never come.
    async fn dispatch_hinted(&self);

    /// Resolves when another process may have written deliveries. A hint, as above; where there is no other process, it
    /// never comes.
    async fn deliveries_hinted(&self) {
        std::future::pending::<()>().await;
    }

    /// Claims up to `limit` owed dispatches until `lease_until`, each schema's oldest first, in one claim per
    /// schema. One whose data cannot be read is left out. Whether schemas take turns, so that one's backlog does not
    /// keep another's waiting, is the backend's to say: SQLite's do, PostgreSQL's are served in the order of their
    /// events.
    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError>;

    /// Writes the deliveries of each event, due at once, and ends its owed dispatch, in one transaction. All are of one
    /// schema. An event whose lease was lost is skipped. Answers how many deliveries were written.
    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>>;

    /// Stores an event that goes to one endpoint alone and owes no dispatch, with its delivery.
    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError>;

    /// Stores events as [`EventLog::append`](crate::EventLog::append) does, and in the same transaction writes the
    /// deliveries of those that come with their dispatch. An event that is not stored has none; one whose catalogue is
    /// not the store's owes its dispatch, and so may any other: doing it here is a shorter way, not another one.
    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError>;

    /// Every endpoint with unclaimed deliveries that are not over, active and present ones only. The truth behind all
    /// hints about who is due.
    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError>;

    /// Claims due deliveries until `lease_until`, at most each quota's `max` from its endpoint. An endpoint that is
    /// gone or inactive, or whose schema is not there, is left out of the answer.
    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError>;

    /// Records an attempt and what it means, in one transaction. If that fails, the work is not claimed again while
    /// its holder tries to settle it.
    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>>;

    /// Gives work back unattempted: it can be claimed again at once. If that fails, its holder has it still.
    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>>;

    /// Gives owed dispatches back.
    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError>;

    /// Finishes what was begun, a bounded step at a time: cancels deliveries of deleted endpoints and those whose
    /// cancellation waited for an attempt that never ended, and brings back what a clock that ran ahead put off:
    /// whatever is due later than any policy says ([`DUE_AHEAD_MAX`](neo_events_domain::retry::DUE_AHEAD_MAX)), and
    /// what was never attempted and is not due at once
    /// ([`FIRST_DUE_AHEAD_MAX`](neo_events_domain::retry::FIRST_DUE_AHEAD_MAX)). The latter may be looked for only when
    /// a clock may have been set: as a store is opened, and now and then where others write, too. Answers whether more
    /// is left.
    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError>;
}
