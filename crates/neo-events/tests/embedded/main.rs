//! The whole library, on a real SQLite file and real sockets.

mod holding;
mod judged_by_others;
mod outcomes;
mod publishing;
mod receiver;
mod stopping;
mod targets;
mod world;
