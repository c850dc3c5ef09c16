//! Event types, endpoints and subscriptions.
//!
//! Writes are optimistic: an entity carries its revision, an update names the one it read, and a stale one is
//! answered as such, to be read and decided again.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    catalogue::EventTypeEntry,
    endpoint::Endpoint,
    event_type::EventType,
    id::{EndpointId, SubscriptionId},
    subscription::Subscription,
    tenant::Schema,
};

use crate::{Page, PageRequest, StoreError};

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is there now.
    New,
    /// Something with the same unique key was there already.
    Exists,
    /// It refers to an endpoint that is not there.
    EndpointMissing,
    /// It refers to an event type that is disabled.
    TypeDisabled,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    /// Written.
    Written,
    /// Somebody else wrote since it was read: read and decide again.
    Stale,
    /// It is not there (any more).
    Missing,
    /// It would refer to an event type that is disabled.
    TypeDisabled,
}

/// Counts the changes to a schema's endpoints and subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CatalogueVersion(pub u64);

/// What changed since a version: enough to bring a matcher up to date.
#[derive(Debug, Clone, Default)]
pub struct CatalogueChanges {
    /// The version that these changes lead to. If it is less than the one that was asked about, the catalogue may not
    /// be the one of that version any more, since the database has gone back to an earlier state, in a failover
    /// perhaps: then everything is to be forgotten and read again from the beginning.
    pub version: CatalogueVersion,
    /// Whether more changes follow after `version`.
    pub more: bool,
    /// Endpoints as they are now.
    pub endpoints: Vec<Endpoint>,
    /// Subscriptions as they are now.
    pub subscriptions: Vec<Subscription>,
    /// Endpoints that were deleted, and with them their subscriptions.
    pub deleted_endpoints: Vec<EndpointId>,
    /// Subscriptions that were deleted.
    pub deleted_subscriptions: Vec<SubscriptionId>,
}

/// Which event types; every condition that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct EventTypeQuery {
    /// Of this category.
    pub category: Option<String>,
    /// Enabled or not.
    pub is_enabled: Option<bool>,
}

/// Which endpoints; every condition that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct EndpointQuery {
    /// Bound to this context.
    pub context_id: Option<Uuid>,
    /// Active or not.
    pub is_active: Option<bool>,
    /// With an active subscription whose pattern matches this type.
    pub event_type: Option<EventType>,
}

/// Which subscriptions; every condition that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct SubscriptionQuery {
    /// Of this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Bound to this context.
    pub context_id: Option<Uuid>,
    /// Active or not.
    pub is_active: Option<bool>,
}

/// Event types, endpoints and subscriptions. Lists are newest first.
#[async_trait]
pub trait Catalogue {
    /// Adds an entry; `Exists` if its type has one.
    async fn insert_event_type(
        &self,
        schema: &Schema,
        entry: &EventTypeEntry,
    ) -> Result<Inserted, StoreError>;
    /// Adds the entries that a new schema starts with, once in its life: deleted ones do not come back.
    async fn seed_event_types(&self, schema: &Schema, entries: &[EventTypeEntry]) -> Result<(), StoreError>;
    /// The entry of a type.
    async fn event_type(&self, schema: &Schema, of: &EventType)
    -> Result<Option<EventTypeEntry>, StoreError>;
    /// Entries.
    async fn event_types(
        &self,
        schema: &Schema,
        query: &EventTypeQuery,
        page: PageRequest,
    ) -> Result<Page<EventTypeEntry>, StoreError>;
    /// The categories of all entries, sorted.
    async fn categories(&self, schema: &Schema) -> Result<Vec<String>, StoreError>;
    /// Writes `entry`, whose revision is one more than the one that was read.
    async fn update_event_type(&self, schema: &Schema, entry: &EventTypeEntry)
    -> Result<Updated, StoreError>;
    /// Removes an entry; `false` if there was none. Events and subscriptions of the type stay.
    async fn delete_event_type(&self, schema: &Schema, of: &EventType) -> Result<bool, StoreError>;

    /// Adds an endpoint with its secrets.
    async fn insert_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Inserted, StoreError>;
    /// One endpoint with its secrets.
    async fn endpoint(&self, schema: &Schema, id: EndpointId) -> Result<Option<Endpoint>, StoreError>;
    /// Endpoints.
    async fn endpoints(
        &self,
        schema: &Schema,
        query: &EndpointQuery,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError>;
    /// Writes `endpoint` and its secrets, whose revision is one more than the one that was read.
    async fn update_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Updated, StoreError>;
    /// Deletes an endpoint and its subscriptions; `false` if it was not there. Its deliveries that are not over are
    /// cancelled, by [`crate::WorkQueue::tend`] where they are many.
    async fn delete_endpoint(
        &self,
        schema: &Schema,
        id: EndpointId,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Adds a subscription.
    async fn insert_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Inserted, StoreError>;
    /// One subscription.
    async fn subscription(
        &self,
        schema: &Schema,
        id: SubscriptionId,
    ) -> Result<Option<Subscription>, StoreError>;
    /// Subscriptions.
    async fn subscriptions(
        &self,
        schema: &Schema,
        query: &SubscriptionQuery,
        page: PageRequest,
    ) -> Result<Page<Subscription>, StoreError>;
    /// Writes `subscription`, whose revision is one more than the one that was read.
    async fn update_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Updated, StoreError>;
    /// Deletes a subscription; `false` if it was not there.
    async fn delete_subscription(&self, schema: &Schema, id: SubscriptionId) -> Result<bool, StoreError>;

    /// The sealed secret that was stored last, of any endpoint that is not deleted: whoever holds the master key can
    /// tell by it whether it is the right one.
    async fn any_sealed_secret(&self, schema: &Schema) -> Result<Option<(EndpointId, Vec<u8>)>, StoreError>;

    /// What changed since a version, in order, at most `limit` rows at a time.
    async fn catalogue_changes(
        &self,
        schema: &Schema,
        since: CatalogueVersion,
        limit: u32,
    ) -> Result<CatalogueChanges, StoreError>;
}
