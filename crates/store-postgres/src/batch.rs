//! Many callers, one statement: what is waiting when a worker becomes free goes into the database together.
//!
//! Nothing waits for company: a job that comes alone goes alone, at once. Under load jobs gather while the statement
//! before is on its way, and a commit is shared by all of them.

use std::sync::Arc;

use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

/// Jobs that may wait before callers have to.
const WAITING_MAX: usize = 1024;
/// Most jobs of one batch.
const JOBS_MAX: usize = 512;
/// What the jobs of a batch may weigh together, in bytes; the last one may exceed it.
const BYTES_MAX: usize = 4 * 1024 * 1024;

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
        for _ in 0..workers {
            let (waiting, run) = (Arc::clone(&waiting), run.clone());
            background.spawn(async move {
                while let Some(batch) = next(&waiting).await {
                    run(batch).await;
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

async fn next<J: Job>(waiting: &Mutex<mpsc::Receiver<J>>) -> Option<Vec<J>> {
    let mut waiting = waiting.lock().await;
    let first = waiting.recv().await?;
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < JOBS_MAX
        && bytes < BYTES_MAX
        && let Ok(job) = waiting.try_recv()
    {
        bytes += job.bytes();
        batch.push(job);
    }
    Some(batch)
}
