//! Clients that are slow on purpose: each loses its connection in time, and meanwhile nobody else waits for it.

use std::time::{Duration, Instant};

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
