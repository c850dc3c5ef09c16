//! The files of the tenants: `PATH.d/<schema>.db` beside the admin file `PATH`.
//!
//! A thousand tenants of which ten are busy must cost what ten cost. A file is therefore opened by the first call that
//! needs it and closed again once nobody has used it for a while and nothing in it is left to do, or not for long: an
//! idle tenant has neither thread nor connection, and no pass looks at it.
//!
//! What a tenant was owed when the process ended is found without anybody asking: after a start every file is visited
//! once, a few at a time, behind the calls of the passes. A visit opens the file, and closes it again unless there is
//! something to do. So is the file of a tenant for which the embedding program writes while it is closed, and one in
//! which a retry is due.
//!
//! Whether a file is still to be visited is said in one place, the list of visits, which one lock guards together with
//! the open files. A visit is taken off before the file is looked at, so that whoever writes from then on lists
//! another.
//!
//! Opening and closing block, and happen under the tenant's gate in threads that may: two first uses open once, and who
//! comes while a file is being closed waits until it can be opened again.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use neo_events_domain::{SignedDuration, Timestamp, retry::DUE_AHEAD_MAX, tenant::Schema, time::later};
use neo_events_store::StoreError;
use tokio::task::JoinSet;

use crate::{
    failure::{Failure, again},
    open::{OpenError, SqliteOptions, sync_directory},
    readers::ended,
    tenant_file::TenantFile,
};

/// Files that are visited at a time.
const VISITS_PER_ROUND_MAX: usize = 16;
/// Files that are closed at a time.
const CLOSINGS_PER_ROUND_MAX: usize = 64;
/// After how long a file is visited again that could not be opened: where that may pass by itself, and where somebody
/// must mend it.
const VISIT_AGAIN_SOON: Duration = Duration::from_secs(1);
const VISIT_AGAIN_LATE: Duration = Duration::from_mins(1);
/// How often it is looked whether a visit has come or a file is idle.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long before something is due its file is opened, so that the attempt begins when it is.
const OPENED_AHEAD: Duration = Duration::from_secs(2);
/// A file is closed though something will be due in it if that is so many times as far away as it has been idle.
const CLOSED_FOR_TIMES: u32 = 4;
/// A tenant's page cache, of the admin file's.
const CACHE_SHARE: u32 = 8;

/// The tenants of the list but `admin`, and which of their files are open.
pub(crate) struct TenantFiles {
    /// The admin file's; each tenant has its own path.
    options: SqliteOptions,
    directory: PathBuf,
    state: Mutex<State>,
    /// Held by the round of visits and closings that is under way.
    round: Mutex<()>,
    is_round_due: AtomicBool,
    /// When it was last asked whether a round is due that nobody asked for.
    looked_at: Mutex<Instant>,
}

#[derive(Default)]
struct State {
    listed: HashMap<Schema, Arc<Tenant>>,
    /// Those that are being made.
    unlisted: HashMap<Schema, Arc<Tenant>>,
    open: BTreeMap<Schema, Arc<TenantFile>>,
    visits: HashMap<Schema, VisitAt>,
    is_closed: bool,
}

/// When a file is to be visited, in the order in which those are that are due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum VisitAt {
    /// Something was written there.
    Now,
    /// Not before then.
    From(Instant),
    /// Something is due then, by the clock of the callers.
    Due(Timestamp),
}

impl VisitAt {
    fn has_come(self, now: Timestamp) -> bool {
        match self {
            Self::Now => true,
            Self::From(at) => at <= Instant::now(),
            Self::Due(at) => at <= now,
        }
    }
}

#[derive(Default)]
struct Tenant {
    /// Held while the file is made, opened or closed.
    gate: Mutex<()>,
    /// Made since the start, and nothing is owed in it: it need be neither made again nor visited.
    is_made: AtomicBool,
    /// Held while a caller has the file opened; what came of it last, if that was in vain.
    opening: Arc<tokio::sync::Mutex<Option<Failed>>>,
}

/// That a file could not be opened.
struct Failed {
    at: Instant,
    error: StoreError,
}

impl TenantFiles {
    pub(crate) fn new(admin: &Path, options: SqliteOptions, listed: Vec<Schema>) -> Self {
        let now = Instant::now();
        let state = State {
            visits: listed.iter().map(|schema| (schema.clone(), VisitAt::From(now))).collect(),
            listed: listed.into_iter().map(|schema| (schema, Arc::default())).collect(),
            ..State::default()
        };
        let cache_kib = options.cache_kib / CACHE_SHARE;
        Self {
            options: SqliteOptions { cache_kib, readers: 1, ..options },
            directory: directory_of(admin),
            state: Mutex::new(state),
            round: Mutex::default(),
            is_round_due: AtomicBool::new(true),
            looked_at: Mutex::new(now),
        }
    }

    pub(crate) fn is_listed(&self, schema: &Schema) -> bool {
        self.lock().listed.contains_key(schema)
    }

    /// The file of a tenant, opened if it is not. However many ask for one that takes long, one of the threads that may
    /// block waits for it: they are all tenants'. Whoever asked while it was opened in vain hears what came of that.
    pub(crate) async fn file(self: &Arc<Self>, schema: &Schema) -> Result<Arc<TenantFile>, StoreError> {
        if let Some(file) = self.lock().used(schema) {
            return Ok(file);
        }
        let asked_at = Instant::now();
        let tenant = self.lock().listed.get(schema).cloned();
        let tenant = tenant.ok_or_else(|| Failure::Schema(schema.clone()))?;
        let mut turn = Arc::clone(&tenant.opening).lock_owned().await;
        if let Some(failed) = turn.as_ref().filter(|failed| failed.at >= asked_at) {
            return Err(again(&failed.error));
        }
        let (files, schema) = (Arc::clone(self), schema.clone());
        // The turn is the thread's: whoever gives up waiting leaves it there.
        let opening = tokio::task::spawn_blocking(move || {
            let opened = files.open(&schema).map_err(StoreError::from);
            *turn = opened.as_ref().err().map(|error| Failed { at: Instant::now(), error: again(error) });
            opened
        });
        opening.await.map_err(|error| ended(&error))?
    }

    /// Every open file, in the order of their names.
    pub(crate) fn open_files(&self) -> Vec<Arc<TenantFile>> {
        self.lock().open.values().cloned().collect()
    }

    fn open(&self, schema: &Schema) -> Result<Arc<TenantFile>, Failure> {
        let tenant = self.lock().listed.get(schema).cloned();
        let tenant = tenant.ok_or_else(|| Failure::Schema(schema.clone()))?;
        let _gate = wait_for(&tenant.gate);
        if let Some(file) = self.lock().used(schema) {
            return Ok(file);
        }
        let file = Arc::new(self.open_file(schema)?);
        self.admit(&file)?;
        Ok(file)
    }

    /// Opens what is there. A file that is gone, or empty, is not made again: that would only hide the loss.
    fn open_file(&self, schema: &Schema) -> Result<TenantFile, Failure> {
        if self.lock().is_closed {
            return Err(Failure::Closed);
        }
        let options = self.options_of(schema);
        match options.path.metadata() {
            Err(source) => Err(OpenError::Io { path: options.path, source }.into()),
            Ok(there) if there.len() == 0 => Err(OpenError::Empty { path: options.path }.into()),
            Ok(_) => Ok(TenantFile::open(schema.clone(), options)?),
        }
    }

    fn admit(&self, file: &Arc<TenantFile>) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Failure::Closed);
        }
        // The passes look at it from now on, and before it is closed everything in it is looked at once more.
        state.visits.remove(&file.schema);
        state.open.insert(file.schema.clone(), Arc::clone(file));
        Ok(())
    }

    // The caller's own transactions

    /// Whether a path leads to the tenant's file; it need not be open.
    pub(crate) fn is_at(&self, schema: &Schema, path: &Path) -> Result<bool, Failure> {
        if !self.is_listed(schema) {
            return Err(Failure::Schema(schema.clone()));
        }
        let own = self.path_of(schema);
        Ok(path == own
            || path.canonicalize().is_ok_and(|path| own.canonicalize().is_ok_and(|own| own == path)))
    }

    /// Somebody else's transaction writes to the file: keeps it open, or has it opened once that transaction is over,
    /// which until then locks it.
    pub(crate) fn expect_foreign_write(&self, schema: &Schema) {
        let mut state = self.lock();
        if state.used(schema).is_some() || !state.listed.contains_key(schema) {
            return;
        }
        // Where a visit failed a moment ago, the next one waits all the same.
        let visit = state.visits.entry(schema.clone()).or_insert(VisitAt::Now);
        if matches!(visit, VisitAt::Due(_)) {
            *visit = VisitAt::Now;
        }
        self.is_round_due.store(true, Ordering::Relaxed);
    }

    // Making tenants

    /// Makes the file of a tenant that is not listed yet, durably. One that an attempt left which did not get as far as
    /// the list is taken over.
    pub(crate) async fn make(self: &Arc<Self>, schema: &Schema) -> Result<(), StoreError> {
        let (files, schema) = (Arc::clone(self), schema.clone());
        let making = tokio::task::spawn_blocking(move || files.make_file(&schema));
        making.await.map_err(|error| ended(&error))?
    }

    fn make_file(&self, schema: &Schema) -> Result<(), StoreError> {
        let tenant = Arc::clone(self.lock().unlisted.entry(schema.clone()).or_default());
        let _gate = wait_for(&tenant.gate);
        if self.is_listed(schema) || tenant.is_made.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.lock().is_closed {
            return Err(Failure::Closed.into());
        }
        let made = TenantFile::open(schema.clone(), self.options_of(schema)).map_err(Failure::from)?;
        let owes = made.next_work(Timestamp::UNIX_EPOCH)?.is_some();
        drop(made);
        sync_directories(&self.directory)
            .map_err(|source| Failure::from(OpenError::Io { path: self.directory.clone(), source }))?;
        tenant.is_made.store(!owes, Ordering::Relaxed);
        Ok(())
    }

    /// The tenant, whose file was made, is in the list.
    pub(crate) fn add(&self, schema: &Schema) {
        let mut state = self.lock();
        let tenant = state.unlisted.remove(schema).unwrap_or_default();
        if !tenant.is_made.load(Ordering::Relaxed) {
            state.visits.insert(schema.clone(), VisitAt::Now);
            self.is_round_due.store(true, Ordering::Relaxed);
        }
        state.listed.entry(schema.clone()).or_insert(tenant);
    }

    // Visits and closings

    /// Visits some files that were not seen since the start, and closes some that nobody uses, behind the caller.
    pub(crate) fn keep_up(self: &Arc<Self>, now: Timestamp) {
        if self.is_round_due.swap(false, Ordering::Relaxed) || self.has_something_come(now) {
            let files = Arc::clone(self);
            // Whoever closes the store waits for it.
            drop(tokio::task::spawn_blocking(move || files.round(now)));
        }
    }

    /// Whether there is a file to be visited or closed. Callers come often, and this looks at each of them.
    fn has_something_come(&self, now: Timestamp) -> bool {
        let mut looked_at = wait_for(&self.looked_at);
        if looked_at.elapsed() < LOOK_INTERVAL {
            return false;
        }
        *looked_at = Instant::now();
        let state = self.lock();
        state.has_idle(self.options.tenant_idle) || state.visits.values().any(|visit| visit.has_come(now))
    }

    fn round(&self, now: Timestamp) {
        let _round = match self.round.try_lock() {
            Ok(round) => round,
            // Of a round that panicked nothing is left half done: each tenant has a gate of its own.
            Err(TryLockError::Poisoned(round)) => round.into_inner(),
            Err(TryLockError::WouldBlock) => return self.is_round_due.store(true, Ordering::Relaxed),
        };
        let visits = self.lock().due_visits(now);
        for schema in visits {
            self.visit(&schema, now);
        }
        let idle = self.lock().idle(self.options.tenant_idle);
        for schema in idle {
            self.close_idle(&schema, now);
        }
        let has_visits = self.lock().visits.values().any(|visit| visit.has_come(now));
        self.is_round_due.fetch_or(has_visits, Ordering::Relaxed);
    }

    fn visit(&self, schema: &Schema, now: Timestamp) {
        let Some(tenant) = self.lock().listed.get(schema).cloned() else { return };
        let _gate = wait_for(&tenant.gate);
        if self.lock().open.contains_key(schema) {
            return;
        }
        let visited = catch_unwind(AssertUnwindSafe(|| {
            let file = self.open_file(schema)?;
            match file.next_work(now)? {
                None => Ok(()),
                Some(at) if self.is_far(at, now) => {
                    self.visit_when_due(schema, at);
                    Ok(())
                }
                Some(_) => Ok(self.admit(&Arc::new(file))?),
            }
        }));
        // Also after a panic: nobody but this visit knew that the file is to be looked at.
        if let Err(error) = visited.unwrap_or_else(|_| Err(Failure::Panicked.into())) {
            self.visit_again(schema, &error);
        }
    }

    /// Whether a file may be closed until something is due in it. What waits for longer than anything should was put off by
    /// a clock that ran ahead, and is brought back in files that are open.
    fn is_far(&self, at: Timestamp, now: Timestamp) -> bool {
        let worth_it = SignedDuration::try_from(self.options.tenant_idle.saturating_mul(CLOSED_FOR_TIMES));
        later(now, worth_it.unwrap_or(SignedDuration::MAX)) < at && at <= later(now, DUE_AHEAD_MAX)
    }

    fn visit_when_due(&self, schema: &Schema, at: Timestamp) {
        // Somebody who writes meanwhile wants it sooner.
        self.lock().visits.entry(schema.clone()).or_insert(self.ahead_of(at));
    }

    fn ahead_of(&self, at: Timestamp) -> VisitAt {
        let ahead = OPENED_AHEAD.min(self.options.tenant_idle.saturating_mul(CLOSED_FOR_TIMES));
        VisitAt::Due(at.saturating_sub(ahead).unwrap_or(at))
    }

    fn visit_again(&self, schema: &Schema, error: &StoreError) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        let wait = if error.is_transient() { VISIT_AGAIN_SOON } else { VISIT_AGAIN_LATE };
        state.visits.insert(schema.clone(), VisitAt::From(Instant::now() + wait));
        drop(state);
        tracing::error!(
            %schema,
            error = error as &dyn std::error::Error,
            "a tenant's file could not be opened, its work waits; trying again"
        );
    }

    /// Closes a file unless somebody uses it or there is something to do in it.
    fn close_idle(&self, schema: &Schema, now: Timestamp) {
        let Some(tenant) = self.lock().listed.get(schema).cloned() else { return };
        let _gate = wait_for(&tenant.gate);
        let Some(file) = self.lock().open.get(schema).cloned() else { return };
        let used_at = file.used_at();
        // What cannot be asked is not closed either.
        let next_work = file.next_work(now).unwrap_or(Some(Timestamp::MIN));
        let is_free = !file.is_leased(now) && next_work.is_none_or(|at| self.is_far(at, now));
        let mut state = self.lock();
        // One is here and one in the map. Whoever else has one uses it; others come by the map alone.
        if is_free && file.used_at() == used_at && Arc::strong_count(&file) == 2 && file.is_quiet() {
            state.open.remove(schema);
            state.visits.extend(next_work.map(|at| (schema.clone(), self.ahead_of(at))));
            drop(state);
            drop(file);
        } else {
            drop(state);
            file.touch();
        }
    }

    /// Closes every file, all at once: whoever has locked one keeps the others open no longer. None is opened again.
    pub(crate) async fn close(self: &Arc<Self>) {
        let mut closing = JoinSet::new();
        for file in self.shut() {
            closing.spawn(async move { file.close().await });
        }
        closing.join_all().await;
        let files = Arc::clone(self);
        let _ = tokio::task::spawn_blocking(move || files.wait_for_openings()).await;
    }

    /// The same for the last owner, who may block.
    pub(crate) fn close_blocking(&self) {
        drop(self.shut());
        self.wait_for_openings();
    }

    fn shut(&self) -> Vec<Arc<TenantFile>> {
        let mut state = self.lock();
        state.is_closed = true;
        state.visits.clear();
        std::mem::take(&mut state.open).into_values().collect()
    }

    /// Until nobody is opening or closing a file: whatever is opened from now on is closed at once.
    fn wait_for_openings(&self) {
        drop(wait_for(&self.round));
        let state = self.lock();
        let tenants: Vec<_> = state.listed.values().chain(state.unlisted.values()).cloned().collect();
        drop(state);
        for tenant in tenants {
            drop(wait_for(&tenant.gate));
        }
    }

    fn options_of(&self, schema: &Schema) -> SqliteOptions {
        SqliteOptions { path: self.path_of(schema), ..self.options.clone() }
    }

    fn path_of(&self, schema: &Schema) -> PathBuf {
        self.directory.join(format!("{schema}.db"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        wait_for(&self.state)
    }
}

impl State {
    /// An open file, for somebody who uses it.
    fn used(&self, schema: &Schema) -> Option<Arc<TenantFile>> {
        let file = self.open.get(schema)?;
        file.touch();
        Some(Arc::clone(file))
    }

    /// Takes the visits of one round off the list.
    fn due_visits(&mut self, now: Timestamp) -> Vec<Schema> {
        let visits = self.visits.iter().map(|(schema, at)| (*at, schema));
        let mut due: Vec<_> = visits.filter(|(at, _)| at.has_come(now)).collect();
        due.sort_unstable();
        let taken: Vec<_> =
            due.into_iter().take(VISITS_PER_ROUND_MAX).map(|(_, schema)| schema.clone()).collect();
        for schema in &taken {
            self.visits.remove(schema);
        }
        taken
    }

    fn has_idle(&self, after: Duration) -> bool {
        self.open.values().any(|file| file.used_at().elapsed() >= after)
    }

    fn idle(&self, after: Duration) -> Vec<Schema> {
        let idle = self.open.values().filter(|file| file.used_at().elapsed() >= after);
        idle.take(CLOSINGS_PER_ROUND_MAX).map(|file| file.schema.clone()).collect()
    }
}

/// Where the files of an admin file's tenants are.
pub(crate) fn directory_of(admin: &Path) -> PathBuf {
    let mut directory = admin.as_os_str().to_owned();
    directory.push(".d");
    directory.into()
}

fn wait_for<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SQLite syncs what is in its files; that the file is in its directory, and that in its own, is ours to see to.
fn sync_directories(directory: &Path) -> io::Result<()> {
    sync_directory(directory)?;
    directory.parent().map_or(Ok(()), sync_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of one tenant that owes nothing; idle is whoever is not used at this moment.
    fn of_one_tenant() -> (TenantFiles, Schema, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let admin = directory.path().join("admin.db");
        let options = SqliteOptions { tenant_idle: Duration::ZERO, ..SqliteOptions::new(&admin) };
        let files = TenantFiles::new(&admin, options, Vec::new());
        let schema = Schema::tenant("one").unwrap();
        files.make_file(&schema).unwrap();
        files.add(&schema);
        (files, schema, directory)
    }

    fn visits(files: &TenantFiles) -> Vec<Schema> {
        files.lock().due_visits(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn whoever_writes_while_a_file_is_visited_does_not_keep_later_writes_from_being_seen() {
        let (files, schema, _directory) = of_one_tenant();
        files.expect_foreign_write(&schema);
        assert_eq!(visits(&files), std::slice::from_ref(&schema));
        let visited = Arc::new(files.open_file(&schema).unwrap());
        // As the visit waits for a second writer's transaction, which it will find something of.
        files.expect_foreign_write(&schema);
        files.admit(&visited).unwrap();
        drop(visited);
        // The second writer's visit, and the closing of the file in which nothing is owed any more.
        files.round(Timestamp::UNIX_EPOCH);
        assert!(files.open_files().is_empty());
        files.expect_foreign_write(&schema);
        assert_eq!(visits(&files), [schema]);
    }

    #[test]
    fn whoever_writes_does_not_wait_for_what_is_due_later() {
        let (files, schema, _directory) = of_one_tenant();
        files.lock().visits.insert(schema.clone(), VisitAt::Due(Timestamp::MAX));
        files.is_round_due.store(false, Ordering::Relaxed);
        files.round(Timestamp::UNIX_EPOCH);
        assert!(!files.is_round_due.load(Ordering::Relaxed), "nothing has come");
        assert_eq!(visits(&files), []);
        files.expect_foreign_write(&schema);
        assert_eq!(visits(&files), [schema]);
    }

    #[test]
    fn a_panic_in_a_round_is_not_the_end_of_rounds() {
        let (files, schema, _directory) = of_one_tenant();
        let panicked = std::thread::scope(|scope| {
            let round = || {
                let _round = files.round.lock();
                panic!("on purpose");
            };
            scope.spawn(round).join()
        });
        assert!(panicked.is_err() && files.round.is_poisoned());
        files.expect_foreign_write(&schema);
        files.round(Timestamp::UNIX_EPOCH);
        assert_eq!(visits(&files), []);
    }
}
