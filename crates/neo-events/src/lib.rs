#![doc = include_str!("../README.md")]

mod backend;
mod builder;
mod context;
mod deliveries;
mod directory;
mod endpoints;
mod error;
mod event_types;
mod events;
mod history;
mod key_memory;
mod long_calls;
pub mod maintenance;
mod master_key;
mod publishing;
mod publishing_postgres;
mod running;
mod strangers;
mod subscriptions;
mod tenant;
mod transport;
mod verification;

pub use builder::{Builder, StartError};
pub use directory::{CreatedApiKey, Directory, KeyText};
pub use endpoints::{CreatedEndpoint, ROTATION_OVERLAP_MAX, RotatedSecret};
pub use error::{Conflict, Error};
pub use events::EventPages;
pub use history::{DeliveryHistory, HISTORY_ATTEMPTS_MAX};
pub use long_calls::{Busy, LongCall};
pub use publishing::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, Published};
pub use running::NeoEvents;
pub use subscriptions::{EventSource, Explanation, FilterSource};
pub use tenant::Tenant;
pub use verification::{ConnectivityReport, VerificationReport};

pub use neo_events_domain::{
    self as domain, SignedDuration, Timestamp, Uuid,
    api_key::{ApiKey, ApiKeyDraft, Scope, Scopes},
    catalogue::{EventTypeDraft, EventTypeEntry, EventTypePatch},
    delivery::{Attempt, Delivery, DeliveryState, DeliveryStatus},
    endpoint::{Endpoint, EndpointDraft, EndpointPatch, Profile, RetryPreset},
    event::{DomainEvent, EventDraft},
    filter::Clause,
    retry::FailureCode,
    signing::SigningSecret,
    stats::EndpointStats,
    subscription::{Subscription, SubscriptionDraft, SubscriptionPatch},
    tenant::{Schema, Tenant as TenantRecord, TenantDraft},
};
pub use neo_events_egress::{
    ConnectionStats, Lookup, Resolve, ResolveError, Resolved, TargetPolicy, Timings,
};
pub use neo_events_engine::{Clock, MasterKey, Passes, Random, Shutdown, Sources, SystemClock, SystemRandom};
pub use neo_events_store::{
    ApiKeyQuery, Cursor, DeliveryQuery, EndpointQuery, EndpointStanding, EventQuery, EventTypeQuery, Page,
    PageRequest, StoreError, StoredDelivery, StoredEvent, SubscriptionQuery, TimeRange,
};
/// The driver whose transactions [`Tenant::publish_in_postgres`] takes.
pub use neo_events_store_postgres::tokio_postgres;
/// The driver whose transactions [`Tenant::publish_in`] takes.
pub use neo_events_store_sqlite::rusqlite;
