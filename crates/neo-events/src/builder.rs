//! Putting the parts together: settings, the running whole, and the handle of one tenant.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use neo_events_domain::{
    Uuid,
    catalogue::{EventTypeDraft, SEEDED_TYPES},
    endpoint::{EndpointLimits, Profile},
    id::Id,
    tenant::Schema,
};
use neo_events_egress::{ConnectionStats, Egress, EgressConfig, EgressError, Resolve, TargetPolicy};
use neo_events_engine::{Engine, EngineHandle, Keyring, KeyringError, MasterKey, Passes, Shutdown, Sources};
use neo_events_store::{EventQuery, PageRequest, Store, StoreError};
use neo_events_store_postgres::{OpenError as PostgresOpenError, PostgresOptions};
use neo_events_store_sqlite::{OpenError as SqliteOpenError, SqliteOptions};
use tokio::sync::Semaphore;

use crate::{
    Directory,
    backend::{Backend, Database},
    keys::{KeyMemory, Upkeep},
    maintenance,
    master_key::{KeySource, keyring},
    transport::HttpTransport,
};

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database file.
    #[error("{0}")]
    Sqlite(#[from] SqliteOpenError),
    /// The database server.
    #[error("{0}")]
    Postgres(#[from] PostgresOpenError),
    /// The database, after it was opened.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// TLS roots or name resolution.
    #[error("{0}")]
    Egress(#[from] EgressError),
    /// The master key.
    #[error("{0}")]
    Keyring(#[from] KeyringError),
    /// Outside `development` the master key must be given.
    #[error(
        "outside profile development a master key must be given: set NEO_EVENTS_MASTER_KEY to 32 random bytes in base64"
    )]
    MasterKeyMissing,
    /// The key file that profile `development` generates beside the data.
    #[error("the key file {path} cannot be used: put back the one that this data was written with")]
    KeyFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Settings of an embedded neo-events.
pub struct Builder {
    database: Database,
    key_file: Option<PathBuf>,
    passes: Passes,
    profile: Profile,
    master_keys: Vec<MasterKey>,
    target_policy: Option<TargetPolicy>,
    ca_file_pem: Option<Vec<u8>>,
    resolver: Option<Arc<dyn Resolve>>,
    sources: Sources,
}

impl Builder {
    /// Limits and address policy; [`Profile::Development`] if not called.
    #[must_use]
    pub fn profile(self, profile: Profile) -> Self {
        Self { profile, ..self }
    }

    /// Keys for secrets at rest: the first seals, all open. In profile `development` one is generated beside the
    /// data if not called.
    #[must_use]
    pub fn master_keys(self, master_keys: Vec<MasterKey>) -> Self {
        Self { master_keys, ..self }
    }

    /// Where profile `development` keeps the master key that it generates; beside the data if not called. A database
    /// server has no such place: without this or [`Self::master_keys`] nothing starts.
    #[must_use]
    pub fn key_file(self, path: PathBuf) -> Self {
        Self { key_file: Some(path), ..self }
    }

    /// What this process does beside answering calls; everything if not called. For processes that share a PostgreSQL
    /// database.
    #[must_use]
    pub fn passes(mut self, passes: Passes) -> Self {
        if let Database::Postgres(options) = &mut self.database {
            options.node_name = maintenance::node_name(&options.node_name, passes);
        }
        Self { passes, ..self }
    }

    /// Whether starting brings a PostgreSQL database up to date; it does if not called. If not, one that is behind is
    /// refused: somebody else migrates, with rights that this process then need not have. A file of SQLite has one
    /// process, which always does it.
    #[must_use]
    pub fn migrates(mut self, migrates: bool) -> Self {
        if let Database::Postgres(options) = &mut self.database {
            options.migrates = migrates;
        }
        self
    }

    /// Which targets are allowed; the profile's policy if not called.
    #[must_use]
    pub fn target_policy(self, policy: TargetPolicy) -> Self {
        Self { target_policy: Some(policy), ..self }
    }

    /// Further TLS roots, in PEM, beside the bundled ones.
    #[must_use]
    pub fn ca_file_pem(self, pem: Vec<u8>) -> Self {
        Self { ca_file_pem: Some(pem), ..self }
    }

    /// Resolves names in place of the system.
    #[must_use]
    pub fn resolver(self, resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver: Some(resolver), ..self }
    }

    /// Another clock and other randomness.
    #[must_use]
    pub fn sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// Opens the database, brings its schema up to date unless that is another's task, and starts delivering. It blocks no
    /// thread of the runtime. Dropping what was started may: whatever is dropped last, this or a handle of a tenant or of the
    /// directory, closes the database, and on SQLite waits until queued writes are committed, up to 5 s for a transaction of
    /// somebody else's on the file. After [`NeoEvents::shutdown`] there is nothing left to wait for.
    pub async fn start(self) -> Result<NeoEvents, StartError> {
        let egress = self.egress()?;
        // The database first: its lock, if it is a file, also guards the key file beside it.
        let backend = self.database.open().await?;
        let opened = backend.clone();
        let started = self.start_on(backend, egress).await;
        if started.is_err() {
            // Others would have to find this node silent before they took it for gone.
            opened.close().await;
        }
        started
    }

    async fn start_on(self, backend: Backend, egress: Egress) -> Result<NeoEvents, StartError> {
        let store = backend.store();
        let keyring = Arc::new(keyring(store.as_ref(), self.key_source(), &self.sources).await?);
        let newest = store.events(&Schema::admin(), &EventQuery::default(), PageRequest::first(1)).await?;
        if let Some(newest) = newest.items.first() {
            self.sources.not_before(newest.event.created_at);
        }
        seed(store.as_ref(), &self.sources).await?;
        let limits = self.profile.endpoint_limits();
        let transport = Arc::new(HttpTransport::new(egress.clone(), limits));
        let (of_engine, sources) = (Arc::clone(&store), self.sources.clone());
        let engine = Engine::start(of_engine, transport, Arc::clone(&keyring), sources, self.passes);
        let shared = Shared {
            store,
            backend,
            keyring,
            egress,
            sources: self.sources,
            limits,
            engine: engine.handle(),
            keys: KeyMemory::default(),
            explaining: Arc::new(Semaphore::new(1)),
        };
        let shared = Arc::new(shared);
        let upkeep = Upkeep::start(Arc::clone(&shared));
        let abandoned = Abandoned { backend: shared.backend.clone(), is_shut_down: false };
        Ok(NeoEvents { shared, engine, upkeep, abandoned })
    }

    fn egress(&self) -> Result<Egress, EgressError> {
        let policy = self.target_policy.clone().unwrap_or_else(|| match self.profile {
            Profile::Development => TargetPolicy::development(),
            Profile::Staging => TargetPolicy::staging(),
            Profile::Production => TargetPolicy::production(),
        });
        let mut config = EgressConfig::new(policy);
        config.ca_file_pem.clone_from(&self.ca_file_pem);
        match &self.resolver {
            Some(resolver) => Egress::with_resolver(config, Arc::clone(resolver)),
            None => Egress::new(config),
        }
    }

    fn key_source(&self) -> KeySource {
        KeySource {
            given: self.master_keys.clone(),
            profile: self.profile,
            file: self.key_file.clone().or_else(|| self.database.key_file()),
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

/// A running neo-events. Keep it for as long as anything is to be delivered: dropping it without [`NeoEvents::shutdown`] is
/// like a crash. Nothing acknowledged is lost, and handles that are left go on publishing, but nothing is delivered until
/// another process, or another start, does it; for the latter, a SQLite file is free when the last handle is gone.
#[must_use = "nothing is delivered once it is dropped"]
pub struct NeoEvents {
    shared: Arc<Shared>,
    engine: Engine,
    upkeep: Upkeep,
    abandoned: Abandoned,
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
    /// Whose turn it is to try a filter.
    pub(crate) explaining: Arc<Semaphore>,
}

impl NeoEvents {
    /// Settings for a SQLite database at this path; it is made if it is not there.
    pub fn builder(database: impl Into<PathBuf>) -> Builder {
        Self::on(Database::Sqlite(SqliteOptions::new(database)))
    }

    /// Settings for a PostgreSQL database at this URL, `postgres://user:password@host:port/database?sslmode=…`: any
    /// number of processes may share it.
    pub fn postgres(url: impl Into<String>) -> Builder {
        Self::on(Database::Postgres(PostgresOptions::new(url)))
    }

    fn on(database: Database) -> Builder {
        Builder {
            database,
            key_file: None,
            passes: Passes::ALL,
            profile: Profile::default(),
            master_keys: Vec::new(),
            target_policy: None,
            ca_file_pem: None,
            resolver: None,
            sources: Sources::system(),
        }
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
    /// that does not answer is given another seven seconds in all. Who drops the future half-way has dropped this.
    pub async fn shutdown(mut self, grace: Duration) -> Shutdown {
        let shutdown = self.engine.shutdown(grace).await;
        self.upkeep.end().await;
        self.shared.backend.clone().close().await;
        self.abandoned.is_shut_down = true;
        shutdown
    }
}

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

    /// Whether the database serves reads and writes.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.shared.store.ping().await
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
