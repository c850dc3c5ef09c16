//! Opening a file: who may, whether it is ours, and bringing it up to date.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::{
    left_log,
    log::{self, Log},
};

/// `neoE`: what `pragma application_id` of our files says.
const APPLICATION_ID: i32 = 0x6e65_6f45;
/// Each is applied once; `pragma user_version` counts them. Never change one that was released.
const MIGRATIONS: [&str; 7] = [
    include_str!("../migrations/0001_events.sql"),
    include_str!("../migrations/0002_catalogue.sql"),
    include_str!("../migrations/0003_deliveries.sql"),
    include_str!("../migrations/0004_activations.sql"),
    include_str!("../migrations/0005_tenants.sql"),
    include_str!("../migrations/0006_checks.sql"),
    include_str!("../migrations/0007_master_key.sql"),
];

/// What the migrations make.
const TABLES: [&str; 18] = [
    "api_keys",
    "attempts",
    "cancel_requests",
    "catalogue",
    "deliveries",
    "delivery_queue",
    "dispatch_runs",
    "endpoint_removals",
    "endpoint_revisions",
    "endpoint_secrets",
    "endpoints",
    "event_types",
    "events",
    "owed_dispatches",
    "store_state",
    "stream_heads",
    "subscriptions",
    "tenants",
];

/// How long a transaction of another connection is waited for: the embedding program's own.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What is left of the write-ahead log's file when it begins anew, in bytes.
const LOG_BYTES_KEPT: i64 = 64 * 1024 * 1024;
/// A log that is longer did not begin anew when it was time: somebody always reads from it.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Prepared statements that a connection keeps: more than there are.
const STATEMENTS_KEPT: usize = 160;
/// Each reader's page cache; the operating system's holds the rest.
const READER_CACHE_KIB: u32 = 2 * 1024;

/// Where the file is and what it may use.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The admin file; beside it stand `-wal`, `-shm` and `.lock`, and in `.d` the files of the tenants.
    pub path: PathBuf,
    /// Connections for lists and counts in the admin file, beside one for claims and one for looking up keys and
    /// tenants. At least 1; a tenant's file has one.
    pub readers: usize,
    /// The page cache of the admin file's writer, in KiB; a tenant's has an eighth.
    pub cache_kib: u32,
    /// How long a list, a look-up or a count may take, its wait for a connection included. Claims have no such limit.
    pub read_timeout: Duration,
    /// After how long a tenant's file is closed that nobody uses and in which nothing is left to do.
    pub tenant_idle: Duration,
    /// From which length on the write-ahead log is emptied though reads are held back for it, in bytes; for tests.
    #[doc(hidden)]
    pub log_bytes_max: u64,
    /// Most pages of the file, for tests of what happens when a disk is full.
    #[doc(hidden)]
    pub pages_max: Option<u32>,
    /// Told which file was written and synced by the store itself and not by SQLite; for tests of power losses.
    #[doc(hidden)]
    pub written_beside: fn(&Path),
}

impl SqliteOptions {
    /// 2 readers, 16 MiB of cache, 5 s for a read; tenants are idle after 30 s.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readers: 2,
            cache_kib: 16 * 1024,
            read_timeout: Duration::from_secs(5),
            tenant_idle: Duration::from_secs(30),
            log_bytes_max: LOG_BYTES_MAX,
            pages_max: None,
            written_beside: |_| (),
        }
    }
}

/// Why a file was not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this one, has it open.
    #[error("{} is in use by another process: stop that one, or give this one a file of its own", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error(
        "{} has schema version {found}, this program knows up to {known}: use the version that wrote it, or a later one",
        .path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema's version.
        found: i32,
        /// The newest version that this program knows.
        known: i32,
    },
    /// It is a database, but not of this program.
    #[error(
        "{} is another application's database: choose a path where nothing is, and add tables of your own afterwards",
        .path.display()
    )]
    OtherApplication {
        /// The file.
        path: PathBuf,
    },
    /// A tenant's file was written before the tenant was listed, so this is no new one.
    #[error("{} is empty though its tenant is listed: restore it from a backup", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is not a database at all.
    #[error("{} is not an SQLite database: choose another path, or move that file away", .path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// Its pages contradict each other.
    #[error("{} is damaged: restore a backup, or recover what is left with the sqlite3 shell's .recover", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// It may be read but not written.
    #[error("{} cannot be written: give this user write permission for the file and its directory", .path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Where it is, SQLite cannot write ahead: readers and the writer would block each other.
    #[error(
        "{} allows no write-ahead log (its journal stays \"{journal}\"): put it on a local disk, not on a network's",
        .path.display()
    )]
    NoWriteAheadLog {
        /// The file.
        path: PathBuf,
        /// What SQLite uses instead.
        journal: String,
    },
    /// It is of an earlier version, and there is no room to bring it up to date, or no place to sort its rows.
    #[error(
        "{} could not be brought up to date: make room in its folder, for as much again as it has, and in the one for \
         temporary files, which must be writable (SQLITE_TMPDIR, TMPDIR, else /var/tmp or /tmp)",
        .path.display()
    )]
    NotMigrated {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The operating system refuses.
    #[error("{} cannot be opened", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database refuses for another reason: a full disk, a lock of a foreign program.
    #[error("{} cannot be opened", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl OpenError {
    /// What the database said about the file.
    pub(crate) fn of_sql(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, source },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            _ => Self::Database { path, source },
        }
    }
}

/// Why a file was not brought up to date. SQLite does not say which of its files had no room or could not be made: the
/// database, its log, or those in which it sorts what an index is made of, which are elsewhere.
fn migration_error(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => {
            OpenError::NotMigrated { path: path.into(), source }
        }
        _ => OpenError::of_sql(path, source),
    }
}

/// What an open file consists of.
pub(crate) struct Opened {
    /// Where the file is, whatever way leads there.
    pub(crate) path: PathBuf,
    pub(crate) writer: Connection,
    pub(crate) claims: Connection,
    pub(crate) readers: Vec<Connection>,
    pub(crate) opening: u64,
    pub(crate) log: Log,
    pub(crate) lock: File,
}

/// Opens the file, makes it if it is not there, brings it up to date and locks it.
pub(crate) fn open(options: &SqliteOptions) -> Result<Opened, OpenError> {
    let path = options.path.as_path();
    let (file, lock) = prepare_file(path).map_err(|source| io_error(path, source))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.into() }),
        Err(TryLockError::Error(source)) => return Err(io_error(path, source)),
    }
    let sql_error = |source| OpenError::of_sql(path, source);
    let mut writer = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_WRITE | NO_MUTEX)
        .map_err(sql_error)?;
    if writer.is_readonly("main").map_err(sql_error)? {
        return Err(OpenError::ReadOnly { path: path.into() });
    }
    log::leave(&writer).map_err(sql_error)?;
    judge(&writer, path)?;
    set_up_writer(&writer, options)?;
    let log = left_log::take_over(&mut writer, &file, &lock, options.written_beside)?;
    migrate(&mut writer).map_err(|source| migration_error(path, source))?;
    forget_statistics(&writer).map_err(sql_error)?;
    let opening =
        writer.query_row(crate::sql::STORE_OPEN, [], |row| row.get::<_, i64>(0)).map_err(sql_error)?;
    let reader = || open_reader(&file).map_err(sql_error);
    Ok(Opened {
        claims: reader()?,
        readers: (0..options.readers.max(1)).map(|_| reader()).collect::<Result<_, _>>()?,
        writer,
        opening: opening.unsigned_abs(),
        log,
        lock,
        path: file,
    })
}

const NO_MUTEX: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX;

/// Directories 0700 and files 0600: what is inside is nobody else's. The log beside it gets the same mode. Answers
/// where the file is, links resolved, and the lock beside it: whatever way leads to a file, it has one lock.
fn prepare_file(path: &Path) -> io::Result<(PathBuf, File)> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        make_directory(directory)?;
    }
    make_file(path)?;
    let path = path.canonicalize()?;
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = private_file(OpenOptions::new().write(true).create(true).truncate(false)).open(lock_path)?;
    Ok((path, lock))
}

/// Makes the directory and those that it is in, as far as they are not there. SQLite sees to it that its files are in
/// the directory after a loss of power; that the directory is where it is, nobody else would.
fn make_directory(directory: &Path) -> io::Result<()> {
    let made: Vec<_> = directory.ancestors().take_while(|part| !part.exists()).collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    private_directory(&mut builder);
    builder.create(directory)?;
    made.into_iter().filter_map(Path::parent).try_for_each(sync_directory)
}

/// Writes down what is in a directory; the nameless one is the present one.
#[cfg(unix)]
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
pub(crate) fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes the file unless it is there. One that is there is not opened: closing it again would end all locks that this
/// process has on it (`fcntl(2)`), those of the embedding program's own connections among them, which SQLite takes to
/// be held as long as any of them is open. Another program would then take itself for the last one, and remove the log.
fn make_file(path: &Path) -> io::Result<()> {
    let create = |options: &mut OpenOptions| private_file(options.write(true)).open(path).map(drop);
    match create(OpenOptions::new().create_new(true)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match path.metadata() {
            Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            // A link that leads to where nothing is yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(OpenOptions::new().create(true).truncate(false))
            }
            there => there.map(drop),
        },
        made => made,
    }
}

#[cfg(unix)]
fn private_directory(builder: &mut DirBuilder) {
    std::os::unix::fs::DirBuilderExt::mode(builder, 0o700);
}

#[cfg(not(unix))]
fn private_directory(_: &mut DirBuilder) {}

#[cfg(unix)]
fn private_file(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(not(unix))]
fn private_file(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Whether the file is ours, before anything is written to it.
pub(crate) fn judge(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let sql_error = |source| OpenError::of_sql(path, source);
    let number = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i32>(0)).map_err(sql_error);
    let tables = number("select count(*) from sqlite_schema")?;
    let (application, version) = (number("pragma application_id")?, number("pragma user_version")?);
    let is_empty = tables == 0 && application == 0 && version == 0;
    if !is_empty && application != APPLICATION_ID {
        return Err(OpenError::OtherApplication { path: path.into() });
    }
    let known = known_version();
    if version > known {
        return Err(OpenError::NewerSchema { path: path.into(), found: version, known });
    }
    Ok(())
}

/// Whether a connection's file has the tables that this program knows.
pub(crate) fn is_current(conn: &Connection) -> rusqlite::Result<bool> {
    let version: i32 = conn.query_row("pragma user_version", [], |row| row.get(0))?;
    Ok(version == known_version())
}

/// Migrations that this program knows.
pub(crate) fn known_version() -> i32 {
    schema_version(MIGRATIONS.len())
}

fn schema_version(migrations: usize) -> i32 {
    i32::try_from(migrations).unwrap_or(i32::MAX)
}

/// An acknowledged publish is durable: every commit is synced. No memory map: an I/O error would be a signal.
fn set_up_writer(conn: &Connection, options: &SqliteOptions) -> Result<(), OpenError> {
    let path = options.path.as_path();
    let sql_error = |source| OpenError::of_sql(path, source);
    set_up(conn, options.cache_kib).map_err(sql_error)?;
    // It answers the mode that is in force, which need not be the one asked for.
    let journal: String =
        conn.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(sql_error)?;
    if journal != "wal" {
        return Err(OpenError::NoWriteAheadLog { path: path.into(), journal });
    }
    set_up_log(conn, options).map_err(sql_error)
}

fn set_up_log(conn: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    conn.pragma_update(None, "synchronous", "full")?;
    // The writer moves the log, and sees if that fails.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    if let Some(pages) = options.pages_max {
        conn.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(())
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | NO_MUTEX)?;
    set_up(&conn, READER_CACHE_KIB)?;
    Ok(conn)
}

/// Foreign keys stay unchecked: every reference is resolved in the statement that writes it.
fn set_up(conn: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "mmap_size", 0)?;
    conn.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(())
}

/// All that are missing in one transaction: a new file costs one sync, and none is left half-way.
fn migrate(conn: &mut Connection) -> rusqlite::Result<()> {
    let applied: u32 = conn.query_row("pragma user_version", [], |row| row.get(0))?;
    let missing = MIGRATIONS.get(applied as usize..).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    if applied > 0 {
        let (file, to) = (conn.path().map(str::to_owned), known_version());
        tracing::info!(file, from = applied, to, "bringing the file up to date; a large one takes a while");
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in missing {
        tx.execute_batch(migration)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", known_version())?;
    tx.commit()
}

/// Whoever has tables of their own in the file may have gathered statistics (`analyze`, `pragma optimize`), of ours too.
/// Gathered while these were small they would have SQLite walk them for good; without any, it takes the indexes.
fn forget_statistics(conn: &Connection) -> rusqlite::Result<()> {
    let mut forgotten = 0;
    for statistics in ["sqlite_stat1", "sqlite_stat4"] {
        if conn.table_exists(None, statistics)? {
            let names = TABLES.join("', '");
            forgotten += conn.execute(&format!("delete from {statistics} where tbl in ('{names}')"), [])?;
        }
    }
    if forgotten > 0 {
        // This connection has read them with the schema.
        conn.execute_batch("pragma writable_schema = reset")?;
    }
    Ok(())
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> OpenError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly { path: path.into() }
        }
        _ => OpenError::Io { path: path.into(), source },
    }
}

/// A database in memory with every table, for tests of statements.
#[cfg(test)]
pub(crate) fn migrated() -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    migrate(&mut conn).unwrap();
    conn
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as version 5 left it, with a delivery in each state.
    const OF_VERSION_5: &str = "
        insert into deliveries values
            (1, randomblob(16), 1, 1, 'event', 'pending', 7, 0, 4, 0, 3, 5, 2.0, null, null, x'', 1),
            (2, randomblob(16), 1, 2, 'event', 'retrying', 8, 1, 4, 0, 3, 5, 2.0, null, 'asked', zeroblob(16), 1),
            (3, randomblob(16), 1, 3, 'event', 'success', null, 1, 4, 0, 3, 5, 2.0, null, null, zeroblob(32), 1),
            (4, randomblob(16), 2, 1, 'event', 'failed', null, 4, 4, 1, 3, 5, 2.5, null, null, x'', 2),
            (9, randomblob(16), 2, 1, 'test', 'cancelled', null, 0, 4, 0, 3, 5, 2.0, 'by hand', null, x'', 2);
        insert into attempts values
            (131073, randomblob(16), 1, 'timeout', 'connect', 1, 2, 1, 0, 'v1,a', 'b', null, 'm', null, null, null, null),
            (196609, randomblob(16), 1, 'success', null, 1, 2, 1, 1, 'v1,a', 'b', 'c', null, 200, '[]', 0, x'6f6b');
    ";

    #[test]
    fn tables_that_are_made_anew_keep_their_rows_their_checks_and_their_indexes() {
        let mut conn = Connection::open_in_memory().unwrap();
        for migration in &MIGRATIONS[..5] {
            conn.execute_batch(migration).unwrap();
        }
        conn.pragma_update(None, "user_version", 5).unwrap();
        conn.execute_batch(OF_VERSION_5).unwrap();
        let rows = |conn: &Connection, table: &str| -> Vec<Vec<rusqlite::types::Value>> {
            let mut statement = conn.prepare(&format!("select * from {table}")).unwrap();
            let columns = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get(column)).collect();
            statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let indexes = |conn: &Connection| -> Vec<String> {
            let named =
                "select name from sqlite_schema where type = 'index' and sql is not null order by name";
            let mut statement = conn.prepare(named).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let before = (rows(&conn, "deliveries"), rows(&conn, "attempts"), indexes(&conn));
        migrate(&mut conn).unwrap();
        assert_eq!((rows(&conn, "deliveries"), rows(&conn, "attempts"), indexes(&conn)), before);
        for (table, key) in [("deliveries", "seq"), ("attempts", "slot")] {
            let odd = format!("update {table} set status = 'odd' where {key} in (3, 196609)");
            let refused = conn.execute_batch(&odd).unwrap_err().to_string();
            assert!(refused.contains("CHECK constraint failed"), "{table}: {refused}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_brought_up_to_date_says_what_that_needs_and_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.db");
        let conn = Connection::open(&path).unwrap();
        for migration in &MIGRATIONS[..5] {
            conn.execute_batch(migration).unwrap();
        }
        conn.execute_batch(OF_VERSION_5).unwrap();
        conn.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        conn.pragma_update(None, "user_version", 5).unwrap();
        let pages: u32 = conn.query_row("pragma page_count", [], |row| row.get(0)).unwrap();
        drop(conn);
        let options = SqliteOptions { pages_max: Some(pages), ..SqliteOptions::new(&path) };
        let Err(error) = open(&options) else { panic!("there is no room") };
        assert!(matches!(error, OpenError::NotMigrated { .. }), "{error:?}");
        assert!(error.to_string().contains("TMPDIR"), "{error}");
        let applied = |conn: &Connection| -> i32 {
            conn.query_row("pragma user_version", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(applied(&Connection::open(&path).unwrap()), 5);
        assert_eq!(applied(&open(&SqliteOptions::new(&path)).unwrap().writer), known_version());
    }

    #[test]
    fn a_place_without_a_write_ahead_log_is_refused() {
        // A database in memory keeps its journal there, whatever it is asked for.
        let conn = Connection::open_in_memory().unwrap();
        let error = set_up_writer(&conn, &SqliteOptions::new("data/admin.db")).unwrap_err();
        assert!(
            matches!(&error, OpenError::NoWriteAheadLog { journal, .. } if journal == "memory"),
            "{error:?}"
        );
        assert!(error.to_string().starts_with("data/admin.db allows no write-ahead log"), "{error}");
    }
}
