//! Bringing a database up to date, however many nodes try at once.
//!
//! There are two series of migrations: one for what the database has once, one for every tenant's schema. Each applied
//! one is a row of `admin.migrations`. Whoever migrates holds a lock on that table until the commit; the others wait
//! and find nothing left to do. A migration and its row commit together, so a crash leaves either both or neither.
//!
//! Migrations expand first and contract in a later version: a node of the version before goes on working beside them.
//! The row of a migration that older programs cannot work with says so in `requires`, and those refuse to start.

use std::collections::HashMap;

use neo_events_domain::tenant::Schema;
use neo_events_store::{MigrationStatus, MigrationStep};
use tokio_postgres::error::SqlState;

use crate::{
    conn::{Connection, Transaction},
    failure::Failure,
    open::OpenError,
    sql::{self, in_schema},
};

/// How often making the list of migrations is tried: `if not exists` does not help against somebody doing it at the
/// same moment.
const BEGINNINGS_MAX: usize = 10;
/// Migrations that wait for a lock no longer than this, in milliseconds, say nothing of it.
const UNTOLD_WAIT_MS: u32 = 500;
/// The row's `scope` of what the database has once.
const DATABASE_SCOPE: &str = "database";

/// One step. Never change one that was released.
struct Migration {
    name: &'static str,
    text: &'static str,
    /// The least level of a program that can work with a database that has this.
    requires: i32,
}

const DATABASE: [Migration; 4] = [
    Migration {
        name: "0001_control",
        text: include_str!("../migrations/database/0001_control.sql"),
        requires: 1,
    },
    Migration {
        name: "0002_publishing",
        text: include_str!("../migrations/database/0002_publishing.sql"),
        requires: 1,
    },
    Migration {
        name: "0003_master_key",
        text: include_str!("../migrations/database/0003_master_key.sql"),
        requires: 1,
    },
    Migration {
        name: "0004_beats",
        text: include_str!("../migrations/database/0004_beats.sql"),
        requires: 1,
    },
];

const TENANT: [Migration; 5] = [
    Migration {
        name: "0001_events", //
        text: include_str!("../migrations/tenant/0001_events.sql"),
        requires: 1,
    },
    Migration {
        name: "0002_catalogue",
        text: include_str!("../migrations/tenant/0002_catalogue.sql"),
        requires: 1,
    },
    Migration {
        name: "0003_deliveries",
        text: include_str!("../migrations/tenant/0003_deliveries.sql"),
        requires: 1,
    },
    Migration {
        name: "0004_publishing",
        text: include_str!("../migrations/tenant/0004_publishing.sql"),
        requires: 1,
    },
    Migration {
        name: "0005_settling",
        text: include_str!("../migrations/tenant/0005_settling.sql"),
        requires: 1,
    },
];

/// `create schema if not exists` wants the right to make one also where it is there.
const BEGINNING: &str = "
    do $$
    begin
        if to_regnamespace('admin') is null then
            create schema admin;
        end if;
    end
    $$;
    create table if not exists admin.migrations (
        scope text not null,
        level integer not null,
        name text not null,
        requires integer not null,
        applied_at timestamptz not null default clock_timestamp(),
        primary key (scope, level)
    )";

/// How far every scope is: what the database has once, the platform, then every other tenant by name.
pub(crate) async fn status(conn: &Connection) -> Result<Vec<MigrationStatus>, OpenError> {
    let mut levels = match levels(conn).await {
        // Never migrated.
        Err(failure) if failure.code() == Some(&SqlState::UNDEFINED_TABLE) => HashMap::new(),
        levels => levels?,
    };
    let always = [DATABASE_SCOPE.to_owned(), Schema::admin().to_string()];
    let mut found: Vec<_> = always.map(|scope| (levels.remove(&scope).unwrap_or(0), scope)).into();
    let mut tenants: Vec<_> = levels.into_iter().map(|(scope, applied)| (applied, scope)).collect();
    tenants.sort_by(|(_, one), (_, other)| one.cmp(other));
    found.extend(tenants);
    let status =
        |(applied, scope): (i32, String)| MigrationStatus { applied, known: level_of(series(&scope)), scope };
    Ok(found.into_iter().map(status).collect())
}

/// Refuses a database that this program would have to migrate before it could work with it. A tenant whose schema somebody
/// has dropped, which nobody can migrate, keeps nobody else waiting.
pub(crate) async fn require_up_to_date(conn: &Connection) -> Result<(), OpenError> {
    for MigrationStatus { scope, .. } in status(conn).await?.iter().filter(|status| status.is_behind()) {
        let is_tenants = scope != DATABASE_SCOPE && *scope != *Schema::admin().as_str();
        if !is_tenants || has_schema(conn, scope).await? {
            return Err(OpenError::NotMigrated);
        }
        tracing::error!(schema = scope, "this tenant's schema is gone: it is not served");
    }
    refuse_newer(conn).await
}

async fn has_schema(conn: &Connection, schema: &str) -> Result<bool, Failure> {
    Ok(conn.query_one(sql::TENANTS_HAS_SCHEMA, &Schema::admin(), &[&schema]).await?.try_get(0)?)
}

/// A tenant that could not be brought up to date.
pub(crate) struct LeftBehind {
    pub(crate) schema: Schema,
    pub(crate) failure: Failure,
}

/// Applies everything that is missing, in every scope. Calls `progress` with each scope that it brought up to date. What is
/// wrong with one tenant's tables, which somebody has dropped perhaps, is answered once the others are up to date.
pub(crate) async fn up(
    conn: &mut Connection,
    mut progress: impl FnMut(MigrationStep<'_>),
) -> Result<Vec<LeftBehind>, OpenError> {
    begin(conn).await?;
    refuse_newer(conn).await?;
    let before = levels(conn).await?;
    let admin = Schema::admin();
    let is_behind = |scope: &str| before.get(scope).copied().unwrap_or(0) < level_of(series(scope));
    let base: Vec<_> =
        [DATABASE_SCOPE, admin.as_str()].into_iter().filter(|scope| is_behind(scope)).collect();
    if !base.is_empty() {
        let tx = locked(conn).await?;
        apply(&tx, DATABASE_SCOPE, &admin).await?;
        apply(&tx, admin.as_str(), &admin).await?;
        tx.execute(sql::TENANTS_INSERT_ADMIN, &admin, &[]).await?;
        tx.commit().await?;
    }
    let mut behind = Vec::new();
    for row in conn.query(sql::TENANTS_SCHEMAS, &admin, &[]).await? {
        let name: String = row.try_get(0).map_err(Failure::from)?;
        behind.extend(name.parse::<Schema>().ok().filter(|schema| *schema != admin && is_behind(&name)));
    }
    let total = base.len() + behind.len();
    for (before, scope) in base.iter().enumerate() {
        progress(MigrationStep { scope, done: before + 1, total });
    }
    let mut left_behind = Vec::new();
    for (before, schema) in behind.into_iter().enumerate() {
        let tx = locked(conn).await?;
        match apply(&tx, schema.as_str(), &schema).await {
            Ok(()) => {
                tx.commit().await?;
                progress(MigrationStep { scope: schema.as_str(), done: base.len() + before + 1, total });
            }
            Err(failure) if failure.is_one_tenants() => {
                tx.rollback().await?;
                left_behind.push(LeftBehind { schema, failure });
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(left_behind)
}

/// Brings one tenant's schema up to date.
pub(crate) async fn tenant_up(conn: &mut Connection, schema: &Schema) -> Result<(), Failure> {
    let tx = locked(conn).await?;
    apply(&tx, schema.as_str(), schema).await?;
    tx.commit().await
}

/// Makes a new tenant's tables, in the transaction that adds it to the list.
pub(crate) async fn create(tx: &Transaction<'_>, schema: &Schema) -> Result<(), Failure> {
    tx.batch(&format!("create schema {schema}")).await?;
    apply(tx, schema.as_str(), schema).await
}

/// How far a tenant is.
pub(crate) async fn is_behind(conn: &Connection, schema: &Schema) -> Result<bool, Failure> {
    let scope = schema.as_str();
    let row = conn.query_one(sql::MIGRATIONS_LEVEL, &Schema::admin(), &[&scope]).await?;
    Ok(row.try_get::<_, i32>(0)? < level_of(&TENANT))
}

async fn begin(conn: &Connection) -> Result<(), OpenError> {
    for _ in 1..BEGINNINGS_MAX {
        match conn.batch(BEGINNING).await {
            Err(failure) if somebody_else_did(&failure) => {}
            done => return Ok(done?),
        }
    }
    Ok(conn.batch(BEGINNING).await?)
}

fn somebody_else_did(failure: &Failure) -> bool {
    let codes = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
    ];
    failure.code().is_some_and(|code| codes.contains(code))
}

/// A transaction in which nobody else migrates.
async fn locked(conn: &mut Connection) -> Result<Transaction<'_>, Failure> {
    let tx = conn.begin().await?;
    run_and_tell_of_locks(&tx, "lock table admin.migrations in share row exclusive mode", || {
        tracing::info!("somebody else is migrating the database; waiting for the end of it");
    })
    .await?;
    Ok(tx)
}

/// Runs statements, and says so first if they have to wait for a lock for longer than a moment.
async fn run_and_tell_of_locks(tx: &Transaction<'_>, text: &str, tell: impl FnOnce()) -> Result<(), Failure> {
    tx.batch(&format!("savepoint untold; set local lock_timeout = '{UNTOLD_WAIT_MS}ms'")).await?;
    match tx.batch(text).await {
        Err(failure) if failure.is_a_lock() => {
            tell();
            // The timeout is as before, too.
            tx.batch("rollback to untold").await?;
            tx.batch(text).await
        }
        done => {
            done?;
            tx.batch("set local lock_timeout to default").await
        }
    }
}

async fn apply(tx: &Transaction<'_>, scope: &str, schema: &Schema) -> Result<(), Failure> {
    let row = tx.query_one(sql::MIGRATIONS_LEVEL, &Schema::admin(), &[&scope]).await?;
    let applied: i32 = row.try_get(0)?;
    for (level, migration) in (1..).zip(series(scope)) {
        if level <= applied {
            continue;
        }
        let Migration { name, text, requires } = migration;
        run_and_tell_of_locks(tx, &in_schema(text, schema), || {
            tracing::warn!(
                scope,
                name,
                "a migration waits for whoever uses a table: a VACUUM, or an open transaction"
            );
        })
        .await?;
        tx.execute(sql::MIGRATIONS_INSERT, &Schema::admin(), &[&scope, &level, name, requires]).await?;
    }
    Ok(())
}

fn series(scope: &str) -> &'static [Migration] {
    if scope == DATABASE_SCOPE { &DATABASE } else { &TENANT }
}

fn level_of(series: &[Migration]) -> i32 {
    i32::try_from(series.len()).unwrap_or(i32::MAX)
}

async fn levels(conn: &Connection) -> Result<HashMap<String, i32>, Failure> {
    let rows = conn.query(sql::MIGRATIONS_LEVELS, &Schema::admin(), &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// A later version may have changed what this one relies on.
async fn refuse_newer(conn: &Connection) -> Result<(), OpenError> {
    let rows = conn.query(sql::MIGRATIONS_REQUIREMENTS, &Schema::admin(), &[]).await?;
    for row in rows {
        let (scope, requires): (String, i32) =
            (row.try_get(0).map_err(Failure::from)?, row.try_get(1).map_err(Failure::from)?);
        let known = level_of(series(&scope));
        if requires > known {
            return Err(OpenError::NewerSchema { scope, requires, known });
        }
    }
    Ok(())
}
