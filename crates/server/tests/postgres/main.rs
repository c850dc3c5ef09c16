//! The server on PostgreSQL, as real processes on real databases: many nodes on one database, nodes that die and nodes
//! that hang, a database that dies, hangs, is locked, is far away, has no room, or is none that can be used.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod encryption;
mod failover;
mod full_disk;
mod locks;
mod network;
mod nodes;
mod outages;
#[path = "../process/mod.rs"]
mod process;
mod refusals;
mod roles;
mod sql;
mod subscriptions;
mod tenants;
