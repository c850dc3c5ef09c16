//! The database of a test: one of its own, in a cluster that all tests share.

use neo_events_server::serve::Database;
use neo_events_test_postgres as test_postgres;

/// Goes when it is dropped.
pub(crate) struct TestDatabase(test_postgres::Database);

impl TestDatabase {
    /// An empty one.
    pub(crate) async fn create() -> Self {
        Self(test_postgres::database().await)
    }

    /// Where a server finds it.
    pub(crate) fn database(&self) -> Database {
        Database::Postgres(self.0.url())
    }
}
