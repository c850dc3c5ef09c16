//! One open connection and the exchanges on it.
//!
//! HTTP/1.1 serves one request at a time, so its driver lives next to its sender and is polled by whoever is waiting
//! for the response. No task is spawned, no wake-up crosses tasks, and dropping the request drops the connection.
//! HTTP/2 is shared, and has a module of its own.
//!
//! What hyper hands back untouched was never written to the socket; that may be sent again, and so may what an HTTP/2
//! receiver says it has not begun with.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::task::unconstrained;
use tokio::time::Instant;

use crate::config::EgressConfig;
use crate::failure::{Fault, Untouched};
use crate::http2::Exchange;
use crate::stream::{Allowance, Stream};
use crate::target::Target;

pub(crate) type Message = http::Request<Bytes>;

/// A request that got no head of a response.
pub(crate) enum Undelivered {
    /// The receiver has done nothing with it. Here it is back.
    Unsent(Box<Message>, Untouched, Fault),
    /// It may have arrived.
    Lost(Fault),
}

impl Undelivered {
    /// By what hyper says, of a message with this body.
    pub(crate) fn of(mut error: TrySendError<http::Request<Full<Bytes>>>, body: Bytes) -> Self {
        let fault = Fault::from_exchange(error.error());
        match error.take_message() {
            Some(message) => Self::Unsent(Box::new(message.map(|_| body)), Untouched::NotWritten, fault),
            None => Self::Lost(fault),
        }
    }
}

/// A connection, held by one exchange.
pub(crate) enum Connection {
    Http1(Box<Http1>),
    Http2(Exchange),
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
            Self::Http2(exchange) => {
                *message.version_mut() = http::Version::HTTP_2;
                *message.uri_mut() = target.uri_absolute().clone();
                message.headers_mut().remove(http::header::HOST);
                exchange.send(message).await
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
            Self::Http2(exchange) => exchange.next_frame(body).await,
        }
    }
}

/// An HTTP/1.1 connection.
pub(crate) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended; dropping it makes hyper hand back what it had not begun to write.
    driver: Option<http1::Connection<TokioIo<Stream>, Full<Bytes>>>,
    allowance: Allowance,
    allowance_bytes: u64,
    born: Instant,
}

impl Http1 {
    pub(crate) async fn open(
        stream: Stream,
        allowance: Allowance,
        config: &EgressConfig,
    ) -> Result<Self, hyper::Error> {
        let head_bytes_max = config.head_bytes_max();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(head_bytes_max)
            // Holds for the trailers too, which the buffer does not bound.
            .max_header_size(head_bytes_max)
            .max_headers(config.response_headers_max)
            .handshake(TokioIo::new(stream))
            .await?;
        let allowance_bytes = config.exchange_bytes_max();
        Ok(Self { sender, driver: Some(driver), allowance, allowance_bytes, born: Instant::now() })
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    async fn send(&mut self, message: Message) -> Result<http::Response<Incoming>, Undelivered> {
        self.allowance.set(self.allowance_bytes);
        let Self { sender, driver, .. } = self;
        let body = message.body().clone();
        // The answer comes by nothing but the driver, which has just run: nobody need be woken for it, this task least
        // of all, which would be polled once more for nothing. Unconstrained, since a used up budget would wake it.
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
