//! A thousand tenants in one database: those that are idle cost nothing, and each is as quick as if it were alone.

use std::time::{Duration, Instant};

use neo_events_test_postgres::{Cluster, execute};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant as Later, sleep_until},
};

use crate::{
    process::{Client, Receiver, ServerProcess, load::until},
    sql::Sql,
};

const TENANTS: usize = 1000;
const CREATORS: usize = 8;
/// How much more is no more: with every tenant asked once a second it would be forty times as much.
const NOISE: f64 = 1.3;
/// How long an idle server is watched.
const WATCH: Duration = Duration::from_secs(4);
/// What is promised is a second. A machine that has other things to do gets more, and a debug build more again.
const ARRIVAL_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 25 } else { 5 });

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_tenants_cost_nothing() {
    // Without autovacuum, whose transactions would count.
    let cluster =
        Cluster::start(&[("fsync", "off"), ("autovacuum", "off"), ("full_page_writes", "off")]).await;
    let (url, folder, receiver) = (cluster.url(), tempfile::tempdir().unwrap(), Receiver::start().await);
    let server = ServerProcess::start_on(folder.path(), &url, &[]).await;
    create_tenants(&server, 0..1).await;
    // The first is dropped: what was done before is counted late. A machine that has other things to do keeps the server
    // from some of what it does when it is idle.
    transactions_per_second(&url).await;
    let of_one = transactions_per_second(&url).await.max(transactions_per_second(&url).await);
    let began = Instant::now();
    create_tenants(&server, 1..TENANTS).await;
    println!("{TENANTS} tenants in {:.1?}", began.elapsed());
    // What it did before is counted late.
    until("it does no more than with one tenant", async || {
        let of_many = transactions_per_second(&url).await;
        println!("transactions a second: {of_one:.1} with one tenant, {of_many:.1} with {TENANTS}");
        of_many <= of_one * NOISE
    })
    .await;

    for tenant in [7, 500, TENANTS - 1] {
        let client = Client::connect(server.address).await.unwrap();
        client.acting_in(&format!("t{tenant}")).subscribe_to_everything(&receiver.url).await;
        let before = receiver.arrivals.events();
        let published_at = Instant::now();
        execute(&url, &format!("select tenant_t{tenant}.publish_event('user.created', '{{}}')")).await;
        until("it arrives", async || receiver.arrivals.events() > before).await;
        let took = published_at.elapsed();
        println!("an event published by SQL in an idle tenant arrived after {took:.2?}");
        assert!(took <= ARRIVAL_MAX, "{took:?}");
    }
}

async fn create_tenants(server: &ServerProcess, tenants: std::ops::Range<usize>) {
    let mut creators = JoinSet::new();
    for creator in 0..CREATORS {
        let (address, tenants) = (server.address, tenants.clone());
        creators.spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            for tenant in tenants.skip(creator).step_by(CREATORS) {
                let body = json!({"slug": format!("t{tenant}")}).to_string();
                let (status, answer) = client.post("/v1/tenants", body).await.unwrap();
                assert_eq!(status, 201, "{answer}");
            }
        });
    }
    creators.join_all().await;
}

/// What the server does when there is nothing to do.
async fn transactions_per_second(url: &str) -> f64 {
    let statement = "select xact_commit from pg_stat_database where datname = current_database()";
    let sql = Sql::connect(url).await;
    let began = Later::now();
    let before: i64 = sql.value(statement).await;
    sleep_until(began + WATCH).await;
    let after: i64 = sql.value(statement).await;
    f64::from(i32::try_from(after - before).unwrap()) / began.elapsed().as_secs_f64()
}
