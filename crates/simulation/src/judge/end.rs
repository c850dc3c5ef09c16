//! What is judged when a run ends: nothing is left open, and nothing was forgotten.

use std::collections::{BTreeMap, BTreeSet};

use neo_events_domain::{
    id::{DeliveryId, EndpointId, EventId},
    tenant::Schema,
};

use super::{Account, InFlight, Judge, trace::short};
use crate::{happening::Happening, memory::Holder, property::Property, random::Dice, run::Counts};

impl Judge {
    /// Whether every event is dispatched, every delivery over and nothing on its way.
    pub(crate) fn is_over(&self) -> bool {
        let account = self.account();
        account.events.values().all(|event| event.is_dispatched)
            && account.deliveries.values().all(|delivery| delivery.state.is_final())
            && account.hanging().is_none()
    }

    /// Judges the whole.
    pub(crate) fn judge_the_end(&self, accepted: &BTreeSet<EventId>) {
        let mut account = self.account();
        account.everything_settled();
        account.everything_accepted_is_stored(accepted);
        account.every_attempt_is_recorded();
    }

    /// Judges what is left when all have stopped: others may be owed much then, but nothing is forgotten.
    pub(crate) fn judge_the_stop(&self, accepted: &BTreeSet<EventId>) {
        let mut account = self.account();
        account.everything_accepted_is_stored(accepted);
        account.every_attempt_is_recorded();
    }
}

impl Judge {
    /// What there is so far.
    pub(crate) fn counts(&self) -> Counts {
        let account = self.account();
        let requests = account.requests.values().map(|request| u64::from(request.arrivals)).sum();
        let (events, deliveries) = (account.events.len() as u64, account.deliveries.len() as u64);
        Counts { events, deliveries, requests }
    }

    /// What happened so far.
    pub(crate) fn happened(&self) -> BTreeMap<Happening, u64> {
        self.account().tally.read()
    }

    /// The number of the trace, and its lines.
    pub(crate) fn read_trace(&self) -> (u64, Vec<String>) {
        let account = self.account();
        (account.trace().number(), account.trace().lines().to_vec())
    }

    /// A delivery; rather one of the last.
    pub(crate) fn any_delivery(&self, dice: &Dice) -> Option<(Schema, DeliveryId)> {
        let account = self.account();
        let all = account.deliveries.iter();
        let newest: Vec<_> = all.rev().take(usize::try_from(dice.between(3, 100)).unwrap_or(3)).collect();
        dice.pick(&newest).map(|(id, known)| (known.schema.clone(), **id))
    }

    /// A delivery that is not over.
    pub(crate) fn any_open_delivery(&self, dice: &Dice) -> Option<DeliveryId> {
        let account = self.account();
        let open: Vec<_> = account
            .deliveries
            .iter()
            .filter(|(_, known)| !known.state.is_final())
            .map(|(id, _)| *id)
            .collect();
        dice.pick(&open).copied()
    }

    /// Whether a delivery is not over.
    pub(crate) fn is_open(&self, id: DeliveryId) -> bool {
        self.account().deliveries.get(&id).is_some_and(|known| !known.state.is_final())
    }

    /// An endpoint that is not deleted.
    pub(crate) fn any_endpoint(&self, dice: &Dice) -> Option<EndpointId> {
        let account = self.account();
        let there: Vec<_> =
            account.endpoints.iter().filter(|(_, known)| !known.is_deleted).map(|(id, _)| *id).collect();
        dice.pick(&there).copied()
    }
}

impl Account {
    fn everything_settled(&mut self) {
        let event = self.events.iter().find(|(_, known)| !known.is_dispatched);
        let event = event.map(|(id, _)| format!("event {} still owes its dispatch", short(*id)));
        let delivery = self.deliveries.iter().find(|(_, known)| !known.state.is_final());
        let delivery = delivery.map(|(id, known)| {
            let lease = known.lease.map(|lease| lease.token);
            format!("delivery {} of {} is {:?}, lease {lease:?}", short(*id), known.schema, known.state)
        });
        let hanging = self.hanging().map(|to| format!("requests to {} hang", short(to)));
        if let Some(what) = event.or(delivery).or(hanging) {
            self.violated(Property::EverythingSettles, what);
        }
    }

    /// Whom requests of a living node are on their way to.
    fn hanging(&self) -> Option<EndpointId> {
        let is_hanging = |((holder, _), in_flight): &(&(Holder, _), &InFlight)| {
            in_flight.now > 0 && !self.over.contains(holder)
        };
        self.in_flight.iter().find(is_hanging).map(|((_, to), _)| *to)
    }

    fn everything_accepted_is_stored(&mut self, accepted: &BTreeSet<EventId>) {
        if let Some(id) = accepted.iter().find(|id| !self.events.contains_key(id)) {
            let what = format!("event {} was acknowledged and is not stored", short(*id));
            self.violated(Property::NothingIsLost, what);
        }
    }

    /// Unless its node died with it, had lost the right to it, or gave it up in the end because the store would not take it.
    fn every_attempt_is_recorded(&mut self) {
        let forgotten = self.requests.iter().find(|(_, request)| {
            let is_excused = request.is_settled() || self.over.contains(&request.holder);
            request.arrivals > 0 && !is_excused
        });
        if let Some((id, _)) = forgotten {
            let what = format!("request {} reached its receiver and is not recorded", short(*id));
            self.violated(Property::AttemptsAreRecorded, what);
        }
    }
}
