//! Redirects: followed only where asked for, only 307 and 308, and judged at every hop.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use neo_events_egress::{FailureKind, Request};

use crate::support::{OK, Receiver, egress, post};

async fn redirecting(status: &str, location: &str) -> Receiver {
    Receiver::answering(format!(
        "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
    ))
    .await
}

fn following(receiver: &Receiver) -> Request {
    Request { follow_redirects: true, ..post(&receiver.target("/from")) }
}

#[tokio::test]
async fn redirects_are_responses_unless_followed() {
    let receiver = redirecting("307", "http://169.254.169.254/").await;
    let response = egress().send(post(&receiver.target("/"))).await.unwrap();
    assert_eq!(response.status, StatusCode::TEMPORARY_REDIRECT);
}

#[tokio::test]
async fn only_redirects_that_keep_the_request_are_followed() {
    for status in ["307", "308"] {
        let last = Receiver::answering(OK).await;
        let first = redirecting(status, &last.url("/to?x")).await;
        let response = egress().send(following(&first)).await.unwrap();
        assert_eq!(response.status, StatusCode::OK);
        assert!(last.tally.head(0).starts_with("POST /to?x HTTP/1.1\r\n"));
        assert_eq!(last.tally.bodies.lock().unwrap()[0], b"{\"n\":1}");
    }
    for status in ["301", "302", "303", "300", "304"] {
        let last = Receiver::answering(OK).await;
        let first = redirecting(status, &last.url("/to")).await;
        let response = egress().send(following(&first)).await.unwrap();
        assert_eq!(response.status.as_str(), status);
        assert_eq!(last.connections(), 0);
    }
}

/// A redirect is its head; without the body's end it leads to the same place, and without the time to go there nowhere.
#[tokio::test]
async fn redirects_whose_body_breaks_off_are_followed() {
    let last = Receiver::answering(OK).await;
    for hangs in [false, true] {
        let location = last.url("/to");
        let first = Receiver::start(move |mut peer| {
            let head = format!("HTTP/1.1 307 Moved\r\nlocation: {location}\r\ncontent-length: 9\r\n\r\nab");
            async move {
                peer.request().await?;
                peer.write(head.as_bytes()).await?;
                if hangs { peer.request().await.map(drop) } else { Some(()) }
            }
        })
        .await;
        let request = Request { total_timeout: Duration::from_secs(6), ..following(&first) };
        match egress().send(request).await {
            Ok(response) => assert_eq!((response.status, hangs), (StatusCode::OK, false)),
            Err(failure) => assert_eq!((failure.kind, hangs), (FailureKind::TimeoutTotal, true)),
        }
    }
    assert_eq!(last.connections(), 1);
}

#[tokio::test]
async fn relative_locations_stay_with_the_receiver() {
    for (location, path) in [
        ("/to", "/to"),
        ("to?q=1", "/to?q=1"),
        ("?q=http://x/", "/from?q=http://x/"),
        ("to?q=http://x/", "/to?q=http://x/"),
        ("a/b?q=http://x/", "/a/b?q=http://x/"),
        ("../to#f", "/to"),
    ] {
        let receiver = Receiver::start(move |mut peer| async move {
            peer.request().await?;
            let head = format!("HTTP/1.1 307 Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            peer.write(head.as_bytes()).await?;
            peer.request().await?;
            peer.write(OK).await
        })
        .await;
        egress().send(following(&receiver)).await.unwrap();
        let head = receiver.tally.head(1);
        assert!(head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{location}: {head}");
        assert_eq!(receiver.connections(), 1);
    }
}

#[tokio::test]
async fn every_hop_is_judged() {
    for location in [
        "http://169.254.169.254/latest/meta-data/",
        "//169.254.169.254/",
        "http://[fd00:ec2::254]/",
        "http://metadata.google.internal/",
        "http://2852039166/",
        "http://user@127.0.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http:/127.0.0.1/",
        "javascript:alert(1)",
    ] {
        let receiver = redirecting("307", location).await;
        let failure = egress().send(following(&receiver)).await.expect_err(location);
        assert_eq!(failure.kind, FailureKind::TargetRefused, "{location}: {failure}");
        assert_eq!(failure.detail, "the target is not allowed");
        assert_eq!(failure.status, Some(StatusCode::TEMPORARY_REDIRECT));
    }
}

#[tokio::test]
async fn unusable_locations_are_refused() {
    for location in ["http:\\\\127.0.0.1\\", "/\\127.0.0.1/", "\u{e9}"] {
        let receiver = redirecting("308", location).await;
        let failure = egress().send(following(&receiver)).await.expect_err(location);
        assert_eq!(failure.kind, FailureKind::RedirectInvalid, "{location}: {failure}");
    }
    let receiver = Receiver::answering("HTTP/1.1 307 Moved\r\ncontent-length: 0\r\n\r\n").await;
    let failure = egress().send(following(&receiver)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RedirectInvalid);
}

#[tokio::test]
async fn loops_end_after_five_hops() {
    let receiver = redirecting("307", "/again").await;
    let failure = egress().send(following(&receiver)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooManyRedirects);
    assert_eq!(receiver.tally.requests(), 6, "the request and five redirects");
}

#[tokio::test]
async fn credentials_stay_with_the_origin() {
    let last = Receiver::answering(OK).await;
    let first = redirecting("307", &last.url("/")).await;
    let mut request = following(&first);
    request.headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    request.headers.insert(header::COOKIE, HeaderValue::from_static("a=b"));
    request.headers.insert("webhook-id", HeaderValue::from_static("evt_1"));
    let mut private = HeaderValue::from_static("secret");
    private.set_sensitive(true);
    request.headers.insert("x-api-key", private);
    egress().send(request).await.unwrap();
    assert!(first.tally.head(0).contains("authorization: Bearer x\r\n"));
    let head = last.tally.head(0);
    assert!(first.tally.head(0).contains("x-api-key: secret\r\n"));
    for word in ["authorization", "cookie", "x-api-key"] {
        assert!(!head.contains(word), "{head}");
    }
    assert!(head.contains("webhook-id: evt_1\r\n"));
}
