//! The write-ahead log of a file that is open, and moving its content into the file.
//!
//! SQLite moves no more of the log than nobody reads from, and syncs the file once all of it is moved. Should that sync
//! fail, the system does not try again what earlier parts have written (see [`left_log`](crate::left_log)); SQLite does
//! not either, but goes on behind them, and would begin the log anew though some of it has never reached the file. From
//! then on nothing is moved, and the log is left when the file is closed: whoever opens it next moves all of it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, Error, config::DbConfig, ffi::SQLITE_IOERR_FSYNC};

use crate::{look::log_of, open::BUSY_TIMEOUT};

/// From how many pages on the log is moved: 16 MiB.
const LONG_PAGES: i64 = 4000;
/// How long the emptying waits for the embedding program's connections: commits wait for it.
const EMPTYING_PATIENCE: Duration = Duration::from_millis(200);

/// Of one file. It shows itself as where it is.
pub(crate) struct Log {
    path: PathBuf,
    must_stay: bool,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Log {
    pub(crate) fn of(file: &Path) -> Self {
        Self { path: log_of(file), must_stay: false }
    }

    /// What it takes on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |log| log.len())
    }

    /// Whether nothing of it is moved any more.
    pub(crate) fn must_stay(&self) -> bool {
        self.must_stay
    }

    /// Moves what nobody reads from, if the log is long.
    pub(crate) fn shorten(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.must_stay || progress(conn)?.pages < LONG_PAGES {
            return Ok(());
        }
        let moved = checkpoint(conn, "passive");
        self.judge(conn, moved).map(drop)
    }

    /// Moves everything and empties the log, unless somebody is in the way for long. Answers whether nobody was.
    pub(crate) fn empty(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let emptied = empty(conn);
        self.judge(conn, emptied)
    }

    /// Empties the log before its file is closed.
    pub(crate) fn close(mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.must_stay {
            return Ok(());
        }
        let emptied = checkpoint(conn, "truncate");
        self.judge(conn, emptied).map(drop)
    }

    /// What an attempt to move some of it came to. Whether what was moved before had been synced nobody knows, and it
    /// is rarely so.
    fn judge<T>(&mut self, conn: &Connection, moved: rusqlite::Result<T>) -> rusqlite::Result<T> {
        if moved.as_ref().is_err_and(has_failed_to_sync) && progress(conn)?.is_begun() {
            leave(conn)?;
            self.must_stay = true;
            tracing::error!(
                log = %self,
                "the disk failed while the write-ahead log was being moved into its file: the log stays, and grows, until \
                 the file is opened anew; check the disk and its room, then start this program again"
            );
        }
        moved
    }
}

fn has_failed_to_sync(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_FSYNC)
}

/// From now on a connection leaves the log as it is when it is closed.
pub(crate) fn leave(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// From now on a connection moves the log into the file when it is closed and was the last one, as SQLite does it.
pub(crate) fn take(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
}

/// Moves everything into the file and empties the log, unless somebody is in the way for long. Answers whether nobody was.
pub(crate) fn empty(conn: &Connection) -> rusqlite::Result<bool> {
    conn.busy_timeout(EMPTYING_PATIENCE)?;
    let emptied = checkpoint(conn, "truncate");
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(!emptied?.is_busy)
}

/// How far a log is.
struct Progress {
    /// Somebody was in the way.
    is_busy: bool,
    /// Those that there are.
    pages: i64,
    /// Those of them that are in the file.
    moved: i64,
}

impl Progress {
    fn is_begun(&self) -> bool {
        (1..self.pages).contains(&self.moved)
    }
}

fn progress(conn: &Connection) -> rusqlite::Result<Progress> {
    checkpoint(conn, "noop")
}

fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<Progress> {
    conn.query_row(&format!("pragma wal_checkpoint({mode})"), [], |row| {
        Ok(Progress { is_busy: row.get(0)?, pages: row.get(1)?, moved: row.get(2)? })
    })
}
