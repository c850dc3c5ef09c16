//! Stops: a node that says it has drained has recorded what it attempted and given back what it had in hand.

use neo_events_domain::{Timestamp, tenant::Schema};
use neo_events_store::StoreError;

use super::{Account, Judge, trace::short};
use crate::{effect::Grant, life::Life, memory::Holder, property::Property};

impl Judge {
    /// A life begins to stop.
    pub(crate) fn stops(&self, holder: Holder) {
        self.account().stopping.insert(holder);
    }

    /// Leases were granted, and whoever they were granted to has not heard of it, or never will.
    pub(crate) fn are_adrift(&self, tokens: &[u64]) {
        self.account().adrift.extend(tokens);
    }

    /// It has heard now. Who is stopping may no longer take them, and leaves them to the store.
    pub(crate) fn have_arrived(&self, holder: Holder, tokens: &[u64]) {
        let mut account = self.account();
        if !account.stopping.contains(&holder) {
            account.adrift.retain(|token| !tokens.contains(token));
        }
    }

    /// A lease could not be given back. Who is stopping does not try again, but leaves it to the store.
    pub(crate) fn is_kept_in_vain(&self, holder: Holder, token: u64) {
        let mut account = self.account();
        if account.stopping.contains(&holder) {
            account.adrift.insert(token);
        }
    }

    /// The dispatch of a tenant's events failed. If trying again does not help, they wait for their leases to end.
    pub(crate) fn cannot_dispatch(&self, holder: Holder, schema: &Schema, error: &StoreError) {
        if !error.is_transient() {
            self.account().let_go.insert((holder, schema.clone()));
        }
    }

    /// A life has stopped and says that it has drained; `now` is its steady time.
    pub(crate) fn has_drained(&self, life: &Life, now: Timestamp) {
        let mut account = self.account();
        if let Some(what) = account.left_by(life.holder, now) {
            account.violated(Property::DrainedStopsLeaveNothing, format!("node {} left {what}", life.node));
        }
    }
}

impl Account {
    fn left_by(&self, holder: Holder, now: Timestamp) -> Option<String> {
        let is_unrecorded = |request: &super::KnownRequest| {
            request.holder == holder && request.arrivals > 0 && !request.is_settled()
        };
        let request = self.requests.iter().find(|(_, request)| is_unrecorded(request));
        let request = request.map(|(id, _)| format!("request {} unrecorded", short(*id)));
        let is_left = |lease: &Grant| {
            lease.holder == holder && lease.until > now && !self.adrift.contains(&lease.token)
        };
        let delivery = self.deliveries.iter().find(|(_, known)| known.lease.as_ref().is_some_and(is_left));
        let delivery = delivery.map(|(id, _)| format!("delivery {} leased", short(*id)));
        let is_let_go = |schema: &Schema| self.let_go.contains(&(holder, schema.clone()));
        let event = self
            .events
            .iter()
            .find(|(_, known)| known.lease.as_ref().is_some_and(is_left) && !is_let_go(&known.schema));
        let event = event.map(|(id, _)| format!("the dispatch of {} leased", short(*id)));
        request.or(delivery).or(event)
    }
}
