//! Many events in one request.

use serde_json::{Value, json};

use crate::support::{Call, NOBODY, Server, keys};

#[tokio::test]
async fn a_faulty_item_does_not_hold_up_the_others() {
    let server = Server::start().await;
    let known = server.publish(json!({"event_type": "a.b", "event_data": {"known": true}})).await;
    let batch = json!({"events": [
        {"event_type": "a.b", "event_data": {"n": 0}},
        {"event_type": "nope", "event_data": {}},
        {"id": known, "event_type": "a.b", "event_data": {"known": true}},
        {"id": known, "event_type": "a.b", "event_data": {"known": false}},
        {"event_type": "a.b", "event_data": {}, "colour": "red"},
        "not an event",
        {"event_type": "a.b", "event_data": {"n": 6}},
    ]});
    let answer = server.post("/v1/events/batch", batch).await.expect(202);
    assert_eq!(keys(&answer), ["accepted", "duplicates", "rejected", "results"]);
    assert_eq!(
        (&answer["accepted"], &answer["duplicates"], &answer["rejected"]),
        (&json!(2), &json!(1), &json!(4))
    );
    let results = answer["results"].as_array().unwrap();
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["index"], index);
    }
    assert_eq!(keys(&results[0]), ["duplicate", "id", "index"]);
    assert_eq!(results[2], json!({"index": 2, "id": known, "duplicate": true}));
    let outcome = |index: usize| {
        let error = &results[index]["error"];
        (
            error["status"].as_u64().unwrap(),
            error["code"].as_str().unwrap(),
            error["errors"][0]["pointer"].as_str(),
        )
    };
    assert_eq!(outcome(1), (422, "validation_failed", Some("/event_type")));
    assert_eq!(outcome(3), (409, "id_reused", None));
    assert_eq!(outcome(4), (422, "validation_failed", Some("/colour")));
    assert_eq!(outcome(5), (422, "validation_failed", Some("")));
    for index in [0, 6] {
        let id = results[index]["id"].as_str().unwrap();
        assert_eq!(server.get(&format!("/v1/events/{id}")).await.expect(200)["event_data"]["n"], index);
    }
}

#[tokio::test]
async fn lines_are_read_each_for_itself() {
    let server = Server::start().await;
    let lines = b"{\"event_type\":\"a.b\",\"event_data\":{\"n\":1.10}}\r\n\n{\"event_type\":\n{\"event_type\":\"\xff\"}\n  {\"event_type\":\"a.b\",\"event_data\":{}}";
    let answer = server
        .send(Call::new("POST", "/v1/events/batch").body("application/x-ndjson", lines))
        .await
        .expect(202);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert!(results[0]["id"].is_string() && results[3]["id"].is_string());
    assert_eq!(results[1]["error"]["code"], "malformed_json");
    assert_eq!(results[2]["error"]["code"], "malformed_json");
    let id = results[0]["id"].as_str().unwrap();
    assert!(server.get(&format!("/v1/events/{id}")).await.text.contains(r#"{"n":1.10}"#));
}

#[tokio::test]
async fn a_batch_of_faults_is_refused_with_each_of_them() {
    let server = Server::start().await;
    let batch = json!({"events": [{"event_type": "nope", "event_data": {}}, {"event_type": "a.b"}]});
    let problem = server.post("/v1/events/batch", batch).await.expect(422);
    assert_eq!(problem["code"], "batch_rejected");
    assert_eq!((&problem["accepted"], &problem["rejected"]), (&json!(0), &json!(2)));
    assert_eq!(problem["results"][1]["error"]["errors"][0]["pointer"], "/event_data");
    assert_eq!(problem["errors"][0]["pointer"], "/events/0/event_type");
    assert_eq!(problem["errors"][1], json!({"pointer": "/events/1/event_data", "detail": "is required"}));
}

/// What is refused is quoted, and in JSON a byte of it may take up six.
#[tokio::test]
async fn an_answer_is_not_much_larger_than_what_a_thousand_ordinary_refusals_need() {
    let server = Server::start().await;
    let name = "\u{1}".repeat(1000);
    let mut events = vec![json!({"event_type": "user.created", "event_data": {}, name: 1}); 999];
    events.push(json!({"event_type": "user.created", "event_data": {}}));
    let reply = server.post("/v1/events/batch", json!({"events": events})).await;
    assert!(reply.text.len() < 1024 * 1024, "{}", reply.text.len());
    let answer = reply.expect(202);
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(1), &json!(999)));
    let refused = |index: usize| &answer["results"][index]["error"];
    assert_eq!(refused(0)["errors"].as_array().map(Vec::len), Some(1), "{}", refused(0));
    assert_eq!((&refused(998)["code"], &refused(998)["errors"]), (&json!("validation_failed"), &json!([])));
    let says = refused(998)["detail"].as_str().expect("a text");
    assert!(says.contains("publish it alone"), "{says}");
}

#[tokio::test]
async fn batches_have_limits() {
    let server = Server::start().await;
    let path = "/v1/events/batch";
    server.post(path, json!({"events": []})).await.invalid_at(&["/events"]);
    server.post(path, "{}").await.invalid_at(&["/events"]);
    server.post(path, "[]").await.invalid_at(&[""]);
    server.post(path, r#"{"events":[{]}"#).await.refused(400, "malformed_json");
    server.send(Call::new("POST", path)).await.refused(400, "empty_body");
    server
        .send(Call::new("POST", path).body("application/x-ndjson", "\n \n"))
        .await
        .refused(400, "empty_body");
    server
        .send(Call::new("POST", path).body("text/plain", "{}"))
        .await
        .refused(415, "unsupported_media_type");

    let event = r#"{"event_type":"a.b","event_data":{}}"#;
    let many = |count: usize| format!("{{\"events\":[{}]}}", vec![event; count].join(","));
    server.post(path, many(1001)).await.invalid_at(&["/events"]);
    let lines = vec![event; 1001].join("\n");
    server.send(Call::new("POST", path).body("application/x-ndjson", lines)).await.invalid_at(&[""]);
    assert_eq!(server.post(path, many(1000)).await.expect(202)["accepted"], 1000);

    let padded = |bytes: usize| format!("{}{}", many(1), " ".repeat(bytes - many(1).len()));
    server.post(path, padded(10 * 1024 * 1024)).await.expect(202);
    server.post(path, padded(10 * 1024 * 1024 + 1)).await.refused(413, "body_too_large");
}

#[tokio::test]
async fn no_refusal_is_as_long_as_what_it_refuses() {
    const ANSWER_BYTES_MAX: usize = 64 * 1024;
    let server = Server::start().await;
    let header = |n: usize| (format!("{n}{}", "\u{1}".repeat(900)), json!("v"));
    let headers: serde_json::Map<_, _> = (0..40).map(header).collect();
    let endpoint = json!({"name": "a", "endpoint_url": "http://127.0.0.1/", "custom_headers": headers});
    let filtered = |filter: Value| {
        json!({"endpoint_id": NOBODY, "event_type": "a.b", "event_filters": filter}).to_string()
    };
    let key = "\u{1}".repeat(2700);
    let half = "\\u0001".repeat(1350);
    let double = format!("{{\"{half}\":1,\"{half} \":2}}");
    let scopes = json!({"name": "a", "tenant": "admin", "scopes": vec!["x"; 60_000]});
    for (path, body) in [
        ("/v1/endpoints", endpoint.to_string()),
        ("/v1/subscriptions", filtered(json!({&key: {}}))),
        ("/v1/subscriptions", filtered(json!({format!("${key}"): 1}))),
        ("/v1/subscriptions", filtered(json!({"a": {format!("${key}"): 1}}))),
        ("/v1/subscriptions", filtered(json!({"a": {&key: 1}}))),
        ("/v1/subscriptions", filtered(json!({"a": {&key: 1, "$gt": 1}}))),
        ("/v1/subscriptions", filtered(json!({})).replace("{}", &double)),
        ("/v1/api-keys", scopes.to_string()),
    ] {
        let reply = server.post(path, &body).await;
        let (answered, begun) = (reply.text.len(), body.chars().take(200).collect::<String>());
        assert!(answered < body.len() && answered < ANSWER_BYTES_MAX, "{answered} bytes: {path} {begun}");
        reply.refused(422, "validation_failed");
    }
}

#[tokio::test]
async fn a_refusal_does_not_send_the_body_back() {
    let server = Server::start().await;
    let long = "/\u{e9}".repeat(500_000);
    let value = "{\"event_type\":{\"KEY\":1},\"event_data\":{}}";
    let id = "{\"id\":\"KEY\",\"event_type\":\"a.b\",\"event_data\":{}}";
    for item in ["{\"KEY\":1}", "{\"event_type\":1,\"KEY\":1}", "{\"id\":{\"KEY\":1}}", value, id] {
        let item = item.replace("KEY", &long);
        let reply = server.post("/v1/events/batch", format!("{{\"events\":[{item},{item}]}}")).await;
        assert!(reply.text.len() < 20_000, "{} bytes", reply.text.len());
        let problem = reply.expect(422);
        assert_eq!(problem["errors"].as_array().map(Vec::len), Some(2), "{problem}");
    }
}
