//! A disk without room: nothing is taken that could not be kept, and when there is room again everything goes on.

use crate::process::{
    Client, Receiver, ServerProcess,
    load::until,
    publishers::{Addresses, Publishers, until_all_arrived},
};

const DISK_MIB: u32 = 64;
const BALLAST_MIB: u32 = 48;
const MANY: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let (server, ballast) = ServerProcess::start_on_small_disk(folder.path(), DISK_MIB, BALLAST_MIB).await;
    let mut client = Client::connect(server.address).await.unwrap();
    client.subscribe_to_everything(&receiver.url).await;
    let publishers = Publishers::start(&Addresses::of(vec![server.address]));
    publishers.refused_with("storage_full", MANY).await;
    for probe in ["/livez", "/readyz"] {
        assert_eq!(client.get(probe).await.unwrap().0, 200, "{probe}");
    }
    let (status, events) = client.get("/v1/events?limit=1").await.unwrap();
    assert_eq!(status, 200, "what is there can be read: {events}");
    server.assert_logged(&["a request failed", "code=storage_full"]);

    ballast.drop_it();
    publishers.acknowledged(MANY).await;
    let (acknowledged, refused) = publishers.end().await;
    refused.assert_only(&["storage_full"]);
    until("it is ready again", async || client.get("/readyz").await.unwrap().0 == 200).await;
    println!("{} acknowledged, {:?} refused", acknowledged.len(), refused.by_code);
    assert_eq!(refused.publish_again(&mut client).await.len(), 0, "what was refused was not stored");
    until_all_arrived(&acknowledged, &refused, &receiver).await;
    receiver.arrivals.assert_signed_first_attempts();
    receiver.arrivals.assert_as_published();
    assert_eq!(receiver.arrivals.repeated(), 0, "the server kept what it could not record");
    assert!(server.terminate().success());
}

/// The disk that is full is the one of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let server = ServerProcess::start_without_a_log(folder.path()).await;
    let mut client = Client::connect(server.address).await.unwrap();
    client.subscribe_to_everything(&receiver.url).await;
    let (status, _) = client.post("/v1/events", r#"{"event_type":"a.b","event_data":{}}"#).await.unwrap();
    assert_eq!(status, 202);
    until("it arrives", async || receiver.arrivals.events() == 1).await;
    assert!(server.terminate().success());
}
