#![doc = include_str!("../README.md")]

mod address;
mod body;
mod client;
mod config;
mod connect;
mod connection;
mod failure;
mod http2;
mod keep_alive;
mod policy;
mod pool;
mod probe;
mod redirect;
mod resolve;
mod stats;
mod stream;
mod system_resolver;
mod target;
mod tls;

pub use client::{Egress, Request, Response};
pub use config::{EgressConfig, EgressError};
pub use failure::{Failure, FailureKind};
pub use policy::{RefusalReason, TargetPolicy, TargetRefused, URL_BYTES_MAX};
pub use probe::{ProbeOutcome, ProbeReport};
pub use resolve::{Lookup, Resolve, ResolveError, Resolved};
pub use stats::{ConnectionStats, Timings};
pub use target::{Scheme, Target};
