//! The folder of a cluster: its data, its socket, its log, and the locks that say who uses it.

use std::{
    fs::{self, DirBuilder, File},
    hash::{BuildHasher, RandomState},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::account::Account;

/// The folder of a cluster. Its path must be short: it holds a socket, whose path has a limit of about 100 bytes.
#[derive(Clone)]
pub(crate) struct Home {
    path: PathBuf,
    pub(crate) account: Account,
}

/// A shared lock on a home's lease: while somebody has one, the cluster stays.
pub(crate) struct Lease {
    /// The lock lasts as long as it is open.
    _file: File,
}

impl Home {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, account: Account::choose() }
    }

    /// A home that nobody else has.
    pub(crate) fn fresh() -> Self {
        let home = Self::at(std::env::temp_dir().join(format!("neo-events-pg-{:016x}", random())));
        home.create();
        home
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The server's data folder, and the working directory of every process that belongs to it.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where a small disk is mounted, if the cluster has one.
    pub(crate) fn disk(&self) -> PathBuf {
        self.path.join("disk")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// A lease on this home, which is created if it is not there. Waits while it is being removed.
    pub(crate) fn lease(&self) -> Lease {
        loop {
            let lease = match self.open_lease() {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.create();
                    continue;
                }
                lease => lease.unwrap(),
            };
            lease.lock_shared().unwrap();
            // The home may have been removed, and another made, between opening and locking.
            if fs::metadata(self.path.join("lease")).is_ok_and(|named| is_same(&named, &lease)) {
                self.refuse_strangers(&lease);
                return Lease { _file: lease };
            }
        }
    }

    /// The lease's file, not locked. A lock belongs to the opening, not to the process.
    pub(crate) fn open_lease(&self) -> std::io::Result<File> {
        File::options().read(true).write(true).open(self.path.join("lease"))
    }

    /// One of the home's other locks.
    pub(crate) fn open_lock(&self, name: &str) -> File {
        File::options().create(true).truncate(false).write(true).open(self.path.join(name)).unwrap()
    }

    /// Makes the home, complete, in one step: it is renamed into place, which fails where one with a lease is already.
    fn create(&self) {
        let draft = self.path.with_added_extension(format!("{:016x}", random()));
        DirBuilder::new().mode(0o700).create(&draft).unwrap();
        File::create(draft.join("lease")).unwrap();
        self.account.give(&draft);
        if fs::rename(&draft, &self.path).is_err() {
            fs::remove_dir_all(&draft).unwrap();
        }
    }

    /// The folder's name can be guessed, and anybody may write into the system's directory for temporary files.
    fn refuse_strangers(&self, lease: &File) {
        let ours = rustix::process::geteuid().as_raw();
        let home = fs::symlink_metadata(&self.path).unwrap();
        assert!(
            home.is_dir() && home.uid() == self.account.uid() && lease.metadata().unwrap().uid() == ours,
            "{} is somebody else's",
            self.path.display()
        );
    }
}

fn is_same(named: &fs::Metadata, opened: &File) -> bool {
    let opened = opened.metadata().unwrap();
    (named.dev(), named.ino()) == (opened.dev(), opened.ino())
}

/// A number that other processes and threads do not draw.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
