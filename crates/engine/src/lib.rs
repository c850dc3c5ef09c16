#![doc = include_str!("../README.md")]

mod admission;
mod deliver;
mod direct;
mod dispatch;
mod handle;
mod keyring;
mod registry;
mod sources;
mod stop;
mod supervisor;
mod transport;
mod usage;
mod watched;
mod webhook;

pub use handle::EngineHandle;
pub use keyring::{Keyring, KeyringError, MasterKey};
pub use sources::{Clock, Random, Sources, SystemClock, SystemRandom};
pub use stop::Shutdown;
pub use supervisor::{Engine, Passes};
pub use transport::{Transport, TransportReport, TransportRequest};
pub use watched::DeliveryWatch;
