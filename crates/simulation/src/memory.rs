//! The store port in memory: one database, shared by any number of nodes, each with a handle of its own.
//!
//! A model for simulations, never reachable from the product. It is small enough to be believed: rows in ordered maps,
//! one lock, every method one step that happens at once, no clock and no randomness, so that a run replays exactly. It
//! passes the conformance suite of the port. Nothing ever fails here, and every hint arrives: whatever goes wrong is
//! added by decorators. What happens to the rows is told to a watcher, in the order in which it happens.

mod catalogue;
mod deliveries;
mod events;
mod page;
mod queue;
mod tables;
mod tampering;
mod tenants;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use neo_events_domain::{Timestamp, retry::DUE_AHEAD_MAX};
use neo_events_store::{Health, StoreError};
use tokio::sync::Notify;

use crate::effect::Watcher;
use tables::Database;

/// Who holds leases: one life of one node.
pub type Holder = u32;

/// A node's handle on the database.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    holder: Holder,
    hints: Arc<Hints>,
}

struct Shared {
    database: Mutex<Database>,
    listeners: Mutex<Vec<Weak<Hints>>>,
}

#[derive(Default)]
struct Hints {
    to_dispatch: Notify,
    to_deliver: Notify,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Watcher::nobody())
    }
}

impl MemoryStore {
    /// An empty database with the schema `admin`, and a handle of it for holder 0.
    pub fn new(watcher: Watcher) -> Self {
        let shared = Shared { database: Mutex::new(Database::new(watcher)), listeners: Mutex::default() };
        Self::listening(Arc::new(shared), 0)
    }

    /// A handle for another holder.
    #[must_use]
    pub fn handle(&self, holder: Holder) -> Self {
        Self::listening(Arc::clone(&self.shared), holder)
    }

    /// Ends every lease of a holder that is known to be gone, as a session that fell silent loses its.
    pub fn free_leases_of(&self, holder: Holder) {
        self.database().free(|hold| hold.holder == holder);
    }

    /// Ends leases whose grant nobody heard of.
    pub fn free_tokens(&self, tokens: &[u64]) {
        self.database().free(|hold| tokens.contains(&hold.token));
    }

    /// The last time at which something is due, of what does not wait longer than a policy says.
    pub(crate) fn last_due_within_policy(&self, now: Timestamp) -> Option<Timestamp> {
        let late = now.saturating_add(DUE_AHEAD_MAX).unwrap_or(Timestamp::MAX);
        let database = self.database();
        let due = database.tenants.values().flat_map(|tables| &tables.open).map(|(_, due_at, _)| *due_at);
        due.filter(|due_at| *due_at <= late).max()
    }

    fn listening(shared: Arc<Shared>, holder: Holder) -> Self {
        let hints = Arc::new(Hints::default());
        shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&hints));
        Self { shared, holder, hints }
    }

    pub(crate) fn database(&self) -> MutexGuard<'_, Database> {
        self.shared.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hint(&self, kind: impl Fn(&Hints) -> &Notify) {
        let mut listeners = self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| match listener.upgrade() {
            Some(hints) => {
                kind(&hints).notify_one();
                true
            }
            None => false,
        });
    }
}

#[async_trait]
impl Health for MemoryStore {
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
