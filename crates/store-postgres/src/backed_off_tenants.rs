//! Tenants that passes back off from for a moment, since what they owe could not be read or ended: somebody has locked a table
//! of theirs, renamed or dropped it, or it is damaged. Meeting it again with every step would take the others' time,
//! and would be reported five times a second. Kept in memory alone: whoever forgets it meets it again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::failure::Failure;

/// How long a tenant is left alone after one failed there: much longer than failing took.
const BACK_OFF: Duration = Duration::from_secs(5);
/// Tenants that are remembered at once. Of more, whatever comes then is met with every claim.
const TENANTS_MAX: usize = 1000;

/// Tenants to be left alone, by kind of work: what one kind needs may be there where what the other needs is not.
#[derive(Default)]
pub(crate) struct BackedOff {
    pub(crate) dispatches: BackedOffTenants,
    pub(crate) deliveries: BackedOffTenants,
    pub(crate) tending: BackedOffTenants,
    /// Those that a pass met for the first time and that could not be brought up to date.
    pub(crate) learning: BackedOffTenants,
}

/// Tenants, by number, and until when they are left alone.
#[derive(Default)]
pub(crate) struct BackedOffTenants(Mutex<HashMap<i32, Instant>>);

impl BackedOffTenants {
    /// A claim failed there: the next ones leave it alone for a while.
    pub(crate) fn note(&self, tenant_no: i32) {
        let (mut until, now) = (self.until(), Instant::now());
        until.retain(|_, until| *until > now);
        if until.len() < TENANTS_MAX {
            until.insert(tenant_no, now + BACK_OFF);
        }
    }

    /// Whether claims leave it alone.
    pub(crate) fn has(&self, tenant_no: i32) -> bool {
        self.until().get(&tenant_no).is_some_and(|until| *until > Instant::now())
    }

    /// All that claims leave alone.
    pub(crate) fn nos(&self) -> Vec<i32> {
        let (until, now) = (self.until(), Instant::now());
        until.iter().filter(|(_, until)| **until > now).map(|(no, _)| *no).collect()
    }

    fn until(&self) -> MutexGuard<'_, HashMap<i32, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it may lie with one row, and not with a table: if that row is given back, it stands before all others again
/// and nothing else of the tenant has its turn.
pub(crate) fn may_be_one_rows(failure: &Failure) -> bool {
    let of_a_page = |code: &str| code.starts_with("XX") || code.starts_with("58");
    matches!(failure, Failure::Stored(_)) || failure.code().is_some_and(|code| of_a_page(code.code()))
}
