//! The settings of an embedded neo-events, and why it did not start.

use std::{io, path::PathBuf, sync::Arc};

use neo_events_domain::endpoint::Profile;
use neo_events_egress::{Egress, EgressConfig, EgressError, Resolve, TargetPolicy};
use neo_events_engine::{KeyringError, MasterKey, Passes, Sources};
use neo_events_store::StoreError;
use neo_events_store_postgres::OpenError as PostgresOpenError;
use neo_events_store_sqlite::OpenError as SqliteOpenError;

use crate::{
    NeoEvents,
    backend::{Backend, Database},
    maintenance,
    master_key::{KeySource, keyring},
    running::Opened,
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
    pub(crate) fn on(database: Database) -> Self {
        Self {
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

    /// Opens the database, brings its schema up to date unless that is another's task, and starts delivering. It blocks
    /// no thread of the runtime. Dropping what was started may: whatever is dropped last, this or a handle of a tenant
    /// or of the directory, closes the database, and on SQLite waits until queued writes are committed, up to 5 s for a
    /// transaction of somebody else's on the file. After [`NeoEvents::shutdown`] there is nothing left to wait for.
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
        let keyring = keyring(store.as_ref(), self.key_source(), &self.sources).await?;
        let (sources, limits, passes) = (self.sources, self.profile.endpoint_limits(), self.passes);
        Ok(NeoEvents::start(Opened { store, backend, keyring, egress, sources, limits, passes }).await?)
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
