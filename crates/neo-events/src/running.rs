//! A running neo-events: how it starts, what its handles share, and how it ends.

use std::{path::PathBuf, sync::Arc, time::Duration};

use neo_events_domain::{
    catalogue::{EventTypeDraft, SEEDED_TYPES},
    endpoint::EndpointLimits,
    id::Id,
    tenant::Schema,
};
use neo_events_egress::Egress;
use neo_events_engine::{Engine, EngineHandle, Keyring, Passes, Shutdown, Sources};
use neo_events_store::{EventQuery, PageRequest, Store, StoreError};
use neo_events_store_postgres::PostgresOptions;
use neo_events_store_sqlite::SqliteOptions;

use crate::{
    Builder, Directory, LongCall, Tenant,
    backend::{Backend, Database},
    key_memory::{KeyMemory, LAST_FLUSH_MAX, Upkeep},
    long_calls::LongCalls,
    strangers::Strangers,
    transport::HttpTransport,
};

/// A running neo-events. Keep it for as long as anything is to be delivered: dropping it without
/// [`NeoEvents::shutdown`] is like a crash. Nothing acknowledged is lost, and handles that are left go on publishing,
/// but nothing is delivered until another process, or another start, does it; for the latter, a SQLite file is free
/// when the last handle is gone.
#[must_use = "nothing is delivered once it is dropped"]
pub struct NeoEvents {
    shared: Arc<Shared>,
    engine: Engine,
    upkeep: Upkeep,
    abandoned: Abandoned,
}

impl NeoEvents {
    /// How long a shutdown may take beyond its grace before it closes the database: usually a moment, but what was
    /// answered last and the last-used times are still written, and somebody may have locked a table of them.
    pub const SHUTDOWN_EXTRA_MAX: Duration = Engine::SHUTDOWN_EXTRA_MAX.saturating_add(LAST_FLUSH_MAX);

    /// Settings for a SQLite database at this path; it is made if it is not there.
    pub fn builder(database: impl Into<PathBuf>) -> Builder {
        Builder::on(Database::Sqlite(SqliteOptions::new(database)))
    }

    /// Settings for a PostgreSQL database at this URL, `postgres://user:password@host:port/database?sslmode=…`: any
    /// number of processes may share it.
    pub fn postgres(url: impl Into<String>) -> Builder {
        Builder::on(Database::Postgres(PostgresOptions::new(url)))
    }

    /// Seeds what every database has, and starts delivering.
    pub(crate) async fn start(opened: Opened) -> Result<Self, StoreError> {
        let Opened { store, backend, keyring, egress, sources, limits, passes } = opened;
        let newest = store.events(&Schema::admin(), &EventQuery::default(), PageRequest::first(1)).await?;
        if let Some(newest) = newest.items.first() {
            sources.not_before(newest.event.created_at);
        }
        seed(store.as_ref(), &sources).await?;
        let keyring = Arc::new(keyring);
        let transport = Arc::new(HttpTransport::new(egress.clone(), limits));
        let (of_engine, of_keyring) = (Arc::clone(&store), Arc::clone(&keyring));
        let engine = Engine::start(of_engine, transport, of_keyring, sources.clone(), passes);
        let shared = Arc::new(Shared {
            store,
            backend,
            keyring,
            egress,
            sources,
            limits,
            engine: engine.handle(),
            keys: KeyMemory::default(),
            strangers: Strangers::new(),
            reaching: LongCalls::new(LongCall::Reach),
            explaining: LongCalls::new(LongCall::Explain),
        });
        let upkeep = Upkeep::start(Arc::clone(&shared));
        let abandoned = Abandoned { backend: shared.backend.clone(), is_shut_down: false };
        Ok(Self { shared, engine, upkeep, abandoned })
    }

    /// The platform's own tenant, `admin`.
    pub fn platform(&self) -> Tenant {
        self.tenant(Schema::admin())
    }

    /// A tenant's handle. Calls answer [`StoreError::UnknownSchema`] if there is no such tenant.
    pub fn tenant(&self, schema: Schema) -> Tenant {
        Tenant::new(Arc::clone(&self.shared), schema)
    }

    /// Tenants, and the API keys to them.
    pub fn directory(&self) -> Directory {
        Directory::new(Arc::clone(&self.shared))
    }

    /// Stops: attempts in flight may end for up to `grace`, then they are cut off and will be made again. A PostgreSQL
    /// that does not answer is given [`Self::SHUTDOWN_EXTRA_MAX`] beyond it, and three seconds more to be closed. Who
    /// drops the future half-way has dropped this.
    pub async fn shutdown(mut self, grace: Duration) -> Shutdown {
        let shutdown = self.engine.shutdown(grace).await;
        self.upkeep.end().await;
        self.shared.backend.clone().close().await;
        self.abandoned.is_shut_down = true;
        shutdown
    }
}

/// What a start needs: the database is open, and its keys are known.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) backend: Backend,
    pub(crate) keyring: Keyring,
    pub(crate) egress: Egress,
    pub(crate) sources: Sources,
    pub(crate) limits: EndpointLimits,
    pub(crate) passes: Passes,
}

/// What all handles share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    /// The same store, for what only one of them has: publishing in the caller's own transaction.
    pub(crate) backend: Backend,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) egress: Egress,
    pub(crate) sources: Sources,
    pub(crate) limits: EndpointLimits,
    pub(crate) engine: EngineHandle,
    pub(crate) keys: KeyMemory,
    pub(crate) strangers: Strangers,
    /// Calls that wait for a receiver.
    pub(crate) reaching: Arc<LongCalls>,
    /// Calls that try a filter, in turns.
    pub(crate) explaining: Arc<LongCalls>,
}

/// Says so when it is dropped, but for a shutdown.
struct Abandoned {
    backend: Backend,
    is_shut_down: bool,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if !self.is_shut_down {
            tracing::warn!("neo-events was dropped without a shutdown; nothing is delivered here any more");
            self.backend.abandon();
        }
    }
}

async fn seed(store: &dyn Store, sources: &Sources) -> Result<(), StoreError> {
    let now = sources.now();
    let entry = |(event_type, display_name): &(&str, &str)| {
        let (event_type, display_name) = ((*event_type).to_owned(), (*display_name).to_owned());
        let draft = EventTypeDraft { event_type, display_name, ..EventTypeDraft::default() };
        draft.validate(Id::new(now, sources.bytes()), now).ok()
    };
    let entries: Vec<_> = SEEDED_TYPES.iter().filter_map(entry).collect();
    store.seed_event_types(&Schema::admin(), &entries).await
}
