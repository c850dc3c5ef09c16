//! The one writer: a thread that owns the writing connection and groups what many tasks ask for into one commit.
//!
//! An fsync costs the same for one step as for a hundred, so whatever is queued when the thread is free shares the
//! next commit; it never waits for more to come. Nobody is answered before the commit. [`commit_batch`] is a function
//! over a batch, and the thread only its shell.
//!
//! A step that fails takes no other with it: the batch is rolled back, and each of its steps runs again in a
//! transaction of its own. Steps must therefore be able to run twice.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    thread::JoinHandle,
};

use neo_events_store::StoreError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    failure::{Failure, again},
    log_limit::LogLimit,
    scope::Scope,
};

/// Steps that may wait; who comes later waits to be queued.
const QUEUED_STEPS_MAX: usize = 1024;
/// Steps of one commit. Bounds how long the first of them waits for the last.
const BATCH_STEPS_MAX: usize = 256;

/// What is to be done in one transaction, perhaps together with other steps.
pub(crate) trait Step: Send + 'static {
    /// What the caller is answered once it is durable.
    type Answer: Send + 'static;

    /// Runs it. May be called again after a rollback.
    fn run(&mut self, scope: &mut Scope<'_>) -> Result<Self::Answer, Failure>;

    /// It was committed.
    fn committed(self)
    where
        Self: Sized,
    {
    }
}

impl<F, T> Step for F
where
    F: FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    T: Send + 'static,
{
    type Answer = T;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<T, Failure> {
        self(scope.connection())
    }
}

/// A step that is a function and uses the kept statements.
pub(crate) struct Scoped<F>(pub(crate) F);

impl<F, T> Step for Scoped<F>
where
    F: FnMut(&mut Scope<'_>) -> Result<T, Failure> + Send + 'static,
    T: Send + 'static,
{
    type Answer = T;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<T, Failure> {
        (self.0)(scope)
    }
}

/// A step with the one who waits for it.
pub(crate) trait Job: Send {
    fn run(&mut self, scope: &mut Scope<'_>) -> Result<(), StoreError>;
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Request<S: Step> {
    step: S,
    answer: Option<S::Answer>,
    reply: oneshot::Sender<Result<S::Answer, StoreError>>,
}

impl<S: Step> Job for Request<S> {
    fn run(&mut self, scope: &mut Scope<'_>) -> Result<(), StoreError> {
        let ran = catch_unwind(AssertUnwindSafe(|| self.step.run(scope)));
        self.answer = Some(ran.unwrap_or(Err(Failure::Panicked))?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        // The step is dropped before the answer is sent: what it shares with the caller is then the caller's alone.
        let Self { step, answer, reply } = *self;
        let is_committed = outcome.is_ok();
        survive(|| if is_committed { step.committed() } else { drop(step) });
        let answered = outcome.and_then(|()| answer.ok_or_else(|| Failure::Closed.into()));
        // A caller that no longer waits has its step all the same.
        survive(|| drop(reply.send(answered)));
    }
}

/// Whatever panics once it is decided what became of a step changes nothing about that, and must neither keep others
/// from their answers nor end the thread.
fn survive(end: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(end)).is_err() {
        tracing::error!("the end of a step panicked; what it wrote is as its caller was told");
    }
}

/// Runs all jobs in one transaction and answers them; if one fails, each in its own.
pub(crate) fn commit_batch(scope: &mut Scope<'_>, mut jobs: Vec<Box<dyn Job>>) {
    match commit(scope, &mut jobs) {
        Ok(()) => jobs.into_iter().for_each(|job| job.finish(Ok(()))),
        Err(NotCommitted::Begin(error)) => fail_all(jobs, &error),
        Err(NotCommitted::Step(error)) if jobs.len() == 1 => fail_all(jobs, &error),
        Err(NotCommitted::Step(_)) => commit_each(scope, jobs),
    }
}

fn commit_each(scope: &mut Scope<'_>, jobs: Vec<Box<dyn Job>>) {
    let mut jobs = jobs.into_iter();
    while let Some(job) = jobs.next() {
        let mut alone = [job];
        let outcome = commit(scope, &mut alone);
        let [job] = alone;
        match outcome {
            Ok(()) => job.finish(Ok(())),
            Err(NotCommitted::Step(error)) => job.finish(Err(error)),
            Err(NotCommitted::Begin(error)) => {
                // Waiting for the lock once more for each of the rest would only add up.
                fail_all(std::iter::once(job).chain(jobs.by_ref()), &error);
            }
        }
    }
}

fn fail_all(jobs: impl IntoIterator<Item = Box<dyn Job>>, error: &StoreError) {
    jobs.into_iter().for_each(|job| job.finish(Err(again(error))));
}

enum NotCommitted {
    /// No transaction could begin: no job is to blame.
    Begin(StoreError),
    /// A job or the commit failed.
    Step(StoreError),
}

fn commit(scope: &mut Scope<'_>, jobs: &mut [Box<dyn Job>]) -> Result<(), NotCommitted> {
    scope.begin().map_err(|failure| NotCommitted::Begin(failure.into()))?;
    let ran = jobs.iter_mut().try_for_each(|job| job.run(scope));
    let committed = ran.and_then(|()| Ok(scope.commit()?));
    if committed.is_err() {
        scope.roll_back();
    }
    committed.map_err(NotCommitted::Step)
}

enum Message {
    Run(Box<dyn Job>),
    Close,
}

/// The way to the writing thread.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Message>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(crate) fn start(conn: Connection, log_limit: LogLimit) -> std::io::Result<Self> {
        let (queue, queued) = mpsc::channel(QUEUED_STEPS_MAX);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || serve(&conn, queued, log_limit))?;
        Ok(Self { queue: Some(queue), thread: Mutex::new(Some(thread)) })
    }

    /// Runs a step and answers once it is durable. If the caller stops waiting, the step runs all the same.
    pub(crate) async fn write<S: Step>(&self, step: S) -> Result<S::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Run(Box::new(Request { step, answer: None, reply }))).await?;
        answer.await.map_err(|_| Failure::Closed)?
    }

    /// The same for a thread that may block.
    pub(crate) fn write_blocking<S: Step>(&self, step: S) -> Result<S::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Run(Box::new(Request { step, answer: None, reply }));
        let queue = self.queue.as_ref().ok_or(Failure::Closed)?;
        queue.blocking_send(message).map_err(|_| Failure::Closed)?;
        answer.blocking_recv().map_err(|_| Failure::Closed)?
    }

    /// Finishes what is queued and ends the thread; what comes later is refused.
    pub(crate) async fn close(&self) {
        if self.send(Message::Close).await.is_err() {
            return;
        }
        if let Some(thread) = self.take_thread() {
            // A panic of the thread was reported when it happened.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    async fn send(&self, message: Message) -> Result<(), Failure> {
        let queue = self.queue.as_ref().ok_or(Failure::Closed)?;
        queue.send(message).await.map_err(|_| Failure::Closed)
    }

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Writer {
    /// Without a close: the thread finishes what is queued, so that the file is free when the store is gone.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.take_thread() {
            let _ = thread.join();
        }
    }
}

fn serve(conn: &Connection, mut queue: mpsc::Receiver<Message>, mut log_limit: LogLimit) {
    let mut scope = Scope::of(conn);
    let mut open = true;
    while open && let Some(first) = log_limit.next(conn, &mut queue) {
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Run(job) => batch.push(job),
                Message::Close => open = false,
            }
            next = if open && batch.len() < BATCH_STEPS_MAX { queue.try_recv().ok() } else { None };
        }
        if !batch.is_empty() {
            commit_batch(&mut scope, batch);
            log_limit.committed(conn);
        }
    }
    // Whoever it holds back must not wait for the end of this.
    let log = log_limit.end();
    queue.close();
    // Whoever was let in before may still send: what comes is dropped, which refuses it.
    while queue.blocking_recv().is_some() {}
    if let Err(error) = log.close(conn) {
        tracing::warn!(%error, "the write-ahead log was not emptied; the next opening reads it");
    }
}

#[cfg(test)]
mod tests {
    use neo_events_domain::{Timestamp, event::EventDraft};
    use neo_events_store::{Arrival, CatalogueVersion, DirectDispatch};

    use std::{path::Path, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        direct::AppendArrivals, log::Log, log_limit::Claims, open::SqliteOptions, readers::Readers,
        tenant_file::TenantFile,
    };

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("create table numbers (n integer primary key) strict").unwrap();
        conn
    }

    /// Of a database that has no log.
    fn writer() -> Writer {
        let readers = Arc::new(Readers::new(Vec::new(), 0, Duration::ZERO));
        let log = Log::of(Path::new(""), tempfile::tempfile().unwrap());
        let log_limit = LogLimit::new(log, u64::MAX, &readers, &Arc::new(Claims::new(None)));
        Writer::start(database(), log_limit).unwrap()
    }

    type Answer<T = usize> = oneshot::Receiver<Result<T, StoreError>>;

    fn job<S: Step>(step: S) -> (Box<dyn Job>, Answer<S::Answer>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Request { step, answer: None, reply }), answer)
    }

    fn insert(n: i64) -> (Box<dyn Job>, Answer) {
        job(move |conn: &Connection| Ok(conn.execute("insert into numbers values (?1)", [n])?))
    }

    fn committed(conn: &Connection) -> Vec<i64> {
        let mut statement = conn.prepare("select n from numbers order by n").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn run(scope: &mut Scope<'_>, jobs: Vec<(Box<dyn Job>, Answer)>) -> Vec<bool> {
        let (jobs, answers): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        commit_batch(scope, jobs);
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap().is_ok()).collect()
    }

    #[test]
    fn a_failing_job_harms_no_other() {
        let conn = database();
        let mut scope = Scope::of(&conn);
        assert_eq!(
            run(&mut scope, vec![insert(1), insert(2), insert(1), insert(3)]),
            [true, true, false, true]
        );
        assert_eq!(committed(&conn), [1, 2, 3]);
    }

    #[test]
    fn a_panicking_job_harms_no_other() {
        let conn = database();
        let mut scope = Scope::of(&conn);
        let panics = job(|_: &Connection| -> Result<usize, Failure> { panic!("on purpose") });
        assert_eq!(run(&mut scope, vec![insert(1), panics, insert(2)]), [true, false, true]);
        assert_eq!(committed(&conn), [1, 2]);
        assert_eq!(run(&mut scope, vec![insert(3)]), [true]);
    }

    /// A step that panics once it is committed, or as it is dropped.
    enum PanicsAfterwards {
        Committed,
        Dropped,
    }

    impl Step for PanicsAfterwards {
        type Answer = usize;

        fn run(&mut self, scope: &mut Scope<'_>) -> Result<usize, Failure> {
            Ok(scope.connection().execute("insert into numbers values (7)", [])?)
        }

        fn committed(self) {
            assert!(matches!(self, Self::Dropped), "on purpose");
        }
    }

    impl Drop for PanicsAfterwards {
        fn drop(&mut self) {
            assert!(matches!(self, Self::Committed), "on purpose");
        }
    }

    #[test]
    fn a_panic_after_the_commit_harms_nobody() {
        let conn = database();
        let mut scope = Scope::of(&conn);
        let batch = vec![insert(1), job(PanicsAfterwards::Committed), insert(2)];
        assert_eq!(run(&mut scope, batch), [true, true, true], "it is there");
        let batch = vec![job(PanicsAfterwards::Dropped), insert(3), insert(4)];
        assert_eq!(run(&mut scope, batch), [false, true, true], "the same number again");
        assert_eq!(run(&mut scope, vec![insert(5)]), [true]);
        assert_eq!(committed(&conn), [1, 2, 3, 4, 5, 7]);
    }

    #[test]
    fn a_batch_is_one_transaction() {
        let conn = database();
        let mut scope = Scope::of(&conn);
        let seen = job(|conn: &Connection| {
            assert!(!conn.is_autocommit());
            Ok(conn
                .query_row("select count(*) from numbers", [], |row| row.get::<_, i64>(0))?
                .try_into()
                .unwrap())
        });
        let (jobs, mut answers): (Vec<_>, Vec<_>) = [insert(1), seen].into_iter().unzip();
        commit_batch(&mut scope, jobs);
        assert_eq!(answers.pop().unwrap().try_recv().unwrap().unwrap(), 1);
    }

    #[test]
    fn publishers_share_a_commit_and_a_run_unless_one_of_them_fails() {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(directory.path().join("admin.db"));
        let (file, _) = TenantFile::open_admin(options).unwrap();
        let conn = crate::open::migrated();
        let mut scope = Scope::of(&conn);
        let publish = |n: u8, now: i64| {
            let now = Timestamp::from_second(now).unwrap();
            let event = EventDraft::new("user.created", "{}").validate(now, [n; 10]).unwrap();
            let dispatch = DirectDispatch {
                catalogue_version: CatalogueVersion(0),
                deliveries: Vec::new(),
                lease_until: now,
                hand_over: Box::new(|_| ()),
            };
            job(AppendArrivals::new(&file, vec![Arrival { event, dispatch: Some(dispatch) }], now)).0
        };
        let runs = || -> Vec<(i64, i64, i64)> {
            let listed = "select first_seq, last_seq, processed_at / 1000000 from dispatch_runs";
            let mut statement = conn.prepare(listed).unwrap();
            let run = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_map([], run).unwrap().collect::<Result<_, _>>().unwrap()
        };
        commit_batch(&mut scope, vec![publish(1, 11), publish(2, 12)]);
        assert_eq!(runs(), [(1, 2, 12)]);
        let fails = job(|_: &Connection| -> Result<(), Failure> { Err(Failure::Closed) }).0;
        commit_batch(&mut scope, vec![publish(3, 13), fails, publish(4, 14)]);
        assert_eq!(runs(), [(1, 2, 12), (3, 3, 13), (4, 4, 14)], "each in a transaction of its own");
    }

    #[tokio::test]
    async fn whoever_was_let_in_before_the_close_is_answered() {
        let writer = Arc::new(writer());
        let queue = writer.queue.clone().unwrap();
        let place = queue.reserve().await.unwrap();
        let closing = Arc::clone(&writer);
        let mut closings = tokio::task::JoinSet::new();
        closings.spawn(async move { closing.close().await });
        queue.closed().await;
        // A thread that does not wait for the one that was let in is gone soon.
        let _ = tokio::time::timeout(Duration::from_millis(200), closings.join_next()).await;
        let (job, answer) = insert(1);
        place.send(Message::Run(job));
        let answered = tokio::time::timeout(Duration::from_secs(10), answer).await;
        assert!(answered.expect("it waits for ever").is_err(), "it is refused");
        closings.join_all().await;
    }

    #[test]
    fn a_writer_that_is_gone_refuses_and_never_hangs() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let writer = writer();
            let insert =
                |n: i64| move |conn: &Connection| Ok(conn.execute("insert into numbers values (?1)", [n])?);
            assert!(writer.write(insert(1)).await.is_ok());
            writer.close().await;
            assert!(matches!(writer.write(insert(2)).await, Err(StoreError::Unavailable(_))));
        });
    }
}
