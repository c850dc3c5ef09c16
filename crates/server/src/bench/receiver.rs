//! The receiver: takes webhooks as cheaply as can be, and keeps a ledger of which event reached which endpoint when.
//!
//! `webhook_receiver::Receiver` hands every webhook on and checks both signatures; here that would be most of what is
//! measured.
//! This one looks whether the signatures are there, finds the event's number in the body and answers 200. A sample is
//! kept, and its signatures are checked once the clock has stopped.

use std::{
    convert::Infallible,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use neo_events::{SigningSecret, Sources};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::payload::number_in;
use crate::{cli::failure::Failure, webhook_receiver::Received};

/// Webhooks of a ledger that are kept for a check of their signatures.
const SAMPLES_MAX: usize = 16;
/// How often arrivals are counted while they are waited for. When the last one came is in the ledger, to the moment.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// What to wait after a refused `accept` (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Instants as nanoseconds since the bench's start, for tables of atomics. 0 is never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    /// Now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Since then.
    pub(crate) fn nanos(self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0).as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

/// Which of a range of events reached which endpoint, when first, and how many came twice.
pub(crate) struct Ledger {
    epoch: Epoch,
    numbers: Range<u64>,
    endpoints: usize,
    /// By event, then by endpoint.
    arrivals: Vec<AtomicU64>,
    arrived: AtomicUsize,
    duplicates: AtomicU64,
    unsigned: AtomicU64,
    samples: Mutex<Vec<Received>>,
}

/// A delivery that did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owed {
    /// The event's number.
    pub(crate) number: u64,
    /// The endpoint's.
    pub(crate) endpoint: usize,
}

impl Ledger {
    /// An empty one.
    pub(crate) fn new(epoch: Epoch, numbers: Range<u64>, endpoints: usize) -> Self {
        let events = usize::try_from(numbers.end - numbers.start).unwrap_or(0);
        Self {
            epoch,
            numbers,
            endpoints,
            arrivals: (0..events * endpoints).map(|_| AtomicU64::new(0)).collect(),
            arrived: AtomicUsize::new(0),
            duplicates: AtomicU64::new(0),
            unsigned: AtomicU64::new(0),
            samples: Mutex::default(),
        }
    }

    /// Deliveries that are expected.
    pub(crate) fn expected(&self) -> usize {
        self.arrivals.len()
    }

    /// Deliveries that arrived, each counted once.
    pub(crate) fn arrived(&self) -> usize {
        self.arrived.load(Ordering::Acquire)
    }

    /// Arrivals of what was there already, or belongs to an earlier ledger.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Arrivals without both signatures.
    pub(crate) fn unsigned(&self) -> u64 {
        self.unsigned.load(Ordering::Relaxed)
    }

    /// Notes an arrival. Of a first one it answers how many there were before.
    fn note(&self, number: Option<u64>, endpoint: Option<usize>, at: Instant) -> Option<usize> {
        let place = number.zip(endpoint).and_then(|(number, endpoint)| self.place(number, endpoint));
        let nanos = self.epoch.nanos(at);
        let is_first = place.is_some_and(|place| {
            self.arrivals[place].compare_exchange(0, nanos, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if is_first {
            return Some(self.arrived.fetch_add(1, Ordering::Release));
        }
        self.duplicates.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn place(&self, number: u64, endpoint: usize) -> Option<usize> {
        let is_known = self.numbers.contains(&number) && endpoint < self.endpoints;
        let event = usize::try_from(number.checked_sub(self.numbers.start)?).ok()?;
        is_known.then_some(event * self.endpoints + endpoint)
    }

    /// Whether this arrival is one of those to keep: the first, and then one in so many.
    fn is_sample(&self, before: usize) -> bool {
        let every = (self.expected() / SAMPLES_MAX).max(1);
        before.is_multiple_of(every)
    }

    fn keep(&self, sample: Received) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < SAMPLES_MAX {
            samples.push(sample);
        }
    }

    /// One that arrived, if any did.
    pub(crate) fn sample(&self) -> Option<Received> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// How many samples there are, and how many of them have valid signatures.
    pub(crate) fn check_samples(&self, secret: &SigningSecret) -> (usize, usize) {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        (samples.len(), samples.iter().filter(|sample| sample.check(Some(secret)).all_valid()).count())
    }

    /// Waits until everything arrived, telling how much did; gives up once nothing new came for `patience`.
    pub(crate) async fn wait(&self, patience: Duration, mut tell: impl FnMut(usize)) -> bool {
        let (mut seen, mut changed_at) = (self.arrived(), Instant::now());
        loop {
            let arrived = self.arrived();
            tell(arrived);
            if arrived == self.expected() {
                return true;
            }
            if arrived != seen {
                (seen, changed_at) = (arrived, Instant::now());
            } else if changed_at.elapsed() > patience {
                return false;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// What did not arrive.
    pub(crate) fn owed(&self) -> impl Iterator<Item = Owed> {
        let deliveries = self
            .numbers
            .clone()
            .flat_map(|number| (0..self.endpoints).map(move |endpoint| Owed { number, endpoint }));
        let is_owed = |arrival: &AtomicU64| arrival.load(Ordering::Acquire) == 0;
        deliveries.zip(&self.arrivals).filter(move |(_, arrival)| is_owed(arrival)).map(|(owed, _)| owed)
    }

    /// When the last first arrival was, since the epoch; zero if none was.
    pub(crate) fn last_arrival(&self) -> Duration {
        let nanos = self.arrivals.iter().map(|arrival| arrival.load(Ordering::Acquire)).max();
        Duration::from_nanos(nanos.unwrap_or(0))
    }

    /// From each event's start, by its place in the range, to each of its arrivals.
    pub(crate) fn latencies(&self, starts: &[AtomicU64]) -> Vec<Duration> {
        let of = |(arrivals, start): (&[AtomicU64], &AtomicU64)| {
            let start = start.load(Ordering::Acquire);
            let arrived = arrivals.iter().map(|arrival| arrival.load(Ordering::Acquire)).filter(|at| *at > 0);
            arrived.map(move |at| Duration::from_nanos(at.saturating_sub(start))).collect::<Vec<_>>()
        };
        self.arrivals.chunks(self.endpoints.max(1)).zip(starts).flat_map(of).collect()
    }
}

/// A running receiver; gone when dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    desk: Arc<Desk>,
    _accepting: JoinSet<()>,
}

struct Desk {
    ledger: RwLock<Arc<Ledger>>,
    sources: Sources,
}

impl Receiver {
    /// Listens on a free port of loopback.
    pub(crate) async fn start(ledger: Arc<Ledger>) -> Result<Self, Failure> {
        let unusable = |error: std::io::Error| Failure::Serve {
            message: format!("the receiver cannot listen on loopback: {error}"),
            advice: None,
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let desk = Arc::new(Desk { ledger: RwLock::new(ledger), sources: Sources::system() });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&desk)));
        Ok(Self { address, desk, _accepting: accepting })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of an endpoint.
    pub(crate) fn url(&self, endpoint: usize) -> String {
        format!("http://{}{}", self.address, path(endpoint))
    }

    /// Arrivals count for this ledger from now on.
    pub(crate) fn turn_to(&self, ledger: &Arc<Ledger>) {
        *self.desk.ledger.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(ledger);
    }
}

/// The path of an endpoint.
pub(crate) fn path(endpoint: usize) -> String {
    format!("/{endpoint}")
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, Arc::clone(&desk)));
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    // Without it answers would wait for acknowledgements; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let at = Instant::now();
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(take(request, at, &desk).await) }
    });
    // How a connection ends is the sender's business: it sees it, and tries again.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn take(request: Request<Incoming>, at: Instant, desk: &Desk) -> Response<Empty<Bytes>> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    let Ok(body) = body.collect().await else {
        *response.status_mut() = StatusCode::BAD_REQUEST; // broken off: nobody will read it
        return response;
    };
    let body = body.to_bytes();
    let ledger = Arc::clone(&desk.ledger.read().unwrap_or_else(PoisonError::into_inner));
    if !is_signed(&head.headers) {
        ledger.unsigned.fetch_add(1, Ordering::Relaxed);
    }
    let endpoint = head.uri.path().strip_prefix('/').and_then(|path| path.parse().ok());
    if ledger.note(number_in(&body), endpoint, at).is_some_and(|before| ledger.is_sample(before)) {
        ledger.keep(Received {
            at: desk.sources.now(),
            instant: at,
            method: head.method,
            path: head.uri.path().to_owned(),
            headers: head.headers,
            body,
            answered: StatusCode::OK,
        });
    }
    response
}

fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key("webhook-signature") && headers.contains_key("x-neo-signature")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::connection::Connection;

    #[test]
    fn a_ledger_knows_what_is_owed_and_what_came_twice() {
        let epoch = Epoch::start();
        let ledger = Ledger::new(epoch, 10..12, 2);
        let (early, late) = (epoch.0 + Duration::from_millis(5), epoch.0 + Duration::from_millis(9));
        assert_eq!(ledger.note(Some(10), Some(0), early), Some(0));
        assert_eq!(ledger.note(Some(11), Some(1), late), Some(1));
        for (number, endpoint) in [
            (Some(10), Some(0)),
            (Some(9), Some(0)),
            (Some(12), Some(0)),
            (Some(10), Some(2)),
            (None, Some(0)),
        ] {
            assert_eq!(ledger.note(number, endpoint, late), None, "{number:?} {endpoint:?}");
        }
        assert_eq!([ledger.expected(), ledger.arrived()], [4, 2]);
        assert_eq!(ledger.duplicates(), 5);
        let owed: Vec<_> = ledger.owed().collect();
        assert_eq!(owed, [Owed { number: 10, endpoint: 1 }, Owed { number: 11, endpoint: 0 }]);
        assert_eq!(ledger.last_arrival(), Duration::from_millis(9));
        let starts =
            [1, 2].map(|ms| AtomicU64::new(Duration::from_millis(ms).as_nanos().try_into().unwrap()));
        assert_eq!(ledger.latencies(&starts), [4, 7].map(Duration::from_millis));
    }

    #[tokio::test]
    async fn what_does_not_arrive_is_given_up_and_signatures_are_looked_for() {
        let ledger = Arc::new(Ledger::new(Epoch::start(), 0..2, 1));
        let receiver = Receiver::start(Arc::clone(&ledger)).await.unwrap();
        let mut connection = Connection::open(receiver.address()).await.unwrap();
        let mut post = async |number, signatures: &[&str]| {
            let mut request = Request::post(path(0)).header("host", "receiver");
            for name in signatures {
                request = request.header(*name, "x");
            }
            let body = crate::bench::payload::payload(number, 64);
            let (status, _) = connection.send(request.body(Bytes::from(body).into()).unwrap()).await.unwrap();
            assert_eq!(status, StatusCode::OK);
        };
        post(0, &["webhook-signature", "x-neo-signature"]).await;
        assert_eq!(ledger.unsigned(), 0);
        assert!(!ledger.wait(Duration::from_millis(20), |_| ()).await);
        assert_eq!(ledger.owed().collect::<Vec<_>>(), [Owed { number: 1, endpoint: 0 }]);
        post(1, &["webhook-signature"]).await;
        assert!(ledger.wait(Duration::from_secs(30), |_| ()).await);
        assert_eq!([ledger.unsigned(), ledger.duplicates()], [1, 0]);
        let (samples, valid) = ledger.check_samples(&SigningSecret::generate([7; 32]));
        assert_eq!([samples, valid], [2, 0], "x is no signature");
    }
}
