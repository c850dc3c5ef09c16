//! For operators: bringing a database up to date, and looking at one without changing anything.
//!
//! All of it works without a running neo-events. On PostgreSQL it works beside running ones too; the files of SQLite are
//! migrated while nobody else has them.

use std::path::Path;

use neo_events_engine::Sources;
use neo_events_store_postgres::PostgresOptions;

pub use neo_events_store::{MigrationStatus, MigrationStep};
pub use neo_events_store_postgres::{
    Backlog, Encryption, OldTransaction, OpenError as PostgresOpenError, ServerFacts,
};
pub use neo_events_store_sqlite::{FileFacts, OpenError as SqliteOpenError};

use crate::StartError;

/// Applies every migration that a PostgreSQL database lacks, and tells `progress` of each scope done. Others may do the
/// same at the same time: one migrates, the others wait and find nothing left to do.
pub async fn migrate_postgres(
    url: &str,
    progress: impl FnMut(MigrationStep<'_>) + Send,
) -> Result<(), StartError> {
    Ok(neo_events_store_postgres::migrate(url, progress).await?)
}

/// How far the migrations of a PostgreSQL database are.
pub async fn postgres_migrations(url: &str) -> Result<Vec<MigrationStatus>, StartError> {
    Ok(neo_events_store_postgres::migration_status(url).await?)
}

/// Looks at a PostgreSQL server and what the database holds.
pub async fn inspect_postgres(url: &str) -> Result<ServerFacts, StartError> {
    let sources = Sources::system();
    Ok(neo_events_store_postgres::inspect(url, &|| sources.wall()).await?)
}

/// Most connections that a node has to a PostgreSQL database.
pub fn node_connections_max() -> usize {
    PostgresOptions::new("").connections_max()
}

/// Applies every migration that an SQLite file and those of its tenants lack, and tells `progress` of each one done. The
/// file is made if it is not there. Blocks.
pub fn migrate_sqlite(path: &Path, progress: impl FnMut(MigrationStep<'_>)) -> Result<(), StartError> {
    Ok(neo_events_store_sqlite::migrate(path, progress)?)
}

/// How far the migrations of an SQLite file and those of its tenants are. Blocks.
pub fn sqlite_migrations(path: &Path) -> Result<Vec<MigrationStatus>, StartError> {
    Ok(neo_events_store_sqlite::migration_status(path)?)
}

/// Looks at an SQLite file and those of its tenants; `None` if it is not there. With `deep` every page of all of them is
/// read. Blocks.
pub fn inspect_sqlite(path: &Path, deep: bool) -> Result<Option<FileFacts>, StartError> {
    Ok(neo_events_store_sqlite::inspect(path, deep)?)
}
