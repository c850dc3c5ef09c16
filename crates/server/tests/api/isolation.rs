//! Who sees and changes what: every route of the table, called by strangers with the ids of others' rows.

use neo_events_server::{Needs, Route, route_table};
use serde_json::{Value, json};

use crate::support::{ANSWER_OK, Call, Receiver, Server, rows};

const X: &str = "01930000-0000-7000-8000-0000000000aa";
const Y: &str = "01930000-0000-7000-8000-0000000000bb";
const ORDER: &str = "01930000-0000-7000-8000-0000000000cc";

/// Rows of tenant `acme`, all in context X but the catalogue's entry.
struct Rows {
    event: String,
    endpoint: String,
    subscription: String,
    delivery: String,
    api_key: String,
    url: String,
    _receiver: Receiver,
}

/// A caller to whom those rows are another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stranger {
    /// Of tenant `rival`, where its key may do everything.
    OtherTenant,
    /// Of tenant `acme`, bound to context Y, where its key may do everything.
    OtherContext,
}

/// What a stranger gets.
#[derive(Clone, Copy)]
enum Answered {
    /// 404 with this code.
    Missing(&'static str),
    /// 200, a list without rows.
    Empty,
    /// Refused with this status and code.
    Refused(u16, &'static str),
    /// Something of their own.
    Own(u16),
}
use Answered::{Empty, Missing, Own, Refused};

async fn world(server: &Server) -> Rows {
    for slug in ["acme", "rival"] {
        server.make_tenant(slug).await;
    }
    let receiver = Receiver::answering(ANSWER_OK).await;
    let key = server.make_key("acme", json!({"context_id": X})).await;
    let post = async |path: &str, body: Value, status: u16| {
        let answer = server.send(Call::new("POST", path).key(&key).json(&body)).await.expect(status);
        answer["id"].as_str().expect("an id").to_owned()
    };
    let endpoint = post("/v1/endpoints", json!({"name": "hidden", "endpoint_url": receiver.url}), 201).await;
    let subscription =
        post("/v1/subscriptions", json!({"endpoint_id": endpoint, "event_type": "*"}), 201).await;
    let event =
        json!({"event_type": "order.placed", "event_data": {}, "aggregate_id": ORDER, "expected_version": 0});
    let event = post("/v1/events", event, 202).await;
    let list = || Call::new("GET", "/v1/deliveries?status=success").key(&key);
    let delivery = server.until_row(list, |_| true).await["id"].as_str().expect("an id").to_owned();
    let entry = json!({"event_type": "hidden.thing", "display_name": "hidden"});
    server.send(Call::new("POST", "/v1/event-types").tenant("acme").json(&entry)).await.expect(201);
    let keys = server.get("/v1/api-keys?tenant=acme").await.expect(200);
    let api_key = rows(&keys)[0]["id"].as_str().expect("an id").to_owned();
    let url = receiver.url.clone();
    Rows { event, endpoint, subscription, delivery, api_key, url, _receiver: receiver }
}

/// Everything that there is in tenant `acme`, but for last-used times.
async fn snapshot(server: &Server, there: &Rows) -> Vec<String> {
    let Rows { event, endpoint, subscription, delivery, .. } = there;
    let mut found = Vec::new();
    for path in [
        "/v1/events".to_owned(),
        "/v1/event-types".to_owned(),
        "/v1/endpoints".to_owned(),
        "/v1/subscriptions".to_owned(),
        "/v1/deliveries".to_owned(),
        "/v1/tenants".to_owned(),
        "/v1/api-keys".to_owned(),
        format!("/v1/aggregates/order/{ORDER}"),
        format!("/v1/events/{event}"),
        format!("/v1/endpoints/{endpoint}"),
        format!("/v1/endpoints/{endpoint}/stats"),
        format!("/v1/subscriptions/{subscription}"),
        format!("/v1/deliveries/{delivery}"),
        format!("/v1/deliveries/{delivery}/attempts"),
    ] {
        let mut answer = server.send(Call::new("GET", &path).tenant("acme")).await.expect(200);
        without_usage(&mut answer);
        found.push(format!("{path} {answer}"));
    }
    found
}

fn without_usage(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !matches!(name.as_str(), "last_used_at" | "last_triggered_at"));
            fields.values_mut().for_each(without_usage);
        }
        Value::Array(items) => items.iter_mut().for_each(without_usage),
        _ => {}
    }
}

fn path(route: &Route, there: &Rows) -> String {
    let id = match route.path.split('/').nth(2) {
        Some("events") => &there.event,
        Some("endpoints") => &there.endpoint,
        Some("subscriptions") => &there.subscription,
        Some("deliveries") => &there.delivery,
        Some("api-keys") => &there.api_key,
        _ => ORDER,
    };
    let path = route.path.replace("{id}", id).replace("{event_type}", "hidden.thing");
    path.replace("{type}", "order").replace("{tenant}", "acme")
}

fn body(route: &Route, there: &Rows) -> Value {
    match (route.method, route.path) {
        ("POST", "/v1/events") => {
            json!({"event_type": "order.placed", "event_data": {}, "context_id": X})
        }
        ("POST", "/v1/events/batch") => {
            json!({"events": [{"event_type": "order.placed", "event_data": {}, "context_id": X}]})
        }
        ("POST", "/v1/event-types") => json!({"event_type": "hidden.thing", "display_name": "mine"}),
        ("POST", "/v1/endpoints") => json!({"name": "n", "endpoint_url": there.url, "context_id": X}),
        ("POST", "/v1/subscriptions") => json!({"endpoint_id": there.endpoint, "event_type": "*"}),
        ("POST", "/v1/subscriptions/explain") => {
            json!({"subscription_id": there.subscription, "event_id": there.event})
        }
        ("POST", "/v1/connectivity-test") => json!({"url": there.url}),
        ("POST", "/v1/tenants") => json!({"slug": "mine"}),
        ("POST", "/v1/api-keys") => json!({"name": "mine", "tenant": "acme"}),
        ("PATCH", path) if path.starts_with("/v1/endpoints") => json!({"name": "mine"}),
        ("PATCH", path) if path.starts_with("/v1/subscriptions") => json!({"is_active": false}),
        ("PATCH", _) => json!({"display_name": "mine"}),
        _ => json!({}),
    }
}

/// What strangers get of each route: one of another tenant, and one of another context. The table to mend when a route
/// is added.
const ANSWERED: [(&str, &str, Answered, Answered); 34] = [
    ("GET", "/v1/events", Empty, Empty),
    ("GET", "/v1/endpoints", Empty, Empty),
    ("GET", "/v1/subscriptions", Empty, Empty),
    ("GET", "/v1/deliveries", Empty, Empty),
    ("GET", "/v1/event-types", Empty, Own(200)),
    ("POST", "/v1/events", Own(202), Refused(422, "validation_failed")),
    ("POST", "/v1/events/batch", Own(202), Refused(422, "batch_rejected")),
    ("GET", "/v1/events/{id}", Missing("event_not_found"), Missing("event_not_found")),
    ("GET", "/v1/aggregates/{type}/{id}", Own(200), Own(200)),
    ("POST", "/v1/event-types", Own(201), Refused(403, "context_bound")),
    ("GET", "/v1/event-types/{event_type}", Missing("event_type_not_found"), Own(200)),
    ("PATCH", "/v1/event-types/{event_type}", Missing("event_type_not_found"), Refused(403, "context_bound")),
    (
        "DELETE",
        "/v1/event-types/{event_type}",
        Missing("event_type_not_found"),
        Refused(403, "context_bound"),
    ),
    ("POST", "/v1/endpoints", Own(201), Refused(422, "validation_failed")),
    ("GET", "/v1/endpoints/{id}", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("PATCH", "/v1/endpoints/{id}", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("DELETE", "/v1/endpoints/{id}", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("POST", "/v1/endpoints/{id}/activate", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("POST", "/v1/endpoints/{id}/deactivate", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("POST", "/v1/endpoints/{id}/verify", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("POST", "/v1/endpoints/{id}/unverify", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    (
        "POST",
        "/v1/endpoints/{id}/rotate-secret",
        Missing("endpoint_not_found"),
        Missing("endpoint_not_found"),
    ),
    ("POST", "/v1/endpoints/{id}/test", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("GET", "/v1/endpoints/{id}/stats", Missing("endpoint_not_found"), Missing("endpoint_not_found")),
    ("POST", "/v1/subscriptions", Refused(422, "validation_failed"), Refused(422, "validation_failed")),
    ("POST", "/v1/subscriptions/explain", Missing("event_not_found"), Missing("event_not_found")),
    ("GET", "/v1/subscriptions/{id}", Missing("subscription_not_found"), Missing("subscription_not_found")),
    ("PATCH", "/v1/subscriptions/{id}", Missing("subscription_not_found"), Missing("subscription_not_found")),
    (
        "DELETE",
        "/v1/subscriptions/{id}",
        Missing("subscription_not_found"),
        Missing("subscription_not_found"),
    ),
    ("GET", "/v1/deliveries/{id}", Missing("delivery_not_found"), Missing("delivery_not_found")),
    ("GET", "/v1/deliveries/{id}/attempts", Missing("delivery_not_found"), Missing("delivery_not_found")),
    ("POST", "/v1/deliveries/{id}/retry", Missing("delivery_not_found"), Missing("delivery_not_found")),
    ("POST", "/v1/deliveries/{id}/cancel", Missing("delivery_not_found"), Missing("delivery_not_found")),
    ("POST", "/v1/connectivity-test", Own(200), Own(200)),
];

fn answered(route: &Route, to: Stranger) -> Answered {
    if route.needs == Needs::AdminKey {
        return Refused(403, "insufficient_scope");
    }
    let found = ANSWERED.into_iter().find(|row| (row.0, row.1) == (route.method, route.path));
    let (_, _, of_tenant, of_context) =
        found.unwrap_or_else(|| panic!("say what strangers get of {route:?}"));
    match to {
        Stranger::OtherTenant => of_tenant,
        Stranger::OtherContext => of_context,
    }
}

/// The routes that ask for a key; those that create come last, so that strangers have no rows of their own before.
fn guarded_routes() -> Vec<Route> {
    let mut routes: Vec<_> =
        route_table().into_iter().filter(|route| route.needs != Needs::Nothing).collect();
    routes.sort_by_key(|route| route.method == "POST");
    assert!(routes.len() > 30 && routes.iter().all(|route| route.path.starts_with("/v1/")));
    routes
}

#[tokio::test]
async fn strangers_find_and_change_nothing_by_any_route() {
    let server = Server::start().await;
    let there = world(&server).await;
    let other_tenant = server.make_key("rival", json!({"scopes": ["admin"]})).await;
    let other_context = server.make_key("acme", json!({"scopes": ["admin"], "context_id": Y})).await;
    let before = snapshot(&server, &there).await;
    for (stranger, key) in [(Stranger::OtherTenant, &other_tenant), (Stranger::OtherContext, &other_context)]
    {
        for route in guarded_routes() {
            let what = format!("{stranger:?} {} {}", route.method, route.path);
            let mut call = Call::new(route.method, &path(&route, &there)).key(key);
            if matches!(route.method, "POST" | "PATCH") {
                call = call.json(&body(&route, &there));
            }
            let reply = server.send(call).await;
            for hidden in [&there.subscription, &there.delivery] {
                assert!(!reply.text.contains(hidden.as_str()), "{what}: {}", reply.text);
            }
            match answered(&route, stranger) {
                Missing(code) => drop(reply.refused(404, code)),
                Refused(status, code) => drop(reply.refused(status, code)),
                Own(status) => assert_eq!(reply.status, status, "{what}: {}", reply.text),
                Empty => assert_eq!(rows(&reply.expect(200)), [] as [Value; 0], "{what}"),
            }
        }
        let now = snapshot(&server, &there).await;
        assert_eq!(before, now, "{stranger:?} changed something");
    }
}

#[tokio::test]
async fn filters_and_aggregates_tell_strangers_nothing() {
    let server = Server::start().await;
    let there = world(&server).await;
    for (tenant, context_id) in [("rival", None), ("acme", Some(Y))] {
        let key = server.make_key(tenant, json!({"context_id": context_id})).await;
        for path in [
            format!("/v1/events?context_id={X}"),
            format!("/v1/events?aggregate_id={ORDER}"),
            format!("/v1/endpoints?context_id={X}"),
            "/v1/endpoints?event_type=order.placed".to_owned(),
            format!("/v1/subscriptions?endpoint_id={}", there.endpoint),
            format!("/v1/subscriptions?context_id={X}"),
            format!("/v1/deliveries?endpoint_id={}", there.endpoint),
            format!("/v1/deliveries?event_id={}", there.event),
            "/v1/deliveries?status=success".to_owned(),
        ] {
            let list = server.send(Call::new("GET", &path).key(&key)).await.expect(200);
            assert_eq!(list, json!({"data": [], "next_cursor": null}), "{tenant} {path}");
        }
        let path = format!("/v1/aggregates/order/{ORDER}");
        let aggregate = server.send(Call::new("GET", &path).key(&key)).await.expect(200);
        assert_eq!((&aggregate["next_version"], &aggregate["events"]), (&json!(1), &json!([])), "{tenant}");
    }
    // The head of a stream is the tenant's: a guarded publish from elsewhere is refused, and not told how far it is.
    let key = server.make_key("acme", json!({"context_id": Y})).await;
    let stale =
        json!({"event_type": "order.placed", "event_data": {}, "aggregate_id": ORDER, "expected_version": 5});
    let stale = Call::new("POST", "/v1/events").key(&key).json(&stale);
    server.send(stale).await.invalid_at(&["/aggregate_id"]);
    let own = server.make_key("acme", json!({"context_id": X})).await;
    let stale =
        json!({"event_type": "order.placed", "event_data": {}, "aggregate_id": ORDER, "expected_version": 5});
    let stale = server.send(Call::new("POST", "/v1/events").key(&own).json(&stale)).await.expect(409);
    assert_eq!(stale["newest_version"], 1);
    // Publishing another's event again is a conflict, not a repetition.
    let again = json!({"id": there.event, "event_type": "order.placed", "event_data": {}});
    server.send(Call::new("POST", "/v1/events").key(&key).json(&again)).await.refused(409, "id_reused");
}

#[tokio::test]
async fn a_tenant_that_is_not_the_keys_is_as_one_that_is_not_there() {
    let server = Server::start().await;
    let there = world(&server).await;
    let key = server.make_key("rival", json!({"scopes": ["admin"]})).await;
    let details = async |route: &Route, tenant: &str| {
        let call = Call::new(route.method, &path(route, &there)).key(&key).tenant(tenant).json("{}");
        server.send(call).await.refused(404, "tenant_not_found").replace(tenant, "…")
    };
    for route in guarded_routes() {
        assert_eq!(details(&route, "acme").await, details(&route, "nobody").await, "{route:?}");
        assert_eq!(details(&route, "admin").await, details(&route, "region:nobody").await, "{route:?}");
    }
    server.send(Call::new("GET", "/v1/events").key(&key).tenant("rival")).await.expect(200);
    server
        .send(Call::new("GET", "/v1/events").key(&key).tenant("A b"))
        .await
        .refused(400, "invalid_tenant_id");
}
