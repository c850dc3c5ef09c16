//! The store: what its parts share, how it begins and how it ends.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use neo_events_domain::tenant::Schema;
use neo_events_store::{Health, MigrationStep, StoreError};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    append::{Appends, Writer},
    backed_off_tenants::BackedOff,
    batch::Places,
    cache::EventCache,
    catalogue::CatalogueReads,
    connections::{ChangeGate, Connections},
    failure::Failure,
    floors::Floors,
    hints::Hints,
    horizon::Horizon,
    lost::LostClaims,
    migrate::{self, LeftBehind},
    open::{Address, OpenError, PostgresOptions, check, warn_of_losses},
    sessions::Session,
    settle::Settlements,
    sql,
    tenants::TenantList,
    tend::TendTimes,
};

/// Of the connections for work, one in so many may be kept by publishes that somebody's lock holds up, and as many by
/// settlements.
const LEFT_BEHIND_SHARE: usize = 4;
/// Leases given back at once: of the connections for work, most are for others.
const RELEASES_MAX: usize = 2;
/// How long a database that serves may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long closing may take, which ends what was begun and then the session: without its end, others find it silent.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// What of it is kept for the session where a tenant's locked table keeps what was begun from ending.
const SESSION_TIMEOUT: Duration = Duration::from_secs(1);

/// The production store. Cloning is cheap; all clones are the same store.
#[derive(Clone)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) connections: Connections,
    pub(crate) session: Arc<Session>,
    /// Whose catalogue was read when.
    pub(crate) catalogue_reads: CatalogueReads,
    /// For what users change.
    pub(crate) changes: ChangeGate,
    /// For what users of one tenant read at once.
    pub(crate) reads: Places,
    pub(crate) tenants: TenantList,
    pub(crate) appends: Appends,
    pub(crate) settlements: Settlements,
    pub(crate) cache: Arc<EventCache>,
    pub(crate) horizon: Horizon,
    pub(crate) floors: Floors,
    pub(crate) backed_off: BackedOff,
    /// Leases that may be on their way back at once.
    pub(crate) releases: Semaphore,
    pub(crate) lost_dispatches: LostClaims<()>,
    pub(crate) lost_deliveries: Arc<LostClaims>,
    pub(crate) tend_times: TendTimes,
    pub(crate) hints: Arc<Hints>,
    /// Whether a tenant that is behind is brought up to date.
    pub(crate) migrates: bool,
    /// They store and record what callers wait for; closing lets them finish.
    workers: Mutex<JoinSet<()>>,
    /// The session's beats, and what nodes tell each other: what runs beside the calls and ends with the store.
    background: Mutex<JoinSet<()>>,
}

impl PostgresStore {
    /// Connects, brings the database up to date if that is its task, and begins this node's session.
    pub async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let address = Address::parse(&options.url)?;
        let mut conn = address.connect().await?;
        check(&conn).await?;
        if options.migrates {
            let progress = |step: MigrationStep<'_>| tracing::info!(scope = step.scope, "migrated");
            for LeftBehind { schema, failure } in migrate::up(&mut conn, progress).await? {
                tracing::error!(%schema, %failure, "this tenant could not be migrated, and is not served until it is");
            }
        } else {
            migrate::require_up_to_date(&conn).await?;
        }
        let connections = Connections::to(&address, &options)?;
        let session = Arc::new(Session::begin(&conn, options.node_name).await?);
        warn_of_losses(&conn).await;
        let (mut workers, mut background) = (JoinSet::new(), JoinSet::new());
        let hints = Arc::new(Hints::new());
        background.spawn(Arc::clone(&session).keep_alive(address.clone()));
        background.spawn(connections.clone().let_go_of_the_old());
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
            optimistic: Arc::default(),
        };
        let left_behind_max = options.work_connections / LEFT_BEHIND_SHARE;
        let inner = Inner {
            appends: Appends::start(writer, left_behind_max, &mut workers),
            cache,
            settlements: Settlements::start(&connections, left_behind_max, &mut workers),
            connections,
            session,
            catalogue_reads: CatalogueReads::default(),
            changes: ChangeGate::new(),
            reads: Places::of_each(options.read_connections.div_ceil(2).max(1)),
            tenants: TenantList::default(),
            horizon: Horizon::default(),
            floors: Floors::default(),
            backed_off: BackedOff::default(),
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
    /// Other clones answer [`StoreError::Unavailable`] from then on. Takes 3 seconds at most: of a server that hangs
    /// nothing is heard, and then whoever has just published is told that it may have been stored.
    pub async fn close(self) {
        let deadline = Instant::now() + END_TIMEOUT;
        let (mut workers, mut background) = (take(&self.inner.workers), take(&self.inner.background));
        self.inner.appends.close();
        self.inner.settlements.close();
        let finished = async { while workers.join_next().await.is_some() {} };
        if timeout_at(deadline - SESSION_TIMEOUT, finished).await.is_err() {
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
        self.inner.connections.close();
    }

    /// Lets the session end by its silence: others take over what it holds, though there are clones of this one.
    pub fn fall_silent(&self) {
        take(&self.inner.background).abort_all();
    }

    /// Tells the dispatcher that events may be waiting.
    pub fn announce(&self) {
        self.inner.hints.dispatches.announce();
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

fn take(tasks: &Mutex<JoinSet<()>>) -> JoinSet<()> {
    std::mem::take(&mut *tasks.lock().unwrap_or_else(PoisonError::into_inner))
}
