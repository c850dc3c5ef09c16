//! Settling a delivery: the attempt, what it means, and the end of its lease, in one transaction.

use std::sync::Arc;

use neo_events_domain::{Timestamp, delivery::DeliveryState, retry::Verdict};
use neo_events_store::{Settled, Settlement, Updated};
use rusqlite::Connection;

use crate::{
    attempts,
    deliveries::{self, Change, Standing},
    endpoints,
    failure::Failure,
    leases::{Leases, Pin},
    writer::Step,
};

/// What the owner of an endpoint reads that answered 410.
const DISABLED_REASON_GONE: &str = "the receiver answered 410 Gone";

/// Settles if the lease still holds.
pub(crate) struct Settle {
    leases: Arc<Leases>,
    settlement: Arc<Settlement>,
    pin: Option<Pin>,
}

impl Settle {
    pub(crate) fn new(leases: &Arc<Leases>, settlement: &Arc<Settlement>) -> Self {
        Self { leases: Arc::clone(leases), settlement: Arc::clone(settlement), pin: None }
    }
}

impl Step for Settle {
    type Answer = Settled;

    fn run(&mut self, conn: &Connection) -> Result<Settled, Failure> {
        let Settlement { lease, attempt, verdict } = &*self.settlement;
        if self.pin.is_none() {
            self.pin = self.leases.pin(lease.key(), lease.token());
        }
        // The lease is what counts; the row's own state guards against whatever the memory of leases cannot know.
        let standing = match self.pin {
            Some(_) => Standing::of(conn, lease.key())?,
            None => None,
        };
        let fits = |standing: &Standing| {
            !standing.is_final() && standing.current_attempt + 1 == attempt.attempt_number
        };
        let Some(standing) = standing.filter(fits) else { return Ok(Settled::LeaseLost) };

        let state = deliveries::as_stored(DeliveryState::after(*verdict, standing.cancel_requested.clone()));
        attempts::insert(conn, lease.key(), attempt)?;
        let change = Change {
            state: &state,
            current_attempt: attempt.attempt_number,
            max_attempts: standing.max_attempts,
            cancel_requested: None,
        };
        deliveries::change(conn, lease.key(), &standing, &change)?;
        if *verdict == Verdict::Gone {
            disable_endpoint(conn, standing.endpoint_no, attempt.completed_at)?;
        }
        Ok(Settled::Recorded(state))
    }

    fn committed(self) {
        if let Some(pin) = self.pin {
            pin.end();
        }
    }
}

/// The receiver asked for no more.
fn disable_endpoint(conn: &Connection, no: i64, now: Timestamp) -> Result<(), Failure> {
    if let Some(endpoint) = endpoints::by_no(conn, no)?.filter(|endpoint| endpoint.is_active) {
        let updated = endpoints::update(conn, &endpoint.disabled(DISABLED_REASON_GONE, now))?;
        debug_assert_eq!(updated, Updated::Written, "read in the same transaction");
    }
    Ok(())
}
