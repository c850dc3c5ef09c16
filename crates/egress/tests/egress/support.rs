//! Receivers on loopback that do as a test tells them, and count what is done to them.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use neo_events_egress::{
    Egress, EgressConfig, Lookup, Request, Resolve, ResolveError, Resolved, Target, TargetPolicy,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What a receiver has seen and done.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_ended: AtomicUsize,
    pub(crate) bytes_sent: AtomicUsize,
    pub(crate) heads: Mutex<Vec<String>>,
    pub(crate) bodies: Mutex<Vec<Vec<u8>>>,
    changed: Notify,
}

impl Tally {
    pub(crate) fn requests(&self) -> usize {
        self.heads.lock().expect("no panics in receivers").len()
    }

    pub(crate) fn head(&self, index: usize) -> String {
        self.heads.lock().expect("no panics in receivers")[index].clone()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn requests_came(&self, count: usize) {
        let came = async {
            while self.requests() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, came).await.expect("requests come in time");
    }

    /// Waits until so many connections were closed by the client or the receiver.
    pub(crate) async fn connections_ended(&self, count: usize) {
        let ended = async {
            loop {
                let changed = self.changed.notified();
                if self.connections_ended.load(Ordering::SeqCst) >= count {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("connections end in time");
    }
}

/// One connection that a receiver has accepted.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) tally: Arc<Tally>,
}

impl Peer {
    /// Reads one request with its `content-length` body, and returns its head. `None` at the end of the connection.
    pub(crate) async fn request(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let head_len = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
            bytes.extend_from_slice(&chunk[..read]);
        };
        let head = String::from_utf8(bytes[..head_len].to_vec()).expect("an ASCII head");
        let body_len = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |digits| digits.parse().expect("a length"));
        let mut body = bytes.split_off(head_len);
        let arrived = body.len();
        body.resize(body_len, 0);
        if arrived < body_len {
            self.stream.read_exact(&mut body[arrived..]).await.ok()?;
        }
        self.tally.heads.lock().expect("no panics in receivers").push(head.clone());
        self.tally.bodies.lock().expect("no panics in receivers").push(body);
        Some(head)
    }

    /// Writes the same again and again, until the client is gone.
    pub(crate) async fn repeat(&mut self, bytes: &[u8], pause: Duration) -> Option<()> {
        loop {
            self.write(bytes).await?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Writes, and counts what the kernel took. `None` once the client is gone.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()?;
        self.tally.bytes_sent.fetch_add(bytes.len(), Ordering::SeqCst);
        Some(())
    }
}

/// A receiver; it ends with the value.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) tally: Arc<Tally>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start<H, F, T>(handler: H) -> Self
    where
        H: Fn(Peer) -> F + Send + Sync + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
        T: Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        let seen = tally.clone();
        tasks.spawn(async move {
            let mut peers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let tally = seen.clone();
                let exchange = handler(Peer { stream, tally: tally.clone() });
                peers.spawn(async move {
                    exchange.await;
                    tally.connections_ended.fetch_add(1, Ordering::SeqCst);
                    tally.changed.notify_waiters();
                });
            }
        });
        Self { address, tally, _tasks: tasks }
    }

    /// A receiver that answers every request with the same bytes and keeps the connection.
    pub(crate) async fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response: Arc<[u8]> = response.into().into();
        Self::start(move |mut peer| {
            let response = response.clone();
            async move {
                while peer.request().await.is_some() {
                    peer.write(&response).await?;
                }
                Some(())
            }
        })
        .await
    }

    pub(crate) fn connections(&self) -> usize {
        self.tally.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn target(&self, path: &str) -> Target {
        target(&self.url(path))
    }
}

pub(crate) fn target(url: &str) -> Target {
    TargetPolicy::development().judge_url(url).expect("a target that development allows")
}

pub(crate) fn config() -> EgressConfig {
    EgressConfig::new(TargetPolicy::development())
}

/// A client for development, without DNS.
pub(crate) fn egress() -> Egress {
    egress_with(config())
}

pub(crate) fn egress_with(config: EgressConfig) -> Egress {
    Egress::with_resolver(config, Arc::new(NoNames)).expect("a sound configuration")
}

pub(crate) fn post(target: &Target) -> Request {
    Request {
        method: Method::POST,
        target: target.clone(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{\"n\":1}"),
        total_timeout: PATIENCE,
        follow_redirects: false,
        verify_tls: true,
    }
}

/// A resolver that knows no name.
pub(crate) struct NoNames;

impl Resolve for NoNames {
    fn lookup<'a>(&'a self, _host: &'a str) -> Lookup<'a> {
        Box::pin(async { Err(ResolveError::NotFound) })
    }
}

/// A resolver that gives one prepared answer after another, and the last one for ever.
pub(crate) struct Script {
    answers: Vec<Vec<IpAddr>>,
    ttl: Duration,
    pub(crate) lookups: AtomicUsize,
}

impl Script {
    pub(crate) fn new(answers: &[&[&str]], ttl: Duration) -> Arc<Self> {
        let parse = |text: &&str| text.parse().expect("an address");
        let answers = answers.iter().map(|answer| answer.iter().map(parse).collect()).collect();
        Arc::new(Self { answers, ttl, lookups: AtomicUsize::new(0) })
    }
}

impl Resolve for Script {
    fn lookup<'a>(&'a self, _host: &'a str) -> Lookup<'a> {
        let index = self.lookups.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        let resolved = Resolved { addresses: self.answers[index].clone(), ttl: self.ttl };
        Box::pin(async { Ok(resolved) })
    }
}
