//! A receiver that counts what arrives whole, verifies it, and can refuse it and hold its answers back.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use neo_events::SigningSecret;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::publishers::data_of;

/// The secret of every endpoint of the tests.
pub(crate) const SECRET: &str = "the secret of every endpoint";

const GOOD: u16 = 204;
const BAD: u16 = 503;
/// Later attempts are not refused in turn, so that everything gets through in the end.
const BAD_ATTEMPTS_MAX: usize = 3;

/// A request that came whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    /// As its sender counts.
    pub(crate) attempt: usize,
}

/// Every arrival at a receiver, by `webhook-id`.
#[derive(Default)]
pub(crate) struct Arrivals {
    all: Mutex<HashMap<String, Vec<Arrival>>>,
    held: Mutex<Held>,
    requests: AtomicUsize,
    /// Requests whose signature is not by [`SECRET`].
    forged: AtomicUsize,
    /// Requests that carry what [`data_of`] says, byte for byte.
    as_published: AtomicUsize,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

/// Requests whose answers are held back.
#[derive(Default)]
struct Held {
    waiting: Vec<String>,
    /// Their senders went away before they were answered.
    broken: Vec<String>,
}

impl Arrivals {
    /// Answers how many came before.
    fn add(&self, id: String, arrival: Arrival) -> usize {
        self.all.lock().unwrap().entry(id).or_default().push(arrival);
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// However often each event came.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn events(&self) -> usize {
        self.all.lock().unwrap().len()
    }

    pub(crate) fn all(&self) -> HashMap<String, Vec<Arrival>> {
        self.all.lock().unwrap().clone()
    }

    /// How many events arrived more than once.
    pub(crate) fn repeated(&self) -> usize {
        self.all.lock().unwrap().values().filter(|arrivals| arrivals.len() > 1).count()
    }

    /// Keeps those that have not arrived.
    pub(crate) fn retain_missing(&self, ids: &mut Vec<String>) {
        let all = self.all.lock().unwrap();
        ids.retain(|id| !all.contains_key(id));
    }

    /// Every request so far was a first attempt, and signed.
    pub(crate) fn assert_signed_first_attempts(&self) {
        self.assert_signed();
        let all = self.all.lock().unwrap();
        let attempt_max = all.values().flatten().map(|arrival| arrival.attempt).max();
        assert_eq!(attempt_max, Some(1), "nothing failed, so there is one attempt");
    }

    /// Every request so far was signed.
    pub(crate) fn assert_signed(&self) {
        assert_eq!(self.forged.load(Ordering::Relaxed), 0, "requests with a wrong signature");
    }

    /// Every request so far carried what had been published under its id, byte for byte.
    pub(crate) fn assert_as_published(&self) {
        let as_published = self.as_published.load(Ordering::Relaxed);
        assert_eq!(as_published, self.requests(), "all requests carry what was published");
    }

    fn judge(&self, headers: &HeaderMap, body: &[u8]) {
        let secret = SigningSecret::try_new(SECRET, 1).unwrap();
        let (signatures, id) = (text(headers, "webhook-signature"), text(headers, "webhook-id"));
        let timestamp = text(headers, "webhook-timestamp").parse().unwrap();
        if !secret.verifies_message(signatures, id, timestamp, body) {
            self.forged.fetch_add(1, Ordering::Relaxed);
        }
        let published = format!(r#""data":{},"aggregate""#, data_of(id));
        if body.windows(published.len()).any(|part| part == published.as_bytes()) {
            self.as_published.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The ids of requests that wait for their answers.
    pub(crate) fn held(&self) -> Vec<String> {
        self.held.lock().unwrap().waiting.clone()
    }

    /// The ids of requests whose senders died while they waited.
    pub(crate) fn broken(&self) -> Vec<String> {
        self.held.lock().unwrap().broken.clone()
    }
}

/// A request that waits for its answer. Dropped without one if its connection breaks.
struct Waiting {
    arrivals: Arc<Arrivals>,
    id: String,
    is_answered: bool,
}

impl Waiting {
    fn new(arrivals: Arc<Arrivals>, id: String) -> Self {
        arrivals.held.lock().unwrap().waiting.push(id.clone());
        Self { arrivals, id, is_answered: false }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut held = self.arrivals.held.lock().unwrap();
        let place = held.waiting.iter().position(|id| *id == self.id).unwrap();
        held.waiting.swap_remove(place);
        if !self.is_answered {
            held.broken.push(self.id.clone());
        }
    }
}

/// What is done with requests.
#[derive(Clone, Default)]
struct Orders {
    holding: Holding,
    /// Those held before the n-th release are answered by it: badly if their ids are in it.
    releases: Vec<Arc<HashSet<String>>>,
    /// Of so many requests one is answered badly, unless it is a late attempt.
    bad_one_in: Option<usize>,
}

/// Whose answers are held back.
#[derive(Clone, Default)]
enum Holding {
    #[default]
    Nothing,
    Everything,
    These(Arc<HashSet<String>>),
}

/// Answers everything with 204 and notes when the last bytes came.
pub(crate) struct Receiver {
    pub(crate) url: String,
    pub(crate) arrivals: Arc<Arrivals>,
    orders: watch::Sender<Orders>,
    _server: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let arrivals: Arc<Arrivals> = Arc::default();
        let log = Arc::clone(&arrivals);
        let (orders, given) = watch::channel(Orders::default());
        let mut server = JoinSet::new();
        server.spawn(accept(listener, log, given));
        Self { url, arrivals, orders, _server: server }
    }

    /// From now on the last of so many requests is answered badly.
    pub(crate) fn fail_one_in(&self, many: usize) {
        self.orders.send_modify(|orders| orders.bad_one_in = Some(many));
    }

    /// From now on no request is answered.
    pub(crate) fn hold(&self) {
        self.orders.send_modify(|orders| orders.holding = Holding::Everything);
    }

    /// Answers everything that is held, requests with these ids badly, and from now on holds these alone.
    pub(crate) fn fail_then_hold(&self, ids: HashSet<String>) {
        let ids = Arc::new(ids);
        self.orders.send_modify(|orders| {
            orders.releases.push(Arc::clone(&ids));
            orders.holding = Holding::These(ids);
        });
    }

    /// Answers everything well again.
    pub(crate) fn let_go(&self) {
        self.orders.send_modify(|orders| {
            orders.releases.push(Arc::default());
            orders.holding = Holding::Nothing;
        });
    }
}

async fn accept(listener: TcpListener, arrivals: Arc<Arrivals>, orders: watch::Receiver<Orders>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (arrivals, orders) = (Arc::clone(&arrivals), orders.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (arrivals, orders) = (Arc::clone(&arrivals), orders.clone());
            async move {
                let (head, body) = request.into_parts();
                // Half of a request from a server that is killed is no arrival.
                let body = body.collect().await?.to_bytes();
                let status = receive(orders, arrivals, &head.headers, &body).await;
                Ok::<_, hyper::Error>(
                    Response::builder().status(status).body(Full::<Bytes>::default()).unwrap(),
                )
            }
        });
        connections.spawn(async move {
            // A killed server breaks its connections: that is what is being tested.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Notes a request, and waits for its answer.
async fn receive(
    mut orders: watch::Receiver<Orders>,
    arrivals: Arc<Arrivals>,
    headers: &HeaderMap,
    body: &[u8],
) -> u16 {
    let at = Instant::now();
    let id = text(headers, "webhook-id").to_owned();
    let attempt = text(headers, "x-neo-attempt").parse().unwrap();
    arrivals.judge(headers, body);
    let before = arrivals.add(id.clone(), Arrival { at, attempt });
    let now = orders.borrow().clone();
    let is_held = match now.holding {
        Holding::Nothing => false,
        Holding::Everything => true,
        Holding::These(ids) => ids.contains(&id),
    };
    if !is_held {
        let is_turn = now.bad_one_in.is_some_and(|many| before % many == many - 1);
        return if is_turn && attempt <= BAD_ATTEMPTS_MAX { BAD } else { GOOD };
    }
    let mut waiting = Waiting::new(arrivals, id);
    let next = now.releases.len();
    let released = orders.wait_for(|orders| orders.releases.len() > next).await;
    // Otherwise the test is over.
    let is_bad = released.is_ok_and(|orders| orders.releases[next].contains(&waiting.id));
    waiting.is_answered = true;
    if is_bad { BAD } else { GOOD }
}
