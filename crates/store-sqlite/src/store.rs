//! The store, and the file of one schema.

use std::{
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

use neo_events_domain::{Timestamp, event::NewEvent, tenant::Schema};
use neo_events_store::{Appended, StoreError};
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::{
    events,
    failure::Failure,
    leases::{Leases, Tokens},
    open::{OpenError, SqliteOptions, open},
    readers::{Readers, ended},
    sql,
    writer::{Step, Writer},
};

/// The embedded store. Cloning is cheap; all clones are the same store.
///
/// Dropping the last clone finishes what is queued, which may block for a commit; [`SqliteStore::close`] does the
/// same without blocking the task.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    admin: TenantFile,
    appended: Notify,
}

/// One schema's file.
pub(crate) struct TenantFile {
    pub(crate) schema: Schema,
    /// On rows of `deliveries`, by seq.
    pub(crate) delivery_leases: Arc<Leases>,
    /// On rows of `owed_dispatches`, by the event's seq.
    pub(crate) dispatch_leases: Arc<Leases>,
    writer: Writer,
    readers: Arc<Readers>,
    /// Claims run one at a time, on a connection of their own: no list or count is ever in front of them.
    claims: Arc<tokio::sync::Mutex<Option<Connection>>>,
    /// Held until everything above is gone.
    lock: Mutex<Option<File>>,
}

impl SqliteStore {
    /// Opens the file, makes it (0600, its directories 0700) if it is not there, and brings its tables up to date.
    /// The store holds it alone until it is closed; leases of an earlier opening are void.
    pub fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        let admin = TenantFile::open(Schema::admin(), options)?;
        Ok(Self { inner: Arc::new(Inner { admin, appended: Notify::new() }) })
    }

    /// Finishes queued writes and running reads, empties the write-ahead log and frees the file. Other clones answer
    /// [`StoreError::Unavailable`] from then on.
    pub async fn close(self) {
        self.inner.admin.close().await;
    }

    /// Publishes inside the caller's own transaction, on the caller's own connection to the same file: the events are
    /// there if and only if the transaction commits. Begin it `IMMEDIATE`, so that it cannot fail half-way because
    /// somebody else wrote, and keep it short: the store waits for it, at most 5 s. Call [`SqliteStore::announce`]
    /// after the commit, or the events wait for the next poll.
    pub fn append_in(
        tx: &rusqlite::Transaction<'_>,
        events: &[NewEvent],
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        Ok(events::append(tx, events, now)?)
    }

    /// Tells the dispatcher that events may be waiting.
    pub fn announce(&self) {
        self.inner.appended.notify_one();
    }

    /// Reads, and writes without changing anything.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let file = &self.inner.admin;
        file.read(|conn| Ok(conn.prepare_cached(sql::CATALOGUE_VERSION)?.query_row([], |_| Ok(()))?)).await?;
        file.write(|conn: &Connection| Ok(conn.prepare_cached(sql::STORE_TOUCH)?.execute([])?)).await?;
        Ok(())
    }

    /// The file of a schema.
    pub(crate) fn file(&self, schema: &Schema) -> Result<&TenantFile, Failure> {
        let admin = &self.inner.admin;
        if *schema == admin.schema { Ok(admin) } else { Err(Failure::Schema(schema.clone())) }
    }

    /// Every open file.
    pub(crate) fn files(&self) -> impl Iterator<Item = &TenantFile> {
        std::iter::once(&self.inner.admin)
    }

    /// The file that a lease's row is in: a lease does not say, and there is one.
    pub(crate) fn leased_file(&self) -> &TenantFile {
        &self.inner.admin
    }

    pub(crate) async fn appended(&self) {
        self.inner.appended.notified().await;
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl TenantFile {
    fn open(schema: Schema, options: SqliteOptions) -> Result<Self, OpenError> {
        let opened = open(&options)?;
        let tokens = Arc::new(Tokens::of_opening(opened.opening));
        Ok(Self {
            schema,
            delivery_leases: Arc::new(Leases::new(Arc::clone(&tokens))),
            dispatch_leases: Arc::new(Leases::new(tokens)),
            writer: Writer::start(opened.writer)
                .map_err(|source| OpenError::Io { path: options.path, source })?,
            readers: Arc::new(Readers::new(opened.readers)),
            claims: Arc::new(tokio::sync::Mutex::new(Some(opened.claims))),
            lock: Mutex::new(Some(opened.lock)),
        })
    }

    /// One step in a transaction, durable when it answers.
    pub(crate) async fn write<S: Step>(&self, step: S) -> Result<S::Answer, StoreError> {
        self.writer.write(step).await
    }

    /// Reads one snapshot.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.read(read).await
    }

    /// Runs a claim. It takes its snapshot itself, after announcing itself to the leases.
    pub(crate) async fn claim<T: Send + 'static>(
        &self,
        claim: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let conn = Arc::clone(&self.claims).lock_owned().await;
        let ran = tokio::task::spawn_blocking(move || claim(conn.as_ref().ok_or(Failure::Closed)?)).await;
        Ok(ran.map_err(|error| ended(&error))??)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.claims.lock().await.take();
        self.writer.close().await;
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[async_trait::async_trait]
impl neo_events_store::Health for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        Self::ping(self).await
    }
}
