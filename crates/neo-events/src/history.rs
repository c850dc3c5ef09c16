//! A delivery with its newest attempts, and what they say about it.
//!
//! A delivery may have tens of thousands of attempts, if it is retried by hand again and again, and each carries the
//! whole body that was sent. So a history has as many as are looked at together, and says whether there are earlier
//! ones, which [`Tenant::attempts`](crate::Tenant::attempts) reads.

use neo_events_domain::{
    SignedDuration,
    delivery::{Attempt, AttemptStatus, Delivery},
};
use neo_events_store::{Cursor, Page};

/// Most attempts of a [`DeliveryHistory`]; fewer where they are large.
pub const HISTORY_ATTEMPTS_MAX: u32 = 100;

/// A delivery with its newest attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryHistory {
    /// The delivery.
    pub delivery: Delivery,
    /// Whether it is not over and waits because its endpoint is inactive.
    pub is_held: bool,
    /// At most [`HISTORY_ATTEMPTS_MAX`] attempts, oldest first.
    pub newest_attempts: Vec<Attempt>,
    /// Where [`Tenant::attempts`](crate::Tenant::attempts) goes on with earlier ones; `None` if these are all.
    pub earlier: Option<Cursor>,
}

impl DeliveryHistory {
    /// Of the first page of its attempts.
    pub(crate) fn new(delivery: Delivery, is_held: bool, page: Page<Attempt>) -> Self {
        let newest_attempts = page.items.into_iter().rev().collect();
        Self { delivery, is_held, newest_attempts, earlier: page.next }
    }

    /// How many attempts there were before those that are here. They are numbered from 1 without a gap.
    pub fn earlier_attempts(&self) -> u32 {
        match (&self.earlier, self.newest_attempts.first()) {
            (Some(_), Some(first)) => first.attempt_number - 1,
            _ => 0,
        }
    }

    /// The newest attempt.
    pub fn latest_attempt(&self) -> Option<&Attempt> {
        self.newest_attempts.last()
    }

    /// The attempt that succeeded. There is none after it.
    pub fn successful_attempt(&self) -> Option<&Attempt> {
        self.latest_attempt().filter(|attempt| attempt.delivery_status == AttemptStatus::Success)
    }

    /// From the first attempt's beginning to the last one's end; `None` if the first is not here.
    pub fn total_duration(&self) -> Option<SignedDuration> {
        match (&self.earlier, self.newest_attempts.first(), self.newest_attempts.last()) {
            (Some(_), ..) => None,
            (None, Some(first), Some(last)) => Some(last.completed_at.duration_since(first.attempted_at)),
            (None, ..) => Some(SignedDuration::ZERO),
        }
    }

    /// Share of all its attempts that succeeded, 0…1; `None` before the first.
    pub fn success_rate(&self) -> Option<f64> {
        let attempts = Some(self.delivery.current_attempt).filter(|count| *count > 0)?;
        Some(f64::from(u8::from(self.successful_attempt().is_some())) / f64::from(attempts))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use neo_events_domain::{
        Timestamp, Uuid,
        delivery::{DeliveryState, Trigger},
        id::Id,
        retry::RetryPolicy,
    };

    use super::*;

    fn delivery(current_attempt: u32) -> Delivery {
        Delivery {
            id: Id::from_uuid(Uuid::nil()),
            webhook_endpoint_id: Id::from_uuid(Uuid::nil()),
            webhook_event_id: Id::from_uuid(Uuid::nil()),
            state: DeliveryState::Pending,
            current_attempt,
            max_attempts: current_attempt,
            retry: RetryPolicy::STANDARD,
            cancel_requested: None,
            trigger: Trigger::Event,
            subscription_ids: vec![],
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn attempt(number: u32, delivery_status: AttemptStatus, from: i64, to: i64) -> Attempt {
        let at = |second| Timestamp::from_second(second).unwrap();
        Attempt {
            attempt_number: number,
            delivery_status,
            request_url: "https://example.com/".into(),
            request_method: "POST".into(),
            request_headers: vec![],
            request_body: Arc::default(),
            signature: None,
            response: None,
            response_time_ms: 0,
            error_message: None,
            error_code: None,
            connection_reused: false,
            attempted_at: at(from),
            completed_at: at(to),
        }
    }

    #[test]
    fn a_history_answers_for_its_attempts() {
        let none = DeliveryHistory::new(delivery(0), false, Page { items: vec![], next: None });
        assert_eq!((none.latest_attempt(), none.success_rate(), none.earlier_attempts()), (None, None, 0));
        assert_eq!(none.total_duration(), Some(SignedDuration::ZERO));
        let newest_first =
            vec![attempt(2, AttemptStatus::Success, 45, 46), attempt(1, AttemptStatus::Timeout, 10, 40)];
        let history = DeliveryHistory::new(delivery(2), false, Page { items: newest_first, next: None });
        assert_eq!(history.latest_attempt().unwrap().attempt_number, 2);
        assert_eq!(history.successful_attempt().unwrap().attempt_number, 2);
        assert_eq!(history.total_duration(), Some(SignedDuration::from_secs(36)));
        assert_eq!((history.success_rate(), history.earlier_attempts()), (Some(0.5), 0));
    }

    #[test]
    fn what_only_earlier_attempts_know_is_not_guessed() {
        let newest_first =
            vec![attempt(8, AttemptStatus::Success, 45, 46), attempt(7, AttemptStatus::Timeout, 10, 40)];
        let page = Page { items: newest_first, next: Some(Cursor::new("7")) };
        let history = DeliveryHistory::new(delivery(8), false, page);
        assert_eq!((history.earlier_attempts(), history.total_duration()), (6, None));
        assert_eq!(history.success_rate(), Some(0.125), "of all eight");
    }
}
