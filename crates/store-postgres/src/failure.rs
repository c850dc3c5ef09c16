//! What can go wrong inside, and what it is called outside.

use std::io;

use neo_events_domain::tenant::Schema;
use neo_events_store::{Cause, StoreError};
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::batch::GroupEnd;

/// A failure of a step; nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{}", said(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error("{}", said(.0))]
    TooSlow(#[source] tokio_postgres::Error),
    #[error("a stored value is not one of ours")]
    Stored(#[source] Cause),
    #[error("the cursor is not one of this list")]
    Cursor,
    #[error("there is no schema {0}")]
    Schema(Schema),
    #[error("every connection to the database is in use")]
    NoConnectionFree,
    #[error("no connection to the database: {0}")]
    Pool(String),
    #[error("the database takes no writes: its sessions are read-only (default_transaction_read_only)")]
    ReadOnly,
    #[error("the database is a standby")]
    Standby,
    #[error("the database's name cannot be resolved")]
    Unresolved(#[source] io::Error),
    #[error("schema {0} is not up to date, and this node does not migrate: run neo-events migrate up")]
    Outdated(Schema),
    #[error("this node could not be heard meanwhile: what it was granted may be another's")]
    NotHeard,
    #[error("the database says no word")]
    NoWord,
    #[error("the store is closed")]
    Closed,
    #[error("the delivery kept moving on")]
    KeptMoving,
    #[error("the batch that it was part of failed: {0}")]
    Batch(String),
    #[error("the batch that it was part of failed: {said}")]
    BatchRefused { said: String, code: SqlState },
}

/// The server's own words, where it said something; the driver only says "db error".
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

/// Whether the server ends the connection after it.
pub(crate) fn is_the_last_word(error: &tokio_postgres::Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    matches!(severity, Some(Severity::Fatal | Severity::Panic))
}

/// Whether the server is not, or no longer, the one that takes writes: another one is asked for the next time.
pub(crate) fn is_of_a_standby(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

impl Failure {
    /// The server's code, if it was the server that refused.
    pub(crate) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Sql(error) | Self::TooSlow(error) => error.code(),
            _ => None,
        }
    }

    /// Whether it says something about one tenant's tables, which somebody has locked or a disk has damaged perhaps, and
    /// nothing about the database.
    pub(crate) fn is_one_tenants(&self) -> bool {
        let of_tables = |code: &SqlState| {
            matches!(&code.code()[..2], "3F" | "42" | "58" | "XX")
                || [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(code)
        };
        matches!(self, Self::Stored(_)) || self.code().is_some_and(of_tables)
    }

    /// Whether it may be one job's fault that all of a batch failed: its values, or a row that somebody holds.
    pub(crate) fn is_one_jobs(&self) -> bool {
        self.code().is_some_and(|code| !is_passing(code) || *code == SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether somebody's lock was in the way for too long.
    pub(crate) fn is_a_lock(&self) -> bool {
        self.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether there is a row with that key already.
    pub(crate) fn is_a_key_twice(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// Whether two stood before each other's locks, and this one gave way.
    pub(crate) fn is_a_deadlock(&self) -> bool {
        self.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED)
    }

    /// How a group ended that failed with it.
    pub(crate) fn group_end(&self) -> GroupEnd {
        if self.is_a_lock() { GroupEnd::Locked } else { GroupEnd::Through }
    }

    /// Whether a statement of its own transaction may have been carried out all the same: not if the server refused it
    /// (what it says as it goes down is no refusal), and not if it was never sent.
    pub(crate) fn may_have_happened(&self) -> bool {
        match self {
            Self::Sql(error) => error.code().is_none() || is_the_last_word(error),
            Self::NoConnectionFree | Self::Pool(_) | Self::ReadOnly | Self::Standby | Self::Unresolved(_) => {
                false
            }
            _ => true,
        }
    }

    /// What somebody else's equal failure is told.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Schema(schema) => Self::Schema(schema.clone()),
            Self::Outdated(schema) => Self::Outdated(schema.clone()),
            Self::Cursor => Self::Cursor,
            Self::Closed => Self::Closed,
            Self::NoConnectionFree => Self::NoConnectionFree,
            Self::ReadOnly => Self::ReadOnly,
            other => match other.code() {
                // What somebody must mend is told to all.
                Some(code) if is_for_people(code) => {
                    Self::BatchRefused { said: other.to_string(), code: code.clone() }
                }
                _ => Self::Batch(other.to_string()),
            },
        }
    }
}

/// How the jobs of a group fare that failed together and go one by one.
#[derive(Default)]
pub(crate) struct OneByOne {
    locked: usize,
}

impl OneByOne {
    /// Jobs that may stand before a lock in vain. When so many did, it is most likely in the way of all.
    const LOCKED_MAX: usize = 3;

    /// Takes note of how the last one ended. If the others had better not be tried, what they are told.
    pub(crate) fn gives_up(&mut self, failure: Option<&Failure>) -> Option<Failure> {
        let failure = failure?;
        let is_hopeless = if failure.is_a_lock() {
            self.locked += 1;
            self.locked == Self::LOCKED_MAX
        } else {
            !failure.is_one_jobs()
        };
        is_hopeless.then(|| failure.again())
    }

    /// How the group ended.
    pub(crate) const fn group_end(&self) -> GroupEnd {
        if self.locked == 0 { GroupEnd::Through } else { GroupEnd::Locked }
    }
}

/// Whether somebody must act before the database takes anything.
fn is_for_people(code: &SqlState) -> bool {
    [SqlState::DISK_FULL, SqlState::READ_ONLY_SQL_TRANSACTION].contains(code)
}

/// Whether the database will do the same thing later without anybody changing it.
fn is_passing(code: &SqlState) -> bool {
    let class = &code.code()[..2];
    // Connection exceptions, transaction rollbacks, insufficient resources, operator intervention, system errors but for a
    // file that is gone.
    matches!(class, "08" | "40" | "53" | "57")
        || class == "58" && code.code() != "58P01"
        || *code == SqlState::LOCK_NOT_AVAILABLE
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
}

/// What the server's refusal is called outside.
pub(crate) fn of_server(code: &SqlState, cause: Cause) -> StoreError {
    match code {
        code if *code == SqlState::DISK_FULL => StoreError::Full(cause),
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::ReadOnly(cause),
        code if is_passing(code) => StoreError::Unavailable(cause),
        _ => StoreError::Broken(cause),
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Cursor => Self::BadCursor,
            Failure::ReadOnly => Self::ReadOnly(failure.into()),
            Failure::Schema(schema) => Self::UnknownSchema(schema.clone()),
            Failure::Closed
            | Failure::Outdated(_)
            | Failure::NoConnectionFree
            | Failure::NotHeard
            | Failure::NoWord
            | Failure::Standby
            | Failure::Unresolved(_)
            | Failure::Pool(_)
            | Failure::KeptMoving
            | Failure::Batch(_) => Self::Unavailable(failure.into()),
            Failure::BatchRefused { code, .. } => of_server(&code.clone(), failure.into()),
            Failure::Stored(_) => Self::Broken(failure.into()),
            Failure::TooSlow(_) => Self::TooSlow(failure.into()),
            Failure::Sql(error) => match error.code().cloned() {
                Some(code) => of_server(&code, failure.into()),
                // A value that does not fit its column is ours to mend; everything else is the connection.
                None if error.to_string().contains("serializing") => Self::Broken(failure.into()),
                None => Self::Unavailable(failure.into()),
            },
        }
    }
}
