//! Nodes that divide the work.

use std::time::{Duration, Instant};

use neo_events_test_postgres::database;
use serde_json::json;

use crate::{
    process::{Client, Receiver, ServerProcess, load::until},
    sql::Sql,
};

const OWED: &str = "select count(*) from admin.owed_dispatches";
const DELIVERIES: &str =
    "select count(*) from admin.deliveries where status = 'pending' and current_attempt = 0";
/// Within this everything would have happened, if there were somebody to do it.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

#[tokio::test]
async fn each_role_does_its_part_and_no_other() {
    let (database, folder, receiver) =
        (database().await, tempfile::tempdir().unwrap(), Receiver::start().await);
    let (url, sql) = (database.url(), Sql::connect(&database.url()).await);
    let start = |roles: &'static str| {
        let (folder, url) = (folder.path(), url.clone());
        async move { ServerProcess::start_on(folder, &url, &["--roles", roles]).await }
    };

    let api = start("api").await;
    let mut client = Client::connect(api.address).await.unwrap();
    client.subscribe_to_everything(&receiver.url).await;
    let event = json!({"event_type": "user.created", "event_data": {}});
    let (status, published) = client.post("/v1/events", event.to_string()).await.unwrap();
    assert_eq!(status, 202, "{published}");
    let began = Instant::now();
    while began.elapsed() < LONG_ENOUGH {
        assert_eq!(sql.value::<i64>(OWED).await, 1, "nobody is here to dispatch it");
    }

    let dispatch = start("dispatch").await;
    until("it is dispatched", async || sql.value::<i64>(OWED).await == 0).await;
    let began = Instant::now();
    while began.elapsed() < LONG_ENOUGH {
        assert_eq!(sql.value::<i64>(DELIVERIES).await, 1, "nobody is here to deliver it");
    }
    assert_eq!(receiver.arrivals.events(), 0);

    let deliver = start("deliver").await;
    until("it is delivered", async || receiver.arrivals.events() == 1).await;
    assert_eq!(receiver.arrivals.all().into_keys().next().unwrap(), published["id"].as_str().unwrap());
    sql.nothing_is_owed().await;
    // A node that delivers nothing finds out what became of what another one delivers.
    let (_, endpoints) = client.get("/v1/endpoints").await.unwrap();
    let path = format!("/v1/endpoints/{}/test", endpoints["data"][0]["id"].as_str().unwrap());
    let (status, test) = client.post(&path, String::new()).await.unwrap();
    assert_eq!((status, &test["overall_status"]), (201, &json!("success")), "{test}");
    sql.assert_histories_are_whole().await;

    for node in [&dispatch, &deliver] {
        serves_no_api(node).await;
    }
    for node in [api, dispatch, deliver] {
        assert!(node.terminate().success());
    }
}

async fn serves_no_api(node: &ServerProcess) {
    let mut client = Client::connect(node.address).await.unwrap();
    for (path, state) in [("/livez", "alive"), ("/readyz", "ready")] {
        let (status, body) = client.get(path).await.unwrap();
        assert_eq!((status, &body["status"]), (200, &json!(state)));
    }
    let event = json!({"event_type": "user.created", "event_data": {}}).to_string();
    for (status, problem) in [
        client.get("/v1/events").await.unwrap(),
        client.post("/v1/events", event).await.unwrap(),
        client.get("/v1/nothing").await.unwrap(),
        client.get("/").await.unwrap(),
    ] {
        assert_eq!((status, &problem["code"]), (404, &json!("unknown_path")));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("this node does not serve the API"), "{detail}");
    }
}
