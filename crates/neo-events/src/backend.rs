//! Which database holds the data: a choice made once, when everything starts.

use std::{path::PathBuf, sync::Arc};

use neo_events_store::{Store, StoreError};
use neo_events_store_postgres::{PostgresOptions, PostgresStore};
use neo_events_store_sqlite::{SqliteOptions, SqliteStore};

use crate::StartError;

/// A database to be opened.
#[derive(Clone)]
pub(crate) enum Database {
    Sqlite(SqliteOptions),
    Postgres(PostgresOptions),
}

impl Database {
    pub(crate) async fn open(&self) -> Result<Backend, StartError> {
        Ok(match self.clone() {
            Self::Sqlite(options) => {
                // It waits for whoever writes the file, and migrates: the caller's thread has others to serve
                // meanwhile, one of whom may be that writer.
                let opened = tokio::task::spawn_blocking(move || SqliteStore::open(options)).await;
                Backend::Sqlite(opened.map_err(|error| StoreError::Broken(error.into()))??)
            }
            Self::Postgres(options) => Backend::Postgres(PostgresStore::open(options).await?),
        })
    }

    /// The place for a generated master key, if the data have a place on this machine.
    pub(crate) fn key_file(&self) -> Option<PathBuf> {
        match self {
            Self::Sqlite(options) => {
                let mut path = options.path.clone().into_os_string();
                path.push(".key");
                Some(path.into())
            }
            Self::Postgres(_) => None,
        }
    }
}

/// An open database.
#[derive(Clone)]
pub(crate) enum Backend {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Backend {
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Postgres(store) => Arc::new(store.clone()),
        }
    }

    /// The store whose file a transaction on SQLite could be on.
    pub(crate) fn sqlite(&self) -> Result<&SqliteStore, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(store),
            Self::Postgres(_) => Err(StoreError::ForeignTransaction),
        }
    }

    /// Refuses where a transaction on PostgreSQL could not be on the tenant's database.
    pub(crate) fn postgres(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite(_) => Err(StoreError::ForeignTransaction),
        }
    }

    /// Events may be waiting that were committed in a caller's own transaction.
    pub(crate) fn announce(&self) {
        match self {
            Self::Sqlite(store) => store.announce(),
            Self::Postgres(store) => store.announce(),
        }
    }

    /// Nobody attempts any more what this process had in hand: where there are others, they may have it soon.
    pub(crate) fn abandon(&self) {
        match self {
            // Until the file is closed there are no others.
            Self::Sqlite(_) => {}
            Self::Postgres(store) => store.fall_silent(),
        }
    }

    pub(crate) async fn close(self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}
