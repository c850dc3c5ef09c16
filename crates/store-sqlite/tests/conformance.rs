//! The suite that every backend passes.

use neo_events_store_sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

async fn make_store() -> (SqliteStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(directory.path().join("data/admin.db"))).unwrap();
    (store, directory)
}

neo_events_store::conformance_tests!(make_store);
