//! A database that dies, is restarted, or hangs, under load: what was acknowledged is delivered, what was refused can be
//! published again, and nobody has to do anything to the servers.

use std::time::Duration;

use neo_events_test_postgres::Cluster;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until};

use crate::{
    accounts::settle_accounts,
    process::{
        Client, Receiver, ServerProcess,
        load::until,
        publishers::{Addresses, Publishers},
    },
    sql::Sql,
};

/// Answers that are waited for, before and after.
const MANY: usize = 300;
/// Longer than a node may be silent.
const FREEZE: Duration = Duration::from_secs(6);

/// Servers on a durable cluster of their own.
struct World {
    cluster: Cluster,
    servers: Vec<ServerProcess>,
    receiver: Receiver,
    _folder: TempDir,
}

impl World {
    async fn with_servers(count: usize) -> Self {
        let (cluster, folder) = (Cluster::start(&[]).await, tempfile::tempdir().unwrap());
        let mut servers = vec![];
        for _ in 0..count {
            servers.push(ServerProcess::start_on(folder.path(), &cluster.url(), &[]).await);
        }
        let receiver = Receiver::start().await;
        Client::connect(servers[0].address).await.unwrap().subscribe_to_everything(&receiver.url).await;
        Self { cluster, servers, receiver, _folder: folder }
    }

    fn publishers(&self) -> Publishers {
        Publishers::start(&Addresses::of(self.servers.iter().map(|server| server.address).collect()))
    }

    /// It lives, and says that it cannot serve.
    async fn assert_out_of_service(&self) {
        let mut client = Client::connect(self.servers[0].address).await.unwrap();
        assert_eq!(client.get("/livez").await.unwrap().0, 200);
        let (status, problem) = client.get("/readyz").await.unwrap();
        assert_eq!((status, &problem["code"]), (503, &json!("database_unavailable")));
    }

    async fn settle_accounts(&self, publishers: Publishers) {
        let sql = Sql::connect(&self.cluster.url()).await;
        let server = self.servers[0].address;
        settle_accounts(publishers, server, &self.receiver, &sql, &["database_unavailable"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_and_started_again() {
    let mut world = World::with_servers(1).await;
    let publishers = world.publishers();
    publishers.acknowledged(MANY).await;
    // Some attempts are answered while nobody can record them.
    world.receiver.hold();
    until("requests are in flight", async || !world.receiver.arrivals.held().is_empty()).await;
    world.cluster.kill9();
    world.receiver.let_go();
    publishers.refused(MANY).await;
    world.assert_out_of_service().await;
    for line in [
        "an attempt could not be recorded; trying again",
        "who is due is not known; trying again",
        "a request failed",
        "code=database_unavailable",
    ] {
        until(line, async || world.servers[0].log().contains(line)).await;
    }
    world.cluster.start_again().await;
    publishers.acknowledged(MANY).await;
    world.settle_accounts(publishers).await;
    assert_eq!(world.receiver.arrivals.repeated(), 0, "the server kept what it could not record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_restarted() {
    let mut world = World::with_servers(1).await;
    let publishers = world.publishers();
    for _ in 0..3 {
        publishers.acknowledged(MANY).await;
        world.cluster.stop_fast().await;
        world.cluster.start_again().await;
    }
    publishers.acknowledged(MANY).await;
    world.settle_accounts(publishers).await;
    assert_eq!(world.receiver.arrivals.repeated(), 0, "the server kept what it could not record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_for_a_while() {
    let world = World::with_servers(2).await;
    let publishers = world.publishers();
    publishers.acknowledged(MANY).await;
    world.cluster.pause();
    let since = Instant::now();
    world.assert_out_of_service().await;
    sleep_until(since + FREEZE).await;
    world.cluster.resume();
    publishers.acknowledged(MANY).await;
    world.settle_accounts(publishers).await;
    println!("{} events arrived twice", world.receiver.arrivals.repeated());
}
