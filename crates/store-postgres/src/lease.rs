//! How a lease is kept in columns: the session that holds it, until when, and a fencing token. The row that a lease is
//! on is found by the lease's key: in the queue of deliveries by when it was due ([`queue_key`]), among the owed
//! dispatches by its number.

use std::sync::atomic::{AtomicI64, Ordering};

use neo_events_domain::{Timestamp, time::to_micros};
use neo_events_store::{DeliveryWork, Lease};

/// Whose leases a statement writes, and until when.
#[derive(Clone, Copy)]
pub(crate) struct LeaseTerms {
    pub(crate) session: i64,
    pub(crate) until: Timestamp,
}

/// A fencing token as the database holds it.
pub(crate) fn token(token: u64) -> i64 {
    i64::try_from(token).unwrap_or(i64::MAX)
}

/// The key of a lease: with what the work names it finds the row in the queue, while nobody moves that.
pub(crate) fn queue_key(due_at: Timestamp) -> i64 {
    due_at.as_microsecond()
}

/// When the delivery was due that is leased under this key.
pub(crate) fn due_at(lease: &Lease<DeliveryWork>) -> Timestamp {
    Timestamp::from_microsecond(lease.key()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Ends of leases, no two of which are equal: by them the leases of a statement are found whose answer was lost.
#[derive(Default)]
pub(crate) struct LeaseEnds(AtomicI64);

impl LeaseEnds {
    /// This time, or as little later as it takes to be after the last one.
    pub(crate) fn next(&self, until: Timestamp) -> Timestamp {
        let until = to_micros(until);
        let wanted = until.as_microsecond();
        let last =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wanted.max(last + 1)));
        let last = last.unwrap_or_else(|last| last);
        Timestamp::from_microsecond(wanted.max(last + 1)).unwrap_or(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_leases_end_at_the_same_time() {
        let ends = LeaseEnds::default();
        let at = |micros| Timestamp::from_microsecond(micros).unwrap();
        assert_eq!([10, 10, 5, 20, 20].map(|n| ends.next(at(n)).as_microsecond()), [10, 11, 12, 20, 21]);
    }
}
