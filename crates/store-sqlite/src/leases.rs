//! Leases, in memory: one process owns the file, and when it ends nobody works any more, so that opening the file
//! frees them all. A claim writes nothing.
//!
//! Two things would let a row be claimed twice, and are kept from happening here:
//!
//! - A claim reads a snapshot. A lease that ends while it reads (the row is settled and committed) must still count,
//!   for the snapshot shows the row as it was. Such leases stay until the claim is over. Claims run one at a time.
//! - A step that settles or cancels a row pins it from its check until its commit, whatever the lease's expiry. What
//!   was performed stays with its holder also if the commit fails, for another lease from then on: as long as the
//!   holder tries again, and not for ever where nobody does.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use neo_events_domain::Timestamp;

/// The part of a token that counts grants; above it stands the number of the file's opening.
const GRANT_BITS: u32 = 40;

/// Makes fencing tokens that no other opening of the file made or will make.
pub(crate) struct Tokens(AtomicU64);

impl Tokens {
    pub(crate) const fn of_opening(opening: u64) -> Self {
        Self(AtomicU64::new(opening << GRANT_BITS))
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The leases on rows of one kind.
pub(crate) struct Leases {
    tokens: Arc<Tokens>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<i64, Entry>,
    claiming: bool,
    ended_meanwhile: Vec<i64>,
}

struct Entry {
    token: u64,
    hold: Hold,
}

#[derive(Clone, Copy)]
enum Hold {
    /// Granted, until a time.
    Until(Timestamp),
    /// Performed and not recorded yet; until then its holder tries again, which says no time of its own.
    Performed(Instant),
    /// A step is being committed.
    Pinned,
    /// Over, but a claim that is still reading may see the row as it was.
    Ended,
}

impl Leases {
    pub(crate) fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens, table: Mutex::default() }
    }

    /// To be called before a claim's snapshot is taken.
    pub(crate) fn begin_claim(&self) -> Claiming<'_> {
        let mut table = self.lock();
        debug_assert!(!table.claiming, "claims run one at a time");
        table.claiming = true;
        Claiming { leases: self, granted: Vec::new() }
    }

    /// Whether nobody holds the row.
    pub(crate) fn is_free(&self, row: i64, now: Timestamp) -> bool {
        self.lock().is_free(row, now)
    }

    /// Whether somebody holds any row.
    pub(crate) fn any_live(&self, now: Timestamp) -> bool {
        self.lock().entries.values().any(|entry| entry.hold.is_live(now))
    }

    /// For settling: pins the row if the token still holds it, expired or not.
    pub(crate) fn pin(self: &Arc<Self>, row: i64, token: u64) -> Option<Pin> {
        let mut table = self.lock();
        let entry = table.entries.get_mut(&row).filter(|entry| entry.token == token)?;
        let held = match entry.hold {
            Hold::Until(_) | Hold::Performed(_) => std::mem::replace(&mut entry.hold, Hold::Pinned),
            Hold::Pinned | Hold::Ended => return None,
        };
        drop(table);
        Some(Pin { leases: Arc::clone(self), row, token, back_to: BackTo::Held(held) })
    }

    /// For ending a row that nobody works on: pins it if it is free.
    pub(crate) fn pin_free(self: &Arc<Self>, row: i64, now: Timestamp) -> Option<Pin> {
        let token = self.tokens.next();
        let mut table = self.lock();
        if matches!(table.entries.get(&row), Some(Entry { hold, .. }) if hold.is_live(now)) {
            return None;
        }
        table.entries.insert(row, Entry { token, hold: Hold::Pinned });
        drop(table);
        Some(Pin { leases: Arc::clone(self), row, token, back_to: BackTo::Free })
    }

    /// Grants a row that is being written: nobody can have seen it, let alone hold it.
    pub(crate) fn grant_new(self: &Arc<Self>, row: i64, until: Timestamp) -> Grant {
        let token = self.tokens.next();
        self.lock().entries.insert(row, Entry { token, hold: Hold::Until(until) });
        Grant { leases: Arc::clone(self), row, token, is_kept: false }
    }

    /// Ends a lease without having changed its row.
    pub(crate) fn release(self: &Arc<Self>, row: i64, token: u64) {
        if let Some(pin) = self.pin(row, token) {
            pin.end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    fn is_live(self, now: Timestamp) -> bool {
        match self {
            Self::Until(expires_at) => expires_at > now,
            Self::Performed(until) => Instant::now() < until,
            Self::Pinned => true,
            Self::Ended => false,
        }
    }
}

impl Table {
    fn is_free(&self, row: i64, now: Timestamp) -> bool {
        self.entries.get(&row).is_none_or(|entry| match entry.hold {
            Hold::Ended => false,
            hold => !hold.is_live(now),
        })
    }

    fn end(&mut self, row: i64, token: u64) {
        if self.entries.get(&row).is_none_or(|entry| entry.token != token) {
            return;
        }
        if self.claiming {
            self.entries.insert(row, Entry { token, hold: Hold::Ended });
            self.ended_meanwhile.push(row);
        } else {
            self.entries.remove(&row);
        }
    }
}

/// A claim at work. Dropping it without [`Claiming::keep`] takes back what it granted.
pub(crate) struct Claiming<'a> {
    leases: &'a Leases,
    granted: Vec<(i64, u64)>,
}

impl Claiming<'_> {
    /// Whether nobody holds the row, as far as the claim's snapshot can tell.
    pub(crate) fn is_free(&self, row: i64, now: Timestamp) -> bool {
        self.leases.is_free(row, now)
    }

    /// Grants the row if nobody holds it.
    pub(crate) fn grant(&mut self, row: i64, now: Timestamp, until: Timestamp) -> Option<u64> {
        let token = self.leases.tokens.next();
        let mut table = self.leases.lock();
        if !table.is_free(row, now) {
            return None;
        }
        table.entries.insert(row, Entry { token, hold: Hold::Until(until) });
        self.granted.push((row, token));
        Some(token)
    }

    /// The claim succeeded.
    pub(crate) fn keep(mut self) {
        self.granted.clear();
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        let mut table = self.leases.lock();
        table.claiming = false;
        for (row, token) in std::mem::take(&mut self.granted) {
            table.end(row, token);
        }
        for row in std::mem::take(&mut table.ended_meanwhile) {
            if matches!(table.entries.get(&row), Some(Entry { hold: Hold::Ended, .. })) {
                table.entries.remove(&row);
            }
        }
    }
}

/// A lease on a row that is being written. Dropping it without [`Grant::keep`] takes it back: the row was not
/// committed.
pub(crate) struct Grant {
    leases: Arc<Leases>,
    row: i64,
    token: u64,
    is_kept: bool,
}

impl Grant {
    /// The row was committed: answers it, with the token.
    pub(crate) fn keep(mut self) -> (i64, u64) {
        self.is_kept = true;
        (self.row, self.token)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !self.is_kept {
            self.leases.lock().end(self.row, self.token);
        }
    }
}

/// A row that nobody else may claim or end while a step on it is committed. Dropping it gives the row back.
pub(crate) struct Pin {
    leases: Arc<Leases>,
    row: i64,
    token: u64,
    back_to: BackTo,
}

/// How a row is held once it is not pinned any more.
#[derive(Clone, Copy)]
enum BackTo {
    Free,
    /// As it was.
    Held(Hold),
    /// By whoever performed it, for so long.
    Performer(Duration),
}

impl Pin {
    /// If the step is not committed the row stays with its holder, who tries again, for so long from then on: what it
    /// records has happened, and must not happen twice.
    pub(crate) fn of_performed(mut self, kept: Duration) -> Self {
        self.back_to = BackTo::Performer(kept);
        self
    }

    /// The step was committed: the lease is over.
    pub(crate) fn end(mut self) {
        self.back_to = BackTo::Free;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut table = self.leases.lock();
        let hold = match self.back_to {
            BackTo::Free => return table.end(self.row, self.token),
            BackTo::Held(hold) => hold,
            BackTo::Performer(kept) => Hold::Performed(Instant::now() + kept),
        };
        if let Some(entry) = table.entries.get_mut(&self.row).filter(|entry| entry.token == self.token) {
            entry.hold = hold;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn leases() -> Arc<Leases> {
        Arc::new(Leases::new(Arc::new(Tokens::of_opening(1))))
    }

    fn granted(leases: &Leases, row: i64, now: i64, until: i64) -> Option<u64> {
        let mut claim = leases.begin_claim();
        let token = claim.grant(row, at(now), at(until));
        claim.keep();
        token
    }

    #[test]
    fn a_row_is_granted_once_until_it_expires_and_the_late_holder_has_lost_it() {
        let leases = leases();
        let first = granted(&leases, 7, 0, 10).unwrap();
        assert_eq!(granted(&leases, 7, 9, 20), None);
        let second = granted(&leases, 7, 10, 20).unwrap();
        assert!(leases.pin(7, first).is_none());
        leases.pin(7, second).unwrap().end();
        assert!(leases.is_free(7, at(0)));
    }

    #[test]
    fn what_ends_while_a_claim_reads_stays_taken_for_that_claim() {
        let leases = leases();
        let token = granted(&leases, 7, 0, 10).unwrap();
        let mut claim = leases.begin_claim();
        leases.pin(7, token).unwrap().end();
        assert_eq!(claim.grant(7, at(100), at(110)), None);
        claim.keep();
        assert!(granted(&leases, 7, 0, 10).is_some());
    }

    #[test]
    fn a_step_that_is_not_committed_gives_the_lease_back() {
        let leases = leases();
        let token = granted(&leases, 7, 0, 10).unwrap();
        let pin = leases.pin(7, token).unwrap();
        assert_eq!(granted(&leases, 7, 100, 110), None, "pinned, whatever the time");
        drop(pin);
        leases.pin(7, token).unwrap().end();
    }

    #[test]
    fn what_was_performed_stays_with_its_holder_as_long_as_it_tries_to_settle_it() {
        let leases = leases();
        let token = granted(&leases, 7, 0, 10).unwrap();
        let try_in_vain = |kept| drop(leases.pin(7, token).unwrap().of_performed(kept));
        try_in_vain(Duration::from_mins(6));
        assert_eq!(granted(&leases, 7, 1_000_000, 1_000_010), None, "long after its lease");
        try_in_vain(Duration::from_mins(6));
        leases.pin(7, token).unwrap().of_performed(Duration::from_mins(6)).end();
        assert!(granted(&leases, 7, 0, 10).is_some());
    }

    #[test]
    fn what_was_performed_is_free_once_its_holder_no_longer_tries() {
        let leases = leases();
        let token = granted(&leases, 7, 0, 10).unwrap();
        drop(leases.pin(7, token).unwrap().of_performed(Duration::ZERO));
        assert!(!leases.any_live(at(1)), "also within its lease: it was tried later");
        assert!(granted(&leases, 7, 1, 11).is_some());
        assert!(leases.pin(7, token).is_none(), "its holder came too late");
    }

    #[test]
    fn a_row_is_granted_while_it_is_written_and_is_free_if_that_fails() {
        let leases = leases();
        drop(leases.grant_new(7, at(10)));
        let (row, token) = leases.grant_new(7, at(10)).keep();
        assert_eq!(granted(&leases, row, 9, 20), None);
        leases.pin(row, token).unwrap().end();
        assert!(leases.is_free(7, at(0)));
        // Rolled back, and written again by another before the first is gone.
        let (first, second) = (leases.grant_new(8, at(10)), leases.grant_new(8, at(10)));
        drop(first);
        assert_eq!(granted(&leases, 8, 9, 20), None, "the second's");
        drop(second);
        assert!(leases.is_free(8, at(0)));
    }

    #[test]
    fn a_claim_that_fails_takes_back_what_it_granted() {
        let leases = leases();
        let mut claim = leases.begin_claim();
        claim.grant(7, at(0), at(10)).unwrap();
        drop(claim);
        assert!(leases.is_free(7, at(0)));
    }

    #[test]
    fn what_is_live_cannot_be_ended_by_others() {
        let leases = leases();
        let token = granted(&leases, 7, 0, 10).unwrap();
        assert!(leases.pin_free(7, at(9)).is_none());
        drop(leases.pin_free(7, at(10)).unwrap());
        assert!(leases.pin(7, token).is_none(), "its holder came too late");
        assert!(leases.is_free(7, at(0)));
    }

    #[test]
    fn tokens_of_another_opening_never_hold() {
        let old = granted(&leases(), 7, 0, 10).unwrap();
        let reopened = Arc::new(Leases::new(Arc::new(Tokens::of_opening(2))));
        granted(&reopened, 7, 0, 10).unwrap();
        assert!(reopened.pin(7, old).is_none());
    }
}
