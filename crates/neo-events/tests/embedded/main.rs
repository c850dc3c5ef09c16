//! The whole library, on a real SQLite file and real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clocks;
mod contexts;
mod holding;
mod judged_by_others;
mod keys;
mod leaving;
mod limits;
mod outcomes;
mod publishing;
mod receiver;
mod starting;
mod stopping;
mod targets;
mod transactions;
mod unrecorded;
mod world;
