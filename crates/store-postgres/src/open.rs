//! Opening a database: where it is, whether it is fit, and bringing it up to date.

use std::{fmt, sync::Arc, time::Duration};

use neo_events_store::{MigrationStatus, MigrationStep};
use tokio_postgres::{
    Config,
    config::{Host, TargetSessionAttrs},
    error::SqlState,
};
use url::form_urlencoded;

use crate::{
    conn::{Connection, LOCK_WAIT_ALONE},
    destination::{Destination, LastServer, PORT_DEFAULT, Wanted},
    failure::Failure,
    migrate::{self, LeftBehind},
    tls::{Tls, TlsChoice},
};

/// The oldest server that works, as `server_version_num` has it.
const SERVER_VERSION_MIN: i32 = 150_000;
/// What a database must be created with: only it has every text that JSON can have.
const ENCODING: &str = "UTF8";
/// How long a server may leave bytes unacknowledged, or a connection may be idle before it is asked for a sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a statement of the passes may wait for somebody's lock: it waits for one tenant, and others wait with it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that stand before nobody's lock for long: for claiming deliveries, for claiming dispatches, for tending.
pub(crate) const BRIEF_CONNECTIONS: usize = 3;
/// How statements of the passes are planned: once, for whatever values, and so that each reaches a few rows through
/// keys also where the planner was told that a table is empty and would rather read it whole; it is full by the time
/// the plan is used. Left to itself the server plans the longest of them anew each time, which takes longer than
/// carrying them out.
#[doc(hidden)]
pub const PLANNING_OF_WORK: [(&str, &str); 3] =
    [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off"), ("enable_mergejoin", "off")];
/// How long a statement for work may take at most: the leases of one whose answer was lost are looked for longer.
pub(crate) const WORK_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// How long a transaction that migrates may stand still: others wait for its lock, and its process may have hung.
const MIGRATOR_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long making a connection to one of the servers may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the database is and what a node may use of it. `Debug` shows no URL, for it may have a password.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`
    pub url: String,
    /// Connections for publishing, claiming and settling.
    pub work_connections: usize,
    /// Connections for lists and look-ups by users.
    pub read_connections: usize,
    /// How long a statement of a user may take.
    pub read_timeout: Duration,
    /// How long a statement for work may take, 30 s at most: one that takes longer is repeated, by whoever is able to.
    pub work_timeout: Duration,
    /// How this node is called where people look: in the list of sessions.
    pub node_name: String,
    /// Whether opening brings the database up to date. If not, one that is behind is refused: somebody else migrates,
    /// with rights that a node then need not have.
    pub migrates: bool,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            work_connections, read_connections, read_timeout, work_timeout, node_name, migrates, ..
        } = self;
        f.debug_struct("PostgresOptions")
            .field("work_connections", work_connections)
            .field("read_connections", read_connections)
            .field("read_timeout", read_timeout)
            .field("work_timeout", work_timeout)
            .field("node_name", node_name)
            .field("migrates", migrates)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// 8 connections for work, 6 for reading, 5 s for a read, 30 s for work; migrates.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            work_connections: 8,
            read_connections: 6,
            read_timeout: Duration::from_secs(5),
            work_timeout: WORK_TIMEOUT_MAX,
            node_name: format!("neo-events:{}", std::process::id()),
            migrates: true,
        }
    }

    /// Most connections that the node will have: these, three that stand before nobody's lock, the one by which it is
    /// heard, and the one by which it hears.
    pub const fn connections_max(&self) -> usize {
        self.work_connections + self.read_connections + BRIEF_CONNECTIONS + 2
    }
}

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be used.
    #[error("the database URL cannot be used: {0}")]
    BadUrl(String),
    /// The file of `sslrootcert`.
    #[error("sslrootcert cannot be used: {0}")]
    RootFile(String),
    /// Nobody answered, or not in a way that can be understood.
    #[error("the database does not answer: {0}")]
    Unreachable(String),
    /// The server does not let us in.
    #[error("the database refuses the connection: {0}")]
    Refused(String),
    /// The server is too old.
    #[error("PostgreSQL {found} is too old: neo-events needs 15 or later")]
    ServerTooOld {
        /// What it calls itself.
        found: String,
    },
    /// It cannot hold every text.
    #[error(
        "the database's encoding is {found}, it must be UTF8: create it with `create database … encoding 'UTF8' \
         template template0`"
    )]
    Encoding {
        /// What it has.
        found: String,
    },
    /// It may be read but not written.
    #[error("the database is read-only, a standby perhaps: give the URL of the primary")]
    ReadOnly,
    /// Rights that are needed are missing.
    #[error(
        "the database user lacks rights: {0}; it needs to create schemas in this database, or own schema admin"
    )]
    Rights(String),
    /// A later version of this program has changed it in ways that this one does not know.
    #[error(
        "{scope} needs a program that knows migration {requires}, this one knows up to {known}: use the version that \
         migrated it, or a later one"
    )]
    NewerSchema {
        /// `database`, or a tenant's schema.
        scope: String,
        /// The least level of a program that can work with it.
        requires: i32,
        /// This program's.
        known: i32,
    },
    /// It has not been migrated, or not by a version as new as this one.
    #[error("the database is not up to date: run neo-events migrate up")]
    NotMigrated,
    /// Tenants that could not be migrated, and why; everything else is up to date.
    #[error("not all tenants could be migrated: {0}")]
    LeftBehind(String),
    /// Anything else that the server said.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        let said = failure.to_string();
        if matches!(failure, Failure::ReadOnly | Failure::Standby) {
            return Self::ReadOnly;
        }
        let Some(code) = failure.code() else {
            return Self::Unreachable(chain(&failure));
        };
        match code {
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => Self::Rights(said),
            code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly,
            // Authentication, unknown database, too many connections, starting up or shutting down.
            code if matches!(&code.code()[..2], "28" | "3D" | "53" | "57") => Self::Refused(said),
            _ => Self::Failed(said),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if !text.contains(&cause.to_string()) {
            text = format!("{text}: {cause}");
        }
        source = cause.source();
    }
    text
}

/// A database as a URL names it.
#[derive(Clone)]
pub(crate) struct Address {
    config: Config,
    tls: Tls,
    /// What a server must be, unless the URL says something else.
    wanted: Wanted,
    last: Arc<LastServer>,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(OpenError::BadUrl("it begins with postgres:// or postgresql://".into()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut root_file, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            // Decoded as the driver decodes the others: a plus stays a plus.
            let escaped = pair.replace('+', "%2B");
            let (name, value) = form_urlencoded::parse(escaped.as_bytes()).next().unwrap_or_default();
            match name.as_ref() {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => root_file = Some(value.into_owned()),
                _ => rest.push(pair),
            }
        }
        let choice = TlsChoice::parse(mode.as_deref(), root_file)?;
        let mut config: Config = format!("{base}?{}", rest.join("&"))
            .parse()
            .map_err(|error: tokio_postgres::Error| OpenError::BadUrl(chain(&error)))?;
        let is_told_any = query.contains("target_session_attrs")
            && config.get_target_session_attrs() == TargetSessionAttrs::Any;
        let wanted = match config.get_target_session_attrs() {
            TargetSessionAttrs::ReadOnly => Wanted::Any,
            TargetSessionAttrs::Any if is_told_any => Wanted::Any,
            // It is asked here, and more exactly.
            _ => {
                config.target_session_attrs(TargetSessionAttrs::Any);
                Wanted::Primary
            }
        };
        config.ssl_mode(choice.mode);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        // A server that vanishes without a word, in a failover say, must not be waited for.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_MAX);
        }
        if !query.contains("keepalives_idle") {
            config.keepalives_idle(SILENCE_MAX);
        }
        if config.get_application_name().is_none() {
            config.application_name("neo-events");
        }
        Ok(Self { config, tls: Tls::try_new(&choice)?, wanted, last: Arc::default() })
    }

    /// Where it is, for people: every host that is tried.
    fn place(&self) -> String {
        let port = |index: usize| {
            let ports = self.config.get_ports();
            ports.get(index).or(ports.first()).copied().unwrap_or(PORT_DEFAULT)
        };
        let place = |(index, host): (usize, &Host)| match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]:{}", port(index)),
            Host::Tcp(name) => format!("{name}:{}", port(index)),
            Host::Unix(folder) => format!("{}:{}", folder.display(), port(index)),
        };
        self.config.get_hosts().iter().enumerate().map(place).collect::<Vec<_>>().join(", ")
    }

    /// With the place, where it is the way there that failed.
    pub(crate) fn named(&self, error: OpenError) -> OpenError {
        match error {
            OpenError::Unreachable(said) => OpenError::Unreachable(format!("{}: {said}", self.place())),
            OpenError::Refused(said) => OpenError::Refused(format!("{}: {said}", self.place())),
            other => other,
        }
    }

    /// For connections whose statements may take so long, and whose transactions may be left alone so long: to nobody but a
    /// primary, for behind one address there may be a standby for a while.
    pub(crate) fn to_primary(&self, statement_timeout: Duration, idle_timeout: Duration) -> Destination {
        let given = self.config.get_options().unwrap_or_default();
        let mut config = self.config.clone();
        config.options(format!(
            "{given} -c statement_timeout={} -c idle_in_transaction_session_timeout={} -c timezone=UTC \
             -c default_transaction_isolation=read\\ committed -c search_path=pg_catalog -c jit=off",
            statement_timeout.as_millis(),
            idle_timeout.as_millis(),
        ));
        let (tls, last) = (self.tls.clone(), Arc::clone(&self.last));
        Destination { config, tls, wanted: self.wanted, last }
    }

    /// The same, for the statements of the passes.
    pub(crate) fn by_keys(&self, statement_timeout: Duration, idle_timeout: Duration) -> Destination {
        let planning = PLANNING_OF_WORK.map(|(name, value)| format!("-c {name}={value}")).join(" ");
        let to = self.to_primary(statement_timeout, idle_timeout);
        with_options(to, &format!("{planning} -c lock_timeout={}", LOCK_TIMEOUT.as_millis()))
    }

    /// The same, for what all tenants wait for.
    pub(crate) fn brief(&self, statement_timeout: Duration, idle_timeout: Duration) -> Destination {
        let to = self.by_keys(statement_timeout, idle_timeout);
        // The last one counts.
        with_options(to, &format!("-c lock_timeout={}", LOCK_WAIT_ALONE.as_millis()))
    }

    /// The same, for statements that look for the newest row of each of some: by walking its key backward. Where there is
    /// one row of each that is alive, the planner would rather collect them all, with the dead ones before it.
    pub(crate) fn by_ends_of_keys(&self, statement_timeout: Duration, idle_timeout: Duration) -> Destination {
        with_options(self.by_keys(statement_timeout, idle_timeout), "-c enable_bitmapscan=off")
    }

    /// The same, for the lists of users: what one asks for decides which index serves it, so each is planned by its
    /// values. Statements of the hot path keep the plan that serves all.
    pub(crate) fn planning_anew(&self, statement_timeout: Duration, idle_timeout: Duration) -> Destination {
        let mut to = self.to_primary(statement_timeout, idle_timeout);
        if to.wanted == Wanted::Primary {
            to.wanted = Wanted::PrimaryToRead;
        }
        let lock_timeout = LOCK_TIMEOUT.as_millis();
        with_options(to, &format!("-c plan_cache_mode=force_custom_plan -c lock_timeout={lock_timeout}"))
    }

    /// A connection for migrating and checking: it may take its time.
    pub(crate) async fn connect(&self) -> Result<Connection, OpenError> {
        let opened = Connection::open(&self.to_primary(Duration::ZERO, MIGRATOR_IDLE_TIMEOUT)).await;
        opened.map_err(|failure| self.named(failure.into()))
    }
}

fn with_options(mut to: Destination, more: &str) -> Destination {
    let options = to.config.get_options().unwrap_or_default();
    let options = format!("{options} {more}");
    to.config.options(options);
    to
}

/// Whether the server is fit to hold neo-events' data.
pub(crate) async fn check(conn: &Connection) -> Result<(), OpenError> {
    let row = conn
        .client()
        .query_one(
            "select current_setting('server_version_num')::integer, current_setting('server_version'), \
             current_setting('server_encoding'), current_setting('transaction_read_only') = 'on'",
            &[],
        )
        .await
        .map_err(Failure::from)?;
    judge((row.get(0), row.get(1)), row.get(2), row.get(3))
}

/// Says in the log what the server is not made to keep: it cannot be asked to for a connection alone.
pub(crate) async fn warn_of_losses(conn: &Connection) {
    const OFF: &str = "select string_agg(name, ', ') from pg_catalog.pg_settings \
                       where name in ('fsync', 'full_page_writes') and setting = 'off'";
    // Whatever else is wrong with the connection shows where it matters.
    let Ok(row) = conn.client().query_one(OFF, &[]).await else { return };
    if let Ok(Some(off)) = row.try_get::<_, Option<String>>(0) {
        tracing::warn!(
            off,
            "events that were acknowledged may be lost if the database's machine crashes: turn these settings on"
        );
    }
}

fn judge((number, version): (i32, String), encoding: String, is_read_only: bool) -> Result<(), OpenError> {
    if number < SERVER_VERSION_MIN {
        return Err(OpenError::ServerTooOld { found: version });
    }
    if encoding != ENCODING {
        return Err(OpenError::Encoding { found: encoding });
    }
    if is_read_only {
        return Err(OpenError::ReadOnly);
    }
    Ok(())
}

/// Applies every migration that is missing, telling `progress` of each scope done.
pub async fn migrate(url: &str, progress: impl FnMut(MigrationStep<'_>) + Send) -> Result<(), OpenError> {
    let mut conn = Address::parse(url)?.connect().await?;
    check(&conn).await?;
    let left_behind = migrate::up(&mut conn, progress).await?;
    let said = |LeftBehind { schema, failure }: &LeftBehind| format!("{schema}: {failure}");
    let said: Vec<String> = left_behind.iter().map(said).collect();
    if said.is_empty() { Ok(()) } else { Err(OpenError::LeftBehind(said.join("; "))) }
}

/// How far the migrations are. Changes nothing.
pub async fn migration_status(url: &str) -> Result<Vec<MigrationStatus>, OpenError> {
    let conn = Address::parse(url)?.connect().await?;
    check(&conn).await?;
    migrate::status(&conn).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::SslMode;

    #[test]
    fn servers_before_15_other_encodings_and_standbys_are_refused() {
        let judge = |number, version: &str, encoding: &str, is_read_only| {
            judge((number, version.to_owned()), encoding.to_owned(), is_read_only)
        };
        assert!(judge(150_000, "15.0", "UTF8", false).is_ok());
        assert!(judge(180_001, "18.1", "UTF8", false).is_ok());
        let too_old = judge(140_020, "14.20", "UTF8", false).unwrap_err().to_string();
        assert_eq!(too_old, "PostgreSQL 14.20 is too old: neo-events needs 15 or later");
        assert!(matches!(judge(150_000, "15.0", "UTF8", true), Err(OpenError::ReadOnly)));
        for encoding in ["LATIN1", "SQL_ASCII"] {
            let refused = judge(150_000, "15.0", encoding, false).unwrap_err().to_string();
            assert!(refused.contains(&format!("is {encoding}, it must be UTF8")), "{refused}");
        }
    }

    #[test]
    fn urls_are_understood_as_libpq_does() {
        let ssl = |url: &str| Address::parse(url).map(|address| address.config.get_ssl_mode());
        assert_eq!(ssl("postgres://u:p@h:1/d").unwrap(), SslMode::Prefer);
        assert_eq!(ssl("postgresql://h/d?sslmode=disable&application_name=x").unwrap(), SslMode::Disable);
        assert_eq!(ssl("postgres://h/d?sslmode=verify-full").unwrap(), SslMode::Require);
        assert_eq!(ssl("postgres:///d?host=/run/postgresql&user=a").unwrap(), SslMode::Prefer);
        for (bad, why) in [
            ("mysql://h/d", "begins with"),
            ("postgres://h/d?sslmode=sometimes", "sslmode is"),
            ("postgres://h:port/d", "port"),
            ("postgres://h/d?nonsense=1", "nonsense"),
            ("postgres://h/d?sslmode=verify-full&sslrootcert=/does/not/exist", "/does/not/exist"),
        ] {
            let error = Address::parse(bad).err().map(|error| error.to_string()).unwrap();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn who_does_not_answer_is_named() {
        for (url, place) in [
            ("postgres://u:s3cret@db.internal/d", "db.internal:5432"),
            ("postgres://u@127.0.0.1:1,[::1]:2/d", "127.0.0.1:1, [::1]:2"),
            ("postgres:///d?host=/run/postgresql&user=a", "/run/postgresql:5432"),
        ] {
            let address = Address::parse(url).map_err(|error| error.to_string()).unwrap();
            for error in [OpenError::Unreachable("gone".into()), OpenError::Refused("gone".into())] {
                let said = address.named(error).to_string();
                assert!(said.ends_with(&format!(": {place}: gone")) && !said.contains("s3cret"), "{said}");
            }
        }
    }

    #[test]
    fn settings_of_the_url_are_kept_beside_ours() {
        let address = Address::parse("postgres://h/d?options=-c%20work_mem%3D8MB").unwrap();
        let to = address.to_primary(Duration::from_secs(5), Duration::from_secs(10));
        let options = to.config.get_options().unwrap();
        assert!(options.starts_with("-c work_mem=8MB ") && options.contains("statement_timeout=5000"));
    }
}
