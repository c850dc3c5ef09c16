//! Dispatch at the moment of publishing: deliveries written in the transaction that stores their event, those that the
//! publishing node has room for already leased. It spares the pass that dispatches a claim, and the one that delivers
//! another; whatever cannot be dispatched like this owes its dispatch as ever.

use std::sync::Arc;

use neo_events_domain::{Timestamp, event::DomainEvent, tenant::Schema};
use neo_events_store::{
    Appended, Arrival, CatalogueVersion, DeliveryWork, DirectDelivery, DirectDispatch, Lease,
};

use crate::{
    dispatches::{self, DeliveryWriter},
    events,
    failure::Failure,
    leases::{Grant, Leases},
    scope::Scope,
    tenant_file::TenantFile,
    writer::Step,
};

/// Stores events, each with its deliveries or with the row that owes its dispatch.
pub(crate) struct AppendArrivals {
    schema: Schema,
    leases: Arc<Leases>,
    arrivals: Vec<Arrival>,
    now: Timestamp,
    /// For each arrival, from the last run, if it was dispatched.
    granted: Vec<Option<Granted>>,
}

/// What was granted of an event's deliveries.
type Granted = Vec<(Grant, DeliveryWork)>;

/// What became of a publisher's events, in order.
pub(crate) struct AppendAnswer {
    pub(crate) appended: Vec<Appended>,
    /// Whether any of them owes its dispatch.
    pub(crate) owes_dispatch: bool,
}

impl AppendArrivals {
    pub(crate) fn new(file: &TenantFile, arrivals: Vec<Arrival>, now: Timestamp) -> Self {
        let (schema, leases) = (file.schema.clone(), Arc::clone(&file.delivery_leases));
        Self { schema, leases, arrivals, now, granted: Vec::new() }
    }

    /// The catalogue as it is, if anybody asks.
    fn version(&self, scope: &mut Scope<'_>) -> Result<Option<CatalogueVersion>, Failure> {
        let is_asked = self.arrivals.iter().any(|arrival| arrival.dispatch.is_some());
        is_asked.then(|| scope.catalogue_version()).transpose()
    }

    fn dispatch(
        &self,
        (scope, writer): (&mut Scope<'_>, &mut DeliveryWriter),
        (seq, event): (i64, &Arc<DomainEvent>),
        dispatch: &DirectDispatch,
    ) -> Result<Granted, Failure> {
        let mut granted = Granted::new();
        for DirectDelivery { delivery, is_taken } in &dispatch.deliveries {
            let written = writer.write(scope, seq, delivery)?;
            if let Some(delivery_seq) = written.filter(|_| *is_taken) {
                let work = DeliveryWork::first(&self.schema, event, delivery);
                granted.push((self.leases.grant_new(delivery_seq, dispatch.lease_until), work));
            }
        }
        Ok(granted)
    }
}

impl Step for AppendArrivals {
    type Answer = AppendAnswer;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<AppendAnswer, Failure> {
        // What a run before this one granted was rolled back.
        self.granted.clear();
        let version = self.version(scope)?;
        let mut end = events::TableEnd::of(scope, self.now)?;
        let mut writer = DeliveryWriter::of(scope, self.now)?;
        let mut answer = AppendAnswer { appended: Vec::new(), owes_dispatch: false };
        for Arrival { event, dispatch } in &self.arrivals {
            let appended = end.append(scope, event)?;
            answer.appended.push(appended);
            let dispatch = dispatch.as_ref().filter(|dispatch| Some(dispatch.catalogue_version) == version);
            self.granted.push(match (appended, dispatch) {
                (Appended::Stored { created_at, aggregate_version }, Some(dispatch)) => {
                    let event = Arc::new(event.stored(created_at, aggregate_version, self.now));
                    scope.dispatch_is_settled(end.newest_seq, self.now);
                    Some(self.dispatch((scope, &mut writer), (end.newest_seq, &event), dispatch)?)
                }
                (Appended::Stored { .. }, None) => {
                    answer.owes_dispatch = true;
                    dispatches::owe(scope, end.newest_seq)?;
                    None
                }
                _ => None,
            });
        }
        Ok(answer)
    }

    fn committed(self) {
        for (Arrival { dispatch, .. }, granted) in self.arrivals.into_iter().zip(self.granted) {
            let (Some(dispatch), Some(granted)) = (dispatch, granted) else { continue };
            let until = dispatch.lease_until;
            let lease = |(grant, work): (Grant, DeliveryWork)| {
                let (seq, token) = grant.keep();
                Lease::grant(seq, token, until, work)
            };
            (dispatch.hand_over)(granted.into_iter().map(lease).collect());
        }
    }
}
