//! Limits of the API that hold for whoever embeds, too.

use neo_events::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EndpointDraft, EndpointPatch, Error, EventDraft, ROTATION_OVERLAP_MAX,
    SignedDuration, Uuid, domain::id::EventId,
};

use crate::world::World;

/// Where the only fault of a refused input is.
fn fault<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    let Err(Error::Invalid(violations)) = answer else { panic!("{answer:?}") };
    let pointers: Vec<_> = violations.iter().map(|violation| violation.pointer.clone()).collect();
    let [pointer] = pointers.as_slice() else { panic!("{violations}") };
    pointer.to_string()
}

#[tokio::test]
async fn a_batch_has_a_limit_in_bytes() {
    let world = World::new().await;
    let draft = EventDraft::new("a.b", format!("{{\"x\":\"{}\"}}", "x".repeat(100_000)));
    let most = BATCH_BYTES_MAX / (draft.event_type.len() + draft.event_data.len());
    let batch = async |events| world.tenant().publish_batch(vec![draft.clone(); events]).await;
    assert!(batch(most).await.is_ok());
    assert_eq!(fault(batch(most + 1).await), "/events");
}

#[tokio::test]
async fn a_rotated_secret_overlaps_for_a_week_at_most() {
    let world = World::new().await;
    let id = world.endpoint("http://127.0.0.1:1/").await.endpoint.id;
    let rotate = async |overlap| world.tenant().rotate_secret(id, None, overlap).await;
    let second = SignedDuration::from_secs(1);
    for overlap in [-second, ROTATION_OVERLAP_MAX + second, SignedDuration::MIN, SignedDuration::MAX] {
        assert_eq!(fault(rotate(overlap).await), "/overlap_seconds", "{overlap}");
    }
    assert!(rotate(ROTATION_OVERLAP_MAX).await.unwrap().previous.is_some());
    assert!(rotate(SignedDuration::ZERO).await.unwrap().previous.is_none());
}

#[tokio::test]
async fn only_so_many_events_are_marked_at_once() {
    let world = World::new().await;
    let ids = vec![EventId::from_uuid(Uuid::from_u128(7)); BATCH_EVENTS_MAX + 1];
    assert_eq!(fault(world.tenant().mark_processed(&ids).await), "/ids");
    assert_eq!(world.tenant().mark_processed(&ids[1..]).await.unwrap(), 0);
}

/// By whichever way it is given.
#[tokio::test]
async fn another_url_is_judged_and_taken() {
    let world = World::new().await;
    let (tenant, draft) = (world.tenant(), EndpointDraft::standard("n", "http://127.0.0.1:1/"));
    let id = tenant.create_endpoint(draft, None).await.unwrap().endpoint.id;
    let update = async |in_patch: Option<&str>, url: Option<&str>| {
        let endpoint_url = in_patch.map(|url| Ok(url.to_owned()));
        tenant.update_endpoint(id, EndpointPatch { endpoint_url, ..EndpointPatch::default() }, url).await
    };
    let [two, three] = ["http://127.0.0.1:2/", "http://127.0.0.1:3/"];
    assert_eq!(update(Some(two), None).await.unwrap().endpoint_url, two);
    assert_eq!(update(None, None).await.unwrap().endpoint_url, two);
    assert_eq!(update(Some(two), Some(three)).await.unwrap().endpoint_url, three);
    assert_eq!(fault(update(Some("ftp://127.0.0.1/"), None).await), "/endpoint_url");
}
