//! The receiver of all webhooks, and what it knows of them: which event reached which endpoint when, and how often.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

/// Of one scenario; more than any system takes in its time.
pub(crate) const EVENTS_MAX: usize = 1_000_000;
/// What stands before an event's number. Some systems write the data anew, with blanks of their own.
const MARKER: &[u8] = br#""bench":"#;
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Times are nanoseconds since the ledger was opened; 0 is never.
pub(crate) struct Ledger {
    opened: Instant,
    endpoints: usize,
    /// When somebody began to publish an event.
    published: Vec<AtomicU64>,
    acknowledged: Vec<AtomicU64>,
    /// By event, then by endpoint.
    arrived: Vec<AtomicU64>,
    first_arrivals: AtomicUsize,
    last_arrival: AtomicU64,
    repeats: AtomicUsize,
    unsigned: AtomicUsize,
}

impl Ledger {
    pub(crate) fn new(endpoints: usize) -> Self {
        let column = |length: usize| (0..length).map(|_| AtomicU64::new(0)).collect();
        Self {
            opened: Instant::now(),
            endpoints,
            published: column(EVENTS_MAX),
            acknowledged: column(EVENTS_MAX),
            arrived: column(EVENTS_MAX * endpoints),
            first_arrivals: AtomicUsize::new(0),
            last_arrival: AtomicU64::new(0),
            repeats: AtomicUsize::new(0),
            unsigned: AtomicUsize::new(0),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.opened).as_nanos()).unwrap().max(1)
    }

    /// An event is about to be published, or should be by now.
    pub(crate) fn publishing(&self, event: usize, since: Instant) {
        self.published[event].store(self.nanos(since), Relaxed);
    }

    /// Its publisher was told that it was taken.
    pub(crate) fn acknowledge(&self, event: usize) {
        self.acknowledged[event].store(self.nanos(Instant::now()), Relaxed);
    }

    fn arrive(&self, event: usize, endpoint: usize, at: Instant) {
        let at = self.nanos(at);
        let place = &self.arrived[event * self.endpoints + endpoint];
        if place.compare_exchange(0, at, Relaxed, Relaxed).is_ok() {
            self.first_arrivals.fetch_add(1, Relaxed);
            self.last_arrival.fetch_max(at, Relaxed);
        } else {
            self.repeats.fetch_add(1, Relaxed);
        }
    }

    /// Webhooks that came after the first of their event and endpoint.
    pub(crate) fn repeats(&self) -> usize {
        self.repeats.load(Relaxed)
    }

    pub(crate) fn first_arrivals(&self) -> usize {
        self.first_arrivals.load(Relaxed)
    }

    pub(crate) fn unsigned(&self) -> usize {
        self.unsigned.load(Relaxed)
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.iter().filter(|at| at.load(Relaxed) > 0).count()
    }

    /// Deliveries of acknowledged events that have not arrived.
    pub(crate) fn missing(&self) -> usize {
        let owed = self.acknowledged.iter().enumerate().filter(|(_, at)| at.load(Relaxed) > 0);
        let of = |event: usize| &self.arrived[event * self.endpoints..(event + 1) * self.endpoints];
        owed.map(|(event, _)| of(event).iter().filter(|at| at.load(Relaxed) == 0).count()).sum()
    }

    /// Waits until nothing is missing, as long as something new arrives within `patience`.
    pub(crate) async fn wait(&self, patience: Duration) {
        let (mut seen, mut since) = (self.first_arrivals(), Instant::now());
        while self.missing() > 0 && since.elapsed() < patience {
            sleep(POLL_INTERVAL).await;
            if self.first_arrivals() > seen {
                (seen, since) = (self.first_arrivals(), Instant::now());
            }
        }
    }

    /// From the first publish call to the last arrival.
    pub(crate) fn took(&self) -> Duration {
        let began = self.published.iter().map(|at| at.load(Relaxed)).filter(|at| *at > 0).min().unwrap();
        Duration::from_nanos(self.last_arrival.load(Relaxed) - began)
    }

    /// From then to the last first arrival of an event that had been acknowledged before.
    pub(crate) fn caught_up_after(&self, then: Instant) -> Duration {
        let then = self.nanos(then);
        let before =
            self.acknowledged.iter().enumerate().filter(|(_, at)| (1..then).contains(&at.load(Relaxed)));
        let of = |event: usize| &self.arrived[event * self.endpoints..(event + 1) * self.endpoints];
        let last = before.flat_map(|(event, _)| of(event)).map(|at| at.load(Relaxed)).max().unwrap_or(0);
        Duration::from_nanos(last.saturating_sub(then))
    }

    /// From the publish call to the head of the request at the first endpoint, shortest first.
    pub(crate) fn latencies(&self) -> Vec<Duration> {
        let times = self.published.iter().zip(self.arrived.iter().step_by(self.endpoints));
        let times = times.map(|(published, arrived)| (published.load(Relaxed), arrived.load(Relaxed)));
        let mut all: Vec<_> = times
            .filter(|(published, arrived)| *published > 0 && *arrived > 0)
            .map(|(published, arrived)| Duration::from_nanos(arrived.saturating_sub(published)))
            .collect();
        all.sort_unstable();
        all
    }
}

/// Answers everything with 200; the path of a URL is the number of the endpoint.
pub(crate) struct Receiver {
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start(ledger: &Arc<Ledger>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(ledger)));
        Self { address, _server: server }
    }

    pub(crate) fn urls(&self, endpoints: usize) -> Vec<String> {
        (0..endpoints).map(|endpoint| format!("http://{}/{endpoint}", self.address)).collect()
    }
}

async fn accept(listener: TcpListener, ledger: Arc<Ledger>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let ledger = Arc::clone(&ledger);
        let take = service_fn(move |request: Request<Incoming>| take(Arc::clone(&ledger), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), take);
        connections.spawn(async move { drop(connection.await) });
        while connections.try_join_next().is_some() {}
    }
}

async fn take(ledger: Arc<Ledger>, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    // A killed server breaks off in the middle.
    if let Ok(body) = body.collect().await {
        if !head.headers.keys().any(|name| name.as_str().contains("signature")) {
            ledger.unsigned.fetch_add(1, Relaxed);
        }
        let endpoint = head.uri.path().trim_start_matches('/').parse();
        if let (Some(event), Ok(endpoint)) = (number_in(&body.to_bytes()), endpoint) {
            ledger.arrive(event, endpoint, at);
        }
    }
    Ok(Response::new(Empty::new()))
}

/// The number of the event that a body is about.
fn number_in(body: &[u8]) -> Option<usize> {
    let at = body.windows(MARKER.len()).position(|window| window == MARKER)? + MARKER.len();
    let digits = body[at..].iter().skip_while(|byte| !byte.is_ascii_digit());
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}
