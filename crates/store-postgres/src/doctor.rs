//! What an operator should know of a database server before trusting it with events, and while it holds them.
//!
//! It only reads, also where the database was never migrated or belongs to a later version.

use std::time::Duration;

use jiff::Timestamp;
use neo_events_domain::{Uuid, id::EventId, tenant::Schema};
use neo_events_store::{MasterKeyFingerprint, MigrationStatus};
use tokio_postgres::Row;

use crate::{
    columns::Columns,
    conn::Connection,
    endpoints,
    failure::Failure,
    migrate,
    open::{Address, OpenError, check},
    sql,
    tenants::master_key,
};

/// Rows of a backlog that are counted at most.
const BACKLOG_COUNTED_MAX: i64 = 100_000;
/// Tenants that are asked for secrets: where there are more, one of the first has some.
const TENANTS_ASKED: usize = 20;
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that is reachable, new enough and writable, and what it holds.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// As it calls itself.
    pub version: String,
    /// Whether others could read along.
    pub encryption: Encryption,
    /// Connections that roles without privileges can have, all together.
    pub connections_max: i32,
    /// Connections in use now, this one included.
    pub connections_used: i64,
    /// If `off`, a power cut loses what was acknowledged.
    pub fsync: String,
    /// If `off`, a power cut may tear pages that nothing can mend.
    pub full_page_writes: String,
    /// If `off`, a crash loses what was acknowledged.
    pub synchronous_commit: String,
    /// If `off`, queue tables grow without end.
    pub autovacuum: String,
    /// The transaction that is open for longest: what was deleted since then cannot be cleared away.
    pub oldest_transaction: Option<OldTransaction>,
    /// Whether this role sees the transactions of others.
    pub sees_all_transactions: bool,
    /// The database's clock against this machine's, in seconds.
    pub clock_ahead_seconds: f64,
    /// Whether this role can make tenants.
    pub can_create_schemas: bool,
    /// Whether a master key was noted, or there are secrets of endpoints, which only the master key opens: of the
    /// platform, or of one of the first tenants.
    pub needs_its_key: bool,
    /// Of the master key that was noted: a node does not start without that key.
    pub noted_key: Option<MasterKeyFingerprint>,
    /// Rights that a node needs and this role has not; the first few.
    pub missing_rights: Vec<String>,
    /// Nodes at work: name and seconds since the last beat.
    pub nodes: Vec<(String, f64)>,
    /// Events whose dispatch is owed.
    pub owed_dispatches: Backlog,
    /// Deliveries that are not over, but for those that are held.
    pub queued_deliveries: Backlog,
    /// How far the migrations are.
    pub migrations: Vec<MigrationStatus>,
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// It is.
    Tls,
    /// It is not, and does not leave the machine.
    NoneButLocal,
    /// It is not.
    None,
}

/// A transaction that is open.
#[derive(Debug, Clone, PartialEq)]
pub struct OldTransaction {
    /// For how long, in seconds.
    pub seconds: f64,
    /// Whose.
    pub who: String,
}

/// Work that waits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    /// How much; counting ends at [`Self::COUNTED_MAX`].
    pub count: i64,
    /// For how long the oldest has been due, in seconds; less than nothing if it is due later.
    pub oldest_seconds: Option<f64>,
}

impl Backlog {
    /// Where counting ends.
    pub const COUNTED_MAX: i64 = BACKLOG_COUNTED_MAX;
}

/// Looks at a server. `now` is this machine's clock.
pub async fn inspect(url: &str, now: &(dyn Fn() -> Timestamp + Sync)) -> Result<ServerFacts, OpenError> {
    let address = Address::parse(url)?;
    let opened = Connection::open(&address.to_primary(LOOK_TIMEOUT, LOOK_TIMEOUT)).await;
    let conn = opened.map_err(|failure| address.named(failure.into()))?;
    check(&conn).await?;
    let migrations = migrate::status(&conn).await?;
    let mut facts = of_server(&conn, migrations).await?;
    facts.clock_ahead_seconds = clock_ahead(&conn, now).await?;
    facts.oldest_transaction = oldest_transaction(&conn).await?;
    // Before the first migration there is nothing to look at.
    if facts.migrations.first().is_some_and(|database| database.applied > 0) {
        add_contents(&mut facts, &conn, now()).await?;
    }
    Ok(facts)
}

async fn of_server(conn: &Connection, migrations: Vec<MigrationStatus>) -> Result<ServerFacts, Failure> {
    let row = conn.query_one(sql::DOCTOR_SERVER, &Schema::admin(), &[]).await?;
    Ok(ServerFacts {
        version: row.try_get(0)?,
        encryption: match (row.try_get(1)?, row.try_get(2)?) {
            (true, _) => Encryption::Tls,
            (false, true) => Encryption::NoneButLocal,
            (false, false) => Encryption::None,
        },
        connections_max: row.try_get(3)?,
        connections_used: row.try_get(4)?,
        fsync: row.try_get(5)?,
        full_page_writes: row.try_get(6)?,
        synchronous_commit: row.try_get(7)?,
        autovacuum: row.try_get(8)?,
        sees_all_transactions: row.try_get(9)?,
        can_create_schemas: row.try_get(10)?,
        oldest_transaction: None,
        clock_ahead_seconds: 0.0,
        needs_its_key: false,
        noted_key: None,
        missing_rights: Vec::new(),
        nodes: Vec::new(),
        owed_dispatches: Backlog::default(),
        queued_deliveries: Backlog::default(),
        migrations,
    })
}

/// The second answer counts: the first also waits for the statement to be prepared.
async fn clock_ahead(conn: &Connection, now: &(dyn Fn() -> Timestamp + Sync)) -> Result<f64, Failure> {
    let admin = Schema::admin();
    conn.query_one(sql::DATABASE_CLOCK, &admin, &[]).await?;
    let asked = now().as_microsecond();
    let row = conn.query_one(sql::DATABASE_CLOCK, &admin, &[]).await?;
    let answered = now().as_microsecond();
    let told = Columns::of(&row).time()?.as_microsecond();
    Ok(seconds(told - asked.midpoint(answered)))
}

async fn oldest_transaction(conn: &Connection) -> Result<Option<OldTransaction>, Failure> {
    let row = conn.query_opt(sql::DOCTOR_OLDEST_TRANSACTION, &Schema::admin(), &[]).await?;
    let read = |row: Row| Ok(OldTransaction { seconds: row.try_get(0)?, who: row.try_get(1)? });
    row.map(read).transpose()
}

async fn add_contents(facts: &mut ServerFacts, conn: &Connection, now: Timestamp) -> Result<(), Failure> {
    let admin = Schema::admin();
    for row in conn.query(sql::DOCTOR_RIGHTS, &admin, &[]).await? {
        facts.missing_rights.push(row.try_get(0)?);
    }
    if !facts.missing_rights.is_empty() {
        return Ok(());
    }
    let row = conn.query_one(sql::DOCTOR_OWED, &admin, &[&BACKLOG_COUNTED_MAX]).await?;
    let oldest = row.try_get::<_, Option<Uuid>>(1)?.map(EventId::from_uuid);
    let millis = oldest.and_then(EventId::unix_millis);
    let oldest_seconds = millis.map(|millis| seconds((now.as_millisecond() - millis) * 1000));
    facts.owed_dispatches = Backlog { count: row.try_get(0)?, oldest_seconds };
    let row = conn.query_one(sql::DOCTOR_QUEUED, &admin, &[&BACKLOG_COUNTED_MAX]).await?;
    facts.queued_deliveries = Backlog { count: row.try_get(0)?, oldest_seconds: row.try_get(1)? };
    // The first is what the database has once.
    if facts.migrations.first().is_some_and(|database| !database.is_behind()) {
        for row in conn.query(sql::DOCTOR_NODES, &admin, &[]).await? {
            facts.nodes.push((row.try_get(0)?, row.try_get(1)?));
        }
    }
    if !facts.migrations.iter().any(MigrationStatus::is_behind) {
        facts.noted_key = master_key(conn).await?;
        facts.needs_its_key = facts.noted_key.is_some() || has_secrets(conn).await?;
    }
    Ok(())
}

async fn has_secrets(conn: &Connection) -> Result<bool, Failure> {
    let rows = conn.query(sql::TENANTS_SCHEMAS, &Schema::admin(), &[]).await?;
    for row in rows.iter().take(TENANTS_ASKED) {
        let name: String = row.try_get(0)?;
        let Ok(schema) = name.parse() else { continue };
        if endpoints::newest_secret(conn, &schema).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[expect(clippy::cast_precision_loss, reason = "seconds to be shown to people")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1_000_000.0
}
