//! The catalogue of event types.

use serde_json::{Value, json};

use crate::support::{Server, keys};

#[tokio::test]
async fn an_entry_lives_from_creation_to_deletion() {
    let server = Server::start().await;
    let entry = r#"{"event_type":"order.placed","category":"order","display_name":" Order placed ","description":"d","example_payload":{"b":1.0,"a":2}}"#;
    let reply = server.post("/v1/event-types", entry).await;
    assert_eq!(reply.headers["location"], "/v1/event-types/order.placed");
    assert!(reply.text.contains(r#""example_payload":{"b":1.0,"a":2}"#), "{}", reply.text);
    let created = reply.expect(201);
    let fields = [
        "category",
        "created_at",
        "description",
        "display_name",
        "event_type",
        "example_payload",
        "id",
        "is_enabled",
        "updated_at",
    ];
    assert_eq!(keys(&created), fields);
    assert_eq!((&created["display_name"], &created["is_enabled"]), (&json!("Order placed"), &json!(true)));
    assert_eq!(server.get("/v1/event-types/order.placed").await.expect(200), created);
    server.post("/v1/event-types", entry).await.refused(409, "already_exists");

    let patch = json!({"description": null, "is_enabled": false, "example_payload": null});
    let changed = server.patch("/v1/event-types/order.placed", patch).await.expect(200);
    assert_eq!((&changed["description"], &changed["example_payload"]), (&Value::Null, &Value::Null));
    assert_eq!(changed["display_name"], "Order placed");
    let disabled = json!({"event_type": "order.placed", "event_data": {}});
    server.post("/v1/events", disabled).await.invalid_at(&["/event_type"]);

    let reply = server.delete("/v1/event-types/order.placed").await;
    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
    server.get("/v1/event-types/order.placed").await.refused(404, "event_type_not_found");
}

#[tokio::test]
async fn rules_are_kept() {
    let server = Server::start().await;
    for (entry, pointers) in [
        (json!({"event_type": "x", "display_name": ""}), vec!["/event_type", "/display_name"]),
        (json!({"event_type": "a.b", "display_name": "x", "category": "b"}), vec!["/category"]),
        (json!({"event_type": "a.b", "display_name": "x", "example_payload": []}), vec!["/example_payload"]),
        (
            json!({"event_type": "a.b", "display_name": "x", "description": "d".repeat(1001)}),
            vec!["/description"],
        ),
        (json!({"event_type": "a.b"}), vec!["/display_name"]),
    ] {
        server.post("/v1/event-types", entry).await.invalid_at(&pointers);
    }
    server.post("/v1/event-types", json!({"event_type": "a.b", "display_name": "x"})).await.expect(201);
    for (changes, pointer) in [
        (json!({"display_name": null}), "/display_name"),
        (json!({"is_enabled": null}), "/is_enabled"),
        (json!({"event_type": "c.d"}), "/event_type"),
    ] {
        server.patch("/v1/event-types/a.b", changes).await.invalid_at(&[pointer]);
    }
}

#[tokio::test]
async fn lists_filter() {
    let server = Server::start().await;
    let count = async |query: &str| {
        let list = server.get(&format!("/v1/event-types?{query}")).await.expect(200);
        list["data"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 11, "the seeded types");
    assert_eq!(count("category=organization").await, 4);
    server.patch("/v1/event-types/organization.created", json!({"is_enabled": false})).await.expect(200);
    assert_eq!(count("category=organization&is_enabled=true").await, 3);
    assert_eq!(count("is_enabled=false").await, 1);
    assert_eq!(count("category=nothing").await, 0);
    for category in ["Bad%20Cat", "Order", "", "order.placed", "*"] {
        let path = format!("/v1/event-types?category={category}");
        server.get(&path).await.refused(400, "invalid_parameter");
    }
}
