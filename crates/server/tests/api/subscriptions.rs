//! Subscriptions, and why they match.

use serde_json::{Value, json};

use crate::support::{NOBODY, Server, keys};

async fn endpoint(server: &Server, context_id: Option<&str>) -> String {
    let body = json!({"name": "n", "endpoint_url": "http://127.0.0.1:1/", "context_id": context_id, "is_active": true});
    server.post("/v1/endpoints", body).await.expect(201)["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_subscription_lives_from_creation_to_deletion() {
    let server = Server::start().await;
    let endpoint_id = endpoint(&server, None).await;
    let filter = r#"{"plan":["pro","free"],"seats":{"$gte":1.0}}"#;
    let body = format!(
        r#"{{"endpoint_id":"{endpoint_id}","event_type":"user.created","event_filters":{filter},"context_id":"{NOBODY}","subscription_name":"s","description":"d"}}"#
    );
    let reply = server.post("/v1/subscriptions", body).await;
    assert!(reply.text.contains(&format!(r#""event_filters":{filter},"#)), "{}", reply.text);
    let location = reply.headers["location"].clone();
    let created = reply.expect(201);
    let fields = [
        "context_id",
        "created_at",
        "description",
        "endpoint_id",
        "event_filters",
        "event_type",
        "event_type_id",
        "id",
        "is_active",
        "last_triggered_at",
        "subscription_name",
        "updated_at",
    ];
    assert_eq!(keys(&created), fields);
    assert!(created["event_type_id"].is_string(), "a seeded type has an entry");
    assert_eq!((&created["is_active"], &created["last_triggered_at"]), (&json!(true), &Value::Null));
    assert_eq!(server.get(&location).await.expect(200), created);

    let patch = json!({"event_type": "user.*", "event_filters": {}, "is_active": false, "subscription_name": null, "description": null});
    let changed = server.patch(&location, patch).await.expect(200);
    assert_eq!((&changed["event_type"], &changed["event_type_id"]), (&json!("user.*"), &Value::Null));
    assert_eq!((&changed["subscription_name"], &changed["is_active"]), (&Value::Null, &json!(false)));
    assert_eq!(server.delete(&location).await.status, 204);
    server.get(&location).await.refused(404, "subscription_not_found");
}

#[tokio::test]
async fn a_change_of_nothing_is_none() {
    let server = Server::start().await;
    let endpoint_id = endpoint(&server, None).await;
    let subscription = json!({"endpoint_id": endpoint_id, "event_type": "*"});
    let subscription = server.post("/v1/subscriptions", subscription).await.expect(201);
    let entry = json!({"event_type": "a.b", "display_name": "x"});
    server.post("/v1/event-types", entry).await.expect(201);
    let subscription = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    for path in [format!("/v1/endpoints/{endpoint_id}"), subscription, "/v1/event-types/a.b".to_owned()] {
        let before = server.get(&path).await.expect(200);
        assert_eq!(server.patch(&path, "{}").await.expect(200), before);
        assert_eq!(server.get(&path).await.expect(200), before, "updated_at too");
    }
}

#[tokio::test]
async fn rules_are_kept() {
    let server = Server::start().await;
    let bound = endpoint(&server, Some(NOBODY)).await;
    let with = |field: &str, value: Value| {
        let mut subscription = json!({"endpoint_id": bound, "event_type": "*"});
        subscription[field] = value;
        subscription
    };
    for (field, value, pointer) in [
        ("endpoint_id", json!(NOBODY), "/endpoint_id"),
        ("endpoint_id", json!("x"), "/endpoint_id"),
        ("event_type", json!("*.created"), "/event_type"),
        ("event_filters", json!([]), "/event_filters"),
        ("event_filters", json!({"a": {"$nope": 1}}), "/event_filters/a/$nope"),
        ("event_filters", json!({"a": {"$regex": "("}}), "/event_filters/a/$regex"),
        ("context_id", json!("3f2c1e7a-1111-4222-8333-944445555666"), "/context_id"),
        ("subscription_name", json!(""), "/subscription_name"),
        ("is_active", json!("yes"), "/is_active"),
    ] {
        server.post("/v1/subscriptions", with(field, value)).await.invalid_at(&[pointer]);
    }
    let id = server.post("/v1/subscriptions", with("context_id", json!(NOBODY))).await.expect(201)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (field, value) in
        [("event_filters", Value::Null), ("event_type", Value::Null), ("endpoint_id", json!(bound))]
    {
        server
            .patch(&format!("/v1/subscriptions/{id}"), json!({ field: value }))
            .await
            .invalid_at(&[&format!("/{field}")]);
    }
}

#[tokio::test]
async fn lists_filter() {
    let server = Server::start().await;
    let (first, second) = (endpoint(&server, None).await, endpoint(&server, None).await);
    server.post("/v1/subscriptions", json!({"endpoint_id": first, "event_type": "*"})).await.expect(201);
    server
        .post("/v1/subscriptions", json!({"endpoint_id": second, "event_type": "a.b", "is_active": false}))
        .await
        .expect(201);
    server
        .post("/v1/subscriptions", json!({"endpoint_id": second, "event_type": "a.*", "context_id": NOBODY}))
        .await
        .expect(201);
    let types = async |query: &str| {
        let list = server.get(&format!("/v1/subscriptions?{query}")).await.expect(200);
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["event_type"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(types("").await, ["a.*", "a.b", "*"]);
    assert_eq!(types(&format!("endpoint_id={second}")).await, ["a.*", "a.b"]);
    assert_eq!(types(&format!("endpoint_id={second}&is_active=true")).await, ["a.*"]);
    assert_eq!(types(&format!("context_id={NOBODY}")).await, ["a.*"]);
}

#[tokio::test]
async fn explain_tells_which_clause_saw_what() {
    let server = Server::start().await;
    let question = json!({
        "event_filters": {"gone": {"$exists": false}, "plan": "pro", "seats": {"$gte": 10}},
        "event": {"event_type": "user.created", "event_data": {"plan": "free", "seats": 12}, "aggregate_version": 3, "id": NOBODY},
    });
    let explanation = server.post("/v1/subscriptions/explain", question).await.expect(200);
    assert_eq!(
        explanation,
        json!({"matches": false, "clauses": [
            {"path": "gone", "operator": "$exists", "expected": false, "actual": null, "holds": true},
            {"path": "plan", "operator": "$eq", "expected": "pro", "actual": "free", "holds": false},
            {"path": "seats", "operator": "$gte", "expected": 10, "actual": 12, "holds": true},
        ]})
    );

    let endpoint_id = endpoint(&server, Some(NOBODY)).await;
    let subscription =
        json!({"endpoint_id": endpoint_id, "event_type": "user.*", "event_filters": {"plan": "pro"}});
    let subscription_id = server.post("/v1/subscriptions", subscription).await.expect(201)["id"].clone();
    let event_id = server
        .publish(json!({"event_type": "user.created", "event_data": {"plan": "pro"}, "context_id": NOBODY}))
        .await;
    let question = json!({"subscription_id": subscription_id, "event_id": event_id});
    let explanation = server.post("/v1/subscriptions/explain", question).await.expect(200);
    assert_eq!(explanation["matches"], true);
    let paths: Vec<_> = explanation["clauses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|clause| clause["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["$event_type", "$context_id", "$is_active", "$endpoint.is_active", "plan"]);
}

#[tokio::test]
async fn a_question_has_one_filter_and_one_event() {
    let server = Server::start().await;
    let path = "/v1/subscriptions/explain";
    server.post(path, "{}").await.invalid_at(&["/subscription_id", "/event_id"]);
    let both = json!({"subscription_id": NOBODY, "event_filters": {}, "event_id": NOBODY, "event": {"event_data": {}}});
    server.post(path, both).await.invalid_at(&["/event_filters", "/event"]);
    server
        .post(path, json!({"event_filters": {"a": {"$nope": 1}}, "event": {"event_data": {}}}))
        .await
        .invalid_at(&["/event_filters/a/$nope"]);
    server
        .post(path, json!({"event_filters": {}, "event": {"event_data": [], "event_type": "x"}}))
        .await
        .invalid_at(&["/event/event_data", "/event/event_type"]);
    server.post(path, json!({"event_filters": {}, "event": {}})).await.invalid_at(&["/event/event_data"]);
    server.post(path, json!({"event_filters": {}, "event_id": NOBODY})).await.refused(404, "event_not_found");
    server
        .post(path, json!({"subscription_id": NOBODY, "event": {"event_data": {}}}))
        .await
        .refused(404, "subscription_not_found");
}
