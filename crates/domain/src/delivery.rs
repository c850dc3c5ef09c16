//! Deliveries: an event owed to an endpoint, with the attempts made.
//!
//! ```text
//!            ┌────────── retry now ──────────┐
//!            ▼                               │
//! pending ─► retrying ⟲ ─► success         failed
//!    │          ├─────────────────────────►  ▲
//!    └──────────┴─► cancelled ─ retry now ─► retrying
//! ```
//!
//! A delivery in flight is still `pending` or `retrying`; cancelling it takes effect when the attempt ends.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    id::{DeliveryId, EndpointId, EventId, RequestId, SubscriptionId},
    retry::{Outcome, RetryPolicy, Verdict},
    signing::Signatures,
};

/// Most bytes of a response's body that an attempt keeps.
pub const RESPONSE_BODY_BYTES_KEPT: usize = 10 * 1024;
/// Most attempts of a delivery, those by hand included.
pub const ATTEMPTS_MAX: u32 = 65_535;
/// Longest reason for a cancellation, in characters.
pub const CANCEL_REASON_CHARS_MAX: usize = 500;
/// The reason that deleting an endpoint gives.
pub const CANCEL_REASON_ENDPOINT_DELETED: &str = "endpoint_deleted";

/// Why a delivery exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Subscriptions matched the event.
    Event,
    /// Somebody tests the endpoint.
    Test,
}

impl Trigger {
    /// `event` or `test`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Test => "test",
        }
    }
}

impl std::str::FromStr for Trigger {
    type Err = UnknownTrigger;
    fn from_str(name: &str) -> Result<Self, UnknownTrigger> {
        [Self::Event, Self::Test].into_iter().find(|trigger| trigger.as_str() == name).ok_or(UnknownTrigger)
    }
}

/// No delivery has such a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a delivery's trigger is event or test")]
pub struct UnknownTrigger;

/// Where a delivery stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryState {
    /// Not attempted yet.
    Pending,
    /// Attempted without success, to be attempted again.
    Retrying {
        /// When.
        next_retry_at: Timestamp,
    },
    /// A 2xx was recorded.
    Success,
    /// Over without success.
    Failed {
        /// Whether it used all its attempts; otherwise trying again would not have helped.
        max_attempts_reached: bool,
    },
    /// Ended by a person, or with its endpoint.
    Cancelled {
        /// By whom or why.
        reason: String,
    },
}

/// The public name of a [`DeliveryState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// [`DeliveryState::Pending`]
    Pending,
    /// [`DeliveryState::Retrying`]
    Retrying,
    /// [`DeliveryState::Success`]
    Success,
    /// [`DeliveryState::Failed`]
    Failed,
    /// [`DeliveryState::Cancelled`]
    Cancelled,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Retrying, Self::Success, Self::Failed, Self::Cancelled];

    /// As users and the database know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::str::FromStr for DeliveryStatus {
    type Err = UnknownStatus;
    fn from_str(name: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == name).ok_or(UnknownStatus)
    }
}

/// No delivery has such a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a delivery is pending, retrying, success, failed or cancelled")]
pub struct UnknownStatus;

impl DeliveryState {
    /// The public name.
    pub const fn status(&self) -> DeliveryStatus {
        match self {
            Self::Pending => DeliveryStatus::Pending,
            Self::Retrying { .. } => DeliveryStatus::Retrying,
            Self::Success => DeliveryStatus::Success,
            Self::Failed { .. } => DeliveryStatus::Failed,
            Self::Cancelled { .. } => DeliveryStatus::Cancelled,
        }
    }

    /// Whether it is over, unless somebody retries it.
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Pending | Self::Retrying { .. })
    }

    /// As the columns of its row say it. Tables promise a time while it is retrying and a reason once it is cancelled;
    /// a row that has none all the same can be read, and is due at once, or cancelled without a word.
    pub fn from_stored(
        status: DeliveryStatus,
        due_at: Option<Timestamp>,
        max_attempts_reached: bool,
        cancel_reason: Option<String>,
    ) -> Self {
        match status {
            DeliveryStatus::Pending => Self::Pending,
            DeliveryStatus::Retrying => {
                Self::Retrying { next_retry_at: due_at.unwrap_or(Timestamp::UNIX_EPOCH) }
            }
            DeliveryStatus::Success => Self::Success,
            DeliveryStatus::Failed => Self::Failed { max_attempts_reached },
            DeliveryStatus::Cancelled => Self::Cancelled { reason: cancel_reason.unwrap_or_default() },
        }
    }

    /// What an attempt's verdict makes of it. A cancellation asked for while it was in flight wins over another
    /// try, but not over a success or a failure that is final anyway.
    pub fn after(verdict: Verdict, cancel_requested: Option<String>) -> Self {
        match (verdict, cancel_requested) {
            (Verdict::Succeeded, _) => Self::Success,
            (Verdict::Retry(_), Some(reason)) => Self::Cancelled { reason },
            (Verdict::Retry(next_retry_at), None) => Self::Retrying { next_retry_at },
            (Verdict::Exhausted, _) => Self::Failed { max_attempts_reached: true },
            (Verdict::Rejected | Verdict::Gone, _) => Self::Failed { max_attempts_reached: false },
        }
    }
}

/// An operation that a delivery's state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IllegalTransition {
    /// Cancelling what is over.
    #[error("a delivery that is {} cannot be cancelled", .0.as_str())]
    Cancel(DeliveryStatus),
    /// Retrying what was delivered, or waits for its first attempt.
    #[error("a delivery that is {} cannot be retried", .0.as_str())]
    Retry(DeliveryStatus),
    /// Retrying what has had all the attempts that a delivery can have.
    #[error("the delivery has had {ATTEMPTS_MAX} attempts, which is the most that one can have")]
    Exhausted,
}

/// An event owed to an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// UUIDv7.
    pub id: DeliveryId,
    /// Where to.
    pub webhook_endpoint_id: EndpointId,
    /// What.
    pub webhook_event_id: EventId,
    /// Where it stands.
    pub state: DeliveryState,
    /// Attempts made.
    pub current_attempt: u32,
    /// Attempts allowed in all: one more than the endpoint's retries when it was created, and one more for each
    /// retry by hand after the last.
    pub max_attempts: u32,
    /// The endpoint's settings when it was created.
    pub retry: RetryPolicy,
    /// A cancellation asked for while an attempt was in flight.
    pub cancel_requested: Option<String>,
    /// Why it exists.
    pub trigger: Trigger,
    /// The subscriptions that matched.
    pub subscription_ids: Vec<SubscriptionId>,
    /// When the event was dispatched.
    pub created_at: Timestamp,
}

impl Delivery {
    /// Whether a retry by hand is allowed.
    pub fn can_retry(&self) -> bool {
        matches!(
            self.state,
            DeliveryState::Retrying { .. } | DeliveryState::Failed { .. } | DeliveryState::Cancelled { .. }
        )
    }

    /// Whether its next attempt is due.
    pub fn ready_for_retry(&self, now: Timestamp) -> bool {
        match self.state {
            DeliveryState::Pending => true,
            DeliveryState::Retrying { next_retry_at } => next_retry_at <= now,
            _ => false,
        }
    }

    /// The wait that a failure of the next attempt would bring, without jitter.
    pub fn next_delay(&self) -> Duration {
        self.retry.delay_after(self.current_attempt + 1)
    }

    /// Due at once, with an attempt left.
    pub fn retried_now(self, now: Timestamp) -> Result<Self, IllegalTransition> {
        if !self.can_retry() {
            return Err(IllegalTransition::Retry(self.state.status()));
        }
        if self.current_attempt >= ATTEMPTS_MAX {
            return Err(IllegalTransition::Exhausted);
        }
        Ok(Self {
            state: DeliveryState::Retrying { next_retry_at: now },
            max_attempts: self.max_attempts.max(self.current_attempt + 1),
            cancel_requested: None,
            ..self
        })
    }

    /// Ended with a reason; if an attempt is in flight, when that ends.
    pub fn cancelled(self, reason: &str, in_flight: bool) -> Result<Self, IllegalTransition> {
        if self.state.is_final() {
            return Err(IllegalTransition::Cancel(self.state.status()));
        }
        let reason = reason.to_owned();
        Ok(if in_flight {
            Self { cancel_requested: Some(reason), ..self }
        } else {
            Self { state: DeliveryState::Cancelled { reason }, cancel_requested: None, ..self }
        })
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptStatus {
    /// 2xx.
    Success,
    /// Another answer, or none.
    Failed,
    /// No answer in time.
    Timeout,
}

impl AttemptStatus {
    /// As users and the database know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }

    /// What an outcome is called.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Answered { status: 200..=299, .. } => Self::Success,
            Outcome::Failed(code) if code.is_timeout() => Self::Timeout,
            Outcome::Answered { .. } | Outcome::Failed(_) => Self::Failed,
        }
    }
}

impl std::str::FromStr for AttemptStatus {
    type Err = UnknownAttemptStatus;
    fn from_str(name: &str) -> Result<Self, UnknownAttemptStatus> {
        [Self::Success, Self::Failed, Self::Timeout]
            .into_iter()
            .find(|status| status.as_str() == name)
            .ok_or(UnknownAttemptStatus)
    }
}

/// No attempt has such a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an attempt is success, failed or timeout")]
pub struct UnknownAttemptStatus;

/// Whether an attempt with this error code was answered: only then it has a response time.
pub fn is_answered(error_code: Option<&str>) -> bool {
    error_code.is_none_or(|code| code.starts_with("HTTP_"))
}

/// What the receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedResponse {
    /// HTTP status.
    pub status: u16,
    /// In the order received.
    pub headers: Vec<(String, String)>,
    /// The first [`RESPONSE_BODY_BYTES_KEPT`] bytes.
    pub body: Vec<u8>,
    /// Whether there was more.
    pub body_truncated: bool,
}

/// What an attempt found out, to be recorded with its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// The value of `X-Neo-Request-ID`.
    pub request_id: RequestId,
    /// The first is 1.
    pub attempt_number: u32,
    /// The endpoint's revision that made the request: its URL, method and headers.
    pub endpoint_revision: u32,
    /// As sent; `None` if nothing could be signed.
    pub signatures: Option<Signatures>,
    /// How it ended.
    pub outcome: Outcome,
    /// The answer, as far as it came.
    pub response: Option<ReceivedResponse>,
    /// In words, for the endpoint's owner.
    pub error_message: Option<String>,
    /// Whether the connection had served a request before.
    pub connection_reused: bool,
    /// When it began; also the signed timestamp.
    pub attempted_at: Timestamp,
    /// When it ended. Never before it began, whatever the clock did.
    pub completed_at: Timestamp,
    /// How long it took by a clock that does not jump.
    pub response_time: Duration,
}

/// An attempt as it is shown: immutable once recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The first is 1.
    pub attempt_number: u32,
    /// How it ended.
    pub delivery_status: AttemptStatus,
    /// Where it went.
    pub request_url: String,
    /// How.
    pub request_method: String,
    /// As sent, secrets redacted.
    pub request_headers: Vec<(String, String)>,
    /// As sent: made of the event again.
    pub request_body: Arc<str>,
    /// `webhook-signature` as sent.
    pub signature: Option<String>,
    /// The answer, as far as it came.
    pub response: Option<ReceivedResponse>,
    /// From its beginning to its end, in milliseconds, whether an answer came or not.
    pub response_time_ms: u64,
    /// In words.
    pub error_message: Option<String>,
    /// `HTTP_503`, `timeout_connect`, …
    pub error_code: Option<String>,
    /// Whether the connection had served a request before.
    pub connection_reused: bool,
    /// When it began.
    pub attempted_at: Timestamp,
    /// When it ended.
    pub completed_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::EventId, retry::FailureCode};

    fn delivery(state: DeliveryState) -> Delivery {
        Delivery {
            id: DeliveryId::from_uuid(uuid::Uuid::nil()),
            webhook_endpoint_id: EndpointId::from_uuid(uuid::Uuid::nil()),
            webhook_event_id: EventId::from_uuid(uuid::Uuid::nil()),
            state,
            current_attempt: 4,
            max_attempts: 4,
            retry: RetryPolicy::STANDARD,
            cancel_requested: None,
            trigger: Trigger::Event,
            subscription_ids: vec![],
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn every_state() -> Vec<DeliveryState> {
        vec![
            DeliveryState::Pending,
            DeliveryState::Retrying { next_retry_at: Timestamp::MAX },
            DeliveryState::Success,
            DeliveryState::Failed { max_attempts_reached: true },
            DeliveryState::Cancelled { reason: "x".into() },
        ]
    }

    #[test]
    fn retry_now_leaves_an_attempt_and_success_stays() {
        for state in every_state() {
            let allowed = matches!(
                state.status(),
                DeliveryStatus::Retrying | DeliveryStatus::Failed | DeliveryStatus::Cancelled
            );
            let retried = delivery(state.clone()).retried_now(Timestamp::UNIX_EPOCH);
            assert_eq!(retried.is_ok(), allowed, "{state:?}");
            if let Ok(retried) = retried {
                assert!(retried.ready_for_retry(Timestamp::UNIX_EPOCH));
                assert_eq!(retried.max_attempts, 5);
            }
        }
    }

    #[test]
    fn after_the_last_attempt_there_is_no_other() {
        let at = |current_attempt| {
            let state = DeliveryState::Failed { max_attempts_reached: true };
            let delivery = Delivery { current_attempt, max_attempts: current_attempt, ..delivery(state) };
            delivery.retried_now(Timestamp::UNIX_EPOCH)
        };
        assert_eq!(at(ATTEMPTS_MAX - 1).unwrap().max_attempts, ATTEMPTS_MAX);
        let refused = at(ATTEMPTS_MAX).unwrap_err();
        assert!(refused.to_string().contains("has had 65535 attempts"), "{refused}");
    }

    #[test]
    fn only_what_is_not_over_can_be_cancelled_and_what_flies_lands_first() {
        for state in every_state() {
            let cancelled = delivery(state.clone()).cancelled("why", false);
            assert_eq!(cancelled.is_ok(), !state.is_final(), "{state:?}");
        }
        let flying = delivery(DeliveryState::Pending).cancelled("why", true).unwrap();
        assert_eq!(flying.state, DeliveryState::Pending);
        let requested = flying.cancel_requested;
        let at = Timestamp::UNIX_EPOCH;
        let cancelled = DeliveryState::Cancelled { reason: "why".into() };
        assert_eq!(DeliveryState::after(Verdict::Retry(at), requested.clone()), cancelled);
        assert_eq!(DeliveryState::after(Verdict::Succeeded, requested), DeliveryState::Success);
    }

    #[test]
    fn a_row_without_what_its_state_needs_can_be_read() {
        let read = |status| DeliveryState::from_stored(status, None, false, None).status();
        assert_eq!(DeliveryStatus::ALL.map(read), DeliveryStatus::ALL);
    }

    #[test]
    fn an_error_code_tells_whether_there_was_an_answer() {
        let answered = |outcome: Outcome| is_answered(outcome.error_code().as_deref());
        for status in [200, 204, 302, 410, 503] {
            assert!(answered(Outcome::Answered { status, retry_after: None }), "{status}");
        }
        for code in FailureCode::ALL {
            assert!(!answered(Outcome::Failed(code)), "{code:?}");
        }
    }

    #[test]
    fn the_next_delay_is_what_another_failure_would_bring() {
        // Five seconds, doubled four times: what a failure of the fifth attempt would bring.
        assert_eq!(delivery(DeliveryState::Success).next_delay(), Duration::from_secs(80));
    }
}
