#![doc = include_str!("../README.md")]

mod api_keys;
mod append;
mod attempts;
mod batch;
mod cancel;
mod catalogue;
mod columns;
mod conn;
mod deliveries;
mod delivery_log;
mod dispatches;
mod endpoints;
mod event_types;
mod events;
mod failure;
mod migrate;
mod open;
mod page;
mod queue;
mod sessions;
mod settle;
mod sql;
mod store;
mod subscriptions;
mod tenants;
mod tend;
mod tls;

pub use migrate::MigrationStatus;
pub use open::{OpenError, PostgresOptions, ServerFacts, migrate, migration_status};
pub use store::PostgresStore;
/// The driver whose transactions callers publish in.
pub use tokio_postgres;
