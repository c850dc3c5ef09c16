#![doc = include_str!("../README.md")]

mod catalogue;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deliveries;
mod error;
mod events;
mod lease;
mod migrations;
mod page;
mod queue;
mod tenants;

pub use catalogue::{
    Catalogue, CatalogueChanges, CatalogueVersion, EndpointQuery, EventTypeQuery, Inserted,
    SubscriptionQuery, Updated,
};
pub use deliveries::{Changed, DeliveryLog, DeliveryQuery, EndpointStanding, StoredDelivery, Usage};
pub use error::{Cause, StoreError};
pub use events::{AggregateQuery, Appended, EventLog, EventQuery, StoredEvent};
pub use lease::Lease;
pub use migrations::{MigrationStatus, MigrationStep};
pub use page::{Cursor, PAGE_BYTES_MAX, Page, PageRequest, SUBSCRIPTION_ID_WEIGHT, TimeRange};
pub use queue::{
    Arrival, DELIVERY_LEASE, DeliveryWork, DirectDelivery, DirectDispatch, DispatchClaim, Dispatched,
    DueEndpoint, EndpointClaim, EndpointQuota, HandOver, NewDelivery, OwedEvent, Settled, Settlement,
    Unsettled, WorkQueue,
};
pub use tenants::{ApiKeyQuery, KeyDigest, MasterKeyFingerprint, Tenants};

/// Whether the database serves.
#[async_trait::async_trait]
pub trait Health {
    /// Reads, and makes sure that a write would be taken.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// A backend: every role, usable from any task.
pub trait Store:
    EventLog + Catalogue + WorkQueue + DeliveryLog + Tenants + Health + Send + Sync + 'static
{
}

impl<T: EventLog + Catalogue + WorkQueue + DeliveryLog + Tenants + Health + Send + Sync + 'static> Store
    for T
{
}
