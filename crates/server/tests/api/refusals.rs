//! What is asked of every request, whatever it is for: key, tenant, path, method, query, body.

use neo_events_server::{Needs, route_table};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Call, KEY, NOBODY, PATIENCE, Reply, Server};

/// Every route under `/v1`, with a path that names nothing, and a path that is no route.
fn routes() -> impl Iterator<Item = (&'static str, String)> {
    let named = |path: &str| {
        let path = path.replace("{id}", NOBODY).replace("{event_type}", "no.body");
        path.replace("{type}", "order").replace("{tenant}", "nobody")
    };
    let table = route_table().into_iter().filter(|route| route.needs != Needs::Nothing);
    let nothing = ["GET", "POST"].map(|method| (method, "/v1/nothing".to_owned()));
    table.map(move |route| (route.method, named(route.path))).chain(nothing)
}

#[tokio::test]
async fn every_route_asks_for_the_key() {
    let server = Server::start().await;
    for (method, path) in routes() {
        let call = || Call::new(method, &path).json("{}");
        let reply = server.send(call().without("authorization")).await;
        assert_eq!(reply.headers["www-authenticate"], "Bearer", "{method} {path}");
        reply.refused(401, "unauthorized");
        server
            .send(call().header("authorization", "Bearer the-admin-key-of-testt"))
            .await
            .refused(401, "unauthorized");
    }
    for value in ["", "Bearer", "Bearer ", "Basic the-admin-key-of-tests", "the-admin-key-of-tests"] {
        let call = Call::new("GET", "/v1/events").header("authorization", value);
        server.send(call).await.refused(401, "unauthorized");
    }
    let call = Call::new("GET", "/v1/events").header("authorization", "bearer the-admin-key-of-tests");
    server.send(call).await.expect(200);
}

#[tokio::test]
async fn the_tenant_is_admin_unless_another_is_named() {
    let server = Server::start().await;
    for (tenant, status, code) in [
        ("acme", 404, "tenant_not_found"),
        ("region:eu_west_1", 404, "tenant_not_found"),
        ("Acme", 400, "invalid_tenant_id"),
        ("a b", 400, "invalid_tenant_id"),
        ("", 400, "invalid_tenant_id"),
        ("region:", 400, "invalid_tenant_id"),
    ] {
        let call = Call::new("GET", "/v1/events").header("x-neo-tenant-id", tenant);
        server.send(call).await.refused(status, code);
    }
    server.send(Call::new("GET", "/v1/events").header("x-neo-tenant-id", "admin")).await.expect(200);
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_refused() {
    let server = Server::start().await;
    for path in ["/", "/v1", "/v2/events", "/v1/events/", "/v1/nothing", "//v1/events", "/v1/Events"] {
        server.get(path).await.refused(404, "unknown_path");
    }
    for (method, path, allow) in [
        ("PUT", "/v1/events", "POST,GET,HEAD"),
        ("GET", "/v1/events/batch", "POST"),
        ("POST", "/v1/deliveries", "GET,HEAD"),
        ("DELETE", "/livez", "GET,HEAD"),
    ] {
        let reply = server.send(Call::new(method, path)).await;
        assert_eq!(reply.headers["allow"], allow, "{method} {path}");
        reply.refused(405, "method_not_allowed");
    }
    let head = server.send(Call::new("HEAD", "/v1/events")).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn what_is_not_here_yet_is_refused_by_name() {
    let server = Server::start().await;
    for (path, named) in [
        ("/metrics", "metrics"),
        ("/openapi.json", "a description of the API"),
        ("/docs", "a description of the API"),
        ("/v1/config", "settings"),
        ("/v1/alerts", "alerts"),
        ("/v1/metrics/system", "metrics"),
        ("/v1/dispatch", "dispatch by hand"),
        ("/v1/dispatch/status", "dispatch by hand"),
        ("/v1/endpoints/ID/health", "the health of endpoints"),
        ("/v1/endpoints/ID/circuit-breaker", "circuit breakers"),
        ("/v1/endpoints/ID/circuit-breaker/reset", "circuit breakers"),
        ("/v1/endpoints/verify", "verification of many"),
        ("/v1/dead-letters", "dead letters"),
        ("/v1/dead-letters/ID/retry", "dead letters"),
        ("/v1/actions", "actions"),
        ("/v1/executions/ID", "actions"),
        ("/v1/archival/rules", "archives"),
        ("/v1/deliveries/retry", "repairs of many deliveries"),
        ("/v1/deliveries/cancel", "repairs of many deliveries"),
    ] {
        let path = path.replace("ID", NOBODY);
        for method in ["GET", "POST"] {
            let detail = server.send(Call::new(method, &path)).await.refused(404, "not_here_yet");
            assert!(detail.starts_with(named) && detail.ends_with(" not here yet"), "{path}: {detail}");
        }
    }
    server.send(Call::new("GET", "/v1/actions").without("authorization")).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_field_that_is_not_here_yet_is_told_from_one_that_never_will_be() {
    let server = Server::start().await;
    let verify = format!("/v1/endpoints/{NOBODY}/verify");
    let endpoint = format!("/v1/endpoints/{NOBODY}");
    for (method, path, field, value) in [
        ("POST", "/v1/endpoints", "payload_format", "thin"),
        ("POST", "/v1/endpoints", "signature_schemes", "v1a"),
        ("POST", "/v1/endpoints", "template", "enterprise"),
        ("PATCH", &endpoint, "ordering", "aggregate"),
        ("PATCH", &endpoint, "rate_limit_per_second", "5"),
        ("PATCH", &endpoint, "max_in_flight", "5"),
        ("POST", "/v1/event-types", "payload_schema", "{}"),
        ("PATCH", "/v1/event-types/a.b", "requires_verification", "true"),
        ("POST", &verify, "payload", "{}"),
        ("POST", &verify, "level", "standard"),
        ("POST", &verify, "level", "comprehensive"),
    ] {
        let call = Call::new(method, path).json(&json!({field: value}));
        let detail = server.send(call).await.invalid_at(&[&format!("/{field}")]);
        assert_eq!(detail, format!("/{field}: is not here yet"), "{path}");
    }
    for (path, field) in [("/v1/events", "payload"), ("/v1/events", "ordering"), ("/v1/endpoints", "colour")]
    {
        let detail = server.post(path, json!({field: "x"})).await.invalid_at(&[&format!("/{field}")]);
        assert!(detail.contains("unknown field"), "{detail}");
    }
    let detail = server.post(&verify, json!({"level": "strict"})).await.invalid_at(&["/level"]);
    assert!(detail.contains("`basic`"), "{detail}");
}

#[tokio::test]
async fn rows_that_are_not_there_are_refused_as_such() {
    let server = Server::start().await;
    for (path, code) in [
        ("/v1/events/ID", "event_not_found"),
        ("/v1/event-types/no.body", "event_type_not_found"),
        ("/v1/endpoints/ID", "endpoint_not_found"),
        ("/v1/endpoints/ID/stats", "endpoint_not_found"),
        ("/v1/subscriptions/ID", "subscription_not_found"),
        ("/v1/deliveries/ID", "delivery_not_found"),
    ] {
        server.get(&path.replace("ID", NOBODY)).await.refused(404, code);
        for id in ["x", "1", "%00", "%ff", "01930000-0000-7000-8000-00000000000g"] {
            let path = if path.contains("ID") { path.replace("ID", id) } else { path.replace("no.body", id) };
            server.get(&path).await.refused(404, code);
        }
    }
    server.get("/v1/aggregates/order/x").await.refused(404, "aggregate_not_found");
    for (action, code) in
        [("endpoints/ID/activate", "endpoint_not_found"), ("deliveries/ID/retry", "delivery_not_found")]
    {
        server
            .send(Call::new("POST", &format!("/v1/{}", action.replace("ID", NOBODY))))
            .await
            .refused(404, code);
    }
    for path in ["/v1/event-types/no.body", "/v1/endpoints/ID", "/v1/subscriptions/ID"] {
        let path = path.replace("ID", NOBODY);
        assert_eq!(server.delete(&path).await.status, 404);
        assert_eq!(server.patch(&path, "{}").await.status, 404);
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_by_name() {
    let server = Server::start().await;
    let not_yet =
        ["nope", "ordering", "rate_limit_per_second", "max_in_flight", "payload_format", "signature_schemes"];
    for (method, path) in
        routes().filter(|(method, path)| matches!(*method, "POST" | "PATCH") && !path.ends_with("nothing"))
    {
        for field in not_yet {
            let refused = server.send(Call::new(method, &path).json(&json!({ field: 1 }))).await;
            let detail = refused.invalid_at(&[&format!("/{field}")]);
            let is_unknown = detail.contains(&format!("unknown field `{field}`"));
            let is_later = field != "nope" && detail == format!("/{field}: is not here yet");
            assert!(is_unknown || is_later, "{method} {path}: {detail}");
        }
    }
    let nested = json!({"event_filters": {}, "event": {"event_data": {}, "nope": 1}});
    server.post("/v1/subscriptions/explain", nested).await.invalid_at(&["/event/nope"]);
    for field in ["payload_schema", "requires_verification"] {
        let entry = json!({"event_type": "a.b", "display_name": "x", field: true});
        server.post("/v1/event-types", entry).await.invalid_at(&[&format!("/{field}")]);
    }
}

#[tokio::test]
async fn unknown_parameters_are_refused_by_name() {
    let server = Server::start().await;
    for (method, path) in routes().filter(|(_, path)| !path.ends_with("nothing")) {
        // With a body that would be fine, so that nothing else is wrong.
        let call = Call::new(method, &format!("{path}?colour=red"));
        let call = if matches!(method, "POST" | "PATCH") { call.json("{}") } else { call };
        let detail = server.send(call).await.refused(400, "unknown_parameter");
        assert!(detail.contains("`colour`"), "{method} {path}: {detail}");
    }
}

#[tokio::test]
async fn parameters_are_judged() {
    let server = Server::start().await;
    for (path, name) in [
        ("/v1/events?limit=0", "limit"),
        ("/v1/events?limit=1001", "limit"),
        ("/v1/events?limit=-1", "limit"),
        ("/v1/events?limit=ten", "limit"),
        ("/v1/events?limit=1&limit=2", "limit"),
        ("/v1/events?event_type=User.Created", "event_type"),
        ("/v1/events?event_type=user.*", "event_type"),
        ("/v1/events?aggregate_id=x", "aggregate_id"),
        ("/v1/events?aggregate_type=1", "aggregate_type"),
        ("/v1/events?correlation_id=", "correlation_id"),
        ("/v1/events?context_id=x", "context_id"),
        ("/v1/events?processed=yes", "processed"),
        ("/v1/events?from=yesterday", "from"),
        ("/v1/events?to=2026-11-21T12:00:00", "to"),
        ("/v1/events?from=2026-11-21T12:00:60Z", "from"),
        ("/v1/events?from=2026-11-21T12Z", "from"),
        ("/v1/deliveries?to=20261121T120000Z", "to"),
        ("/v1/deliveries?to=2026-11-21T12:00:00Z[UTC]", "to"),
        ("/v1/event-types?is_enabled=1", "is_enabled"),
        ("/v1/endpoints?is_active=1", "is_active"),
        ("/v1/endpoints?event_type=x", "event_type"),
        ("/v1/subscriptions?endpoint_id=x", "endpoint_id"),
        ("/v1/deliveries?status=done", "status"),
        ("/v1/deliveries?event_id=x", "event_id"),
        ("/v1/aggregates/order/01930000-0000-7000-8000-000000000000?after_version=-1", "after_version"),
    ] {
        let detail = server.get(path).await.refused(400, "invalid_parameter");
        assert!(detail.contains(&format!("`{name}`")), "{path}: {detail}");
    }
    for list in ["events", "event-types", "endpoints", "subscriptions", "deliveries"] {
        for cursor in ["x", "", "%00", "AAAA", "9999999999999999999999"] {
            server.get(&format!("/v1/{list}?cursor={cursor}")).await.refused(400, "invalid_cursor");
        }
        let empty = server.get(&format!("/v1/{list}?limit=1000")).await.expect(200);
        assert!(empty["data"].is_array() && empty["next_cursor"].is_null());
    }
}

#[tokio::test]
async fn bodies_are_judged_before_they_are_read() {
    let server = Server::start().await;
    let event = r#"{"event_type":"a.b","event_data":{}}"#;
    for media_type in
        ["text/plain", "application/xml", "application/x-www-form-urlencoded", "application/x-ndjson"]
    {
        let call = Call::new("POST", "/v1/events").body(media_type, event);
        server.send(call).await.refused(415, "unsupported_media_type");
    }
    let call = || Call::new("POST", "/v1/events").json(event);
    server.send(call().without("content-type")).await.refused(415, "unsupported_media_type");
    server.send(call().header("content-encoding", "gzip")).await.refused(415, "unsupported_media_type");
    server.send(call().header("content-type", "Application/JSON; charset=utf-8")).await.expect(202);
    server.send(Call::new("POST", "/v1/events")).await.refused(400, "empty_body");
    server.post("/v1/events", "").await.refused(400, "empty_body");
    server.post("/v1/events", " \n").await.refused(400, "empty_body");
    let large = format!(r#"{{"event_type":"a.b","event_data":{{"x":"{}"}}}}"#, "x".repeat(256 * 1024));
    server.post("/v1/events", &large).await.refused(413, "body_too_large");
    let huge = vec![b' '; 11 * 1024 * 1024];
    server
        .send(Call::new("POST", "/v1/events").body("application/json", huge))
        .await
        .refused(413, "body_too_large");
}

/// Whoever sends everything before it reads sees why it was refused, and not a connection that was reset.
#[tokio::test]
async fn who_is_refused_before_its_body_was_read_sees_why() {
    let server = Server::start().await;
    let call = |path: &str| Call::new("POST", path).body("application/json", vec![b' '; 9 * 1024 * 1024]);
    for _ in 0..3 {
        let stranger = call("/v1/events/batch").header("authorization", "Bearer neo_wrong");
        server.send(stranger).await.refused(401, "unauthorized");
        server.send(call("/v1/nothing")).await.refused(404, "unknown_path");
        server.send(call("/v1/events/batch?a=b")).await.refused(400, "unknown_parameter");
        let text = call("/v1/events/batch").header("content-type", "text/plain");
        server.send(text).await.refused(415, "unsupported_media_type");
    }
    // Nothing is sent before it is asked for, and it is not.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head =
        "POST /v1/events HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(std::str::from_utf8(&answer), Ok("HTTP/1.1 401"));
}

#[tokio::test]
async fn what_is_not_http_is_refused_without_words() {
    let server = Server::start().await;
    let of_length = |path: usize| format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(path - 1));
    let of_headers = |count: usize| format!("GET /livez HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    for (head, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        (of_length(65_534), 404),
        (of_length(65_535), 414),
        (of_headers(100), 200),
        (of_headers(101), 431),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        let is_without_words = answer.ends_with("\r\n\r\n");
        assert_eq!(is_without_words, !matches!(status, 200 | 404), "{status}: {answer}");
    }
}

/// Who still listens is told that what it sent was not all, or no body.
#[tokio::test]
async fn a_body_that_breaks_off_is_told_from_one_that_is_wrong() {
    let server = Server::start().await;
    for (framing, body) in
        [("content-length: 100", r#"{"event_type":"a.b""#), ("transfer-encoding: chunked", "no length\r\n")]
    {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\n{framing}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let says = Reply::parse(&answer).refused(400, "incomplete_body");
        assert!(says.contains("ended before the body did"), "{framing}: {says}");
    }
    assert!(server.get("/v1/events").await.expect(200)["data"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn no_write_passes_for_one_that_may_be_repeated() {
    let server = Server::start().await;
    for (method, path) in routes() {
        let reply = server.send(Call::new(method, &path).header("idempotency-key", "1")).await;
        let is_refused = reply.text.contains("idempotency_key_unsupported");
        assert_eq!(is_refused, method != "GET", "{method} {path}: {}", reply.text);
    }
    let call = Call::new("PATCH", "/v1/endpoints/x").header("idempotency-key", "1");
    assert!(server.send(call).await.refused(400, "idempotency_key_unsupported").contains("`id`"));
}

#[tokio::test]
async fn malformed_bodies_are_refused_with_their_place() {
    let server = Server::start().await;
    for (body, says) in [
        (&b"{"[..], "line 1 column 2"),
        (b"{\"event_type\":\n nope}", "line 2 column 3"),
        (b"{\"event_type\":\"\xff\"}", "invalid UTF-8 at line 1 column 16"),
        (
            b"{\"event_type\":\"a.b\",\"event_data\":{\"a\":\"\xc3\x28\"}}",
            "invalid UTF-8 at line 1 column 40",
        ),
        (b"{\"event_name\":\"a\0b\"}", "control character"),
        (b"{\"event_name\":\"\\ud800\"}", "lone surrogate"),
        (b"\xef\xbb\xbf{}", "line 1 column 1"),
        (b"{} x", "unexpected content"),
    ] {
        let detail = server.send(Call::new("POST", "/v1/events").body("application/json", body)).await;
        let detail = detail.refused(400, "malformed_json");
        assert!(detail.contains(says), "{}: {detail}", body.escape_ascii());
    }
    for body in ["null", "3", "\"x\"", "[]", "[null,\"a.b\"]", "true"] {
        server.post("/v1/events", body).await.invalid_at(&[""]);
    }
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    server.post("/v1/events", nested(50_000)).await.invalid_at(&[""]);
    server.post("/v1/events", format!(r#"{{"id":{}}}"#, nested(50_000))).await.invalid_at(&["/id"]);
    server
        .post("/v1/events", format!(r#"{{"event_type":"a.b","event_data":{}"#, "[".repeat(50_000)))
        .await
        .refused(400, "malformed_json");
}
