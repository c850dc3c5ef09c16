//! Many callers, one statement: what is waiting when a worker becomes free goes into the database together.
//!
//! A job that comes alone goes alone, at once. While a batch is on its way, the next one gathers what comes, for a few
//! milliseconds at most: a statement for fifty costs the database little more than one for five.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
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
/// How long a batch gathers while another is on its way.
const GATHERING: Duration = Duration::from_millis(4);

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
        background: &mut JoinSet<()>,
        run: impl Fn(Vec<J>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let on_its_way = Arc::new(OnItsWay::default());
        for _ in 0..workers {
            let (waiting, on_its_way, run) = (Arc::clone(&waiting), Arc::clone(&on_its_way), run.clone());
            background.spawn(async move {
                while let Some(batch) = next(&waiting, &on_its_way).await {
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
#[derive(Default)]
struct OnItsWay {
    batches: AtomicUsize,
    arrived: Notify,
}

impl OnItsWay {
    fn has_left(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    fn has_arrived(&self) {
        self.batches.fetch_sub(1, Ordering::Relaxed);
        self.arrived.notify_one();
    }

    /// Until the database has nothing to do for these jobs.
    async fn none(&self) {
        while self.batches.load(Ordering::Relaxed) > 0 {
            self.arrived.notified().await;
        }
    }
}

async fn next<J: Job>(waiting: &Mutex<mpsc::Receiver<J>>, on_its_way: &OnItsWay) -> Option<Vec<J>> {
    let mut waiting = waiting.lock().await;
    let first = waiting.recv().await?;
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    let deadline = Instant::now() + GATHERING;
    while batch.len() < JOBS_MAX && bytes < BYTES_MAX {
        let job = match waiting.try_recv() {
            Ok(job) => job,
            Err(_) if batch.len() < COMPANY => tokio::select! {
                biased;
                () = on_its_way.none() => break,
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
