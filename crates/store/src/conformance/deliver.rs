//! Claiming and settling deliveries.

use std::{sync::Arc, time::Duration};

use neo_events_domain::{
    delivery::{AttemptStatus, DeliveryState, ReceivedResponse},
    endpoint::{Endpoint, EndpointDraft},
    event::EventDraft,
    retry::{FailureCode, Outcome, Verdict},
    signing::Signatures,
};

use super::world::{World, at, at_micros, done};
use crate::{CatalogueVersion, Settled, Settlement, Store, Updated};

const GONE: Outcome = Outcome::Answered { status: 410, retry_after: None };

/// Claims take what is due, oldest due first, and no more than asked for.
pub async fn claims_respect_quotas_and_due_order(store: &dyn Store) {
    let world = World::new(store);
    let (busy, calm) = (world.endpoint().await, world.endpoint().await);
    let mut ids = Vec::new();
    for second in 0..5 {
        ids.push(world.delivery_to(&busy, second).await);
    }
    let only = world.delivery_to(&calm, 7).await;
    // The first becomes due last, at 100.
    let lease = world.claim(&busy, 1, 10).await.remove(0);
    assert_eq!(lease.work().delivery_id, ids[0]);
    assert_eq!(world.settle(lease, Verdict::Retry(at(100)), 10).await, recorded_retry(100));

    let claims = world.claims(&[(&busy, 2), (&calm, 0), (&world.new_endpoint(), 5)], 20, 80).await;
    assert_eq!(claims.len(), 2, "an endpoint that is not there is left out");
    let (of_busy, of_calm) = (&claims[0], &claims[1]);
    assert_eq!((of_busy.endpoint.id, of_calm.endpoint.id), (busy.id, calm.id));
    let work: Vec<_> = of_busy.work.iter().map(|lease| lease.work().delivery_id).collect();
    assert_eq!((work, of_busy.next_due_at), (ids[1..3].to_vec(), Some(at(3))));
    assert_eq!((of_calm.work.len(), of_calm.next_due_at), (0, Some(at(7))));

    let rest = world.claims(&[(&busy, 10), (&calm, 10)], 20, 80).await;
    let work: Vec<_> = rest[0].work.iter().map(|lease| lease.work().delivery_id).collect();
    assert_eq!((work, rest[0].next_due_at), (ids[3..].to_vec(), Some(at(100))));
    assert_eq!((rest[1].work[0].work().delivery_id, rest[1].next_due_at), (only, None));
    let progress = world.claims(&[(&busy, 10)], 100, 160).await.remove(0).work;
    let first = progress.iter().find(|lease| lease.work().delivery_id == ids[0]).expect("due again");
    assert_eq!((first.work().progress.attempt, first.work().progress.max_attempts), (2, 4));
    assert_eq!(first.work().retry, busy.retry);
}

fn recorded_retry(second: i64) -> Settled {
    Settled::Recorded(DeliveryState::Retrying { next_retry_at: at(second) })
}

/// An event that goes to several endpoints is in memory once.
pub async fn claims_share_events_between_endpoints(store: &dyn Store) {
    let world = World::new(store);
    let (one, two) = (world.endpoint().await, world.endpoint().await);
    world.publish(EventDraft::new("user.created", r#"{ "a" : 1.50 }"#), 0).await;
    world.dispatch(&[&one, &two], 1).await;
    let claims = world.claims(&[(&one, 1), (&two, 1)], 2, 60).await;
    let events: Vec<_> = claims.iter().map(|claim| &claim.work[0].work().event).collect();
    assert!(Arc::ptr_eq(events[0], events[1]));
    assert_eq!(events[0].event_data.as_str(), r#"{ "a" : 1.50 }"#);
}

/// While an endpoint is inactive its deliveries wait, and go on when it is active again.
pub async fn inactive_endpoints_hold_their_deliveries(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let id = world.delivery_to(&endpoint, 0).await;
    let inactive = endpoint.deactivated(at(1));
    assert_eq!(done(store.update_endpoint(&world.schema, &inactive).await), Updated::Written);
    assert!(world.claims(&[(&inactive, 10)], 2, 60).await.is_empty());
    assert!(done(store.due_endpoints(at(2)).await).is_empty());
    let active = inactive.activated(at(3));
    assert_eq!(done(store.update_endpoint(&world.schema, &active).await), Updated::Written);
    assert_eq!(done(store.due_endpoints(at(4)).await).len(), 1);
    assert_eq!(world.claim_one(&active, 4).await.work().delivery_id, id);
}

/// Each verdict brings the state that the domain says, and the delivery is due again only if it is retrying.
pub async fn every_verdict_is_recorded(store: &dyn Store) {
    let world = World::new(store);
    let cases = [
        (Verdict::Succeeded, DeliveryState::Success),
        (
            Verdict::Retry(at_micros(60_000_001)),
            DeliveryState::Retrying { next_retry_at: at_micros(60_000_001) },
        ),
        (Verdict::Exhausted, DeliveryState::Failed { max_attempts_reached: true }),
        (Verdict::Rejected, DeliveryState::Failed { max_attempts_reached: false }),
        (Verdict::Gone, DeliveryState::Failed { max_attempts_reached: false }),
    ];
    for (verdict, state) in cases {
        let endpoint = world.endpoint().await;
        let id = world.delivery_to(&endpoint, 0).await;
        let lease = world.claim_one(&endpoint, 1).await;
        assert_eq!(world.settle(lease, verdict, 2).await, Settled::Recorded(state.clone()));
        let delivery = world.delivery_now(id).await;
        assert_eq!((delivery.state, delivery.current_attempt), (state, 1));
        assert_eq!(world.attempts(id).await.len(), 1);
        assert!(world.claim(&endpoint, 10, 59).await.is_empty());
        let due = world.claim(&endpoint, 10, 61).await;
        assert_eq!(due.len(), usize::from(matches!(verdict, Verdict::Retry(_))), "{verdict:?}");
    }
}

/// What an attempt recorded is what is shown, with the request as its endpoint's revision made it.
pub async fn attempts_read_back(store: &dyn Store) {
    let world = World::new(store);
    let draft = EndpointDraft {
        custom_headers: vec![
            ("X-Priority".into(), "high".into()),
            ("Authorization".into(), "Bearer s3cret".into()),
        ],
        signature_header: Some("X-Sig".into()),
        ..EndpointDraft::standard("n", "https://example.com/first")
    };
    let endpoint = world.insert_endpoint(world.endpoint_draft(draft)).await;
    let id = world.delivery_to(&endpoint, 0).await;

    let lease = world.claim_one(&endpoint, 1).await;
    let event_id = lease.work().event.id;
    let mut first = world.attempt(1, Outcome::Failed(FailureCode::TimeoutTotal), 2);
    (first.error_message, first.connection_reused) = (Some("took too long'".into()), true);
    let request_id = first.request_id;
    let verdict = Verdict::Retry(at(10));
    assert_eq!(world.record(Settlement { lease, attempt: first, verdict }).await, recorded_retry(10));

    let mut moved = endpoint.clone().verified(at(5));
    moved.endpoint_url = "https://example.com/second".into();
    assert_eq!(done(store.update_endpoint(&world.schema, &moved).await), Updated::Written);
    let lease = world.claim_one(&moved, 10).await;
    let mut second = world.attempt(2, Outcome::Answered { status: 200, retry_after: None }, 11);
    second.endpoint_revision = 2;
    second.response_time = Duration::from_millis(1234);
    let signatures = Signatures {
        standard: "v1,a v1,b".into(),
        body: "sha256=a".into(),
        body_previous: Some("sha256=b".into()),
    };
    second.signatures = Some(signatures);
    let response = ReceivedResponse {
        status: 200,
        headers: vec![("set-cookie".into(), "a=\"1\"".into()), ("set-cookie".into(), "b".into())],
        body: vec![0, 0xff, b'x'],
        body_truncated: true,
    };
    second.response = Some(response.clone());
    world.record(Settlement { lease, attempt: second, verdict: Verdict::Succeeded }).await;

    let attempts = world.attempts(id).await;
    let [first, second] = &attempts[..] else { panic!("two attempts, oldest first: {attempts:?}") };
    assert_eq!((first.attempt_number, first.delivery_status), (1, AttemptStatus::Timeout));
    assert_eq!(
        (first.request_url.as_str(), first.request_method.as_str()),
        ("https://example.com/first", "POST")
    );
    assert_eq!(first.error_code.as_deref(), Some("timeout_total"));
    assert_eq!(first.error_message.as_deref(), Some("took too long'"));
    assert_eq!((first.attempted_at, first.completed_at), (at(2), at_micros(2_007_000)));
    assert_eq!((first.connection_reused, &first.response, &first.signature), (true, &None, &None));
    let header = |name: &str| {
        let found = first.request_headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str()).to_owned()
    };
    assert_eq!(header("webhook-id"), event_id.to_string());
    assert_eq!(header("x-neo-request-id"), request_id.to_string());
    assert_eq!((header("x-neo-attempt"), header("x-neo-event-type")), ("1".into(), "user.created".into()));
    assert_eq!((header("x-priority"), header("authorization")), ("high".into(), "[redacted]".into()));

    assert_eq!((second.attempt_number, second.delivery_status), (2, AttemptStatus::Success));
    assert_eq!(second.request_url, "https://example.com/second");
    assert_eq!((second.error_code.as_deref(), second.signature.as_deref()), (None, Some("v1,a v1,b")));
    assert!(second.request_headers.contains(&("X-Sig".into(), "sha256=a".into())));
    assert_eq!((second.response.as_ref(), second.response_time_ms), (Some(&response), 1234));
}

/// Who settles after somebody else claimed the work has lost it, and leaves no trace.
pub async fn late_settlements_are_lost(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let id = world.delivery_to(&endpoint, 0).await;
    let abandoned = world.claim_one(&endpoint, 0).await;
    assert!(world.claim(&endpoint, 10, 59).await.is_empty());
    let current = world.claim_one(&endpoint, 60).await;
    assert_eq!(world.settle(abandoned, Verdict::Succeeded, 61).await, Settled::LeaseLost);
    assert!(world.attempts(id).await.is_empty());
    assert_eq!(world.delivery_now(id).await.state, DeliveryState::Pending);
    assert_eq!(world.settle(current, Verdict::Retry(at(70)), 62).await, recorded_retry(70));

    // After the end of the lease, but before anybody else came: it happened, and it counts.
    let slow = world.claim_one(&endpoint, 70).await;
    assert_eq!(world.settle(slow, Verdict::Succeeded, 1000).await, Settled::Recorded(DeliveryState::Success));
    assert_eq!(world.attempts(id).await.len(), 2);
}

/// Work given back can be claimed at once, as if it had not been.
pub async fn released_work_is_claimed_again(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let id = world.delivery_to(&endpoint, 0).await;
    let lease = world.claim_one(&endpoint, 1).await;
    world.release(lease).await;
    let again = world.claim_one(&endpoint, 1).await;
    assert_eq!((again.work().delivery_id, again.work().progress.attempt), (id, 1));
}

/// 410 ends the delivery and disables its endpoint, as a change of the catalogue.
pub async fn gone_disables_the_endpoint(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    world.delivery_to(&endpoint, 0).await;
    let held = world.delivery_to(&endpoint, 0).await;
    let before = done(store.catalogue_changes(&world.schema, CatalogueVersion(0), 10).await).version;
    let mut claimed = world.claim(&endpoint, 2, 1).await;
    let (late, lease) = (claimed.remove(1), claimed.remove(0));
    let attempt = world.attempt(1, GONE, 2);
    world.record(Settlement { lease, attempt, verdict: Verdict::Gone }).await;

    let disabled = world.endpoint_now(endpoint.id).await.expect("there");
    assert!(!disabled.is_active);
    assert_eq!(disabled.disabled_reason.as_deref(), Some("the receiver answered 410 Gone"));
    assert_eq!(disabled.revision, endpoint.revision + 1);
    let changes = done(store.catalogue_changes(&world.schema, before, 10).await);
    assert_eq!(changes.endpoints.first(), Some(&disabled));
    assert_eq!(changes.endpoints.len(), 1);
    // Another attempt in flight ends as it ends.
    assert_eq!(world.settle(late, Verdict::Retry(at(3)), 2).await, recorded_retry(3));
    assert!(world.claim(&endpoint, 10, 10).await.is_empty());
    assert_eq!(
        done(store.update_endpoint(&world.schema, &disabled.activated(at(5))).await),
        Updated::Written
    );
    assert_eq!(world.claim_one(&endpoint, 10).await.work().delivery_id, held);
}

/// What is written of an endpoint while an attempt is in flight.
type Revisions = fn(Endpoint) -> Vec<Endpoint>;

/// A 410 that lands late disables neither another URL nor what was activated after the attempt began.
pub async fn gone_spares_what_was_moved_or_activated_since(store: &dyn Store) {
    let world = World::new(store);
    let cases: [(&str, Revisions, bool); 4] = [
        ("as it was", |_| Vec::new(), false),
        ("renamed", |endpoint| vec![Endpoint { name: "renamed".into(), ..endpoint.verified(at(3)) }], false),
        (
            "moved",
            |endpoint| {
                let elsewhere = "https://example.com/elsewhere".into();
                vec![Endpoint { endpoint_url: elsewhere, ..endpoint.verified(at(3)) }]
            },
            true,
        ),
        (
            "activated again",
            |endpoint| {
                let inactive = endpoint.deactivated(at(3));
                vec![inactive.clone(), inactive.activated(at(4))]
            },
            true,
        ),
    ];
    for (what, revisions, stays_active) in cases {
        let endpoint = world.endpoint().await;
        let id = world.delivery_to(&endpoint, 0).await;
        let lease = world.claim_one(&endpoint, 1).await;
        for changed in revisions(endpoint.clone()) {
            assert_eq!(done(store.update_endpoint(&world.schema, &changed).await), Updated::Written);
        }
        let attempt = world.attempt(1, GONE, 2);
        world.record(Settlement { lease, attempt, verdict: Verdict::Gone }).await;
        assert_eq!(world.delivery_now(id).await.state, DeliveryState::Failed { max_attempts_reached: false });
        let now = world.endpoint_now(endpoint.id).await.expect("there");
        assert_eq!(now.is_active, stays_active, "{what}");
    }
}

/// What a clock that ran ahead put off is due once the clock is right; what a policy puts off keeps waiting.
pub async fn nothing_waits_longer_than_any_policy_says(store: &dyn Store) {
    const AHEAD: i64 = 400 * 24 * 3600;
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let (patient, retrying) = (world.delivery_to(&endpoint, 0).await, world.delivery_to(&endpoint, 0).await);
    let longest = at(10 + 3960);
    for lease in world.claim(&endpoint, 2, 0).await {
        let far = lease.work().delivery_id == retrying;
        world.settle(lease, Verdict::Retry(if far { at(AHEAD) } else { longest }), 1).await;
    }
    let events = (0..1100).map(|_| world.event(EventDraft::new("user.created", "{}"), 0)).collect();
    world.append(events, 0).await;
    let pending = world.dispatch(&[&endpoint], AHEAD).await;
    assert!(world.claim(&endpoint, 10, 10).await.is_empty());

    world.tend(10).await;
    let state = DeliveryState::Retrying { next_retry_at: at(10) };
    assert_eq!(world.delivery_now(retrying).await.state, state);
    assert_eq!(world.delivery_now(patient).await.state, DeliveryState::Retrying { next_retry_at: longest });
    assert_eq!(world.delivery_now(pending[0]).await.state, DeliveryState::Pending);
    let claimed = world.claim(&endpoint, 5000, 10).await;
    assert_eq!(claimed.len(), pending.len() + 1);
    for lease in claimed.into_iter().take(3) {
        world.settle(lease, Verdict::Succeeded, 11).await;
    }
    // The others' leases expire; nothing is queued twice.
    assert_eq!(world.claim(&endpoint, 5000, 100).await.len(), pending.len() + 1 - 3);
}

/// A clock that ran ahead for a few minutes puts off what was never attempted no longer than until it is right; what
/// was attempted may wait as long by its policy, and keeps waiting.
pub async fn what_was_never_attempted_waits_for_no_clock(store: &dyn Store) {
    const AHEAD: i64 = 30 * 60;
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let retrying = world.delivery_to(&endpoint, 0).await;
    for lease in world.claim(&endpoint, 1, 0).await {
        world.settle(lease, Verdict::Retry(at(AHEAD)), 1).await;
    }
    let events = (0..1100).map(|_| world.event(EventDraft::new("user.created", "{}"), AHEAD)).collect();
    world.append(events, AHEAD).await;
    let put_off = world.dispatch(&[&endpoint], AHEAD).await;
    let soon = world.delivery_to(&endpoint, 15).await;
    assert!(world.claim(&endpoint, 10, 10).await.is_empty());

    world.tend(10).await;
    assert_eq!(
        world.delivery_now(retrying).await.state,
        DeliveryState::Retrying { next_retry_at: at(AHEAD) }
    );
    assert_eq!(world.delivery_now(put_off[0]).await.state, DeliveryState::Pending);
    let claimed = world.claim(&endpoint, 5000, 10).await;
    assert_eq!(claimed.len(), put_off.len());
    assert!(claimed.iter().all(|lease| lease.work().delivery_id != soon), "clocks may be a little apart");
    for lease in claimed.into_iter().take(3) {
        world.settle(lease, Verdict::Succeeded, 11).await;
    }
    // The others' leases expire; nothing is queued twice.
    assert_eq!(world.claim(&endpoint, 5000, 100).await.len(), put_off.len() + 1 - 3);
}

/// The endpoints that owe something are known, with when, and without what is in somebody's hands.
pub async fn due_endpoints_are_those_with_open_work(store: &dyn Store) {
    let world = World::new(store);
    let due = async |second| {
        let due = done(store.due_endpoints(at(second)).await);
        due.into_iter().map(|due| (due.endpoint_id, due.due_at)).collect::<Vec<_>>()
    };
    let (one, two, idle) = (world.endpoint().await, world.endpoint().await, world.endpoint().await);
    assert!(due(0).await.is_empty());
    world.delivery_to(&one, 1).await;
    world.delivery_to(&one, 2).await;
    world.delivery_to(&two, 3).await;
    let mut found = due(4).await;
    found.sort_unstable();
    assert_eq!(found, [(one.id, at(1)), (two.id, at(3))]);
    let lease = world.claim(&one, 1, 4).await.remove(0);
    let of_two = world.claim_one(&two, 4).await;
    assert_eq!(due(5).await, [(one.id, at(2))]);
    world.settle(of_two, Verdict::Retry(at(50)), 5).await;
    world.settle(lease, Verdict::Succeeded, 5).await;
    let mut found = due(6).await;
    found.sort_unstable();
    assert_eq!(found, [(one.id, at(2)), (two.id, at(50))]);
    done(store.delete_endpoint(&world.schema, one.id, at(7)).await);
    assert_eq!(due(8).await, [(two.id, at(50))]);
    assert!(world.claim(&idle, 10, 8).await.is_empty());
}
