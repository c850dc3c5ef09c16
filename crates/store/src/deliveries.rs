//! Looking at deliveries, and repairing them.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{Attempt, Delivery, DeliveryStatus, IllegalTransition},
    id::{DeliveryId, EndpointId, EventId, SubscriptionId},
    stats::EndpointStats,
    tenant::Schema,
};

use crate::{Page, PageRequest, StoreError, TimeRange};

/// Which deliveries; every condition that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    /// Of this event.
    pub event_id: Option<EventId>,
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// To endpoints that are bound to this context, deleted ones too.
    pub context_id: Option<Uuid>,
    /// In this state.
    pub status: Option<DeliveryStatus>,
    /// Created in this span.
    pub created: TimeRange,
}

/// A delivery, and what its endpoint decides about it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDelivery {
    /// The delivery.
    pub delivery: Delivery,
    /// Whether somebody delivers it.
    pub endpoint: EndpointStanding,
    /// The context that its endpoint is bound to, also if that is deleted.
    pub context_id: Option<Uuid>,
}

impl StoredDelivery {
    /// Whether it is not over and waits because its endpoint is inactive.
    pub const fn is_held(&self) -> bool {
        !self.delivery.state.is_final() && matches!(self.endpoint, EndpointStanding::Inactive)
    }

    /// Due at once, with an attempt left. There is nobody to deliver to once its endpoint is deleted.
    pub fn retried_now(self, now: Timestamp) -> Result<Delivery, IllegalTransition> {
        match self.endpoint {
            EndpointStanding::Deleted => Err(IllegalTransition::Retry(self.delivery.state.status())),
            EndpointStanding::Active | EndpointStanding::Inactive => self.delivery.retried_now(now),
        }
    }
}

/// Whether an endpoint is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointStanding {
    /// It is.
    Active,
    /// What it is owed is held.
    Inactive,
    /// What it is owed is cancelled.
    Deleted,
}

impl EndpointStanding {
    /// By its row.
    pub const fn of(is_active: bool, deleted_at: Option<Timestamp>) -> Self {
        match (deleted_at, is_active) {
            (Some(_), _) => Self::Deleted,
            (None, true) => Self::Active,
            (None, false) => Self::Inactive,
        }
    }
}

/// What became of an operation on one delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    /// Done; this is how it stands now.
    Done(Delivery),
    /// There is no such delivery.
    Missing,
    /// Its state does not allow that.
    Illegal(IllegalTransition),
}

/// When endpoints were last sent to and subscriptions last matched, collected over a few seconds.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// `last_used_at` by endpoint.
    pub endpoints: Vec<(EndpointId, Timestamp)>,
    /// `last_triggered_at` by subscription.
    pub subscriptions: Vec<(SubscriptionId, Timestamp)>,
}

/// Look at deliveries, cancel, retry, count.
#[async_trait]
pub trait DeliveryLog {
    /// One delivery, without its attempts.
    async fn delivery(&self, schema: &Schema, id: DeliveryId) -> Result<Option<StoredDelivery>, StoreError>;

    /// The attempts of a delivery, newest first: those that it counted when it was read, so that both are of one moment.
    async fn attempts(
        &self,
        schema: &Schema,
        delivery: &Delivery,
        page: PageRequest,
    ) -> Result<Page<Attempt>, StoreError>;

    /// Deliveries, newest first.
    async fn deliveries(
        &self,
        schema: &Schema,
        query: &DeliveryQuery,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError>;

    /// Ends a delivery with a reason, after the attempt in flight if there is one.
    async fn cancel_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Changed, StoreError>;

    /// Makes a delivery due now.
    async fn retry_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Changed, StoreError>;

    /// Statistics of an endpoint's deliveries created since a time, with constant memory.
    async fn endpoint_stats(
        &self,
        schema: &Schema,
        id: EndpointId,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError>;

    /// Notes last-used times; an older time never replaces a newer one, and revisions stay.
    async fn note_usage(&self, schema: &Schema, usage: Usage) -> Result<(), StoreError>;
}
