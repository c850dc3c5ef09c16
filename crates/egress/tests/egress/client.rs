//! The ordinary exchange: what is sent, what is kept, what is counted.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use neo_events_egress::{Egress, FailureKind, TargetPolicy};
use tokio::task::JoinSet;

use crate::support::{NoNames, OK, PATIENCE, Receiver, config, egress, egress_with, post, target};

#[tokio::test]
async fn a_request_arrives_as_given() {
    let receiver =
        Receiver::answering("HTTP/1.1 201 Created\r\nX-Seen: yes\r\ncontent-length: 5\r\n\r\nhello").await;
    let mut request = post(&receiver.target("/hook?x=1"));
    for (name, value) in [
        ("webhook-id", "evt_1"),
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("host", "evil.example"),
        ("connection", "close"),
        ("accept-encoding", "gzip"),
    ] {
        request.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let response = egress().send(request).await.unwrap();
    assert_eq!(response.status, StatusCode::CREATED);
    assert_eq!(response.headers["x-seen"], "yes");
    assert_eq!((&response.body[..], response.body_truncated), (&b"hello"[..], false));
    assert!(!response.connection_reused);
    assert!(response.timings.connect.is_some() && response.timings.response.is_some());

    let mut head: Vec<String> = receiver.tally.head(0).trim_end().lines().map(str::to_owned).collect();
    assert_eq!(head.remove(0), "POST /hook?x=1 HTTP/1.1");
    head.sort();
    let host = format!("host: {}", receiver.address);
    assert_eq!(head, ["content-length: 7", host.as_str(), "webhook-id: evt_1"]);
    assert_eq!(receiver.tally.bodies.lock().unwrap()[0], b"{\"n\":1}");
}

#[tokio::test]
async fn connections_are_reused_and_counted() {
    let receiver = Receiver::answering(OK).await;
    let egress = egress();
    for index in 0..20 {
        let response = egress.send(post(&receiver.target("/"))).await.unwrap();
        assert_eq!(response.connection_reused, index > 0);
    }
    assert_eq!(receiver.connections(), 1);
    assert_eq!(receiver.tally.requests(), 20);
    let stats = egress.stats();
    assert_eq!((stats.total_requests, stats.connection_reuses, stats.connections_opened), (20, 19, 1));
    assert!((stats.connection_reuse_rate - 0.95).abs() < 1e-9);
    assert_eq!((stats.connection_errors, stats.pool_exhausted_count), (0, 0));
}

#[tokio::test]
async fn every_shape_of_body_leaves_the_connection_usable() {
    for response in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
    ] {
        let receiver = Receiver::answering(response).await;
        let egress = egress();
        for _ in 0..3 {
            egress.send(post(&receiver.target("/"))).await.unwrap();
        }
        assert_eq!(receiver.connections(), 1, "{response:?}");
    }
}

#[tokio::test]
async fn large_bodies_go_out_whole() {
    let receiver = Receiver::answering(OK).await;
    let mut request = post(&receiver.target("/"));
    request.body = Bytes::from(vec![b'x'; 10 * 1024 * 1024]);
    egress().send(request).await.unwrap();
    assert_eq!(receiver.tally.bodies.lock().unwrap()[0].len(), 10 * 1024 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_their_own_answers() {
    let receiver = Receiver::start(|mut peer| async move {
        while let Some(head) = peer.request().await {
            let path = head.split(' ').nth(1)?;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
            peer.write(answer.as_bytes()).await?;
        }
        Some(())
    })
    .await;
    let egress = egress();
    let mut requests = JoinSet::new();
    for index in 0..400 {
        let egress = egress.clone();
        let path = format!("/{index}");
        let target = receiver.target(&path);
        requests.spawn(async move {
            let response = egress.send(post(&target)).await.expect("an answer");
            assert_eq!(response.body, path);
        });
    }
    while let Some(request) = requests.join_next().await {
        request.unwrap();
    }
    assert_eq!(receiver.tally.requests(), 400);
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_while_idle_is_not_noticed() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(OK).await
    })
    .await;
    let egress = egress();
    for index in 0..10 {
        let response = egress.send(post(&receiver.target("/"))).await.unwrap();
        assert_eq!(response.status, StatusCode::OK);
        receiver.tally.connections_ended(index + 1).await;
    }
    assert_eq!(receiver.tally.requests(), 10, "each request arrives exactly once");
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_never_sent_again() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(OK).await?;
        peer.request().await // … and closes without an answer.
    })
    .await;
    let egress = egress();
    egress.send(post(&receiver.target("/"))).await.unwrap();
    let failure = egress.send(post(&receiver.target("/"))).await.unwrap_err();
    assert!(
        matches!(failure.kind, FailureKind::ConnectionClosed | FailureKind::ConnectionReset),
        "{failure}"
    );
    assert!(failure.connection_reused);
    assert_eq!((receiver.connections(), receiver.tally.requests()), (1, 2));
}

#[tokio::test]
async fn a_response_out_of_turn_spoils_the_connection() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(&[OK, b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"].concat()).await?;
        peer.request().await?;
        peer.write(OK).await
    })
    .await;
    let egress = egress();
    for _ in 0..3 {
        let response = egress.send(post(&receiver.target("/"))).await.unwrap();
        assert_eq!(&response.body[..], b"ok");
        assert!(!response.connection_reused);
    }
}

/// A body where there can be none comes when it comes: perhaps once somebody else has the connection.
#[tokio::test]
async fn a_body_that_cannot_be_is_nobody_elses_answer() {
    for announced in ["content-length: 2", "transfer-encoding: chunked"] {
        for status in ["204 No Content", "304 Not Modified"] {
            let receiver = Receiver::start(move |mut peer| async move {
                let head = format!("HTTP/1.1 {status}\r\n{announced}\r\n\r\n");
                while peer.request().await.is_some() {
                    peer.write(head.as_bytes()).await?;
                }
                Some(())
            })
            .await;
            let egress = egress();
            for _ in 0..3 {
                let response = egress.send(post(&receiver.target("/"))).await.unwrap();
                assert!(!response.connection_reused, "{status}, {announced}");
            }
        }
    }
    let receiver = Receiver::answering(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n").await;
    let egress = egress();
    let reused = [(); 2].map(|()| egress.send(post(&receiver.target("/"))));
    for (answer, is_reused) in reused.into_iter().zip([false, true]) {
        assert_eq!(answer.await.unwrap().connection_reused, is_reused, "nothing is announced");
    }
}

#[tokio::test]
async fn idle_connections_are_bounded_per_origin() {
    let mut config = config();
    config.idle_per_origin_max = 2;
    let (egress, receiver) = (egress_with(config), Receiver::answering(OK).await);
    burst(&egress, &receiver, 6).await;
    let closed = receiver.connections() - 2;
    receiver.tally.connections_ended(closed).await;
    assert_eq!(egress.stats().pool_exhausted_count, closed as u64);
}

/// What a burst leaves behind serves the next one, though it is more than is kept for long.
#[tokio::test]
async fn a_burst_finds_the_connections_of_the_one_before() {
    let mut config = config();
    config.idle_per_origin_max = 1;
    config.idle_surplus_timeout = PATIENCE;
    let (egress, receiver) = (egress_with(config), Receiver::answering(OK).await);
    burst(&egress, &receiver, 6).await;
    let connections = receiver.connections();
    for _ in 0..5 {
        burst(&egress, &receiver, connections).await;
    }
    assert_eq!(receiver.connections(), connections);
    assert_eq!(egress.stats().pool_exhausted_count, 0);
}

#[tokio::test]
async fn idle_connections_of_a_burst_are_bounded_at_any_moment() {
    let mut config = config();
    (config.idle_total_max, config.idle_surplus_total_max) = (1, 1);
    config.idle_surplus_timeout = PATIENCE;
    let (egress, receiver) = (egress_with(config), Receiver::answering(OK).await);
    burst(&egress, &receiver, 6).await;
    let closed = receiver.connections() - 1;
    receiver.tally.connections_ended(closed).await;
    assert_eq!(egress.stats().pool_exhausted_count, closed as u64);
}

#[tokio::test]
async fn idle_connections_are_bounded_in_all() {
    let mut config = config();
    config.idle_total_max = 0;
    let (egress, receiver) = (egress_with(config), Receiver::answering(OK).await);
    for _ in 0..3 {
        assert!(!egress.send(post(&receiver.target("/"))).await.unwrap().connection_reused);
    }
    receiver.tally.connections_ended(3).await;
    assert_eq!(egress.stats().pool_exhausted_count, 3);
}

async fn burst(egress: &Egress, receiver: &Receiver, count: usize) {
    let mut requests = JoinSet::new();
    for _ in 0..count {
        let (egress, target) = (egress.clone(), receiver.target("/"));
        requests.spawn(async move { egress.send(post(&target)).await });
    }
    while let Some(response) = requests.join_next().await {
        response.expect("no panic").expect("a response");
    }
}

#[tokio::test]
async fn old_connections_are_not_reused() {
    let mut config = config();
    config.connection_age_max = Duration::ZERO;
    let (egress, receiver) = (egress_with(config), Receiver::answering(OK).await);
    for _ in 0..3 {
        assert!(!egress.send(post(&receiver.target("/"))).await.unwrap().connection_reused);
    }
    receiver.tally.connections_ended(3).await;
}

#[tokio::test]
async fn idle_connections_are_swept() {
    let mut config = config();
    config.idle_timeout = Duration::from_millis(100);
    let (egress, receiver) = (egress_with(config), Receiver::answering(OK).await);
    egress.send(post(&receiver.target("/"))).await.unwrap();
    receiver.tally.connections_ended(1).await;
    drop(egress);
}

#[tokio::test]
async fn connections_are_let_go_before_the_receiver_closes_them() {
    let answer = |timeout| {
        format!("HTTP/1.1 200 OK\r\nKeep-Alive: timeout={timeout}, max=9\r\ncontent-length: 0\r\n\r\n")
    };
    let egress = egress();
    for timeout in [0, 1] {
        let receiver = Receiver::answering(answer(timeout)).await;
        for _ in 0..2 {
            assert!(!egress.send(post(&receiver.target("/"))).await.unwrap().connection_reused);
        }
        receiver.tally.connections_ended(2).await;
    }
    let receiver = Receiver::answering(answer(3)).await;
    for index in 0..3 {
        let response = egress.send(post(&receiver.target("/"))).await.unwrap();
        assert_eq!(response.connection_reused, index > 0);
    }
    // Long before the client's own time.
    receiver.tally.connections_ended(1).await;
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn dropping_the_client_closes_its_connections() {
    let receiver = Receiver::answering(OK).await;
    let egress = egress();
    egress.send(post(&receiver.target("/"))).await.unwrap();
    assert_eq!(receiver.tally.connections_ended.load(Ordering::SeqCst), 0);
    drop(egress);
    receiver.tally.connections_ended(1).await;
}

#[tokio::test]
async fn dropping_a_request_closes_its_connection() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.request().await
    })
    .await;
    let egress = egress();
    tokio::select! {
        outcome = egress.send(post(&receiver.target("/"))) => panic!("nobody answers: {outcome:?}"),
        () = receiver.tally.requests_came(1) => {}
    }
    receiver.tally.connections_ended(1).await;
    assert_eq!(receiver.tally.requests(), 1);
}

#[tokio::test]
async fn literal_addresses_are_judged_where_they_are_connected_to() {
    let receiver = Receiver::answering(OK).await;
    let strict = egress_with(neo_events_egress::EgressConfig::new(TargetPolicy::staging()));
    let failure = strict.send(post(&receiver.target("/"))).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.detail.as_str()),
        (FailureKind::TargetRefused, "the target is not allowed")
    );
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn probes_tell_where_the_time_went() {
    let receiver = Receiver::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\n").await;
    let egress = egress();
    let report = egress.probe(&receiver.target("/hook"), true, PATIENCE).await;
    assert!(report.is_success(), "{report:?}");
    assert_eq!(report.status(), Some(StatusCode::NOT_FOUND));
    assert!(report.timings.connect.is_some() && report.timings.response.is_some());
    assert_eq!((report.timings.dns, report.timings.tls), (None, None));
    assert!(receiver.tally.head(0).starts_with("HEAD /hook HTTP/1.1\r\n"));

    let broken = Receiver::answering("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    assert!(!egress.probe(&broken.target("/"), true, PATIENCE).await.is_success());
    let report = egress.probe(&target("http://nowhere.example/"), true, PATIENCE).await;
    assert!(!report.is_success() && report.timings.dns.is_some());
}

#[tokio::test]
async fn what_fails_after_its_status_came_is_no_success() {
    let receiver = Receiver::answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n").await;
    let report = egress().probe(&receiver.target("/"), true, PATIENCE).await;
    assert_eq!(report.status(), Some(StatusCode::SWITCHING_PROTOCOLS), "{report:?}");
    assert!(!report.is_success(), "{report:?}");
}

#[tokio::test]
async fn unusable_ca_files_are_refused() {
    for pem in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let mut config = config();
        config.ca_file_pem = Some(pem.into());
        assert!(Egress::with_resolver(config, std::sync::Arc::new(NoNames)).is_err(), "{pem:?}");
    }
}
