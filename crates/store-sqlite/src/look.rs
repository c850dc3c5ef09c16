//! A look into a file from outside, beside whoever may have it open: changes nothing and asks for no lock.
//!
//! Where no log lies beside a file, nobody writes it, and it is read as one that never changes: that leaves no other
//! files behind. But a server may begin to write at any moment. What then looks wrong may be half of the old and half
//! of the new, and is looked at again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::{Connection, OpenFlags};

use crate::open::{self, OpenError};

/// Looks at a file as one that never changes, after which it is read as its server reads it.
const QUIET_LOOKS_MAX: u32 = 3;

/// What a file answers; if that looks wrong, once nobody changed it meanwhile.
pub(crate) fn look<T>(
    path: &Path,
    ask: impl Fn(&Connection) -> Result<T, OpenError>,
    is_sound: impl Fn(&T) -> bool,
) -> Result<T, OpenError> {
    let place = resolved(path);
    let look =
        |is_quiet: bool| ask(&connect(&place, is_quiet).map_err(|source| OpenError::of_sql(path, source))?);
    for _ in 0..QUIET_LOOKS_MAX {
        let before = Stamp::of(&place);
        if before.has_log {
            break;
        }
        let answer = look(true);
        if answer.as_ref().is_ok_and(&is_sound) || Stamp::of(&place) == before {
            return answer;
        }
    }
    look(false)
}

fn connect(path: &Path, is_quiet: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = if is_quiet {
        let uri = format!("file:{}?immutable=1", escaped(&path.to_string_lossy()));
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
    } else {
        Connection::open_with_flags(path, flags)?
    };
    conn.busy_timeout(open::BUSY_TIMEOUT)?;
    Ok(conn)
}

/// By what a change of a file shows.
#[derive(PartialEq, Eq)]
struct Stamp {
    has_log: bool,
    bytes: Option<u64>,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let metadata = fs::metadata(path).ok();
        Self {
            has_log: log_of(path).exists(),
            bytes: metadata.as_ref().map(fs::Metadata::len),
            modified: metadata.and_then(|metadata| metadata.modified().ok()),
        }
    }
}

pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut log = resolved(path).into_os_string();
    log.push("-wal");
    log.into()
}

/// Where a file is, whatever way leads there.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// What means something in a URI is told by its number.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::inspect::{faults_of, migrate};

    /// A file that nobody has open.
    fn file() -> (PathBuf, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.db");
        migrate(&path, |_| ()).unwrap();
        assert!(!log_of(&path).exists());
        (path, directory)
    }

    /// Moves most of the file's pages about, as a server does that was idle until now.
    fn work(path: &Path) -> Connection {
        let conn = Connection::open(path).unwrap();
        conn.execute_batch(
            "create table filler (n integer primary key, bytes blob);
             with recursive n (i) as (select 1 union all select i + 1 from n where i < 500)
             insert into filler select i, randomblob(3000) from n;
             create index later on filler (bytes);
             pragma wal_checkpoint(truncate);
             insert into filler values (1000, null)",
        )
        .unwrap();
        conn
    }

    #[test]
    fn what_a_server_changes_during_a_look_is_no_fault() {
        let (path, _directory) = file();
        let (looks, server) = (Cell::new(0), RefCell::new(None));
        let ask = |conn: &Connection| {
            looks.set(looks.get() + 1);
            // What was read before the change is still believed after it.
            conn.query_row("select count(*) from sqlite_schema", [], |_| Ok(())).unwrap();
            server.borrow_mut().get_or_insert_with(|| work(&path));
            faults_of(conn).map_err(|source| OpenError::of_sql(&path, source))
        };
        let found = look(&path, ask, Vec::is_empty).unwrap();
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(looks.get(), 2, "the first one was not sound");
    }

    #[test]
    fn a_fault_that_stays_is_told() {
        let (path, _directory) = file();
        let looks = Cell::new(0);
        let ask = |_: &Connection| {
            looks.set(looks.get() + 1);
            Ok("damaged")
        };
        assert_eq!(look(&path, ask, |_| false).unwrap(), "damaged");
        assert_eq!(looks.get(), 1, "nobody changed it meanwhile");
    }
}
