//! When the store is asked who is due.

use std::time::Duration;

use tokio::time::Instant;

/// How often, whatever the hints say.
const INTERVAL: Duration = Duration::from_millis(500);
/// Without hints, asking takes at most one part in this many of the time, for a list that takes up to a second.
const SHARE: u32 = 10;
/// It is asked again after this time at the latest, however long the last answer took: the database may have hung.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

/// The times of the questions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sweeps {
    /// The next one, if no hint comes.
    at: Instant,
    /// No hint brings it forward beyond this: the same share for a list that takes up to 50 ms, and [`INTERVAL`] after the
    /// last answer or failure for longer ones, since what hints tell of is to begin within a second.
    not_before: Instant,
}

impl Sweeps {
    /// The first one is now.
    pub(super) const fn starting(now: Instant) -> Self {
        Self { at: now, not_before: now }
    }

    pub(super) const fn next_at(&self) -> Instant {
        self.at
    }

    pub(super) fn are_due(&self, now: Instant) -> bool {
        self.at <= now
    }

    /// The store has answered, or could not.
    pub(super) fn ended(&mut self, began: Instant, now: Instant, answered: bool) {
        // A failure says nothing of how long the list is.
        let rest = if answered { ((now - began) * SHARE).min(INTERVAL_MAX) } else { INTERVAL };
        self.not_before = now + rest.min(INTERVAL);
        self.at = now + rest.max(INTERVAL);
    }

    /// Another node says that there may be something.
    pub(super) fn hinted(&mut self) {
        self.at = self.at.min(self.not_before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of the next questions, in milliseconds after an answer that took so long.
    fn after(took: u64, answered: bool) -> (u128, u128) {
        let began = Instant::now();
        let now = began + Duration::from_millis(took);
        let mut sweeps = Sweeps::starting(began);
        sweeps.ended(began, now, answered);
        let unasked = sweeps.next_at();
        sweeps.hinted();
        ((unasked - now).as_millis(), (sweeps.next_at() - now).as_millis())
    }

    #[test]
    fn a_long_list_is_asked_for_less_often_whatever_the_hints_say() {
        assert_eq!(after(1, true), (500, 10), "a hint does not wait for the interval");
        assert_eq!(after(100, true), (1_000, 500));
        assert_eq!(after(60_000, true), (10_000, 500), "the database hung");
    }

    #[test]
    fn a_failure_puts_off_the_next_question_whatever_the_hints_say() {
        assert_eq!(after(0, false), (500, 500));
        assert_eq!(after(5_000, false), (500, 500));
    }
}
