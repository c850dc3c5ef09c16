//! Many callers, one statement: what is waiting when a worker becomes free goes into the database together, the jobs of
//! each tenant as a group of their own.
//!
//! A job that comes alone goes alone, at once. While a batch is on its way, the next one gathers what comes, for a few
//! milliseconds at most: a statement for fifty costs the database little more than one for five. It leaves when the
//! database has answered, before the callers of the one before are told ([`Trip::is_answered`]). Where nobody is kept
//! waiting by it, a batch also keeps a distance from the one before ([`Rhythm::distance`]).
//!
//! What holds up one tenant's groups, a lock on its tables perhaps, holds up nobody else's. A worker waits for the
//! groups of its batch, and after [`PATIENCE`] leaves those behind that are not back. Each of them keeps a connection,
//! so there is a limit to how many may be left behind; beyond it, workers wait for theirs. A tenant has at most
//! [`GROUPS_MAX`] groups on their way, and after one that came to a lock a single one, until one gets through. What
//! comes for it meanwhile is put aside until one of its groups has ended. When [`WAITING_MAX`] of a tenant's jobs wait,
//! here or there, its callers have to, and only they.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::{JoinSet, yield_now},
    time::{Instant, sleep_until, timeout},
};

/// Jobs that may wait before callers have to: of one tenant, and of those that no worker has looked at.
const WAITING_MAX: usize = 1024;
/// Most jobs of one batch.
const JOBS_MAX: usize = 512;
/// What the jobs of a batch may weigh together, in bytes; the last one may exceed it.
const BYTES_MAX: usize = 1024 * 1024;
/// Jobs that are worth a statement though another is on its way.
const COMPANY: usize = 64;
/// Batches that are waited for at once: while one waits for the disk another is sent.
const WORKERS: usize = 2;
/// Groups of one tenant that may be on their way at once.
const GROUPS_MAX: usize = WORKERS;
/// How long a worker waits for the groups of its batch: longer than a commit takes on a disk that is well.
const PATIENCE: Duration = Duration::from_millis(50);

/// When batches leave.
#[derive(Clone, Copy)]
pub(crate) struct Rhythm {
    /// How long a batch gathers at most, while another is on its way or has just left.
    pub(crate) gathering: Duration,
    /// From one departure to the next, if there is no crowd.
    pub(crate) distance: Duration,
}

/// Something that a caller waits for.
pub(crate) trait Job: Send + 'static {
    /// How much of a batch it takes up, in bytes.
    fn bytes(&self) -> usize;
    /// Whose it is.
    fn tenant_no(&self) -> i32;
}

/// How a group came out of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupEnd {
    /// Stored or refused.
    Through,
    /// A lock of somebody's was in the way, for longer than one is waited for.
    Locked,
}

/// Where callers leave their jobs.
pub(crate) struct Batcher<J> {
    jobs: mpsc::Sender<Waiting<J>>,
    /// Of each tenant's jobs.
    places: Places,
    shared: Arc<Shared<J>>,
}

/// A job and its place among those of its tenant that wait.
struct Waiting<J> {
    job: J,
    _place: OwnedSemaphorePermit,
}

impl<J: Job> Batcher<J> {
    /// Starts workers, each of which runs a batch at a time: `run` a group of it, which says when the database has
    /// answered ([`Trip::is_answered`]). So many groups may be left behind.
    pub(crate) fn start<F>(
        left_behind_max: usize,
        rhythm: Rhythm,
        workers: &mut JoinSet<()>,
        run: impl Fn(Vec<J>, Arc<Trip>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = GroupEnd> + Send + 'static,
    {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting),
            departures: Arc::new(Departures::new()),
            lanes: Lanes::new(),
            left_behind: Arc::new(Semaphore::new(left_behind_max)),
            closing: Notify::new(),
        });
        for _ in 0..WORKERS {
            workers.spawn(work(Arc::clone(&shared), rhythm, run.clone()));
        }
        Self { jobs, places: Places::of_each(WAITING_MAX), shared }
    }

    /// From now on takes no jobs. The workers end when those that it has are done.
    pub(crate) fn close(&self) {
        self.shared.closing.notify_one();
    }

    /// Leaves a job, or gives it back if nobody works any more.
    pub(crate) async fn leave(&self, job: J) -> Result<(), J> {
        let Some(place) = self.places.take(job.tenant_no()).await else { return Err(job) };
        self.jobs.send(Waiting { job, _place: place }).await.map_err(|refused| refused.0.job)
    }
}

/// So many places for every tenant. One that has none left is waited for by its own callers, in turn.
pub(crate) struct Places {
    of_each: usize,
    of: std::sync::Mutex<HashMap<i32, Arc<Semaphore>>>,
}

impl Places {
    pub(crate) fn of_each(of_each: usize) -> Self {
        Self { of_each, of: std::sync::Mutex::default() }
    }

    /// `None` only at the end of the store.
    pub(crate) async fn take(&self, tenant_no: i32) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(of.entry(tenant_no).or_insert_with(|| Arc::new(Semaphore::new(self.of_each))))
        };
        places.acquire_owned().await.ok()
    }
}

/// What the workers share.
struct Shared<J> {
    waiting: Mutex<mpsc::Receiver<Waiting<J>>>,
    departures: Arc<Departures>,
    lanes: Lanes<J>,
    /// For groups that no worker waits for.
    left_behind: Arc<Semaphore>,
    closing: Notify,
}

/// One worker, until no jobs are taken any more and none is left.
async fn work<J: Job, F>(
    shared: Arc<Shared<J>>,
    rhythm: Rhythm,
    run: impl Fn(Vec<J>, Arc<Trip>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = GroupEnd> + Send + 'static,
{
    let mut left_behind = JoinSet::new();
    while let Some(batch) = next(&shared, rhythm).await {
        let (mut groups, trip) = depart(&shared, batch, &run);
        if let Some(place) = leave_behind(&shared.left_behind, &mut groups).await {
            // Nobody waits for its groups any more, the next batch neither.
            trip.upgrade().inspect(|trip| trip.end());
            left_behind.spawn(async move {
                all_end(&mut groups).await;
                drop(place);
            });
        }
        while left_behind.try_join_next().is_some() {}
    }
    all_end(&mut left_behind).await;
}

/// Starts the groups of a batch.
fn depart<J: Job, F>(
    shared: &Arc<Shared<J>>,
    batch: Vec<Waiting<J>>,
    run: &impl Fn(Vec<J>, Arc<Trip>) -> F,
) -> (JoinSet<()>, Weak<Trip>)
where
    F: Future<Output = GroupEnd> + Send + 'static,
{
    let trip = Arc::new(Trip { departures: Arc::clone(&shared.departures), is_over: AtomicBool::new(false) });
    let mut groups = JoinSet::new();
    for (tenant_no, group) in shared.lanes.begin(batch) {
        let (shared, running) = (Arc::clone(shared), run(group, Arc::clone(&trip)));
        groups.spawn(async move {
            // A group that panics takes its callers along, and nobody else.
            let ended = AssertUnwindSafe(running).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("a batch panicked");
                GroupEnd::Through
            });
            shared.lanes.end(tenant_no, ended);
        });
    }
    (groups, Arc::downgrade(&trip))
}

/// Waits until all groups have ended, or have had their time and may be left behind: in the place returned.
async fn leave_behind(places: &Arc<Semaphore>, groups: &mut JoinSet<()>) -> Option<OwnedSemaphorePermit> {
    while timeout(PATIENCE, all_end(groups)).await.is_err() {
        let needed = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        if let Ok(place) = Arc::clone(places).try_acquire_many_owned(needed) {
            return Some(place);
        }
    }
    None
}

async fn all_end(groups: &mut JoinSet<()>) {
    while groups.join_next().await.is_some() {}
}

/// Every tenant's groups, and what waits for their end.
struct Lanes<J> {
    of: std::sync::Mutex<HashMap<i32, Lane<J>>>,
    /// A tenant for which jobs were put aside has had a group end.
    freed: Notify,
}

/// One tenant's.
struct Lane<J> {
    on_their_way: usize,
    /// The last group to end came to a lock.
    is_locked: bool,
    /// No more than have places.
    aside: VecDeque<Waiting<J>>,
}

impl<J> Lane<J> {
    const fn new() -> Self {
        Self { on_their_way: 0, is_locked: false, aside: VecDeque::new() }
    }

    const fn has_room(&self) -> bool {
        self.on_their_way < if self.is_locked { 1 } else { GROUPS_MAX }
    }
}

impl<J: Job> Lanes<J> {
    fn new() -> Self {
        Self { of: std::sync::Mutex::default(), freed: Notify::new() }
    }

    /// The groups of a batch that may leave; the others are put aside.
    fn begin(&self, batch: Vec<Waiting<J>>) -> Vec<(i32, Vec<J>)> {
        let mut groups: HashMap<i32, Vec<Waiting<J>>> = HashMap::new();
        for waiting in batch {
            groups.entry(waiting.job.tenant_no()).or_default().push(waiting);
        }
        let mut lanes = self.lanes();
        let mut leaving = Vec::with_capacity(groups.len());
        for (tenant_no, group) in groups {
            let lane = lanes.entry(tenant_no).or_insert_with(Lane::new);
            if lane.has_room() {
                lane.on_their_way += 1;
                leaving.push((tenant_no, group.into_iter().map(|waiting| waiting.job).collect()));
            } else {
                lane.aside.extend(group);
            }
        }
        leaving
    }

    fn end(&self, tenant_no: i32, ended: GroupEnd) {
        let mut lanes = self.lanes();
        let Some(lane) = lanes.get_mut(&tenant_no) else { return };
        lane.on_their_way -= 1;
        lane.is_locked = ended == GroupEnd::Locked;
        if !lane.aside.is_empty() {
            self.freed.notify_one();
        } else if lane.on_their_way == 0 && !lane.is_locked {
            lanes.remove(&tenant_no);
        }
    }

    /// What was put aside and may leave now: as much of one tenant's as a batch may hold.
    async fn aside(&self) -> Vec<Waiting<J>> {
        loop {
            let freed = self.freed.notified();
            if let Some(jobs) = self.take_aside() {
                return jobs;
            }
            freed.await;
        }
    }

    fn have_put_aside(&self) -> bool {
        self.lanes().values().any(|lane| !lane.aside.is_empty())
    }

    fn take_aside(&self) -> Option<Vec<Waiting<J>>> {
        let mut lanes = self.lanes();
        let lane = lanes.values_mut().find(|lane| !lane.aside.is_empty() && lane.has_room())?;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while jobs.len() < JOBS_MAX && bytes < BYTES_MAX {
            let Some(waiting) = lane.aside.pop_front() else { break };
            bytes += waiting.job.bytes();
            jobs.push(waiting);
        }
        Some(jobs)
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<i32, Lane<J>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch on its way to the database and back. It is over when all of its groups have let go of it.
pub(crate) struct Trip {
    departures: Arc<Departures>,
    is_over: AtomicBool,
}

impl Trip {
    /// The database has answered a group. If it was the last, the next batch may leave, and does so before the group's
    /// callers are told, which takes a while for many of them: the database would have nothing to do meanwhile.
    pub(crate) async fn is_answered(self: Arc<Self>) {
        if let Some(trip) = Arc::into_inner(self) {
            drop(trip);
            yield_now().await;
        }
    }

    /// The next batch need not wait for it any more.
    fn end(&self) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            self.departures.has_arrived();
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many batches are on their way.
struct Departures {
    batches: AtomicUsize,
    arrived: Notify,
    /// When the last one left.
    left_at: std::sync::Mutex<Instant>,
}

impl Departures {
    fn new() -> Self {
        let left_at = std::sync::Mutex::new(Instant::now());
        Self { batches: AtomicUsize::new(0), arrived: Notify::new(), left_at }
    }

    fn has_left(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        *self.left_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn has_arrived(&self) {
        self.batches.fetch_sub(1, Ordering::Relaxed);
        self.arrived.notify_one();
    }

    /// Until the next batch may leave, crowd or not.
    async fn next_may_leave(&self, distance: Duration) {
        let left_at = *self.left_at.lock().unwrap_or_else(PoisonError::into_inner);
        let until = left_at + distance;
        if until > Instant::now() {
            sleep_until(until).await;
        }
        while self.batches.load(Ordering::Relaxed) > 0 {
            self.arrived.notified().await;
        }
    }
}

async fn next<J: Job>(shared: &Shared<J>, rhythm: Rhythm) -> Option<Vec<Waiting<J>>> {
    let Shared { waiting, departures, lanes, closing, .. } = shared;
    let mut waiting = waiting.lock().await;
    let mut batch = loop {
        tokio::select! {
            biased;
            aside = lanes.aside() => break aside,
            first = waiting.recv() => match first {
                Some(first) => break vec![first],
                None if lanes.have_put_aside() => break lanes.aside().await,
                None => return None,
            },
            () = closing.notified() => waiting.close(),
        }
    };
    let mut bytes: usize = batch.iter().map(|waiting| waiting.job.bytes()).sum();
    let deadline = Instant::now() + rhythm.gathering;
    while batch.len() < JOBS_MAX && bytes < BYTES_MAX {
        let job = match waiting.try_recv() {
            Ok(job) => job,
            Err(_) if batch.len() < COMPANY => tokio::select! {
                biased;
                () = departures.next_may_leave(rhythm.distance) => break,
                Some(job) = waiting.recv() => job,
                () = sleep_until(deadline) => break,
            },
            Err(_) => break,
        };
        bytes += job.job.bytes();
        batch.push(job);
    }
    // Counted before the next worker may look.
    departures.has_left();
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    struct Nothing;

    impl Job for Nothing {
        fn bytes(&self) -> usize {
            1
        }

        fn tenant_no(&self) -> i32 {
            1
        }
    }

    #[tokio::test]
    async fn the_next_batch_gathers_until_the_database_has_answered_and_not_until_callers_are_told() {
        let (answer, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (began, mut beginnings) = mpsc::unbounded_channel();
        let run = {
            let (answer, told) = (Arc::clone(&answer), Arc::clone(&told));
            move |group: Vec<Nothing>, trip: Arc<Trip>| {
                let (answer, told, began) = (Arc::clone(&answer), Arc::clone(&told), began.clone());
                async move {
                    began.send(group.len()).unwrap();
                    answer.notified().await;
                    trip.is_answered().await;
                    told.notified().await;
                    GroupEnd::Through
                }
            }
        };
        let mut background = JoinSet::new();
        let rhythm = Rhythm { gathering: Duration::from_hours(1), distance: Duration::ZERO };
        let batcher = Batcher::start(0, rhythm, &mut background, run);
        assert!(batcher.leave(Nothing).await.is_ok());
        assert_eq!(timeout(DEADLINE, beginnings.recv()).await, Ok(Some(1)));
        for _ in 0..3 {
            assert!(batcher.leave(Nothing).await.is_ok());
        }
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(beginnings.try_recv().is_err());
        answer.notify_one();
        assert_eq!(timeout(DEADLINE, beginnings.recv()).await, Ok(Some(3)));
    }
}
