//! The HTTP API of the real server, over real sockets on loopback: what it answers, and what it refuses with which
//! words.

mod batches;
mod deliveries;
mod endpoints;
mod event_types;
mod events;
mod operations;
mod refusals;
mod serving;
mod subscriptions;
mod support;
