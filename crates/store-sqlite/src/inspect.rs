//! The files from outside: how far they are, what condition they are in, and bringing all of them up to date at once.
//!
//! Looking changes nothing and asks for no lock, so that it works beside the process that has the files.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use neo_events_domain::tenant::Schema;
use neo_events_store::{MasterKeyFingerprint, MigrationStatus, MigrationStep};
use rusqlite::Connection;

use crate::{
    look::{log_of, look, resolved},
    open::{self, OpenError, Opened, SqliteOptions, judge, open},
    sql,
    tenant_files::directory_of,
    tenants,
};

/// Faults of a file's pages that are named at most.
const FAULTS_MAX: u32 = 10;

/// What condition a file and those of its tenants are in.
#[derive(Debug)]
pub struct FileFacts {
    /// Who may do what, as in `chmod`.
    pub mode: u32,
    /// Whether a process has it open.
    pub is_in_use: bool,
    /// Whether its journal is a write-ahead log, as it is unless somebody changed it.
    pub writes_ahead: bool,
    /// Files of tenants on the list that are gone, or empty.
    pub missing: Vec<PathBuf>,
    /// Files of tenants that cannot be read.
    pub unreadable: Vec<UnreadableFile>,
    /// Whether a master key was noted, or there are secrets of endpoints, which only the master key opens, or may be in
    /// a file that cannot be read.
    pub needs_its_key: bool,
    /// Of the master key that was noted: a server does not start without that key.
    pub noted_key: Option<MasterKeyFingerprint>,
    /// What is wrong inside, if it was asked for: the file's name and a fault.
    pub faults: Vec<(PathBuf, String)>,
    /// How far the migrations are.
    pub migrations: Vec<MigrationStatus>,
}

/// A tenant's file that cannot be read. The others are served all the same.
#[derive(Debug)]
pub struct UnreadableFile {
    /// The tenant's schema.
    pub scope: String,
    /// Where the file is.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub error: OpenError,
}

/// How far the migrations of a file and those of its tenants are.
#[derive(Debug)]
pub struct FileMigrations {
    /// Of the admin file and those of tenants that can be read.
    pub scopes: Vec<MigrationStatus>,
    /// The others.
    pub unreadable: Vec<UnreadableFile>,
}

/// Looks at the admin file at this path and at its tenants'; `None` if it is not there. With `deep` every page is read.
/// Only an admin file that cannot be read is an error.
pub fn inspect(path: &Path, deep: bool) -> Result<Option<FileFacts>, OpenError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(open::io_error(path, error)),
    };
    let FileMigrations { scopes: migrations, mut unreadable } = migration_status(path)?;
    let writes_ahead =
        log_of(path).exists() || is_marked(path).map_err(|error| open::io_error(path, error))?;
    let Contents { missing, needs_its_key, noted_key } = contents(path, &migrations, &mut unreadable)?;
    let mut faults = Vec::new();
    if deep {
        for (schema, path) in files(path)? {
            if is_among(&unreadable, &schema) {
                continue;
            }
            let found = look_at(&path, faults_of, Vec::is_empty);
            let found = note_unreadable(&mut unreadable, (&schema, &path), found)?.unwrap_or_default();
            faults.extend(found.into_iter().map(|fault| (path.clone(), fault)));
        }
    }
    let needs_its_key = needs_its_key || !unreadable.is_empty();
    Ok(Some(FileFacts {
        mode: metadata.permissions().mode() & 0o777,
        is_in_use: is_in_use(path),
        writes_ahead,
        missing,
        unreadable,
        needs_its_key,
        noted_key,
        faults,
        migrations,
    }))
}

/// See [`FileFacts`].
#[derive(Default)]
struct Contents {
    missing: Vec<PathBuf>,
    needs_its_key: bool,
    noted_key: Option<MasterKeyFingerprint>,
}

/// Which tenants have lost their file, and whether a master key was noted or anybody has a secret. Of files whose
/// tables are not all there nothing is asked: they will be brought up to date first.
fn contents(
    admin: &Path,
    migrations: &[MigrationStatus],
    unreadable: &mut Vec<UnreadableFile>,
) -> Result<Contents, OpenError> {
    let is_ready = |schema: &Schema| {
        migrations.iter().any(|status| status.scope == schema.as_str() && status.applied >= status.known)
    };
    let mut found = Contents::default();
    if is_ready(&Schema::admin()) {
        let listed_and_noted = |conn: &Connection| {
            let noted =
                conn.query_row(sql::MASTER_KEY_FINGERPRINT, [], |row| row.get::<_, Option<[u8; 16]>>(0))?;
            Ok((tenants::schemas(conn)?, noted))
        };
        let (listed, noted) = look_at(admin, listed_and_noted, |_| true)?;
        found.noted_key = noted.map(MasterKeyFingerprint);
        found.needs_its_key = found.noted_key.is_some();
        let directory = directory_of(&resolved(admin));
        let of_tenants = listed.into_iter().filter(|schema| *schema != Schema::admin());
        found.missing.extend(of_tenants.map(|schema| directory.join(format!("{schema}.db"))));
        found.missing.retain(|path| is_gone(path));
    }
    for (schema, path) in files(admin)? {
        let has_secret = |conn: &Connection| conn.prepare(sql::ENDPOINT_SECRETS_NEWEST)?.exists([]);
        if !is_ready(&schema) {
            continue;
        }
        let has_secret = look_at(&path, has_secret, |_| true);
        if note_unreadable(unreadable, (&schema, &path), has_secret)? == Some(true) {
            found.needs_its_key = true;
            break;
        }
    }
    Ok(found)
}

/// Whether nothing is there, or nothing in it.
fn is_gone(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |there| there.len() == 0)
}

/// What a file answered, if it could be read; that a tenant's could not is noted.
fn note_unreadable<T>(
    unreadable: &mut Vec<UnreadableFile>,
    (schema, path): (&Schema, &Path),
    answer: Result<T, OpenError>,
) -> Result<Option<T>, OpenError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if *schema == Schema::admin() => Err(error),
        Err(error) => {
            let scope = schema.to_string();
            unreadable.push(UnreadableFile { scope, path: path.to_owned(), error });
            Ok(None)
        }
    }
}

fn is_among(unreadable: &[UnreadableFile], schema: &Schema) -> bool {
    unreadable.iter().any(|file| file.scope == schema.as_str())
}

/// How far the admin file at this path and those of its tenants are. Changes nothing. Only an admin file that cannot be
/// read is an error.
pub fn migration_status(path: &Path) -> Result<FileMigrations, OpenError> {
    let (mut scopes, mut unreadable) = (Vec::new(), Vec::new());
    for (schema, path) in files(path)? {
        let applied = if path.exists() { version(&path) } else { Ok(0) };
        if let Some(applied) = note_unreadable(&mut unreadable, (&schema, &path), applied)? {
            let (scope, known) = (schema.to_string(), open::known_version());
            scopes.push(MigrationStatus { scope, applied, known });
        }
    }
    Ok(FileMigrations { scopes, unreadable })
}

/// Brings the admin file at this path, which is made if it is not there, and those of its tenants up to date. Calls
/// `progress` with each that was not. Nobody else may have them open. What is wrong with a tenant's file is answered
/// once the others are up to date.
pub fn migrate(path: &Path, mut progress: impl FnMut(MigrationStep<'_>)) -> Result<(), OpenError> {
    let FileMigrations { scopes, unreadable } = migration_status(path)?;
    let behind: Vec<_> = scopes.into_iter().filter(MigrationStatus::is_behind).collect();
    let mut failed = unreadable.into_iter().map(|file| file.error).next();
    // Its lock is everybody's: held until all are done.
    let admin = open(&SqliteOptions::new(path))?;
    tenants::insert_admin(&admin.writer).map_err(|source| OpenError::of_sql(path, source))?;
    let listed = tenants::schemas(&admin.writer).map_err(|source| OpenError::of_sql(path, source))?;
    let files = files(path)?;
    for (before, status) in behind.iter().enumerate() {
        let file = files.iter().find(|(schema, _)| schema.as_str() == status.scope);
        if let Some((schema, path)) = file
            && *schema != Schema::admin()
        {
            if is_gone(path) && listed.contains(schema) {
                failed = failed.or_else(|| Some(OpenError::Empty { path: path.clone() }));
                continue;
            }
            match open(&SqliteOptions::new(path)) {
                Ok(opened) => close(opened),
                Err(error) => {
                    failed = failed.or(Some(error));
                    continue;
                }
            }
        }
        progress(MigrationStep { scope: &status.scope, done: before + 1, total: behind.len() });
    }
    close(admin);
    failed.map_or(Ok(()), Err)
}

/// The writer last: only it can move the log into the file and remove it.
fn close(opened: Opened) {
    let Opened { writer, claims, readers, .. } = opened;
    drop((claims, readers));
    drop(writer);
}

/// The admin file, whether it is there or not, and the files of tenants by name.
fn files(admin: &Path) -> Result<Vec<(Schema, PathBuf)>, OpenError> {
    let mut files = vec![(Schema::admin(), admin.to_owned())];
    let directory = directory_of(&resolved(admin));
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(open::io_error(&directory, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| open::io_error(&directory, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".db"));
        if let Some(schema) = name.and_then(|name| name.parse().ok()) {
            files.push((schema, path));
        }
    }
    files[1..].sort();
    Ok(files)
}

fn version(path: &Path) -> Result<i32, OpenError> {
    let version = |conn: &Connection| {
        judge(conn, path)?;
        conn.query_row("pragma user_version", [], |row| row.get(0))
            .map_err(|source| OpenError::of_sql(path, source))
    };
    look(path, version, |_| true)
}

/// What is wrong with the pages of a file.
pub(crate) fn faults_of(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(&format!("pragma quick_check({FAULTS_MAX})"))?;
    let said: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(said.into_iter().filter(|said| said != "ok").collect())
}

/// See [`look`].
fn look_at<T>(
    path: &Path,
    ask: impl Fn(&Connection) -> rusqlite::Result<T>,
    is_sound: impl Fn(&T) -> bool,
) -> Result<T, OpenError> {
    look(path, |conn| ask(conn).map_err(|source| OpenError::of_sql(path, source)), is_sound)
}

/// Whether the file says of itself that it has a write-ahead log: its 18th byte, the version of its format.
fn is_marked(path: &Path) -> io::Result<bool> {
    let mut header = Vec::new();
    File::open(path)?.take(19).read_to_end(&mut header)?;
    Ok(header.get(18) == Some(&2))
}

fn is_in_use(path: &Path) -> bool {
    let mut lock = resolved(path).into_os_string();
    lock.push(".lock");
    let Ok(lock) = File::open(lock) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}
