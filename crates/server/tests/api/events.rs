//! Publishing single events, and reading them.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Call, Server, keys, rows};

const AGGREGATE: &str = "3f2c1e7a-1111-4222-8333-944445555666";

/// A UUIDv7 of this moment; `tail` makes it unique.
fn timely_id(tail: u16) -> String {
    let millis = neo_events::Sources::system().now().as_millisecond();
    let millis = format!("{millis:012x}");
    format!("{}-{}-7000-8000-00000000{tail:04x}", &millis[..8], &millis[8..])
}

#[tokio::test]
async fn an_event_is_answered_and_read_as_it_was_sent() {
    let server = Server::start().await;
    let event = json!({
        "id": timely_id(1),
        "event_type": "order.placed",
        "event_name": "Order placed",
        "aggregate_id": AGGREGATE,
        "aggregate_type": "Order",
        "aggregate_version": 7,
        "event_data": {"total": 12.5},
        "event_metadata": {"source": "shop"},
        "correlation_id": AGGREGATE,
        "causation_id": AGGREGATE,
        "triggered_by_user_id": AGGREGATE,
        "context_id": AGGREGATE,
        "occurred_at": "2026-01-02T03:04:05.678901+01:00",
    });
    let published = server.post("/v1/events", &event).await.expect(202);
    assert_eq!(keys(&published), ["created_at", "duplicate", "event_type", "id"]);
    assert_eq!(published["id"], event["id"]);
    assert_eq!(published["event_type"], "order.placed");
    assert_eq!(published["duplicate"], false);

    let read = server.get(&format!("/v1/events/{}", timely_id_of(&published))).await.expect(200);
    let mut expected = event.clone();
    expected["aggregate_type"] = "order".into();
    expected["occurred_at"] = "2026-01-02T02:04:05.678901Z".into();
    expected["created_at"] = published["created_at"].clone();
    expected["processed_at"] = read["processed_at"].clone();
    assert_eq!(read, expected);

    let again = server.post("/v1/events", &event).await.expect(202);
    assert_eq!((&again["duplicate"], &again["created_at"]), (&json!(true), &published["created_at"]));
    let mut other = event;
    other["event_data"] = json!({"total": 12.50001});
    server.post("/v1/events", other).await.refused(409, "id_reused");
}

fn timely_id_of(published: &Value) -> &str {
    published["id"].as_str().expect("an id")
}

#[tokio::test]
async fn what_is_not_given_has_its_default() {
    let server = Server::start().await;
    let id =
        server.publish(json!({"event_type": "order.placed", "event_data": {}, "event_name": null})).await;
    let event = server.get(&format!("/v1/events/{id}")).await.expect(200);
    assert_eq!(event["aggregate_id"], id.as_str());
    assert_eq!(event["aggregate_type"], "order");
    assert_eq!(event["aggregate_version"], 1);
    assert_eq!(event["event_metadata"], json!({}));
    for absent in ["event_name", "correlation_id", "causation_id", "triggered_by_user_id", "context_id"] {
        assert_eq!(event.get(absent), Some(&Value::Null), "{absent} is there");
    }
    server.until("/v1/events?processed=true", |event| event["processed_at"].is_string()).await;
}

#[tokio::test]
async fn the_bytes_of_event_data_survive() {
    let server = Server::start().await;
    let nothing_normal = [
        r#"{"b":1,"a":2,"b":3}"#,
        r#"{ "space" : [ 1 , 2 ] }"#,
        r#"{"number":1.10,"large":123456789012345678901234567890,"tiny":1e-400,"zero":-0.0}"#,
        r#"{"escapes":"\u0041\/\ud83d\ude00\n","plain":"ä😀","nul":"\u0000"}"#,
    ];
    for data in nothing_normal {
        let body = format!(r#"{{"event_data":{data},"event_type":"a.b","event_metadata":{data}}}"#);
        let id = server.post("/v1/events", body).await.expect(202)["id"].as_str().unwrap().to_owned();
        let reply = server.get(&format!("/v1/events/{id}")).await;
        assert!(
            reply.text.contains(&format!(r#""event_data":{data},"event_metadata":{data},"#)),
            "{}",
            reply.text
        );
    }
}

#[tokio::test]
async fn broken_rules_are_named_with_their_places() {
    let server = Server::start().await;
    let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    for (body, pointer) in [
        (r#"{"event_data":{}}"#.to_owned(), "/event_type"),
        (r#"{"event_type":"a.b"}"#.to_owned(), "/event_data"),
        (r#"{"event_type":"organization","event_data":{}}"#.to_owned(), "/event_type"),
        (r#"{"event_type":"User.Created","event_data":{}}"#.to_owned(), "/event_type"),
        (r#"{"event_type":"a.b\u0000","event_data":{}}"#.to_owned(), "/event_type"),
        (r#"{"event_type":"a.b","event_data":[]}"#.to_owned(), "/event_data"),
        (r#"{"event_type":"a.b","event_data":null}"#.to_owned(), "/event_data"),
        (r#"{"event_type":"a.b","event_data":{"x":"\ud800"}}"#.to_owned(), "/event_data"),
        (format!(r#"{{"event_type":"a.b","event_data":{}}}"#, deep(11)), "/event_data"),
        (format!(r#"{{"event_type":"a.b","event_data":{}}}"#, deep(20_000)), "/event_data"),
        (
            format!(r#"{{"event_type":"a.b","event_data":{{"x":"{}"}}}}"#, "x".repeat(100 * 1024)),
            "/event_data",
        ),
        (
            format!(
                r#"{{"event_type":"a.b","event_data":{{}},"event_metadata":{{"x":"{}"}}}}"#,
                "x".repeat(50 * 1024)
            ),
            "/event_metadata",
        ),
        (r#"{"event_type":"a.b","event_data":{},"event_name":"a\u0000b"}"#.to_owned(), "/event_name"),
        (r#"{"event_type":"a.b","event_data":{},"aggregate_version":0}"#.to_owned(), "/aggregate_version"),
        (
            r#"{"event_type":"a.b","event_data":{},"aggregate_version":1000000}"#.to_owned(),
            "/aggregate_version",
        ),
        (r#"{"event_type":"a.b","event_data":{},"aggregate_version":"1"}"#.to_owned(), "/aggregate_version"),
        (r#"{"event_type":"a.b","event_data":{},"aggregate_type":"1"}"#.to_owned(), "/aggregate_type"),
        (
            r#"{"event_type":"a.b","event_data":{},"id":"9f2c1e7a-1111-4222-8333-944445555666"}"#.to_owned(),
            "/id",
        ),
        (r#"{"event_type":"a.b","event_data":{},"context_id":"x"}"#.to_owned(), "/context_id"),
        (r#"{"event_type":"a.b","event_data":{},"occurred_at":"now"}"#.to_owned(), "/occurred_at"),
        (
            r#"{"event_type":"a.b","event_data":{},"occurred_at":"2026-11-21T12:00:60Z"}"#.to_owned(),
            "/occurred_at",
        ),
        (
            r#"{"event_type":"a.b","event_data":{},"occurred_at":"2026-11-21T12:00:00Z[America/New_York]"}"#
                .to_owned(),
            "/occurred_at",
        ),
        (r#"{"event_type":"a.b","event_data":{},"expected_version":0}"#.to_owned(), "/aggregate_id"),
    ] {
        server.post("/v1/events", body).await.invalid_at(&[pointer]);
    }
    let faults = json!({"event_type": "x", "event_data": [], "aggregate_version": 0});
    server.post("/v1/events", faults).await.invalid_at(&["/event_type", "/event_data", "/aggregate_version"]);
    let deepest = format!(r#"{{"event_type":"a.b","event_data":{}}}"#, deep(10));
    server.post("/v1/events", deepest).await.expect(202);
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_that_tells_the_newest() {
    let server = Server::start().await;
    let event = |expected: u32| json!({"event_type": "order.changed", "event_data": {}, "aggregate_id": AGGREGATE, "expected_version": expected});
    server.publish(event(0)).await;
    server.publish(event(1)).await;
    let problem = server.post("/v1/events", event(1)).await.expect(409);
    assert_eq!((&problem["code"], &problem["newest_version"]), (&json!("stale_version"), &json!(2)));
    server.publish(json!({"event_type": "order.changed", "event_data": {}, "aggregate_id": AGGREGATE, "aggregate_version": 999_999})).await;
    let says = server.post("/v1/events", event(999_998)).await.refused(409, "versions_exhausted");
    assert!(says.contains("999999"), "{says}");

    let path = format!("/v1/aggregates/Order/{AGGREGATE}");
    let stream = server.get(&path).await.expect(200);
    assert_eq!(keys(&stream), ["aggregate_id", "aggregate_type", "events", "next_cursor", "next_version"]);
    assert_eq!((&stream["aggregate_type"], &stream["aggregate_id"]), (&json!("order"), &json!(AGGREGATE)));
    let versions = |stream: &Value| {
        stream["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["aggregate_version"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(versions(&stream), [1, 2, 999_999]);
    let page = server.get(&format!("{path}?after_version=1&limit=1")).await.expect(200);
    assert_eq!(versions(&page), [2]);
    let next = page["next_cursor"].as_str().unwrap();
    let page = server.get(&format!("{path}?after_version=1&limit=1&cursor={next}")).await.expect(200);
    assert_eq!((versions(&page), &page["next_cursor"]), (vec![999_999], &Value::Null));
    server.get(&format!("{path}?cursor={next}")).await.refused(400, "invalid_cursor");
    let nobody = server.get(&format!("/v1/aggregates/order/{}", crate::support::NOBODY)).await.expect(200);
    assert_eq!((&nobody["next_version"], &nobody["events"]), (&json!(1), &json!([])));
    server.get(&format!("/v1/aggregates/1/{AGGREGATE}")).await.invalid_at(&["/aggregate_type"]);
}

#[tokio::test]
async fn of_equal_publishes_at_once_one_is_new() {
    let server = Server::start().await;
    let body = json!({"id": timely_id(2), "event_type": "a.b", "event_data": {"x": 1}}).to_string();
    let mut publishes = JoinSet::new();
    for _ in 0..20 {
        let (address, body) = (server.address, body.clone());
        publishes.spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            Call::new("POST", "/v1/events").json(&body).send(&mut stream).await;
            let mut answer = vec![];
            tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.unwrap();
            crate::support::Reply::parse(&answer).expect(202)["duplicate"].as_bool().unwrap()
        });
    }
    let duplicates = publishes.join_all().await;
    assert_eq!(duplicates.iter().filter(|duplicate| !**duplicate).count(), 1);
    let all = server.get("/v1/events").await.expect(200);
    assert_eq!(rows(&all).len(), 1);
}

#[tokio::test]
async fn lists_go_on_by_cursor_and_keep_their_filters() {
    let server = Server::start().await;
    let mut ids = vec![];
    for n in 0..7 {
        let event_type = if n % 2 == 0 { "order.even" } else { "order.odd" };
        ids.push(
            server
                .publish(
                    json!({"event_type": event_type, "event_data": {"n": n}, "correlation_id": AGGREGATE}),
                )
                .await,
        );
    }
    ids.reverse();
    assert_eq!(walk(&server, "/v1/events?limit=2", 4).await, ids);
    assert_eq!(walk(&server, "/v1/events?limit=1000", 1).await, ids);
    let even: Vec<_> = ids.iter().step_by(2).cloned().collect();
    assert_eq!(walk(&server, "/v1/events?limit=3&event_type=order.even", 2).await, even);
    assert_eq!(walk(&server, &format!("/v1/events?limit=7&correlation_id={AGGREGATE}"), 1).await, ids);
    assert_eq!(
        walk(&server, &format!("/v1/events?aggregate_type=Order&aggregate_id={}", ids[3]), 1).await,
        ids[3..=3]
    );
    for none in [
        "event_type=a.b",
        "context_id=3f2c1e7a-1111-4222-8333-944445555666",
        "from=2999-01-01T00:00:00Z",
        "to=2000-01-01T00:00:00%2B00:00",
    ] {
        assert!(walk(&server, &format!("/v1/events?{none}"), 1).await.is_empty(), "{none}");
    }
    let newest = server.get(&format!("/v1/events/{}", ids[0])).await.expect(200)["created_at"]
        .as_str()
        .unwrap()
        .to_owned();
    let since = walk(&server, &format!("/v1/events?from={newest}"), 1).await;
    assert!(since.contains(&ids[0]), "from includes");
    let before = walk(&server, &format!("/v1/events?to={newest}"), 1).await;
    assert!(!before.contains(&ids[0]), "to excludes");
}

/// All ids of a list, which must have so many pages.
async fn walk(server: &Server, path: &str, pages: usize) -> Vec<String> {
    let mut ids = vec![];
    let mut cursor = String::new();
    for page in 1.. {
        let list = server.get(&format!("{path}{cursor}")).await.expect(200);
        assert_eq!(keys(&list), ["data", "next_cursor"]);
        ids.extend(rows(&list).iter().map(|row| row["id"].as_str().expect("an id").to_owned()));
        let Some(next) = list["next_cursor"].as_str() else {
            assert_eq!(page, pages, "{path}");
            break;
        };
        cursor = format!("&cursor={next}");
    }
    ids
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let server = Server::start().await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let body = r#"{"event_type":"a.b","event_data":{}}"#;
    let call = Call::new("POST", "/v1/events").json(body).header("connection", "keep-alive");
    for _ in 0..3 {
        call.send(&mut stream).await;
    }
    let mut answers = vec![];
    while answers.windows(12).filter(|window| window == b"HTTP/1.1 202").count() < 3
        || !answers.ends_with(b"}")
    {
        assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut stream, &mut answers).await.unwrap(), 0);
    }
}
