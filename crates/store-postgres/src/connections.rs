//! The connections, and who may have one: what waits for one tenant must not take those that the others need.

use std::{ops::Deref, sync::Arc, time::Duration};

use neo_events_domain::tenant::Schema;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use crate::{
    batch::Places,
    conn::{CONNECTION_WAIT, Conn, Connection, Pool},
    failure::Failure,
    open::{Address, BRIEF_CONNECTIONS, PostgresOptions, WORK_TIMEOUT_MAX},
    store::PostgresStore,
};

/// Changes of users at once: of the connections for work, most are for others.
const CHANGES_MAX: usize = 3;
/// Of one tenant: fewer, so that a lock on its tables leaves a place for others.
const CHANGES_OF_TENANT_MAX: usize = 2;
/// How long a transaction of ours may stand still: a node that hangs in the middle of one must not hold its locks.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often connections are looked at that lie there.
const RETIRED_INTERVAL: Duration = Duration::from_mins(1);

/// Pools of their own, so that no list of a user stands in front of a pass, and no lock on a tenant's tables before
/// what all tenants wait for.
#[derive(Clone)]
pub(crate) struct Connections {
    work: Pool,
    brief: Pool,
    reads: Pool,
}

impl Connections {
    pub(crate) fn to(address: &Address, options: &PostgresOptions) -> Result<Self, Failure> {
        let work_timeout = options.work_timeout.min(WORK_TIMEOUT_MAX);
        let work = address.by_keys(work_timeout, IDLE_TIMEOUT);
        let brief = address.brief(work_timeout, IDLE_TIMEOUT);
        let reads = address.planning_anew(options.read_timeout, IDLE_TIMEOUT);
        Ok(Self {
            work: Pool::new(work, work_timeout, options.work_connections.max(2))?,
            brief: Pool::new(brief, work_timeout, BRIEF_CONNECTIONS)?,
            reads: Pool::reading(reads, options.read_timeout, options.read_connections.max(1))?,
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

    /// The same as [`Self::work`], for somebody who has been waiting since then: of what waits for company, nothing
    /// waits longer.
    pub(crate) async fn work_since(&self, came_at: Instant) -> Result<Conn, Failure> {
        self.work.get_since(came_at).await
    }

    /// For lists and look-ups by users: statements end after their time.
    pub(crate) async fn read(&self) -> Result<Conn, Failure> {
        self.reads.get().await
    }

    /// Closes those that have retired and lie there, until it is dropped.
    pub(crate) async fn let_go_of_the_old(self) {
        let Self { work, brief, reads } = self;
        loop {
            sleep(RETIRED_INTERVAL).await;
            [&work, &brief, &reads].into_iter().for_each(Pool::let_go);
        }
    }

    pub(crate) fn close(&self) {
        let Self { work, brief, reads } = self;
        [work, brief, reads].into_iter().for_each(Pool::close);
    }
}

/// What users change goes through here: whoever waits, for a tenant's other changes or a lock on its tables, has a
/// connection, and others need them too.
pub(crate) struct ChangeGate {
    of_tenants: Places,
    all: Arc<Semaphore>,
}

/// Given back when dropped.
pub(crate) struct ChangePlace {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl ChangeGate {
    pub(crate) fn new() -> Self {
        Self {
            of_tenants: Places::of_each(CHANGES_OF_TENANT_MAX),
            all: Arc::new(Semaphore::new(CHANGES_MAX)),
        }
    }

    pub(crate) async fn enter(&self, tenant_no: i32) -> Result<ChangePlace, Failure> {
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

impl PostgresStore {
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
