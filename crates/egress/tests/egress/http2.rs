//! HTTP/2, frame by frame: receivers that flood, fall silent, leave, or let little begin at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use neo_events_egress::{Egress, FailureKind, Request, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use crate::support::{PATIENCE, Script, config, post, target};
use crate::tls::{Authority, egress};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// In HPACK's static table 8 is `:status: 200`.
const STATUS_200: &[u8] = &[0x88];
/// `:status: 103`, its value as a literal.
const STATUS_103: &[u8] = b"\x08\x03103";
/// What fits into the buffers of kernel and client on both sides, plus what is read.
const BYTES_BOUND: usize = 2 * 1024 * 1024;

/// One connection that a receiver has accepted, after both prefaces.
struct Wire {
    stream: TlsStream<TcpStream>,
    /// How many there were before.
    number: usize,
    seen: Arc<Seen>,
}

/// What a receiver has seen and done.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    connections_ended: AtomicUsize,
    requests: AtomicUsize,
    bytes_sent: AtomicUsize,
    changed: Notify,
}

impl Seen {
    /// Waits until so many were counted.
    async fn reach(&self, count: &AtomicUsize, least: usize) {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if count.load(Ordering::SeqCst) >= least {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it happens in time");
    }

    fn count(&self, what: &AtomicUsize) -> usize {
        let counted = what.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        counted
    }
}

impl Wire {
    /// Takes frames until a request is whole, acknowledges settings and pings on the way, and returns its stream.
    /// `None` at the end of the connection.
    async fn request(&mut self) -> Option<u32> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            match kind {
                SETTINGS | PING if flags & ACK == 0 => {
                    let payload = if kind == PING { &payload[..] } else { &[] };
                    self.write(&frame(kind, ACK, 0, payload)).await?;
                }
                HEADERS | DATA if flags & END_STREAM != 0 => {
                    self.seen.count(&self.seen.requests);
                    return Some(u32::from_be_bytes(stream));
                }
                _ => {}
            }
        }
    }

    async fn answer(&mut self, stream: u32) -> Option<()> {
        self.write(&frame(HEADERS, END_STREAM | END_HEADERS, stream, STATUS_200)).await
    }

    /// Writes the same again and again, until the client is gone.
    async fn repeat(&mut self, bytes: &[u8]) -> Option<()> {
        loop {
            self.write(bytes).await?;
        }
    }

    /// Writes, and counts what the kernel took. `None` once the client is gone.
    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()?;
        self.stream.flush().await.ok()?;
        self.seen.bytes_sent.fetch_add(bytes.len(), Ordering::SeqCst);
        Some(())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A receiver; it ends with the value.
struct Receiver {
    port: u16,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// `settings` is the payload of its first frame; without, `serve` sends it.
    async fn start<S, F, T>(authority: &Authority, settings: Option<&[u8]>, serve: S) -> Self
    where
        S: Fn(Wire) -> F + Send + Sync + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
        T: Send,
    {
        let acceptor = authority.acceptor("hooks.example", &["h2"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let (seen, mut tasks, serve) = (Arc::new(Seen::default()), JoinSet::new(), Arc::new(serve));
        let seen_there = seen.clone();
        let greeting = settings.map(|settings| frame(SETTINGS, 0, 0, settings)).unwrap_or_default();
        tasks.spawn(async move {
            let mut peers = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let number = seen_there.count(&seen_there.connections);
                let (acceptor, greeting) = (acceptor.clone(), greeting.clone());
                let (seen, serve) = (seen_there.clone(), serve.clone());
                peers.spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(tcp).await
                        && stream.read_exact(&mut [0; 24]).await.is_ok()
                        && stream.write_all(&greeting).await.is_ok()
                        && stream.flush().await.is_ok()
                    {
                        serve(Wire { stream, number, seen: seen.clone() }).await;
                    }
                    seen.count(&seen.connections_ended);
                });
            }
        });
        Self { port, seen, _tasks: tasks }
    }

    fn target(&self) -> Target {
        target(&format!("https://hooks.example:{}/hook", self.port))
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    async fn connections_ended(&self, least: usize) {
        self.seen.reach(&self.seen.connections_ended, least).await;
    }

    fn assert_little_was_taken(&self) {
        let sent = self.seen.bytes_sent.load(Ordering::SeqCst);
        assert!(sent < BYTES_BOUND, "{sent} bytes were taken");
    }
}

/// A head of one informational response, small on the wire and large when decoded.
fn early_hints(stream: u32) -> Vec<u8> {
    // The first entry of HPACK's dynamic table, again and again.
    let fields = [STATUS_103, &[0xbe; 1900]].concat();
    frame(HEADERS, END_HEADERS, stream, &fields)
}

#[tokio::test]
async fn endless_informational_responses_are_cut_off() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&[]), |mut wire| async move {
        let stream = wire.request().await?;
        // `a` without a value, which goes into the table.
        wire.write(&frame(HEADERS, END_HEADERS, stream, &[STATUS_103, b"\x40\x01a\x00"].concat())).await?;
        wire.repeat(&early_hints(stream)).await
    })
    .await;
    let failure = egress(Some(&authority)).send(post(&receiver.target())).await.unwrap_err();
    assert_eq!((failure.kind, failure.status), (FailureKind::ResponseHeadersTooLarge, None), "{failure}");
    receiver.connections_ended(1).await;
    receiver.assert_little_was_taken();
}

#[tokio::test]
async fn what_belongs_to_no_exchange_is_cut_off() {
    let authority = Authority::new("ours");
    for control in [frame(PING, ACK, 0, &[0; 8]), frame(0xbb, 0, 0, &[]), frame(SETTINGS, 0, 0, &[])] {
        let receiver = Receiver::start(&authority, Some(&[]), move |mut wire| {
            let control = control.repeat(100);
            async move {
                let stream = wire.request().await?;
                wire.answer(stream).await?;
                wire.repeat(&control).await
            }
        })
        .await;
        let egress = egress(Some(&authority));
        egress.send(post(&receiver.target())).await.unwrap();
        receiver.connections_ended(1).await;
        receiver.assert_little_was_taken();
    }
}

#[tokio::test]
async fn a_flood_ends_with_its_attempt() {
    let authority = Authority::new("ours");
    let given_up = Arc::new(Notify::new());
    let go_on = given_up.clone();
    let receiver = Receiver::start(&authority, Some(&[]), move |mut wire| {
        let go_on = go_on.clone();
        async move {
            let stream = wire.request().await?;
            go_on.notified().await;
            wire.repeat(&frame(HEADERS, END_HEADERS, stream, STATUS_103).repeat(100)).await
        }
    })
    .await;
    let egress = egress(Some(&authority));
    // A third of it is for connecting, which on a busy machine may take its time.
    let request = Request { total_timeout: Duration::from_secs(6), ..post(&receiver.target()) };
    assert_eq!(egress.send(request).await.unwrap_err().kind, FailureKind::TimeoutTotal);
    given_up.notify_one();
    receiver.connections_ended(1).await;
    receiver.assert_little_was_taken();
}

/// The allowance is for one exchange, not for the connection.
#[tokio::test]
async fn honest_answers_never_use_a_connection_up() {
    const BODY_BYTES: usize = 60_000;
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&[]), |mut wire| async move {
        while let Some(stream) = wire.request().await {
            wire.write(&frame(HEADERS, END_HEADERS, stream, STATUS_200)).await?;
            for _ in 0..BODY_BYTES / 10_000 {
                wire.write(&frame(DATA, 0, stream, &[b'x'; 10_000])).await?;
            }
            wire.write(&frame(DATA, END_STREAM, stream, &[])).await?;
        }
        Some(())
    })
    .await;
    let egress = egress(Some(&authority));
    for _ in 0..100 {
        let response = egress.send(post(&receiver.target())).await.unwrap();
        assert_eq!((response.status, response.body.len()), (StatusCode::OK, BODY_BYTES));
    }
    assert_eq!(receiver.connections(), 1);
}

/// Proxies reset what they cannot go on with, and say that nothing is wrong.
#[tokio::test]
async fn an_answer_that_breaks_off_is_no_success_whatever_code_it_ends_with() {
    const STATUS_503: &[u8] = b"\x08\x03503";
    let authority = Authority::new("ours");
    let endings: [fn(u32) -> Vec<u8>; 3] = [
        |stream| frame(RST_STREAM, 0, stream, &[0; 4]),
        |_| frame(GOAWAY, 0, 0, &[0; 8]),
        |stream| [frame(DATA, END_STREAM, stream, b"rest"), frame(RST_STREAM, 0, stream, &[0; 4])].concat(),
    ];
    for (ending, is_whole) in endings.into_iter().zip([false, false, true]) {
        for (status, code) in [(STATUS_200, 200), (STATUS_503, 503)] {
            let receiver = Receiver::start(&authority, Some(&[]), move |mut wire| async move {
                let stream = wire.request().await?;
                let half = [frame(HEADERS, END_HEADERS, stream, status), frame(DATA, 0, stream, b"half")];
                wire.write(&[half.concat(), ending(stream)].concat()).await?;
                wire.request().await
            })
            .await;
            match egress(Some(&authority)).send(post(&receiver.target())).await {
                Ok(response) => {
                    assert_eq!((response.status.as_u16(), response.body_truncated), (code, !is_whole));
                    assert!(is_whole || code != 200, "half of an answer is none");
                    assert_eq!(&response.body[..], if is_whole { "halfrest" } else { "half" }.as_bytes());
                }
                Err(failure) => {
                    assert!(!is_whole, "{failure}");
                    let status = failure.status.map(|status| status.as_u16());
                    assert_eq!(
                        (failure.kind, status),
                        (FailureKind::ConnectionReset, Some(200)),
                        "{failure}"
                    );
                }
            }
        }
    }
}

/// Some take a body in small pieces, and say of each that there is room for another.
#[tokio::test]
async fn a_large_body_may_be_taken_in_small_pieces() {
    const PIECE_BYTES: u32 = 100;
    const PIECES: usize = 60_000;
    let authority = Authority::new("ours");
    let no_window = [0, 4, 0, 0, 0, 0];
    let receiver = Receiver::start(&authority, Some(&no_window), |wire| async move {
        let (mut from_client, mut to_client) = tokio::io::split(wire.stream);
        let room = |stream, bytes: u32| frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
        let make_room = async {
            to_client.write_all(&room(0, 1 << 30)).await.ok()?;
            for _ in 0..PIECES / 100 {
                to_client.write_all(&room(1, PIECE_BYTES).repeat(100)).await.ok()?;
            }
            to_client.flush().await.ok()
        };
        let take = async {
            loop {
                let mut head = [0; 9];
                from_client.read_exact(&mut head).await.ok()?;
                let [a, b, c, kind, flags, ..] = head;
                let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                from_client.read_exact(&mut payload).await.ok()?;
                if kind == DATA && flags & END_STREAM != 0 {
                    return Some(());
                }
            }
        };
        let (made, taken) = tokio::join!(make_room, take);
        made.and(taken)?;
        to_client.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, STATUS_200)).await.ok()?;
        to_client.flush().await.ok()?;
        from_client.read_u8().await.ok()
    })
    .await;
    let body = vec![b'x'; PIECES * PIECE_BYTES as usize].into();
    let response = egress(Some(&authority)).send(Request { body, ..post(&receiver.target()) }).await;
    assert_eq!(response.unwrap().status, StatusCode::OK);
}

/// A client that finds out in seconds what otherwise takes longer.
fn attentive(authority: &Authority) -> Egress {
    let mut config = config();
    config.ca_file_pem = Some(authority.pem.clone().into_bytes());
    (config.http2_ping_interval, config.http2_ping_timeout) = (PING_INTERVAL, PING_TIMEOUT);
    Egress::with_resolver(config, Script::new(&[&["127.0.0.1"]], PATIENCE)).expect("a sound configuration")
}

const PING_INTERVAL: Duration = Duration::from_millis(600);
const PING_TIMEOUT: Duration = Duration::from_secs(6);
/// Of a request whose connection is there already: when it ends, a ping is on its way, and its answer may still come.
const BRIEF: Duration = Duration::from_millis(2400);

/// A receiver whose first connection dies without a word after its first answer.
async fn dying(authority: &Authority) -> Receiver {
    Receiver::start(authority, Some(&[]), |mut wire| async move {
        loop {
            let stream = wire.request().await?;
            wire.answer(stream).await?;
            if wire.number == 0 {
                // The kernel goes on taking what comes, and that is all.
                return std::future::pending::<Option<()>>().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_dead_connection_costs_one_attempt() {
    let authority = Authority::new("ours");
    let receiver = dying(&authority).await;
    let egress = attentive(&authority);
    let request = post(&receiver.target());
    egress.send(request.clone()).await.unwrap();
    let brief = Request { total_timeout: BRIEF, ..request.clone() };
    assert_eq!(egress.send(brief).await.unwrap_err().kind, FailureKind::TimeoutTotal);
    assert!(!egress.send(request).await.unwrap().connection_reused);
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn a_dead_connection_is_given_up_before_a_long_timeout() {
    let authority = Authority::new("ours");
    let receiver = dying(&authority).await;
    let egress = attentive(&authority);
    egress.send(post(&receiver.target())).await.unwrap();
    let failure = egress.send(post(&receiver.target())).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.detail.as_str()),
        (FailureKind::ConnectionClosed, "the receiver gave no sign of life")
    );
    assert!(failure.elapsed < PATIENCE);
    egress.send(post(&receiver.target())).await.unwrap();
}

/// A receiver that takes its time gives signs of life, and others may go on using its connection.
#[tokio::test]
async fn a_slow_answer_is_no_dead_connection() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&[]), |mut wire| async move {
        let stream = wire.request().await?;
        wire.answer(stream).await?;
        wire.request().await?;
        while let Some(stream) = wire.request().await {
            wire.answer(stream).await?;
        }
        Some(())
    })
    .await;
    let egress = attentive(&authority);
    let request = post(&receiver.target());
    egress.send(request.clone()).await.unwrap();
    let long = Request { total_timeout: PING_INTERVAL + PING_TIMEOUT + BRIEF, ..request.clone() };
    assert_eq!(egress.send(long).await.unwrap_err().kind, FailureKind::TimeoutTotal);
    assert!(egress.send(request).await.unwrap().connection_reused);
    assert_eq!(receiver.connections(), 1);
}

fn refusal(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &u32::from(h2::Reason::REFUSED_STREAM).to_be_bytes())
}

/// Says that no stream after `last` is taken.
fn farewell(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

#[tokio::test]
async fn what_a_new_connection_refuses_is_sent_there_again() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&[]), |mut wire| async move {
        let refused = wire.request().await?;
        wire.write(&refusal(refused)).await?;
        let stream = wire.request().await?;
        wire.answer(stream).await?;
        wire.request().await
    })
    .await;
    let response = egress(Some(&authority)).send(post(&receiver.target())).await.unwrap();
    assert!(response.connection_reused);
    assert_eq!((receiver.connections(), receiver.requests()), (1, 2));
}

#[tokio::test]
async fn what_a_new_connection_leaves_is_sent_to_another() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&[]), |mut wire| async move {
        while let Some(stream) = wire.request().await {
            if wire.number == 0 {
                wire.write(&farewell(0)).await?;
            } else {
                wire.answer(stream).await?;
            }
        }
        Some(())
    })
    .await;
    egress(Some(&authority)).send(post(&receiver.target())).await.unwrap();
    assert_eq!((receiver.connections(), receiver.requests()), (2, 2));
}

#[tokio::test]
async fn who_refuses_everything_is_not_asked_for_ever() {
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&[]), |mut wire| async move {
        while let Some(stream) = wire.request().await {
            wire.write(&refusal(stream)).await?;
        }
        Some(())
    })
    .await;
    let failure = egress(Some(&authority)).send(post(&receiver.target())).await.unwrap_err();
    assert_eq!((failure.kind, failure.status), (FailureKind::ConnectionReset, None));
    assert_eq!(receiver.requests(), 3);
}

/// The payload of a SETTINGS frame that allows so many streams at once.
fn streams_max(count: u32) -> Vec<u8> {
    [&[0, 3][..], &count.to_be_bytes()].concat()
}

#[tokio::test]
async fn a_receivers_own_limit_on_streams_is_kept() {
    const HANGING: usize = 7;
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&streams_max(2)), |mut wire| async move {
        if wire.number == 0 {
            let stream = wire.request().await?;
            wire.answer(stream).await?;
        }
        wire.request().await?;
        wire.request().await?;
        // And no more: those are not answered, so that another one would be too many.
        wire.request().await.map(|_| panic!("more streams than are allowed"))
    })
    .await;
    let (egress, mut hanging) = (egress(Some(&authority)), JoinSet::new());
    egress.send(post(&receiver.target())).await.unwrap();
    for _ in 0..HANGING {
        let (egress, target) = (egress.clone(), receiver.target());
        hanging.spawn(async move { egress.send(post(&target)).await });
    }
    receiver.seen.reach(&receiver.seen.requests, 1 + HANGING).await;
    assert_eq!(receiver.connections(), 4);
    assert_eq!(receiver.seen.connections_ended.load(Ordering::SeqCst), 0);
}

/// A request that waited within a connection would go out when the one before it is given up.
#[tokio::test]
async fn nothing_is_sent_when_its_attempt_is_over() {
    const TIME: Duration = Duration::from_secs(6);
    let authority = Authority::new("ours");
    let receiver = Receiver::start(&authority, Some(&streams_max(1)), |mut wire| async move {
        while let Some(stream) = wire.request().await {
            let number = wire.seen.requests.load(Ordering::SeqCst);
            if number != 2 {
                wire.answer(stream).await?;
            }
        }
        Some(())
    })
    .await;
    let egress = egress(Some(&authority));
    egress.send(post(&receiver.target())).await.unwrap();
    let (hanging, target) = (egress.clone(), receiver.target());
    let mut hung = JoinSet::new();
    hung.spawn(async move { hanging.send(Request { total_timeout: 2 * TIME, ..post(&target) }).await });
    receiver.seen.reach(&receiver.seen.requests, 2).await;
    let request = Request { total_timeout: TIME, ..post(&receiver.target()) };
    egress.send(request.clone()).await.unwrap();
    hung.join_next().await.unwrap().unwrap().unwrap_err();
    egress.send(request).await.unwrap();
    assert_eq!(receiver.requests(), 4);
}

/// A burst on a new connection begins before the receiver's settings have come.
#[tokio::test]
async fn what_a_burst_begins_too_early_is_sent_elsewhere() {
    const AT_ONCE: u32 = 8;
    const BURST: usize = 40;
    let authority = Authority::new("ours");
    let taken = Arc::new(AtomicUsize::new(0));
    let taken_there = taken.clone();
    let receiver = Receiver::start(&authority, None, move |mut wire| {
        let taken = taken_there.clone();
        async move {
            let mut open = 0;
            while let Some(stream) = wire.request().await {
                if open == 0 {
                    wire.write(&frame(SETTINGS, 0, 0, &streams_max(AT_ONCE))).await?;
                }
                if open < AT_ONCE {
                    open += 1;
                    wire.seen.count(&taken);
                } else {
                    wire.write(&refusal(stream)).await?;
                }
            }
            Some(())
        }
    })
    .await;
    let (egress, mut burst) = (egress(Some(&authority)), JoinSet::new());
    for _ in 0..BURST {
        let (egress, target) = (egress.clone(), receiver.target());
        burst.spawn(async move { egress.send(post(&target)).await });
    }
    receiver.seen.reach(&taken, BURST).await;
    assert!(burst.try_join_next().is_none(), "none has failed");
}

/// A receiver that leaves after its first request, and of the connections after that hangs at the first `hangs`.
async fn leaving(authority: &Authority, hangs: usize) -> (Target, JoinSet<()>) {
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let hook = target(&format!("https://hooks.example:{}/", listener.local_addr().expect("bound").port()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut peers, mut hung) = (JoinSet::new(), Vec::new());
        for number in 0.. {
            let (tcp, _) = listener.accept().await.expect("a connection");
            if (1..=hangs).contains(&number) {
                hung.push(tcp);
                continue;
            }
            let acceptor = acceptor.clone();
            peers.spawn(async move {
                let stream = acceptor.accept(tcp).await.ok()?;
                let mut wire = Wire { stream, number, seen: Arc::default() };
                wire.stream.read_exact(&mut [0; 24]).await.ok()?;
                wire.write(&frame(SETTINGS, 0, 0, &[])).await?;
                while let Some(stream) = wire.request().await {
                    wire.answer(stream).await?;
                    if number == 0 {
                        wire.write(&farewell(stream)).await?;
                    }
                }
                Some(())
            });
        }
    });
    (hook, tasks)
}

/// Sends so many at once when the first connection is gone, and says how many were answered.
async fn answered_after_leaving(hangs: usize, at_once: usize, connect_timeout: Duration) -> usize {
    let authority = Authority::new("ours");
    let (hook, _receiver) = leaving(&authority, hangs).await;
    let egress = egress(Some(&authority));
    egress.send(post(&hook)).await.expect("an answer");
    let mut requests = JoinSet::new();
    for _ in 0..at_once {
        let request = Request { total_timeout: 3 * connect_timeout, ..post(&hook) };
        let egress = egress.clone();
        requests.spawn(async move { egress.send(request).await });
    }
    let mut answered = 0;
    while let Some(outcome) = requests.join_next().await {
        match outcome.expect("no panic") {
            Ok(response) => {
                assert!(response.elapsed < connect_timeout, "{response:?}");
                answered += 1;
            }
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::TimeoutConnect);
                assert!(failure.elapsed < connect_timeout * 3 / 2, "{failure:?}");
            }
        }
    }
    answered
}

#[tokio::test]
async fn waiting_for_anothers_connection_is_within_the_time_for_connecting() {
    assert_eq!(answered_after_leaving(usize::MAX - 1, 5, Duration::from_secs(2)).await, 0);
}

#[tokio::test]
async fn a_connection_that_hangs_while_it_is_made_holds_up_nobody_else() {
    assert_eq!(answered_after_leaving(1, 5, Duration::from_secs(3)).await, 4);
}
