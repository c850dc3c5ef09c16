//! Connections: a pool of them, each with the statements it has prepared.
//!
//! The server ends statements that take too long, but not if its process hangs, nor a commit that waits for a standby
//! that died. So a connection of a pool also has a limit of its own to waiting for an answer ([`ANSWER_SLACK`] longer).
//! Past it the connection is closed, and whoever waited is told [`Failure::NoWord`], which is as good as a connection
//! that broke: it may have happened all the same. The exception are texts ([`Connection::batch`]): a migration takes as
//! long as it takes. Nobody is given a connection whose answer somebody did not wait for, that was left in a
//! transaction, or on which the server has said that it ends it.
//!
//! The server is not asked to cancel the statement. A commit that is cancelled while it waits for a standby is done,
//! for everybody to see: whoever publishes the same id again would be told that it is stored, and a failover would lose
//! it.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::{FutureExt, StreamExt, stream};
use lru::LruCache;
use neo_events_domain::tenant::Schema;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, NoTls, Row, Statement,
    config::{Host, SslMode},
    error::SqlState,
    types::ToSql,
};

use crate::{
    destination::{Destination, Wanted},
    failure::{Failure, is_of_a_standby, is_the_last_word},
    sql::{self, Asked, Sql},
    tls::Tls,
};

/// Statements that a connection keeps prepared; the least used one makes room. A thousand tenants with a hundred
/// statements each would otherwise fill the memory of every backend.
const PREPARED_MAX: NonZeroUsize = NonZeroUsize::new(400).expect("not zero");
/// How long to wait for a connection that is free, or new.
pub(crate) const CONNECTION_WAIT: Duration = Duration::from_secs(5);
/// How long at least, however long was waited for something else: connections are busy for milliseconds.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// How long a server that was a primary is taken for one by whoever only reads.
const PRIMARY_FOR: Duration = Duration::from_secs(2);
/// How long the answer to that is waited for before another connection is made.
const RECYCLE_WAIT: Duration = Duration::from_secs(1);

/// How long a connection is used at least, and how much longer at most: what its process on the server remembers of each
/// tenant's tables is some 0.2 MB, and it forgets nothing before its end.
const LIFE: Duration = Duration::from_mins(30);
/// By how much the lives of connections that are made one after the other differ: they must not end together.
const LIFE_STEP: Duration = Duration::from_mins(7);

/// How much longer an answer is waited for than its statement may take.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// A commit that is answered is durable, whatever the default of the database, the role or the server is, or becomes while
/// the connection lasts. Who asks for more than the disk of one machine, a standby's, gets it.
const WAIT_FOR_THE_DISK: &str = "
    select set_config('synchronous_commit', case level when 'off' then 'on' else level end, false)
    from current_setting('synchronous_commit') as level";
/// A user who has gone away does not keep a process of the server busy.
const LOOK_AFTER_CLIENT: &str = "set client_connection_check_interval = '500ms'";
/// How long to stand before a lock of somebody's where others of the same group wait for their turn.
pub(crate) const LOCK_WAIT_ALONE: Duration = Duration::from_millis(100);

/// How long a transaction's statements stand before a lock of somebody's.
#[derive(Clone, Copy)]
pub(crate) enum LockWait {
    /// As long as any statement of its connection.
    Whole,
    /// For [`LOCK_WAIT_ALONE`].
    Alone,
}

/// Between half an hour and an hour.
fn life(number: u32) -> Duration {
    let longer = u64::from(number) * LIFE_STEP.as_secs() % LIFE.as_secs();
    LIFE + Duration::from_secs(longer)
}

/// A statement of a tenant.
type Key = ((&'static str, Asked), Schema);

/// What is done with the payload of a notification.
pub(crate) type Hear = Arc<dyn Fn(&str) + Send + Sync>;

/// A value for `$1`, `$2`, …
pub(crate) type Param<'a> = &'a (dyn ToSql + Sync);

/// Connections that are made when they are needed and kept.
#[derive(Clone)]
pub(crate) struct Pool(managed::Pool<Manager>);

/// A connection that goes back to its pool.
pub(crate) type Conn = managed::Object<Manager>;

impl Pool {
    /// Of connections whose server ends statements after this time.
    pub(crate) fn new(to: Destination, statement_timeout: Duration, size: usize) -> Result<Self, Failure> {
        Self::of(to, statement_timeout, false, size)
    }

    /// The same, of connections that only read: from time to time their server is asked whether it is a primary still.
    /// Whoever writes finds out by that.
    pub(crate) fn reading(
        to: Destination,
        statement_timeout: Duration,
        size: usize,
    ) -> Result<Self, Failure> {
        Self::of(to, statement_timeout, true, size)
    }

    fn of(
        to: Destination,
        statement_timeout: Duration,
        only_reads: bool,
        size: usize,
    ) -> Result<Self, Failure> {
        let answer_timeout = statement_timeout + ANSWER_SLACK;
        let (made, silent_at) = (AtomicU32::default(), Mutex::default());
        let manager = Manager { to, answer_timeout, only_reads, made, silent_at };
        let pool = managed::Pool::builder(manager)
            .max_size(size)
            // The one that was used last: its server's caches and pages are warm.
            .queue_mode(managed::QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_WAIT))
            .create_timeout(Some(CONNECTION_WAIT))
            .build()
            .map_err(|error| Failure::Pool(error.to_string()))?;
        Ok(Self(pool))
    }

    pub(crate) async fn get(&self) -> Result<Conn, Failure> {
        self.get_since(Instant::now()).await
    }

    /// For somebody who has been waiting since then, for something else at first.
    pub(crate) async fn get_since(&self, came_at: Instant) -> Result<Conn, Failure> {
        let wait = Some(CONNECTION_WAIT.saturating_sub(came_at.elapsed()).max(LEAST_WAIT));
        let timeouts = managed::Timeouts { wait, ..self.0.timeouts() };
        // Boxed: whoever waits for a connection need not carry the making of one.
        Box::pin(self.0.timeout_get(&timeouts)).await.map_err(|error| match error {
            managed::PoolError::Backend(error) => error,
            managed::PoolError::Closed => Failure::Closed,
            managed::PoolError::Timeout(managed::TimeoutType::Wait) => Failure::NoConnectionFree,
            error => Failure::Pool(error.to_string()),
        })
    }

    /// Closes those that have retired where they lie: the ones beneath are seldom asked for.
    pub(crate) fn let_go(&self) {
        self.0.retain(|connection, _| !connection.has_retired());
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }
}

/// Makes connections.
pub(crate) struct Manager {
    to: Destination,
    answer_timeout: Duration,
    only_reads: bool,
    /// How many so far.
    made: AtomicU32,
    /// When a connection was last asked in vain whether its server is the primary.
    silent_at: Mutex<Option<Instant>>,
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Failure;

    async fn create(&self) -> Result<Connection, Failure> {
        let connection = Connection::open(&self.to).await?;
        if self.only_reads {
            connection.look_after_client().await?;
        } else {
            connection.batch(WAIT_FOR_THE_DISK).await?;
        }
        let answer_timeout = Some(self.answer_timeout);
        let retires_at = Some(Instant::now() + life(self.made.fetch_add(1, Ordering::Relaxed)));
        Ok(Connection { answer_timeout, retires_at, only_reads: self.only_reads, ..connection })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Failure> {
        let is_given_up = connection.is_given_up.load(Ordering::Relaxed);
        if connection.client.is_closed() || connection.is_dirty || is_given_up {
            return Err(RecycleError::message("it is closed, or given up"));
        }
        if connection.has_retired() {
            return Err(RecycleError::message("it has lived for long enough"));
        }
        if self.only_reads && connection.asked_at.elapsed() >= PRIMARY_FOR {
            if self.fell_silent_since(connection.asked_at) {
                return Err(RecycleError::message("another one had no answer"));
            }
            let Ok(server) = timeout(RECYCLE_WAIT, connection.server_state()).await else {
                *self.silent_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                return Err(RecycleError::message("its server says no word"));
            };
            if server.map_err(RecycleError::Backend)?.is_standby {
                return Err(RecycleError::message("its server is not the primary any more"));
            }
            connection.asked_at = Instant::now();
        }
        Ok(())
    }
}

impl Manager {
    /// Whether a connection was asked in vain since this one answered: its server is the same most likely, and whoever waits
    /// for a connection does not wait for each that lies there.
    fn fell_silent_since(&self, asked_at: Instant) -> bool {
        self.silent_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|silent_at| silent_at > asked_at)
    }
}

/// What a server is when it is asked.
struct ServerState {
    is_standby: bool,
    /// Somebody has made its sessions so, whatever it is.
    is_read_only: bool,
}

/// One connection.
pub(crate) struct Connection {
    client: Client,
    prepared: Mutex<LruCache<Key, Statement>>,
    /// A transaction was begun and not seen to end.
    is_dirty: bool,
    /// How long an answer is waited for, if not for ever.
    answer_timeout: Option<Duration>,
    /// Users' reads alone go over it: a statement that the server ends took too long.
    only_reads: bool,
    /// An answer did not come while somebody waited for it, or was the last, or a transaction was left.
    is_given_up: AtomicBool,
    /// When its server was the primary for sure.
    asked_at: Instant,
    /// Nobody is given it from then on, if it is one of a pool.
    retires_at: Option<Instant>,
    /// Moves the bytes; ends with the connection.
    driver: JoinSet<()>,
    /// Closes it at once.
    cut: AbortHandle,
}

impl Connection {
    pub(crate) async fn open(to: &Destination) -> Result<Self, Failure> {
        Self::hearing(to, Arc::new(|_| {})).await
    }

    /// One that passes on the payloads of the notifications it listens for.
    pub(crate) async fn hearing(to: &Destination, hear: Hear) -> Result<Self, Failure> {
        let connect = |config: Config| {
            let hear = Arc::clone(&hear);
            async move { Self::start(&config, &to.tls, hear).await?.fit_for(to.wanted).await }.boxed()
        };
        to.reach(&connect).await
    }

    async fn start(config: &Config, tls: &Tls, hear: Hear) -> Result<Self, Failure> {
        let mut driver = JoinSet::new();
        // A socket of this machine has no host's name that a certificate could be for.
        let (client, cut) = if config.get_ssl_mode() == SslMode::Disable || is_local(config) {
            let (client, connection) = config.connect(NoTls).await?;
            (client, driver.spawn(drive(connection, hear)))
        } else {
            let (client, connection) = config.connect(tls.connector()).await?;
            (client, driver.spawn(drive(connection, hear)))
        };
        Ok(Self {
            client,
            prepared: Mutex::new(LruCache::new(PREPARED_MAX)),
            is_dirty: false,
            answer_timeout: None,
            only_reads: false,
            is_given_up: AtomicBool::new(false),
            asked_at: Instant::now(),
            retires_at: None,
            driver,
            cut,
        })
    }

    /// Rows of a statement, for a tenant.
    pub(crate) async fn query(
        &self,
        sql: Sql,
        schema: &Schema,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let statement = self.prepare(sql, schema).await?;
        self.answer(self.client.query(&statement, params)).await
    }

    /// At most one row.
    pub(crate) async fn query_opt(
        &self,
        sql: Sql,
        schema: &Schema,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Failure> {
        let statement = self.prepare(sql, schema).await?;
        self.answer(self.client.query_opt(&statement, params)).await
    }

    /// Exactly one row.
    pub(crate) async fn query_one(
        &self,
        sql: Sql,
        schema: &Schema,
        params: &[Param<'_>],
    ) -> Result<Row, Failure> {
        let statement = self.prepare(sql, schema).await?;
        self.answer(self.client.query_one(&statement, params)).await
    }

    /// How many rows a statement changed.
    pub(crate) async fn execute(
        &self,
        sql: Sql,
        schema: &Schema,
        params: &[Param<'_>],
    ) -> Result<u64, Failure> {
        let statement = self.prepare(sql, schema).await?;
        self.answer(self.client.execute(&statement, params)).await
    }

    /// Prepares a statement, or finds it prepared. Statements that know no tenant are prepared once for all.
    pub(crate) async fn prepare(&self, sql: Sql, schema: &Schema) -> Result<Statement, Failure> {
        let schema = if sql.is_of_tenant() { schema.clone() } else { Schema::admin() };
        let key = (sql.key(), schema);
        if let Some(statement) = self.prepared().get(&key) {
            return Ok(statement.clone());
        }
        let statement = self.answer(self.client.prepare(&sql.of(&key.1))).await?;
        self.prepared().put(key, statement.clone());
        Ok(statement)
    }

    /// Texts that are no statement of ours: migrations, settings.
    pub(crate) async fn batch(&self, text: &str) -> Result<(), Failure> {
        Ok(self.client.batch_execute(text).await?)
    }

    /// Where the server can: built for Windows, say, it refuses the setting, in the options of a start too.
    async fn look_after_client(&self) -> Result<(), Failure> {
        match self.batch(LOOK_AFTER_CLIENT).await {
            Err(failure) if failure.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => Ok(()),
            set => set,
        }
    }

    /// Whether its server is what is wanted. Both is asked at once: between two questions a standby may be promoted.
    async fn fit_for(self, wanted: Wanted) -> Result<Self, Failure> {
        if wanted == Wanted::Any {
            return Ok(self);
        }
        let server = self.server_state().await?;
        if server.is_standby {
            Err(Failure::Standby)
        } else if server.is_read_only && wanted == Wanted::Primary {
            Err(Failure::ReadOnly)
        } else {
            Ok(self)
        }
    }

    async fn server_state(&self) -> Result<ServerState, Failure> {
        // In one round trip: it may be all that the connection is ever asked.
        let text = sql::SESSIONS_SERVER_STATE.of(&Schema::admin());
        let rows = self.answer(self.client.query_typed(&text, &[])).await?;
        let row = rows.first().ok_or(Failure::NoWord)?;
        Ok(ServerState { is_standby: row.try_get("is_standby")?, is_read_only: row.try_get("is_read_only")? })
    }

    fn has_retired(&self) -> bool {
        self.retires_at.is_some_and(|at| at <= Instant::now())
    }

    /// Until the connection has ended.
    pub(crate) async fn ended(&mut self) {
        self.driver.join_next().await;
    }

    /// The driver's own client.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_>, Failure> {
        self.begin_waiting(LockWait::Whole).await
    }

    /// The same, with a limit to standing before locks.
    pub(crate) async fn begin_waiting(&mut self, lock_wait: LockWait) -> Result<Transaction<'_>, Failure> {
        // From here on the connection is not given to anybody else until the end was seen.
        self.is_dirty = true;
        let begin = match lock_wait {
            LockWait::Whole => "begin".to_owned(),
            LockWait::Alone => format!("begin; set local lock_timeout = {}", LOCK_WAIT_ALONE.as_millis()),
        };
        self.answer(self.client.batch_execute(&begin)).await?;
        Ok(Transaction { connection: self })
    }

    /// What the server answers, if it does so in time.
    async fn answer<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        let Some(limit) = self.answer_timeout else { return Ok(answer.await?) };
        let mut unanswered = Unanswered(Some(self));
        let Ok(answer) = timeout(limit, answer).await else {
            self.close();
            tracing::warn!("a statement had no answer in time; its connection is closed");
            return Err(Failure::NoWord);
        };
        if !answer.as_ref().is_err_and(|error| is_the_last_word(error) || is_of_a_standby(error)) {
            unanswered.0 = None;
        }
        answer.map_err(|error| match error.code() {
            Some(&SqlState::QUERY_CANCELED) if self.only_reads => Failure::TooSlow(error),
            _ => error.into(),
        })
    }

    /// Nobody else is given it from here on.
    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    /// At once, and not when it comes back to its pool.
    fn close(&self) {
        self.give_up();
        self.cut.abort();
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, LruCache<Key, Statement>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that has not answered yet. If nobody waits for that any more it is given up: whoever was given it next
/// would wait in their place. Whoever has it may go on with it, for of two statements that were sent together the other
/// is left when one fails.
struct Unanswered<'a>(Option<&'a Connection>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.give_up();
        }
    }
}

fn is_local(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)))
}

async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, hear: Hear)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => hear(notification.payload()),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a connection to the database ended");
                return;
            }
        }
    }
}

/// A transaction. If it is dropped without [`Transaction::commit`], its connection is closed, and with that it is
/// rolled back.
pub(crate) struct Transaction<'a> {
    connection: &'a mut Connection,
}

impl Transaction<'_> {
    pub(crate) async fn commit(self) -> Result<(), Failure> {
        self.answer(self.client.batch_execute("commit")).await?;
        self.connection.is_dirty = false;
        Ok(())
    }

    pub(crate) async fn rollback(self) -> Result<(), Failure> {
        self.answer(self.client.batch_execute("rollback")).await?;
        self.connection.is_dirty = false;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.connection.is_dirty {
            self.connection.close();
        }
    }
}

impl std::ops::Deref for Transaction<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}

#[cfg(test)]
mod tests {
    use deadpool::managed::Manager as _;
    use neo_events_test_postgres::database;

    use super::*;
    use crate::open::Address;

    #[tokio::test]
    async fn a_connection_is_used_until_it_retires() {
        let database = database().await;
        let address = Address::parse(&database.url()).unwrap();
        let manager = Manager {
            to: address.to_primary(Duration::ZERO, Duration::ZERO),
            answer_timeout: CONNECTION_WAIT,
            only_reads: false,
            made: AtomicU32::default(),
            silent_at: Mutex::default(),
        };
        let mut connection = manager.create().await.unwrap();
        assert!(manager.recycle(&mut connection, &Metrics::default()).await.is_ok());
        connection.retires_at = Some(Instant::now());
        assert!(manager.recycle(&mut connection, &Metrics::default()).await.is_err());
    }

    #[test]
    fn connections_that_are_made_together_do_not_retire_together() {
        let mut lives: Vec<_> = (0..17).map(life).collect();
        lives.sort_unstable();
        assert!(lives.windows(2).all(|lives| lives[1] >= lives[0] + Duration::from_mins(1)), "{lives:?}");
        assert!((LIFE..LIFE * 2).contains(&lives[16]));
    }
}
