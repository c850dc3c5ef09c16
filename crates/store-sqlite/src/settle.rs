//! Settling a delivery: the attempt, what it means, and the end of its lease, in one transaction.

use std::{sync::Arc, time::Duration};

use neo_events_domain::{
    delivery::{AttemptRecord, DeliveryState},
    endpoint::DISABLED_REASON_GONE,
    retry::Verdict,
};
use neo_events_store::{DELIVERY_LEASE, Settled, Settlement, Updated};
use rusqlite::Connection;

use crate::{
    attempts,
    deliveries::{self, Change, Standing},
    endpoints,
    failure::Failure,
    leases::{Leases, Pin},
    scope::Scope,
    writer::Step,
};

/// How long what was performed is kept from others after each time that it could not be recorded: another lease.
const KEPT: Duration = Duration::from_secs(DELIVERY_LEASE.as_secs().unsigned_abs());

/// Settles if the lease still holds. From here on it does: what was performed is not claimed again while recording it
/// fails, for want of room or for somebody's lock, and is tried again.
pub(crate) struct Settle {
    settlement: Arc<Settlement>,
    pin: Option<Pin>,
}

impl Settle {
    pub(crate) fn new(leases: &Arc<Leases>, settlement: &Arc<Settlement>) -> Self {
        let lease = &settlement.lease;
        let pin = leases.pin(lease.key(), lease.token()).map(|pin| pin.of_performed(KEPT));
        Self { settlement: Arc::clone(settlement), pin }
    }
}

impl Step for Settle {
    type Answer = Settled;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<Settled, Failure> {
        let Settlement { lease, attempt, verdict } = &*self.settlement;
        // The lease is what counts; the row's own state guards against whatever the memory of leases cannot know.
        let standing = match self.pin {
            Some(_) => Standing::of(scope, lease.key())?,
            None => None,
        };
        let fits = |standing: &Standing| {
            !standing.is_final() && standing.current_attempt + 1 == attempt.attempt_number
        };
        let Some(standing) = standing.filter(fits) else { return Ok(Settled::LeaseLost) };

        let state = deliveries::as_stored(DeliveryState::after(*verdict, standing.cancel_requested.clone()));
        attempts::insert(scope, lease.key(), attempt)?;
        let change = Change {
            state: &state,
            current_attempt: attempt.attempt_number,
            max_attempts: standing.max_attempts,
            cancel_requested: None,
        };
        deliveries::change(scope, lease.key(), &standing, &change)?;
        if *verdict == Verdict::Gone {
            disable_endpoint(scope.connection(), standing.endpoint_no, attempt)?;
        }
        Ok(Settled::Recorded(state))
    }

    fn committed(self) {
        if let Some(pin) = self.pin {
            pin.end();
        }
    }
}

/// The receiver asked for no more; unless the endpoint was moved or activated since, for then it was not asked.
fn disable_endpoint(conn: &Connection, no: i64, attempt: &AttemptRecord) -> Result<(), Failure> {
    if !endpoints::still_stands(conn, no, attempt.endpoint_revision)? {
        return Ok(());
    }
    if let Some(endpoint) = endpoints::by_no(conn, no)?.filter(|endpoint| endpoint.is_active) {
        let disabled = endpoint.disabled(DISABLED_REASON_GONE, attempt.completed_at);
        let updated = endpoints::update(conn, &disabled)?;
        debug_assert_eq!(updated, Updated::Written, "read in the same transaction");
    }
    Ok(())
}
