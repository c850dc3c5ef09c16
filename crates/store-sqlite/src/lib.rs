#![doc = include_str!("../README.md")]

mod api_keys;
mod attempts;
mod catalogue;
mod columns;
mod deliveries;
mod delivery_log;
mod direct;
mod dispatches;
mod endpoints;
mod event_types;
mod events;
mod failure;
mod inspect;
mod leases;
mod left_log;
mod log;
mod log_limit;
mod look;
mod open;
mod page;
mod queue;
mod readers;
mod repair;
mod scope;
mod settle;
mod sql;
mod store;
mod subscriptions;
mod tenant_file;
mod tenant_files;
mod tenants;
mod tend;
mod turn;
mod writer;

pub use inspect::{FileFacts, FileMigrations, UnreadableFile, inspect, migrate, migration_status};
pub use open::{OpenError, SqliteOptions};
/// The driver, for programs that publish inside transactions of their own.
pub use rusqlite;
pub use store::SqliteStore;
