//! SIGKILL under load, again and again, to a server, to one of two nodes, and to PostgreSQL: every acknowledged event
//! arrives, and duplicates are only those that were in flight when a process died.
//!
//! Ledgers are kept at both ends: publishers choose the ids of their events and note which were acknowledged, and the
//! receiver notes and verifies what arrives. A seed, which is printed, decides when who is killed and for how long.
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
#[path = "crash/full_disk.rs"]
mod full_disk;
#[path = "crash/names.rs"]
mod names;
mod process;
#[path = "crash/receivers.rs"]
mod receivers;

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    time::{Duration, Instant},
};

use neo_events_test_postgres::{self as postgres, Cluster};
use process::{
    Client, Receiver, ServerProcess,
    load::{Acknowledged, Load, until},
    publishers::{Addresses, Publishers, until_all_arrived},
};
use tempfile::TempDir;
use tokio::time::sleep;

/// The engine's bound on deliveries in flight to one endpoint on one node: what a kill may leave unrecorded.
const IN_FLIGHT_MAX: usize = 64;
/// How soon after a restart everything has arrived that had been acknowledged, in a release build.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// How long processes are killed, unless the environment says otherwise.
const SECONDS: u64 = 15;
/// Of each publisher between two events: some 3000 events a second in all.
const PACE: Duration = Duration::from_millis(5);
/// What a process had sent may arrive a moment after its death.
const AFTERLIFE: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "the full run, and a seed, are asked for by the environment")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Random numbers that a seed repeats: xorshift64*.
struct Random(u64);

impl Random {
    fn new(of: &str) -> Self {
        let seed = setting("NEO_EVENTS_SEED").unwrap_or_else(|| RandomState::new().hash_one(of) % 1_000_000);
        println!("{of}: NEO_EVENTS_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Sleeps for less than so many milliseconds.
    async fn pause(&mut self, milliseconds: u64) {
        sleep(Duration::from_millis(self.below(milliseconds))).await;
    }
}

/// Where the events are.
enum Data {
    File(String),
    Shared(postgres::Database),
    /// It is killed too.
    Own(Cluster),
}

impl Data {
    fn url(&self) -> String {
        match self {
            Self::File(url) => url.clone(),
            Self::Shared(database) => database.url(),
            Self::Own(cluster) => cluster.url(),
        }
    }
}

fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", process::database(folder).display())
}

/// Nodes under load, and what was done to them.
struct World {
    name: &'static str,
    data: Data,
    nodes: Vec<Option<ServerProcess>>,
    addresses: Addresses,
    receiver: Receiver,
    random: Random,
    /// When a node was killed.
    kills: Vec<Instant>,
    database_kills: usize,
    folder: TempDir,
}

impl World {
    async fn new(name: &'static str, nodes: usize, data: impl AsyncFnOnce(&Path) -> Data) -> Self {
        let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
        let data = data(folder.path()).await;
        let mut servers = vec![];
        for _ in 0..nodes {
            servers.push(ServerProcess::start_on(folder.path(), &data.url(), &[]).await);
        }
        Client::connect(servers[0].address).await.unwrap().subscribe_to_everything(&receiver.url).await;
        let addresses = Addresses::of(servers.iter().map(|server| server.address).collect());
        let nodes = servers.into_iter().map(Some).collect();
        let random = Random::new(name);
        Self { name, data, nodes, addresses, receiver, random, kills: vec![], database_kills: 0, folder }
    }

    fn kill(&mut self, node: usize) {
        if let Some(server) = self.nodes[node].take() {
            server.kill();
            self.kills.push(Instant::now());
        }
    }

    /// Starts a node that was killed. Some die once more before they are ready.
    async fn start(&mut self, node: usize) {
        if self.random.once_in(4) {
            let dying = ServerProcess::launch(self.folder.path(), &self.data.url(), &[]);
            self.random.pause(100).await;
            dying.kill();
            self.kills.push(Instant::now());
        }
        let server = ServerProcess::start_on(self.folder.path(), &self.data.url(), &[]).await;
        self.addresses.replace(node, server.address);
        self.nodes[node] = Some(server);
    }

    /// Kills one node, the database, or both, and starts them again.
    async fn strike(&mut self) {
        let node = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap();
        let hits_database = matches!(self.data, Data::Own(_)) && self.random.once_in(2);
        let hits_node = !hits_database || self.random.once_in(2);
        if hits_database && let Data::Own(cluster) = &mut self.data {
            cluster.kill9();
            self.database_kills += 1;
        }
        if hits_node {
            self.random.pause(20).await;
            self.kill(node);
        }
        self.random.pause(500).await;
        if hits_database && let Data::Own(cluster) = &mut self.data {
            cluster.start_again().await;
        }
        if hits_node {
            self.start(node).await;
        }
    }

    /// Kills for the time that was asked for. Half of the time it waits for the recovery, which must be quick.
    async fn kill_again_and_again(&mut self, publishers: &Publishers) {
        let until =
            Instant::now() + Duration::from_secs(setting("NEO_EVENTS_CRASH_SECONDS").unwrap_or(SECONDS));
        let (mut arrived, mut slowest) = (0, Duration::ZERO);
        while Instant::now() < until {
            self.random.pause(2000).await;
            let acknowledged = publishers.so_far().len();
            self.strike().await;
            if self.random.once_in(2) {
                let restarted = Instant::now();
                publishers.so_far().arrive_between(arrived..acknowledged, &self.receiver).await;
                arrived = acknowledged;
                slowest = slowest.max(restarted.elapsed());
            }
        }
        println!("{}: the slowest recovery took {slowest:.2?}", self.name);
        assert!(cfg!(debug_assertions) || slowest <= RECOVERY_MAX, "{slowest:?}");
    }

    /// What was published arrives, all of it and nothing else; nothing is left to do.
    async fn settle_accounts(&mut self, publishers: Publishers) {
        let (acknowledged, refused) = publishers.end().await;
        refused.assert_only_or_no_answer(&["database_unavailable"]);
        let mut client = Client::connect(self.addresses.get(0)).await.unwrap();
        until("it is ready", async || client.get("/readyz").await.unwrap().0 == 200).await;
        let unanswered = refused.publish_again(&mut client).await.len();
        until_all_arrived(&acknowledged, &refused, &self.receiver).await;
        for status in ["pending", "retrying"] {
            let path = format!("/v1/deliveries?limit=1&status={status}");
            until("every delivery is settled", async || {
                client.get(&path).await.unwrap().1["data"].as_array().unwrap().is_empty()
            })
            .await;
        }
        self.receiver.arrivals.assert_signed_first_attempts();
        println!(
            "{}: {} acknowledged and arrived; {:?} not acknowledged, of which {unanswered} had been stored",
            self.name,
            acknowledged.len(),
            refused.by_code
        );
        for node in &mut self.nodes {
            let status = node.take().unwrap().terminate();
            assert!(status.success(), "{status}");
        }
    }

    /// Duplicates are of nodes that were killed, and no more than they had in flight.
    fn judge_duplicates(&self) {
        let arrivals = self.receiver.arrivals.all();
        let (kills, databases) = (self.kills.len(), self.database_kills);
        let again: usize = arrivals.values().map(|times| times.len() - 1).sum();
        println!(
            "{}: {again} duplicates after {kills} kills of servers and {databases} of the database",
            self.name
        );
        for pair in arrivals.values().flat_map(|times| times.windows(2)) {
            let between = self.kills.iter().any(|kill| pair[0] <= *kill + AFTERLIFE && *kill <= pair[1]);
            assert!(between, "an event was sent twice without a kill in between");
        }
        assert!(again <= IN_FLIGHT_MAX * kills, "{again} duplicates: more than were in flight");
    }

    async fn crash_loop(mut self) {
        let publishers = Publishers::paced(&self.addresses, PACE);
        self.kill_again_and_again(&publishers).await;
        self.settle_accounts(publishers).await;
        self.judge_duplicates();
    }
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
