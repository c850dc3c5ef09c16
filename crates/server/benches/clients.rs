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
#[path = "clients/posting.rs"]
mod posting;

use std::net::SocketAddr;

use axum::{Router, routing::post};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as Pooled, connect::HttpConnector},
    rt::TokioExecutor,
};
use line::Line;
use posting::{CALLERS, Caller, HEADERS, body, is_signed, listen, serve_bare, turn, turn_of_reqwest};
use tokio::{net::TcpListener, task::JoinSet};

const ROUNDS: usize = 5;

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
                rates[2].push(turn_of_reqwest(address).await);
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

/// As an application would have it.
async fn serve_axum(listener: TcpListener) {
    use axum::serve::ListenerExt;
    let take = async |headers: HeaderMap, _body: Bytes| is_signed(&headers);
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    axum::serve(listener, Router::new().route("/", post(take))).await.unwrap();
}
