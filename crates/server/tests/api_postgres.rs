//! The tests of the HTTP API once more, on PostgreSQL: what a client sees is the same.

#[path = "api/postgres.rs"]
mod database;

#[path = "api/access.rs"]
mod access;
#[path = "api/batches.rs"]
mod batches;
#[path = "api/crowds.rs"]
mod crowds;
#[path = "api/cursors.rs"]
mod cursors;
#[path = "api/deliveries.rs"]
mod deliveries;
#[path = "api/endpoints.rs"]
mod endpoints;
#[path = "api/event_types.rs"]
mod event_types;
#[path = "api/events.rs"]
mod events;
#[path = "api/fuzz.rs"]
mod fuzz;
#[path = "api/isolation.rs"]
mod isolation;
#[path = "api/operations.rs"]
mod operations;
#[path = "api/refusals.rs"]
mod refusals;
#[path = "api/serving.rs"]
mod serving;
#[path = "api/subscriptions.rs"]
mod subscriptions;
#[path = "api/support.rs"]
mod support;
#[path = "api/tenants.rs"]
mod tenants;
