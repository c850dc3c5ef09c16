//! What can go wrong inside, and what it is called outside.

use std::{io, time::Duration};

use neo_events_domain::tenant::Schema;
use neo_events_store::StoreError;
use rusqlite::ErrorCode;

use crate::{open::OpenError, tenant_file::TenantFile};

/// A failure of a step; nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error("a stored value is not one of ours")]
    Stored(#[from] serde_json::Error),
    #[error("the cursor is not one of this list")]
    Cursor,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("there is no schema {0}")]
    Schema(Schema),
    #[error("the transaction is not on the tenant's database")]
    ForeignTransaction,
    #[error("the file is of an earlier version and about to be brought up to date")]
    Outdated,
    #[error("the query took longer than {} s", .0.as_secs_f64())]
    TooSlow(Duration),
    #[error("other reads took most of the {} s that this one had", .0.as_secs_f64())]
    NoTurn(Duration),
    #[error("the store is closed")]
    Closed,
    #[error("a step panicked")]
    Panicked,
}

impl Failure {
    /// Whether it may be about a single row, which is damaged or holds what is none of ours: what else is in the file has
    /// nothing to do with it.
    fn may_be_one_rows(&self) -> bool {
        match self {
            Self::Stored(_) => true,
            Self::Sql(error) => {
                let is_unread = matches!(
                    error,
                    rusqlite::Error::FromSqlConversionFailure(..)
                        | rusqlite::Error::IntegralValueOutOfRange(..)
                        | rusqlite::Error::InvalidColumnType(..)
                        | rusqlite::Error::Utf8Error(..)
                );
                is_unread || error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
            }
            _ => false,
        }
    }
}

/// Rows that a claim passed over because they cannot be read: the others have nothing to do with them.
#[derive(Default)]
pub(crate) struct PassedOver {
    pub(crate) count: usize,
    first: Option<String>,
}

impl PassedOver {
    /// What was read of a row; nothing if that row alone cannot be read.
    pub(crate) fn if_readable<T>(
        &mut self,
        read: Result<Option<T>, Failure>,
        row: impl FnOnce() -> String,
    ) -> Result<Option<T>, Failure> {
        match read {
            Err(failure) if failure.may_be_one_rows() => {
                self.count += 1;
                self.first.get_or_insert_with(|| format!("{}: {failure}", row()));
                Ok(None)
            }
            read => read,
        }
    }

    /// Says so, not each time.
    pub(crate) fn report(self, file: &TenantFile) {
        if let Some(first) = self.first.filter(|_| file.may_complain()) {
            let (schema, rows) = (&file.schema, self.count);
            tracing::error!(%schema, rows, first, "rows cannot be read; the others go on");
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Cursor => Self::BadCursor,
            Failure::Schema(schema) => Self::UnknownSchema(schema),
            Failure::ForeignTransaction => Self::ForeignTransaction,
            Failure::Closed | Failure::Outdated | Failure::NoTurn(_) => Self::Unavailable(failure.into()),
            Failure::TooSlow(_) => Self::TooSlow(failure.into()),
            Failure::Stored(_) | Failure::Panicked => Self::Broken(failure.into()),
            Failure::Open(error) => of_opening(error),
            Failure::Sql(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => Self::Full(error.into()),
                Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                    Self::ReadOnly(error.into())
                }
                // Out of memory and I/O errors pass or are found by the operator; neither says that the file is bad.
                Some(
                    ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::OutOfMemory
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::FileLockingProtocolFailed,
                ) => Self::Unavailable(error.into()),
                _ => Self::Broken(error.into()),
            },
        }
    }
}

/// Why a tenant's file does not serve.
fn of_opening(error: OpenError) -> StoreError {
    match error {
        OpenError::Database { source, .. } | OpenError::NotMigrated { source, .. } => {
            Failure::Sql(source).into()
        }
        OpenError::ReadOnly { .. } => StoreError::ReadOnly(error.into()),
        OpenError::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            StoreError::Full(error.into())
        }
        OpenError::Io { ref source, .. } if source.kind() == io::ErrorKind::NotFound => {
            StoreError::Broken(error.into())
        }
        OpenError::Locked { .. } | OpenError::Io { .. } => StoreError::Unavailable(error.into()),
        OpenError::NewerSchema { .. }
        | OpenError::OtherApplication { .. }
        | OpenError::Empty { .. }
        | OpenError::NotADatabase { .. }
        | OpenError::Damaged { .. }
        | OpenError::NoWriteAheadLog { .. } => StoreError::Broken(error.into()),
    }
}

/// The same kind of error again, for another caller that the same failure concerns.
pub(crate) fn again(error: &StoreError) -> StoreError {
    let cause = |cause: &neo_events_store::Cause| cause.to_string().into();
    match error {
        StoreError::UnknownSchema(schema) => StoreError::UnknownSchema(schema.clone()),
        StoreError::BadCursor => StoreError::BadCursor,
        StoreError::ForeignTransaction => StoreError::ForeignTransaction,
        StoreError::Unavailable(source) => StoreError::Unavailable(cause(source)),
        StoreError::TooSlow(source) => StoreError::TooSlow(cause(source)),
        StoreError::Full(source) => StoreError::Full(cause(source)),
        StoreError::ReadOnly(source) => StoreError::ReadOnly(cause(source)),
        StoreError::Broken(source) => StoreError::Broken(cause(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn mapped(code: i32) -> StoreError {
        Failure::Sql(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)).into()
    }

    #[test]
    fn codes_say_whether_trying_again_may_help() {
        assert!(matches!(mapped(ffi::SQLITE_FULL), StoreError::Full(_)));
        assert!(matches!(mapped(ffi::SQLITE_READONLY), StoreError::ReadOnly(_)));
        assert!(matches!(mapped(ffi::SQLITE_CANTOPEN), StoreError::ReadOnly(_)));
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_BUSY_SNAPSHOT]
        {
            assert!(matches!(mapped(code), StoreError::Unavailable(_)), "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_CONSTRAINT_CHECK] {
            let error = mapped(code);
            assert!(matches!(error, StoreError::Broken(_)) && !error.is_transient(), "{code}");
        }
    }
}
