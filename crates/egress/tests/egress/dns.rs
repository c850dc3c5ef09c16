//! Names: every answer is judged as a whole and at every connection, and cached within bounds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use neo_events_egress::{Egress, EgressConfig, FailureKind, TargetPolicy};

use crate::support::{OK, PATIENCE, Receiver, Script, config, post, target};

const HOUR: Duration = Duration::from_hours(1);

/// Connections are never kept, so that every request resolves.
fn unpooled(resolver: Arc<Script>) -> Egress {
    let mut config = config();
    config.idle_total_max = 0;
    Egress::with_resolver(config, resolver).expect("a sound configuration")
}

fn named(receiver: &Receiver) -> neo_events_egress::Target {
    target(&format!("http://hooks.example:{}/", receiver.address.port()))
}

#[tokio::test]
async fn a_name_is_connected_to_at_its_address() {
    let receiver = Receiver::answering(OK).await;
    let egress = unpooled(Script::new(&[&["127.0.0.1"]], HOUR));
    let response = egress.send(post(&named(&receiver))).await.unwrap();
    assert!(response.timings.dns.is_some());
    let host = format!("host: hooks.example:{}\r\n", receiver.address.port());
    assert!(receiver.tally.head(0).contains(&host));
}

#[tokio::test]
async fn one_refused_address_refuses_the_name() {
    let receiver = Receiver::answering(OK).await;
    for answer in
        [["127.0.0.1", "169.254.169.254"], ["169.254.169.254", "127.0.0.1"], ["127.0.0.1", "fe80::1"]]
    {
        let egress = unpooled(Script::new(&[&answer], HOUR));
        let failure = egress.send(post(&named(&receiver))).await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.detail.as_str()),
            (FailureKind::TargetRefused, "the target is not allowed")
        );
    }
    let config = EgressConfig::new(TargetPolicy::staging());
    let egress = Egress::with_resolver(config, Script::new(&[&["8.8.8.8", "10.0.0.1"]], HOUR)).unwrap();
    let failure = egress.send(post(&named(&receiver))).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TargetRefused);
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_turns_inwards_is_refused() {
    let receiver = Receiver::answering(OK).await;
    let script = Script::new(&[&["127.0.0.1"], &["169.254.169.254"]], Duration::from_millis(50));
    let egress = unpooled(script.clone());
    egress.send(post(&named(&receiver))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let failure = egress.send(post(&named(&receiver))).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TargetRefused);
    assert_eq!(script.lookups.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn answers_are_cached_for_the_shorter_of_both_times() {
    let receiver = Receiver::answering(OK).await;
    let cases = [(HOUR, HOUR, 1), (Duration::ZERO, HOUR, 3), (HOUR, Duration::ZERO, 3)];
    for (answer_ttl, cache_ttl, lookups) in cases {
        let script = Script::new(&[&["127.0.0.1"]], answer_ttl);
        let mut config = config();
        config.idle_total_max = 0;
        config.dns_cache_ttl = cache_ttl;
        let egress = Egress::with_resolver(config, script.clone()).unwrap();
        for _ in 0..3 {
            egress.send(post(&named(&receiver))).await.unwrap();
        }
        assert_eq!(script.lookups.load(Ordering::SeqCst), lookups, "{answer_ttl:?} {cache_ttl:?}");
        assert_eq!(egress.stats().dns_cache_hits, 3 - lookups as u64);
    }
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let receiver = Receiver::answering(OK).await;
    let script = Script::new(&[&["127.0.0.1"]], HOUR);
    let mut config = config();
    config.idle_total_max = 0;
    config.dns_cache_entries_max = 1;
    let egress = Egress::with_resolver(config, script.clone()).unwrap();
    for name in ["a", "b", "a", "a"] {
        let target = target(&format!("http://{name}.example:{}/", receiver.address.port()));
        egress.send(post(&target)).await.unwrap();
    }
    assert_eq!(script.lookups.load(Ordering::SeqCst), 3, "b took the place of a");
}

#[tokio::test]
async fn the_next_address_is_tried() {
    let receiver = Receiver::answering(OK).await;
    // Nobody listens at the others; the order must not matter.
    for answer in [["127.0.0.9", "127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.1", "127.0.0.9"]] {
        let egress = unpooled(Script::new(&[&answer], HOUR));
        egress.send(post(&named(&receiver))).await.expect(answer[0]);
    }
    let egress = unpooled(Script::new(&[&["127.0.0.8", "127.0.0.9"]], HOUR));
    let failure = egress.send(post(&named(&receiver))).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ConnectionRefused, "{failure}");
}

#[tokio::test]
async fn names_without_addresses_fail() {
    let egress = unpooled(Script::new(&[&[]], HOUR));
    let failure = egress.send(post(&target("http://hooks.example/"))).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Dns);
    assert_eq!(egress.stats().connection_errors, 1);
}

#[tokio::test]
async fn the_system_resolver_knows_localhost() {
    let receiver = Receiver::answering(OK).await;
    let egress = Egress::new(config()).unwrap();
    let target = target(&format!("http://localhost:{}/", receiver.address.port()));
    egress.send(post(&target)).await.unwrap();
    assert!(egress.probe(&target, true, PATIENCE).await.is_success());
}
