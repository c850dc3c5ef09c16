#![doc = include_str!("../README.md")]

mod random;
mod tape;
mod vfs;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

pub use random::Random;
use tape::{Change, Happened};
pub use tape::{Disk, Image, Tape};

/// What the disk does when it is asked to make durable what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honesty {
    /// It does.
    Honest,
    /// It says so, and does nothing for the write-ahead log.
    IgnoresSyncsOfLogs,
    /// It says so, and does nothing.
    IgnoresSyncs,
}

/// What a device refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// To make durable what was written: it does nothing, and what it should have made durable is not tried again by the
    /// next sync, which is how operating systems behave.
    Syncs,
    /// The same, but for write-ahead logs.
    SyncsOfDatabases,
    /// Syncs, writes, of which the first half is done, and cuts.
    Anything,
}

/// Notes what SQLite does to the files in a folder, until it is dropped.
pub struct Recording(Arc<Recorder>);

impl Recording {
    /// Begins. Connections opened from now on are noted, whoever in this process opens them; the folder is empty, or
    /// what is in it is not looked at.
    pub fn of(folder: &Path, honesty: Honesty) -> Self {
        vfs::install();
        let folder = folder.canonicalize().expect("the folder is there");
        let recorder = Arc::new(Recorder {
            folder,
            honesty,
            tape: Mutex::default(),
            length: AtomicUsize::new(0),
            failures: Mutex::default(),
        });
        recorders().push(Arc::clone(&recorder));
        Self(recorder)
    }

    /// The moment after everything that happened so far. What a program was told by now must survive from here on. It does
    /// not wait for what is being done to a file just now: whoever asks was told before that is over.
    pub fn position(&self) -> usize {
        self.0.length.load(Ordering::Acquire)
    }

    /// From now on one in so many fails.
    pub fn fail(&self, failing: Failing, one_in: usize, seed: u64) {
        *self.0.failures() = Some(Failures { failing, one_in, random: Random::seeded(seed) });
    }

    /// How many syncs of a file have failed.
    pub fn syncs_failed(&self, name: &str) -> usize {
        let is_failure =
            |happened: &&Happened| happened.name == name && matches!(happened.change, Change::SyncFailed);
        self.0.tape().iter().filter(is_failure).count()
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        *self.0.failures() = None;
    }

    /// Everything that happened.
    pub fn tape(&self) -> Tape {
        Tape::of(self.0.tape().clone())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        recorders().retain(|recorder| !Arc::ptr_eq(recorder, &self.0));
    }
}

/// A program has written a file once more as it is, from its beginning to its end, and synced it, all beside SQLite.
/// Nobody changes it yet. Noted if the file is in a folder that a recording is of.
pub fn written_again(path: &Path) {
    let place = path.canonicalize().expect("the file is there");
    if let Some((recorder, name)) = recorder_of(&place) {
        let bytes = std::fs::read(place).expect("the file can be read");
        recorder.note(&name, || Some(Change::Written { at: 0, bytes }));
        recorder.note(&name, || Some(Change::Synced));
    }
}

/// Takes the notes.
pub(crate) struct Recorder {
    folder: PathBuf,
    honesty: Honesty,
    tape: Mutex<Vec<Happened>>,
    /// Of the tape.
    length: AtomicUsize,
    failures: Mutex<Option<Failures>>,
}

fn is_log(name: &str) -> bool {
    name.ends_with("-wal")
}

/// When the device fails.
struct Failures {
    failing: Failing,
    one_in: usize,
    random: Random,
}

impl Recorder {
    /// Runs what is done to a file, and notes it if it was done. One at a time, so that the notes are in order.
    pub(crate) fn note(&self, name: &str, act: impl FnOnce() -> Option<Change>) {
        let mut tape = self.tape();
        let Some(change) = act() else { return };
        let is_ignored = match self.honesty {
            Honesty::Honest => false,
            Honesty::IgnoresSyncsOfLogs => is_log(name),
            Honesty::IgnoresSyncs => true,
        };
        if !(is_ignored && matches!(change, Change::Synced)) {
            tape.push(Happened { name: name.to_owned(), change });
            self.length.store(tape.len(), Ordering::Release);
        }
    }

    /// Whether the device fails to sync a file this time.
    pub(crate) fn fails_to_sync(&self, name: &str) -> bool {
        self.fails(|failing| match failing {
            Failing::Syncs | Failing::Anything => true,
            Failing::SyncsOfDatabases => !is_log(name),
        })
    }

    /// Whether it fails to write or to cut one.
    pub(crate) fn fails_to_write(&self) -> bool {
        self.fails(|failing| failing == Failing::Anything)
    }

    fn fails(&self, at: impl FnOnce(Failing) -> bool) -> bool {
        self.failures()
            .as_mut()
            .is_some_and(|failures| at(failures.failing) && failures.random.once_in(failures.one_in))
    }

    fn failures(&self) -> MutexGuard<'_, Option<Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_there(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }

    fn tape(&self) -> MutexGuard<'_, Vec<Happened>> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those at work. SQLite's file layer belongs to the process: it must be asked which test a file is of.
static RECORDERS: Mutex<Vec<Arc<Recorder>>> = Mutex::new(Vec::new());

fn recorders() -> MutexGuard<'static, Vec<Arc<Recorder>>> {
    RECORDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who notes what happens to a file, and what the file is called there.
pub(crate) fn recorder_of(path: &Path) -> Option<(Arc<Recorder>, String)> {
    recorders().iter().find_map(|recorder| {
        let name = path.strip_prefix(&recorder.folder).ok()?.to_str()?;
        Some((Arc::clone(recorder), name.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_again_is_durable_though_a_sync_had_failed() {
        let folder = tempfile::tempdir().expect("a folder");
        let recording = Recording::of(folder.path(), Honesty::Honest);
        let path = folder.path().join("a");
        std::fs::write(&path, b"abc").expect("it can be written");
        for change in [Change::Made, Change::Written { at: 0, bytes: b"abc".to_vec() }, Change::SyncFailed] {
            recording.0.note("a", || Some(change));
        }
        written_again(&path);
        let (tape, mut random) = (recording.tape(), Random::seeded(1));
        for _ in 0..100 {
            let disk = tempfile::tempdir().expect("a folder");
            tape.disk_at(tape.len()).after_power_loss(&mut random).write_to(disk.path());
            assert_eq!(std::fs::read(disk.path().join("a")).expect("it is there"), b"abc");
        }
    }

    #[test]
    fn what_is_being_done_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let recording = Recording::of(folder.path(), Honesty::Honest);
        let mut meanwhile = None;
        recording.0.note("a.db", || {
            meanwhile = Some(recording.position());
            Some(Change::Synced)
        });
        assert_eq!((meanwhile, recording.position()), (Some(0), 1));
    }
}
