//! The handle of one tenant. What can be done with it stands in the modules of its subjects: `publishing`, `endpoints`,
//! `subscriptions`, `deliveries`, `events`, `event_types`, `verification`; `context` decides which rows it sees.

use std::sync::Arc;

use neo_events_domain::{Uuid, tenant::Schema};
use neo_events_egress::ConnectionStats;
use neo_events_engine::Sources;
use neo_events_store::Store;

use crate::running::Shared;

/// The handle of one tenant: every operation on its events, endpoints, subscriptions and deliveries. Bound to a context
/// by [`Tenant::in_context`], it sees and writes that context's rows alone.
#[derive(Clone)]
pub struct Tenant {
    pub(crate) shared: Arc<Shared>,
    pub(crate) schema: Schema,
    pub(crate) context_id: Option<Uuid>,
}

impl Tenant {
    pub(crate) const fn new(shared: Arc<Shared>, schema: Schema) -> Self {
        Self { shared, schema, context_id: None }
    }

    /// Whose handle it is.
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// What the outgoing connections did so far.
    pub fn connection_stats(&self) -> ConnectionStats {
        self.shared.egress.stats()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.shared.store.as_ref()
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.shared.sources
    }
}
