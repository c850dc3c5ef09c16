//! A few connections that only read, used from the blocking pool. Each read sees one snapshot, and ends when its time
//! is up or the store is closed: SQLite asks every few steps whether to go on. Claims and what else the passes read
//! have a connection of their own and no deadline.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use neo_events_store::StoreError;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::Semaphore;

use crate::failure::Failure;

/// Steps of SQLite's machine between two looks at the clock: well under a millisecond.
const STEPS_BETWEEN_CHECKS: i32 = 4000;

/// The connections that nobody is using, and the right to use one.
pub(crate) struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    count: u32,
    timeout: Duration,
    closing: Arc<AtomicBool>,
}

impl Readers {
    /// A read may take as long as `timeout`, the wait for a connection included.
    pub(crate) fn new(connections: Vec<Connection>, timeout: Duration) -> Self {
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Self {
            permits: Semaphore::new(connections.len()),
            idle: Mutex::new(connections),
            count,
            timeout,
            closing: Arc::default(),
        }
    }

    /// Runs `read` in a transaction that is never written in. Reads take turns in the order asked, so that those
    /// before this one have run out of time when this one does.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let limit = Limit::from_now(self.timeout, &self.closing);
        let permit = self.permits.acquire().await.map_err(|_| Failure::Closed)?;
        let conn = self.lock().pop().ok_or(Failure::Closed)?;
        let borrowed = Borrowed { conn: Some(conn), readers: Arc::clone(self) };
        // Whoever returns the connection returns the permit after it, also when the caller no longer waits.
        permit.forget();
        let ran = tokio::task::spawn_blocking(move || borrowed.snapshot(&limit, read)).await;
        Ok(ran.map_err(|error| ended(&error))??)
    }

    /// Ends the reads that run or wait, then closes the connections.
    pub(crate) async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let all = self.permits.acquire_many(self.count).await;
        self.permits.close();
        self.lock().clear();
        drop(all);
    }

    /// Whether nobody reads.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().len() == self.count as usize
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

/// When a read must end.
#[derive(Clone)]
struct Limit {
    timeout: Duration,
    deadline: Option<Instant>,
    closing: Arc<AtomicBool>,
}

impl Limit {
    fn from_now(timeout: Duration, closing: &Arc<AtomicBool>) -> Self {
        Self { timeout, deadline: Instant::now().checked_add(timeout), closing: Arc::clone(closing) }
    }

    /// Why the read must end now, if it must.
    fn check(&self) -> Result<(), Failure> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(Failure::Closed);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Failure::TooSlow(self.timeout)),
            _ => Ok(()),
        }
    }

    /// What an interruption was for.
    fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                self.check().err().unwrap_or(Failure::Sql(error))
            }
            other => other,
        }
    }
}

struct Borrowed {
    conn: Option<Connection>,
    readers: Arc<Readers>,
}

impl Borrowed {
    fn snapshot<T>(
        &self,
        limit: &Limit,
        read: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let conn = self.conn.as_ref().ok_or(Failure::Closed)?;
        limit.check()?;
        let watch = limit.clone();
        conn.progress_handler(STEPS_BETWEEN_CHECKS, Some(move || watch.check().is_err()))?;
        let limited = |conn: &Connection| {
            let answer = read(conn);
            // Ending the transaction is not to be interrupted.
            conn.progress_handler(0, None::<fn() -> bool>)?;
            answer
        };
        snapshot(conn, limited).map_err(|failure| limit.explain(failure))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.readers.lock().extend(self.conn.take());
        self.readers.permits.add_permits(1);
    }
}
