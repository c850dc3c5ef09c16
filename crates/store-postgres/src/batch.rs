//! Many callers, one statement: what is waiting when a worker becomes free goes into the database together.
//!
//! A job that comes alone goes alone, at once. While a batch is on its way, the next one gathers what comes, for a few
//! milliseconds at most: a statement for fifty costs the database little more than one for five. Where nobody is kept
//! waiting by it, a batch also keeps a distance from the one before ([`Rhythm::distance`]).

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Mutex, Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Jobs that may wait before callers have to.
const WAITING_MAX: usize = 1024;
/// Most jobs of one batch.
const JOBS_MAX: usize = 512;
/// What the jobs of a batch may weigh together, in bytes; the last one may exceed it.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Jobs that are worth a statement though another is on its way.
const COMPANY: usize = 64;

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
}

/// Where callers leave their jobs.
pub(crate) struct Batcher<J> {
    jobs: mpsc::Sender<J>,
}

impl<J: Job> Batcher<J> {
    /// Starts this many workers, each of which runs a batch at a time.
    pub(crate) fn start<F>(
        workers: usize,
        rhythm: Rhythm,
        background: &mut JoinSet<()>,
        run: impl Fn(Vec<J>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let on_its_way = Arc::new(OnItsWay::new());
        for _ in 0..workers {
            let (waiting, on_its_way, run) = (Arc::clone(&waiting), Arc::clone(&on_its_way), run.clone());
            background.spawn(async move {
                while let Some(batch) = next(&waiting, &on_its_way, rhythm).await {
                    // A batch that panics takes its callers along, and nobody else.
                    if AssertUnwindSafe(run(batch)).catch_unwind().await.is_err() {
                        tracing::error!("a batch panicked");
                    }
                    on_its_way.has_arrived();
                }
            });
        }
        Self { jobs }
    }

    /// Leaves a job, or gives it back if nobody works any more.
    pub(crate) async fn leave(&self, job: J) -> Result<(), J> {
        self.jobs.send(job).await.map_err(|refused| refused.0)
    }
}

/// How many batches are on their way.
struct OnItsWay {
    batches: AtomicUsize,
    arrived: Notify,
    /// When the last one left.
    left_at: std::sync::Mutex<Instant>,
}

impl OnItsWay {
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
    async fn is_over(&self, distance: Duration) {
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

async fn next<J: Job>(
    waiting: &Mutex<mpsc::Receiver<J>>,
    on_its_way: &OnItsWay,
    rhythm: Rhythm,
) -> Option<Vec<J>> {
    let mut waiting = waiting.lock().await;
    let first = waiting.recv().await?;
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    let deadline = Instant::now() + rhythm.gathering;
    while batch.len() < JOBS_MAX && bytes < BYTES_MAX {
        let job = match waiting.try_recv() {
            Ok(job) => job,
            Err(_) if batch.len() < COMPANY => tokio::select! {
                biased;
                () = on_its_way.is_over(rhythm.distance) => break,
                Some(job) = waiting.recv() => job,
                () = sleep_until(deadline) => break,
            },
            Err(_) => break,
        };
        bytes += job.bytes();
        batch.push(job);
    }
    // Counted before the next worker may look.
    on_its_way.has_left();
    Some(batch)
}
