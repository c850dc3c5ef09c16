//! The store, and the file of one schema.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use neo_events_domain::{Timestamp, event::NewEvent, id::EndpointId, tenant::Schema};
use neo_events_store::{Appended, Health, StoreError};
use rusqlite::{Connection, Transaction};
use tokio::sync::Notify;

use crate::{
    endpoints, events,
    failure::Failure,
    leases::{Leases, Tokens},
    open::{OpenError, SqliteOptions, open},
    readers::{Readers, ended, snapshot},
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
    /// Links resolved.
    path: PathBuf,
    writer: Writer,
    readers: Arc<Readers>,
    /// Claims and what else the passes read run one at a time, on a connection of their own: no list or count is ever
    /// in front of them.
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

    /// Ends running reads, finishes queued writes, empties the write-ahead log and frees the file. Other clones answer
    /// [`StoreError::Unavailable`] from then on.
    pub async fn close(self) {
        self.inner.admin.close().await;
    }

    /// Publishes inside the caller's own transaction, on the caller's own connection to the same file: the events are
    /// there if and only if the transaction commits. Begin it `IMMEDIATE`, so that it cannot fail half-way because
    /// somebody else wrote, and keep it short: the store waits for it, at most 5 s. Call [`SqliteStore::announce`]
    /// after the commit, or the events wait for the next poll. A transaction that [`SqliteStore::holds`] refuses is
    /// refused here.
    pub fn append_in(
        &self,
        schema: &Schema,
        tx: &Transaction<'_>,
        events: &[NewEvent],
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        self.holds(schema, tx)?;
        Ok(events::append(tx, events, now)?)
    }

    /// Whether what a transaction writes is written to the schema's file. [`StoreError::UnknownSchema`] if this store
    /// does not serve the schema, [`StoreError::ForeignTransaction`] if the transaction's main file is another.
    pub fn holds(&self, schema: &Schema, tx: &Transaction<'_>) -> Result<(), StoreError> {
        let file = self.file(schema)?;
        let of_tx = tx.path().filter(|path| !path.is_empty()).map(Path::new);
        let is_ours = of_tx.is_some_and(|of_tx| {
            of_tx == file.path || of_tx.canonicalize().is_ok_and(|of_tx| of_tx == file.path)
        });
        if is_ours { Ok(()) } else { Err(Failure::ForeignTransaction.into()) }
    }

    /// The sealed secret that was stored last, of any endpoint that is not deleted: whoever holds the master key can
    /// tell by it whether it is the right one.
    pub async fn any_sealed_secret(
        &self,
        schema: &Schema,
    ) -> Result<Option<(EndpointId, Vec<u8>)>, StoreError> {
        self.file(schema)?.read(endpoints::newest_secret).await
    }

    /// Tells the dispatcher that events may be waiting.
    pub fn announce(&self) {
        self.inner.appended.notify_one();
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

#[async_trait]
impl Health for SqliteStore {
    /// Reads, and writes without changing anything.
    async fn ping(&self) -> Result<(), StoreError> {
        for file in self.files() {
            file.read(|conn| Ok(conn.prepare_cached(sql::CATALOGUE_VERSION)?.query_row([], |_| Ok(()))?))
                .await?;
            file.write(|conn: &Connection| Ok(conn.prepare_cached(sql::STORE_TOUCH)?.execute([])?)).await?;
        }
        Ok(())
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
            path: opened.path,
            delivery_leases: Arc::new(Leases::new(Arc::clone(&tokens))),
            dispatch_leases: Arc::new(Leases::new(tokens)),
            writer: Writer::start(opened.writer)
                .map_err(|source| OpenError::Io { path: options.path, source })?,
            readers: Arc::new(Readers::new(opened.readers, options.read_timeout)),
            claims: Arc::new(tokio::sync::Mutex::new(Some(opened.claims))),
            lock: Mutex::new(Some(opened.lock)),
        })
    }

    /// One step in a transaction, durable when it answers.
    pub(crate) async fn write<S: Step>(&self, step: S) -> Result<S::Answer, StoreError> {
        self.writer.write(step).await
    }

    /// Reads one snapshot, for a user: takes turns with other users, and ends when its time is up.
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

    /// Reads one snapshot, for a pass: behind claims alone.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.claim(move |conn| snapshot(conn, look)).await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.claims.lock().await.take();
        self.writer.close().await;
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neo_events_store::{Catalogue, CatalogueVersion, WorkQueue};
    use std::{
        error::Error,
        time::{Duration, Instant},
    };

    /// As a report over years would be.
    const ENDLESS: &str =
        "with recursive n (i) as (select 1 union all select i + 1 from n) select count(*) from n";

    fn endless(conn: &Connection) -> Result<i64, Failure> {
        Ok(conn.query_row(ENDLESS, [], |row| row.get(0))?)
    }

    fn store(read_timeout: Duration) -> (SqliteStore, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.db");
        let options = SqliteOptions { readers: 1, read_timeout, ..SqliteOptions::new(path) };
        (SqliteStore::open(options).unwrap(), directory)
    }

    #[tokio::test]
    async fn a_read_that_takes_too_long_is_ended_and_harms_no_other() {
        let (store, _directory) = store(Duration::from_millis(200));
        let file = &store.inner.admin;
        let begun = Instant::now();
        let (one, two) = tokio::join!(file.read(endless), file.read(endless));
        assert!(begun.elapsed() < Duration::from_secs(2), "the wait for a connection counts");
        for ended in [one, two] {
            let Err(StoreError::Unavailable(cause)) = ended else { panic!("{ended:?}") };
            assert_eq!(cause.to_string(), "the query took longer than 0.2 s");
        }
        file.read(|conn| Ok(conn.query_row("select 1", [], |_| Ok(()))?)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_never_wait_for_users() {
        let (store, _directory) = store(Duration::from_mins(1));
        let reader = store.clone();
        let mut users = tokio::task::JoinSet::new();
        users.spawn(async move { reader.inner.admin.read(endless).await });
        while store.inner.admin.readers.is_idle() {
            tokio::task::yield_now().await;
        }
        let passes = async {
            store.due_endpoints(Timestamp::UNIX_EPOCH).await.unwrap();
            store.catalogue_changes(&Schema::admin(), CatalogueVersion(0), 10).await.unwrap();
            store.tend(Timestamp::UNIX_EPOCH).await.unwrap();
            store.claim_dispatches(Timestamp::UNIX_EPOCH, 1, Timestamp::UNIX_EPOCH).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(10), passes).await.expect("the only reader is taken");

        let begun = Instant::now();
        store.close().await;
        assert!(begun.elapsed() < Duration::from_secs(5), "closing ends what runs");
        let Some(Ok(Err(error))) = users.join_next().await else { panic!("it was cut off") };
        assert_eq!(error.source().unwrap().to_string(), "the store is closed");
    }
}
