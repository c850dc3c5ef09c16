//! Clients of HTTP that post webhooks one after the other, and a receiver that is as cheap as the bench's.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

pub(crate) const CALLERS: usize = 32;
const TURN: Duration = Duration::from_secs(2);
/// About what a webhook of an event of 1 KiB has.
pub(crate) const HEADERS: [(&str, &str); 9] = [
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

pub(crate) fn body() -> Bytes {
    format!(r#"{{"type":"bench.published","data":{{"text":"{}"}}}}"#, "x".repeat(1200)).into()
}

/// Posts one webhook after the other.
pub(crate) trait Caller: Send + 'static {
    fn post(&mut self) -> impl Future<Output = StatusCode> + Send;
}

/// Requests a second of so many callers.
pub(crate) async fn turn<C: Caller, F: Future<Output = C>>(make: impl Fn() -> F) -> f64 {
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

/// The client that most programs in Rust have, with its pool.
pub(crate) struct OfReqwest {
    client: reqwest::Client,
    address: SocketAddr,
}

/// Requests a second of that client, to a receiver that is as cheap as can be.
pub(crate) async fn turn_of_reqwest(address: SocketAddr) -> f64 {
    let client = reqwest::Client::builder().build().unwrap();
    turn(|| async { OfReqwest { client: client.clone(), address } }).await
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

pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

pub(crate) fn is_signed(headers: &HeaderMap) -> StatusCode {
    if headers.contains_key("webhook-signature") { StatusCode::OK } else { StatusCode::BAD_REQUEST }
}

/// As the bench's: hyper alone.
pub(crate) async fn serve_bare(listener: TcpListener) {
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
