//! What is written: events, endpoints, deliveries and attempts, each the same for the same number.

use std::time::Duration;

use neo_events_domain::{
    Timestamp,
    delivery::{AttemptRecord, Trigger},
    endpoint::{Endpoint, EndpointDraft, Profile},
    event::{EventDraft, NewEvent},
    id::{Id, IdEntropy},
    retry::{Outcome, Verdict},
};
use neo_events_store::{DeliveryWork, Lease, NewDelivery, Settlement};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn entropy(n: u64) -> IdEntropy {
    let mut entropy = [0; 10];
    entropy[2..].copy_from_slice(&n.to_be_bytes());
    entropy
}

/// Its data is its own, so that another's is noticed.
pub(crate) fn event(n: u64, data_bytes: usize) -> NewEvent {
    let data = format!(r#"{{ "n": {n},"a":"{}"}}"#, "x".repeat(data_bytes));
    EventDraft::new("user.created", data).validate(at(0), entropy(n)).unwrap()
}

pub(crate) fn endpoint(n: u64) -> Endpoint {
    let draft = EndpointDraft::standard("receiver", "https://example.com/hook");
    let url = Ok(draft.endpoint_url.clone());
    let limits = Profile::Production.endpoint_limits();
    draft.validate(Id::new(at(0), entropy(n)), at(0), limits, url).unwrap()
}

/// The n-th to an endpoint.
pub(crate) fn delivery(n: u64, endpoint: &Endpoint) -> NewDelivery {
    NewDelivery {
        id: Id::new(at(0), entropy(n)),
        endpoint_id: endpoint.id,
        trigger: Trigger::Event,
        subscription_ids: Vec::new(),
        max_attempts: 1 + endpoint.retry.max_retry_attempts,
        retry: endpoint.retry,
    }
}

/// What a first attempt came to: a success, or another try.
pub(crate) fn settlement(lease: Lease<DeliveryWork>, succeeds: bool) -> Settlement {
    let attempt = AttemptRecord {
        request_id: Id::new(at(1), entropy(0)),
        attempt_number: 1,
        endpoint_revision: 1,
        signatures: None,
        outcome: Outcome::Answered { status: if succeeds { 200 } else { 503 }, retry_after: None },
        response: None,
        error_message: None,
        connection_reused: false,
        attempted_at: at(1),
        completed_at: at(2),
        response_time: Duration::from_secs(1),
    };
    let verdict = if succeeds { Verdict::Succeeded } else { Verdict::Retry(at(10)) };
    Settlement { lease, attempt, verdict }
}
