//! The store: its connections, its session, and the tenants it knows.

use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use neo_events_domain::tenant::Schema;
use neo_events_store::{Health, StoreError};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    ailing::Ailing,
    append::{Appends, Writer},
    batch::Places,
    cache::EventCache,
    conn::{CONNECTION_WAIT, Conn, Connection, Pool},
    failure::Failure,
    floors::Floors,
    hints::Hints,
    horizon::Horizon,
    lost::LostClaims,
    migrate,
    open::{Address, BRIEF_CONNECTIONS, OpenError, PostgresOptions, WORK_TIMEOUT_MAX, check},
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
/// Changes of users at once: of the connections for work, most are for others.
const CHANGES_MAX: usize = 3;
/// Of one tenant: fewer, so that a lock on its tables leaves a place for others.
const CHANGES_OF_TENANT_MAX: usize = 2;
/// How long a database that serves may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long ending the session may take as the store is closed: without it, others find it silent.
const END_TIMEOUT: Duration = Duration::from_secs(3);
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
    /// Whose catalogue was read when.
    pub(crate) told: Told,
    /// For what users change.
    changes: ChangeGate,
    /// For what users of one tenant read at once.
    reads: Places,
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
    /// They store and record what callers wait for; closing lets them finish.
    workers: Mutex<JoinSet<()>>,
    /// The session's beats, and what nodes tell each other: what runs beside the calls and ends with the store.
    background: Mutex<JoinSet<()>>,
}

/// Pools of their own, so that no list of a user stands in front of a pass, and no lock on a tenant's tables before what all
/// tenants wait for.
#[derive(Clone)]
pub(crate) struct Connections {
    work: Pool,
    brief: Pool,
    reads: Pool,
}

/// What users change goes through here: whoever waits, for a tenant's other changes or a lock on its tables, has a
/// connection, and others need them too.
struct ChangeGate {
    of_tenants: Places,
    all: Arc<Semaphore>,
}

/// Given back when dropped.
pub(crate) struct ChangePlace {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl ChangeGate {
    fn new() -> Self {
        Self {
            of_tenants: Places::of_each(CHANGES_OF_TENANT_MAX),
            all: Arc::new(Semaphore::new(CHANGES_MAX)),
        }
    }

    async fn enter(&self, tenant_no: i32) -> Result<ChangePlace, Failure> {
        let entered = async {
            let of_tenant = self.of_tenants.take(tenant_no).await.ok_or(Failure::Closed)?;
            let of_all = Arc::clone(&self.all).acquire_owned().await.map_err(|_| Failure::Closed)?;
            Ok(ChangePlace { _of_tenant: of_tenant, _of_all: of_all })
        };
        timeout(CONNECTION_WAIT, entered).await.unwrap_or(Err(Failure::NoConnectionFree))
    }
}

/// A connection for a user's read, and the tenant's place among its reads.
pub(crate) struct Reading {
    conn: Conn,
    _place: OwnedSemaphorePermit,
}

impl Deref for Reading {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}

/// How often the session's connection had been lost when each tenant's catalogue was read last. After a failover the
/// database may have forgotten a change, and whoever knows of that change cannot be told so by its number.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<Schema, u64>>);

impl Told {
    /// Whether it was as often as now. From here on it is.
    pub(crate) fn is_since(&self, schema: &Schema, losses: u64) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(schema.clone(), losses) == Some(losses)
    }
}

impl Connections {
    fn to(address: &Address, options: &PostgresOptions) -> Result<Self, Failure> {
        let work_timeout = options.work_timeout.min(WORK_TIMEOUT_MAX);
        let work = address.by_keys(work_timeout, IDLE_TIMEOUT);
        let brief = address.brief(work_timeout, IDLE_TIMEOUT);
        let reads = address.planning_anew(options.read_timeout, IDLE_TIMEOUT);
        Ok(Self {
            work: Pool::new((work, work_timeout), address.tls.clone(), options.work_connections.max(2))?,
            brief: Pool::new((brief, work_timeout), address.tls.clone(), BRIEF_CONNECTIONS)?,
            reads: Pool::reading(
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

    /// For what all tenants wait for and one tenant's tables may hold up: it stands before nobody's lock for long.
    pub(crate) async fn brief(&self) -> Result<Conn, Failure> {
        self.brief.get().await
    }

    /// The same as [`Self::work`], for somebody who has been waiting since then: of what waits for company, nothing waits longer.
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

fn take(tasks: &Mutex<JoinSet<()>>) -> JoinSet<()> {
    std::mem::take(&mut *tasks.lock().unwrap_or_else(PoisonError::into_inner))
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
        let (mut workers, mut background) = (JoinSet::new(), JoinSet::new());
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
            appends: Appends::start(writer, left_behind_max, &mut workers),
            cache,
            settlements: Settlements::start(&connections, left_behind_max, &mut workers),
            connections,
            session,
            told: Told::default(),
            changes: ChangeGate::new(),
            reads: Places::of_each(options.read_connections.div_ceil(2).max(1)),
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
            workers: Mutex::new(workers),
            background: Mutex::new(background),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Finishes what it has taken, ends this node's session, gives back what it had claimed and closes the connections.
    /// Other clones answer [`StoreError::Unavailable`] from then on. Takes 3 seconds at most: of a server that hangs nothing
    /// is heard, and then whoever has just published is told that it may have been stored.
    pub async fn close(self) {
        let deadline = Instant::now() + END_TIMEOUT;
        let (mut workers, mut background) = (take(&self.inner.workers), take(&self.inner.background));
        self.inner.appends.close();
        self.inner.settlements.close();
        let finished = async { while workers.join_next().await.is_some() {} };
        if timeout_at(deadline, finished).await.is_err() {
            workers.shutdown().await;
        }
        background.shutdown().await;
        let ended = async {
            let mut conn = self.inner.connections.work().await?;
            self.inner.session.end(&mut conn).await
        };
        let ended = timeout_at(deadline, ended).await;
        if let Err(error) = ended.unwrap_or(Err(Failure::NoWord)) {
            tracing::warn!(%error, "the session was not ended; others will find it silent");
        }
        let Connections { work, brief, reads } = &self.inner.connections;
        [work, brief, reads].into_iter().for_each(Pool::close);
    }

    /// Lets the session end by its silence: others take over what it holds, though there are clones of this one.
    pub fn fall_silent(&self) {
        take(&self.inner.background).abort_all();
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
    pub(crate) async fn reading(&self, schema: &Schema) -> Result<Reading, Failure> {
        let tenant_no = self.tenant_no(schema).await?;
        let place = timeout(CONNECTION_WAIT, self.inner.reads.take(tenant_no)).await;
        let place = place.map_err(|_| Failure::NoConnectionFree)?.ok_or(Failure::Closed)?;
        Ok(Reading { conn: self.inner.connections.read().await?, _place: place })
    }

    /// The same as [`Self::writing`] for what a user changes, with its place among the changes.
    pub(crate) async fn changing(&self, schema: &Schema) -> Result<(Conn, i32, ChangePlace), Failure> {
        let no = self.tenant_no(schema).await?;
        let place = self.inner.changes.enter(no).await?;
        Ok((self.inner.connections.work().await?, no, place))
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
