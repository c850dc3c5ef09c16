//! What operations do to endpoints, subscriptions, catalogue entries and deliveries, each field of it; when publishing
//! again is the same publish; and the names that users and databases know states by.

use std::str::FromStr;

use neo_events_domain::catalogue::{EventTypeDraft, EventTypePatch};
use neo_events_domain::delivery::{AttemptStatus, Delivery, DeliveryState, DeliveryStatus, Trigger};
use neo_events_domain::endpoint::{Endpoint, EndpointDraft, EndpointPatch, HttpMethod, Profile};
use neo_events_domain::event::{DomainEvent, EventDraft, JsonObject, NewEvent};
use neo_events_domain::id::{EventId, Id};
use neo_events_domain::retry::{FailureCode, Outcome, RetryPolicy};
use neo_events_domain::signing::SigningSecret;
use neo_events_domain::subscription::{SubscriptionDraft, SubscriptionPatch};
use neo_events_domain::{Timestamp, Uuid};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn id<Kind>(number: u8) -> Id<Kind> {
    Id::new(at(1_700_000_000), [number; 10])
}

fn endpoint() -> Endpoint {
    let draft = EndpointDraft { name: "n".into(), ..EndpointDraft::default() };
    let limits = Profile::Production.endpoint_limits();
    draft.validate(id(1), at(1000), limits, Ok("https://example.com/".into())).expect("a valid draft")
}

#[test]
fn names_lead_back_to_what_they_name() {
    fn check<T: FromStr + PartialEq + std::fmt::Debug>(named: T, name: &str, expected: &str) {
        assert_eq!(name, expected);
        assert_eq!(name.parse::<T>().ok(), Some(named));
        assert!("nothing".parse::<T>().is_err() && "".parse::<T>().is_err());
    }
    let statuses = ["pending", "retrying", "success", "failed", "cancelled"];
    DeliveryStatus::ALL
        .into_iter()
        .zip(statuses)
        .for_each(|(status, name)| check(status, status.as_str(), name));
    for (profile, name) in [
        (Profile::Development, "development"),
        (Profile::Staging, "staging"),
        (Profile::Production, "production"),
    ] {
        check(profile, profile.as_str(), name);
    }
    for (method, name) in [(HttpMethod::Post, "POST"), (HttpMethod::Put, "PUT"), (HttpMethod::Patch, "PATCH")]
    {
        check(method, method.as_str(), name);
    }
    assert_eq!([Trigger::Event, Trigger::Test].map(Trigger::as_str), ["event", "test"]);
    let ends = [AttemptStatus::Success, AttemptStatus::Failed, AttemptStatus::Timeout];
    assert_eq!(ends.map(AttemptStatus::as_str), ["success", "failed", "timeout"]);
}

#[test]
fn switching_an_endpoint_changes_what_it_says_and_nothing_else() {
    let endpoint = endpoint();
    let next = |changed: Endpoint| Endpoint { revision: 2, updated_at: at(2000), ..changed };
    let off = endpoint.clone().disabled("gone", at(2000));
    let reason = Some("gone".to_owned());
    assert_eq!(off, next(Endpoint { is_active: false, disabled_reason: reason, ..endpoint.clone() }));
    let on = off.activated(at(3000));
    assert_eq!(on, Endpoint { revision: 3, updated_at: at(3000), ..endpoint.clone() });
    assert_eq!(
        endpoint.clone().deactivated(at(2000)),
        next(Endpoint { is_active: false, ..endpoint.clone() })
    );
    let verified = endpoint.clone().verified(at(2000));
    let times = Some(at(2000));
    assert_eq!(verified, next(Endpoint { is_verified: true, verified_at: times, ..endpoint.clone() }));
    assert_eq!(verified.unverified(at(2000)), Endpoint { revision: 3, ..next(endpoint.clone()) });
    assert_eq!(endpoint.clone().deactivated(at(1)).updated_at, at(1000), "a clock that went back");
}

#[test]
fn a_patch_changes_what_it_names() {
    let limits = Profile::Production.endpoint_limits();
    let patch = EndpointPatch {
        http_method: Some(HttpMethod::Put),
        signature_header: Some("X-Sig".into()),
        timeout_seconds: Some(5),
        follow_redirects: Some(true),
        max_retry_attempts: Some(9),
        retry_backoff_seconds: Some(8),
        retry_backoff_multiplier: Some(1.5),
        is_active: Some(false),
        ..EndpointPatch::default()
    };
    let patched = endpoint().patched(patch, at(2000), limits).expect("a valid patch");
    let expected = Endpoint {
        http_method: HttpMethod::Put,
        signature_header: "X-Sig".into(),
        timeout_seconds: 5,
        follow_redirects: true,
        retry: RetryPolicy { max_retry_attempts: 9, backoff_seconds: 8, backoff_multiplier: 1.5 },
        is_active: false,
        revision: 2,
        updated_at: at(2000),
        ..endpoint()
    };
    assert_eq!(patched, expected);

    let draft = SubscriptionDraft { event_type: "a.b".into(), ..SubscriptionDraft::default() };
    let subscription = draft.validate(id(2), &endpoint(), at(1000)).expect("a valid draft");
    let patch = SubscriptionPatch { is_active: Some(false), ..SubscriptionPatch::default() };
    let patched = subscription.patched(patch, at(2000)).expect("a valid patch");
    assert_eq!((patched.revision, patched.updated_at, patched.is_active), (2, at(2000), false));

    let draft =
        EventTypeDraft { event_type: "a.b".into(), display_name: "B".into(), ..EventTypeDraft::default() };
    let entry = draft.validate(id(3), at(1000)).expect("a valid draft");
    let patch =
        EventTypePatch { example_payload: Some(Some("{\"n\":1}".into())), ..EventTypePatch::default() };
    let patched = entry.patched(patch, at(2000)).expect("a valid patch");
    assert_eq!((patched.revision, patched.updated_at), (2, at(2000)));
    assert_eq!(patched.example_payload.as_ref().map(JsonObject::as_str), Some("{\"n\":1}"));
}

fn delivery(state: DeliveryState) -> Delivery {
    Delivery {
        id: id(1),
        webhook_endpoint_id: id(2),
        webhook_event_id: id(3),
        state,
        current_attempt: 4,
        max_attempts: 4,
        retry: RetryPolicy::STANDARD,
        cancel_requested: Some("before".into()),
        trigger: Trigger::Event,
        subscription_ids: vec![],
        created_at: at(1000),
    }
}

#[test]
fn a_delivery_is_cancelled_while_it_waits_and_retried_when_it_is_over() {
    let reason = || DeliveryState::Cancelled { reason: "why".into() };
    let retrying = DeliveryState::Retrying { next_retry_at: at(5000) };
    let failed = DeliveryState::Failed { max_attempts_reached: true };
    for (state, is_final, can_retry, ready_at) in [
        (DeliveryState::Pending, false, false, Some(0)),
        (retrying, false, true, Some(5000)),
        (DeliveryState::Success, true, false, None),
        (failed, true, true, None),
        (reason(), true, true, None),
    ] {
        let delivery = delivery(state.clone());
        assert_eq!((delivery.state.is_final(), delivery.can_retry()), (is_final, can_retry), "{state:?}");
        assert_eq!(delivery.ready_for_retry(at(5000)), ready_at.is_some(), "{state:?}");
        assert_eq!(delivery.ready_for_retry(at(4999)), ready_at.is_some_and(|at| at < 5000), "{state:?}");
        let again = delivery.clone().retried_now(at(6000));
        let expected = Delivery {
            state: DeliveryState::Retrying { next_retry_at: at(6000) },
            max_attempts: 5,
            cancel_requested: None,
            ..delivery.clone()
        };
        assert_eq!(again.ok(), can_retry.then_some(expected), "{state:?}");
        let cancelled = Delivery { state: reason(), cancel_requested: None, ..delivery.clone() };
        assert_eq!(
            delivery.clone().cancelled("why", false).ok(),
            (!is_final).then_some(cancelled),
            "{state:?}"
        );
        let requested = Delivery { cancel_requested: Some("why".into()), ..delivery.clone() };
        assert_eq!(delivery.cancelled("why", true).ok(), (!is_final).then_some(requested), "{state:?}");
    }
}

#[test]
fn outcomes_are_told_by_status_and_code() {
    let answered = |status| Outcome::Answered { status, retry_after: None };
    for (outcome, status, code) in [
        (answered(204), AttemptStatus::Success, None),
        (answered(302), AttemptStatus::Failed, Some("HTTP_302")),
        (answered(503), AttemptStatus::Failed, Some("HTTP_503")),
        (Outcome::Failed(FailureCode::TimeoutConnect), AttemptStatus::Timeout, Some("timeout_connect")),
        (Outcome::Failed(FailureCode::TimeoutTotal), AttemptStatus::Timeout, Some("timeout_total")),
        (Outcome::Failed(FailureCode::Dns), AttemptStatus::Failed, Some("dns")),
    ] {
        assert_eq!(
            (AttemptStatus::of(&outcome), outcome.error_code().as_deref()),
            (status, code),
            "{outcome:?}"
        );
    }
}

/// An event with every field, and as it is stored.
fn full() -> (NewEvent, DomainEvent) {
    let draft = EventDraft {
        id: Some(id::<()>(1).uuid()),
        event_name: Some("name".into()),
        aggregate_id: Some(Uuid::from_u128(1)),
        aggregate_type: Some("order".into()),
        aggregate_version: Some(7),
        event_metadata: Some("{\"m\":1}".into()),
        correlation_id: Some(Uuid::from_u128(2)),
        causation_id: Some(Uuid::from_u128(3)),
        triggered_by_user_id: Some(Uuid::from_u128(4)),
        context_id: Some(Uuid::from_u128(5)),
        occurred_at: Some(at(500)),
        ..EventDraft::new("user.created", "{\"a\":1}")
    };
    let new = draft.validate(at(1_700_000_000), [0; 10]).expect("a valid draft");
    let stored = DomainEvent {
        id: new.id,
        event_type: new.event_type.clone(),
        event_name: new.event_name.clone(),
        aggregate_id: new.aggregate_id_or_default(),
        aggregate_type: new.aggregate_type_or_default().to_owned(),
        aggregate_version: 7,
        event_data: new.event_data.clone(),
        event_metadata: new.event_metadata.clone().expect("given"),
        correlation_id: new.correlation_id,
        causation_id: new.causation_id,
        triggered_by_user_id: new.triggered_by_user_id,
        context_id: new.context_id,
        occurred_at: at(500),
        created_at: at(1_700_000_000),
    };
    (new, stored)
}

#[test]
fn publishing_again_is_the_same_if_every_field_that_is_given_is_equal() {
    let (new, stored) = full();
    assert!(new.repeats(&stored));
    let other = |change: &dyn Fn(&mut DomainEvent)| {
        let mut changed = stored.clone();
        change(&mut changed);
        changed
    };
    let object = |text| JsonObject::try_new(text, 100).expect("an object");
    let nobody = Some(Uuid::from_u128(99));
    let changed = [
        other(&|e| e.event_type = "user.deleted".parse().expect("a type")),
        other(&|e| e.event_name = None),
        other(&|e| e.aggregate_id = Uuid::nil()),
        other(&|e| e.aggregate_type = "user".into()),
        other(&|e| e.aggregate_version = 8),
        other(&|e| e.event_data = object("{\"a\":1.0}")),
        other(&|e| e.event_metadata = object("{}")),
        other(&|e| e.correlation_id = nobody),
        other(&|e| e.causation_id = nobody),
        other(&|e| e.triggered_by_user_id = nobody),
        other(&|e| e.context_id = None),
        other(&|e| e.occurred_at = at(501)),
    ];
    let bare = EventDraft { id: Some(new.id.uuid()), ..EventDraft::new("user.created", "{\"a\":1}") };
    let bare = bare.validate(at(1_700_000_000), [0; 10]).expect("a valid draft");
    for (index, changed) in changed.iter().enumerate() {
        assert!(!new.repeats(changed), "{changed:?}");
        // Only type and data are always given.
        assert_eq!(bare.repeats(changed), !matches!(index, 0 | 5), "{changed:?}");
    }
    let draft = EventDraft {
        expected_version: Some(6),
        aggregate_id: Some(Uuid::from_u128(1)),
        ..EventDraft::new("user.created", "{\"a\":1}")
    };
    let guarded = draft.validate(at(1_700_000_000), [0; 10]).expect("a valid draft");
    assert!(guarded.repeats(&stored) && !guarded.repeats(&changed[4]));
}

#[test]
fn events_about_organizations_and_users_are_theirs() {
    let who = Uuid::from_u128(9);
    let organization = EventDraft::organization("verified", who, "{}");
    assert_eq!(organization.event_type, "organization.verified");
    assert_eq!((organization.aggregate_id, organization.context_id), (Some(who), Some(who)));
    let user = EventDraft::user("created", who, "{}");
    assert_eq!(
        (user.event_type.as_str(), user.aggregate_id, user.context_id),
        ("user.created", Some(who), None)
    );
    let (_, stored) = full();
    assert_eq!((stored.category(), stored.action()), ("user", "created"));
    assert_eq!((stored.metadata("m").as_deref(), stored.metadata("n")), (Some("1"), None));
}

#[test]
fn a_standard_secret_has_at_least_sixteen_bytes_behind_its_base64() {
    for (token, accepted) in [
        ("whsec_AAAAAAAAAAAAAAAAAAAA", false),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAA==", true),
        (&"x".repeat(512), true),
        (&"x".repeat(513), false),
    ] {
        assert_eq!(SigningSecret::try_new(token, 16).is_ok(), accepted, "{token}");
    }
}

#[test]
fn ids_are_equal_if_their_uuids_are() {
    let (one, other): (EventId, EventId) = (id(1), id(2));
    assert!(one == id(1) && one != other);
    let distinct: std::collections::HashSet<_> = [one, other, id(1)].into();
    assert_eq!(distinct.len(), 2);
}
