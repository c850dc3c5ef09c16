//! Somebody locks one tenant's table. Of attempts: what was answered meanwhile is recorded when the lock is gone, and nobody
//! else notices. One that a migration changes: whoever starts the program is told what it waits for.

use std::time::{Duration, Instant};

use neo_events_test_postgres::database;
use serde_json::{Value, json};

use crate::{
    process::{
        self, Client, Receiver, ServerProcess,
        load::until,
        publishers::{Addresses, Publishers, Work, until_all_arrived},
    },
    sql::Sql,
};

/// Of each tenant.
const MANY: usize = 100;
/// Of a server that cannot record what it attempted, in a release build. Others get more.
const STOP_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 25 } else { 15 });
const STOPS_MAX: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_a_lock_keeps_from_being_recorded_are_recorded_when_it_is_gone() {
    let (database, folder) = (database().await, tempfile::tempdir().unwrap());
    let server = ServerProcess::start_on(folder.path(), &database.url(), &[]).await;
    let (ours, theirs) = (Receiver::start().await, Receiver::start().await);
    let mut platform = Client::connect(server.address).await.unwrap();
    platform.create("/v1/tenants", json!({"slug": "acme"})).await;
    platform.subscribe_to_everything(&ours.url).await;
    let mut acme = Client::connect(server.address).await.unwrap().acting_in("acme");
    acme.subscribe_to_everything(&theirs.url).await;

    let sql = Sql::connect(&database.url()).await;
    sql.run("begin; lock table tenant_acme.attempts in access exclusive mode").await;
    let addresses = Addresses::of(vec![server.address]);
    let publish = async |tenant| {
        let addresses = addresses.clone();
        let work = Work { addresses, tenant, publishers: 4, pace: Duration::ZERO, batch_events: 1 };
        let publishers = Publishers::at(work);
        publishers.acknowledged(MANY).await;
        let (acknowledged, refused) = publishers.end().await;
        refused.assert_only(&[]);
        (acknowledged, refused)
    };
    let (of_acme, none) = publish(Some("acme")).await;
    until("they cannot be recorded", async || {
        server.log().contains("WARN")
            && server.log().contains("an attempt could not be recorded; trying again")
    })
    .await;
    let (of_platform, _) = publish(None).await;
    until_all_arrived(&of_platform, &none, &ours).await;
    until("others' are recorded meanwhile", async || {
        sql.value::<i64>("select count(*) from admin.delivery_queue where tenant_no = 1").await == 0
    })
    .await;
    assert_eq!(with_status(&mut acme, "success").await, 0, "the table is locked");

    sql.run("rollback").await;
    until("everything is recorded", async || with_status(&mut acme, "success").await == of_acme.len()).await;
    until_all_arrived(&of_acme, &none, &theirs).await;
    sql.nothing_is_owed().await;
    sql.assert_histories_are_whole().await;
    let attempts: i64 = sql.value("select count(*) from tenant_acme.attempts where status = 'success'").await;
    assert_eq!(usize::try_from(attempts).unwrap(), of_acme.len());
    for receiver in [&ours, &theirs] {
        receiver.arrivals.assert_signed_first_attempts();
        receiver.arrivals.assert_as_published();
        assert_eq!(receiver.arrivals.repeated(), 0, "the server kept what it could not record");
    }
    assert!(server.terminate().success());
}

/// However long the lock stays: what could not be recorded is attempted again by whoever comes next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_keeps_attempts_from_being_recorded_does_not_hold_up_a_stop() {
    // One that has no time left to end its session says so: others find it silent. On a busy machine that may happen.
    for _ in 0..STOPS_MAX {
        if is_session_ended_by_stop_beside_a_lock().await {
            return;
        }
    }
    panic!("of {STOPS_MAX} servers none ended its session");
}

/// The stop is quick, and if the session is not ended by it, it is said.
async fn is_session_ended_by_stop_beside_a_lock() -> bool {
    let (database, folder) = (database().await, tempfile::tempdir().unwrap());
    let server = ServerProcess::start_on(folder.path(), &database.url(), &[]).await;
    let receiver = Receiver::start().await;
    let mut platform = Client::connect(server.address).await.unwrap();
    platform.create("/v1/tenants", json!({"slug": "acme"})).await;
    let mut acme = Client::connect(server.address).await.unwrap().acting_in("acme");
    acme.subscribe_to_everything(&receiver.url).await;
    let sql = Sql::connect(&database.url()).await;
    sql.run("begin; lock table tenant_acme.attempts in access exclusive mode").await;
    for _ in 0..MANY {
        let event = json!({"event_type": "a.b", "event_data": {}});
        assert_eq!(acme.post("/v1/events", event.to_string()).await.unwrap().0, 202);
    }
    until("they cannot be recorded", async || {
        server.log().contains("an attempt could not be recorded; trying again")
    })
    .await;

    let begun = Instant::now();
    assert!(server.terminate().success());
    let stop = begun.elapsed();
    println!("with one tenant's table locked a stop took {stop:.2?}");
    assert!(stop <= STOP_MAX, "{stop:?}");
    let nodes: i64 = sql.value("select count(*) from admin.sessions").await;
    let is_left =
        process::logs(folder.path()).contains("the session was not ended; others will find it silent");
    assert!(nodes == 0 || is_left, "its session is not ended, and it is not said");
    nodes == 0
}

/// As a VACUUM holds it, for hours perhaps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_waits_for_a_table_says_so() {
    let (database, folder) = (database().await, tempfile::tempdir().unwrap());
    assert!(ServerProcess::start_on(folder.path(), &database.url(), &[]).await.terminate().success());
    let sql = Sql::connect(&database.url()).await;
    let applied = "select count(*) from admin.migrations where scope = 'admin' and name = '0005_settling'";
    sql.run("delete from admin.migrations where scope = 'admin' and name >= '0005'").await;
    sql.run("begin; lock table admin.deliveries in share update exclusive mode").await;

    let server = ServerProcess::launch(folder.path(), &database.url(), &[]);
    until("it says what it waits for", async || {
        server.log().contains("a migration waits for whoever uses a table: a VACUUM, or an open transaction")
            && server.log().contains("0005_settling")
    })
    .await;
    assert_eq!(sql.value::<i64>(applied).await, 0);
    sql.run("rollback").await;
    until("it is migrated", async || sql.value::<i64>(applied).await == 1).await;
}

/// How many deliveries there are, if they fit on a page.
async fn with_status(client: &mut Client, status: &str) -> usize {
    let (answered, list) = client.get(&format!("/v1/deliveries?limit=1000&status={status}")).await.unwrap();
    assert_eq!(answered, 200, "{list}");
    assert_eq!(list["next_cursor"], Value::Null, "{list}");
    list["data"].as_array().unwrap().len()
}
