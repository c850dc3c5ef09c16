//! A bad network between the server and its database: connections that are reset, and a database that is far away.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use neo_events_test_postgres::{Database, database};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    accounts::settle_accounts,
    process::{
        Client, Receiver, ServerProcess,
        load::PATIENCE,
        proxy::Proxy,
        publishers::{Addresses, PUBLISHERS, Publishers},
    },
    sql::Sql,
};

const MANY: usize = 100;
const RESETS_MIN: u32 = 60;
/// Connections that are reset by them, at the least: there may be few while others are being made, and then it goes on.
const BROKEN_MIN: usize = 20;
/// Between two of them.
const RESET_PAUSE: Duration = Duration::from_millis(70);
/// In each direction: an answer takes a second.
const FAR: Duration = Duration::from_millis(500);

/// A server whose way to the database is a proxy.
struct World {
    server: ServerProcess,
    proxy: Proxy,
    receiver: Receiver,
    sql: Sql,
    _folder: TempDir,
    _database: Database,
}

impl World {
    async fn new() -> Self {
        let (database, folder) = (database().await, tempfile::tempdir().unwrap());
        let host = database.url().split(['@', '/']).nth(3).unwrap().parse::<SocketAddr>().unwrap();
        let proxy = Proxy::to(host).await;
        let url = database.url().replace(&host.to_string(), &proxy.address.to_string());
        let server = ServerProcess::start_on(folder.path(), &url, &[]).await;
        let receiver = Receiver::start().await;
        Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
        let sql = Sql::connect(&database.url()).await;
        Self { server, proxy, receiver, sql, _folder: folder, _database: database }
    }

    async fn settle_accounts(&self, publishers: Publishers) {
        let codes = ["database_unavailable"];
        settle_accounts(publishers, self.server.address, &self.receiver, &self.sql, &codes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_reset_again_and_again_lose_and_repeat_nothing() {
    let world = World::new().await;
    let publishers = Publishers::start(&Addresses::of(vec![world.server.address]));
    let (mut resets, began) = (0, Instant::now());
    while resets < RESETS_MIN || world.proxy.broken() < BROKEN_MIN {
        assert!(began.elapsed() < PATIENCE, "only {} connections were reset", world.proxy.broken());
        world.proxy.reset_one_in(3);
        resets += 1;
        sleep(RESET_PAUSE).await;
    }
    println!("{} connections were reset", world.proxy.broken());
    publishers.acknowledged(MANY).await;
    world.settle_accounts(publishers).await;
    assert_eq!(world.receiver.arrivals.repeated(), 0, "the server kept what it could not record");
    assert!(world.server.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_a_second_away_makes_everything_slow_and_loses_and_repeats_nothing() {
    let world = World::new().await;
    world.proxy.delay(FAR);
    let began = Instant::now();
    let publishers = Publishers::start(&Addresses::of(vec![world.server.address]));
    publishers.acknowledged(1).await;
    assert!(began.elapsed() >= 2 * FAR, "{:?}: there and back", began.elapsed());
    publishers.acknowledged(MANY).await;
    println!("{MANY} events by {PUBLISHERS} publishers were acknowledged within {:.1?}", began.elapsed());
    publishers.so_far().arrive_at(&world.receiver).await;
    println!("and arrived within {:.1?}", began.elapsed());
    // Whoever waits for a connection for more than 5 s, on a busy machine, is refused.
    world.settle_accounts(publishers).await;
    assert_eq!(world.receiver.arrivals.repeated(), 0);
    assert!(world.server.terminate().success());
}
