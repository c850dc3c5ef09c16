//! A receiver that freezes: it takes requests and never answers.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::process::{
    Client, Receiver, ServerProcess,
    load::{Acknowledged, Load, until},
};

const EVENTS: usize = 320;
/// Of an attempt at the frozen one.
const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_receiver_delays_nobody_else_and_gets_everything_when_it_thaws() {
    let folder = tempfile::tempdir().unwrap();
    let (frozen, other) = (Receiver::start().await, Receiver::start().await);
    let server = ServerProcess::start(folder.path()).await;
    let mut client = Client::connect(server.address).await.unwrap();
    let endpoint = client.subscribe_with(&frozen.url, json!({"timeout_seconds": TIMEOUT.as_secs()})).await;
    client.subscribe_to_everything(&other.url).await;

    frozen.hold();
    let (acknowledged, began) = (Acknowledged::default(), Instant::now());
    Load::start(&[server.address], EVENTS, &acknowledged).ended().await;
    acknowledged.arrive_at(&other).await;
    assert!(
        began.elapsed() < TIMEOUT,
        "{:?}: they waited until the frozen one was given up",
        began.elapsed()
    );
    let retrying = format!("/v1/deliveries?endpoint_id={endpoint}&status=retrying");
    until("attempts end by their timeout", async || {
        !client.get(&retrying).await.unwrap().1["data"].as_array().unwrap().is_empty()
    })
    .await;
    let (_, list) = client.get(&retrying).await.unwrap();
    let id = list["data"][0]["id"].as_str().unwrap();
    let (_, delivery) = client.get(&format!("/v1/deliveries/{id}")).await.unwrap();
    assert_eq!(delivery["attempts"][0]["error_code"], json!("timeout_total"), "{delivery}");

    frozen.let_go();
    acknowledged.arrive_at(&frozen).await;
    until("every delivery has succeeded", async || {
        let path = format!("/v1/deliveries?endpoint_id={endpoint}&status=success&limit=1000");
        client.get(&path).await.unwrap().1["data"].as_array().unwrap().len() == acknowledged.len()
    })
    .await;
    let once: HashSet<usize> = other.arrivals.all().values().map(Vec::len).collect();
    assert_eq!(once, HashSet::from([1]));
    other.arrivals.assert_signed_first_attempts();
}
