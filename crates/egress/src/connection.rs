//! One open connection and the exchanges on it.
//!
//! HTTP/1.1 serves one request at a time, so its driver lives next to its sender and is polled by whoever is waiting
//! for the response. No task is spawned, no wake-up crosses tasks, and dropping the request drops the connection.
//! HTTP/2 is shared, so it has a task of its own; that task and every stream's task belong to a set which ends with the
//! connection.
//!
//! What hyper hands back untouched was never written to the socket; that may be sent again, and so may what an HTTP/2
//! receiver says it has not begun with.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::Instant;

use crate::config::EgressConfig;
use crate::failure::Fault;
use crate::stream::{Allowance, Stream};
use crate::target::Target;

const H1_BUFFER_BYTES_MIN: usize = 8 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const H2_STREAM_WINDOW_BYTES_MIN: u32 = 16 * 1024;
/// A silent HTTP/2 connection with requests in flight is asked for a sign of life this often …
const H2_PING_INTERVAL: Duration = Duration::from_secs(15);
/// … and given up without one after this time.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies that an HTTP/2 connection may keep beyond the exchanges that it has.
const H2_BODIES_LEFT_MAX: usize = 8;

pub(crate) type Message = http::Request<Bytes>;

/// A request that got no head of a response.
pub(crate) enum Undelivered {
    /// Not a byte of it was written, or the receiver says that it has done nothing with it. Here it is back.
    Unsent(Box<Message>, Fault),
    /// It may have arrived.
    Lost(Fault),
}

impl Undelivered {
    /// By what hyper says, of a message with this body.
    fn of(mut error: TrySendError<http::Request<Full<Bytes>>>, body: Bytes) -> Self {
        let fault = Fault::from_exchange(error.error());
        match error.take_message() {
            Some(message) => Self::Unsent(Box::new(message.map(|_| body)), fault),
            None => Self::Lost(fault),
        }
    }
}

/// A connection, held by one exchange.
pub(crate) enum Connection {
    Http1(Box<Http1>),
    Http2(Arc<Http2>),
}

impl Connection {
    /// Makes `message` fit the protocol and sends it.
    pub(crate) async fn send(
        &mut self,
        mut message: Message,
        target: &Target,
    ) -> Result<http::Response<Incoming>, Undelivered> {
        match self {
            Self::Http1(connection) => {
                *message.version_mut() = http::Version::HTTP_11;
                *message.uri_mut() = target.uri_origin_form().clone();
                message.headers_mut().insert(http::header::HOST, target.host_header().clone());
                connection.send(message).await
            }
            Self::Http2(connection) => {
                *message.version_mut() = http::Version::HTTP_2;
                *message.uri_mut() = target.uri_absolute().clone();
                message.headers_mut().remove(http::header::HOST);
                connection.send(message).await
            }
        }
    }

    /// The next frame of the response's body.
    pub(crate) async fn next_frame(
        &mut self,
        body: &mut Incoming,
    ) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        match self {
            Self::Http1(connection) => connection.next_frame(body).await,
            Self::Http2(_) => poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await,
        }
    }
}

/// An HTTP/1.1 connection.
pub(crate) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended; dropping it makes hyper hand back what it had not begun to write.
    driver: Option<http1::Connection<TokioIo<Stream>, Full<Bytes>>>,
    allowance: Allowance,
    allowance_bytes: usize,
    born: Instant,
}

impl Http1 {
    pub(crate) async fn open(
        stream: Stream,
        allowance: Allowance,
        config: &EgressConfig,
    ) -> Result<Self, hyper::Error> {
        let head_bytes_max = config.response_header_bytes_max.max(H1_BUFFER_BYTES_MIN);
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(head_bytes_max)
            // Holds for the trailers too, which the buffer does not bound.
            .max_header_size(head_bytes_max)
            .max_headers(config.response_headers_max)
            .handshake(TokioIo::new(stream))
            .await?;
        // The same again for chunk framing and TLS records.
        let allowance_bytes = 2 * (head_bytes_max + config.response_bytes_max);
        Ok(Self { sender, driver: Some(driver), allowance, allowance_bytes, born: Instant::now() })
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    async fn send(&mut self, message: Message) -> Result<http::Response<Incoming>, Undelivered> {
        self.allowance.set(self.allowance_bytes);
        let Self { sender, driver, .. } = self;
        let body = message.body().clone();
        // The answer comes by nothing but the driver, which has just run: nobody need be woken for it, this task least of
        // all, which would be polled once more for nothing. Unconstrained, since a budget that is used up would wake.
        let mut answer = pin!(unconstrained(sender.try_send_request(message.map(Full::new))));
        let answer = poll_fn(|cx| {
            drive(driver, cx);
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        answer.await.map_err(|error| Undelivered::of(error, body))
    }

    async fn next_frame(&mut self, body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            drive(&mut self.driver, cx);
            Pin::new(&mut *body).poll_frame(cx)
        })
        .await
    }

    /// Whether the connection can take a request right now. An idle one has nobody who polls it, so this is also
    /// where it is noticed that the peer has closed it, or has spoken out of turn.
    pub(crate) fn is_ready(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

fn drive<D: Future + Unpin>(driver: &mut Option<D>, cx: &mut Context<'_>) {
    if let Some(running) = driver
        && Pin::new(running).poll(cx).is_ready()
    {
        // Its error, if any, reaches whoever waits for the response or its body.
        *driver = None;
    }
}

/// An HTTP/2 connection, shared by exchanges with its origin.
pub(crate) struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    born: Instant,
    used: Mutex<Instant>,
    /// Shared with each body of a request that is not written yet.
    bodies: Arc<()>,
    /// The driver and the streams. Dropped with the connection, and they with it.
    _tasks: Tasks,
}

impl Http2 {
    pub(crate) async fn open(
        stream: Stream,
        allowance: &Allowance,
        config: &EgressConfig,
    ) -> Result<Self, hyper::Error> {
        allowance.lift();
        let stream_window =
            u32::try_from(config.response_bytes_max).unwrap_or(u32::MAX >> 1).max(H2_STREAM_WINDOW_BYTES_MIN);
        let head_bytes_max = u32::try_from(config.response_header_bytes_max).unwrap_or(u32::MAX);
        let tasks = Tasks::default();
        let (sender, driver) = http2::Builder::new(tasks.executor())
            .timer(TokioTimer::new())
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES.max(stream_window))
            .max_header_list_size(head_bytes_max)
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await?;
        tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "an HTTP/2 connection broke");
            }
        });
        let now = Instant::now();
        Ok(Self { sender, born: now, used: Mutex::new(now), bodies: Arc::default(), _tasks: tasks })
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    pub(crate) fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether it holds more bodies than its exchanges account for. A receiver may answer without ever letting a request's
    /// body come, and the connection then keeps it: the exchange is over, and the stream is not.
    pub(crate) fn hoards(self: &Arc<Self>) -> bool {
        Arc::strong_count(&self.bodies) > Arc::strong_count(self) + H2_BODIES_LEFT_MAX
    }

    async fn send(&self, message: Message) -> Result<http::Response<Incoming>, Undelivered> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let mut sender = self.sender.clone();
        // Hyper gives back what it has not begun to write, and nothing of what was refused after that.
        let kept = message.clone();
        let watched =
            |bytes| Full::new(Bytes::from_owner(Watched { bytes, _among: Arc::clone(&self.bodies) }));
        sender.try_send_request(message.map(watched)).await.map_err(|error| {
            if Fault::says_unprocessed(error.error()) {
                Undelivered::Unsent(Box::new(kept), Fault::from_exchange(error.error()))
            } else {
                Undelivered::of(error, kept.into_body())
            }
        })
    }
}

/// A body of a request, counted until nobody has it any more.
struct Watched {
    bytes: Bytes,
    _among: Arc<()>,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The tasks of one HTTP/2 connection.
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
