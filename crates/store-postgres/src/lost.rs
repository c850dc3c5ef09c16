//! Claims whose answers were lost.
//!
//! A claim that failed may have happened all the same: the connection broke after the commit, or what follows a claim
//! failed. Its rows are then leased by this session, which lives, and nobody works on them until the time of the lease
//! is over, minutes later. So what a claim leased until is remembered if it failed, for that is how its rows are found,
//! and they are given back before the next one; and again for a while, since a server that has lost its client may
//! still be at the statement. Of deliveries it is remembered, too, whose they may be: searching the queue of all
//! endpoints for a handful of rows would take longer than everything else.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use neo_events_domain::{Timestamp, Uuid, tenant::Schema};
use neo_events_store::Arrival;
use tokio::time::Instant;

use crate::{conn::Param, failure::Failure, sql, store::PostgresStore};

/// How long a statement of a lost connection may go on: its time is limited on the server, too.
const GOES_ON_MAX: Duration = Duration::from_secs(40);
/// Leases that are remembered; older ones end by themselves.
const LEASES_MAX: usize = 20_000;
/// How often they are looked for meanwhile, whether they were found or could not be looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whose a delivery is: a tenant's endpoint.
type Owner = (i32, Uuid);

/// Of one kind of work, which is found among what these owners are owed: claims that failed.
pub(crate) struct LostClaims<Of = Owner>(Mutex<Lost<Of>>);

struct Lost<Of> {
    leases: Vec<LostLease<Of>>,
    /// When those were looked for that had been noted by then.
    looked_at: Option<Instant>,
    /// When to look next, unless one more is noted.
    look_at: Option<Instant>,
}

#[derive(Clone, Copy)]
struct LostLease<Of> {
    of: Of,
    until: Timestamp,
    noted_at: Instant,
}

impl<Of> Default for LostClaims<Of> {
    fn default() -> Self {
        Self(Mutex::new(Lost { leases: Vec::new(), looked_at: None, look_at: None }))
    }
}

impl<Of: Copy + Ord> LostClaims<Of> {
    /// What leased until then, of these, has failed and may have happened.
    pub(crate) fn note(&self, until: Timestamp, of: impl IntoIterator<Item = Of>) {
        let (mut of, noted_at): (Vec<Of>, _) = (of.into_iter().collect(), Instant::now());
        if of.is_empty() {
            return;
        }
        of.sort_unstable();
        of.dedup();
        let mut lost = self.lost();
        lost.leases.extend(of.into_iter().map(|of| LostLease { of, until, noted_at }));
        let too_many = lost.leases.len().saturating_sub(LEASES_MAX);
        lost.leases.drain(..too_many);
        lost.look_at = None;
    }

    /// Notes a claim's failure, if it may have happened.
    pub(crate) fn watch<T>(
        &self,
        until: Timestamp,
        of: impl IntoIterator<Item = Of>,
        claimed: Result<T, Failure>,
    ) -> Result<T, Failure> {
        if claimed.as_ref().is_err_and(Failure::may_have_happened) {
            self.note(until, of);
        }
        claimed
    }

    /// Until when what was lost is leased, and whose it is, if it is time to look for it.
    fn to_look_for(&self, now: Timestamp, at: Instant) -> Option<(Vec<Timestamp>, Vec<Of>)> {
        let mut lost = self.lost();
        if lost.leases.is_empty() || lost.look_at.is_some_and(|look_at| look_at > at) {
            return None;
        }
        let looked_at = lost.looked_at;
        // One that was never looked for is looked for, however long the database was away; but not beyond its end.
        let may_be_there = |lease: &LostLease<Of>| {
            let was_looked_for = looked_at.is_some_and(|looked_at| looked_at >= lease.noted_at);
            lease.until > now && (!was_looked_for || lease.noted_at + GOES_ON_MAX > at)
        };
        lost.leases.retain(may_be_there);
        let (mut untils, mut of): (Vec<_>, Vec<_>) =
            lost.leases.iter().map(|lease| (lease.until, lease.of)).unzip();
        untils.sort_unstable();
        untils.dedup();
        of.sort_unstable();
        of.dedup();
        (!of.is_empty()).then_some((untils, of))
    }

    /// They were looked for from one moment to the other, and given back; or that failed.
    fn has_looked(&self, (began, ended): (Instant, Instant), is_done: bool) {
        let mut lost = self.lost();
        lost.look_at = Some(ended + LOOK_INTERVAL);
        if is_done {
            lost.looked_at = Some(began);
        }
    }

    fn lost(&self) -> MutexGuard<'_, Lost<Of>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LostClaims {
    /// Gives back the deliveries that claims leased which failed. Answers whether there were any.
    pub(crate) async fn give_back(&self, store: &PostgresStore, now: Timestamp) -> Result<bool, Failure> {
        let began = Instant::now();
        let Some((untils, of)) = self.to_look_for(now, began) else { return Ok(false) };
        let (nos, ids): (Vec<i32>, Vec<Uuid>) = of.into_iter().unzip();
        let session = store.inner.session.no();
        let params: [Param<'_>; 4] = [&session, &untils, &nos, &ids];
        let freed = async {
            let conn = store.inner.connections.work().await?;
            conn.execute(sql::DELIVERY_QUEUE_FREE_LOST, &Schema::admin(), &params).await
        };
        let freed = freed.await;
        self.has_looked((began, Instant::now()), freed.is_ok());
        Ok(freed? > 0)
    }
}

impl LostClaims<()> {
    /// Gives back the dispatches that claims leased which failed. Answers whether there were any.
    pub(crate) async fn give_back(&self, store: &PostgresStore, now: Timestamp) -> Result<bool, Failure> {
        let began = Instant::now();
        let Some((untils, _)) = self.to_look_for(now, began) else { return Ok(false) };
        let session = store.inner.session.no();
        let freed = async {
            let conn = store.inner.connections.work().await?;
            conn.execute(sql::DISPATCHES_FREE_LOST, &Schema::admin(), &[&session, &untils]).await
        };
        let freed = freed.await;
        self.has_looked((began, Instant::now()), freed.is_ok());
        Ok(freed? > 0)
    }
}

/// Whose deliveries were to be leased as they were written, with these events.
pub(crate) fn taken(tenant_no: i32, arrivals: &[Arrival]) -> impl Iterator<Item = Owner> {
    let dispatches = arrivals.iter().filter_map(|arrival| arrival.dispatch.as_ref());
    let taken = dispatches.flat_map(|dispatch| &dispatch.deliveries).filter(|direct| direct.is_taken);
    taken.map(move |direct| (tenant_no, direct.delivery.endpoint_id.uuid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_was_lost_is_looked_for_until_it_cannot_come_any_more() {
        let lost = LostClaims::<i32>::default();
        let after = |millis| Instant::now() + Duration::from_millis(millis);
        assert_eq!(lost.to_look_for(at(0), after(0)), None);
        lost.note(at(360), [7, 3, 7]);
        assert_eq!(lost.to_look_for(at(0), after(0)), Some((vec![at(360)], vec![3, 7])));
        lost.has_looked((after(0), after(0)), false);
        assert_eq!(
            lost.to_look_for(at(0), after(500)),
            None,
            "that it failed is no reason to do nothing else"
        );
        lost.note(at(361), [9]);
        assert_eq!(lost.to_look_for(at(0), after(500)), Some((vec![at(360), at(361)], vec![3, 7, 9])));
        lost.has_looked((after(500), after(500)), false);
        assert!(lost.to_look_for(at(0), after(300_000)).is_some(), "it was never given back");
        assert_eq!(
            lost.to_look_for(at(360), after(300_000)),
            Some((vec![at(361)], vec![9])),
            "one has ended by itself"
        );
        lost.has_looked((after(500), after(500)), true);
        assert!(lost.to_look_for(at(0), after(30_000)).is_some(), "the server may still be at it");
        assert_eq!(lost.to_look_for(at(0), after(60_000)), None);
        assert!(lost.lost().leases.is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let lost = LostClaims::<usize>::default();
        for n in 0..=LEASES_MAX {
            lost.note(at(360), [n]);
        }
        let (_, of) = lost.to_look_for(at(0), Instant::now()).unwrap();
        assert_eq!((of.len(), of[0]), (LEASES_MAX, 1));
    }
}
