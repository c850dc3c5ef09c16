//! Who wants what is changed on one node and in force on all: for every event published after the change was answered.

use neo_events_test_postgres::database;
use serde_json::{Value, json};

use crate::process::{Broken, Client, Receiver, ServerProcess, load::until};

/// Two nodes take turns at matching: each round is another chance to match by what was true before.
const ROUNDS: u32 = 10;

#[tokio::test]
async fn what_is_changed_on_one_node_is_in_force_on_the_other() {
    let (database, folder) = (database().await, tempfile::tempdir().unwrap());
    let first = ServerProcess::start_on(folder.path(), &database.url(), &[]).await;
    let second = ServerProcess::start_on(folder.path(), &database.url(), &[]).await;
    let mut here = Client::connect(first.address).await.unwrap();
    let mut there = Client::connect(second.address).await.unwrap();
    let (witness, receiver) = (Receiver::start().await, Receiver::start().await);
    let all = expect(200, there.get("/v1/deliveries").await);
    assert_eq!(all["data"], json!([]));
    here.subscribe_to_everything(&witness.url).await;

    for round in 0..ROUNDS {
        let endpoint = here.subscribe_to_everything(&receiver.url).await;
        assert_wanted_by(&[&witness, &receiver], &mut there).await;

        // Switched off in one way or the other, and on again.
        expect(200, here.post(&format!("/v1/endpoints/{endpoint}/deactivate"), "").await);
        assert_wanted_by(&[&witness], &mut there).await;
        expect(200, here.post(&format!("/v1/endpoints/{endpoint}/activate"), "").await);
        assert_wanted_by(&[&witness, &receiver], &mut there).await;

        let list = expect(200, here.get(&format!("/v1/subscriptions?endpoint_id={endpoint}")).await);
        let path = format!("/v1/subscriptions/{}", list["data"][0]["id"].as_str().unwrap());
        let switch = |is_active: bool| json!({"is_active": is_active}).to_string();
        expect(200, here.patch(&path, switch(false)).await);
        assert_wanted_by(&[&witness], &mut there).await;
        expect(200, here.patch(&path, switch(true)).await);
        assert_wanted_by(&[&witness, &receiver], &mut there).await;

        // Deleted, the subscription or the endpoint with it.
        let path = if round % 2 == 0 { path } else { format!("/v1/endpoints/{endpoint}") };
        expect(204, here.delete(&path).await);
        assert_wanted_by(&[&witness], &mut there).await;
    }
    assert_eq!(receiver.arrivals.events(), 3 * usize::try_from(ROUNDS).unwrap());
}

/// Publishes an event, and looks how many endpoints it has deliveries to once all of these have got it: all deliveries
/// of an event are written together. One that had not been sent yet would be lost with its endpoint.
async fn assert_wanted_by(receivers: &[&Receiver], client: &mut Client) {
    let event = json!({"event_type": "user.created", "event_data": {}});
    let published = expect(202, client.post("/v1/events", event.to_string()).await);
    let id = published["id"].as_str().unwrap();
    until("it arrives", async || receivers.iter().all(|receiver| receiver.arrivals.all().contains_key(id)))
        .await;
    let list = expect(200, client.get(&format!("/v1/deliveries?event_id={id}")).await);
    assert_eq!(list["data"].as_array().unwrap().len(), receivers.len(), "{list}");
}

fn expect(status: u16, answer: Result<(u16, Value), Broken>) -> Value {
    let (answered, body) = answer.unwrap();
    assert_eq!(answered, status, "{body}");
    body
}
