//! Clients that are slow on purpose: each loses its connection in time, and meanwhile nobody else waits for it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{KEY, PATIENCE, Server};

/// Far more than the runtime has threads.
const CONNECTIONS: usize = 300;
/// How long a byte more is waited for before the next one is sent: never long enough to seem idle.
const TRICKLE: Duration = Duration::from_millis(500);

/// Sends the beginning of a request, then a byte now and then; answers once the server has had enough.
async fn trickle(mut stream: TcpStream, beginning: String) {
    stream.write_all(beginning.as_bytes()).await.expect("the server reads");
    let mut answer = [0; 1024];
    loop {
        let is_over = match tokio::time::timeout(TRICKLE, stream.read(&mut answer)).await {
            Ok(read) => read.unwrap_or(0) == 0,
            Err(_) => stream.write_all(b"x").await.is_err(),
        };
        if is_over {
            return;
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
    tokio::time::timeout(PATIENCE, all_cut_off).await.expect("each is cut off in time");
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
        tokio::time::timeout(PATIENCE, refused).await.expect("there is not room for all")
    };
    let mut stalled = vec![stall(LARGEST).await, stall(LARGEST).await, stall(LARGEST).await];
    let reply = until_refused("/v1/events/batch", &large).await;
    assert_eq!(reply.headers["retry-after"], "1");
    let says = reply.refused(503, "bodies_busy");
    assert!(says.contains("smaller batches"), "{says}");
    server.post("/v1/events", event(1000)).await.expect(202);
    server.post("/v1/events/batch", json!({"events": vec![event(1000); 50]})).await.expect(202);
    // A single event that is large needs room, too.
    let rest = stall(2 * 1024 * 1024).await;
    until_refused("/v1/events", &event(90_000).to_string()).await.refused(503, "bodies_busy");
    drop(rest);
    // One that goes away leaves its room to others.
    drop(stalled.pop());
    server.post("/v1/events/batch", &large).await.expect(202);
}
