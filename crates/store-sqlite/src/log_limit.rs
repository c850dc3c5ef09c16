//! Keeping the write-ahead log short.
//!
//! The writer moves the log's content into the file as it goes, but SQLite begins the log anew only at a moment when
//! nobody reads from it. With two users who list one thing after the other that moment never comes, and the log grows
//! for as long as they do. Once it is too long, reads that are asked for are therefore held back until those that run
//! have ended; then claims for a moment; and between two commits the log is emptied. The writer goes on committing
//! while it waits, and whoever it holds back waits no longer than for a list before their own.
//!
//! What the embedding program's own connections read cannot be held back. If they are in the way the log stays, which
//! is logged, and is tried again later.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{OwnedMutexGuard, mpsc};

use crate::{
    log::Log,
    readers::{HeldBack, Readers},
};

/// How often the log's length is asked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// After how long it is asked for where the disk failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);
/// After how long reads are held back again where somebody was in the way.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// How long running reads are waited for beyond the time they may take.
const ENDING_PATIENCE: Duration = Duration::from_millis(500);

/// The connection for claims; `None` once the store is closed.
pub(crate) type Claims = tokio::sync::Mutex<Option<Connection>>;

/// What a file's writer does about its log between two commits.
pub(crate) struct LogLimit {
    log: Log,
    bytes_max: u64,
    /// Theirs is no part in keeping connections open: the writer's must be the last to be closed.
    readers: Weak<Readers>,
    claims: Weak<Claims>,
    look_at: Instant,
    /// Somebody was in the way until now: reads are not held back again before this.
    pause_at: Instant,
    pause: Option<Pause>,
}

/// Reads are being held back.
struct Pause {
    until: Instant,
    all_ended: Pin<Box<dyn Future<Output = Option<Quiet>> + Send>>,
}

/// Nobody reads for as long as this is kept.
struct Quiet {
    _reads: HeldBack,
    _claims: OwnedMutexGuard<Option<Connection>>,
}

impl LogLimit {
    pub(crate) fn new(log: Log, bytes_max: u64, readers: &Arc<Readers>, claims: &Arc<Claims>) -> Self {
        Self {
            log,
            bytes_max,
            readers: Arc::downgrade(readers),
            claims: Arc::downgrade(claims),
            look_at: Instant::now(),
            pause_at: Instant::now(),
            pause: None,
        }
    }

    /// The next message; `None` once there will be none. Empties the log meanwhile if it is time.
    pub(crate) fn next<T>(&mut self, conn: &Connection, queue: &mut mpsc::Receiver<T>) -> Option<T> {
        while let Some(pause) = &mut self.pause {
            match pause.next(queue) {
                Next::Message(message) => return message,
                Next::Quiet(quiet) => {
                    self.pause = None;
                    self.empty(conn);
                    drop(quiet);
                }
                Next::Over => {
                    self.pause = None;
                    self.pause_at = Instant::now() + TRY_AGAIN;
                }
            }
        }
        queue.blocking_recv()
    }

    /// Something was committed.
    pub(crate) fn committed(&mut self, conn: &Connection) {
        let now = Instant::now();
        if self.pause.is_some() || now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_INTERVAL;
        if let Err(error) = self.log.shorten(conn) {
            self.look_at = now + AFTER_A_FAILURE;
            tracing::warn!(%error, log = %self.log, "the write-ahead log was not moved into its file");
        }
        if now >= self.pause_at && !self.log.must_stay() && self.log.bytes() > self.bytes_max {
            self.pause = self.readers.upgrade().map(|readers| Pause::begin(&readers, &self.claims));
        }
    }

    /// Holds nobody back any more.
    pub(crate) fn end(self) -> Log {
        self.log
    }

    fn empty(&mut self, conn: &Connection) {
        let bytes = self.log.bytes();
        match self.log.empty(conn) {
            Ok(true) => tracing::debug!(log = %self.log, bytes, "the write-ahead log was emptied"),
            Ok(false) => {
                self.pause_at = Instant::now() + TRY_AGAIN;
                tracing::warn!(
                    log = %self.log,
                    bytes,
                    "the write-ahead log is long and cannot be emptied while another's transaction is open; trying \
                     again later"
                );
            }
            Err(error) => {
                self.pause_at = Instant::now() + TRY_AGAIN;
                tracing::warn!(%error, log = %self.log, bytes, "the write-ahead log was not emptied");
            }
        }
    }
}

enum Next<T> {
    Message(Option<T>),
    Quiet(Quiet),
    /// Somebody read for longer than they may, or the store is being closed.
    Over,
}

impl Pause {
    fn begin(readers: &Arc<Readers>, claims: &Weak<Claims>) -> Self {
        let (held_back, claims) = (readers.hold_back(), Weak::clone(claims));
        let all_ended = async move {
            let reads = held_back.await?;
            // Last, and for no longer than it takes: the passes wait for nobody's list.
            let claims = claims.upgrade()?.lock_owned().await;
            Some(Quiet { _reads: reads, _claims: claims })
        };
        let patience = readers.timeout().saturating_add(ENDING_PATIENCE);
        let until = Instant::now().checked_add(patience).unwrap_or_else(|| Instant::now() + TRY_AGAIN);
        Self { until, all_ended: Box::pin(all_ended) }
    }

    fn next<T>(&mut self, queue: &mut mpsc::Receiver<T>) -> Next<T> {
        let either = poll_fn(|context| match self.all_ended.as_mut().poll(context) {
            Poll::Ready(quiet) => Poll::Ready(quiet.map_or(Next::Over, Next::Quiet)),
            Poll::Pending => queue.poll_recv(context).map(Next::Message),
        });
        wait_until(self.until, either).unwrap_or(Next::Over)
    }
}

/// Waits in a thread that no runtime runs; `None` once it is time.
fn wait_until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return Some(answer);
        }
        std::thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{
        failure::Failure,
        open::{BUSY_TIMEOUT, SqliteOptions},
        tenant_file::TenantFile,
    };

    const MIB: u64 = 1024 * 1024;

    /// A file whose log may have 1 MiB, with a table of 4 KiB rows.
    fn file() -> (Arc<TenantFile>, PathBuf, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.db");
        let options = SqliteOptions { log_bytes_max: MIB, ..SqliteOptions::new(&path) };
        let (file, _) = TenantFile::open_admin(options).unwrap();
        (Arc::new(file), path, directory)
    }

    async fn write(file: &TenantFile, rows: u32) {
        let write = move |conn: &Connection| {
            conn.execute_batch("create table if not exists filler (n integer primary key, bytes blob)")?;
            let mut insert = conn.prepare_cached("insert into filler (bytes) values (zeroblob(4000))")?;
            (0..rows).try_for_each(|_| insert.execute([]).map(drop)).map_err(Failure::from)
        };
        file.write(write).await.unwrap();
    }

    fn log_bytes(path: &Path) -> u64 {
        path.with_extension("db-wal").metadata().map_or(0, |log| log.len())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn a_log_that_somebody_always_reads_from_stays_short() {
        let (file, path, _directory) = file();
        write(&file, 1).await;
        let mut users = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let file = Arc::clone(&file);
            users.spawn(async move {
                // As slow as a long list, until the file is closed.
                let list = |conn: &Connection| {
                    conn.query_row("select count(*) from filler", [], |_| Ok(()))?;
                    std::thread::sleep(Duration::from_millis(30));
                    Ok(())
                };
                while file.read(list).await.is_ok() {}
            });
        }
        let (begun, mut before, mut emptied) = (Instant::now(), 0, 0);
        while emptied < 3 {
            assert!(begun.elapsed() < Duration::from_secs(30), "emptied {emptied} times: {before} bytes");
            write(&file, 25).await;
            file.claim(|_| Ok(())).await.unwrap();
            file.look_up(|_| Ok(())).await.unwrap();
            let bytes = log_bytes(&path);
            emptied += u32::from(bytes < before);
            before = bytes;
            // No faster than a disk that is slower than most.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        file.close().await;
        users.join_all().await;
    }

    #[tokio::test]
    async fn whoever_reads_from_the_log_for_ever_holds_nobody_up() {
        let (file, path, _directory) = file();
        write(&file, 1).await;
        let mut others = Connection::open(&path).unwrap();
        let snapshot = others.transaction().unwrap();
        snapshot.query_row("select count(*) from filler", [], |_| Ok(())).unwrap();
        let work = async {
            for _ in 0..4 {
                write(&file, 250).await;
                file.read(|_| Ok(())).await.unwrap();
                file.look(|_| Ok(())).await.unwrap();
            }
        };
        tokio::time::timeout(BUSY_TIMEOUT, work).await.expect("it waits for the snapshot");
        assert!(log_bytes(&path) > 3 * MIB, "as long as it must be");
        drop(snapshot);
        file.close().await;
        assert_eq!(log_bytes(&path), 0);
    }
}
