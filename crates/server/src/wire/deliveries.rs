//! Deliveries and their attempts.

use neo_events::{
    Cursor, DeliveryHistory, DeliveryState, Timestamp,
    domain::{delivery::is_answered, id::Id},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Pairs;

/// Why a delivery waits that is due.
const HELD_REASON: &str = "the endpoint is inactive";

/// Why a delivery is cancelled.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct CancelIn {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// An event owed to an endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) id: Uuid,
    pub(crate) webhook_endpoint_id: Uuid,
    pub(crate) webhook_event_id: Uuid,
    /// `pending`, `retrying`, `success`, `failed` or `cancelled`.
    pub(crate) overall_status: String,
    pub(crate) current_attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) base_backoff_seconds: u32,
    pub(crate) backoff_multiplier: f64,
    pub(crate) next_retry_at: Option<Timestamp>,
    pub(crate) max_attempts_reached: bool,
    /// Why it was cancelled, or will be when the attempt in flight ends.
    pub(crate) cancel_reason: Option<String>,
    /// Why it waits although it is due; absent where nothing holds it, and in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held_reason: Option<String>,
    /// `event` or `test`.
    pub(crate) trigger: String,
    pub(crate) subscription_ids: Vec<Uuid>,
    pub(crate) created_at: Timestamp,
    /// The newest of them, as many as fit into an answer, oldest first; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<Vec<Attempt>>,
    /// How many there were before those; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) earlier_attempts: Option<u32>,
    /// `cursor` of `/v1/deliveries/{id}/attempts`, to go on with those; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) earlier_attempts_cursor: Option<String>,
}

impl From<neo_events::Delivery> for Delivery {
    fn from(delivery: neo_events::Delivery) -> Self {
        let status = delivery.state.status();
        let max_attempts_reached = delivery.state == DeliveryState::Failed { max_attempts_reached: true };
        let (next_retry_at, cancel_reason) = match delivery.state {
            DeliveryState::Retrying { next_retry_at } => (Some(next_retry_at), delivery.cancel_requested),
            DeliveryState::Cancelled { reason } => (None, Some(reason)),
            DeliveryState::Pending => (None, delivery.cancel_requested),
            DeliveryState::Success | DeliveryState::Failed { .. } => (None, None),
        };
        Self {
            id: delivery.id.uuid(),
            webhook_endpoint_id: delivery.webhook_endpoint_id.uuid(),
            webhook_event_id: delivery.webhook_event_id.uuid(),
            overall_status: status.as_str().to_owned(),
            current_attempt: delivery.current_attempt,
            max_attempts: delivery.max_attempts,
            base_backoff_seconds: delivery.retry.backoff_seconds,
            backoff_multiplier: delivery.retry.backoff_multiplier,
            next_retry_at,
            max_attempts_reached,
            cancel_reason,
            held_reason: None,
            trigger: delivery.trigger.as_str().to_owned(),
            subscription_ids: delivery.subscription_ids.into_iter().map(Id::uuid).collect(),
            created_at: delivery.created_at,
            attempts: None,
            earlier_attempts: None,
            earlier_attempts_cursor: None,
        }
    }
}

impl Delivery {
    /// With its newest attempts; `hand_out` makes of the cursor of earlier ones what the caller gets.
    pub(crate) fn with_attempts(history: DeliveryHistory, hand_out: impl FnOnce(&Cursor) -> String) -> Self {
        Self {
            held_reason: history.is_held.then(|| HELD_REASON.to_owned()),
            earlier_attempts: Some(history.earlier_attempts()),
            earlier_attempts_cursor: history.earlier.as_ref().map(hand_out),
            attempts: Some(history.newest_attempts.into_iter().map(Attempt::from).collect()),
            ..history.delivery.into()
        }
    }
}

/// One HTTP request of a delivery, and its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) attempt_number: u32,
    /// `success`, `failed` or `timeout`.
    pub(crate) delivery_status: String,
    pub(crate) request_url: String,
    pub(crate) request_method: String,
    /// As sent, secrets redacted.
    pub(crate) request_headers: Pairs<String>,
    /// The signed bytes.
    pub(crate) request_body: String,
    pub(crate) signature: Option<String>,
    pub(crate) response_status: Option<u16>,
    pub(crate) response_headers: Option<Pairs<String>>,
    /// The first 10 KiB; what is not UTF-8 is replaced.
    pub(crate) response_body: Option<String>,
    pub(crate) response_body_truncated: bool,
    /// `null` where no answer came.
    pub(crate) response_time_ms: Option<u64>,
    pub(crate) error_message: Option<String>,
    /// `HTTP_503`, `timeout_connect`, …
    pub(crate) error_code: Option<String>,
    pub(crate) connection_reused: bool,
    pub(crate) attempted_at: Timestamp,
    pub(crate) completed_at: Timestamp,
}

impl From<neo_events::Attempt> for Attempt {
    fn from(attempt: neo_events::Attempt) -> Self {
        let response = attempt.response;
        let response_body =
            response.as_ref().map(|response| String::from_utf8_lossy(&response.body).into_owned());
        Self {
            attempt_number: attempt.attempt_number,
            delivery_status: attempt.delivery_status.as_str().to_owned(),
            request_url: attempt.request_url,
            request_method: attempt.request_method,
            request_headers: Pairs::of_message(attempt.request_headers),
            request_body: attempt.request_body.to_string(),
            signature: attempt.signature,
            response_status: response.as_ref().map(|response| response.status),
            response_body,
            response_body_truncated: response.as_ref().is_some_and(|response| response.body_truncated),
            response_headers: response.map(|response| Pairs::of_message(response.headers)),
            response_time_ms: is_answered(attempt.error_code.as_deref()).then_some(attempt.response_time_ms),
            error_message: attempt.error_message,
            error_code: attempt.error_code,
            connection_reused: attempt.connection_reused,
            attempted_at: attempt.attempted_at,
            completed_at: attempt.completed_at,
        }
    }
}
