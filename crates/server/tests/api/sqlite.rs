//! The database of a test: a file in a folder of its own.

use neo_events_server::serve::Database;
use tempfile::TempDir;

/// Goes when it is dropped.
pub(crate) struct TestDatabase(TempDir);

impl TestDatabase {
    /// An empty one.
    #[expect(clippy::unused_async, reason = "on other databases it takes a while")]
    pub(crate) async fn create() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Where a server finds it.
    pub(crate) fn database(&self) -> Database {
        Database::Sqlite(self.0.path().join("admin.db"))
    }
}
