//! The file in which `serve` leaves its URL and generated admin key, so that the command line finds them.
//!
//! It lies beside the database, readable by its owner alone, and is replaced as a whole. It is never made for a key
//! that somebody gave: such a key stays where they keep it, and what an earlier start left is removed.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where the command line looks if nothing else is said.
pub(crate) const PATH_DEFAULT: &str = "neo-events-data/credentials.json";

const FILE_NAME: &str = "credentials.json";
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A server and a key for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// Where the server listened when it was last started.
    pub(crate) url: String,
    /// An admin key.
    pub(crate) key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("url", &self.url).field("key", &"[redacted]").finish()
    }
}

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

    /// Removes the file, if there is one.
    pub(crate) fn remove(path: &Path) -> Result<(), CredentialsError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(CredentialsError { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CredentialsError> {
        let unusable = |source| CredentialsError { path: path.to_owned(), source };
        self.replace(path).map_err(unusable)
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = in_folder(&folder.path().join("deeper"));
        assert_eq!(Credentials::read(&path).unwrap(), None);
        for url in ["http://127.0.0.1:1", "http://127.0.0.1:2"] {
            let written = Credentials { url: url.into(), key: "k".into() };
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
        let credentials = Credentials { url: "u".into(), key: "hidden".into() };
        assert!(!format!("{credentials:?}").contains("hidden"));
    }
}
