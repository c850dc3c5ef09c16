//! SIGKILL under load, again and again, to a server, to one of two nodes, and to PostgreSQL: every acknowledged event
//! arrives, and duplicates are only those that were in flight when a process died.
//!
//! Ledgers are kept at both ends: publishers choose the ids of their events and note which were acknowledged, and each
//! endpoint's receiver notes and verifies what arrives. There are two tenants, and three endpoints: one for everything in
//! each, and one whose filter lets a part through and which refuses a request now and then. On
//! PostgreSQL a shop publishes from its own transactions beside them: what it committed arrives, and nothing that it rolled
//! back. A seed, which is printed,
//! decides when who is killed and for how long.
//!
//! Ten minutes, as the README claims it, each:
//!
//! ```sh
//! NEO_EVENTS_CRASH_SECONDS=600 cargo test --release -p neo-events-server --test crash kills -- --nocapture
//! ```
//!
//! `NEO_EVENTS_SEED=n` repeats the decisions of a run; what they hit also depends on the machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "crash/clock.rs"]
mod clock;
#[path = "crash/duplicates.rs"]
mod duplicates;
#[path = "crash/full_disk.rs"]
mod full_disk;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/names.rs"]
mod names;
mod process;
#[path = "crash/random.rs"]
mod random;
#[path = "crash/receivers.rs"]
mod receivers;
#[path = "crash/shop.rs"]
mod shop;
#[path = "crash/world.rs"]
mod world;

use std::path::Path;

use neo_events_test_postgres::{self as postgres, Cluster};
use process::{
    Client, Receiver, ServerProcess,
    load::{Acknowledged, Load},
};
use world::{Data, World, sqlite};

#[expect(clippy::disallowed_methods, reason = "the full run, and a seed, are asked for by the environment")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_arrives_through_any_number_of_kills() {
    World::new("one server", 1, async |folder| Data::File(sqlite(folder))).await.crash_loop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_arrives_through_kills_of_either_node() {
    World::new("two nodes", 2, async |_| Data::Shared(postgres::database().await)).await.crash_loop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_arrives_through_kills_of_nodes_and_database() {
    World::new("two nodes and PostgreSQL", 2, async |_| Data::Own(Cluster::start(&[]).await))
        .await
        .crash_loop()
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_under_load_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    stop_again_and_again(folder.path(), &sqlite(folder.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_repeats_nothing_on_postgresql_either() {
    let (folder, database) = (tempfile::tempdir().unwrap(), postgres::database().await);
    stop_again_and_again(folder.path(), &database.url()).await;
}

async fn stop_again_and_again(folder: &Path, database: &str) {
    let receiver = Receiver::start().await;
    let mut server = ServerProcess::start_on(folder, database, &[]).await;
    Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
    let acknowledged = Acknowledged::default();
    for _ in 0..3 {
        let mut load = Load::start(&[server.address], 3000, &acknowledged);
        load.answered(1000).await;
        let status = server.terminate();
        assert!(status.success(), "{status}");
        load.ended().await;
        server = ServerProcess::start_on(folder, database, &[]).await;
    }
    acknowledged.arrive_at(&receiver).await;
    assert!(server.terminate().success());
    assert_eq!(receiver.arrivals.repeated(), 0, "events were sent twice though every stop was graceful");
}
