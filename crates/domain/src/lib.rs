#![doc = include_str!("../README.md")]

pub mod api_key;
pub mod catalogue;
pub mod delivery;
pub mod endpoint;
pub mod event;
mod event_json;
pub mod event_type;
pub mod filter;
pub mod headers;
pub mod id;
pub mod json;
pub mod matching;
pub mod payload;
pub mod profile;
pub mod request;
pub mod retry;
pub mod signing;
pub mod stats;
pub mod subscription;
pub mod tenant;
pub mod time;
pub mod violation;

pub use jiff::{SignedDuration, Timestamp};
pub use uuid::Uuid;
