//! What only shows after a while, on a PostgreSQL of its own: that nothing grows in an hour but what is kept, and that a
//! transaction that somebody leaves open for ten minutes costs little.
//!
//! ```sh
//! cargo bench -p neo-events-server --bench soak                # both: an hour and a quarter
//! cargo bench -p neo-events-server --bench soak -- hour
//! cargo bench -p neo-events-server --bench soak -- transaction
//! cargo bench -p neo-events-server --bench soak -- hour 120    # seconds
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../tests/process/mod.rs"]
mod process;

use std::time::{Duration, Instant};

use neo_events_test_postgres::Cluster;
use process::{
    Client, Receiver, ServerProcess,
    load::{EVENT_BYTES, delivered_per_second, event, until},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_postgres::NoTls;

/// Events a second, all the time.
const RATE: u32 = 300;
const PUBLISHERS: u32 = 4;
const HOUR: Duration = Duration::from_hours(1);
/// Of that hour, one request in so many is refused.
const REFUSED_ONE_IN: usize = 50;
/// Parts of the time, after each of which there is something to see.
const PARTS: u32 = 12;
const TRANSACTION: Duration = Duration::from_mins(10);
/// What is measured beside the transaction, and after it.
const EVENTS_BESIDE: usize = 30_000;
const TIMES: usize = 3;
/// Of the speed once it has ended, what there is beside it at the least; by medians.
const RATIO_MIN: f64 = 0.8;
/// What the second half of the hour may add to what a row of a table takes, and to a table whose rows come and go.
const GROWTH_MAX: f64 = 1.25;
/// Of a table whose rows come and go: what is no growth yet, in KiB.
const SMALL_KIB: i64 = 16 * 1024;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let seconds = wanted.iter().find_map(|one| one.parse().ok());
    let lasting = |usually| seconds.map_or(usually, Duration::from_secs);
    let names: Vec<_> = wanted.iter().filter(|one| one.parse::<u64>().is_err()).collect();
    let wants = |name: &str| names.is_empty() || names.iter().any(|one| *one == name);
    runtime.block_on(async {
        if wants("hour") {
            hour(&Ground::prepare().await, lasting(HOUR)).await;
        }
        if wants("transaction") {
            transaction(&Ground::prepare().await, lasting(TRANSACTION)).await;
        }
    });
}

/// A node on a database of its own, and the receiver of everything.
struct Ground {
    server: ServerProcess,
    receiver: Receiver,
    database: Database,
    cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl Ground {
    async fn prepare() -> Self {
        let (folder, cluster) = (tempfile::tempdir().unwrap(), Cluster::start(&[]).await);
        let server = ServerProcess::start_on(folder.path(), &cluster.url(), &[]).await;
        let receiver = Receiver::start().await;
        Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
        let database = Database::connect(&cluster.url()).await;
        Self { server, receiver, database, cluster, _folder: folder }
    }

    /// Publishes at a steady rate, and calls `look` from time to time.
    async fn steadily(&self, lasting: Duration, mut look: impl AsyncFnMut(Duration)) {
        let each = lasting.as_secs() * u64::from(RATE / PUBLISHERS);
        let mut publishers = JoinSet::new();
        for _ in 0..PUBLISHERS {
            let address = self.server.address;
            publishers.spawn(async move {
                let mut client = Client::connect(address).await.unwrap();
                let mut due = interval(Duration::from_secs(1) * PUBLISHERS / RATE);
                due.set_missed_tick_behavior(MissedTickBehavior::Burst);
                for _ in 0..each {
                    due.tick().await;
                    let (status, answer) =
                        client.post("/v1/events", event("soak.test", EVENT_BYTES)).await.unwrap();
                    assert_eq!(status, 202, "{answer}");
                }
            });
        }
        let (began, mut looks) = (Instant::now(), 1..PARTS);
        while !publishers.is_empty() {
            let next = looks.next().map(|nth| (lasting * nth / PARTS).saturating_sub(began.elapsed()));
            tokio::select! {
                () = sleep(next.unwrap_or(lasting)), if next.is_some() => look(began.elapsed()).await,
                Some(ended) = publishers.join_next() => ended.unwrap(),
            }
        }
        let all = usize::try_from(each * u64::from(PUBLISHERS)).unwrap();
        until("everything arrives", async || self.receiver.arrivals.events() >= all).await;
    }

    async fn delivered_per_second(&self) -> f64 {
        delivered_per_second(self.server.address, &self.receiver, "soak.test", EVENTS_BESIDE).await
    }
}

/// Sizes of tables and indexes, while as much comes as goes, and a little fails.
async fn hour(ground: &Ground, lasting: Duration) {
    println!(
        "{RATE} events a second of {EVENT_BYTES} bytes for {lasting:?}; one request in {REFUSED_ONE_IN} is refused"
    );
    ground.receiver.fail_one_in(REFUSED_ONE_IN);
    let look = async |when: String| {
        let arrivals = &ground.receiver.arrivals;
        println!("{when}: {} events arrived in {} requests", arrivals.events(), arrivals.requests());
        let sizes = ground.database.sizes().await;
        for Size { name, rows, table, indexes, dead } in &sizes {
            println!("  {name:16} {rows:>9} rows, {dead:>7} dead; {table:>8} KiB, indexes {indexes:>8} KiB");
        }
        sizes
    };
    let mut half_way = Vec::new();
    let part = async |since: Duration| {
        let sizes = look(format!("after {:.0} s", since.as_secs_f64())).await;
        if since <= lasting / 2 + lasting / PARTS / 2 {
            half_way = sizes;
        }
    };
    ground.steadily(lasting, part).await;
    let end = look("at the end".to_owned()).await;
    println!("server {} MiB", ground.server.resident_mib());
    for (half_way, end) in half_way.iter().zip(&end) {
        assert!(end.has_not_outgrown(half_way), "{} grows", end.name);
    }
}

impl Size {
    const fn kib(&self) -> i64 {
        self.table + self.indexes
    }

    /// A table that keeps its rows takes no more for each than it did, and one whose rows come and go no more in all.
    fn has_not_outgrown(&self, before: &Self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a size for people")]
        let [now, before] = [self, before].map(|size| {
            let rows = if size.keeps_its_rows() { size.rows.max(1) } else { 1 };
            size.kib() as f64 / rows as f64
        });
        now <= before * GROWTH_MAX || (!self.keeps_its_rows() && self.kib() <= SMALL_KIB)
    }

    fn keeps_its_rows(&self) -> bool {
        ["events", "deliveries", "attempts"].contains(&self.name.as_str())
    }
}

/// How fast it is beside a transaction that is open, and afterwards.
async fn transaction(ground: &Ground, lasting: Duration) {
    println!(
        "a transaction open for {lasting:?} beside {RATE} events a second, then {EVENTS_BESIDE} at full speed"
    );
    let somebody = Database::connect(&ground.cluster.url()).await;
    somebody.run("create table public.somebodys (a integer)").await;
    somebody
        .run(
            "begin isolation level repeatable read;
             insert into public.somebodys values (1);
             select count(*) from admin.events",
        )
        .await;
    ground.steadily(lasting, async |since| println!("  after {:.0} s", since.as_secs_f64())).await;
    let mut rates = [Vec::new(), Vec::new()];
    for rate in 0..TIMES {
        rates[0].push(ground.delivered_per_second().await);
        println!("  beside it: {:.0}/s", rates[0][rate]);
    }
    somebody.run("commit").await;
    ground.database.run("vacuum").await;
    for rate in 0..TIMES {
        rates[1].push(ground.delivered_per_second().await);
        println!("  once it has ended: {:.0}/s", rates[1][rate]);
    }
    let [beside, after] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let ratio = beside / after;
    println!("  medians {beside:.0} and {after:.0}/s, ratio {ratio:.2}");
    assert!(ratio >= RATIO_MIN, "the transaction slows others down");
}

/// A connection to look at the database from outside.
struct Database {
    client: tokio_postgres::Client,
    _driver: JoinSet<()>,
}

struct Size {
    name: String,
    rows: i64,
    dead: i64,
    /// In KiB, as the next.
    table: i64,
    indexes: i64,
}

impl Database {
    async fn connect(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { client, _driver: driver }
    }

    async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap();
    }

    /// Of the tables that an event passes through.
    async fn sizes(&self) -> Vec<Size> {
        let rows = self
            .client
            .query(
                "select relname::text, n_live_tup, n_dead_tup, pg_table_size(relid) / 1024, pg_indexes_size(relid) / 1024
                 from pg_stat_user_tables
                 where schemaname = 'admin'
                    and relname in ('events', 'owed_dispatches', 'deliveries', 'delivery_queue', 'attempts')
                 order by relname",
                &[],
            )
            .await
            .unwrap();
        let size = |row: &tokio_postgres::Row| Size {
            name: row.get(0),
            rows: row.get(1),
            dead: row.get(2),
            table: row.get(3),
            indexes: row.get(4),
        };
        rows.iter().map(size).collect()
    }
}
