//! The suite that every backend passes.

use std::future::{Ready, ready};

use neo_events_store_sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

fn make_store() -> Ready<(SqliteStore, TempDir)> {
    let directory = tempfile::tempdir().expect("a directory");
    let store =
        SqliteStore::open(SqliteOptions::new(directory.path().join("data/admin.db"))).expect("a new file");
    ready((store, directory))
}

neo_events_store::conformance_tests!(make_store);
