#![doc = include_str!("../README.md")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod account;
mod certificate;
mod cluster;
mod connection;
mod database;
mod home;
mod installation;
mod processes;
mod server;
mod shared;
mod watchdog;

pub use cluster::Cluster;
pub use connection::execute;
pub use database::{Database, Role};
pub use shared::{SharedCluster, database};
