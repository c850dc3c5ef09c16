//! Nodes under load in two tenants, which are killed again and again, and the ledgers that are compared afterwards.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use neo_events_test_postgres::{self as postgres, Cluster};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    duplicates::Casualties,
    ledger::Endpoint,
    process::{
        self, Client, ServerProcess,
        load::{Acknowledged, until},
        publishers::{Addresses, Publishers, Refused, Work},
    },
    random::Random,
    setting,
    shop::{self, Shop},
};

/// How soon after a restart everything has arrived that had been acknowledged, in a release build.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// How long processes are killed, unless the environment says otherwise.
const SECONDS: u64 = 15;
/// Fewer kills prove little: it goes on until there were so many, of the database too if it is killed, but not for ever.
const KILLS_MIN: usize = 2;
const DATABASE_KILLS_MIN: usize = 2;
const STRIKES_TIMEOUT: Duration = Duration::from_mins(3);
/// In each tenant, for each second that was asked for. Fewer acknowledged events prove little, too.
const ACKNOWLEDGED_MIN: u64 = 20;
/// Of each publisher between two events: some 3000 events a second in all.
const PACE: Duration = Duration::from_millis(5);

/// Where the events are.
pub(crate) enum Data {
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

    /// Where others can publish from their own transactions.
    fn database(&self) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::Shared(_) | Self::Own(_) => Some(self.url()),
        }
    }

    /// What a publisher may be told around a kill. The file of a server that is dead is nobody's, so nobody refuses.
    fn refusals(&self) -> &'static [&'static str] {
        match self {
            Self::File(_) => &[],
            Self::Shared(_) | Self::Own(_) => &["database_unavailable"],
        }
    }
}

pub(crate) fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", process::database(folder).display())
}

/// A tenant and its part of the load.
struct Tenant {
    /// If it is not the platform's own.
    slug: Option<&'static str>,
    publishers: usize,
    batch_events: usize,
    /// The first gets everything.
    endpoints: Vec<Endpoint>,
}

impl Tenant {
    async fn client(&self, addresses: &Addresses) -> Client {
        let client = Client::connect(addresses.get(0).unwrap()).await.unwrap();
        match self.slug {
            Some(slug) => client.acting_in(slug),
            None => client,
        }
    }

    /// What was published arrives where it is wanted, all of it and nothing else.
    async fn settle_accounts(
        &self,
        mut client: Client,
        (acknowledged, refused): (Acknowledged, Refused),
        orders: &HashSet<String>,
    ) {
        let unanswered = refused.publish_again(&mut client).await.len();
        println!(
            "  tenant {}: {} acknowledged; {:?} not acknowledged, of which {unanswered} had been stored",
            self.slug.unwrap_or("admin"),
            acknowledged.len(),
            refused.by_code
        );
        let mut published: HashSet<String> = acknowledged.all().union(&refused.ids).cloned().collect();
        if self.slug == Some(shop::TENANT) {
            published.extend(orders.iter().cloned());
        }
        for endpoint in &self.endpoints {
            endpoint.settle(&mut client, &published).await;
        }
    }
}

/// Nodes under load, and what was done to them.
pub(crate) struct World {
    name: &'static str,
    data: Data,
    nodes: Vec<Option<ServerProcess>>,
    addresses: Addresses,
    tenants: Vec<Tenant>,
    random: Random,
    casualties: Casualties,
    folder: TempDir,
}

impl World {
    pub(crate) async fn new(name: &'static str, nodes: usize, data: impl AsyncFnOnce(&Path) -> Data) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = data(folder.path()).await;
        let mut servers = vec![];
        for _ in 0..nodes {
            servers.push(ServerProcess::start_on(folder.path(), &data.url(), &[]).await);
        }
        let mut client = Client::connect(servers[0].address).await.unwrap();
        client.create("/v1/tenants", json!({"slug": shop::TENANT})).await;
        let everything = Endpoint::for_everything(&mut client, "everything").await;
        let part = Endpoint::for_a_part(&mut client, "a part, refused now and then").await;
        let mut client = client.acting_in(shop::TENANT);
        let theirs = Endpoint::for_everything(&mut client, "everything of acme").await;
        let tenants = vec![
            Tenant { slug: None, publishers: 12, batch_events: 5, endpoints: vec![everything, part] },
            Tenant { slug: Some(shop::TENANT), publishers: 4, batch_events: 1, endpoints: vec![theirs] },
        ];
        let addresses = Addresses::of(servers.iter().map(|server| server.address).collect());
        let nodes = servers.into_iter().map(Some).collect();
        let random = Random::of(name);
        Self { name, data, nodes, addresses, tenants, random, casualties: Casualties::default(), folder }
    }

    fn kill(&mut self, node: usize) {
        if let Some(server) = self.nodes[node].take() {
            self.addresses.remove(node);
            let struck_at = Instant::now();
            server.kill();
            self.casualties.node_died(struck_at);
        }
    }

    /// Starts a node that was killed. Some die once more before they are ready.
    async fn start(&mut self, node: usize) {
        if self.random.once_in(4) {
            let dying = ServerProcess::launch(self.folder.path(), &self.data.url(), &[]);
            self.random.pause(100).await;
            dying.kill();
            self.casualties.successor_died();
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
            let struck_at = Instant::now();
            cluster.kill9();
            self.casualties.database_died(struck_at);
        }
        if hits_node {
            self.random.pause(20).await;
            self.kill(node);
        }
        self.random.pause(500).await;
        if hits_database && let Data::Own(cluster) = &mut self.data {
            cluster.start_again().await;
            self.until_all_are_ready().await;
            self.casualties.database_serves();
        }
        if hits_node {
            self.start(node).await;
        }
    }

    /// The nodes that are there have found the database again.
    async fn until_all_are_ready(&self) {
        for server in self.nodes.iter().flatten() {
            let mut client = Client::connect(server.address).await.unwrap();
            until("it is ready", async || client.get("/readyz").await.unwrap().0 == 200).await;
        }
    }

    fn has_struck_enough(&self) -> bool {
        let database_kills_min = if matches!(self.data, Data::Own(_)) { DATABASE_KILLS_MIN } else { 0 };
        self.casualties.nodes() >= KILLS_MIN && self.casualties.databases() >= database_kills_min
    }

    /// Kills for so long, and often enough, and until enough was acknowledged. Half of the time it waits for the recovery,
    /// which must be quick.
    async fn kill_again_and_again(&mut self, lasting: Duration, publishers: &[Publishers]) {
        let (began, mut slowest) = (Instant::now(), Duration::ZERO);
        let mut arrived = vec![0; publishers.len()];
        let least = usize::try_from(lasting.as_secs() * ACKNOWLEDGED_MIN).unwrap();
        let has_enough = || publishers.iter().all(|tenant| tenant.so_far().len() >= least);
        while began.elapsed() < lasting || !self.has_struck_enough() || !has_enough() {
            assert!(
                began.elapsed() < lasting + STRIKES_TIMEOUT,
                "only {} kills, and acknowledged {:?}, each to be {least}",
                self.casualties.nodes(),
                publishers.iter().map(|tenant| tenant.so_far().len()).collect::<Vec<_>>()
            );
            self.random.pause(2000).await;
            let acknowledged: Vec<_> = publishers.iter().map(|tenant| tenant.so_far().len()).collect();
            self.strike().await;
            if self.random.once_in(2) {
                let restarted = Instant::now();
                for (nth, tenant) in self.tenants.iter().enumerate() {
                    let answers = arrived[nth]..acknowledged[nth];
                    publishers[nth].so_far().arrive_between(answers, &tenant.endpoints[0].receiver).await;
                }
                arrived = acknowledged;
                slowest = slowest.max(restarted.elapsed());
            }
        }
        println!("{}: the slowest recovery took {slowest:.2?}", self.name);
        assert!(cfg!(debug_assertions) || slowest <= RECOVERY_MAX, "{slowest:?}");
    }

    /// The ledgers of all endpoints are as they must be.
    async fn settle_accounts(&mut self, publishers: Vec<Publishers>, shop: Option<Shop>) {
        let mut ledgers = vec![];
        for publishers in publishers {
            let (acknowledged, refused) = publishers.end().await;
            refused.assert_only_or_no_answer(self.data.refusals());
            ledgers.push((acknowledged, refused));
        }
        let mut client = Client::connect(self.addresses.get(0).unwrap()).await.unwrap();
        until("it is ready", async || client.get("/readyz").await.unwrap().0 == 200).await;
        let orders = if let Some(shop) = shop { shop.close().await } else { HashSet::new() };
        for (tenant, ledgers) in self.tenants.iter().zip(ledgers) {
            tenant.settle_accounts(tenant.client(&self.addresses).await, ledgers, &orders).await;
        }
        if !matches!(self.data, Data::File(_)) {
            let line = "a node died; others take over its work";
            until(line, async || process::logs(self.folder.path()).contains(line)).await;
        }
        for node in &mut self.nodes {
            let status = node.take().unwrap().terminate();
            assert!(status.success(), "{status}");
        }
    }

    pub(crate) async fn crash_loop(mut self) {
        let lasting = Duration::from_secs(setting("NEO_EVENTS_CRASH_SECONDS").unwrap_or(SECONDS));
        let start = |tenant: &Tenant| {
            let Tenant { slug, publishers, batch_events, .. } = *tenant;
            let addresses = self.addresses.clone();
            Publishers::at(Work { addresses, tenant: slug, publishers, pace: PACE, batch_events })
        };
        let publishers: Vec<_> = self.tenants.iter().map(start).collect();
        let mut shop = None;
        if let Some(database) = self.data.database() {
            shop = Some(Shop::open(database).await);
        }
        self.kill_again_and_again(lasting, &publishers).await;
        self.settle_accounts(publishers, shop).await;
        for endpoint in self.tenants.iter().flat_map(|tenant| &tenant.endpoints) {
            self.casualties.judge(endpoint);
        }
    }
}
