//! A few connections that only read, used from the blocking pool. Each read sees one snapshot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use neo_events_store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::failure::Failure;

/// The connections that nobody is using, and the right to use one.
pub(crate) struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    count: u32,
}

impl Readers {
    pub(crate) fn new(connections: Vec<Connection>) -> Self {
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Self { permits: Semaphore::new(connections.len()), idle: Mutex::new(connections), count }
    }

    /// Runs `read` in a transaction that is never written in.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.permits.acquire().await.map_err(|_| Failure::Closed)?;
        let conn = self.lock().pop().ok_or(Failure::Closed)?;
        let borrowed = Borrowed { conn: Some(conn), readers: Arc::clone(self) };
        // Whoever returns the connection returns the permit after it, also when the caller no longer waits.
        permit.forget();
        let ran = tokio::task::spawn_blocking(move || borrowed.snapshot(read)).await;
        Ok(ran.map_err(|error| ended(&error))??)
    }

    /// Waits for the reads that run, then closes the connections.
    pub(crate) async fn close(&self) {
        let all = self.permits.acquire_many(self.count).await;
        self.permits.close();
        self.lock().clear();
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it means that a blocking task did not answer.
pub(crate) fn ended(error: &tokio::task::JoinError) -> Failure {
    if error.is_panic() { Failure::Panicked } else { Failure::Closed }
}

/// One snapshot for everything that `read` looks at.
pub(crate) fn snapshot<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let tx = conn.unchecked_transaction()?;
    read(&tx)
}

struct Borrowed {
    conn: Option<Connection>,
    readers: Arc<Readers>,
}

impl Borrowed {
    fn snapshot<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        snapshot(self.conn.as_ref().ok_or(Failure::Closed)?, read)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.readers.lock().extend(self.conn.take());
        self.readers.permits.add_permits(1);
    }
}
