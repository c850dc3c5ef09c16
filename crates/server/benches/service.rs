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
    load::{delivered_per_second, event},
};

const BACKLOG_EVENTS: usize = 1_000_000;
const BATCH: usize = 1000;
/// What is published beside it, one by one, to an endpoint that answers.
const EVENTS_BESIDE: usize = 20_000;

/// Of the speed before the backlog, what there is beside it at the least: a quarter less was seen, and machines vary.
const RATIO_MIN: f64 = 0.5;
/// Of the server, resident: twice what was seen.
const MEMORY_MIB_MAX: u64 = 100;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        if wants("sqlite") {
            let database = format!("sqlite:{}", process::database(folder.path()).display());
            backlog("SQLite", ServerProcess::start_on(folder.path(), &database, &[]).await).await;
        }
        if wants("postgres") {
            let cluster = Cluster::start(&[]).await;
            let url = cluster.url();
            backlog("PostgreSQL", ServerProcess::start_on(folder.path(), &url, &[]).await).await;
        }
    });
}

async fn backlog(name: &str, server: ServerProcess) {
    let receiver = Receiver::start().await;
    let mut client = Client::connect(server.address).await.unwrap();
    // Nobody listens there: everything stays owed.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    subscribe(&mut client, "backlog.*", &format!("http://{unused}/")).await;
    subscribe(&mut client, "beside.*", &receiver.url).await;
    println!(
        "{name}: a backlog of {BACKLOG_EVENTS} events of 256 bytes to an endpoint that refuses connections"
    );
    let alone = delivered_per_second(server.address, &receiver, "beside.test", EVENTS_BESIDE).await;

    let batch: Arc<str> =
        format!(r#"{{"events":[{}]}}"#, vec![event("backlog.test", 256); BATCH].join(",")).into();
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
    println!("  published in {published:.1?}, dispatched in {:.1?}", began.elapsed());
    let beside = delivered_per_second(server.address, &receiver, "beside.test", EVENTS_BESIDE).await;
    most = most.max(server.resident_mib());
    println!("  delivered beside it: {beside:.0}/s; before it: {alone:.0}/s; ratio {:.2}", beside / alone);
    println!("  server at most {most} MiB, at the end {} MiB resident", server.resident_mib());
    assert!(beside / alone > RATIO_MIN, "{name}: the backlog slows others down");
    assert!(most <= MEMORY_MIB_MAX, "{name}: the backlog is held in memory");
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
