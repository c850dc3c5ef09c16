//! Where deliveries may go.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use neo_events::{
    Builder, DeliveryState, DeliveryStatus, EndpointDraft, EndpointPatch, Error, EventDraft, FailureCode,
    Lookup, MasterKey, NeoEvents, Profile, Resolve, Resolved, Sources, SubscriptionDraft, TargetPolicy,
};

use crate::{
    receiver::{eventually, self_signed},
    world::World,
};

fn keys() -> Vec<MasterKey> {
    vec![MasterKey::generate(&Sources::system())]
}

#[tokio::test]
async fn targets_are_judged_when_written() {
    let world = World::with(|builder| builder.profile(Profile::Staging).master_keys(keys())).await;
    for url in
        ["http://127.0.0.1:9000/", "http://localhost/", "http://169.254.169.254/", "ftp://example.com/"]
    {
        let refused = world.tenant().create_endpoint(EndpointDraft::standard("x", url), None).await;
        let Err(Error::Invalid(violations)) = refused else { panic!("{url}: {refused:?}") };
        assert_eq!(violations.iter().next().unwrap().pointer, "/endpoint_url", "{url}");
    }
    let created =
        world.tenant().create_endpoint(EndpointDraft::standard("x", "http://example.com/a"), None).await;
    let moved = world
        .tenant()
        .update_endpoint(created.unwrap().endpoint.id, EndpointPatch::default(), Some("http://10.0.0.1/"))
        .await;
    assert!(matches!(moved, Err(Error::Invalid(_))));
}

/// Answers with a public address while endpoints are registered, then with the inside.
struct Rebinding(AtomicBool);

impl Resolve for Rebinding {
    fn lookup<'a>(&'a self, _host: &'a str) -> Lookup<'a> {
        let inside = self.0.load(Ordering::Relaxed);
        let address = if inside { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(93, 184, 216, 34) };
        Box::pin(async move { Ok(Resolved { addresses: vec![IpAddr::V4(address)], ttl: Duration::ZERO }) })
    }
}

#[tokio::test]
async fn a_name_that_turns_inward_is_refused_where_it_is_connected_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let resolver = Arc::new(Rebinding(AtomicBool::new(false)));
    let shared = Arc::clone(&resolver);
    let world = World::with(move |builder| {
        builder
            .profile(Profile::Staging)
            .master_keys(keys())
            .target_policy(TargetPolicy::staging())
            .resolver(shared)
    })
    .await;
    let draft = EndpointDraft::standard("x", format!("http://rebinding.example:{port}/"));
    let created = world.tenant().create_endpoint(draft, None).await.unwrap();
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    world.tenant().create_subscription(created.endpoint.id, everything).await.unwrap();
    resolver.0.store(true, Ordering::Relaxed);
    world.tenant().publish(EventDraft::new("a.b", "{}")).await.unwrap();
    let history = world.only_delivery(DeliveryStatus::Failed).await;
    assert_eq!(history.delivery.state, DeliveryState::Failed { max_attempts_reached: false });
    assert_eq!(history.latest_attempt().unwrap().error_code.as_deref(), Some("target_refused"));
    let nobody_came = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody_came.is_err());
}

#[tokio::test]
async fn production_verifies_certificates_whatever_was_written_under_another_profile() {
    let (url, _receiver) = self_signed().await;
    let keys = keys();
    let with = |builder: Builder, profile| {
        builder.profile(profile).master_keys(keys.clone()).target_policy(TargetPolicy::development())
    };
    let World { neo, folder } = World::with(|builder| with(builder, Profile::Staging)).await;
    let draft = EndpointDraft { verify_ssl: Some(false), ..EndpointDraft::standard("x", url) };
    let id = neo.platform().create_endpoint(draft, None).await.unwrap().endpoint.id;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    neo.platform().create_subscription(id, everything).await.unwrap();
    assert!(neo.platform().verify_endpoint(id).await.unwrap().connectivity.reachable);
    neo.shutdown(Duration::from_secs(5)).await;

    let builder = NeoEvents::builder(folder.path().join("admin.db"));
    let world = World { neo: with(builder, Profile::Production).start().await.unwrap(), folder };
    world.publish("{}").await;
    let history = eventually("an attempt", async || {
        let history = world.tenant().delivery_history(world.deliveries().await.first()?.id).await.unwrap();
        history.latest_attempt().is_some().then_some(history)
    });
    assert_eq!(history.await.latest_attempt().unwrap().error_code.as_deref(), Some("tls"));
    let report = world.tenant().verify_endpoint(id).await.unwrap();
    assert_eq!(report.connectivity.error_code, Some(FailureCode::Tls));
    assert!(!report.endpoint.is_verified);
}
