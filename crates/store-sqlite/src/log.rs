//! The write-ahead log of a file that is open, and moving its content into the file.
//!
//! SQLite moves no more of the log than nobody reads from, and syncs the file once all of it is moved. Should that sync
//! fail, the system does not try again what earlier parts have written (see [`left_log`](crate::left_log)); SQLite does
//! not either, but goes on behind them, and would begin the log anew though some of it has never reached the file. From
//! then on nothing is moved, and the log is left when the file is closed: whoever opens it next moves all of it.
//!
//! That is so if nobody has the file open meanwhile, for how far the log has been moved is in memory that all who have it
//! open share. So the lock beside the file says that its log must stay, by not being empty, for as long as that memory
//! lasts: after a power loss it is gone, and the word need not be durable.

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, Error, config::DbConfig, ffi::SQLITE_IOERR_FSYNC};

use crate::{look::log_of, open::BUSY_TIMEOUT};

/// From how many pages on the log is moved: 16 MiB.
const LONG_PAGES: i64 = 4000;
/// How long the emptying waits for the embedding program's connections: commits wait for it, and so does closing.
const EMPTYING_PATIENCE: Duration = Duration::from_millis(200);

/// Of one file. It shows itself as where it is.
pub(crate) struct Log {
    path: PathBuf,
    /// Says by its length whether the log must stay.
    lock: File,
    must_stay: bool,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Log {
    pub(crate) fn of(file: &Path, lock: File) -> Self {
        Self { path: log_of(file), lock, must_stay: false }
    }

    /// Whether the log may be moved, by whoever has just opened the file.
    pub(crate) fn is_taken_over(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let had_to_stay = self.lock.metadata().is_ok_and(|lock| lock.len() > 0);
        if had_to_stay && progress(conn)?.is_begun() {
            self.stay("somebody else has had the file open since the disk failed");
        } else {
            // All of it is moved anew. If this fails, the log stays once more.
            let _ = self.lock.set_len(0);
        }
        Ok(!self.must_stay)
    }

    fn stay(&mut self, why: &str) {
        self.must_stay = true;
        // If even that fails: the next one who opens the file has the log as it is, unless somebody else has it open.
        let _ = self.lock.set_len(1);
        tracing::error!(
            log = %self,
            why,
            "the write-ahead log stays, and grows, until the file is closed by all and opened anew: check the disk and its \
             room, close what else has the file open, then start this program again"
        );
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
        self.empty(conn).map(drop)
    }

    /// What an attempt to move some of it came to. Whether what was moved before had been synced nobody knows, and it
    /// is rarely so.
    fn judge<T>(&mut self, conn: &Connection, moved: rusqlite::Result<T>) -> rusqlite::Result<T> {
        if moved.as_ref().is_err_and(has_failed_to_sync) && progress(conn)?.is_begun() {
            leave(conn)?;
            self.stay("the disk failed while it was being moved into its file");
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
