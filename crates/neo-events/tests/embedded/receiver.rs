//! A webhook receiver on loopback that answers as it is told and remembers what it got.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) delay: Duration,
    /// Not before this is true.
    pub(crate) gate: Option<watch::Receiver<bool>>,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    received: Arc<Mutex<Vec<Received>>>,
    _server: JoinSet<()>,
}

impl Receiver {
    /// Answers every request with 204.
    pub(crate) async fn start() -> Self {
        Self::answering(|_, _| Answer::status(204)).await
    }

    /// `answer` is given the request and how many came before it.
    pub(crate) async fn answering(
        answer: impl Fn(&Received, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (log, answer) = (Arc::clone(&received), Arc::new(answer));
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            async move {
                let request =
                    Received { method, path: uri.path().to_owned(), headers, body, at: Instant::now() };
                let before = {
                    let mut log = log.lock().unwrap();
                    log.push(request.clone());
                    log.len() - 1
                };
                respond(answer(&request, before)).await
            }
        };
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        Self { url, received, _server: server }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits until `count` requests came.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} requests"), async || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }
}

async fn respond(answer: Answer) -> Response {
    tokio::time::sleep(answer.delay).await;
    if let Some(mut gate) = answer.gate {
        // Who holds it has gone: so may we.
        let _ = gate.wait_for(|is_open| *is_open).await;
    }
    let mut response = StatusCode::from_u16(answer.status).unwrap().into_response();
    for (name, value) in answer.headers {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
    }
    response
}

/// Asks again and again until there is an answer; fails after [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not come about within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
