//! Endpoints and what is done with them.

use serde_json::{Value, json};

use crate::support::{ANSWER_BROKEN, ANSWER_OK, NOBODY, Receiver, Server, keys};

const FIELDS: [&str; 22] = [
    "context_id",
    "created_at",
    "created_by_user_id",
    "custom_headers",
    "description",
    "disabled_reason",
    "endpoint_url",
    "follow_redirects",
    "http_method",
    "id",
    "is_active",
    "is_verified",
    "last_used_at",
    "max_retry_attempts",
    "name",
    "retry_backoff_multiplier",
    "retry_backoff_seconds",
    "signature_header",
    "timeout_seconds",
    "updated_at",
    "verified_at",
    "verify_ssl",
];

#[tokio::test]
async fn an_endpoint_lives_from_creation_to_deletion() {
    let server = Server::start().await;
    let endpoint = json!({
        "name": " shop ",
        "description": "d",
        "endpoint_url": "http://127.0.0.1:1/hook",
        "http_method": "PUT",
        "secret_token": "a-secret-of-its-own",
        "signature_header": "X-Shop-Signature",
        "custom_headers": {"Authorization": "Bearer s3cret", "X-Priority": "high"},
        "timeout_seconds": 10,
        "follow_redirects": true,
        "verify_ssl": false,
        "max_retry_attempts": 2,
        "retry_backoff_seconds": 7,
        "retry_backoff_multiplier": 1.5,
        "is_active": false,
        "created_by_user_id": NOBODY,
        "context_id": NOBODY,
    });
    let reply = server.post("/v1/endpoints", &endpoint).await;
    let location = reply.headers["location"].clone();
    let mut created = reply.expect(201);
    assert_eq!(location, format!("/v1/endpoints/{}", created["id"].as_str().unwrap()));
    assert_eq!(created["secret_token"], "a-secret-of-its-own");
    assert_eq!(created["signing_secret"], "whsec_YS1zZWNyZXQtb2YtaXRzLW93bg==");
    for field in ["secret_token", "signing_secret"] {
        created.as_object_mut().unwrap().remove(field);
    }
    assert_eq!(keys(&created), FIELDS);
    for (field, value) in endpoint.as_object().unwrap() {
        match field.as_str() {
            "name" => assert_eq!(created["name"], "shop"),
            "secret_token" => {}
            "custom_headers" => {
                assert_eq!(created[field], json!({"Authorization": "[redacted]", "X-Priority": "high"}));
            }
            _ => assert_eq!(&created[field], value, "{field}"),
        }
    }
    assert_eq!(server.get(&location).await.expect(200), created, "and the secret is never shown again");

    let patch = json!({"name": "n", "description": null, "custom_headers": {"x-priority": null, "X-New": "1"}, "is_active": true});
    let changed = server.patch(&location, patch).await.expect(200);
    assert_eq!(changed["custom_headers"], json!({"Authorization": "[redacted]", "X-New": "1"}));
    assert_eq!((&changed["description"], &changed["is_active"]), (&Value::Null, &json!(true)));

    assert_eq!(server.delete(&location).await.status, 204);
    server.get(&location).await.refused(404, "endpoint_not_found");
    server.delete(&location).await.refused(404, "endpoint_not_found");
}

#[tokio::test]
async fn rules_are_kept() {
    let server = Server::start().await;
    let with = |field: &str, value: Value| {
        let mut endpoint = json!({"name": "n", "endpoint_url": "http://127.0.0.1:1/"});
        endpoint[field] = value;
        endpoint
    };
    for (field, value, pointer) in [
        ("name", json!(" "), "/name"),
        ("name", json!("a\0b"), "/name"),
        ("endpoint_url", Value::Null, "/endpoint_url"),
        ("http_method", json!("GET"), "/http_method"),
        ("http_method", json!("post"), "/http_method"),
        ("timeout_seconds", json!(61), "/timeout_seconds"),
        ("timeout_seconds", json!(-1), "/timeout_seconds"),
        ("timeout_seconds", json!(30.5), "/timeout_seconds"),
        ("max_retry_attempts", json!(4), "/max_retry_attempts"),
        ("retry_backoff_multiplier", json!(5.5), "/retry_backoff_multiplier"),
        ("retry_backoff_multiplier", json!("2"), "/retry_backoff_multiplier"),
        ("custom_headers", json!({"Host": "x"}), "/custom_headers/Host"),
        ("custom_headers", json!({"a/b": "x"}), "/custom_headers/a~1b"),
        ("custom_headers", json!({"X-A": 1}), "/custom_headers/X-A"),
        ("custom_headers", json!({"X-Api-Key": "[redacted]"}), "/custom_headers/X-Api-Key"),
        ("custom_headers", json!([]), "/custom_headers"),
        ("signature_header", json!("Host"), "/signature_header"),
        ("secret_token", json!("whsec_short"), "/secret_token"),
        ("secret_token", json!("x".repeat(513)), "/secret_token"),
        ("context_id", json!("x"), "/context_id"),
    ] {
        server.post("/v1/endpoints", with(field, value)).await.invalid_at(&[pointer]);
    }
    for number in ["1e400", "-1e400", "99999999999999999999999"] {
        for field in ["retry_backoff_multiplier", "timeout_seconds"] {
            let endpoint =
                format!(r#"{{"name":"n","endpoint_url":"http://127.0.0.1:1/","{field}":{number}}}"#);
            server.post("/v1/endpoints", endpoint).await.invalid_at(&[&format!("/{field}")]);
        }
    }
    let twice = r#"{"name":"n","endpoint_url":"http://127.0.0.1:1/","custom_headers":{"A":"1","a":"2"}}"#;
    server.post("/v1/endpoints", twice).await.invalid_at(&["/custom_headers/a"]);

    let created = server.post("/v1/endpoints", with("secret_token", json!(""))).await.expect(201);
    assert_eq!(created["secret_token"], created["signing_secret"], "a generated secret has one form");
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());
    server
        .patch(&path, r#"{"custom_headers":{"X-A":"1","x-a":"2"}}"#)
        .await
        .invalid_at(&["/custom_headers/x-a"]);
    for (field, value) in [
        ("name", Value::Null),
        ("endpoint_url", Value::Null),
        ("secret_token", json!("another-secret-of-it")),
        ("context_id", json!(NOBODY)),
        ("is_verified", json!(true)),
    ] {
        server.patch(&path, json!({ field: value })).await.invalid_at(&[&format!("/{field}")]);
    }
}

#[tokio::test]
async fn targets_that_are_not_allowed_have_one_refusal() {
    let server = Server::start().await;
    let endpoint = |url: &str| json!({"name": "n", "endpoint_url": url});
    let created = server.post("/v1/endpoints", endpoint("http://127.0.0.1:1/")).await.expect(201);
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());
    for url in [
        "ftp://example.com/",
        "http://169.254.169.254/",
        "http://0.0.0.0/",
        "http://metadata.google.internal/",
    ] {
        for answer in [
            server.post("/v1/endpoints", endpoint(url)).await,
            server.patch(&path, json!({"endpoint_url": url})).await,
            server.post("/v1/connectivity-test", json!({"url": url})).await,
        ] {
            let problem = answer.expect(422);
            assert_eq!(problem["code"], "target_not_allowed", "{url}: {problem}");
        }
    }
    let both = server.post("/v1/endpoints", json!({"name": "", "endpoint_url": "http://0.0.0.0/"})).await;
    both.invalid_at(&["/name", "/endpoint_url"]);
}

#[tokio::test]
async fn endpoints_are_switched_and_their_secrets_rotated() {
    let server = Server::start().await;
    let created = server
        .post("/v1/endpoints", json!({"name": "n", "endpoint_url": "http://127.0.0.1:1/"}))
        .await
        .expect(201);
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());
    let call = async |action: &str, body: &str| server.post(&format!("{path}/{action}"), body).await;
    assert_eq!(call("deactivate", "").await.expect(200)["is_active"], false);
    assert_eq!(call("activate", "{}").await.expect(200)["is_active"], true);

    let rotated = call("rotate-secret", "").await.expect(200);
    assert_ne!(rotated["secret_token"], created["secret_token"]);
    assert!(rotated["signing_secret"].as_str().unwrap().starts_with("whsec_"));
    let rotated = call("rotate-secret", r#"{"secret_token":"my-own-secret-token","overlap_seconds":604800}"#)
        .await
        .expect(200);
    assert_eq!(rotated["secret_token"], "my-own-secret-token");
    for body in [r#"{"overlap_seconds":604801}"#, r#"{"overlap_seconds":-1}"#] {
        call("rotate-secret", body).await.invalid_at(&["/overlap_seconds"]);
    }
    call("rotate-secret", r#"{"secret_token":"whsec_x"}"#).await.invalid_at(&["/secret_token"]);
}

#[tokio::test]
async fn an_endpoint_is_verified_by_reaching_it() {
    let server = Server::start().await;
    for (receiver, verified, status) in [
        (Receiver::answering(ANSWER_OK).await, true, 200),
        (Receiver::answering(ANSWER_BROKEN).await, false, 503),
    ] {
        let id = server.subscribe(&receiver.url).await;
        let path = format!("/v1/endpoints/{id}");
        let report = server.post(&format!("{path}/verify"), r#"{"level":"basic"}"#).await.expect(200);
        assert_eq!(
            keys(&report),
            ["endpoint", "error_code", "error_message", "level", "status", "timings", "verified"]
        );
        assert_eq!(keys(&report["timings"]), ["connect_ms", "dns_ms", "response_ms", "tls_ms", "total_ms"]);
        assert!(report["timings"]["total_ms"].as_f64().unwrap() > 0.0);
        assert_eq!((&report["verified"], &report["status"]), (&json!(verified), &json!(status)));
        assert_eq!(
            (&report["level"], &report["endpoint"]["is_verified"]),
            (&json!("basic"), &json!(verified))
        );
        let unverified = server.post(&format!("{path}/unverify"), "").await.expect(200);
        assert_eq!((&unverified["is_verified"], &unverified["verified_at"]), (&json!(false), &Value::Null));
        for level in ["standard", "comprehensive", "none"] {
            server.post(&format!("{path}/verify"), json!({"level": level})).await.invalid_at(&["/level"]);
        }
    }
}

#[tokio::test]
async fn a_test_delivers_at_once_and_is_counted() {
    let server = Server::start().await;
    let mut receiver = Receiver::answering(ANSWER_OK).await;
    let id = server.subscribe(&receiver.url).await;
    let path = format!("/v1/endpoints/{id}");
    let reply = server.post(&format!("{path}/test"), r#"{"payload":{"n":1.10}}"#).await;
    let location = reply.headers["location"].clone();
    let delivery = reply.expect(201);
    assert_eq!((&delivery["overall_status"], &delivery["trigger"]), (&json!("success"), &json!("test")));
    assert_eq!(delivery["attempts"][0]["response_status"], 200);
    assert_eq!(server.get(&location).await.expect(200), delivery);
    assert!(receiver.next().await.contains(r#""data":{"n":1.10}"#));
    assert_eq!(server.post(&format!("{path}/test"), "").await.expect(201)["overall_status"], "success");
    server.post(&format!("{path}/test"), r#"{"payload":[]}"#).await.invalid_at(&["/payload"]);

    let stats = server.get(&format!("{path}/stats")).await.expect(200);
    let fields = [
        "attempts",
        "cancelled",
        "days",
        "deliveries",
        "endpoint_id",
        "failed",
        "most_common_error",
        "pending",
        "response_times",
        "retrying",
        "success",
        "success_rate",
    ];
    assert_eq!(keys(&stats), fields);
    assert_eq!((&stats["days"], &stats["success"], &stats["attempts"]), (&json!(7), &json!(2), &json!(2)));
    assert_eq!((&stats["success_rate"], &stats["most_common_error"]), (&json!(1.0), &Value::Null));
    for days in ["0", "91", "x", "-1"] {
        server.get(&format!("{path}/stats?days={days}")).await.refused(400, "invalid_parameter");
    }
    server.post(&format!("{path}/deactivate"), "").await.expect(200);
    server.post(&format!("{path}/test"), "").await.refused(409, "endpoint_inactive");
}

#[tokio::test]
async fn a_redirect_that_is_not_followed_although_redirects_are_says_why() {
    let server = Server::start().await;
    let moved =
        "HTTP/1.1 301 Moved Permanently\r\nlocation: /b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let receiver = Receiver::answering(moved).await;
    let id = server.subscribe(&receiver.url).await;
    let path = format!("/v1/endpoints/{id}");
    for (follows, says) in [(false, "the receiver answered 301"), (true, "only the redirects 307 and 308")] {
        server.patch(&path, json!({"follow_redirects": follows})).await.expect(200);
        let test = server.post(&format!("{path}/test"), "").await.expect(201);
        let attempt = &test["attempts"][0];
        assert_eq!(attempt["error_code"], "HTTP_301");
        assert!(attempt["error_message"].as_str().unwrap().contains(says), "{attempt}");
    }
}

#[tokio::test]
async fn an_endpoint_may_be_written_back_as_it_was_read() {
    let server = Server::start().await;
    let mut receiver = Receiver::answering(ANSWER_OK).await;
    let headers = json!({"Authorization": "Bearer s3cret", "X-Priority": "high"});
    let endpoint = json!({"name": "n", "endpoint_url": receiver.url, "custom_headers": headers});
    let created = server.post("/v1/endpoints", endpoint).await.expect(201);
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());

    let read = server.get(&path).await.expect(200);
    let changes = json!({"name": "renamed", "custom_headers": read["custom_headers"]});
    let written = server.patch(&path, changes).await.expect(200);
    assert_eq!(written["custom_headers"], read["custom_headers"]);
    server.post(&format!("{path}/test"), "").await.expect(201);
    assert!(receiver.next().await.to_ascii_lowercase().contains("authorization: bearer s3cret\r\n"));

    let new = json!({"custom_headers": {"X-Token": "[redacted]"}});
    server.patch(&path, new).await.invalid_at(&["/custom_headers/X-Token"]);
}

#[tokio::test]
async fn lists_filter() {
    let server = Server::start().await;
    let create = async |body: Value| {
        server.post("/v1/endpoints", body).await.expect(201)["id"].as_str().unwrap().to_owned()
    };
    let plain = create(json!({"name": "plain", "endpoint_url": "http://127.0.0.1:1/"})).await;
    let bound =
        create(json!({"name": "bound", "endpoint_url": "http://127.0.0.1:1/", "context_id": NOBODY})).await;
    let idle =
        create(json!({"name": "idle", "endpoint_url": "http://127.0.0.1:1/", "is_active": false})).await;
    server
        .post("/v1/subscriptions", json!({"endpoint_id": plain, "event_type": "order.*"}))
        .await
        .expect(201);
    let ids = async |query: &str| {
        let list = server.get(&format!("/v1/endpoints?{query}")).await.expect(200);
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, [idle.clone(), bound.clone(), plain.clone()]);
    assert_eq!(ids(&format!("context_id={NOBODY}")).await, [bound]);
    assert_eq!(ids("is_active=false").await, [idle]);
    assert_eq!(ids("event_type=order.placed").await, [plain]);
    assert!(ids("event_type=user.placed").await.is_empty());
    let page = server.get("/v1/endpoints?limit=2").await.expect(200);
    let rest = ids(&format!("limit=2&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!(rest.len(), 1);
}
