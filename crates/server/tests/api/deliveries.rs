//! Deliveries and their attempts.

use serde_json::{Value, json};

use crate::support::{ANSWER_BROKEN, ANSWER_OK, ANSWER_REJECTED, NOBODY, Receiver, Server, keys};

const FIELDS: [&str; 14] = [
    "backoff_multiplier",
    "base_backoff_seconds",
    "cancel_reason",
    "created_at",
    "current_attempt",
    "id",
    "max_attempts",
    "max_attempts_reached",
    "next_retry_at",
    "overall_status",
    "subscription_ids",
    "trigger",
    "webhook_endpoint_id",
    "webhook_event_id",
];

const ATTEMPT_FIELDS: [&str; 17] = [
    "attempt_number",
    "attempted_at",
    "completed_at",
    "connection_reused",
    "delivery_status",
    "error_code",
    "error_message",
    "request_body",
    "request_headers",
    "request_method",
    "request_url",
    "response_body",
    "response_body_truncated",
    "response_headers",
    "response_status",
    "response_time_ms",
    "signature",
];

fn has_status(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |delivery| delivery["overall_status"] == wanted
}

#[tokio::test]
async fn a_delivery_tells_what_was_sent_and_answered() {
    let server = Server::start().await;
    let mut receiver = Receiver::answering(ANSWER_OK).await;
    let endpoint_id = server.subscribe(&receiver.url).await;
    let event_id = server.publish(json!({"event_type": "order.placed", "event_data": {"n": 1}})).await;
    let listed = server.until(&format!("/v1/deliveries?event_id={event_id}"), has_status("success")).await;
    assert_eq!(keys(&listed), FIELDS);
    assert_eq!(
        (&listed["webhook_event_id"], &listed["webhook_endpoint_id"]),
        (&json!(event_id), &json!(endpoint_id))
    );
    assert_eq!(
        (&listed["trigger"], &listed["current_attempt"], &listed["max_attempts"]),
        (&json!("event"), &json!(1), &json!(4))
    );
    assert_eq!(listed["subscription_ids"].as_array().unwrap().len(), 1);

    let path = format!("/v1/deliveries/{}", listed["id"].as_str().unwrap());
    let shown = server.get(&path).await.expect(200);
    let attempts = shown["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), keys(&attempts[0])), (1, ATTEMPT_FIELDS.to_vec()));
    assert_eq!((&shown["earlier_attempts"], shown.get("earlier_attempts_cursor")), (&json!(0), None));
    let listed = server.get(&format!("{path}/attempts")).await.expect(200);
    assert_eq!(listed, json!({"data": attempts, "next_cursor": null}));
    let attempt = &attempts[0];
    assert_eq!((&attempt["attempt_number"], &attempt["delivery_status"]), (&json!(1), &json!("success")));
    assert_eq!((&attempt["response_status"], &attempt["response_body"]), (&json!(200), &json!("ok")));
    assert!(attempt["response_time_ms"].is_u64());
    assert_eq!(attempt["response_headers"]["set-cookie"], "a=1, b=2");
    assert_eq!(attempt["request_url"], receiver.url);
    assert!(attempt["signature"].as_str().unwrap().starts_with("v1,"));
    assert!(receiver.next().await.contains(attempt["signature"].as_str().unwrap()));

    server.post(&format!("{path}/retry"), "").await.refused(409, "illegal_state");
    let detail = server.post(&format!("{path}/cancel"), "").await.refused(409, "illegal_state");
    assert_eq!(detail, "a delivery that is success cannot be cancelled");
}

#[tokio::test]
async fn a_waiting_delivery_is_cancelled_with_its_reason_and_retried() {
    let server = Server::start().await;
    let mut receiver = Receiver::answering(ANSWER_BROKEN).await;
    server.subscribe(&receiver.url).await;
    server.publish(json!({"event_type": "order.placed", "event_data": {}})).await;
    let waiting = server.until("/v1/deliveries", has_status("retrying")).await;
    assert!(waiting["next_retry_at"].is_string());
    let path = format!("/v1/deliveries/{}", waiting["id"].as_str().unwrap());
    server.post(&format!("{path}/cancel"), json!({"reason": " "})).await.invalid_at(&["/reason"]);
    server.post(&format!("{path}/cancel"), json!({"reason": "r".repeat(501)})).await.invalid_at(&["/reason"]);
    let cancelled =
        server.post(&format!("{path}/cancel"), json!({"reason": "no longer wanted"})).await.expect(200);
    assert_eq!(
        (&cancelled["overall_status"], &cancelled["cancel_reason"]),
        (&json!("cancelled"), &json!("no longer wanted"))
    );

    receiver.next().await;
    let retried = server.post(&format!("{path}/retry"), "").await.expect(200);
    assert_eq!((&retried["overall_status"], &retried["cancel_reason"]), (&json!("retrying"), &Value::Null));
    receiver.next().await;
    let again = server.until("/v1/deliveries", |delivery| delivery["current_attempt"] == 2).await;
    let cancelled = server
        .post(&format!("/v1/deliveries/{}/cancel", again["id"].as_str().unwrap()), "")
        .await
        .expect(200);
    assert_eq!(cancelled["cancel_reason"], "cancelled by an operator");
}

#[tokio::test]
async fn what_nobody_would_attempt_is_not_retried() {
    let server = Server::start().await;
    let receiver = Receiver::answering(ANSWER_BROKEN).await;
    let endpoint_id = server.subscribe(&receiver.url).await;
    server.publish(json!({"event_type": "order.placed", "event_data": {}})).await;
    let waiting = server.until("/v1/deliveries", has_status("retrying")).await;
    let path = format!("/v1/deliveries/{}", waiting["id"].as_str().unwrap());
    assert!(server.get(&path).await.expect(200).get("held_reason").is_none());

    server.post(&format!("/v1/endpoints/{endpoint_id}/deactivate"), "").await.expect(200);
    assert_eq!(server.get(&path).await.expect(200)["held_reason"], "the endpoint is inactive");
    let detail = server.post(&format!("{path}/retry"), "").await.refused(409, "endpoint_inactive");
    assert!(detail.contains("activate it first"), "{detail}");

    server.delete(&format!("/v1/endpoints/{endpoint_id}")).await;
    let detail = server.post(&format!("{path}/retry"), "").await.refused(409, "endpoint_deleted");
    assert!(detail.contains("is deleted"), "{detail}");
    server.until("/v1/deliveries", has_status("cancelled")).await;
    assert!(server.get(&path).await.expect(200).get("held_reason").is_none(), "it waits for nothing");
}

/// The numbers of attempts.
fn numbers(attempts: &Value) -> Vec<u64> {
    let attempts = attempts.as_array().expect("a list").iter();
    attempts.map(|attempt| attempt["attempt_number"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn of_a_long_history_the_newest_attempts_are_shown_and_earlier_ones_listed() {
    const ATTEMPTS: u64 = 103;
    let server = Server::start().await;
    let receiver = Receiver::answering(ANSWER_BROKEN).await;
    server.subscribe(&receiver.url).await;
    server.publish(json!({"event_type": "order.placed", "event_data": {}})).await;
    let mut delivery = Value::Null;
    for number in 1..=ATTEMPTS {
        if number > 1 {
            let path = format!("/v1/deliveries/{}/retry", delivery["id"].as_str().unwrap());
            let retried = server.post(&path, "").await.expect(200);
            assert!(retried.get("attempts").is_none(), "as lists show it");
        }
        delivery = server.until("/v1/deliveries", |delivery| delivery["current_attempt"] == number).await;
    }
    let id = delivery["id"].as_str().unwrap();
    let shown = server.get(&format!("/v1/deliveries/{id}")).await.expect(200);
    assert_eq!(numbers(&shown["attempts"]), (4..=ATTEMPTS).collect::<Vec<_>>(), "oldest first");
    assert_eq!(shown["earlier_attempts"], 3);

    let cursor = shown["earlier_attempts_cursor"].as_str().unwrap();
    for id in [id.to_owned(), id.to_uppercase()] {
        let rest = server.get(&format!("/v1/deliveries/{id}/attempts?cursor={cursor}")).await.expect(200);
        assert_eq!((numbers(&rest["data"]), &rest["next_cursor"]), (vec![3, 2, 1], &Value::Null));
    }
    let path = format!("/v1/deliveries/{id}/attempts?limit=60");
    let page = server.get(&path).await.expect(200);
    assert_eq!(numbers(&page["data"]), (44..=ATTEMPTS).rev().collect::<Vec<_>>(), "newest first");
    let next = page["next_cursor"].as_str().unwrap();
    let page = server.get(&format!("{path}&cursor={next}")).await.expect(200);
    assert_eq!((numbers(&page["data"]), &page["next_cursor"]), ((1..44).rev().collect(), &Value::Null));

    // A cursor is for its own list: of no other delivery, and of no other kind.
    for path in [format!("/v1/deliveries/{NOBODY}/attempts"), "/v1/deliveries".to_owned()] {
        server.get(&format!("{path}?cursor={next}")).await.refused(400, "invalid_cursor");
    }
    server.get(&format!("/v1/deliveries/{NOBODY}/attempts")).await.refused(404, "delivery_not_found");
    server
        .get(&format!("/v1/deliveries/{id}/attempts?status=failed"))
        .await
        .refused(400, "unknown_parameter");
}

#[tokio::test]
async fn lists_filter() {
    let server = Server::start().await;
    let receiver = Receiver::answering(ANSWER_REJECTED).await;
    let endpoint_id = server.subscribe(&receiver.url).await;
    let event_id = server.publish(json!({"event_type": "a.b", "event_data": {}})).await;
    let failed = server.until("/v1/deliveries?status=failed", |_| true).await;
    assert_eq!((&failed["max_attempts_reached"], &failed["next_retry_at"]), (&json!(false), &Value::Null));
    let count = async |query: &str| {
        server.get(&format!("/v1/deliveries?{query}")).await.expect(200)["data"].as_array().unwrap().len()
    };
    for one in [
        format!("event_id={event_id}"),
        format!("endpoint_id={endpoint_id}&status=failed"),
        "from=2000-01-01T00:00:00Z".into(),
    ] {
        assert_eq!(count(&one).await, 1, "{one}");
    }
    for none in [
        format!("event_id={NOBODY}"),
        format!("endpoint_id={NOBODY}"),
        "status=success".into(),
        "to=2000-01-01T00:00:00Z".into(),
    ] {
        assert_eq!(count(&none).await, 0, "{none}");
    }
}
