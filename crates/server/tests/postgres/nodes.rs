//! Several nodes on one database: no attempt is made twice, and what one that dies or hangs had begun goes on elsewhere.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use neo_events_test_postgres::{Database, database};
use tempfile::TempDir;

use crate::{
    process::{
        self, Address, Client, Receiver, ServerProcess,
        load::{Acknowledged, Load, until},
    },
    sql::Sql,
};

/// The engine's bound on deliveries in flight to one endpoint on one node.
const ENDPOINT_IN_FLIGHT_MAX: usize = 64;
/// What is promised, in a release build. Others get more, on machines that have other things to do.
const TAKEOVER_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 });
/// What a kill may leave unrecorded: what the node had in flight, and what had been answered in the moment before. In a
/// debug build, whose records may take their time, it is all that a node has in hand.
const UNRECORDED_MAX: usize = if cfg!(debug_assertions) { 1024 } else { 2 * ENDPOINT_IN_FLIGHT_MAX };
/// What others say of a node that was silent for too long, and what it says itself of each attempt that it had begun.
const A_NODE_DIED: &str = "a node died; others take over its work";
const A_LEASE_WAS_LOST: &str = "an attempt ended after its lease; another one counts";

/// Two nodes on one database, and an endpoint that gets everything.
struct World {
    first: ServerProcess,
    second: ServerProcess,
    receiver: Receiver,
    acknowledged: Acknowledged,
    sql: Sql,
    database: Database,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let (database, folder) = (database().await, tempfile::tempdir().unwrap());
        let url = database.url();
        let (first, second) = tokio::join!(
            ServerProcess::start_on(folder.path(), &url, &[]),
            ServerProcess::start_on(folder.path(), &url, &[]),
        );
        let receiver = Receiver::start().await;
        Client::connect(first.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
        let (acknowledged, sql) = (Acknowledged::default(), Sql::connect(&url).await);
        Self { first, second, receiver, acknowledged, sql, database, folder }
    }

    fn load(&self, events: usize) -> Load {
        Load::start(&[self.first.address, self.second.address], events, &self.acknowledged)
    }

    /// Holds answers back until both nodes wait for some.
    async fn hold_requests_of_both(&self) {
        self.receiver.hold();
        until("both nodes have requests in flight", async || {
            !self.in_flight(&self.first).await.is_empty() && !self.in_flight(&self.second).await.is_empty()
        })
        .await;
    }

    /// No attempt was made again, unless the machine kept a node from being heard for so long that it lost what it held:
    /// then no more than it had begun.
    async fn only_lost_leases_explain(&self, repeated: usize) {
        if repeated == 0 {
            return;
        }
        let logs = || process::logs(self.folder.path());
        assert!(
            logs().contains(A_NODE_DIED),
            "{repeated} attempts were made again while every node was heard"
        );
        println!("{repeated} attempts of a node that was not heard for too long were made again");
        until("whoever lost its leases learns of it", async || {
            logs().matches(A_LEASE_WAS_LOST).count() >= repeated
        })
        .await;
    }

    /// What a node waits for: it has a lease, and the receiver its request.
    async fn in_flight(&self, node: &ServerProcess) -> HashSet<String> {
        let statement = format!(
            "select q.event_id::text from admin.delivery_queue q join admin.sessions s on s.no = q.leased_by
             where s.name = 'neo-events:{}'",
            node.id()
        );
        let leased: Vec<String> = self.sql.column(&statement).await;
        let held = self.receiver.arrivals.held();
        leased.into_iter().filter(|id| held.contains(id)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_make_no_attempt_twice() {
    nodes_make_no_attempt_twice(&World::new().await, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_make_no_attempt_twice() {
    let world = World::new().await;
    let (folder, url) = (world.folder.path(), world.database.url());
    let start = || ServerProcess::start_on(folder, &url, &[]);
    let (third, fourth, fifth) = tokio::join!(start(), start(), start());
    nodes_make_no_attempt_twice(&world, &[third.address, fourth.address, fifth.address]).await;
}

/// Nor do others beside the two.
async fn nodes_make_no_attempt_twice(world: &World, others: &[Address]) {
    let other = Receiver::start().await;
    Client::connect(world.second.address).await.unwrap().subscribe_to_everything(&other.url).await;
    let nodes = [&[world.first.address, world.second.address], others].concat();
    Load::start(&nodes, 3000, &world.acknowledged).ended().await;
    for receiver in [&world.receiver, &other] {
        world.acknowledged.arrive_at(receiver).await;
    }
    world.sql.nothing_is_owed().await;
    let mut repeated = 0;
    for receiver in [&world.receiver, &other] {
        let arrivals = receiver.arrivals.all();
        assert_eq!(arrivals.len(), world.acknowledged.len());
        repeated += arrivals.values().map(|times| times.len() - 1).sum::<usize>();
    }
    world.only_lost_leases_explain(repeated).await;
    world.sql.assert_histories_are_whole().await;
    let deliveries: i64 = world.sql.value("select count(*) from admin.deliveries").await;
    assert_eq!(deliveries, 2 * i64::try_from(world.acknowledged.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_held_is_delivered_by_the_other() {
    let world = World::new().await;
    let mut load = world.load(3000);
    load.answered(500).await;
    world.hold_requests_of_both().await;
    let held = world.in_flight(&world.first).await;
    let killed_at = Instant::now();
    world.first.kill();
    until("its requests break off", async || {
        let broken = world.receiver.arrivals.broken();
        held.iter().all(|id| broken.contains(id))
    })
    .await;
    world.receiver.let_go();
    load.ended().await;
    until("what it held arrives again", async || {
        let arrivals = world.receiver.arrivals.all();
        held.iter().all(|id| arrivals[id].len() > 1)
    })
    .await;
    let arrivals = world.receiver.arrivals.all();
    let takeover = held.iter().map(|id| arrivals[id][1].at - killed_at).max().unwrap();
    println!("{} deliveries of a killed node were made by the other within {takeover:.2?}", held.len());
    assert!(takeover <= TAKEOVER_MAX, "{takeover:?}");

    world.acknowledged.arrive_at(&world.receiver).await;
    world.sql.nothing_is_owed().await;
    world.sql.assert_histories_are_whole().await;
    let repeated = world.receiver.arrivals.all().values().filter(|times| times.len() > 1).count();
    assert!(repeated <= UNRECORDED_MAX, "{repeated} repeated: more than may have been unrecorded");
    let nodes: i64 = world.sql.value("select count(*) from admin.sessions").await;
    assert_eq!(nodes, 1);
    world.second.assert_logged(&[A_NODE_DIED]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hung_cannot_settle_what_others_took_over() {
    let world = World::new().await;
    let mut load = world.load(1000);
    load.answered(500).await;
    world.hold_requests_of_both().await;
    load.ended().await;
    world.first.pause();
    let paused_at = Instant::now();
    let of_the_first = world.in_flight(&world.first).await;
    // It will find failures when it wakes, and the other one is still at what it took over then.
    world.receiver.fail_then_hold(of_the_first.clone());
    let some = of_the_first.len().min(2);
    until("the other takes over", async || {
        let arrivals = world.receiver.arrivals.all();
        of_the_first.iter().filter(|id| arrivals[*id].len() > 1).count() >= some
    })
    .await;
    let takeover = paused_at.elapsed();
    println!(
        "the other began with {} deliveries of a node that hangs after {takeover:.2?}",
        of_the_first.len()
    );
    assert!(takeover <= TAKEOVER_MAX, "{takeover:?}");

    world.first.resume();
    until("it learns that they are no longer its own", async || {
        world.first.log().matches(A_LEASE_WAS_LOST).count() >= of_the_first.len()
    })
    .await;
    world.receiver.let_go();
    world.acknowledged.arrive_at(&world.receiver).await;
    world.sql.nothing_is_owed().await;
    world.sql.assert_histories_are_whole().await;
    let ids = of_the_first.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ");
    let statement = format!("select current_attempt from admin.deliveries where event_id in ({ids})");
    let attempts: Vec<i32> = world.sql.column(&statement).await;
    assert_eq!(attempts, vec![1; of_the_first.len()], "what it found counts nothing");

    // Alone, in a new session, it goes on.
    let World { first, second, receiver, sql, .. } = world;
    assert!(second.terminate().success());
    let later = Acknowledged::default();
    Load::start(&[first.address], 200, &later).ended().await;
    later.arrive_at(&receiver).await;
    sql.nothing_is_owed().await;
    sql.assert_histories_are_whole().await;
    assert!(first.terminate().success());
    assert_eq!(sql.value::<i64>("select count(*) from admin.sessions").await, 0);
}
