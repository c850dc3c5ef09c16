//! The write-ahead log that a process before this one has left beside a file: it was killed, or its disk failed.
//!
//! A sync of that process may have failed. The system then takes for written what may never have reached the disk, and
//! no later sync tries it again. Such a commit was refused, but it lies at the end of the log and looks whole to
//! whoever opens the file next, and two things would go wrong with it in a power loss. What is written behind it would
//! be lost with it, though that was synced. And while the log is moved into the file, a part of it would be in the file
//! already, and the log, which SQLite has synced before that and which is to make it whole, would not be there: the
//! file is then damaged.
//!
//! So the log is written once more, as it is, and synced, before any of it is moved; then it is moved into the file as
//! a whole and emptied. Where somebody else has the file open, the log's end is known, and what lies behind it is
//! overwritten.
//!
//! What a failed sync leaves behind: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use rusqlite::{Connection, TransactionBehavior};

use crate::{
    log::{self, Log},
    look::log_of,
    open::{OpenError, io_error},
};

/// What is read and written at a time.
const PART_BYTES: u64 = 1024 * 1024;

/// Makes the log durable, moves it into the file and empties it, as far as nobody else reads from it. `written` is told
/// which file was written without SQLite, and synced.
pub(crate) fn take_over(
    conn: &mut Connection,
    path: &Path,
    lock: &File,
    written: fn(&Path),
) -> Result<Log, OpenError> {
    let (sql_error, file_error) = (|source| OpenError::of_sql(path, source), |source| io_error(path, source));
    let left = log_of(path);
    if fs::metadata(&left).is_ok_and(|left| left.len() > 0) {
        // Nobody else writes to it meanwhile.
        let quiet = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql_error)?;
        write_again(&left).map_err(|source| io_error(&left, source))?;
        written(&left);
        quiet.rollback().map_err(sql_error)?;
    }
    let mut log = Log::of(path, lock.try_clone().map_err(file_error)?);
    if log.is_taken_over(conn).map_err(sql_error)? {
        log.empty(conn).map_err(sql_error)?;
        log::take(conn).map_err(sql_error)?;
    }
    Ok(log)
}

/// Writes a file once more as it is, and syncs it. What was durable before stays so at every moment: the same bytes are
/// written over it. SQLite has no lock on this file that closing it could end.
fn write_again(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let (mut part, mut at) = (Vec::new(), 0);
    loop {
        part.clear();
        let read = (&file).take(PART_BYTES).read_to_end(&mut part)?;
        if read == 0 {
            return file.sync_all();
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&part)?;
        at = file.stream_position()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_again_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let part = usize::try_from(PART_BYTES).unwrap();
        for length in [0, 1, part - 1, part, part + 1, 3 * part + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            fs::write(&path, &bytes).unwrap();
            write_again(&path).unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{length} bytes");
        }
    }

    #[test]
    fn whoever_only_looked_at_a_file_leaves_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("pragma journal_mode = wal; create table t (n integer)").unwrap();
        log::leave(&conn).unwrap();
        drop(conn);
        let left = fs::read(log_of(&path)).unwrap();
        assert!(!left.is_empty());
        let conn = Connection::open(&path).unwrap();
        log::leave(&conn).unwrap();
        conn.query_row("select count(*) from t", [], |_| Ok(())).unwrap();
        drop(conn);
        assert!(fs::read(log_of(&path)).unwrap() == left);
        let mut conn = Connection::open(&path).unwrap();
        log::leave(&conn).unwrap();
        let lock = File::create(directory.path().join("lock")).unwrap();
        take_over(&mut conn, &path, &lock, |_| ()).unwrap();
        assert_eq!(fs::metadata(log_of(&path)).unwrap().len(), 0);
        drop(conn);
        assert!(!log_of(&path).exists());
    }
}
