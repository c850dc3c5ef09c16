//! A database that dies, is restarted, or hangs, under load: what was acknowledged is delivered, what was refused can be
//! published again, and nobody has to do anything to the servers.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use neo_events::{
    Sources,
    domain::id::{EventId, Id},
};
use neo_events_test_postgres::Cluster;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    process::{
        Client, Receiver, ServerProcess,
        load::{Acknowledged, PATIENCE, until},
    },
    sql::Sql,
};

const PUBLISHERS: usize = 16;
/// Answers that are waited for, before and after.
const MANY: usize = 300;
/// After a refusal.
const PAUSE: Duration = Duration::from_millis(50);
/// Longer than a node may be silent.
const FREEZE: Duration = Duration::from_secs(6);

/// Publishers that choose their ids, and go on whatever they are answered.
struct Publishers {
    acknowledged: Acknowledged,
    refused: Arc<Mutex<HashSet<String>>>,
    enough: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Publishers {
    fn start(servers: &[SocketAddr]) -> Self {
        let mut publishers = Self {
            acknowledged: Acknowledged::default(),
            refused: Arc::default(),
            enough: Arc::default(),
            tasks: JoinSet::new(),
        };
        for publisher in 0..PUBLISHERS {
            let address = servers[publisher % servers.len()];
            let (acknowledged, refused, enough) = (
                publishers.acknowledged.clone(),
                Arc::clone(&publishers.refused),
                Arc::clone(&publishers.enough),
            );
            publishers.tasks.spawn(async move {
                let (mut client, sources) = (Client::connect(address).await.unwrap(), Sources::system());
                while !enough.load(Ordering::Relaxed) {
                    let id: EventId = Id::new(sources.now(), sources.bytes());
                    match publish(&mut client, &id.to_string()).await {
                        Answer::Stored { .. } => acknowledged.add(id.to_string()),
                        Answer::Refused => {
                            refused.lock().unwrap().insert(id.to_string());
                            sleep(PAUSE).await;
                        }
                    }
                }
            });
        }
        publishers
    }

    async fn acknowledged(&self, many: usize) {
        let before = self.acknowledged.len();
        until("events are taken", async || self.acknowledged.len() >= before + many).await;
    }

    async fn refused(&self, many: usize) {
        until("events are refused", async || self.refused.lock().unwrap().len() >= many).await;
    }

    async fn end(self) -> (Acknowledged, HashSet<String>) {
        self.enough.store(true, Ordering::Relaxed);
        timeout(PATIENCE, self.tasks.join_all()).await.expect("publishing ends");
        let refused = self.refused.lock().unwrap().clone();
        (self.acknowledged, refused)
    }
}

enum Answer {
    Stored { is_duplicate: bool },
    Refused,
}

async fn publish(client: &mut Client, id: &str) -> Answer {
    let event = json!({"id": id, "event_type": "load.test", "event_data": {"of": id}});
    let (status, answer) = client.post("/v1/events", event.to_string()).await.unwrap();
    if status == 202 {
        return Answer::Stored { is_duplicate: answer["duplicate"].as_bool().unwrap() };
    }
    assert_eq!((status, &answer["code"]), (503, &json!("database_unavailable")), "{answer}");
    Answer::Refused
}

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
        Publishers::start(&self.servers.iter().map(|server| server.address).collect::<Vec<_>>())
    }

    /// It lives, and says that it cannot serve.
    async fn assert_out_of_service(&self) {
        let mut client = Client::connect(self.servers[0].address).await.unwrap();
        assert_eq!(client.get("/livez").await.unwrap().0, 200);
        let (status, problem) = client.get("/readyz").await.unwrap();
        assert_eq!((status, &problem["code"]), (503, &json!("database_unavailable")));
    }

    /// What was acknowledged has arrived. What was refused was stored whole or not at all, and can be published again.
    async fn settle_accounts(&self, publishers: Publishers) {
        let (acknowledged, refused) = publishers.end().await;
        let mut client = Client::connect(self.servers[0].address).await.unwrap();
        until("it is ready again", async || client.get("/readyz").await.unwrap().0 == 200).await;
        acknowledged.arrive_at(&self.receiver).await;
        let sql = Sql::connect(&self.cluster.url()).await;
        sql.nothing_is_owed().await;

        let ids = "select id::text from admin.events";
        let stored: HashSet<String> = sql.column::<String>(ids).await.into_iter().collect();
        let acknowledged = acknowledged.all();
        assert!(acknowledged.is_subset(&stored));
        // The connection broke after the commit was sent: then nobody could know that it was stored.
        let unknown: HashSet<_> = stored.difference(&acknowledged).cloned().collect();
        assert!(unknown.is_subset(&refused), "stored, and never answered for");
        println!(
            "{} acknowledged, {} refused, {} of these stored",
            acknowledged.len(),
            refused.len(),
            unknown.len()
        );
        let arrived: HashSet<String> = self.receiver.arrivals.all().into_keys().collect();
        assert_eq!(arrived, stored, "what is stored is delivered, and nothing else");

        for id in &refused {
            match publish(&mut client, id).await {
                Answer::Stored { is_duplicate } => assert_eq!(is_duplicate, unknown.contains(id)),
                Answer::Refused => panic!("refused again"),
            }
        }
        until("the rest arrives", async || {
            self.receiver.arrivals.events() == acknowledged.len() + refused.len()
        })
        .await;
        sql.nothing_is_owed().await;
        sql.assert_histories_are_whole().await;
        let deliveries: i64 = sql.value("select count(*) from admin.deliveries").await;
        assert_eq!(usize::try_from(deliveries).unwrap(), acknowledged.len() + refused.len());
    }

    fn repeated(&self) -> usize {
        self.receiver.arrivals.all().values().filter(|times| times.len() > 1).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_and_started_again() {
    let mut world = World::with_servers(1).await;
    let publishers = world.publishers();
    publishers.acknowledged(MANY).await;
    world.cluster.kill9();
    publishers.refused(MANY).await;
    world.assert_out_of_service().await;
    world.cluster.start_again().await;
    publishers.acknowledged(MANY).await;
    world.settle_accounts(publishers).await;
    assert_eq!(world.repeated(), 0, "the server kept what it could not record");
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
    assert_eq!(world.repeated(), 0, "the server kept what it could not record");
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
    println!("{} events arrived twice", world.repeated());
}
