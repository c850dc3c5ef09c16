//! The suite that every backend passes, each scenario over a database of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use neo_events_store_postgres::{PostgresOptions, PostgresStore};
use neo_events_test_postgres::{Database, database};

async fn make_store() -> (PostgresStore, Database) {
    let database = database().await;
    (PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap(), database)
}

neo_events_store::conformance_tests!(make_store);
