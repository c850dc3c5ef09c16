//! A receiver of webhooks on this machine: takes each one, answers it, checks its signatures and hands it on.
//!
//! It serves `neo-events listen` and `neo-events demo`; the bench has a cheaper one of its own (`bench::receiver`). It
//! hands webhooks on through a bounded channel: if nobody reads, senders wait. It is no gateway: nothing is forwarded and
//! nothing is kept.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use neo_events::{SignedDuration, SigningSecret, Sources, Timestamp};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Largest webhook taken, in bytes; a larger one is answered 413.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How far a webhook's timestamp may be from now: what Standard Webhooks libraries tolerate.
pub(crate) const TIMESTAMP_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

const CONNECTIONS_MAX: usize = 512;
const QUEUE_MAX: usize = 256;
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may finish after [`Receiver::stop`].
const STOP_GRACE: Duration = Duration::from_secs(2);
/// What to wait after a refused `accept`, which would be refused again at once (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A webhook as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// When its last byte was there.
    pub(crate) at: Timestamp,
    /// The same instant by a clock that does not jump.
    pub(crate) instant: Instant,
    /// POST, PUT or PATCH.
    pub(crate) method: Method,
    /// Path and query as sent.
    pub(crate) path: String,
    /// As sent.
    pub(crate) headers: HeaderMap,
    /// As sent; empty if it was larger than [`BODY_BYTES_MAX`].
    pub(crate) body: Bytes,
    /// What the receiver answered.
    pub(crate) answered: StatusCode,
}

/// What a check of one header found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// It fits.
    Valid,
    /// It does not.
    Invalid,
    /// There is no such header.
    Absent,
    /// There is one, but no secret to check it with.
    Unchecked,
}

impl Check {
    /// For programs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Absent => "absent",
            Self::Unchecked => "unchecked",
        }
    }
}

/// What the signature headers of a webhook are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checks {
    /// `X-Neo-Signature`, over the body; or `X-Neo-Signature-Previous`, with the secret before a rotation.
    pub(crate) body: Check,
    /// `webhook-signature`, over id, timestamp and body.
    pub(crate) standard: Check,
    /// `webhook-timestamp`, within [`TIMESTAMP_TOLERANCE`] of its arrival.
    pub(crate) timestamp: Check,
}

impl Checks {
    /// Whether both signatures and the timestamp are there and valid.
    pub(crate) fn all_valid(self) -> bool {
        [self.body, self.standard, self.timestamp] == [Check::Valid; 3]
    }
}

impl Received {
    /// A header's text; empty if it is missing or not text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The event's id, the same for every attempt.
    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The event's type.
    pub(crate) fn event_type(&self) -> &str {
        self.header("x-neo-event-type")
    }

    /// Which attempt this is; the first is 1.
    pub(crate) fn attempt(&self) -> Option<u32> {
        self.header("x-neo-attempt").parse().ok()
    }

    /// Checks both signatures with a secret, and the timestamp.
    pub(crate) fn check(&self, secret: Option<&SigningSecret>) -> Checks {
        let sent_at = self.header("webhook-timestamp").parse::<i64>().ok();
        let judge =
            |header: &str, verify: &dyn Fn(&SigningSecret, &str) -> bool| match (self.header(header), secret)
            {
                ("", _) => Check::Absent,
                (_, None) => Check::Unchecked,
                (signature, Some(secret)) if verify(secret, signature) => Check::Valid,
                _ => Check::Invalid,
            };
        Checks {
            body: judge("x-neo-signature", &|secret, signature| {
                let previous = self.header("x-neo-signature-previous");
                [signature, previous].into_iter().any(|one| secret.verifies_body(one, &self.body))
            }),
            standard: judge("webhook-signature", &|secret, signatures| {
                sent_at.is_some_and(|at| secret.verifies_message(signatures, self.id(), at, &self.body))
            }),
            timestamp: self.check_timestamp(sent_at),
        }
    }

    fn check_timestamp(&self, sent_at: Option<i64>) -> Check {
        if self.header("webhook-timestamp").is_empty() {
            return Check::Absent;
        }
        let sent_at = sent_at.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let is_close = sent_at.is_some_and(|at| self.at.duration_since(at).abs() <= TIMESTAMP_TOLERANCE);
        if is_close { Check::Valid } else { Check::Invalid }
    }
}

/// The receiver cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}")]
pub(crate) struct ReceiverError {
    address: SocketAddr,
    source: io::Error,
}

/// Decides how a request to this path is answered. GET and HEAD only ask whether somebody is there.
pub(crate) type Answer = dyn Fn(&Method, &str) -> StatusCode + Send + Sync;

/// A running receiver.
pub(crate) struct Receiver {
    address: SocketAddr,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

struct Desk {
    answer: Arc<Answer>,
    received: mpsc::Sender<Received>,
    sources: Sources,
}

impl Receiver {
    /// Listens and takes webhooks. Port 0 takes a free one.
    pub(crate) async fn start(
        address: SocketAddr,
        answer: Arc<Answer>,
    ) -> Result<(Self, mpsc::Receiver<Received>), ReceiverError> {
        let unusable = |source| ReceiverError { address, source };
        let listener = TcpListener::bind(address).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let (sender, webhooks) = mpsc::channel(QUEUE_MAX);
        let desk = Arc::new(Desk { answer, received: sender, sources: Sources::system() });
        let receiver = Self { address, tasks: TaskTracker::new(), stopping: CancellationToken::new() };
        receiver.tasks.spawn(accept(listener, desk, receiver.tasks.clone(), receiver.stopping.clone()));
        Ok((receiver, webhooks))
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: requests that are being answered may end.
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(STOP_GRACE, self.tasks.wait()).await;
    }
}

async fn accept(listener: TcpListener, desk: Arc<Desk>, tasks: TaskTracker, stopping: CancellationToken) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let next = async || {
        let seat = Arc::clone(&seats).acquire_owned().await;
        (listener.accept().await, seat)
    };
    while let Some((accepted, seat)) = stopping.run_until_cancelled(next()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (desk, stopping) = (Arc::clone(&desk), stopping.clone());
        tasks.spawn(async move {
            serve(stream, desk, stopping).await;
            drop(seat);
        });
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>, stopping: CancellationToken) {
    let service = service_fn(|request| {
        let desk = Arc::clone(&desk);
        async move { take(request, &desk).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS_TIMEOUT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    // How a connection ends is the sender's business: it sees it, and tries again.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn take(request: Request<Incoming>, desk: &Desk) -> Result<Response<Full<Bytes>>, BrokenBody> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    if is_probe(&head.method) {
        return Ok(respond((desk.answer)(&head.method, &path)));
    }
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Some(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => None,
        Err(_) => return Err(BrokenBody),
    };
    let answered =
        if body.is_some() { (desk.answer)(&head.method, &path) } else { StatusCode::PAYLOAD_TOO_LARGE };
    let received = Received {
        at: desk.sources.now(),
        instant: Instant::now(),
        method: head.method,
        path,
        headers: head.headers,
        body: body.unwrap_or_default(),
        answered,
    };
    // If nobody listens any more, the receiver is being stopped.
    let _ = desk.received.send(received).await;
    Ok(respond(answered))
}

/// Whether a request asks for reachability, and is no webhook.
pub(crate) fn is_probe(method: &Method) -> bool {
    method == Method::HEAD || method == Method::GET
}

fn respond(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// The sender broke off; hyper closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("the sender broke off")]
struct BrokenBody;

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(secret: &SigningSecret, body: &'static str, sent_at: i64, arrived_at: i64) -> Received {
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: String| headers.insert(name, value.parse().unwrap());
        set("webhook-id", "evt".into());
        set("webhook-timestamp", sent_at.to_string());
        set("webhook-signature", secret.sign_message("evt", sent_at, body.as_bytes()));
        set("x-neo-signature", secret.sign_body(body.as_bytes()));
        Received {
            at: Timestamp::from_second(arrived_at).unwrap(),
            instant: Instant::now(),
            method: Method::POST,
            path: "/".into(),
            headers,
            body: body.into(),
            answered: StatusCode::OK,
        }
    }

    #[test]
    fn each_header_is_judged_for_itself() {
        let [secret, other] = [SigningSecret::generate([1; 32]), SigningSecret::generate([2; 32])];
        let good = webhook(&secret, "{}", 1000, 1300);
        assert!(good.check(Some(&secret)).all_valid());
        assert_eq!(good.check(None).body, Check::Unchecked);
        let foreign = good.check(Some(&other));
        assert_eq!(
            [foreign.body, foreign.standard, foreign.timestamp],
            [Check::Invalid, Check::Invalid, Check::Valid]
        );
        let mut rotated = good.clone();
        rotated.headers.insert("x-neo-signature", other.sign_body(b"{}").parse().unwrap());
        assert_eq!(rotated.check(Some(&secret)).body, Check::Invalid);
        rotated.headers.insert("x-neo-signature-previous", secret.sign_body(b"{}").parse().unwrap());
        assert_eq!(rotated.check(Some(&secret)).body, Check::Valid);
        assert_eq!(rotated.check(Some(&other)).body, Check::Valid);
        let late = webhook(&secret, "{}", 1000, 1301).check(Some(&secret));
        assert_eq!([late.body, late.standard, late.timestamp], [Check::Valid, Check::Valid, Check::Invalid]);
        let changed = Received { body: "{ }".into(), ..good.clone() }.check(Some(&secret));
        assert_eq!([changed.body, changed.standard], [Check::Invalid; 2]);
        let bare = Received { headers: HeaderMap::new(), ..good }.check(Some(&secret));
        assert_eq!([bare.body, bare.standard, bare.timestamp], [Check::Absent; 3]);
    }
}
