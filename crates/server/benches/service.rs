//! The server as a process beside a backlog: how much memory it takes, and that the backlog slows others down little. It
//! fails where either is not so. Everything else about speed is `neo-events bench`.
//!
//! ```sh
//! cargo bench -p neo-events-server --bench service             # on both databases
//! cargo bench -p neo-events-server --bench service -- sqlite
//! cargo bench -p neo-events-server --bench service -- postgres # on a PostgreSQL of its own
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../tests/process/mod.rs"]
mod process;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use neo_events_test_postgres::Cluster;
use process::{
    Client, Receiver, ServerProcess,
    load::{delivered_per_second, event, until},
};

const BACKLOG_EVENTS: usize = 1_000_000;
const BATCH: usize = 1000;
/// What is published beside it, one by one, to an endpoint that answers; in turn with a server that has no backlog.
const EVENTS_BESIDE: usize = 20_000;
const ROUNDS: usize = 5;
/// What a server does before it is measured.
const WARM_UP: usize = 2_000;

/// Of the speed without a backlog, what there is beside it at the least; by the medians of the rounds.
const RATIO_MIN: f64 = 0.8;
/// Of the server, resident: twice what was seen.
const MEMORY_MIB_MAX: u64 = 100;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    runtime.block_on(async {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [alone, beside] = folders.each_ref().map(tempfile::TempDir::path);
        if wants("sqlite") {
            let [one, other] =
                [alone, beside].map(|folder| format!("sqlite:{}", process::database(folder).display()));
            let alone = ServerProcess::start_on(alone, &one, &[]).await;
            backlog("SQLite", alone, ServerProcess::start_on(beside, &other, &[]).await).await;
        }
        if wants("postgres") {
            let (one, other) = (Cluster::start(&[]).await, Cluster::start(&[]).await);
            let alone = ServerProcess::start_on(alone, &one.url(), &[]).await;
            backlog("PostgreSQL", alone, ServerProcess::start_on(beside, &other.url(), &[]).await).await;
        }
    });
}

/// The backlog of one server, and what the other delivers without one. While one is measured, the other does nothing: it
/// is not asked for anything, and the one with the backlog is stopped.
async fn backlog(name: &str, alone: ServerProcess, beside: ServerProcess) {
    let (receiver, receiver_alone) = (Receiver::start().await, Receiver::start().await);
    let mut client_alone = Client::connect(alone.address).await.unwrap();
    subscribe(&mut client_alone, "beside.*", &receiver_alone.url).await;
    let mut client = Client::connect(beside.address).await.unwrap();
    // Nobody listens there: everything stays owed.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    subscribe(&mut client, "backlog.*", &format!("http://{unused}/")).await;
    subscribe(&mut client, "beside.*", &receiver.url).await;
    println!(
        "{name}: a backlog of {BACKLOG_EVENTS} events of 256 bytes to an endpoint that refuses connections"
    );

    let batch: Arc<str> =
        format!(r#"{{"events":[{}]}}"#, vec![event("backlog.test", 256); BATCH].join(",")).into();
    let (began, mut most) = (Instant::now(), 0);
    for _ in 0..BACKLOG_EVENTS / BATCH {
        let (status, answer) = client.post("/v1/events/batch", batch.to_string()).await.unwrap();
        assert_eq!(status, 202, "{answer}");
        most = most.max(beside.resident_mib());
    }
    let published = began.elapsed();
    loop {
        let (_, owed) = client.get("/v1/events?processed=false&limit=1").await.unwrap();
        most = most.max(beside.resident_mib());
        if owed["data"].as_array().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("  published in {published:.1?}, dispatched in {:.1?}", began.elapsed());

    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        beside.pause();
        rates[0].push(measured(&alone, &receiver_alone).await);
        beside.resume();
        until("it goes on", async || client.get("/readyz").await.is_ok_and(|(status, _)| status == 200))
            .await;
        rates[1].push(measured(&beside, &receiver).await);
        most = most.max(beside.resident_mib());
        println!("  delivered without it {:.0}/s, beside it {:.0}/s", last(&rates[0]), last(&rates[1]));
    }
    let [alone, with_backlog] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let ratio = with_backlog / alone;
    println!("  medians: without it {alone:.0}/s, beside it {with_backlog:.0}/s; ratio {ratio:.2}");
    println!("  server at most {most} MiB, at the end {} MiB resident", beside.resident_mib());
    assert!(ratio >= RATIO_MIN, "{name}: the backlog slows others down");
    assert!(most <= MEMORY_MIB_MAX, "{name}: the backlog is held in memory");
}

async fn measured(server: &ServerProcess, receiver: &Receiver) -> f64 {
    delivered_per_second(server.address, receiver, "beside.test", WARM_UP).await;
    delivered_per_second(server.address, receiver, "beside.test", EVENTS_BESIDE).await
}

fn last(rates: &[f64]) -> f64 {
    rates.last().copied().unwrap_or_default()
}

/// Registers an endpoint for the types of a pattern.
async fn subscribe(client: &mut Client, pattern: &str, url: &str) {
    let endpoint = serde_json::json!({"name": "test", "endpoint_url": url, "retry_backoff_seconds": 1});
    let (status, created) = client.post("/v1/endpoints", endpoint.to_string()).await.unwrap();
    assert_eq!(status, 201, "{created}");
    let subscription = serde_json::json!({"endpoint_id": created["id"], "event_type": pattern});
    let (status, created) = client.post("/v1/subscriptions", subscription.to_string()).await.unwrap();
    assert_eq!(status, 201, "{created}");
}
