//! SQLite's own file layer, with notes taken of what changes a file.
//!
//! SQLite finds its file layer in a table of functions (`sqlite3_vfs`), and each open file has one too
//! (`sqlite3_io_methods`). The layer made here is the system's with two functions replaced, so that every file it opens
//! gets the system's table with four replaced: those that write, cut, sync and close. The replaced ones call the
//! originals. Behind the system's part of a file, which SQLite allocates with the size that the layer asks for, lies ours.
//! Everything else, locks and shared memory above all, is untouched.

#![expect(unsafe_code, reason = "SQLite calls its file layer through pointers")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::Path,
    ptr, slice,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
};

use rusqlite::ffi::{
    SQLITE_ERROR, SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_WRITE, SQLITE_OK, sqlite3_file,
    sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find, sqlite3_vfs_register,
};

use crate::{Recorder, recorder_of, tape::Change};

/// The layer that was there before: set once, before ours is registered.
static SYSTEM: AtomicPtr<sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

/// What lies behind the system's part of a file that is recorded.
struct Note {
    system: &'static sqlite3_io_methods,
    recorder: Arc<Recorder>,
    name: String,
}

/// Makes this the layer of every connection that is opened from now on.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a null pointer asks for the default layer.
        let system = unsafe { sqlite3_vfs_find(ptr::null()) };
        assert!(!system.is_null(), "SQLite has a file layer");
        SYSTEM.store(system, Ordering::Release);
        // SAFETY: it is not null, and layers that are registered stay.
        let mut ours = unsafe { *system };
        ours.szOsFile = c_int::try_from(note_offset() + size_of::<*mut Note>()).expect("a small number");
        ours.zName = c"neo-events-test-disk".as_ptr();
        ours.pNext = ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(remove);
        // SAFETY: what is leaked stays, as registering demands.
        let registered = unsafe { sqlite3_vfs_register(Box::leak(Box::new(ours)), 1) };
        assert_eq!(registered, SQLITE_OK, "the layer can be registered");
    });
}

fn system() -> &'static sqlite3_vfs {
    // SAFETY: it was set before anything here could be called, is not null, and layers that are registered stay.
    unsafe { &*SYSTEM.load(Ordering::Acquire) }
}

/// Where in a file our part begins: the system's is rounded up to what a pointer needs.
fn note_offset() -> usize {
    usize::try_from(system().szOsFile).expect("a size").next_multiple_of(align_of::<*mut Note>())
}

/// # Safety
/// The file is one that this layer was asked to open.
unsafe fn slot(file: *mut sqlite3_file) -> *mut *mut Note {
    // SAFETY: SQLite allocated `szOsFile` bytes for it, of which the last are ours, and aligned them for pointers.
    unsafe { file.byte_add(note_offset()) }.cast()
}

/// # Safety
/// The file has one of our tables, so `open` has set its slot, and `close` has not been called.
unsafe fn note_of<'a>(file: *mut sqlite3_file) -> &'a Note {
    // SAFETY: as above.
    let slot = unsafe { slot(file) };
    // SAFETY: it was written by `open`.
    let note = unsafe { *slot };
    // SAFETY: it came from a box that only `close` takes back.
    unsafe { &*note }
}

fn named(path: *const c_char) -> Option<(Arc<Recorder>, String)> {
    if path.is_null() {
        return None;
    }
    // SAFETY: SQLite passes a string that ends with a zero and outlives the call.
    let path = unsafe { CStr::from_ptr(path) };
    recorder_of(Path::new(path.to_str().ok()?))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let Some(open) = system().xOpen else { return SQLITE_ERROR };
    let named = named(path);
    let is_new = named.as_ref().is_some_and(|(recorder, name)| !recorder.is_there(name));
    // SAFETY: the arguments are SQLite's own, and our file is larger than what the system's layer asked for.
    let opened = unsafe { open(SYSTEM.load(Ordering::Acquire), path, file, flags, flags_out) };
    let Some((recorder, name)) = named.filter(|_| opened == SQLITE_OK) else { return opened };
    if is_new {
        recorder.note(&name, || Some(Change::Made));
    }
    // SAFETY: the file was opened, so it has a table.
    let methods = unsafe { (*file).pMethods };
    // SAFETY: the system's tables are constants.
    let system = unsafe { &*methods };
    // SAFETY: SQLite asked this layer to open the file.
    let slot = unsafe { slot(file) };
    // SAFETY: the place is ours.
    unsafe { slot.write(Box::into_raw(Box::new(Note { system, recorder, name }))) };
    // SAFETY: the file is SQLite's, and nobody else knows it yet.
    unsafe { (*file).pMethods = noting(system) };
    opened
}

/// A table like the system's whose functions take notes.
fn noting(system: &'static sqlite3_io_methods) -> &'static sqlite3_io_methods {
    static TABLES: Mutex<Vec<(&sqlite3_io_methods, &sqlite3_io_methods)>> = Mutex::new(Vec::new());
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, ours)) = tables.iter().find(|(known, _)| ptr::eq(*known, system)) {
        return ours;
    }
    let mut ours = *system;
    ours.xWrite = Some(write);
    ours.xTruncate = Some(truncate);
    ours.xSync = Some(sync);
    ours.xClose = Some(close);
    let ours: &'static _ = Box::leak(Box::new(ours));
    tables.push((system, ours));
    ours
}

/// Does it, and notes it if it was done.
fn noted(note: &Note, change: impl FnOnce() -> Change, act: impl FnOnce() -> c_int) -> c_int {
    let mut result = SQLITE_ERROR;
    note.recorder.note(&note.name, || {
        result = act();
        (result == SQLITE_OK).then(change)
    });
    result
}

fn size(number: impl TryInto<usize>) -> usize {
    number.try_into().ok().expect("SQLite counts from zero")
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    length: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: it has our table, or this would not be called.
    let note = unsafe { note_of(file) };
    let Some(write) = note.system.xWrite else { return SQLITE_ERROR };
    // A device that fails has taken a part.
    let fails = note.recorder.fails_to_write();
    let length = if fails { length / 2 } else { length };
    // SAFETY: SQLite passes so many bytes, or more.
    let bytes = unsafe { slice::from_raw_parts(data.cast::<u8>(), size(length)) };
    let change = || Change::Written { at: size(at), bytes: bytes.to_vec() };
    // SAFETY: the arguments are SQLite's own, but for the length, which is no greater.
    let written = noted(note, change, || unsafe { write(file, data, length, at) });
    if fails { SQLITE_IOERR_WRITE } else { written }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: sqlite3_int64) -> c_int {
    // SAFETY: it has our table, or this would not be called.
    let note = unsafe { note_of(file) };
    let Some(truncate) = note.system.xTruncate else { return SQLITE_ERROR };
    if note.recorder.fails_to_write() {
        return SQLITE_IOERR_TRUNCATE;
    }
    // SAFETY: the arguments are SQLite's own.
    noted(note, || Change::Cut { length: size(length) }, || unsafe { truncate(file, length) })
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: it has our table, or this would not be called.
    let note = unsafe { note_of(file) };
    let Some(sync) = note.system.xSync else { return SQLITE_ERROR };
    if note.recorder.fails_to_sync(&note.name) {
        note.recorder.note(&note.name, || Some(Change::SyncFailed));
        return SQLITE_IOERR_FSYNC;
    }
    // SAFETY: the arguments are SQLite's own.
    noted(note, || Change::Synced, || unsafe { sync(file, flags) })
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: it has our table, or this would not be called.
    let slot = unsafe { slot(file) };
    // SAFETY: it was written by `open`.
    let note = unsafe { *slot };
    // SAFETY: it came from a box, and SQLite closes a file once.
    let note = unsafe { Box::from_raw(note) };
    let Some(close) = note.system.xClose else { return SQLITE_ERROR };
    // SAFETY: the argument is SQLite's own; the system's layer looks at its own part alone.
    unsafe { close(file) }
}

unsafe extern "C" fn remove(_: *mut sqlite3_vfs, path: *const c_char, sync_folder: c_int) -> c_int {
    let Some(remove) = system().xDelete else { return SQLITE_ERROR };
    // SAFETY: the arguments are SQLite's own.
    let act = || unsafe { remove(SYSTEM.load(Ordering::Acquire), path, sync_folder) };
    let Some((recorder, name)) = named(path) else { return act() };
    let mut result = SQLITE_ERROR;
    recorder.note(&name, || {
        result = act();
        (result == SQLITE_OK).then_some(Change::Removed { is_synced: sync_folder != 0 })
    });
    result
}
