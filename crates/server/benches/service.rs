//! What the service does as a whole, as a process on SQLite, seen from outside.
//!
//! ```sh
//! cargo bench -p neo-events-server --bench service               # all of them
//! cargo bench -p neo-events-server --bench service -- latency    # publish call to the receiver's first byte
//! cargo bench -p neo-events-server --bench service -- throughput # published one by one and delivered
//! cargo bench -p neo-events-server --bench service -- backlog    # memory beside a million undelivered events
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../tests/process/mod.rs"]
mod process;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use process::{Client, Receiver, ServerProcess};
use tokio::task::JoinSet;

const RATE_PER_SECOND: u32 = 50;
const LATENCY_EVENTS: u32 = 1000;
const THROUGHPUT_EVENTS: usize = 50_000;
const PUBLISHERS: usize = 32;
const BACKLOG_EVENTS: usize = 1_000_000;
const BATCH: usize = 1000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    runtime.block_on(async {
        if wants("latency") {
            latency().await;
        }
        if wants("throughput") {
            throughput().await;
        }
        if wants("backlog") {
            backlog().await;
        }
    });
}

fn event(bytes: usize) -> String {
    format!(r#"{{"event_type":"load.test","event_data":{{"text":"{}"}}}}"#, "x".repeat(bytes - 11))
}

async fn latency() {
    let folder = tempfile::tempdir().unwrap();
    let (server, receiver) = (ServerProcess::start(folder.path()).await, Receiver::start().await);
    let mut client = Client::connect(server.address).await.unwrap();
    client.subscribe_to_everything(&receiver.url).await;
    let mut called = HashMap::new();
    let mut answered = vec![];
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE_PER_SECOND);
    for _ in 0..LATENCY_EVENTS {
        tick.tick().await;
        let began = Instant::now();
        let (status, answer) = client.post("/v1/events", event(1024)).await.unwrap();
        assert_eq!(status, 202, "{answer}");
        answered.push(began.elapsed());
        called.insert(answer["id"].as_str().unwrap().to_owned(), began);
    }
    wait_for(&receiver, LATENCY_EVENTS as usize).await;
    let arrivals = receiver.arrivals.all();
    let arrived = called.iter().map(|(id, began)| arrivals[id][0] - *began).collect();
    println!("latency at {RATE_PER_SECOND} events/s of 1 KiB, {LATENCY_EVENTS} events:");
    println!("  publish call to its answer:               {}", percentiles(answered));
    println!("  publish call to the receiver's first byte: {}", percentiles(arrived));
}

async fn throughput() {
    let folder = tempfile::tempdir().unwrap();
    let (server, receiver) = (ServerProcess::start(folder.path()).await, Receiver::start().await);
    Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
    let began = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let address = server.address;
        publishers.spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            for _ in 0..THROUGHPUT_EVENTS / PUBLISHERS {
                let (status, answer) = client.post("/v1/events", event(1024)).await.unwrap();
                assert_eq!(status, 202, "{answer}");
            }
        });
    }
    publishers.join_all().await;
    let published = began.elapsed();
    let events = THROUGHPUT_EVENTS / PUBLISHERS * PUBLISHERS;
    wait_for(&receiver, events).await;
    let delivered = began.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = |elapsed: Duration| events as f64 / elapsed.as_secs_f64();
    println!("throughput, {events} events of 1 KiB one by one at concurrency {PUBLISHERS}, one endpoint:");
    println!(
        "  published {:.0}/s, delivered {:.0}/s, server at {} MiB",
        rate(published),
        rate(delivered),
        server.resident_mib()
    );
}

async fn backlog() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path()).await;
    let mut client = Client::connect(server.address).await.unwrap();
    // Nobody listens there: everything stays owed.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    client.subscribe_to_everything(&format!("http://{unused}/")).await;
    let batch: Arc<str> = format!(r#"{{"events":[{}]}}"#, vec![event(256); BATCH].join(",")).into();
    let (began, mut most) = (Instant::now(), 0);
    for _ in 0..BACKLOG_EVENTS / BATCH {
        let (status, answer) = client.post("/v1/events/batch", batch.to_string()).await.unwrap();
        assert_eq!(status, 202, "{answer}");
        most = most.max(server.resident_mib());
    }
    let published = began.elapsed();
    loop {
        let (_, owed) = client.get("/v1/events?processed=false&limit=1").await.unwrap();
        most = most.max(server.resident_mib());
        if owed["data"].as_array().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("backlog of {BACKLOG_EVENTS} events of 256 bytes to an endpoint that refuses connections:");
    println!("  published in {published:.1?}, dispatched in {:.1?}", began.elapsed());
    println!("  server at most {most} MiB, at the end {} MiB resident", server.resident_mib());
}

async fn wait_for(receiver: &Receiver, events: usize) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while receiver.arrivals.events() < events {
        assert!(Instant::now() < deadline, "{} of {events} arrived", receiver.arrivals.events());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((times.len() - 1) as f64 * share).round() as usize;
        times[index]
    };
    format!("p50 {:.2?}, p99 {:.2?}, most {:.2?}", at(0.5), at(0.99), at(1.0))
}
