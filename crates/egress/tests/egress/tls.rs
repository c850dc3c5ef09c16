//! TLS and HTTP/2: whom a connection trusts, what it speaks, and how it is shared.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use neo_events_egress::{Egress, FailureKind, Request, Target};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::{OK, PATIENCE, Receiver, Script, config, post, target};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn acceptor(&self, name: &str, protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a matching key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A receiver behind TLS that answers in whatever HTTP was agreed upon.
struct Secure {
    port: u16,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    hang_up: Arc<Notify>,
    gone: Arc<Notify>,
    _tasks: JoinSet<()>,
}

type Answer = Result<http::Response<Full<Bytes>>, Infallible>;

impl Secure {
    async fn start<S, F>(acceptor: TlsAcceptor, service: S) -> Self
    where
        S: Fn(http::Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let seen = connections.clone();
        let open = Arc::new(AtomicUsize::new(0));
        let still = open.clone();
        let (hang_up, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (asked, done) = (hang_up.clone(), gone.clone());
        tasks.spawn(async move {
            let mut peers = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                still.fetch_add(1, Ordering::SeqCst);
                let still = still.clone();
                let (acceptor, service) = (acceptor.clone(), service.clone());
                let (asked, done) = (asked.clone(), done.clone());
                peers.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                    let (io, service) = (TokioIo::new(tls), service_fn(service));
                    // How it ends is the client's affair.
                    if http2 {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let mut connection = pin!(builder.serve_connection(io, service));
                        tokio::select! {
                            _ = connection.as_mut() => {
                                still.fetch_sub(1, Ordering::SeqCst);
                                return;
                            }
                            () = asked.notified() => connection.as_mut().graceful_shutdown(),
                        }
                        connection.await.ok();
                        done.notify_one();
                    } else {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await.ok();
                    }
                });
            }
        });
        Self { port, connections, open, hang_up, gone, _tasks: tasks }
    }

    fn target(&self) -> Target {
        target(&format!("https://hooks.example:{}/hook", self.port))
    }

    /// Closes the one HTTP/2 connection there is, as a receiver does that restarts.
    async fn hang_up(&self) {
        self.hang_up.notify_one();
        self.gone.notified().await;
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn echo(request: http::Request<Incoming>) -> Answer {
    let version = request.version();
    let authority = match version {
        Version::HTTP_2 => request.uri().authority().map(ToString::to_string),
        _ => request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned),
    };
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = http::Response::new(Full::new(body));
    let seen = format!("{version:?} {}", authority.unwrap_or_default());
    response.headers_mut().insert("x-seen", seen.parse().expect("a header value"));
    Ok(response)
}

pub(crate) fn egress(ca: Option<&Authority>) -> Egress {
    let mut config = config();
    config.ca_file_pem = ca.map(|authority| authority.pem.clone().into_bytes());
    let resolver = Script::new(&[&["127.0.0.1"]], PATIENCE);
    Egress::with_resolver(config, resolver).expect("a sound configuration")
}

#[tokio::test]
async fn the_receiver_chooses_the_protocol() {
    let authority = Authority::new("ours");
    for (protocols, version) in
        [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")]
    {
        let receiver = Secure::start(authority.acceptor("hooks.example", protocols), echo).await;
        let egress = egress(Some(&authority));
        for index in 0..3 {
            let response = egress.send(post(&receiver.target())).await.unwrap();
            let seen = response.headers["x-seen"].to_str().unwrap();
            assert_eq!(seen, format!("{version} hooks.example:{}", receiver.port));
            assert_eq!(&response.body[..], b"{\"n\":1}");
            assert_eq!((response.connection_reused, response.timings.tls.is_some()), (index > 0, index == 0));
        }
        assert_eq!(receiver.connections(), 1);
    }
}

#[tokio::test]
async fn http2_requests_share_one_connection() {
    let authority = Authority::new("ours");
    // Nobody is answered before all have arrived: they must be in flight together.
    let barrier = Arc::new(Barrier::new(20));
    let receiver = Secure::start(authority.acceptor("hooks.example", &["h2"]), move |request| {
        let barrier = barrier.clone();
        async move {
            if request.method() == http::Method::POST {
                barrier.wait().await;
            }
            echo(request).await
        }
    })
    .await;
    let egress = egress(Some(&authority));
    let first = Request { method: http::Method::PUT, ..post(&receiver.target()) };
    egress.send(first).await.unwrap();
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        let (egress, target) = (egress.clone(), receiver.target());
        requests.spawn(async move { egress.send(post(&target)).await });
    }
    while let Some(response) = requests.join_next().await {
        assert!(response.unwrap().unwrap().connection_reused);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_lost_http2_connection_is_replaced_once_for_all_who_wait() {
    let authority = Authority::new("ours");
    let receiver = Secure::start(authority.acceptor("hooks.example", &["h2"]), echo).await;
    let egress = egress(Some(&authority));
    for round in 1..=3 {
        let mut requests = JoinSet::new();
        egress.send(post(&receiver.target())).await.unwrap();
        for _ in 0..20 {
            let (egress, target) = (egress.clone(), receiver.target());
            requests.spawn(async move { egress.send(post(&target)).await });
        }
        while let Some(response) = requests.join_next().await {
            assert_eq!(response.unwrap().unwrap().status, StatusCode::OK);
        }
        assert_eq!(receiver.connections(), round);
        receiver.hang_up().await;
    }
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        let (egress, target) = (egress.clone(), receiver.target());
        requests.spawn(async move { egress.send(post(&target)).await });
    }
    while let Some(response) = requests.join_next().await {
        response.unwrap().unwrap();
    }
    assert_eq!(receiver.connections(), 4);
}

#[tokio::test]
async fn http2_bodies_are_capped_too() {
    let authority = Authority::new("ours");
    let receiver = Secure::start(authority.acceptor("hooks.example", &["h2"]), |_| async {
        Ok(http::Response::new(Full::new(Bytes::from(vec![b'x'; 32 * 1024 * 1024]))))
    })
    .await;
    let egress = egress(Some(&authority));
    for _ in 0..3 {
        let response = egress.send(post(&receiver.target())).await.unwrap();
        assert_eq!((response.body.len(), response.body_truncated), (64 * 1024, true));
    }
    assert_eq!(receiver.connections(), 1, "only the stream is reset");
}

#[tokio::test]
async fn http2_heads_are_capped_too() {
    let authority = Authority::new("ours");
    let receiver = Secure::start(authority.acceptor("hooks.example", &["h2"]), |_| async {
        let mut response = http::Response::new(Full::default());
        for index in 0..200 {
            let name: http::HeaderName = format!("x-{index}").parse().expect("a name");
            response.headers_mut().insert(name, "y".repeat(1000).parse().expect("a value"));
        }
        Ok(response)
    })
    .await;
    let failure = egress(Some(&authority)).send(post(&receiver.target())).await.unwrap_err();
    assert!(matches!(failure.kind, FailureKind::ProtocolError | FailureKind::ConnectionReset), "{failure}");
}

#[tokio::test]
async fn http2_deadlines_hold_and_spare_the_connection() {
    let authority = Authority::new("ours");
    let receiver = Secure::start(authority.acceptor("hooks.example", &["h2"]), |request| async {
        if request.method() == http::Method::POST {
            tokio::time::sleep(PATIENCE).await;
        }
        echo(request).await
    })
    .await;
    let egress = egress(Some(&authority));
    let late = Request { total_timeout: Duration::from_secs(6), ..post(&receiver.target()) };
    assert_eq!(egress.send(late).await.unwrap_err().kind, FailureKind::TimeoutTotal);
    let prompt = Request { method: http::Method::PUT, ..post(&receiver.target()) };
    assert!(egress.send(prompt).await.unwrap().connection_reused);
    assert_eq!(receiver.connections(), 1);
}

/// A receiver that speaks HTTP/2 frame by frame.
struct Framed {
    port: u16,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

type Requests = h2::server::Connection<tokio_rustls::server::TlsStream<tokio::net::TcpStream>, Bytes>;

impl Framed {
    /// `serve` gets each connection, with its number.
    async fn start<S, F>(acceptor: TlsAcceptor, settings: h2::server::Builder, serve: S) -> Self
    where
        S: Fn(usize, Requests) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let (connections, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let seen = connections.clone();
        tasks.spawn(async move {
            let mut peers = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let Ok(requests) = settings.handshake(tls).await else { continue };
                peers.spawn(serve(seen.fetch_add(1, Ordering::SeqCst), requests));
            }
        });
        Self { port, connections, _tasks: tasks }
    }

    fn target(&self) -> Target {
        target(&format!("https://hooks.example:{}/hook", self.port))
    }
}

/// Counts how many of its kind there are.
struct Counted(Vec<u8>, #[expect(dead_code, reason = "only its number counts")] Arc<()>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[tokio::test]
async fn a_receiver_that_takes_no_bodies_does_not_make_us_keep_them() {
    const REQUESTS: usize = 60;
    let authority = Authority::new("ours");
    for window in [0, 1] {
        let acceptor = authority.acceptor("hooks.example", &["h2"]);
        let mut settings = h2::server::Builder::new();
        settings.initial_window_size(window);
        let receiver = Framed::start(acceptor, settings, |_, mut requests| async move {
            let mut kept = Vec::new();
            while let Some(Ok((request, mut respond))) = requests.accept().await {
                respond.send_response(http::Response::new(()), true).expect("an open stream");
                // Whoever drops them tells the sender to stop.
                kept.push((request, respond));
            }
        })
        .await;
        let (egress, bodies) = (egress(Some(&authority)), Arc::new(()));
        for _ in 0..REQUESTS {
            let body = Bytes::from_owner(Counted(vec![b'x'; 10_000], bodies.clone()));
            let response = egress.send(Request { body, ..post(&receiver.target()) }).await.unwrap();
            assert_eq!(response.status, StatusCode::OK);
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while Arc::strong_count(&bodies) > REQUESTS / 4 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} bodies are kept, window {window}",
                Arc::strong_count(&bodies) - 1
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(receiver.connections.load(Ordering::SeqCst) > 1, "connections that keep them are given up");
    }
}

/// Endpoints of several tenants may share an origin.
#[tokio::test]
async fn requests_that_hang_do_not_hold_up_others_to_the_same_origin() {
    const HANGING: usize = 150;
    let authority = Authority::new("ours");
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(64);
    let arrived = Arc::new(AtomicUsize::new(0));
    let seen = arrived.clone();
    let receiver = Framed::start(acceptor, settings, move |_, mut requests| {
        let seen = seen.clone();
        async move {
            let mut kept = Vec::new();
            while let Some(Ok((request, mut respond))) = requests.accept().await {
                if request.method() == http::Method::PUT {
                    respond.send_response(http::Response::new(()), true).expect("an open stream");
                } else {
                    seen.fetch_add(1, Ordering::SeqCst);
                    kept.push((request, respond));
                }
            }
        }
    })
    .await;
    let (egress, mut hanging) = (egress(Some(&authority)), JoinSet::new());
    let first = Request { method: http::Method::PUT, ..post(&receiver.target()) };
    egress.send(first.clone()).await.unwrap();
    for _ in 0..HANGING {
        let (egress, target) = (egress.clone(), receiver.target());
        hanging.spawn(async move { egress.send(post(&target)).await });
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while arrived.load(Ordering::SeqCst) < HANGING {
        assert!(tokio::time::Instant::now() < deadline, "{} arrived", arrived.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    egress.send(first).await.unwrap();
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_a_receiver_refuses_to_begin_with_is_sent_again() {
    let authority = Authority::new("ours");
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let settings = h2::server::Builder::new();
    let receiver = Framed::start(acceptor, settings, |number, mut requests| async move {
        let mut answered = 0;
        while let Some(Ok((_, mut respond))) = requests.accept().await {
            if number == 0 && answered == 1 {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                respond.send_response(http::Response::new(()), true).expect("an open stream");
                answered += 1;
            }
        }
    })
    .await;
    let egress = egress(Some(&authority));
    for _ in 0..3 {
        assert_eq!(egress.send(post(&receiver.target())).await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 2);
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 1 | 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Answers the first request with 200 and the second by leaving: a GOAWAY that says that it took none after the first.
async fn answer_one_and_leave(mut peer: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    peer.read_exact(&mut [0; 24]).await?;
    peer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut requests = 0;
    loop {
        let mut head = [0; 9];
        peer.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        peer.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => peer.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            HEADERS => {
                requests += 1;
                let answer = if requests == 1 {
                    // In HPACK's static table 8 is `:status: 200`.
                    frame(HEADERS, END_STREAM_AND_HEADERS, u32::from_be_bytes(stream), &[0x88])
                } else {
                    frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])
                };
                peer.write_all(&answer).await?;
            }
            _ => {}
        }
    }
}

/// As proxies do after so many requests.
#[tokio::test]
async fn what_a_leaving_receiver_did_not_take_is_sent_to_its_successor() {
    let authority = Authority::new("ours");
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let hook = target(&format!("https://hooks.example:{}/", listener.local_addr().expect("bound").port()));
    let mut receiver = JoinSet::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = connections.clone();
    receiver.spawn(async move {
        let mut peers = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::SeqCst);
            if let Ok(tls) = acceptor.accept(tcp).await {
                peers.spawn(answer_one_and_leave(tls));
            }
        }
    });
    let egress = egress(Some(&authority));
    for connection in 1..=3 {
        let response = egress.send(post(&hook)).await.unwrap();
        assert_eq!((response.status, response.connection_reused), (StatusCode::OK, false));
        assert_eq!(connections.load(Ordering::SeqCst), connection, "the first of each is answered there");
    }
}

#[tokio::test]
async fn unknown_authorities_and_wrong_names_are_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let cases = [
        (None, "hooks.example", "the certificate's issuer is not trusted"),
        (Some(&theirs), "hooks.example", "the certificate's issuer is not trusted"),
        (Some(&ours), "other.example", "the certificate is for another name"),
    ];
    for (trusted, name, detail) in cases {
        let receiver = Secure::start(ours.acceptor(name, &["h2", "http/1.1"]), echo).await;
        let failure = egress(trusted).send(post(&receiver.target())).await.unwrap_err();
        assert_eq!((failure.kind, failure.detail.as_str()), (FailureKind::Tls, detail));
    }
}

#[tokio::test]
async fn unverified_connections_serve_only_the_unverified() {
    let receiver =
        Secure::start(Authority::new("ours").acceptor("other.example", &["h2", "http/1.1"]), echo).await;
    let egress = egress(None);
    let lax = Request { verify_tls: false, ..post(&receiver.target()) };
    assert_eq!(egress.send(lax.clone()).await.unwrap().status, StatusCode::OK);
    assert!(egress.send(lax).await.unwrap().connection_reused);
    let failure = egress.send(post(&receiver.target())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tls);
}

#[tokio::test]
async fn http2_connections_to_many_origins_are_bounded() {
    let receiver = Secure::start(Authority::new("ours").acceptor("other.example", &["h2"]), echo).await;
    let mut config = config();
    config.idle_total_max = 1;
    let egress = Egress::with_resolver(config, Script::new(&[&["127.0.0.1"]], PATIENCE)).unwrap();
    for n in 0..100 {
        let origin = target(&format!("https://origin-{n}.example:{}/", receiver.port));
        let request = Request { verify_tls: false, ..post(&origin) };
        assert_eq!(egress.send(request).await.unwrap().status, StatusCode::OK);
    }
    // One a shard at the most.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while receiver.open.load(Ordering::SeqCst) > 16 {
        assert!(tokio::time::Instant::now() < deadline, "{} are open", receiver.open.load(Ordering::SeqCst));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(receiver.connections(), 100);
}

#[tokio::test]
async fn plain_http_behind_https_is_a_tls_failure() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        peer.request().await
    })
    .await;
    let target = target(&format!("https://{}/", receiver.address));
    let failure = egress(None).send(post(&target)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
}

/// As common servers do: TLS asks for a farewell first, so that nobody else can cut an answer short unnoticed.
#[tokio::test]
async fn a_body_of_untold_length_may_end_without_a_farewell() {
    let authority = Authority::new("ours");
    let cases = [
        ("HTTP/1.0 200 OK\r\n\r\nok", Some("ok")),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", Some("")),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", None),
        ("HTTP/1.1 200 OK\r\n", None),
    ];
    for (answer, body) in cases {
        let acceptor = authority.acceptor("hooks.example", &["http/1.1"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let hook =
            target(&format!("https://hooks.example:{}/", listener.local_addr().expect("bound").port()));
        let mut receiver = JoinSet::new();
        receiver.spawn(async move {
            let (tcp, _) = listener.accept().await?;
            let mut tls = acceptor.accept(tcp).await?;
            let mut request = Vec::new();
            while !request.ends_with(b"{\"n\":1}") {
                tls.read_buf(&mut request).await?;
            }
            tls.write_all(answer.as_bytes()).await?;
            tls.flush().await
        });
        match (egress(Some(&authority)).send(post(&hook)).await, body) {
            (Ok(response), Some(body)) => {
                assert_eq!((response.status, &response.body[..]), (StatusCode::OK, body.as_bytes()));
                assert!(response.body_truncated, "{answer:?}");
            }
            (Err(failure), None) => {
                assert_eq!(failure.kind, FailureKind::ConnectionClosed, "{answer:?}");
            }
            (outcome, _) => panic!("{answer:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn redirects_never_leave_tls() {
    let authority = Authority::new("ours");
    let plain = Receiver::answering(OK).await;
    let location = plain.url("/");
    let receiver = Secure::start(authority.acceptor("hooks.example", &["h2"]), move |_| {
        let location = location.clone();
        async move {
            let mut response = http::Response::new(Full::default());
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert("location", location.parse().expect("a URL"));
            Ok(response)
        }
    })
    .await;
    let request = Request { follow_redirects: true, ..post(&receiver.target()) };
    let failure = egress(Some(&authority)).send(request).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RedirectInvalid);
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn probes_time_the_handshake() {
    let authority = Authority::new("ours");
    let receiver = Secure::start(authority.acceptor("hooks.example", &["h2"]), echo).await;
    let report = egress(Some(&authority)).probe(&receiver.target(), true, PATIENCE).await;
    assert!(report.is_success(), "{report:?}");
    assert!(report.timings.dns.is_some() && report.timings.tls.is_some());
}
