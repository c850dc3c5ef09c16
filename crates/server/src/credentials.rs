//! The file in which `serve` leaves its URL and generated admin key, so that the command line finds them.
//!
//! It lies beside the database, readable by its owner alone, and is replaced as a whole. It is never made for a key
//! that somebody gave: such a key stays where they keep it, and what an earlier start left is removed.
//!
//! Several databases may lie in one folder, and all that are found with PostgreSQL servers share one. They share the
//! file and its key, which therefore goes only with the last of the databases that it names. Files of earlier versions
//! name none.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::settings::Database;

/// Where the command line looks if nothing else is said.
pub(crate) const PATH_DEFAULT: &str = "neo-events-data/credentials.json";

const FILE_NAME: &str = "credentials.json";
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Before the name of a file in the folder.
const OF_FILE: &str = "sqlite:";

/// A server and a key for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// Where the server listened when it was last started.
    pub(crate) url: String,
    /// An admin key.
    pub(crate) key: String,
    /// The databases whose servers were started with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) databases: Vec<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, databases, key: _ } = self;
        f.debug_struct("Credentials")
            .field("url", url)
            .field("key", &"[redacted]")
            .field("databases", databases)
            .finish()
    }
}

/// What to do about one that cannot be used.
pub(crate) const ADVICE: &str = "remove it, and `serve` makes a new key and file; or give the key that you have kept, as \
                                 NEO_EVENTS_ADMIN_KEY to `serve` and as NEO_EVENTS_KEY to other commands";

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the credentials file {path} cannot be used")]
pub(crate) struct CredentialsError {
    path: PathBuf,
    source: io::Error,
}

/// The file in a folder.
pub(crate) fn in_folder(folder: &Path) -> PathBuf {
    folder.join(FILE_NAME)
}

impl Credentials {
    /// Reads the file; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, CredentialsError> {
        let unusable = |source| CredentialsError { path: path.to_owned(), source };
        let read = || {
            let size = fs::metadata(path)?.len();
            if size > FILE_BYTES_MAX {
                return Err(io::Error::other("it is too large"));
            }
            Ok(serde_json::from_slice(&fs::read(path)?)?)
        };
        match read() {
            Ok(credentials) => Ok(Some(credentials)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(unusable(error)),
        }
    }

    /// Leaves them in the file, as those of this database too.
    pub(crate) fn leave(self, path: &Path, database: &Database) -> Result<(), CredentialsError> {
        // Those of another key are of a file that is replaced.
        let kept = Self::read(path)?.filter(|kept| kept.key == self.key);
        let mut databases = kept.map_or_else(Vec::new, |kept| kept.others_than(path, database));
        databases.push(name_of(database));
        Self { databases, ..self }.write(path)
    }

    /// Takes out of the file, if there is one, that its key is this database's. Where it is no other's either the file
    /// goes.
    pub(crate) fn forget(path: &Path, database: &Database) -> Result<(), CredentialsError> {
        let is_beside = matches!(database, Database::Sqlite(_));
        let Ok(Some(kept)) = Self::read(path) else {
            // What cannot be read is no key of anybody's.
            return if is_beside { remove(path) } else { Ok(()) };
        };
        let databases = kept.others_than(path, database);
        match (kept.databases.is_empty(), databases.is_empty()) {
            // It names nobody: beside a database it is that one's, elsewhere it may be of other data.
            (true, _) => {
                if is_beside {
                    remove(path)
                } else {
                    Ok(())
                }
            }
            (false, true) => remove(path),
            (false, false) if databases == kept.databases => Ok(()),
            (false, false) => Self { databases, ..kept }.write(path),
        }
    }

    /// The other databases that it names, but for files that are gone.
    fn others_than(&self, path: &Path, database: &Database) -> Vec<String> {
        let (own, folder) = (name_of(database), path.parent().unwrap_or(Path::new("")));
        let is_there = |name: &str| name.strip_prefix(OF_FILE).is_none_or(|file| folder.join(file).exists());
        self.databases.iter().filter(|name| **name != own && is_there(name)).cloned().collect()
    }

    /// Writes the file, whole or not at all.
    fn write(&self, path: &Path) -> Result<(), CredentialsError> {
        let unusable = |source| CredentialsError { path: path.to_owned(), source };
        self.replace(path).map_err(unusable)
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let draft = path.with_extension("json.new");
        // A leftover could have been made readable for others: start anew rather than write into it.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, path)
    }
}

/// How a database is named in the file: one that lies beside it by its name there, so that the folder may be moved.
fn name_of(database: &Database) -> String {
    match database {
        Database::Sqlite(path) => {
            format!("{OF_FILE}{}", path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
        }
        Database::Postgres(_) => database.shown(),
    }
}

fn remove(path: &Path) -> Result<(), CredentialsError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CredentialsError { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn of(url: &str, databases: &[&str]) -> Credentials {
        let databases = databases.iter().map(|name| (*name).to_owned()).collect();
        Credentials { url: url.into(), key: "k".into(), databases }
    }

    #[test]
    fn what_is_written_is_read_again_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = in_folder(&folder.path().join("deeper"));
        assert_eq!(Credentials::read(&path).unwrap(), None);
        for url in ["http://127.0.0.1:1", "http://127.0.0.1:2"] {
            let written = of(url, &["sqlite:a.db"]);
            written.write(&path).unwrap();
            assert_eq!(Credentials::read(&path).unwrap(), Some(written));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_file_is_named_and_a_key_is_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, "{").unwrap();
        assert!(Credentials::read(&path).unwrap_err().to_string().contains(FILE_NAME));
        let credentials = Credentials { key: "hidden".into(), ..of("u", &[]) };
        assert!(!format!("{credentials:?}").contains("hidden"));
    }

    #[test]
    fn the_file_goes_with_the_last_database_that_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = in_folder(folder.path());
        let file = |name: &str| Database::Sqlite(folder.path().join(name));
        let server = |url: &str| Database::Postgres(url.into());
        for name in ["a.db", "b.db"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let (a, b, p) = ("sqlite:a.db", "sqlite:b.db", "postgres://u:***@h/d");
        let check = |kept: &[&str], forgotten: &Database, left: Option<&[&str]>| {
            of("u", kept).write(&path).unwrap();
            Credentials::forget(&path, forgotten).unwrap();
            let expected = left.map(|left| of("u", left));
            assert_eq!(Credentials::read(&path).unwrap(), expected, "{kept:?} without {forgotten:?}");
            let _ = fs::remove_file(&path);
        };
        check(&[a], &file("a.db"), None);
        check(&[a], &file("b.db"), Some(&[a]));
        check(&[a, b], &file("a.db"), Some(&[b]));
        check(&["sqlite:renamed.db"], &file("a.db"), None);
        check(&["sqlite:renamed.db", b], &file("a.db"), Some(&[b]));
        check(&[a, p], &file("a.db"), Some(&[p]));
        check(&[a, p], &server("postgres://u:secret@h/d"), Some(&[a]));
        check(&[p], &server("postgres://u:secret@h/d"), None);
        check(&[p], &server("postgres://u:secret@h/another"), Some(&[p]));
        // Of earlier versions.
        check(&[], &file("a.db"), None);
        check(&[], &server("postgres://h/d"), Some(&[]));
        fs::write(&path, "{").unwrap();
        Credentials::forget(&path, &file("a.db")).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_key_is_that_of_all_databases_that_were_started_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = in_folder(folder.path());
        for (name, databases) in [("a.db", vec!["sqlite:a.db"]), ("b.db", vec!["sqlite:a.db", "sqlite:b.db"])]
        {
            let file = folder.path().join(name);
            fs::write(&file, "").unwrap();
            of(name, &[]).leave(&path, &Database::Sqlite(file)).unwrap();
            assert_eq!(Credentials::read(&path).unwrap(), Some(of(name, &databases)));
        }
        let another = Credentials { key: "another".into(), ..of("c.db", &[]) };
        another.leave(&path, &Database::Sqlite(folder.path().join("c.db"))).unwrap();
        assert_eq!(Credentials::read(&path).unwrap().unwrap().databases, ["sqlite:c.db"]);
    }
}
