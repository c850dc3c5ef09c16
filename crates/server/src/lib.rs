#![doc = include_str!("../README.md")]

// All modules of the binary are declared here, those of the command line too: `main.rs` only calls in, and
// `tests/` can start the real server.
mod api;
mod bench;
pub mod cli;
mod client;
mod credentials;
mod demo;
mod problem;
pub mod serve;
pub mod settings;
mod webhook_receiver;
mod wire;

pub use api::{Needs, Route, route_table};
