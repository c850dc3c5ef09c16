//! A primary that dies and a standby that takes its place. The URL names both; nobody touches the server.

use neo_events_test_postgres::Cluster;

use crate::{
    accounts::settle_accounts,
    process::{
        Client, Receiver, ServerProcess,
        publishers::{Addresses, Publishers},
    },
    sql::Sql,
};

const MANY: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_delivered_after_a_failover() {
    let mut primary = Cluster::start(&[]).await;
    let standby = primary.standby().await;
    let hosts = [&primary, &standby].map(Cluster::url);
    let [first, second] = hosts.each_ref().map(|url| url.split(['@', '/']).nth(3).unwrap());
    let url = format!("postgres://postgres@{first},{second}/postgres?target_session_attrs=read-write");
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let server = ServerProcess::start_on(folder.path(), &url, &[]).await;
    Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
    let publishers = Publishers::start(&Addresses::of(vec![server.address]));
    publishers.acknowledged(MANY).await;

    primary.kill9();
    // For as long as there is no primary, nothing is taken.
    publishers.refused(MANY).await;
    standby.promote().await;
    publishers.acknowledged(MANY).await;
    let sql = Sql::connect(&standby.url()).await;
    settle_accounts(publishers, server.address, &receiver, &sql, &["database_unavailable"]).await;
    println!("{} events arrived twice", receiver.arrivals.repeated());
    assert!(server.terminate().success());
}
