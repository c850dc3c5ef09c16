//! Reachability, connection statistics, and whether the server lives and serves.

use serde_json::json;

use crate::support::{ANSWER_OK, Call, Receiver, Server, keys};

const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";

#[tokio::test]
async fn health_needs_no_key() {
    let server = Server::start().await;
    for (path, status) in [("/livez", "alive"), ("/readyz", "ready")] {
        let reply = server.send(Call::new("GET", path).without("authorization")).await;
        assert_eq!(reply.expect(200), json!({"status": status}));
    }
}

#[tokio::test]
async fn connectivity_is_tested_within_the_policy() {
    let server = Server::start().await;
    let receiver = Receiver::answering(ANSWER_OK).await;
    let path = "/v1/connectivity-test";
    let report = server.post(path, json!({"url": receiver.url, "timeout_seconds": 5})).await.expect(200);
    assert_eq!(keys(&report), ["error_code", "error_message", "reachable", "status", "timings"]);
    assert_eq!((&report["reachable"], &report["status"]), (&json!(true), &json!(200)));
    let nobody = server.post(path, json!({"url": "http://127.0.0.1:1/"})).await.expect(200);
    assert_eq!((&nobody["reachable"], &nobody["error_code"]), (&json!(false), &json!("connection_refused")));
    for (body, pointer) in [
        (json!({"url": 1}), "/url"),
        (json!({"url": receiver.url, "timeout_seconds": 0}), "/timeout_seconds"),
        (json!({"url": receiver.url, "timeout_seconds": 61}), "/timeout_seconds"),
        (json!({}), "/url"),
    ] {
        server.post(path, body).await.invalid_at(&[pointer]);
    }
    let stats = server.get("/v1/connections/stats").await.expect(200);
    let fields = [
        "connection_errors",
        "connection_reuse_rate",
        "connection_reuses",
        "connections_opened",
        "dns_cache_hits",
        "error_rate",
        "pool_exhausted_count",
        "total_requests",
    ];
    assert_eq!(keys(&stats), fields);
    assert_eq!(stats["total_requests"], 2);
}

/// A probe and a delivery that fail in the same way say so in the same word, and neither counts as success.
#[tokio::test]
async fn what_fails_has_one_name_whoever_asks() {
    let server = Server::start().await;
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    for (answer, code, status) in [
        (SWITCHES, "protocol_error", json!(101)),
        ("SSH-2.0-OpenSSH_9.6\r\n", "protocol_error", json!(null)),
        (large.leak(), "response_too_large", json!(null)),
        ("", "connection_closed", json!(null)),
    ] {
        let receiver = Receiver::answering(answer).await;
        let path = format!("/v1/endpoints/{}", server.subscribe(&receiver.url).await);
        let delivery = server.post(&format!("{path}/test"), "").await.expect(201);
        let attempt = &delivery["attempts"][0];
        let reached = server.post("/v1/connectivity-test", json!({"url": receiver.url})).await.expect(200);
        let verified = server.post(&format!("{path}/verify"), "").await.expect(200);
        for (found, success) in [
            (attempt, delivery["overall_status"] == "success"),
            (&reached, reached["reachable"] == true),
            (&verified, verified["verified"] == true || verified["endpoint"]["is_verified"] == true),
        ] {
            assert_eq!((&found["error_code"], success), (&json!(code), false), "{answer:.20?}: {found}");
        }
        assert_eq!((&reached["status"], &verified["status"]), (&status, &status), "{answer:.20?}");
    }
}
