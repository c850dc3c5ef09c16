//! The HTTP API of the real server, over real sockets on loopback: what it answers, and what it refuses with which
//! words.

#[path = "sqlite.rs"]
mod database;

mod access;
mod batches;
mod crowds;
mod cursors;
mod deliveries;
mod endpoints;
mod event_types;
mod events;
mod fuzz;
mod isolation;
mod operations;
mod refusals;
mod serving;
mod slow;
mod subscriptions;
mod support;
mod tenants;
