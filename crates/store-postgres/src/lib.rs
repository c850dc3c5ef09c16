#![doc = include_str!("../README.md")]

mod api_keys;
mod append;
mod attempts;
mod backed_off_tenants;
mod batch;
mod cache;
mod catalogue;
mod columns;
mod conn;
mod connections;
mod deliveries;
mod delivery_claims;
mod delivery_log;
mod direct;
mod dispatches;
mod doctor;
mod endpoints;
mod event_types;
mod events;
mod failure;
mod floors;
mod hints;
mod horizon;
mod lease;
mod lost;
mod migrate;
mod open;
mod optimistic;
mod page;
mod publishing;
mod queue;
mod repair;
mod sessions;
mod settle;
mod sql;
mod store;
mod subscriptions;
mod tenants;
mod tend;
mod tls;

pub use doctor::{Backlog, Encryption, OldTransaction, ServerFacts, inspect};
pub use open::{OpenError, PLANNING_OF_WORK, PostgresOptions, migrate, migration_status};
pub use publishing::{NotRecorded, Parameter, Recorded, Recording, ServerError};
pub use store::PostgresStore;
/// The driver whose transactions callers publish in.
pub use tokio_postgres;
