//! An HTTP/2 connection, and the exchanges that share it.
//!
//! It has a task of its own; that task and every stream's task belong to a set which ends with the connection.
//!
//! Flow control bounds bodies alone: heads, informational responses and control frames cost a receiver nothing, and
//! what it sends is decoded whether anybody waits for it or not. So each exchange brings an allowance of bytes to be
//! read and takes it away when it ends. What is left then is enough for control frames and for what was on its way; a
//! receiver that sends more loses the connection.
//!
//! A connection may die without a word. A receiver that says nothing is asked for a sign of life well before any
//! endpoint's timeout; if an exchange ends without one, the connection takes no others, so that the next attempt does
//! not wait in vain as well.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::EgressConfig;
use crate::connection::{Message, Undelivered};
use crate::failure::Fault;
use crate::stream::{Allowance, Stream};

const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const STREAM_WINDOW_BYTES_MIN: u32 = 16 * 1024;
/// What a receiver may send that belongs to no exchange: settings, pings, session tickets.
const CONTROL_BYTES_MAX: u64 = 16 * 1024;
/// Bodies that a connection may keep beyond the exchanges that it has.
const BODIES_LEFT_MAX: usize = 8;

pub(crate) struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    born: Instant,
    streams: Arc<Streams>,
    driver: Arc<Driver>,
    /// An exchange that goes without a sign of life for this long …
    silence_max: Duration,
    /// … has found the connection dead.
    fell_silent: AtomicBool,
    /// The driver and the streams. Dropped with the connection, and they with it.
    _tasks: Tasks,
}

impl Http2 {
    /// Opens a connection, and begins its first exchange. `streams_max` holds until the receiver says otherwise.
    pub(crate) async fn open(
        mut stream: Stream,
        allowance: Allowance,
        config: &EgressConfig,
        streams_max: usize,
    ) -> Result<Exchange, hyper::Error> {
        let stream_window =
            u32::try_from(config.response_bytes_max).unwrap_or(u32::MAX >> 1).max(STREAM_WINDOW_BYTES_MIN);
        let head_bytes_max = u32::try_from(config.response_header_bytes_max).unwrap_or(u32::MAX);
        stream.read_in_turns();
        let tasks = Tasks::default();
        let (sender, driver) = http2::Builder::new(tasks.executor())
            .timer(TokioTimer::new())
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES.max(stream_window))
            .initial_max_send_streams(streams_max)
            .max_header_list_size(head_bytes_max)
            .keep_alive_interval(config.http2_ping_interval)
            .keep_alive_timeout(config.http2_ping_timeout)
            .handshake(TokioIo::new(stream))
            .await?;
        let now = Instant::now();
        let streams = Streams {
            open: Mutex::new(Open { count: 0, bytes: 0, used: now }),
            allowance,
            bytes_each: config.exchange_bytes_max(),
            // Of a stream that is given up, the rest of its window may still be on its way, and what filled it again.
            bytes_idle: CONTROL_BYTES_MAX + 2 * u64::from(stream_window),
        };
        streams.allowance.set(streams.bytes_idle);
        let driver = Arc::new(Driver(Mutex::new(Some(driver))));
        let runs = driver.clone();
        tasks.spawn(poll_fn(move |cx| runs.poll(cx)));
        let connection = Self {
            sender,
            born: now,
            streams: Arc::new(streams),
            driver,
            // Time to answer belongs to it.
            silence_max: config.http2_ping_interval * 4 / 3,
            fell_silent: AtomicBool::new(false),
            _tasks: tasks,
        };
        connection.streams.begin(1);
        Ok(Arc::new(connection).exchange())
    }

    /// Begins another exchange, if there are fewer than this now and the receiver takes more. What it does not take
    /// would wait within the connection, and go out whenever there is room, be its attempt over or not.
    pub(crate) fn begin(self: &Arc<Self>, exchanges_max: usize) -> Option<Exchange> {
        let begun = self.streams.begin(exchanges_max.min(self.streams_max()));
        begun.then(|| self.clone().exchange())
    }

    fn exchange(self: Arc<Self>) -> Exchange {
        let stream = Arc::new(OpenStream(self.streams.clone()));
        Exchange { connection: self, stream, sent: None }
    }

    /// Streams that the receiver lets be open at once.
    pub(crate) fn streams_max(&self) -> usize {
        self.driver.streams_max()
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    pub(crate) fn used(&self) -> Instant {
        self.streams.lock().used
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.fell_silent.load(Ordering::Relaxed)
    }

    /// Whether it holds more bodies than its exchanges account for. A receiver may answer without ever letting a
    /// request's body come, and the connection then keeps it: the exchange is over, and the stream is not.
    pub(crate) fn hoards(self: &Arc<Self>) -> bool {
        self.streams.lock().count > Arc::strong_count(self) + BODIES_LEFT_MAX
    }
}

/// What runs a connection: polled by a task of its own, and asked by others what the receiver allows.
struct Driver(Mutex<Option<Hyper>>);

type Hyper = http2::Connection<TokioIo<Stream>, Full<Bytes>, TaskExecutor>;

impl Driver {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut driver = self.lock();
        let Some(running) = driver.as_mut() else { return Poll::Ready(()) };
        let ended = ready!(Pin::new(running).poll(cx));
        *driver = None;
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "an HTTP/2 connection broke");
        }
        Poll::Ready(())
    }

    fn streams_max(&self) -> usize {
        self.lock().as_ref().map_or(0, Hyper::current_max_send_streams)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Hyper>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An exchange on a shared connection.
pub(crate) struct Exchange {
    connection: Arc<Http2>,
    stream: Arc<OpenStream>,
    sent: Option<Sent>,
}

/// When a request was sent, with a body of so many bytes, and what had been read by then.
struct Sent {
    at: Instant,
    body_bytes: u64,
    bytes_read: u64,
}

impl Exchange {
    pub(crate) fn connection(&self) -> &Arc<Http2> {
        &self.connection
    }

    pub(crate) async fn send(&mut self, message: Message) -> Result<http::Response<Incoming>, Undelivered> {
        let streams = &self.connection.streams;
        let sent = Sent {
            at: Instant::now(),
            body_bytes: message.body().len() as u64,
            bytes_read: streams.allowance.read(),
        };
        // A receiver that takes the body in small pieces says so of each.
        streams.allow(&mut streams.lock(), sent.body_bytes);
        self.sent = Some(sent);
        let mut sender = self.connection.sender.clone();
        // Hyper gives back what it has not begun to write, and nothing of what was refused after that.
        let kept = message.clone();
        let watched = |bytes| Full::new(Bytes::from_owner(Watched { bytes, _stream: self.stream.clone() }));
        sender.try_send_request(message.map(watched)).await.map_err(|error| {
            let fault = Fault::from_exchange(error.error());
            // What waits for a free stream when the connection ends is dropped with it, which is told as a fault of ours.
            let is_dropped = error.error().is_user();
            match (Fault::says_untouched(error.error()), Undelivered::of(error, kept.body().clone())) {
                (Some(why), _) => Undelivered::Unsent(Box::new(kept), why, fault),
                (None, Undelivered::Lost(_)) if is_dropped => Undelivered::Lost(Fault::closed()),
                (None, undelivered) => undelivered,
            }
        })
    }

    pub(crate) async fn next_frame(
        &mut self,
        body: &mut Incoming,
    ) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(sent) = &self.sent else { return };
        let streams = &self.connection.streams;
        streams.disallow(&mut streams.lock(), sent.body_bytes);
        let is_silent = sent.bytes_read == streams.allowance.read();
        if is_silent && sent.at.elapsed() >= self.connection.silence_max {
            self.connection.fell_silent.store(true, Ordering::Relaxed);
        }
    }
}

/// A body of a request, whose stream is open until nobody has it any more.
struct Watched {
    bytes: Bytes,
    _stream: Arc<OpenStream>,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The streams of a connection, and what may be read for them.
struct Streams {
    open: Mutex<Open>,
    allowance: Allowance,
    bytes_each: u64,
    bytes_idle: u64,
}

struct Open {
    count: usize,
    /// What may be read for them, altogether.
    bytes: u64,
    /// When the last one began.
    used: Instant,
}

impl Streams {
    /// Whether there was room for another one.
    fn begin(&self, streams_max: usize) -> bool {
        let mut open = self.lock();
        if open.count >= streams_max {
            return false;
        }
        open.count += 1;
        open.used = Instant::now();
        self.allow(&mut open, self.bytes_each);
        true
    }

    fn end(&self) {
        let mut open = self.lock();
        open.count -= 1;
        self.disallow(&mut open, self.bytes_each);
    }

    fn allow(&self, open: &mut Open, bytes: u64) {
        open.bytes += bytes;
        self.allowance.set((self.allowance.left() + bytes).min(self.bytes_idle + open.bytes));
    }

    fn disallow(&self, open: &mut Open, bytes: u64) {
        open.bytes -= bytes;
        self.allowance.set(self.allowance.left().min(self.bytes_idle + open.bytes));
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream, open for as long as the exchange lasts or the connection keeps its request's body.
struct OpenStream(Arc<Streams>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The tasks of one connection.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// The executor must not keep the set alive, or the tasks would own themselves.
    fn executor(&self) -> TaskExecutor {
        TaskExecutor(Arc::downgrade(&self.0))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn_in(&self.0, task);
    }
}

#[derive(Clone)]
struct TaskExecutor(Weak<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        if let Some(tasks) = self.0.upgrade() {
            spawn_in(&tasks, async move {
                task.await;
            });
        }
    }
}

fn spawn_in(tasks: &Mutex<JoinSet<()>>, task: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    while tasks.try_join_next().is_some() {}
    tasks.spawn(task);
}
