//! Claims whose answers were lost.
//!
//! A claim that failed may have happened all the same: the connection broke after the commit, or what follows a claim
//! failed. Its rows are then leased by this session, which lives, and nobody works on them until the time of the lease
//! is over, minutes later. So what a claim leased until is remembered if it failed, for that is how its rows are found,
//! and they are given back before the next one; and again for a while, since a server that has lost its client may still
//! be at the statement.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use neo_events_domain::{Timestamp, tenant::Schema};
use neo_events_store::StoreError;
use tokio::time::Instant;

use crate::{failure::Failure, sql::Sql, store::PostgresStore};

/// How long a statement of a lost connection may go on: its time is limited on the server, too.
const GOES_ON_MAX: Duration = Duration::from_secs(40);
/// Claims that are remembered; of older ones, leases end by themselves.
const CLAIMS_MAX: usize = 1000;
/// How often they are looked for meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Of one kind of work: claims that failed.
#[derive(Default)]
pub(crate) struct LostClaims(Mutex<Lost>);

#[derive(Default)]
struct Lost {
    /// Until when they leased, and when they can no longer happen.
    claims: Vec<(Timestamp, Instant)>,
    looked_at: Option<Instant>,
}

impl LostClaims {
    /// Notes a claim's failure.
    pub(crate) fn watch<T>(&self, until: Timestamp, claimed: Result<T, StoreError>) -> Result<T, StoreError> {
        if claimed.is_err() {
            self.note(until);
        }
        claimed
    }

    /// What leased until then has failed.
    pub(crate) fn note(&self, until: Timestamp) {
        let mut lost = self.lost();
        if lost.claims.len() >= CLAIMS_MAX {
            lost.claims.remove(0);
        }
        lost.claims.push((until, Instant::now() + GOES_ON_MAX));
        lost.looked_at = None;
    }

    /// Gives back what claims leased that failed. Answers whether there may have been any.
    pub(crate) async fn give_back(&self, store: &PostgresStore, statement: Sql) -> Result<bool, Failure> {
        let Some(untils) = self.to_look_for() else { return Ok(false) };
        let conn = store.inner.connections.work().await?;
        let freed = conn.execute(statement, &Schema::admin(), &[&store.inner.session.no(), &untils]).await?;
        self.lost().looked_at = Some(Instant::now());
        Ok(freed > 0)
    }

    fn to_look_for(&self) -> Option<Vec<Timestamp>> {
        let (mut lost, now) = (self.lost(), Instant::now());
        // One that was never looked for is looked for, however long the database was away.
        if lost.looked_at.is_some() {
            lost.claims.retain(|(_, over_at)| *over_at > now);
        }
        let is_time = lost.looked_at.is_none_or(|at| at + LOOK_INTERVAL <= now);
        (is_time && !lost.claims.is_empty()).then(|| lost.claims.iter().map(|(until, _)| *until).collect())
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
