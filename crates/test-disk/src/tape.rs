//! What happened to files, and what a disk may hold of it.

use std::{collections::BTreeMap, fs, ops::Range, path::Path};

use crate::Random;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// Something that was done to a file.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// There was none of this name.
    Made,
    Written {
        at: usize,
        bytes: Vec<u8>,
    },
    Cut {
        length: usize,
    },
    Synced,
    /// The system said that it could not.
    SyncFailed,
    Removed {
        is_synced: bool,
    },
}

/// To which one.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    pub(crate) name: String,
    pub(crate) change: Change,
}

/// Everything that happened, in order.
pub struct Tape(Vec<Happened>);

impl Tape {
    pub(crate) fn of(all: Vec<Happened>) -> Self {
        Self(all)
    }

    /// How many moments there are: one before everything, and one after each thing that happened.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The moments at which something was made durable, or about to be: those worth looking at first.
    pub fn syncs(&self) -> Vec<usize> {
        let is_sync = |happened: &Happened| {
            matches!(happened.change, Change::Synced | Change::SyncFailed | Change::Removed { .. })
        };
        self.0.iter().enumerate().filter(|(_, happened)| is_sync(happened)).map(|(at, _)| at).collect()
    }

    /// The disk at a moment.
    pub fn disk_at(&self, moment: usize) -> Disk<'_> {
        let mut disk = Disk { tape: self, moment: 0, files: BTreeMap::new() };
        disk.advance_to(moment);
        disk
    }
}

/// The files of a disk: what is safe of each, and what has been done to it since.
pub struct Disk<'a> {
    tape: &'a Tape,
    moment: usize,
    files: BTreeMap<&'a str, File<'a>>,
}

#[derive(Default)]
struct File<'a> {
    /// `None`: there is no such file.
    safe: Option<Vec<u8>>,
    unsafe_yet: Vec<Unsafe<'a>>,
    /// Changes that were forgotten and have left `unsafe_yet`.
    forgotten: usize,
}

/// A change that a power loss may undo.
struct Unsafe<'a> {
    change: &'a Change,
    /// A sync after it failed: the system takes it for written, and no later sync tries again.
    is_forgotten: bool,
}

impl Disk<'_> {
    /// Goes on to a later moment.
    pub fn advance_to(&mut self, moment: usize) {
        for Happened { name, change } in &self.tape.0[self.moment..moment] {
            let file = self.files.entry(name).or_default();
            match change {
                Change::Synced => {
                    let is_new = file.unsafe_yet.iter().any(|one| matches!(one.change, Change::Made));
                    file.secure(file.unsafe_yet.len());
                    if is_new {
                        self.sync_folder_of(name);
                    }
                    continue;
                }
                Change::SyncFailed => {
                    file.unsafe_yet.iter_mut().for_each(|one| one.is_forgotten = true);
                    continue;
                }
                _ => file.unsafe_yet.push(Unsafe { change, is_forgotten: false }),
            }
            if matches!(change, Change::Removed { is_synced: true }) {
                self.sync_folder_of(name);
            }
        }
        self.moment = moment;
    }

    /// Makes durable which files there are beside this one, whatever is in them.
    fn sync_folder_of(&mut self, name: &str) {
        let folder = Path::new(name).parent();
        let beside = self.files.iter_mut().filter(|(other, _)| Path::new(other).parent() == folder);
        for (_, file) in beside {
            let is_of_name = |one: &Unsafe<'_>| matches!(one.change, Change::Made | Change::Removed { .. });
            if let Some(last) = file.unsafe_yet.iter().rposition(is_of_name) {
                file.secure(last + 1);
            }
        }
    }

    /// One of the states in which a power loss at this moment may leave it.
    pub fn after_power_loss(&self, random: &mut Random) -> Image {
        let loss = match random.below(4) {
            0 => Loss::All,
            1 => Loss::Nothing,
            2 => Loss::Writes,
            _ => Loss::Sectors,
        };
        let left = |(name, file): (&&str, &File<'_>)| Some(((*name).to_owned(), file.after(loss, random)?));
        Image(self.files.iter().filter_map(left).collect())
    }
}

/// What is lost of that which was not synced.
#[derive(Debug, Clone, Copy)]
enum Loss {
    All,
    Nothing,
    Writes,
    Sectors,
}

impl File<'_> {
    /// Makes the first of the changes durable. Of those that were forgotten every other one has reached the disk by itself,
    /// and the others never do.
    fn secure(&mut self, count: usize) {
        for Unsafe { change, is_forgotten } in self.unsafe_yet.drain(..count) {
            if is_forgotten && matches!(change, Change::Written { .. } | Change::Cut { .. }) {
                self.forgotten += 1;
                if self.forgotten.is_multiple_of(2) {
                    continue;
                }
            }
            apply(&mut self.safe, change);
        }
    }

    fn after(&self, loss: Loss, random: &mut Random) -> Option<Vec<u8>> {
        let mut content = self.safe.clone();
        // Names are kept in order: what came after one that is lost was done to a file that nobody finds.
        let until = match loss {
            Loss::All => 0,
            Loss::Nothing => self.unsafe_yet.len(),
            Loss::Writes | Loss::Sectors => random.below(self.unsafe_yet.len() + 1),
        };
        for Unsafe { change, .. } in &self.unsafe_yet[..until] {
            match (loss, change) {
                (Loss::Writes, Change::Written { .. }) if random.once_in(2) => {}
                (Loss::Sectors, Change::Written { at, bytes }) => {
                    for part in sectors(*at, bytes.len()).filter(|_| !random.once_in(4)) {
                        write(&mut content, *at + part.start, &bytes[part]);
                    }
                }
                _ => apply(&mut content, change),
            }
        }
        content
    }
}

/// The parts of a write that fall into different sectors.
fn sectors(at: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let end = length.min(start + SECTOR_BYTES - (at + start) % SECTOR_BYTES);
        let part = start..end;
        start = end;
        (!part.is_empty()).then_some(part)
    })
}

fn apply(content: &mut Option<Vec<u8>>, change: &Change) {
    match change {
        Change::Made => drop(content.get_or_insert_default()),
        Change::Written { at, bytes } => write(content, *at, bytes),
        Change::Cut { length } => content.get_or_insert_default().resize(*length, 0),
        Change::Synced | Change::SyncFailed => {}
        Change::Removed { .. } => *content = None,
    }
}

fn write(content: &mut Option<Vec<u8>>, at: usize, bytes: &[u8]) {
    let content = content.get_or_insert_default();
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

/// A state of a disk.
pub struct Image(BTreeMap<String, Vec<u8>>);

impl Image {
    /// Makes its files in a folder.
    pub fn write_to(&self, folder: &Path) {
        for (name, content) in &self.0 {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder can be made");
            fs::write(path, content).expect("a file can be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tape(changes: Vec<Change>) -> Tape {
        Tape(changes.into_iter().map(|change| Happened { name: "f".into(), change }).collect())
    }

    fn written(at: usize, bytes: &[u8]) -> Change {
        Change::Written { at, bytes: bytes.to_vec() }
    }

    /// What a file may hold at a moment.
    fn possible(tape: &Tape, moment: usize) -> Vec<Option<Vec<u8>>> {
        let (disk, mut random) = (tape.disk_at(moment), Random::seeded(7));
        let mut states: Vec<_> =
            (0..2000).map(|_| disk.after_power_loss(&mut random).0.remove("f")).collect();
        states.sort();
        states.dedup();
        states
    }

    #[test]
    fn what_was_synced_stays_and_of_the_rest_any_part_may_be_lost() {
        let tape =
            tape(vec![Change::Made, written(0, b"aa"), Change::Synced, written(0, b"b"), written(1, b"c")]);
        assert_eq!(possible(&tape, 0), [None]);
        assert_eq!(possible(&tape, 2), [None, Some(b"".to_vec()), Some(b"aa".to_vec())]);
        assert_eq!(possible(&tape, 3), [Some(b"aa".to_vec())]);
        let any = [b"aa", b"ac", b"ba", b"bc"].map(|content| Some(content.to_vec()));
        assert_eq!(possible(&tape, 5), any);
    }

    #[test]
    fn what_a_failed_sync_left_is_not_made_durable_by_the_next() {
        let tape = tape(vec![
            Change::Made,
            Change::Synced,
            written(0, b"aa"),
            written(2, b"bb"),
            Change::SyncFailed,
            written(4, b"c"),
            Change::Synced,
        ]);
        assert!(possible(&tape, 6).len() > 4, "any of the three may be there");
        assert_eq!(possible(&tape, 7), [Some(b"aa\0\0c".to_vec())]);
    }

    #[test]
    fn writes_are_torn_at_sectors() {
        let tape = tape(vec![Change::Made, Change::Synced, written(500, &[1; 600])]);
        let parts: Vec<_> = sectors(500, 600).collect();
        assert_eq!(parts, [0..12, 12..524, 524..600]);
        // Nothing, and each of seven choices of three parts.
        assert_eq!(possible(&tape, 3).len(), 8);
    }

    #[test]
    fn a_file_that_was_removed_may_come_back_until_that_is_synced() {
        let all = [Change::Made, written(0, b"a"), Change::Synced];
        let removed = |is_synced| tape([&all[..], &[Change::Removed { is_synced }]].concat());
        assert_eq!(possible(&removed(false), 4), [None, Some(b"a".to_vec())]);
        assert_eq!(possible(&removed(true), 4), [None]);

        let mut by_another = removed(false);
        for change in [Change::Made, Change::Synced] {
            by_another.0.push(Happened { name: "g".into(), change });
        }
        assert_eq!(possible(&by_another, 5), [None, Some(b"a".to_vec())]);
        assert_eq!(possible(&by_another, 6), [None], "a new file is synced together with its folder");
        for happened in by_another.0.iter_mut().filter(|happened| happened.name == "g") {
            happened.name = "elsewhere/g".into();
        }
        assert_eq!(possible(&by_another, 6), [None, Some(b"a".to_vec())], "with its own");
    }
}
