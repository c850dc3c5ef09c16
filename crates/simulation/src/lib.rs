#![doc = include_str!("../README.md")]

mod bugs;
mod clock;
pub mod effect;
mod happening;
mod judge;
mod layers;
mod life;
pub mod memory;
mod network;
mod options;
mod plan;
mod property;
mod random;
mod run;
mod shrink;
mod weather;
mod world;

pub use bugs::Bug;
pub use happening::Happening;
pub use options::{Options, STEPS_DEFAULT, Trouble};
pub use property::{Property, Violation};
pub use run::{Counts, Outcome, run};
pub use shrink::shrink;
