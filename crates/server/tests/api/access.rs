//! Keys: what each may do, in which tenant and context, and until when.

use neo_events::{Scope, SignedDuration, Sources, Timestamp};
use neo_events_server::{Needs, Route, route_table};
use serde_json::{Value, json};

use crate::support::{ANSWER_OK, Call, KEY, NOBODY, POLL_INTERVAL, Receiver, Reply, Server, keys, rows};

const X: &str = "01930000-0000-7000-8000-0000000000aa";
const Y: &str = "01930000-0000-7000-8000-0000000000bb";

fn call(route: &Route) -> Call {
    let path = route.path.replace("{id}", NOBODY).replace("{event_type}", "no.body");
    let call = Call::new(route.method, &path.replace("{type}", "order").replace("{tenant}", "nobody"));
    if matches!(route.method, "POST" | "PATCH") { call.json("{}") } else { call }
}

fn guarded_routes() -> impl Iterator<Item = Route> {
    route_table().into_iter().filter(|route| route.needs != Needs::Nothing)
}

#[tokio::test]
async fn every_route_asks_for_its_scope_and_no_other() {
    let server = Server::start().await;
    server.make_tenant("acme").await;
    let everything = server.make_key("acme", json!({"scopes": ["admin"]})).await;
    for scope in Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin) {
        let others = Scope::ALL.into_iter().filter(|other| *other != scope && *other != Scope::Admin);
        let others: Vec<_> = others.map(Scope::as_str).collect();
        let without = server.make_key("acme", json!({"scopes": others})).await;
        let with = server.make_key("acme", json!({"scopes": [scope.as_str()]})).await;
        let mut routes = 0;
        for route in guarded_routes().filter(|route| route.needs == Needs::Scope(scope)) {
            let detail = server.send(call(&route).key(&without)).await.refused(403, "insufficient_scope");
            assert!(detail.contains(&format!("`{scope}`")), "{route:?}: {detail}");
            for key in [&with, &everything] {
                let status = server.send(call(&route).key(key)).await.status;
                assert!(!matches!(status, 401 | 403), "{route:?}: {status}");
            }
            routes += 1;
        }
        assert!(routes > 0, "no route needs {scope}");
    }
}

#[tokio::test]
async fn a_stored_event_is_explained_to_those_who_may_read_it() {
    let server = Server::start().await;
    server.make_tenant("acme").await;
    let endpoints_alone = server.make_key("acme", json!({"scopes": ["endpoints:read"]})).await;
    let events_too = server.make_key("acme", json!({"scopes": ["endpoints:read", "events:read"]})).await;
    let event = json!({"event_type": "a.b", "event_data": {"salary": 70_000}});
    let published = Call::new("POST", "/v1/events").json(&event).tenant("acme");
    let published = server.send(published).await.expect(202);
    let filter = json!({"salary": {"$gt": 1}});
    let explain = async |key: &str, question: Value| {
        server.send(Call::new("POST", "/v1/subscriptions/explain").json(&question).key(key)).await
    };

    for event_id in [&published["id"], &json!(NOBODY)] {
        let question = json!({"event_filters": filter, "event_id": event_id});
        let refused = explain(&endpoints_alone, question).await;
        assert!(!refused.text.contains("70000"), "{}", refused.text);
        assert!(refused.refused(403, "insufficient_scope").contains("`events:read`"));
    }
    let question = json!({"event_filters": filter, "event_id": published["id"]});
    assert_eq!(explain(&events_too, question).await.expect(200)["clauses"][0]["actual"], 70_000);
    let question = json!({"event_filters": filter, "event": event});
    assert_eq!(explain(&endpoints_alone, question).await.expect(200)["matches"], true);
}

#[tokio::test]
async fn what_is_everybodys_needs_an_admin_key() {
    let server = Server::start().await;
    server.make_tenant("acme").await;
    let tenants_admin = server.make_key("acme", json!({"scopes": ["admin"]})).await;
    let ordinary = server.make_key("admin", json!({})).await;
    let admin = server.make_key("admin", json!({"scopes": ["admin"]})).await;
    let routes: Vec<_> = guarded_routes().filter(|route| route.needs == Needs::AdminKey).collect();
    let paths: Vec<_> = routes.iter().map(|route| route.path).collect();
    for path in ["/v1/tenants", "/v1/api-keys", "/v1/api-keys/{id}", "/v1/connections/stats"] {
        assert!(paths.contains(&path), "{path}");
    }
    for route in &routes {
        for key in [&tenants_admin, &ordinary] {
            let detail = server.send(call(route).key(key)).await.refused(403, "insufficient_scope");
            assert!(detail.contains("admin key"), "{detail}");
        }
        let status = server.send(call(route).key(&admin)).await.status;
        assert!(!matches!(status, 401 | 403), "{route:?}: {status}");
    }
    // Such a key does what the configured one does, in any tenant.
    let event = json!({"event_type": "a.b", "event_data": {}});
    let publish = |key: &str| Call::new("POST", "/v1/events").key(key).json(&event);
    server.send(publish(&admin).tenant("acme")).await.expect(202);
    server.send(publish(KEY).tenant("acme")).await.expect(202);
    server.send(publish(&admin).tenant("nobody")).await.refused(404, "tenant_not_found");
    server.send(publish(&ordinary).tenant("acme")).await.refused(404, "tenant_not_found");
    server.send(publish(&ordinary).tenant("admin")).await.expect(202);
    let count = async |tenant: &str| {
        rows(&server.send(Call::new("GET", "/v1/events").tenant(tenant)).await.expect(200)).len()
    };
    assert_eq!((count("acme").await, count("admin").await), (2, 1));
}

#[tokio::test]
async fn keys_that_are_unknown_over_or_revoked_open_nothing() {
    let server = Server::start().await;
    let soon = Sources::system().now() + SignedDuration::from_secs(8);
    let over = server.make_key("admin", json!({"expires_at": soon.to_string(), "scopes": ["admin"]})).await;
    let revoked = server.make_key("admin", json!({"scopes": ["admin"]})).await;
    let read = |key: &str| Call::new("GET", "/v1/tenants").key(key);
    server.send(read(&over)).await.expect(200);
    server.send(read(&revoked)).await.expect(200);

    let listed = server.get("/v1/api-keys").await.expect(200);
    let id = rows(&listed)[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.delete(&format!("/v1/api-keys/{id}")).await.status, 204);
    let revoked_at = Sources::system().now();
    until_refused(&server, revoked_at, || read(&revoked)).await;
    server.delete(&format!("/v1/api-keys/{id}")).await.refused(404, "api_key_not_found");

    until_refused(&server, soon, || read(&over)).await;
    assert!(Sources::system().now() >= soon, "it was refused too early");

    let unknown = format!("neo_key_{}", "A".repeat(43));
    let one_off =
        format!("{}{}", &revoked[..revoked.len() - 1], if revoked.ends_with('A') { 'E' } else { 'A' });
    for route in guarded_routes() {
        let mut answers = Vec::new();
        for key in [&over, &revoked, &unknown, &one_off, "neo_key_", "x"] {
            let mut problem = server.send(call(&route).key(key)).await.expect(401);
            problem["request_id"].take();
            answers.push(problem);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{route:?}: {answers:?}");
        server.send(call(&route).without("authorization")).await.refused(401, "unauthorized");
    }
}

/// No call is accepted that begins later than a second after this time.
async fn until_refused(server: &Server, at: Timestamp, call: impl Fn() -> Call) {
    loop {
        let begun = Sources::system().now();
        if server.send(call()).await.status == 401 {
            return;
        }
        assert!(
            begun <= at + SignedDuration::from_secs(1),
            "accepted {} after {at}",
            begun.duration_since(at)
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[tokio::test]
async fn a_key_is_shown_once() {
    let server = Server::start().await;
    server.make_tenant("acme").await;
    let input = json!({
        "name": " ci ", "tenant": "acme", "context_id": X, "scopes": ["events:write", "events:read", "events:write"],
        "expires_at": "2999-01-01T00:00:00.123456789Z",
    });
    let mut created = server.post("/v1/api-keys", input).await.expect(201);
    let fields =
        ["context_id", "created_at", "expires_at", "id", "key", "last_used_at", "name", "scopes", "tenant"];
    assert_eq!(keys(&created), fields);
    let key = created["key"].take().as_str().unwrap().to_owned();
    assert!(key.starts_with("neo_key_") && key.len() == "neo_key_".len() + 43, "{key}");
    assert_eq!(
        (&created["name"], &created["tenant"], &created["context_id"]),
        (&json!("ci"), &json!("acme"), &json!(X))
    );
    assert_eq!(created["scopes"], json!(["events:write", "events:read"]));
    created.as_object_mut().unwrap().remove("key");

    let reply = server.get("/v1/api-keys?tenant=acme").await;
    assert!(!reply.text.contains(&key));
    assert_eq!(rows(&reply.expect(200)), [created]);
    assert_eq!(rows(&server.get("/v1/api-keys?tenant=admin").await.expect(200)), [] as [Value; 0]);
    server.get("/v1/api-keys?tenant=Acme").await.refused(400, "invalid_parameter");

    let ordinary = server.make_key("acme", json!({})).await;
    let listed = server.get("/v1/api-keys").await.expect(200);
    assert_eq!(rows(&listed).len(), 2);
    assert_eq!(rows(&listed)[0]["scopes"].as_array().unwrap().len(), 6, "all but admin");
    assert_ne!(ordinary, key);
}

#[tokio::test]
async fn a_keys_fields_have_limits() {
    let server = Server::start().await;
    let key = |more: Value| {
        let mut key = json!({"name": "n", "tenant": "admin"});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/api-keys", key)
    };
    for (more, pointer) in [
        (json!({"name": ""}), "/name"),
        (json!({"name": "x".repeat(256)}), "/name"),
        (json!({"name": "a\nb"}), "/name"),
        (json!({"tenant": "Acme"}), "/tenant"),
        (json!({"tenant": ""}), "/tenant"),
        (json!({"tenant": "nobody"}), "/tenant"),
        (json!({"tenant": "region:nowhere"}), "/tenant"),
        (json!({"context_id": "x"}), "/context_id"),
        (json!({"context_id": X, "scopes": ["admin"]}), "/context_id"),
        (json!({"scopes": []}), "/scopes"),
        (json!({"scopes": ["events:write", "actions:write"]}), "/scopes/1"),
        (json!({"scopes": "admin"}), "/scopes"),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"expires_at": "2999-01-01T00:00Z"}), "/expires_at"),
        (json!({"expires_at": "+002999-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"key": "mine"}), "/key"),
    ] {
        key(more.clone()).await.invalid_at(&[pointer]);
    }
    key(json!({"name": "x".repeat(255)})).await.expect(201);
    server.post("/v1/api-keys", json!({"name": "n"})).await.invalid_at(&["/tenant"]);
}

#[tokio::test]
async fn what_a_bound_key_writes_is_its_contexts() {
    let server = Server::start().await;
    server.make_tenant("acme").await;
    let key = server.make_key("acme", json!({"context_id": X})).await;
    let post = async |path: &str, body: &Value| -> Reply {
        server.send(Call::new("POST", path).key(&key).json(body)).await
    };
    let stored = async |path: &str| server.send(Call::new("GET", path).key(&key)).await.expect(200);

    let event =
        |context_id: Option<&str>| json!({"event_type": "a.b", "event_data": {}, "context_id": context_id});
    for given in [None, Some(X)] {
        let id = post("/v1/events", &event(given)).await.expect(202)["id"].clone();
        let path = format!("/v1/events/{}", id.as_str().unwrap());
        assert_eq!(stored(&path).await["context_id"], X);
    }
    post("/v1/events", &event(Some(Y))).await.invalid_at(&["/context_id"]);
    let faulty = json!({"event_type": "A", "event_data": {}, "context_id": Y});
    post("/v1/events", &faulty).await.invalid_at(&["/event_type", "/context_id"]);
    let batch = json!({"events": [event(None), event(Some(Y)), event(Some(X))]});
    let answer = post("/v1/events/batch", &batch).await.expect(202);
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(2), &json!(1)));
    assert_eq!(answer["results"][1]["error"]["errors"][0]["pointer"], "/context_id");
    assert_eq!(rows(&stored("/v1/events").await).len(), 4);
    let all = server.send(Call::new("GET", "/v1/events").tenant("acme")).await.expect(200);
    assert!(rows(&all).iter().all(|event| event["context_id"] == X));

    let endpoint = json!({"name": "n", "endpoint_url": "http://127.0.0.1:1/"});
    let endpoint = post("/v1/endpoints", &endpoint).await.expect(201);
    assert_eq!(endpoint["context_id"], X);
    let subscription = json!({"endpoint_id": endpoint["id"], "event_type": "*"});
    let subscription_id = post("/v1/subscriptions", &subscription).await.expect(201);
    assert_eq!(subscription_id["context_id"], X);
    let elsewhere = json!({"endpoint_id": endpoint["id"], "event_type": "*", "context_id": Y});
    post("/v1/subscriptions", &elsewhere).await.invalid_at(&["/context_id"]);
    post("/v1/endpoints", &json!({"name": "n", "endpoint_url": "http://127.0.0.1:1/", "context_id": Y}))
        .await
        .invalid_at(&["/context_id"]);

    // The whole tenant's endpoint is not one of the context's.
    let whole = json!({"name": "n", "endpoint_url": "http://127.0.0.1:1/"});
    let whole = Call::new("POST", "/v1/endpoints").tenant("acme").json(&whole);
    let whole = server.send(whole).await.expect(201)["id"].clone();
    post("/v1/subscriptions", &json!({"endpoint_id": whole, "event_type": "*"}))
        .await
        .invalid_at(&["/endpoint_id"]);
    let path = format!("/v1/endpoints/{}", whole.as_str().unwrap());
    server.send(Call::new("GET", &path).key(&key)).await.refused(404, "endpoint_not_found");
    assert_eq!(rows(&stored("/v1/endpoints").await).len(), 1);
}

#[tokio::test]
async fn a_bound_key_works_with_its_own_rows() {
    let server = Server::start().await;
    server.make_tenant("acme").await;
    let key = server.make_key("acme", json!({"context_id": X})).await;
    let send = async |method: &'static str, path: &str, body: &Value| -> Reply {
        let call = Call::new(method, path).key(&key);
        let call = if method == "POST" || method == "PATCH" { call.json(body) } else { call };
        server.send(call).await
    };
    let mut receiver = Receiver::answering(ANSWER_OK).await;
    let nothing = json!({});
    let endpoint = json!({"name": "n", "endpoint_url": receiver.url});
    let endpoint =
        send("POST", "/v1/endpoints", &endpoint).await.expect(201)["id"].as_str().unwrap().to_owned();
    let subscription = json!({"endpoint_id": endpoint, "event_type": "*"});
    let subscription = send("POST", "/v1/subscriptions", &subscription).await.expect(201)["id"].clone();
    let tested = send("POST", &format!("/v1/endpoints/{endpoint}/test"), &nothing).await.expect(201);
    assert_eq!(tested["overall_status"], "success");
    let event =
        json!({"event_type": "order.placed", "event_data": {}, "aggregate_id": Y, "expected_version": 0});
    let event = send("POST", "/v1/events", &event).await.expect(202)["id"].clone();
    for _ in 0..2 {
        assert!(receiver.next().await.to_ascii_lowercase().contains("x-neo-tenant-id: acme\r\n"));
    }
    let aggregate = send("GET", &format!("/v1/aggregates/order/{Y}"), &nothing).await.expect(200);
    assert_eq!((&aggregate["next_version"], rows_of(&aggregate, "events")), (&json!(2), 1));
    let question = json!({"subscription_id": subscription, "event_id": event});
    assert_eq!(send("POST", "/v1/subscriptions/explain", &question).await.expect(200)["matches"], true);
    for action in ["verify", "unverify", "rotate-secret", "deactivate", "activate"] {
        send("POST", &format!("/v1/endpoints/{endpoint}/{action}"), &nothing).await.expect(200);
    }
    let list = || Call::new("GET", "/v1/deliveries?status=success").key(&key);
    let delivery = server.until_row(list, |delivery| delivery["trigger"] == "event").await["id"].clone();
    let delivery = format!("/v1/deliveries/{}", delivery.as_str().unwrap());
    send("GET", &delivery, &nothing).await.expect(200);
    send("POST", &format!("{delivery}/retry"), &nothing).await.refused(409, "illegal_state");
    send("POST", &format!("{delivery}/cancel"), &nothing).await.refused(409, "illegal_state");
    let stats = send("GET", &format!("/v1/endpoints/{endpoint}/stats"), &nothing).await.expect(200);
    assert_eq!(stats["success"], 2);
    assert_eq!(send("DELETE", &format!("/v1/endpoints/{endpoint}"), &nothing).await.status, 204);
    send("GET", &delivery, &nothing).await.expect(200);
    assert_eq!(rows(&send("GET", "/v1/deliveries", &nothing).await.expect(200)).len(), 2);
}

fn rows_of(object: &Value, field: &str) -> usize {
    object[field].as_array().expect("an array").len()
}

#[tokio::test]
async fn it_is_told_when_a_key_was_last_used() {
    let server = Server::start().await;
    let key = server.make_key("admin", json!({})).await;
    let before = Sources::system().now();
    assert!(rows(&server.get("/v1/api-keys").await.expect(200))[0]["last_used_at"].is_null());
    server.send(Call::new("GET", "/v1/events").key(&key)).await.expect(200);
    let after = Sources::system().now();
    let listed = server.until("/v1/api-keys", |key| !key["last_used_at"].is_null()).await;
    let used_at = listed["last_used_at"].as_str().unwrap().parse::<neo_events::Timestamp>().unwrap();
    assert!((before..=after).contains(&used_at), "{before} {used_at} {after}");
}
