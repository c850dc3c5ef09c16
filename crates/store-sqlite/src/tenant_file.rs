//! The open file of one schema: its writer, its readers, and the leases on its rows.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use neo_events_domain::{Timestamp, retry::FIRST_DUE_AHEAD_MAX, tenant::Schema, time::later};
use neo_events_store::StoreError;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::{
    columns::Micros,
    deliveries,
    failure::Failure,
    leases::{Leases, Tokens},
    log_limit::{Claims, LogLimit},
    open::{OpenError, Opened, SqliteOptions, open},
    readers::{Readers, ended, snapshot},
    sql, tenants,
    tend::LookedAhead,
    writer::{Step, Writer},
};

/// How long the passes leave a file alone after one failed there: what is damaged stays so, and is not reported five
/// times a second.
const AILING: Duration = Duration::from_secs(5);
/// Connections of the admin file that lists leave to look-ups.
const LOOK_UP_READERS: usize = 1;

/// One schema's file. What is dropped with it is dropped from above to below.
pub(crate) struct TenantFile {
    pub(crate) schema: Schema,
    /// On rows of `deliveries`, by seq.
    pub(crate) delivery_leases: Arc<Leases>,
    /// On rows of `owed_dispatches`, by the event's seq.
    pub(crate) dispatch_leases: Arc<Leases>,
    /// Links resolved.
    pub(crate) path: PathBuf,
    /// When somebody last called for it.
    used_at: Mutex<Instant>,
    /// How far it was looked through for what a clock put off before it was opened.
    looked_ahead: Mutex<LookedAhead>,
    /// Until when the passes leave it alone, since one failed.
    ailing_until: Mutex<Option<Instant>>,
    complained_at: Mutex<Option<Instant>>,
    pub(crate) readers: Arc<Readers>,
    /// Claims and what else the passes read run one at a time, on a connection of their own: no list or count is ever
    /// in front of them.
    claims: Arc<Claims>,
    writer: Writer,
    /// Held until everything above is gone.
    lock: Mutex<Option<File>>,
}

impl TenantFile {
    /// The admin file, with the schemas of the list beside `admin`.
    pub(crate) fn open_admin(options: SqliteOptions) -> Result<(Self, Vec<Schema>), OpenError> {
        let readers = options.readers.max(1) + LOOK_UP_READERS;
        let opened = open(&SqliteOptions { readers, ..options.clone() })?;
        let sql_error = |source| OpenError::of_sql(&options.path, source);
        tenants::insert_admin(&opened.writer).map_err(sql_error)?;
        let admin = Schema::admin();
        let mut listed = tenants::schemas(&opened.writer).map_err(sql_error)?;
        listed.retain(|schema| *schema != admin);
        Ok((Self::of(admin, opened, options)?, listed))
    }

    pub(crate) fn open(schema: Schema, options: SqliteOptions) -> Result<Self, OpenError> {
        let opened = open(&options)?;
        Self::of(schema, opened, options)
    }

    fn of(schema: Schema, opened: Opened, options: SqliteOptions) -> Result<Self, OpenError> {
        let tokens = Arc::new(Tokens::of_opening(opened.opening));
        let readers = Arc::new(Readers::new(opened.readers, options.readers.max(1), options.read_timeout));
        let claims = Arc::new(Claims::new(Some(opened.claims)));
        let log_limit = LogLimit::new(opened.log, options.log_bytes_max, &readers, &claims);
        Ok(Self {
            schema,
            path: opened.path,
            delivery_leases: Arc::new(Leases::new(Arc::clone(&tokens))),
            dispatch_leases: Arc::new(Leases::new(tokens)),
            used_at: Mutex::new(Instant::now()),
            looked_ahead: Mutex::default(),
            ailing_until: Mutex::default(),
            complained_at: Mutex::default(),
            readers,
            claims,
            writer: Writer::start(opened.writer, log_limit)
                .map_err(|source| OpenError::Io { path: options.path, source })?,
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

    /// Reads what takes a moment and somebody's request waits for: in the admin file no list is in front of it.
    pub(crate) async fn look_up<T: Send + 'static>(
        &self,
        look_up: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.look_up(look_up).await
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

    /// Whether a path leads to this file.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        path == self.path || path.canonicalize().is_ok_and(|path| path == self.path)
    }

    /// Somebody uses it.
    pub(crate) fn touch(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When somebody last used it.
    pub(crate) fn used_at(&self) -> Instant {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it was looked through for what a clock put off.
    pub(crate) fn looked_ahead(&self) -> LookedAhead {
        *self.looked_ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found up to here is due now.
    pub(crate) fn looked_ahead_to(&self, to: LookedAhead) {
        *self.looked_ahead.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// Whether the passes leave it alone.
    pub(crate) fn is_ailing(&self) -> bool {
        let until = *self.ailing_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// A pass failed: the next ones leave it alone for a while.
    pub(crate) fn ail(&self) {
        *self.ailing_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + AILING);
    }

    /// Whether it is time to say once more that something in it cannot be read.
    pub(crate) fn may_complain(&self) -> bool {
        let mut complained_at = self.complained_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = complained_at.is_none_or(|at| at.elapsed() >= AILING);
        if is_time {
            *complained_at = Some(Instant::now());
        }
        is_time
    }

    /// Whether somebody works on a row.
    pub(crate) fn is_leased(&self, now: Timestamp) -> bool {
        self.delivery_leases.any_live(now) || self.dispatch_leases.any_live(now)
    }

    /// From when on there is something to do, if there is anything. Blocks, also while somebody else's transaction writes:
    /// what it will have written counts. What a clock that ran ahead put off is to be brought back now.
    pub(crate) fn next_work(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let next = move |conn: &Connection| {
            let owes: bool = conn.prepare_cached(sql::STORE_OWES)?.query_row([], |row| row.get(0))?;
            if owes || !deliveries::first_ahead(conn, later(now, FIRST_DUE_AHEAD_MAX), 1)?.is_empty() {
                return Ok(Some(Timestamp::MIN));
            }
            // What an inactive endpoint owes waits for somebody to activate it.
            let mut endpoints = conn.prepare_cached(sql::DELIVERY_QUEUE_ENDPOINTS)?;
            let mut heads = conn.prepare_cached(sql::DELIVERY_QUEUE_BY_ENDPOINT)?;
            let mut endpoints = endpoints.query([])?;
            let mut next: Option<Timestamp> = None;
            while let Some(endpoint) = endpoints.next()? {
                let head = |row: &Row<'_>| Ok(row.get::<_, Micros>(0)?.timestamp());
                let due_at = heads.query_row([endpoint.get::<_, i64>(0)?], head).optional()?;
                next = next.into_iter().chain(due_at).min();
            }
            Ok(next)
        };
        self.writer.write_blocking(next)
    }

    /// Whether no connection is in use, not even for a caller that no longer waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.readers.is_idle() && self.claims.try_lock().is_ok()
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.claims.lock().await.take();
        self.writer.close().await;
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
