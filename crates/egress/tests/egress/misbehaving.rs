//! Receivers that do what receivers should not. Each has a named outcome and a bounded cost in time and bytes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use neo_events_egress::{Failure, FailureKind, Request, Response};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{OK, PATIENCE, Receiver, config, egress, egress_with, post, target};

/// A third of it is for connecting, which on a busy machine may take its time.
const SHORT: Duration = Duration::from_secs(3);
const TRICKLE: Duration = Duration::from_millis(50);
/// What fits into the buffers of kernel and client on both sides, plus what is read.
const BYTES_BOUND: usize = 2 * 1024 * 1024;

async fn send_short(receiver: &Receiver) -> Result<Response, Failure> {
    let request = Request { total_timeout: SHORT, ..post(&receiver.target("/")) };
    let begun = Instant::now();
    let outcome = egress().send(request).await;
    assert!(begun.elapsed() < 4 * SHORT, "the deadline holds");
    outcome
}

fn check(outcome: Result<Response, Failure>, kind: FailureKind, status: Option<u16>) -> Failure {
    let failure = outcome.expect_err("the receiver misbehaves");
    assert_eq!(failure.kind, kind, "{failure}");
    assert_eq!(failure.status.map(|status| status.as_u16()), status, "{failure}");
    assert!(!failure.detail.contains("127."), "no address in {:?}", failure.detail);
    let text = failure.to_string();
    assert!(text.starts_with(char::is_lowercase), "{text:?} goes on where another text ends");
    failure
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.request().await
    })
    .await;
    let failure = check(send_short(&receiver).await, FailureKind::TimeoutTotal, None);
    assert!(failure.elapsed >= SHORT);
}

#[tokio::test]
async fn a_trickle_of_headers_ends_at_the_deadline() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(b"HTTP/1.1 200 OK\r\nx-slow: ").await?;
        peer.repeat(b"x", TRICKLE).await
    })
    .await;
    check(send_short(&receiver).await, FailureKind::TimeoutTotal, None);
    receiver.tally.connections_ended(1).await;
}

#[tokio::test]
async fn a_trickle_of_body_ends_at_the_deadline() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
        peer.repeat(b"x", TRICKLE).await
    })
    .await;
    check(send_short(&receiver).await, FailureKind::TimeoutTotal, Some(200));
    receiver.tally.connections_ended(1).await;
}

#[tokio::test]
async fn endless_headers_are_cut_off() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(b"HTTP/1.1 200 OK\r\n").await?;
        peer.repeat(
            &b"x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(64),
            Duration::ZERO,
        )
        .await
    })
    .await;
    let outcome = egress().send(post(&receiver.target("/"))).await;
    check(outcome, FailureKind::ResponseHeadersTooLarge, None);
    receiver.tally.connections_ended(1).await;
    assert!(receiver.tally.bytes_sent.load(Ordering::SeqCst) < BYTES_BOUND);
}

#[tokio::test]
async fn one_endless_header_is_cut_off() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(b"HTTP/1.1 200 OK\r\nx-long: ").await?;
        peer.repeat(&[b'a'; 4096], Duration::ZERO).await
    })
    .await;
    let outcome = egress().send(post(&receiver.target("/"))).await;
    check(outcome, FailureKind::ResponseHeadersTooLarge, None);
    receiver.tally.connections_ended(1).await;
    assert!(receiver.tally.bytes_sent.load(Ordering::SeqCst) < BYTES_BOUND);
}

#[tokio::test]
async fn endless_informational_responses_are_cut_off() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.repeat(&b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(64), Duration::ZERO).await
    })
    .await;
    let outcome = egress().send(post(&receiver.target("/"))).await;
    check(outcome, FailureKind::ResponseHeadersTooLarge, None);
    receiver.tally.connections_ended(1).await;
    assert!(receiver.tally.bytes_sent.load(Ordering::SeqCst) < BYTES_BOUND);
}

#[tokio::test]
async fn endless_chunk_framing_is_cut_off() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        peer.repeat(&b"1;name=value-value-value-value-value-value\r\nx\r\n".repeat(64), Duration::ZERO).await
    })
    .await;
    let failure = egress().send(post(&receiver.target("/"))).await.expect_err("the receiver misbehaves");
    assert!(
        matches!(failure.kind, FailureKind::ResponseHeadersTooLarge | FailureKind::ProtocolError),
        "{failure}"
    );
    receiver.tally.connections_ended(1).await;
    assert!(receiver.tally.bytes_sent.load(Ordering::SeqCst) < BYTES_BOUND);
}

#[tokio::test]
async fn ten_gigabytes_are_not_read() {
    for head in ["HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let receiver = Receiver::start(move |mut peer| async move {
            peer.request().await?;
            peer.write(head.as_bytes()).await?;
            let chunk = [b'x'; 16 * 1024];
            for _ in 0..(10_u64 << 30) / (16 << 10) {
                peer.write(&chunk).await?;
            }
            Some(())
        })
        .await;
        let response = egress().send(post(&receiver.target("/"))).await.unwrap();
        assert_eq!((response.body.len(), response.body_truncated), (64 * 1024, true));
        receiver.tally.connections_ended(1).await;
        let sent = receiver.tally.bytes_sent.load(Ordering::SeqCst);
        assert!(sent < BYTES_BOUND, "{sent} bytes were taken");
    }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_whole() {
    let mut config = config();
    config.response_bytes_max = 5;
    let egress = egress_with(config);
    for (body, truncated) in [("12345", false), ("123456", true)] {
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let receiver = Receiver::answering(response).await;
        for _ in 0..2 {
            let response = egress.send(post(&receiver.target("/"))).await.unwrap();
            assert_eq!((&response.body[..], response.body_truncated), (&b"12345"[..], truncated));
        }
        assert_eq!(receiver.connections(), if truncated { 2 } else { 1 });
    }
}

#[tokio::test]
async fn compressed_bodies_stay_as_they_are() {
    // The head of a gzip stream; a client that decompresses would fail or grow it.
    let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255][..], &[0xed; 1000]].concat();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
    let receiver = Receiver::answering([head.as_bytes(), &bomb].concat()).await;
    let response = egress().send(post(&receiver.target("/"))).await.unwrap();
    assert_eq!(&response.body[..], &bomb[..]);
    assert!(!receiver.tally.head(0).to_lowercase().contains("accept-encoding"));
}

#[tokio::test]
async fn closing_at_once_is_a_failure() {
    let receiver = Receiver::start(|peer| async move {
        drop(peer);
        Some(())
    })
    .await;
    let failure = egress().send(post(&receiver.target("/"))).await.unwrap_err();
    assert!(
        matches!(failure.kind, FailureKind::ConnectionClosed | FailureKind::ConnectionReset),
        "{failure}"
    );
    assert!(receiver.connections() <= 2);
}

#[tokio::test]
async fn closing_instead_of_answering_is_a_failure() {
    let receiver = Receiver::start(|mut peer| async move { peer.request().await }).await;
    let outcome = egress().send(post(&receiver.target("/"))).await;
    check(outcome, FailureKind::ConnectionClosed, None);
    assert_eq!(receiver.tally.requests(), 1, "and never a reason to send again");
}

#[tokio::test]
async fn closing_within_the_body_is_a_failure_with_a_status() {
    for framing in ["content-length: 1000", "transfer-encoding: chunked"] {
        let receiver = Receiver::start(move |mut peer| async move {
            peer.request().await?;
            peer.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nab").as_bytes()).await
        })
        .await;
        let outcome = egress().send(post(&receiver.target("/"))).await;
        check(outcome, FailureKind::ConnectionClosed, Some(200));
    }
}

#[tokio::test]
async fn a_reset_within_the_body_is_a_failure_with_a_status() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nab").await?;
        sleep(Duration::from_millis(100)).await;
        peer.stream.set_zero_linger().ok()
    })
    .await;
    let outcome = egress().send(post(&receiver.target("/"))).await;
    check(outcome, FailureKind::ConnectionReset, Some(200));
}

/// The status says what is to be done next, whatever becomes of the rest.
#[tokio::test]
async fn a_failure_whose_body_breaks_off_is_that_failure() {
    let mut checked = JoinSet::new();
    // Those that hang take until the deadline.
    for status in [410, 503, 400, 301] {
        for framing in ["content-length: 1000", "transfer-encoding: chunked"] {
            for hangs in [false, true] {
                checked.spawn(is_that_failure(status, framing, hangs));
            }
        }
    }
    checked.join_all().await;
}

async fn is_that_failure(status: u16, framing: &'static str, hangs: bool) {
    let receiver = Receiver::start(move |mut peer| async move {
        peer.request().await?;
        let head = format!("HTTP/1.1 {status} No\r\nretry-after: 20\r\n{framing}\r\n\r\n5\r\nab");
        peer.write(head.as_bytes()).await?;
        if hangs { peer.request().await.map(drop) } else { Some(()) }
    })
    .await;
    let response = send_short(&receiver).await.expect("an answer");
    assert_eq!(response.status, status);
    assert_eq!(response.headers["retry-after"], "20");
    assert!(response.body_truncated && response.body.ends_with(b"ab"));
    receiver.tally.connections_ended(1).await;
}

#[tokio::test]
async fn switching_protocols_is_refused() {
    let receiver =
        Receiver::answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
            .await;
    let outcome = egress().send(post(&receiver.target("/"))).await;
    check(outcome, FailureKind::UpgradeRefused, Some(101));
    receiver.tally.connections_ended(1).await;
}

#[tokio::test]
async fn what_is_not_http_is_a_failure() {
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        let receiver = Receiver::answering(answer).await;
        let failure = egress().send(post(&receiver.target("/"))).await.expect_err(answer);
        assert_eq!(failure.kind, FailureKind::ProtocolError, "{answer:?}: {failure}");
    }
}

#[tokio::test]
async fn an_answer_before_the_whole_request_is_an_answer() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await?;
        peer.request().await
    })
    .await;
    let mut request = post(&receiver.target("/"));
    request.body = vec![b'x'; 8 * 1024 * 1024].into();
    match egress().send(request).await {
        Ok(response) => assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE),
        Err(failure) => assert_eq!(failure.kind, FailureKind::ProtocolError, "{failure}"),
    }
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    // Somebody has the port and does not listen.
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = target(&format!("http://{}/", deaf.local_addr().unwrap()));
    let egress = egress();
    let outcome = egress.send(post(&gone)).await;
    check(outcome, FailureKind::ConnectionRefused, None);
    let stats = egress.stats();
    assert_eq!(stats.connection_errors, 1);
    assert!((stats.error_rate - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_host_that_never_accepts_times_out_in_a_third_of_the_time() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Fill the backlog until a connection hangs; nobody ever accepts.
    let mut held = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address)).await
    {
        held.push(stream);
        assert!(held.len() < 1000, "the backlog never fills");
    }
    let total_timeout = Duration::from_secs(5);
    let request = Request { total_timeout, ..post(&target(&format!("http://{address}/"))) };
    let failure = check(egress().send(request).await, FailureKind::TimeoutConnect, None);
    assert!((total_timeout / 3..total_timeout).contains(&failure.elapsed), "{:?}", failure.elapsed);
}

#[tokio::test]
async fn absurd_timeouts_do_no_harm() {
    let receiver = Receiver::answering(OK).await;
    let request = Request { total_timeout: Duration::MAX, ..post(&receiver.target("/")) };
    egress().send(request).await.unwrap();
    let silent = Receiver::start(|mut peer| async move {
        peer.request().await?;
        peer.request().await
    })
    .await;
    let request = Request { total_timeout: Duration::ZERO, ..post(&silent.target("/")) };
    let failure = egress().send(request).await.unwrap_err();
    assert!(matches!(failure.kind, FailureKind::TimeoutTotal | FailureKind::TimeoutConnect), "{failure}");
    assert!(PATIENCE > failure.elapsed);
}
