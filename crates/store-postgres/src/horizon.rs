//! How far claims of dispatches have seen.
//!
//! A claim that brings less than it may has seen everything that was committed. From then on only transactions that
//! were running at that moment, and younger ones, can bring more: the [`Horizon`] remembers them, and the next claim
//! looks at nothing else. A claim that brings all it may has seen everything up to the last row of it, and the next one
//! goes on from there. Now and then one looks at everything again, which is what makes the horizon a mere shortcut.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use neo_events_domain::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::{columns::Columns, failure::Failure};

/// How long at least until everything is looked at again.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(2);
/// And how long at most, however long it took: it may have waited for something else.
const FULL_SCAN_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Looking at everything may take this share of the time, where dead rows that cannot be removed make it slow, as far as
/// that leaves it due by then.
const FULL_SCAN_SHARE: u32 = 20;

/// How long after its end a lease can still be settled here, if nobody else has the row.
const LATE_MAX: SignedDuration = SignedDuration::from_mins(10);

/// A row's key: the transaction that wrote it, and its number.
pub(crate) type Place = (i64, i64);
/// A lease of a row: the row's number, and the lease's token.
pub(crate) type LeaseKey = (i64, i64);

/// Up to where everything owed has been seen.
#[derive(Default)]
pub(crate) struct Horizon(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Everything up to here has been seen, except what was written by those that were running.
    from: Place,
    running: Vec<i64>,
    /// When to look at everything again.
    full_scan_at: Option<Instant>,
    /// When the first of the leases granted here can be over: what is leased is not seen until then.
    leases_end_at: Option<Timestamp>,
    /// The transactions that wrote the rows which are leased: half of their key. By the other half, and the lease's
    /// token: whoever lost a lease must not take away what its new holder needs. With the end of the lease, since not
    /// every holder ends it.
    xids: HashMap<LeaseKey, (i64, Timestamp)>,
}

impl Horizon {
    /// Forgets what was seen: rows were given back, or freed from a node that died.
    pub(crate) fn forget(&self) {
        self.seen().full_scan_at = None;
    }

    /// What the next claim has to look at.
    pub(crate) fn view(&self, now: Timestamp) -> View {
        let mut seen = self.seen();
        let may_have_ended = seen.leases_end_at.take_if(|at| *at <= now).is_some();
        if may_have_ended {
            // Of those that nobody ended.
            let too_late = now.saturating_sub(LATE_MAX).unwrap_or(now);
            seen.xids.retain(|_, (_, until)| *until > too_late);
        }
        if may_have_ended || seen.full_scan_at.is_none_or(|at| at <= Instant::now()) {
            // Set for real once it is known how long it took.
            seen.full_scan_at = Some(Instant::now() + FULL_SCAN_INTERVAL);
            return View::EVERYTHING;
        }
        View { from: seen.from, running: seen.running.clone() }
    }

    /// Notes what is left, after a claim that looked at a view.
    pub(crate) fn has_seen(&self, view: &View, took: Duration, left: View) {
        let mut seen = self.seen();
        (seen.from, seen.running) = (left.from, left.running);
        if view.is_everything() && seen.full_scan_at.is_some() {
            let pause = (took * FULL_SCAN_SHARE).clamp(FULL_SCAN_INTERVAL, FULL_SCAN_INTERVAL_MAX);
            seen.full_scan_at = Some(Instant::now() + pause);
        }
    }

    /// Rows are leased until this time.
    pub(crate) fn leased(&self, until: Timestamp) {
        let mut seen = self.seen();
        seen.leases_end_at = Some(seen.leases_end_at.map_or(until, |at| at.min(until)));
    }

    /// These are in the hands of somebody who may settle them, and these transactions wrote their rows.
    pub(crate) fn handed_out(&self, rows: impl Iterator<Item = (LeaseKey, i64)>, until: Timestamp) {
        self.seen().xids.extend(rows.map(|(key, xid)| (key, (xid, until))));
    }

    /// The transactions that wrote these rows.
    pub(crate) fn xids_of(&self, leases: impl Iterator<Item = LeaseKey>) -> Vec<i64> {
        let seen = self.seen();
        leases.map(|key| seen.xids.get(&key).map_or(0, |(xid, _)| *xid)).collect()
    }

    /// These are no longer leased.
    pub(crate) fn ended(&self, leases: impl Iterator<Item = LeaseKey>) {
        let mut seen = self.seen();
        for key in leases {
            seen.xids.remove(&key);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a claim has to look at: what lies behind a place, and these transactions.
pub(crate) struct View {
    pub(crate) from: Place,
    pub(crate) running: Vec<i64>,
}

impl View {
    const EVERYTHING: Self = Self { from: (0, 0), running: Vec::new() };

    fn is_everything(&self) -> bool {
        self.from == Self::EVERYTHING.from
    }
}

/// Which transactions were over, as of a moment: all before one, but for those that were running.
pub(crate) struct Snapshot {
    end: i64,
    running: Vec<i64>,
}

impl Snapshot {
    pub(crate) fn read(row: &Row) -> Result<Self, Failure> {
        let mut columns = Columns::of(row);
        Ok(Self { end: columns.take()?, running: columns.take()? })
    }

    /// What is left to be looked at after everything there was.
    pub(crate) fn after_all(self) -> View {
        View { from: (self.end, 0), running: self.running }
    }

    /// What is left to be looked at after what a view had up to its last row; of its transactions, nothing was.
    pub(crate) fn after_part(self, view: &View, last: Place) -> View {
        // A transaction that began after the snapshot may have been faster than older ones.
        let from = last.min((self.end, 0));
        let mut running: Vec<i64> = self.running.into_iter().filter(|xid| *xid <= from.0).collect();
        running.extend_from_slice(&view.running);
        running.sort_unstable();
        running.dedup();
        View { from, running }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_settles_is_forgotten() {
        let (horizon, at) = (Horizon::default(), |second| Timestamp::from_second(second).unwrap());
        for (no, second) in [(1, 60), (2, 900)] {
            horizon.leased(at(second));
            horizon.handed_out([((no, 7), 5)].into_iter(), at(second));
        }
        let xids_of = |key| horizon.xids_of([key].into_iter());
        horizon.view(at(60));
        assert_eq!(xids_of((1, 7)), [5], "its holder may be late");
        assert_eq!(xids_of((1, 8)), [0], "another lease of the same row");
        horizon.leased(at(700));
        horizon.view(at(700));
        assert_eq!(xids_of((1, 7)), [0]);
        assert_eq!(xids_of((2, 7)), [5]);
        horizon.ended([(2, 7)].into_iter());
        assert!(horizon.seen().xids.is_empty());
    }

    #[test]
    fn what_was_not_seen_is_looked_at_again() {
        let view = View { from: (50, 3), running: vec![40, 45] };
        let snapshot = || Snapshot { end: 100, running: vec![45, 60, 80] };
        let left = snapshot().after_all();
        assert_eq!((left.from, left.running), ((100, 0), vec![45, 60, 80]), "all of the view was seen");
        let left = snapshot().after_part(&view, (70, 2));
        assert_eq!((left.from, left.running), ((70, 2), vec![40, 45, 60]), "80 lies behind the place");
        let left = snapshot().after_part(&view, (60, 2));
        assert_eq!((left.from, left.running), ((60, 2), vec![40, 45, 60]), "60 had committed only just");
        let left = snapshot().after_part(&View::EVERYTHING, (120, 9));
        assert_eq!((left.from, left.running), ((100, 0), vec![45, 60, 80]), "99 may come before 120");
    }
}
