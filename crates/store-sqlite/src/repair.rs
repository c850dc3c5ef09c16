//! Changing a delivery by hand: cancelling it, or making it due now.

use std::sync::Arc;

use neo_events_domain::{Timestamp, id::DeliveryId, time::to_micros};
use neo_events_store::Changed;

use crate::{
    deliveries::{self, Change},
    failure::Failure,
    leases::{Leases, Pin},
    scope::Scope,
    writer::Step,
};

/// Cancels one delivery, or asks for it if an attempt is in flight.
pub(crate) struct CancelDelivery {
    leases: Arc<Leases>,
    id: DeliveryId,
    reason: String,
    now: Timestamp,
    pin: Option<Pin>,
}

impl CancelDelivery {
    pub(crate) fn new(leases: &Arc<Leases>, id: DeliveryId, reason: &str, now: Timestamp) -> Self {
        Self { leases: Arc::clone(leases), id, reason: reason.to_owned(), now, pin: None }
    }
}

impl Step for CancelDelivery {
    type Answer = Changed;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<Changed, Failure> {
        let Some(row) = deliveries::by_id(scope.connection(), self.id)? else { return Ok(Changed::Missing) };
        // The pin of an earlier run would count as somebody's lease.
        self.pin = None;
        self.pin = self.leases.pin_free(row.seq, self.now);
        let in_flight = self.pin.is_none();
        match row.stored.delivery.cancelled(&self.reason, in_flight) {
            Ok(cancelled) => {
                deliveries::change(scope, row.seq, &row.standing, &Change::to(&cancelled))?;
                Ok(Changed::Done(cancelled))
            }
            Err(illegal) => Ok(Changed::Illegal(illegal)),
        }
    }
}

/// Makes a delivery due now.
pub(crate) fn retry_delivery(
    scope: &mut Scope<'_>,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Changed, Failure> {
    let Some(row) = deliveries::by_id(scope.connection(), id)? else { return Ok(Changed::Missing) };
    match row.stored.retried_now(to_micros(now)) {
        Ok(retried) => {
            deliveries::change(scope, row.seq, &row.standing, &Change::to(&retried))?;
            Ok(Changed::Done(retried))
        }
        Err(illegal) => Ok(Changed::Illegal(illegal)),
    }
}
