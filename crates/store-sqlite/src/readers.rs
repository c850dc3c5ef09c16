//! A few connections that only read, used from the blocking pool. Each read sees one snapshot, and ends when its time
//! is up or the store is closed: SQLite asks every few steps whether to go on. Claims and what else the passes read
//! have a connection of their own and no deadline.
//!
//! What users list or count may take long, and never holds the last connection of the admin file: who a request comes
//! from is looked up there, whatever tenant it is for.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use neo_events_store::StoreError;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Failure;

/// Steps of SQLite's machine between two looks at the clock: well under a millisecond.
const STEPS_BETWEEN_CHECKS: i32 = 4000;

/// The connections that nobody is using, and the right to use one.
pub(crate) struct Readers {
    idle: Mutex<Vec<Connection>>,
    /// As many as there are connections.
    permits: Arc<Semaphore>,
    /// As many as may be in use by reads that may take long; taken before a connection's.
    long_permits: Arc<Semaphore>,
    long_count: u32,
    count: u32,
    timeout: Duration,
    closing: Arc<AtomicBool>,
}

impl Readers {
    /// A read may take as long as `timeout`, the wait for a connection included. At most `long_reads_max` at a time may
    /// be others than look-ups.
    pub(crate) fn new(connections: Vec<Connection>, long_reads_max: usize, timeout: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections.len())),
            long_permits: Arc::new(Semaphore::new(long_reads_max)),
            long_count: u32::try_from(long_reads_max).unwrap_or(u32::MAX),
            count: u32::try_from(connections.len()).unwrap_or(u32::MAX),
            idle: Mutex::new(connections),
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
        let turn = permit(&self.long_permits).await?;
        self.run(limit, Some(turn), read).await
    }

    /// The same for what takes a moment: waits for no list.
    pub(crate) async fn look_up<T: Send + 'static>(
        self: &Arc<Self>,
        look_up: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(Limit::from_now(self.timeout, &self.closing), None, look_up).await
    }

    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Limit,
        long_permit: Option<OwnedSemaphorePermit>,
        read: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = permit(&self.permits).await?;
        let conn = self.lock().pop().ok_or(Failure::Closed)?;
        // Whoever returns the connection returns the permits after it, also when the caller no longer waits.
        let borrowed = Borrowed {
            conn: Some(conn),
            readers: Arc::clone(self),
            _permit: permit,
            _long_permit: long_permit,
        };
        let ran = tokio::task::spawn_blocking(move || borrowed.snapshot(&limit, read)).await;
        Ok(ran.map_err(|error| ended(&error))??)
    }

    /// Reads that are asked for from now on wait, until those that run have ended and the answer was dropped; `None` if
    /// the store is closed. Look-ups wait only once there are no others. Holds no connection.
    pub(crate) fn hold_back(&self) -> impl Future<Output = Option<HeldBack>> + use<> {
        let (long, long_count) = (Arc::clone(&self.long_permits), self.long_count);
        let (all, count) = (Arc::clone(&self.permits), self.count);
        async move {
            let long = long.acquire_many_owned(long_count).await.ok()?;
            let all = all.acquire_many_owned(count).await.ok()?;
            Some(HeldBack { _long: long, _all: all })
        }
    }

    /// How long a read may take.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Ends the reads that run or wait, then closes the connections.
    pub(crate) async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.long_permits.close();
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

/// Nobody reads for as long as this is kept.
pub(crate) struct HeldBack {
    _long: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

async fn permit(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    Arc::clone(permits).acquire_owned().await.map_err(|_| Failure::Closed)
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

    /// What an interruption was for. Out of time is also a read that had to wait for most of it.
    fn explain(&self, failure: Failure, begun: Instant) -> Failure {
        let failure = match failure {
            Failure::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                self.check().err().unwrap_or(Failure::Sql(error))
            }
            other => other,
        };
        match failure {
            Failure::TooSlow(timeout) if begun.elapsed() < timeout / 2 => Failure::NoTurn(timeout),
            other => other,
        }
    }
}

/// A connection in use. Its permits are dropped after it was returned.
struct Borrowed {
    conn: Option<Connection>,
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
    _long_permit: Option<OwnedSemaphorePermit>,
}

impl Borrowed {
    fn snapshot<T>(
        &self,
        limit: &Limit,
        read: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let conn = self.conn.as_ref().ok_or(Failure::Closed)?;
        let begun = Instant::now();
        limit.check().map_err(|failure| limit.explain(failure, begun))?;
        let watch = limit.clone();
        conn.progress_handler(STEPS_BETWEEN_CHECKS, Some(move || watch.check().is_err()))?;
        let limited = |conn: &Connection| {
            let answer = read(conn);
            // Ending the transaction is not to be interrupted.
            conn.progress_handler(0, None::<fn() -> bool>)?;
            answer
        };
        snapshot(conn, limited).map_err(|failure| limit.explain(failure, begun))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.readers.lock().extend(self.conn.take());
    }
}
