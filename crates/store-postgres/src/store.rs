//! The store: its connections, its session, and the tenants it knows.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use neo_events_domain::tenant::Schema;
use neo_events_store::{Health, StoreError};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{
    ailing::Ailing,
    append::{Appends, Writer},
    cache::EventCache,
    conn::{Conn, Pool},
    dispatches::Horizon,
    failure::Failure,
    floors::Floors,
    hints::Hints,
    lost::LostClaims,
    migrate,
    open::{Address, OpenError, PostgresOptions, WORK_TIMEOUT_MAX, check},
    sessions::Session,
    settle::Settlements,
    sql,
    tend::TendTimes,
};

/// Of the connections for work, one in so many may be kept by publishes that somebody's lock holds up, and as many by
/// settlements.
const LEFT_BEHIND_SHARE: usize = 4;
/// Leases given back at once: of the connections for work, most are for others.
const RELEASES_MAX: usize = 2;
/// How long a database that serves may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long ending the session may take as the store is closed: without it, others find it silent.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transaction of ours may stand still: a node that hangs in the middle of one must not hold its locks.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// The production store. Cloning is cheap; all clones are the same store.
#[derive(Clone)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) connections: Connections,
    pub(crate) session: Arc<Session>,
    pub(crate) tenants: TenantList,
    pub(crate) appends: Appends,
    pub(crate) settlements: Settlements,
    pub(crate) cache: Arc<EventCache>,
    pub(crate) horizon: Horizon,
    pub(crate) floors: Floors,
    pub(crate) ailing: Ailing,
    /// Leases that may be on their way back at once.
    pub(crate) releases: Semaphore,
    pub(crate) lost_dispatches: LostClaims<()>,
    pub(crate) lost_deliveries: Arc<LostClaims>,
    pub(crate) tend_times: TendTimes,
    pub(crate) hints: Arc<Hints>,
    /// Whether a tenant that is behind is brought up to date.
    migrates: bool,
    /// What runs beside the calls; ends with the store.
    background: Mutex<JoinSet<()>>,
}

/// Two pools, so that no list of a user stands in front of a pass.
#[derive(Clone)]
pub(crate) struct Connections {
    work: Pool,
    reads: Pool,
}

impl Connections {
    fn to(address: &Address, options: &PostgresOptions) -> Result<Self, Failure> {
        let work_timeout = options.work_timeout.min(WORK_TIMEOUT_MAX);
        let work = address.by_keys(work_timeout, IDLE_TIMEOUT);
        let reads = address.planning_anew(options.read_timeout, IDLE_TIMEOUT);
        Ok(Self {
            work: Pool::new((work, work_timeout), address.tls.clone(), options.work_connections.max(2))?,
            reads: Pool::new(
                (reads, options.read_timeout),
                address.tls.clone(),
                options.read_connections.max(1),
            )?,
        })
    }

    /// For publishing, claiming and settling.
    pub(crate) async fn work(&self) -> Result<Conn, Failure> {
        self.work.get().await
    }

    /// The same, for somebody who has been waiting since then: of what waits for company, nothing waits longer.
    pub(crate) async fn work_since(&self, came_at: Instant) -> Result<Conn, Failure> {
        self.work.get_since(came_at).await
    }

    /// For lists and look-ups by users: statements end after their time.
    pub(crate) async fn read(&self) -> Result<Conn, Failure> {
        self.reads.get().await
    }
}

/// The tenants seen so far. A tenant is never removed, so what was seen once stays true.
#[derive(Default)]
pub(crate) struct TenantList(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    nos: HashMap<Schema, i32>,
    schemas: HashMap<i32, Schema>,
}

impl TenantList {
    pub(crate) fn no(&self, schema: &Schema) -> Option<i32> {
        self.seen().nos.get(schema).copied()
    }

    pub(crate) fn schema(&self, no: i32) -> Option<Schema> {
        self.seen().schemas.get(&no).cloned()
    }

    pub(crate) fn learn(&self, schema: Schema, no: i32) {
        let mut seen = self.seen();
        seen.nos.insert(schema.clone(), no);
        seen.schemas.insert(no, schema);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PostgresStore {
    /// Connects, brings the database up to date if that is its task, and begins this node's session.
    pub async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let address = Address::parse(&options.url)?;
        let mut conn = address.connect().await?;
        check(&conn).await?;
        if options.migrates {
            migrate::up(&mut conn, |step| tracing::info!(scope = step.scope, "migrated")).await?;
        } else {
            migrate::require_up_to_date(&conn).await?;
        }
        let connections = Connections::to(&address, &options)?;
        let session = Arc::new(Session::begin(&conn, options.node_name).await?);
        let mut background = JoinSet::new();
        let hints = Arc::new(Hints::new());
        background.spawn(Arc::clone(&session).keep_alive(address.clone()));
        background.spawn(Arc::clone(&hints).run(connections.clone(), address));
        let cache = Arc::new(EventCache::default());
        let lost_deliveries = Arc::new(LostClaims::default());
        let writer = Writer {
            connections: connections.clone(),
            clock: Arc::default(),
            cache: Arc::clone(&cache),
            session: Arc::clone(&session),
            lease_ends: Arc::default(),
            lost: Arc::clone(&lost_deliveries),
            wholes: Arc::default(),
        };
        let left_behind_max = options.work_connections / LEFT_BEHIND_SHARE;
        let inner = Inner {
            appends: Appends::start(writer, left_behind_max, &mut background),
            cache,
            settlements: Settlements::start(&connections, left_behind_max, &mut background),
            connections,
            session,
            tenants: TenantList::default(),
            horizon: Horizon::default(),
            floors: Floors::default(),
            ailing: Ailing::default(),
            releases: Semaphore::new(RELEASES_MAX),
            lost_dispatches: LostClaims::default(),
            lost_deliveries,
            tend_times: TendTimes::default(),
            hints,
            migrates: options.migrates,
            background: Mutex::new(background),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ends this node's session, gives back what it had claimed and closes the connections. Other clones answer
    /// [`StoreError::Unavailable`] from then on.
    pub async fn close(self) {
        let mut background =
            std::mem::take(&mut *self.inner.background.lock().unwrap_or_else(PoisonError::into_inner));
        background.shutdown().await;
        let ended = async {
            let mut conn = self.inner.connections.work().await?;
            self.inner.session.end(&mut conn).await
        };
        // Of a server that hangs nothing would be heard.
        let ended = tokio::time::timeout(END_TIMEOUT, ended).await;
        if let Err(error) = ended.unwrap_or(Err(Failure::NoWord)) {
            tracing::warn!(%error, "the session was not ended; others will find it silent");
        }
        self.inner.connections.work.close();
        self.inner.connections.reads.close();
    }

    /// Tells the dispatcher that events may be waiting.
    pub fn announce(&self) {
        self.inner.hints.dispatches.announce();
    }

    /// A tenant's number; [`Failure::Schema`] if there is no such tenant.
    pub(crate) async fn tenant_no(&self, schema: &Schema) -> Result<i32, Failure> {
        if let Some(no) = self.inner.tenants.no(schema) {
            return Ok(no);
        }
        let mut conn = self.inner.connections.work().await?;
        let row = conn.query_opt(sql::TENANTS_NO_BY_SCHEMA, &Schema::admin(), &[&schema.as_str()]).await?;
        let Some(row) = row else { return Err(Failure::Schema(schema.clone())) };
        // It may have been made by a node of an earlier version, after this one had migrated all it found.
        if migrate::is_behind(&conn, schema).await? {
            if !self.inner.migrates {
                return Err(Failure::Outdated(schema.clone()));
            }
            migrate::tenant_up(&mut conn, schema).await?;
        }
        let no = row.try_get(0)?;
        self.inner.tenants.learn(schema.clone(), no);
        Ok(no)
    }

    /// A connection for a user's read in a tenant that exists.
    pub(crate) async fn reading(&self, schema: &Schema) -> Result<Conn, Failure> {
        self.tenant_no(schema).await?;
        self.inner.connections.read().await
    }

    /// A connection for a write in a tenant that exists, and the tenant's number.
    pub(crate) async fn writing(&self, schema: &Schema) -> Result<(Conn, i32), Failure> {
        let no = self.tenant_no(schema).await?;
        Ok((self.inner.connections.work().await?, no))
    }
}

#[async_trait]
impl Health for PostgresStore {
    /// Reads, and makes sure that a write would be taken: that this is a primary.
    async fn ping(&self) -> Result<(), StoreError> {
        let ping = async {
            let conn = self.inner.connections.work().await?;
            conn.query_one(sql::SESSIONS_PING, &Schema::admin(), &[]).await
        };
        // Of a server that hangs nothing would be heard.
        tokio::time::timeout(PING_TIMEOUT, ping).await.map_err(|_| Failure::NoWord)??;
        Ok(())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}
