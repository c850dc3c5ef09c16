//! Clients that are slow on purpose: each loses its connection in time, and meanwhile nobody else waits for it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant as Later, sleep_until, timeout},
};

use crate::support::{Call, KEY, PATIENCE, Reply, Server};

/// Far more than the runtime has threads.
const CONNECTIONS: usize = 300;
/// How long a byte more is waited for before the next one is sent: never long enough to seem idle.
const TRICKLE: Duration = Duration::from_millis(500);

/// The server's limits: how long a body may take, and an answer that is not read.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// The server's limit on connections.
const CONNECTIONS_MAX: usize = 4096;
/// What a probe may have to wait for those before it, five times, since others test beside us. An orchestrator waits no
/// longer for the answer; elsewhere a head or what is left of a body may take twice as long.
const PROBED: Duration = Duration::from_secs(5);
/// Those beyond it that may only ask whether it lives.
const RESERVE_CONNECTIONS_MAX: usize = 256;
/// How often all of them are taken: they are free again after a while.
const FILLS_MAX: usize = 4;
/// Both ends of them are ours here, and others test beside us.
const FILES_WANTED: u64 = 2 * 4096 + 2000;

/// Sends the beginning of a request, then a byte now and then; once the server has had enough, what it answered.
async fn trickle(mut stream: TcpStream, beginning: String) -> Vec<u8> {
    stream.write_all(beginning.as_bytes()).await.expect("the server reads");
    let mut answer = Vec::new();
    loop {
        let is_over = match timeout(TRICKLE, stream.read_buf(&mut answer)).await {
            Ok(read) => read.unwrap_or(0) == 0,
            Err(_) => stream.write_all(b"x").await.is_err(),
        };
        if is_over {
            return answer;
        }
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off_and_holds_up_nobody() {
    let server = Server::start().await;
    let heads = [
        String::new(),
        "GET /v1/events HTTP/1.1\r\nx-slow: ".to_owned(),
        format!("GET /v1/events HTTP/1.1\r\nauthorization: Bearer {KEY}\r\nx-slow: "),
    ];
    let mut tasks = JoinSet::new();
    for index in 0..CONNECTIONS {
        let stream = TcpStream::connect(server.address).await.expect("it listens");
        tasks.spawn(trickle(stream, heads[index % heads.len()].clone()));
    }
    let asked = Instant::now();
    server.get("/v1/events").await.expect(200);
    assert!(asked.elapsed() < PATIENCE / 4, "{:?}", asked.elapsed());
    let all_cut_off = async { while tasks.join_next().await.is_some() {} };
    timeout(PATIENCE, all_cut_off).await.expect("each is cut off in time");
    server.get("/v1/events").await.expect(200);
}

#[tokio::test]
async fn large_bodies_have_room_for_a_few_at_once_and_small_ones_pass_them_by() {
    const LARGEST: usize = 10 * 1024 * 1024;
    let server = Server::start().await;
    let event = |bytes| json!({"event_type": "user.created", "event_data": {"text": "x".repeat(bytes)}});
    let large = json!({"events": vec![event(100_000); 100]}).to_string();
    // More than a small one may have, and then nothing.
    let stall = async |length: usize| {
        let mut stream = TcpStream::connect(server.address).await.expect("it listens");
        let head = format!(
            "POST /v1/events/batch HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("the server reads");
        stream.write_all(&large.as_bytes()[..100_000]).await.expect("the server reads");
        stream
    };
    // Once it is refused, those that stall have what there is.
    let until_refused = async |path: &str, body: &str| {
        let refused = async {
            loop {
                let reply = server.post(path, body).await;
                if reply.status != 202 {
                    return reply;
                }
            }
        };
        timeout(PATIENCE, refused).await.expect("there is not room for all")
    };
    let mut stalled = vec![stall(LARGEST).await, stall(LARGEST).await];
    let reply = until_refused("/v1/events/batch", &large).await;
    assert_eq!(reply.headers["retry-after"], "1");
    let says = reply.refused(503, "bodies_busy");
    assert!(says.contains("smaller batches"), "{says}");
    server.post("/v1/events", event(1000)).await.expect(202);
    server.post("/v1/events/batch", json!({"events": vec![event(1000); 50]})).await.expect(202);
    // A single event that is large needs room, too.
    let rest = stall(1024 * 1024).await;
    until_refused("/v1/events", &event(90_000).to_string()).await.refused(503, "bodies_busy");
    drop(rest);
    // One that goes away leaves its room to others.
    drop(stalled.pop());
    server.post("/v1/events/batch", &large).await.expect(202);
}

#[tokio::test]
async fn large_answers_that_nobody_reads_have_room_for_a_few_and_others_pass_them_by() {
    let server = Server::start().await;
    let event = |bytes| json!({"event_type": "user.created", "event_data": {"text": "x".repeat(bytes)}});
    let large = json!({"events": vec![event(100_000); 90]}).to_string();
    server.post("/v1/tenants", json!({"slug": "acme", "name": "Acme"})).await.expect(201);
    let as_acme =
        |method: &'static str, path: &str| Call::new(method, path).header("x-neo-tenant-id", "acme");
    server.post("/v1/events/batch", &large).await.expect(202);
    server.send(as_acme("POST", "/v1/events/batch").json(&large)).await.expect(202);
    let deaf = async || {
        let mut stream = TcpStream::connect(server.address).await.expect("it listens");
        Call::new("GET", "/v1/events").send(&mut stream).await;
        stream
    };
    let mut unread = Vec::new();
    let filling = async {
        loop {
            unread.push(deaf().await);
            let reply = server.get("/v1/events").await;
            if reply.status != 200 {
                return reply;
            }
        }
    };
    let refused = timeout(PATIENCE, filling).await.expect("there is not room for all");
    assert!(unread.len() > 3, "{} pages of 8 MiB in 46", unread.len());
    assert_eq!(refused.headers["retry-after"], "1");
    let says = refused.refused(503, "answers_busy");
    assert!(says.contains("`limit`"), "{says}");
    server.get("/v1/event-types").await.expect(200);
    // What is done is done, and its answer is never refused for that.
    server.post("/v1/events/batch", json!({"events": vec![event(10); 1000]})).await.expect(202);
    server.send(as_acme("GET", "/v1/events")).await.expect(200);
    // Those that go away leave their room to others.
    unread.clear();
    let until_there_is_room = async {
        while server.get("/v1/events").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, until_there_is_room).await.expect("there is room again");
}

#[tokio::test]
async fn who_does_not_send_a_body_or_read_an_answer_is_waited_for_a_minute_at_most() {
    let server = Server::start().await;
    // All of them take that long, and nothing else meanwhile.
    tokio::join!(a_body_does_not_end(&server), answers_are_not_read(&server));
}

/// Answers without a body, to requests that bring one, which the server's library would let gather without end.
#[tokio::test]
async fn requests_sent_ahead_are_not_read_while_answers_are_not() {
    const AHEAD: usize = 64 * 1024 * 1024;
    let server = Server::start().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut stream = socket.connect(server.address).await.expect("it listens");
    let request =
        "HEAD /livez HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let requests = request.repeat(1000);
    let mut sent = 0;
    // It is not read any more, though there is time to answer others.
    while timeout(TRICKLE, stream.write_all(requests.as_bytes())).await.is_ok_and(|sent| sent.is_ok()) {
        sent += requests.len();
        assert!(sent < AHEAD, "all of it is read");
        assert_eq!(server.get("/livez").await.status, 200);
    }
}

async fn a_body_does_not_end(server: &Server) {
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: 100000\r\n\r\n"
    );
    let stream = TcpStream::connect(server.address).await.expect("it listens");
    let began = Instant::now();
    let answer =
        timeout(BODY_TIMEOUT + PATIENCE, trickle(stream, head)).await.expect("it is cut off in time");
    assert!(began.elapsed() >= BODY_TIMEOUT, "{:?}", began.elapsed());
    let says = Reply::parse(&answer).refused(408, "body_timeout");
    assert!(says.ends_with(&format!("within {} s", BODY_TIMEOUT.as_secs())), "{says}");
}

async fn answers_are_not_read(server: &Server) {
    let event = json!({"event_type": "user.created", "event_data": {"text": "x".repeat(100_000)}});
    server.post("/v1/events/batch", json!({"events": vec![event; 100]})).await.expect(202);
    let whole = 2 * server.get("/v1/events").await.text.len();
    assert!(whole > 15_000_000, "{whole}");
    // Two answers are more than the system takes off the server for a connection.
    let ask = async || {
        let mut stream = TcpStream::connect(server.address).await.expect("it listens");
        Call::new("GET", "/v1/events").header("connection", "keep-alive").send(&mut stream).await;
        Call::new("GET", "/v1/events").send(&mut stream).await;
        stream
    };
    let (mut deaf, mut slow) = (ask().await, ask().await);
    let until = Later::now() + WRITE_TIMEOUT + PATIENCE;
    // Never silent for long, and never done.
    let (mut sip, mut sips) = ([0; 10_000], 0);
    while Later::now() < until {
        sips += slow.read(&mut sip).await.expect("what is there already can be read");
        sleep_until(until.min(Later::now() + TRICKLE)).await;
    }
    for (stream, read) in [(&mut deaf, 0), (&mut slow, sips)] {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it was cut off");
        assert!(read + rest.len() < whole, "{ended:?}: it was waited for");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_for_probes_until_one_is_free() {
    let files = rlimit::increase_nofile_limit(FILES_WANTED).expect("a limit");
    assert!(files >= FILES_WANTED, "this test needs {FILES_WANTED} open files, and may have {files}");
    for _ in 0..FILLS_MAX {
        let (began, mut beyond) = (Instant::now(), JoinSet::new());
        beyond.spawn(beyond_the_limit_they_are_for_probes());
        match beyond.join_next().await.expect("one") {
            Ok(()) => return,
            // A machine that has other things to do: places were free again before all was seen, which says nothing.
            Err(_) if began.elapsed() >= BODY_TIMEOUT => {}
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
    panic!("the limit was never reached in time");
}

async fn beyond_the_limit_they_are_for_probes() {
    let server = Server::start().await;
    let (began, mut held) = (Instant::now(), JoinSet::new());
    for _ in 0..CONNECTIONS_MAX {
        held.spawn(hold(server.address));
    }
    let mut held = timeout(BODY_TIMEOUT, held.join_all()).await.expect("all are served");
    are_for_probes(&server).await;
    // Those that say nothing do not keep them for long.
    let mut silent = Vec::new();
    for _ in 0..RESERVE_CONNECTIONS_MAX {
        silent.push(TcpStream::connect(server.address).await.expect("it listens"));
    }
    are_for_probes(&server).await;
    // Nor do those that have sent all but a body.
    let mut owing = Vec::new();
    for path in ["/", "/livez", "/v1/events"].into_iter().cycle().take(RESERVE_CONNECTIONS_MAX) {
        owing.push(owe(server.address, path).await);
    }
    are_for_probes(&server).await;
    let mut answer = Vec::new();
    let mut stream = owe(server.address, "/livez").await;
    timeout(PROBED, stream.read_to_end(&mut answer)).await.expect("it is not waited for").ok();
    Reply::parse(&answer).refused(503, "connections_busy");
    assert!(began.elapsed() < BODY_TIMEOUT, "by now places are free again");
    drop(held.pop());
    let asking = async { while server.get("/v1/events").await.status != 200 {} };
    timeout(PATIENCE, asking).await.expect("a place is free");
}

/// What the server does while every ordinary connection is in use.
async fn are_for_probes(server: &Server) {
    for path in ["/livez", "/readyz"] {
        let probe = Call::new("GET", path).without("authorization").header("connection", "keep-alive");
        let asked = Instant::now();
        let reply = server.send(probe).await;
        assert!(asked.elapsed() < PROBED, "{:?}", asked.elapsed());
        assert_eq!(reply.headers["connection"], "close", "others wait for the place");
        reply.expect(200);
    }
    let large = json!({"event_type": "a.b", "event_data": {"text": "x".repeat(90_000)}});
    for call in [Call::new("GET", "/v1/events"), Call::new("POST", "/v1/events").json(&large)] {
        let reply = server.send(call).await;
        assert_eq!(reply.headers["retry-after"], "1");
        reply.refused(503, "connections_busy");
    }
}

/// A connection that owes all of a large body but its first byte.
async fn owe(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nx");
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    stream
}

/// A connection whose request has begun: the server waits for its body.
async fn hold(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.expect("it is asked for");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}
