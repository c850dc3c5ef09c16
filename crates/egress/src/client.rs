//! Sending a request: pool, connection, response, and the one deadline over all of it.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::body::{self, Extent, Length};
use crate::config::{EgressConfig, EgressError};
use crate::connect::{Connector, Dns, Route};
use crate::connection::{Connection, Message, Undelivered};
use crate::failure::{Failure, FailureKind, Fault, Untouched};
use crate::keep_alive;
use crate::policy::TargetPolicy;
use crate::pool::{Found, Gate, Place, Pool, Reuse};
use crate::probe::{ProbeOutcome, ProbeReport};
use crate::redirect::{self, REDIRECTS_MAX};
use crate::resolve::Resolve;
use crate::stats::{ConnectionStats, Counters, Timings};
use crate::system_resolver::SystemResolver;
use crate::target::Target;

/// A request takes no longer than this, whatever it asks for.
const TOTAL_TIMEOUT_MAX: Duration = Duration::from_hours(1);
/// How long a request waits for another one's connection before it makes its own.
const GATE_TIMEOUT: Duration = Duration::from_secs(1);
/// Times that a request is sent of which the receiver says that it has done nothing with it.
const TIMES_SENT_MAX: usize = 3;
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(100);
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// A request to a target that the policy has accepted.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method; it survives redirects.
    pub method: Method,
    /// Where to.
    pub target: Target,
    /// Sent as given, but for those that frame the message (`host`, `content-length`, `transfer-encoding`,
    /// `connection` and its kin, `expect`, `accept-encoding`), which are dropped: framing is this crate's business.
    pub headers: HeaderMap,
    /// Sent as it is, with a `content-length`.
    pub body: Bytes,
    /// From the call to the last byte of the response; at most an hour. A third of it, at most 10 s, may go into
    /// connecting.
    pub total_timeout: Duration,
    /// Whether 307 and 308 are followed, at most five times. Other redirects are responses like any other.
    pub follow_redirects: bool,
    /// Whether the receiver's certificate must be valid.
    pub verify_tls: bool,
}

/// A response, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers of the response.
    pub headers: HeaderMap,
    /// The body as it came, up to `response_bytes_max`; never decompressed.
    pub body: Bytes,
    /// Whether there was more of the body than was read, or it broke off.
    pub body_truncated: bool,
    /// Whether the connection had served another request before.
    pub connection_reused: bool,
    /// From the call to the end of the body.
    pub elapsed: Duration,
    /// Where the time went; of the last hop, if redirects were followed.
    pub timings: Timings,
}

/// The client. Clones share the pool; when the last one is dropped, every connection is closed.
#[derive(Clone)]
pub struct Egress(Arc<Shared>);

struct Shared {
    connector: Connector,
    pool: Arc<Pool>,
    counters: Arc<Counters>,
    sweeper: OnceLock<JoinSet<()>>,
}

/// What is known of a request on its way, for the report if it fails.
#[derive(Default)]
struct Progress {
    connection_reused: bool,
    status: Option<StatusCode>,
    /// The answer, while its body is read.
    answer: Option<Answer>,
    timings: Timings,
}

impl Progress {
    /// The answer, if its body broke off and its status is all that matters: a failure, and what the receiver asks for
    /// then. A success without its whole body is not believed.
    fn answer_cut_short(&mut self) -> Option<Reply> {
        let answer = self.answer.take().filter(|answer| !answer.status.is_success())?;
        Some(Reply { answer, extent: Extent::Truncated })
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: BytesMut,
}

/// The answer of one hop.
struct Reply {
    answer: Answer,
    extent: Extent,
}

impl Egress {
    /// A client with the system's resolver.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let resolver = SystemResolver::try_new().map_err(EgressError::Resolver)?;
        Self::with_resolver(config, Arc::new(resolver))
    }

    /// A client with a resolver of the caller's.
    pub fn with_resolver(config: EgressConfig, resolver: Arc<dyn Resolve>) -> Result<Self, EgressError> {
        let counters = Arc::new(Counters::default());
        let pool = Arc::new(Pool::new(&config, counters.clone()));
        let connector = Connector::try_new(config, resolver, counters.clone())?;
        Ok(Self(Arc::new(Shared { connector, pool, counters, sweeper: OnceLock::new() })))
    }

    /// The policy that every address is judged by.
    pub fn policy(&self) -> &TargetPolicy {
        &self.0.connector.config().policy
    }

    /// What the pool has done so far.
    pub fn stats(&self) -> ConnectionStats {
        self.0.counters.snapshot()
    }

    /// Sends a request and reads the response. Dropping the future closes the connection (HTTP/1.1) or resets the
    /// stream (HTTP/2). Must be called within a tokio runtime.
    pub async fn send(&self, mut request: Request) -> Result<Response, Failure> {
        let begun = Instant::now();
        request.total_timeout = request.total_timeout.min(TOTAL_TIMEOUT_MAX);
        let mut progress = Progress::default();
        let (total_timeout, follows) = (request.total_timeout, request.follow_redirects);
        let reply = {
            let exchange = pin!(self.0.exchange(request, &mut progress));
            timeout(total_timeout, exchange).await
        };
        let reply = reply.unwrap_or_else(|_| {
            let reply = progress.answer_cut_short();
            let is_last = |reply: &Reply| !(follows && redirect::is_followed(reply.answer.status));
            reply.filter(is_last).ok_or_else(Fault::timeout_total)
        });
        match reply {
            Ok(reply) => Ok(reply.into_response(&progress, begun.elapsed())),
            Err(fault) => Err(self.0.failure(fault, &progress, begun.elapsed())),
        }
    }

    /// Tests whether `target` can be reached: HEAD over a fresh connection and a fresh DNS answer.
    pub async fn probe(&self, target: &Target, verify_tls: bool, total_timeout: Duration) -> ProbeReport {
        let begun = Instant::now();
        let total_timeout = total_timeout.min(TOTAL_TIMEOUT_MAX);
        let mut progress = Progress::default();
        let outcome =
            timeout(total_timeout, self.0.knock(target, verify_tls, total_timeout, &mut progress)).await;
        let outcome = match outcome.unwrap_or_else(|_| Err(Fault::timeout_total())) {
            Ok(status) => ProbeOutcome::Answered(status),
            Err(fault) => ProbeOutcome::Failed(self.0.failure(fault, &progress, begun.elapsed())),
        };
        ProbeReport { outcome, timings: progress.timings, elapsed: begun.elapsed() }
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Egress").field("policy", self.policy()).finish_non_exhaustive()
    }
}

impl Shared {
    /// One hop, and those it redirects to.
    async fn exchange(&self, mut request: Request, progress: &mut Progress) -> Result<Reply, Fault> {
        self.counters.requests.increment();
        strip_framing(&mut request.headers);
        if !request.follow_redirects {
            return self.hop(request, progress).await;
        }
        for _ in 0..=REDIRECTS_MAX {
            let reply = self.hop(request.clone(), progress).await?;
            if !redirect::is_followed(reply.answer.status) {
                return Ok(reply);
            }
            let policy = &self.connector.config().policy;
            let target = redirect::next_target(policy, &request.target, &reply.answer.headers)?;
            redirect::strip_credentials(&mut request.headers, &request.target, &target);
            request.target = target;
        }
        Err(Fault::new(FailureKind::TooManyRedirects, "the receiver redirects too often"))
    }

    async fn hop(&self, request: Request, progress: &mut Progress) -> Result<Reply, Fault> {
        *progress = Progress::default();
        let Request { method, target, headers, body, total_timeout, verify_tls, .. } = request;
        let place = Place { origin: target.origin().clone(), verify_tls };
        let mut message = Message::new(body);
        *message.method_mut() = method;
        *message.headers_mut() = headers;

        let dial = Dial { target: &target, place: &place, total_timeout };
        let (mut connection, response) = self.deliver(&dial, message, progress).await?;
        let reply = self.read_reply(&mut connection, response, progress).await;
        let reply = reply.or_else(|fault| progress.answer_cut_short().ok_or(fault))?;
        if let Connection::Http2(exchange) = &connection
            && exchange.connection().hoards()
        {
            self.pool.retire(&place, exchange.connection());
        }
        self.release(&place, connection, &reply);
        Ok(reply)
    }

    /// Sends a request, and once more for as long as the receiver has done nothing with it.
    async fn deliver(
        &self,
        dial: &Dial<'_>,
        mut message: Message,
        progress: &mut Progress,
    ) -> Result<(Connection, http::Response<Incoming>), Fault> {
        let mut reuse = Reuse::Welcome;
        let mut times_sent = 0;
        loop {
            let mut connection = self.acquire(dial, reuse, progress).await?;
            let begun = Instant::now();
            let (unsent, why, fault) = match connection.send(message, dial.target).await {
                Ok(response) => {
                    progress.timings.response = Some(begun.elapsed());
                    return Ok((connection, response));
                }
                Err(Undelivered::Lost(fault)) => return Err(fault),
                Err(Undelivered::Unsent(unsent, why, fault)) => (unsent, why, fault),
            };
            times_sent += 1;
            if !is_sent_again(why, times_sent, progress.connection_reused) {
                return Err(fault);
            }
            let is_first = times_sent == 1;
            let may_go_on = is_first && why == Untouched::Refused;
            if let Connection::Http2(exchange) = &connection
                && !may_go_on
            {
                self.pool.retire(dial.place, exchange.connection());
            }
            // What was kept for as long as that one is likely gone, too; who speaks is there.
            let says_so = why != Untouched::NotWritten;
            reuse = if is_first && says_so { Reuse::Welcome } else { Reuse::Never };
            message = *unsent;
        }
    }

    /// Leaves the answer in `progress` if its body breaks off.
    async fn read_reply(
        &self,
        connection: &mut Connection,
        response: http::Response<Incoming>,
        progress: &mut Progress,
    ) -> Result<Reply, Fault> {
        let (head, incoming) = response.into_parts();
        progress.status = Some(head.status);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Fault::new(FailureKind::UpgradeRefused, "the receiver switched protocols"));
        }
        let length = Length::of(head.version, &head.headers);
        let answer = Answer { status: head.status, headers: head.headers, body: BytesMut::new() };
        let body = &mut progress.answer.insert(answer).body;
        let bytes_max = self.connector.config().response_bytes_max;
        let extent = body::read(connection, (incoming, length), bytes_max, body).await?;
        let answer = progress.answer.take().ok_or_else(Fault::closed)?;
        Ok(Reply { answer, extent })
    }

    /// The connectivity test's exchange. Its connection is not kept.
    async fn knock(
        &self,
        target: &Target,
        verify_tls: bool,
        total_timeout: Duration,
        progress: &mut Progress,
    ) -> Result<StatusCode, Fault> {
        self.counters.requests.increment();
        let mut message = Message::new(Bytes::new());
        *message.method_mut() = Method::HEAD;
        let route = Route {
            target,
            verify_tls,
            dns: Dns::Anew,
            within: self.connector.timeout(total_timeout),
            http2_streams_max: 1,
        };
        let mut connection = self.connector.connect(route, &mut progress.timings).await?;
        let begun = Instant::now();
        let response = match connection.send(message, target).await {
            Ok(response) => response,
            Err(Undelivered::Unsent(_, _, fault) | Undelivered::Lost(fault)) => return Err(fault),
        };
        progress.timings.response = Some(begun.elapsed());
        self.read_reply(&mut connection, response, progress).await.map(|reply| reply.answer.status)
    }

    /// A connection from the pool, or a new one.
    async fn acquire(
        &self,
        dial: &Dial<'_>,
        reuse: Reuse,
        progress: &mut Progress,
    ) -> Result<Connection, Fault> {
        let found = match reuse {
            Reuse::Welcome => self.pool.take(dial.place),
            Reuse::Never => Found::Nothing,
        };
        let gate = match found {
            Found::Ready(connection) => return Ok(self.reused(connection, progress)),
            Found::NothingYet(gate) => Some(gate),
            Found::Nothing => None,
        };
        // Boxed: whoever finds a connection need not carry the making of one.
        Box::pin(self.connect(dial, gate, reuse, progress)).await
    }

    fn reused(&self, connection: Connection, progress: &mut Progress) -> Connection {
        progress.connection_reused = true;
        self.counters.reuses.increment();
        connection
    }

    /// Makes a connection, or waits at the gate until there is one. All of it is within the time for connecting, and
    /// nobody waits for long at the gate: whoever is making the connection may wait for one that never answers.
    async fn connect(
        &self,
        dial: &Dial<'_>,
        gate: Option<Gate>,
        reuse: Reuse,
        progress: &mut Progress,
    ) -> Result<Connection, Fault> {
        let begun = Instant::now();
        let within = self.connector.timeout(dial.total_timeout);
        let mut _turn = None;
        if let Some(gate) = &gate {
            _turn = timeout(GATE_TIMEOUT.min(within / 2), gate.lock()).await.ok();
            if let Found::Ready(connection) = self.pool.take(dial.place) {
                return Ok(self.reused(connection, progress));
            }
        }
        progress.connection_reused = false;
        let route = Route {
            target: dial.target,
            verify_tls: dial.place.verify_tls,
            dns: Dns::Cached,
            within: within.saturating_sub(begun.elapsed()),
            http2_streams_max: self.pool.http2_streams_max(dial.place),
        };
        Ok(match self.connector.connect(route, &mut progress.timings).await? {
            Connection::Http2(exchange) => {
                self.keep_swept();
                Connection::Http2(self.pool.share(dial.place, exchange, reuse))
            }
            connection @ Connection::Http1(_) => connection,
        })
    }

    fn release(&self, place: &Place, connection: Connection, reply: &Reply) {
        if let (Connection::Http1(http1), Extent::Whole) = (connection, reply.extent)
            && !body::may_come_late(reply.answer.status, &reply.answer.headers)
        {
            self.keep_swept();
            self.pool.give_back(place, http1, keep_alive::idle_max(&reply.answer.headers));
        }
    }

    /// Starts the sweep with the first connection that is kept. It ends with the pool.
    fn keep_swept(&self) {
        self.sweeper.get_or_init(|| {
            let EgressConfig { idle_timeout, idle_surplus_timeout, .. } = self.connector.config();
            let surplus = if idle_surplus_timeout.is_zero() { *idle_timeout } else { *idle_surplus_timeout };
            let interval = (*idle_timeout / 4).min(surplus);
            let interval = interval.clamp(SWEEP_INTERVAL_MIN, SWEEP_INTERVAL_MAX);
            let pool = Arc::downgrade(&self.pool);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                loop {
                    sleep(interval).await;
                    let Some(pool) = pool.upgrade() else { return };
                    pool.sweep();
                }
            });
            tasks
        });
    }

    fn failure(&self, fault: Fault, progress: &Progress, elapsed: Duration) -> Failure {
        if fault.kind.is_connection_error() {
            self.counters.connection_errors.increment();
        }
        Failure {
            kind: fault.kind,
            detail: fault.detail.to_owned(),
            connection_reused: progress.connection_reused,
            status: progress.status,
            elapsed,
        }
    }
}

/// Where a connection is wanted to.
struct Dial<'a> {
    target: &'a Target,
    place: &'a Place,
    total_timeout: Duration,
}

impl Reply {
    fn into_response(self, progress: &Progress, elapsed: Duration) -> Response {
        let Self { answer, extent } = self;
        Response {
            status: answer.status,
            headers: answer.headers,
            body: answer.body.freeze(),
            body_truncated: extent == Extent::Truncated,
            connection_reused: progress.connection_reused,
            elapsed,
            timings: progress.timings,
        }
    }
}

/// Whether a request goes out once more that the receiver has done nothing with. What it says itself is believed; if it
/// closes a new connection at once, that is its answer.
fn is_sent_again(why: Untouched, times_sent: usize, connection_reused: bool) -> bool {
    times_sent < TIMES_SENT_MAX && (connection_reused || why != Untouched::NotWritten)
}

/// Two opinions about where a message ends are how requests are smuggled, so the caller has none.
fn strip_framing(headers: &mut HeaderMap) {
    const FRAMING: [header::HeaderName; 11] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::HeaderName::from_static("keep-alive"),
        header::HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::ACCEPT_ENCODING,
    ];
    if headers.keys().any(|name| FRAMING.contains(name)) {
        for name in FRAMING {
            headers.remove(name);
        }
    }
}
