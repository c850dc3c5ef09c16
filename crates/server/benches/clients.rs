//! The ratio of `neo-events bench` is to a client that is as lean as can be. How many webhooks a second it posts, and how
//! many other clients of HTTP do, in turn:
//!
//! - *connections*: a kept-alive connection for each caller and nothing between, which is the bare client of the bench;
//! - *hyper-util*: its client, which has a pool;
//! - *reqwest*: the client that most programs in Rust have, with its pool;
//!
//! to a receiver that is as cheap as the bench's and to one that is an application of axum. A ratio that somebody
//! else took is about another client: this tells how far apart they are.
//!
//! ```sh
//! cargo bench -p neo-events-server --bench clients
//! ```

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "peers/line.rs"]
mod line;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::post};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client as Pooled, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use line::Line;
use tokio::{net::TcpListener, task::JoinSet};

const CALLERS: usize = 32;
const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_secs(2);
/// About what a webhook of an event of 1 KiB has.
const HEADERS: [(&str, &str); 9] = [
    ("content-type", "application/json"),
    ("user-agent", "neo-events/0.1"),
    ("webhook-id", "0196b0c4-7a9e-7d2b-9f6e-0c1d2e3f4a5b"),
    ("webhook-timestamp", "1795824000"),
    ("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
    ("x-neo-signature", "sha256=7d38cdd689735b008b3c702edd92eea23791c5f6cb5bafb3a8e5f6a1f0b3d7c1"),
    ("x-neo-event-type", "bench.published"),
    ("x-neo-delivery", "0196b0c4-7a9e-7d2b-9f6e-0c1d2e3f4a5c"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
];

fn body() -> Bytes {
    format!(r#"{{"type":"bench.published","data":{{"text":"{}"}}}}"#, "x".repeat(1200)).into()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut receivers = JoinSet::new();
        let (bare, axum) = (listen().await, listen().await);
        let addresses = [bare.local_addr().unwrap(), axum.local_addr().unwrap()];
        receivers.spawn(serve_bare(bare));
        receivers.spawn(serve_axum(axum));
        println!("{CALLERS} callers, {} bytes; requests a second, median of {ROUNDS}", body().len());
        for (name, address) in [("bare", addresses[0]), ("axum", addresses[1])] {
            let mut rates: [Vec<f64>; 3] = Default::default();
            for _ in 0..ROUNDS {
                rates[0].push(turn(|| async { Line::open(address).await.unwrap() }).await);
                let client = Pooled::builder(TokioExecutor::new()).build_http();
                rates[1].push(turn(|| async { OfHyper { client: client.clone(), address } }).await);
                let client = reqwest::Client::builder().build().unwrap();
                rates[2].push(turn(|| async { OfReqwest { client: client.clone(), address } }).await);
            }
            let [connections, hyper, reqwest] = rates.map(median);
            println!(
                "receiver {name}: connections {connections:.0}, hyper-util {hyper:.0}, reqwest {reqwest:.0}"
            );
        }
    });
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Posts one webhook after the other.
trait Caller: Send + 'static {
    fn post(&mut self) -> impl Future<Output = StatusCode> + Send;
}

/// Requests a second of so many callers.
async fn turn<C: Caller, F: Future<Output = C>>(make: impl Fn() -> F) -> f64 {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut caller, is_over) = (make().await, Arc::clone(&is_over));
        assert_eq!(caller.post().await, StatusCode::OK);
        callers.spawn(async move {
            let mut posted = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(caller.post().await, StatusCode::OK);
                posted += 1;
            }
            posted
        });
    }
    let began = Instant::now();
    tokio::time::sleep(TURN).await;
    is_over.store(true, Ordering::Relaxed);
    let posted: f64 = callers.join_all().await.into_iter().map(f64::from).sum();
    posted / began.elapsed().as_secs_f64()
}

fn request(uri: String) -> Request<Full<Bytes>> {
    let mut request = Request::post(uri);
    for (name, value) in HEADERS {
        request = request.header(name, value);
    }
    request.body(Full::new(body())).unwrap()
}

impl Caller for Line {
    async fn post(&mut self) -> StatusCode {
        self.exchange(request("/".to_owned())).await.unwrap().0
    }
}

struct OfHyper {
    client: Pooled<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

impl Caller for OfHyper {
    async fn post(&mut self) -> StatusCode {
        let response = self.client.request(request(format!("http://{}/", self.address))).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    }
}

struct OfReqwest {
    client: reqwest::Client,
    address: SocketAddr,
}

impl Caller for OfReqwest {
    async fn post(&mut self) -> StatusCode {
        let mut request = self.client.post(format!("http://{}/", self.address)).body(body());
        for (name, value) in HEADERS {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        response.bytes().await.unwrap();
        status
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

fn is_signed(headers: &HeaderMap) -> StatusCode {
    if headers.contains_key("webhook-signature") { StatusCode::OK } else { StatusCode::BAD_REQUEST }
}

/// As the bench's: hyper alone.
async fn serve_bare(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let take = service_fn(|request: Request<Incoming>| async {
            let (head, body) = request.into_parts();
            let mut response = Response::new(Empty::<Bytes>::new());
            body.collect().await.unwrap();
            *response.status_mut() = is_signed(&head.headers);
            Ok::<_, Infallible>(response)
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), take);
        connections.spawn(async move { drop(connection.await) });
    }
}

/// As an application would have it.
async fn serve_axum(listener: TcpListener) {
    use axum::serve::ListenerExt;
    let take = async |headers: HeaderMap, _body: Bytes| is_signed(&headers);
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    axum::serve(listener, Router::new().route("/", post(take))).await.unwrap();
}
