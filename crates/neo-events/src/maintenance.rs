//! For operators: bringing a database up to date, and looking at one without changing anything.
//!
//! All of it works without a running neo-events. On PostgreSQL it works beside running ones too; the files of SQLite
//! are migrated while nobody else has them.

use std::path::{Path, PathBuf};

use neo_events_engine::{MasterKey, Passes, Sources};
use neo_events_store_postgres::PostgresOptions;
use neo_events_store_sqlite::SqliteOptions;

pub use neo_events_store::{MasterKeyFingerprint, MigrationStatus, MigrationStep};
pub use neo_events_store_postgres::{
    Backlog, Encryption, OldTransaction, OpenError as PostgresOpenError, ServerFacts,
};
pub use neo_events_store_sqlite::{FileFacts, FileMigrations, OpenError as SqliteOpenError, UnreadableFile};

use crate::{StartError, backend::Database, master_key};

/// In a node's name, before what it leaves to others.
const WITHOUT: &str = " without ";
/// What a node may leave to others, as its name says it.
pub const DISPATCH: &str = "dispatch";
/// What else it may leave to them.
pub const DELIVER: &str = "deliver";

/// A node's name that says what it leaves to others: all that people see of it is its name.
pub(crate) fn node_name(name: &str, passes: Passes) -> String {
    let name = name.split(WITHOUT).next().unwrap_or_default();
    let left = [(DISPATCH, passes.dispatch), (DELIVER, passes.deliver)];
    let left: Vec<_> = left.iter().filter(|(_, does)| !does).map(|(pass, _)| *pass).collect();
    if left.is_empty() { name.to_owned() } else { format!("{name}{WITHOUT}{}", left.join(" and ")) }
}

/// Whether the node of this name leaves [`DISPATCH`] or [`DELIVER`] to others.
pub fn is_left_to_others(node_name: &str, pass: &str) -> bool {
    node_name.split_once(WITHOUT).is_some_and(|(_, left)| left.split(" and ").any(|name| name == pass))
}

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

/// Applies every migration that an SQLite file and those of its tenants lack, and tells `progress` of each one done.
/// The file is made if it is not there. A tenant's that cannot be brought up to date is an error once the others are.
/// Blocks.
pub fn migrate_sqlite(path: &Path, progress: impl FnMut(MigrationStep<'_>)) -> Result<(), StartError> {
    Ok(neo_events_store_sqlite::migrate(path, progress)?)
}

/// Where profile `development` keeps the master key that it generates for an SQLite file.
pub fn sqlite_key_file(path: &Path) -> PathBuf {
    Database::Sqlite(SqliteOptions::new(path)).key_file().unwrap_or_default()
}

/// Whether a start with these keys would be refused because the one that is noted in the database is not among them.
pub fn lacks_noted_key(keys: &[MasterKey], noted: Option<MasterKeyFingerprint>) -> bool {
    let ours: Vec<_> = keys.iter().map(master_key::fingerprint).collect();
    master_key::judge(noted, &ours).is_err()
}

/// How far the migrations of an SQLite file and those of its tenants are. Blocks.
pub fn sqlite_migrations(path: &Path) -> Result<FileMigrations, StartError> {
    Ok(neo_events_store_sqlite::migration_status(path)?)
}

/// Looks at an SQLite file and those of its tenants; `None` if it is not there. With `deep` every page of all of them
/// is read. Blocks.
pub fn inspect_sqlite(path: &Path, deep: bool) -> Result<Option<FileFacts>, StartError> {
    Ok(neo_events_store_sqlite::inspect(path, deep)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_node_leaves_to_others() {
        let api = node_name("neo-events:7", Passes::NONE);
        assert_eq!(api, "neo-events:7 without dispatch and deliver");
        let delivers = node_name(&api, Passes { dispatch: false, deliver: true });
        assert_eq!(delivers, "neo-events:7 without dispatch");
        assert_eq!(node_name(&delivers, Passes::ALL), "neo-events:7");
        for (name, dispatch, deliver) in
            [(api.as_str(), true, true), (&delivers, true, false), ("neo-events:7", false, false)]
        {
            let left = [DISPATCH, DELIVER].map(|pass| is_left_to_others(name, pass));
            assert_eq!(left, [dispatch, deliver], "{name}");
        }
    }
}
