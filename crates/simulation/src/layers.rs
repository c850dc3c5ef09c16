//! How a node sees the store: the model, and around its work queue decorators: for what goes wrong on the way, for calls
//! that nobody waits for any more, for a planted bug, and one that lets the judge see what the engine does.

mod abandoned;
mod faults;
mod gate;
mod joined;
mod transit;
mod turnstile;

use std::sync::Arc;

use neo_events_engine::Sources;
use neo_events_store::{Store, WorkQueue};

use crate::{
    bugs::{Bug, Planted},
    happening::Tally,
    judge::Judge,
    life::Life,
    memory::{Holder, MemoryStore},
    weather::Weather,
};
pub(crate) use abandoned::Stragglers;
use abandoned::{Abandoned, Server};
use faults::Faults;
pub(crate) use faults::{copy_of_dispatched, copy_of_work, regrant};
use gate::Gate;
use joined::Joined;
use turnstile::Turnstile;

/// A work queue that can be decorated.
pub(crate) type Queue = Arc<dyn WorkQueue + Send + Sync>;

/// Who is told of leases that were granted and not heard of: who granted them frees them after a while.
pub(crate) type Unheard = Arc<dyn Fn(Holder, Vec<u64>) + Send + Sync>;

/// What a node's store is made of.
pub(crate) struct Layers {
    pub(crate) life: Life,
    pub(crate) memory: MemoryStore,
    pub(crate) weather: Weather,
    pub(crate) judge: Judge,
    pub(crate) tally: Tally,
    pub(crate) sources: Sources,
    pub(crate) bug: Option<Bug>,
    pub(crate) unheard: Unheard,
    pub(crate) stragglers: Stragglers,
    /// Whether what could not be settled stays with its holder until that gives it back.
    pub(crate) keeps_unsettled: bool,
}

impl Layers {
    /// Puts them together.
    pub(crate) fn stack(self) -> Arc<dyn Store> {
        let Self { life, memory, weather, judge, tally, sources, bug, unheard, stragglers, keeps_unsettled } =
            self;
        let server = Server {
            memory: memory.clone(),
            life: life.clone(),
            weather: weather.clone(),
            judge: judge.clone(),
            tally: tally.clone(),
            unheard: Arc::clone(&unheard),
            stragglers,
            // What stays with its holder is in a file.
            is_remote: !keeps_unsettled,
        };
        let faults = Faults {
            inner: memory.clone(),
            life: life.clone(),
            weather: weather.clone(),
            judge: judge.clone(),
            tally,
            unheard,
            keeps_unsettled,
        };
        let mut queue: Queue = Arc::new(Abandoned { inner: Arc::new(faults), server: server.clone() });
        if let Some(bug) = bug {
            queue = Arc::new(Planted::new(bug, queue, memory.clone()));
        }
        let gate = Gate {
            inner: queue,
            life: life.clone(),
            judge: judge.clone(),
            sources,
            turnstile: Turnstile::default(),
        };
        Arc::new(Joined { memory, queue: Arc::new(gate), server, life, weather, judge })
    }
}
