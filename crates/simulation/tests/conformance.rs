//! The model store is a store: it passes the suite that every backend passes.

use std::future::{Ready, ready};

use neo_events_simulation::memory::MemoryStore;

fn make_store() -> Ready<(MemoryStore, ())> {
    ready((MemoryStore::default(), ()))
}

neo_events_store::conformance_tests!(make_store);
