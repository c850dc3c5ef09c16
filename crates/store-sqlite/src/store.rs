//! The store, and the file of one schema.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    event::NewEvent,
    tenant::{Schema, Tenant},
};
use neo_events_store::{Appended, EventQuery, Health, Inserted, StoreError};
use rusqlite::{Connection, Transaction};
use tokio::sync::Notify;

use crate::{
    events,
    failure::Failure,
    open::{OpenError, SqliteOptions, is_current},
    scope::Scope,
    sql,
    tenant_file::TenantFile,
    tenant_files::TenantFiles,
    tenants,
    turn::Turn,
    writer::Step,
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
    admin: Arc<TenantFile>,
    tenants: Arc<TenantFiles>,
    appended: Notify,
    /// Passes so far that claimed what is owed: each begins with another file.
    turns: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tenants.close_blocking();
    }
}

impl SqliteStore {
    /// Opens the file, makes it (0600, its directories 0700) if it is not there, and brings its tables up to date.
    /// The store holds it alone until it is closed; leases of an earlier opening are void.
    pub fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        let (admin, listed) = TenantFile::open_admin(options.clone())?;
        let tenants = Arc::new(TenantFiles::new(&admin.path, options, listed));
        let (appended, turns) = (Notify::new(), AtomicUsize::new(0));
        Ok(Self { inner: Arc::new(Inner { admin: Arc::new(admin), tenants, appended, turns }) })
    }

    /// Ends running reads, finishes queued writes, empties the write-ahead log and frees the file. Other clones answer
    /// [`StoreError::Unavailable`] from then on.
    pub async fn close(self) {
        self.inner.tenants.close().await;
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
        if *schema != self.inner.admin.schema {
            self.inner.tenants.expect_foreign_write(schema);
            if !is_current(tx).map_err(Failure::from)? {
                return Err(Failure::Outdated.into());
            }
        }
        Ok(events::append(tx, events, now)?)
    }

    /// [`EventLog::belong_to_others`](neo_events_store::EventLog::belong_to_others) as the caller's own transaction sees it. It is
    /// refused as by [`SqliteStore::append_in`].
    pub fn belong_to_others_in(
        &self,
        schema: &Schema,
        tx: &Transaction<'_>,
        aggregates: &[(String, Uuid)],
        context_id: Uuid,
    ) -> Result<Vec<bool>, StoreError> {
        self.holds(schema, tx)?;
        Ok(events::belong_to_others(tx, aggregates, context_id)?)
    }

    /// Whether there is an event of this query as the caller's own transaction sees them. It is refused as by
    /// [`SqliteStore::append_in`].
    pub fn has_events_in(
        &self,
        schema: &Schema,
        tx: &Transaction<'_>,
        query: &EventQuery,
    ) -> Result<bool, StoreError> {
        self.holds(schema, tx)?;
        Ok(events::are_there(tx, query)?)
    }

    /// Whether what a transaction writes is written to the schema's file. [`StoreError::UnknownSchema`] if this store
    /// does not serve the schema, [`StoreError::ForeignTransaction`] if the transaction's main file is another.
    pub fn holds(&self, schema: &Schema, tx: &Transaction<'_>) -> Result<(), StoreError> {
        let Inner { admin, tenants, .. } = &*self.inner;
        let of_tx = tx.path().filter(|path| !path.is_empty()).map(Path::new);
        let is_at = |of_tx| {
            if *schema == admin.schema { Ok(admin.is_at(of_tx)) } else { tenants.is_at(schema, of_tx) }
        };
        let is_ours = of_tx.map(is_at).transpose()?.unwrap_or_default();
        if is_ours { Ok(()) } else { Err(Failure::ForeignTransaction.into()) }
    }

    /// Tells the dispatcher that events may be waiting.
    pub fn announce(&self) {
        self.inner.appended.notify_one();
    }

    pub(crate) fn admin(&self) -> &TenantFile {
        &self.inner.admin
    }

    /// The file of a schema.
    pub(crate) async fn file(&self, schema: &Schema) -> Result<Arc<TenantFile>, StoreError> {
        if *schema == self.inner.admin.schema {
            return Ok(Arc::clone(&self.inner.admin));
        }
        self.inner.tenants.file(schema).await
    }

    /// A pass over every open file. It answers what the passes want to know: files that nobody uses are neither
    /// opened nor kept open for it.
    pub(crate) fn turn(&self, now: Timestamp) -> Turn {
        self.inner.tenants.keep_up(now);
        let mut files = self.inner.tenants.open_files();
        files.push(Arc::clone(&self.inner.admin));
        let first = self.inner.turns.fetch_add(1, Ordering::Relaxed) % files.len();
        files.rotate_left(first);
        Turn::over(files)
    }

    /// Makes the file, then the row: a crash in between leaves a file that the next attempt takes over.
    pub(crate) async fn create(&self, tenant: &Tenant) -> Result<Inserted, StoreError> {
        let tenants = &self.inner.tenants;
        if tenant.schema == self.inner.admin.schema || tenants.is_listed(&tenant.schema) {
            return Ok(Inserted::Exists);
        }
        tenants.make(&tenant.schema).await?;
        self.admin().write(Listing { tenant: tenant.clone(), files: Arc::clone(tenants) }).await
    }

    pub(crate) async fn appended(&self) {
        self.inner.appended.notified().await;
    }
}

/// Lists a tenant whose file is there: in the database and here, also if nobody waits for it any more.
struct Listing {
    tenant: Tenant,
    files: Arc<TenantFiles>,
}

impl Step for Listing {
    type Answer = Inserted;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<Inserted, Failure> {
        tenants::insert(scope.connection(), &self.tenant)
    }

    fn committed(self) {
        self.files.add(&self.tenant.schema);
    }
}

#[async_trait]
impl Health for SqliteStore {
    /// Reads the admin file, and writes it without changing anything. A tenant whose file fails must not keep the
    /// others from being served.
    async fn ping(&self) -> Result<(), StoreError> {
        let admin = self.admin();
        admin
            .look_up(|conn| Ok(conn.prepare_cached(sql::CATALOGUE_VERSION)?.query_row([], |_| Ok(()))?))
            .await?;
        admin.write(|conn: &Connection| Ok(conn.prepare_cached(sql::STORE_TOUCH)?.execute([])?)).await?;
        Ok(())
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neo_events_domain::{event::EventDraft, id::EndpointId};
    use neo_events_store::{
        Catalogue, CatalogueVersion, EndpointQuota, EventLog, KeyDigest, Tenants, WorkQueue,
    };
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
        let (store, _directory) = store(Duration::from_secs(2));
        let file = &*store.inner.admin;
        let begun = Instant::now();
        let (one, two) = tokio::join!(file.read(endless), file.read(endless));
        assert!(begun.elapsed() < Duration::from_secs(4), "the wait for a connection counts");
        // The reader's place goes to one of them, and the other has nothing left of its time when its turn comes.
        let (Err(StoreError::TooSlow(slow)), Err(StoreError::Unavailable(waited))) = (&one, &two) else {
            panic!("{one:?} {two:?}")
        };
        assert_eq!(slow.to_string(), "the query took longer than 2 s");
        assert_eq!(waited.to_string(), "other reads took most of the 2 s that this one had");
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_asks_may_do_what_is_found_out_however_many_lists_are_read() {
        let (store, _directory) = store(Duration::from_mins(1));
        let mut users = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let reader = store.clone();
            users.spawn(async move { reader.inner.admin.read(endless).await });
        }
        while store.inner.admin.readers.is_idle() {
            tokio::task::yield_now().await;
        }
        let answers = async {
            assert!(store.api_key(KeyDigest([7; 32])).await.unwrap().is_none());
            assert!(store.tenant(&Schema::admin()).await.unwrap().is_some());
            assert!(store.master_key().await.unwrap().is_none());
            store.ping().await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(10), answers).await.expect("the lists hold all connections");
        store.close().await;
        let cut_off = users.join_all().await;
        assert!(cut_off.iter().all(|read| matches!(read, Err(StoreError::Unavailable(_)))), "{cut_off:?}");
    }

    #[tokio::test]
    async fn a_file_that_fails_keeps_no_other_waiting() {
        let (store, _directory) = store(Duration::from_secs(5));
        let tenants = ["one", "two"].map(|slug| Schema::tenant(slug).unwrap());
        for schema in &tenants {
            let created_at = Timestamp::UNIX_EPOCH;
            store.create_tenant(&Tenant { schema: schema.clone(), name: None, created_at }).await.unwrap();
            let event = EventDraft::new("user.created", "{}").validate(created_at, [1; 10]).unwrap();
            store.append(schema, vec![event], created_at).await.unwrap();
        }
        // As if its connections had broken.
        store.file(&tenants[0]).await.unwrap().close().await;
        let claims = store.claim_dispatches(Timestamp::UNIX_EPOCH, 10, Timestamp::MAX).await.unwrap();
        assert_eq!(claims.iter().map(|claim| &claim.schema).collect::<Vec<_>>(), [&tenants[1]]);
        assert!(store.file(&tenants[0]).await.unwrap().is_ailing(), "left alone for a while");
        let quota = EndpointQuota {
            schema: tenants[1].clone(),
            endpoint_id: EndpointId::from_uuid(Uuid::nil()),
            max: 1,
        };
        // As if it had just begun to fail, and nobody else were owed anything.
        store.file(&tenants[1]).await.unwrap().close().await;
        store.claim_deliveries(Timestamp::UNIX_EPOCH, &[quota], Timestamp::MAX).await.unwrap();
        assert!(store.file(&tenants[1]).await.unwrap().is_ailing(), "and this one");
        store.due_endpoints(Timestamp::UNIX_EPOCH).await.unwrap();
        store.tend(Timestamp::UNIX_EPOCH).await.unwrap();
        store.inner.admin.close().await;
        store.file(&tenants[1]).await.unwrap().close().await;
        let nobody = store.claim_dispatches(Timestamp::UNIX_EPOCH, 10, Timestamp::MAX).await;
        assert!(matches!(nobody, Err(StoreError::Unavailable(_))), "there is nobody to go on: {nobody:?}");
    }
}
