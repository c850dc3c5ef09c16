//! A disk without room under PostgreSQL's tables: nothing is taken that could not be kept, and when there is room again
//! everything goes on.

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
async fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let (_cluster, url, ballast) = Cluster::start_with_small_disk(&[("fsync", "off")]).await;
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let server = ServerProcess::start_on(folder.path(), &url, &[]).await;
    let mut client = Client::connect(server.address).await.unwrap();
    client.subscribe_to_everything(&receiver.url).await;
    let publishers = Publishers::start(&Addresses::of(vec![server.address]));
    publishers.refused_with("storage_full", MANY).await;
    let mut client = Client::connect(server.address).await.unwrap();
    for probe in ["/livez", "/readyz"] {
        assert_eq!(client.get(probe).await.unwrap().0, 200, "{probe}");
    }
    let (status, events) = client.get("/v1/events?limit=1").await.unwrap();
    assert_eq!(status, 200, "what is there can be read: {events}");
    server.assert_logged(&["a request failed", "code=storage_full", "could not extend file"]);

    std::fs::remove_file(ballast).unwrap();
    publishers.acknowledged(MANY).await;
    let sql = Sql::connect(&url).await;
    settle_accounts(publishers, server.address, &receiver, &sql, &["storage_full"]).await;
    assert_eq!(receiver.arrivals.repeated(), 0, "the server kept what it could not record");
    assert!(server.terminate().success());
}
