//! What people ask for: without an attempt, nothing ends and nothing that was over begins again unless somebody wants it.

use neo_events_domain::{
    delivery::DeliveryState,
    id::{DeliveryId, EndpointId},
};

use super::{Account, Judge, KnownDelivery};
use crate::{effect::Moved, property::Property};

/// Something that somebody asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// That a delivery ends.
    Cancel(DeliveryId),
    /// That a delivery is tried again.
    Retry(DeliveryId),
    /// That an endpoint goes, and with it whatever it is still owed.
    Remove(EndpointId),
}

impl Judge {
    /// Somebody begins to ask.
    pub(crate) fn is_asked(&self, wish: Wish) {
        self.account().wishes.insert(wish);
    }

    /// Whoever asked has an answer, or has none and asks no more: what happens from now on is nobody's wish.
    pub(crate) fn is_asked_no_more(&self, wish: Wish) {
        self.account().wishes.remove(&wish);
    }
}

impl Account {
    /// Which property a move without an attempt violates, if it does, and in what way.
    pub(super) fn is_unasked(
        &self,
        id: DeliveryId,
        before: &KnownDelivery,
        after: &Moved,
    ) -> Option<(Property, &'static str)> {
        let is_to_end = before.is_ending
            || self.wishes.contains(&Wish::Cancel(id))
            || self.wishes.contains(&Wish::Remove(before.endpoint_id));
        let is_to_go_on = self.wishes.contains(&Wish::Retry(id));
        match after.state {
            DeliveryState::Success | DeliveryState::Failed { .. } => {
                Some((Property::OutcomesAreKept, "was ended without an attempt"))
            }
            DeliveryState::Cancelled { .. } if !is_to_end => {
                Some((Property::CancellationsHold, "was cancelled and nobody had asked for it"))
            }
            DeliveryState::Pending | DeliveryState::Retrying { .. } if after.is_ending && !is_to_end => {
                Some((Property::CancellationsHold, "is to end and nobody had asked for it"))
            }
            DeliveryState::Pending | DeliveryState::Retrying { .. }
                if before.state.is_final() && !is_to_go_on =>
            {
                Some((Property::OverStaysOver, "was over and is not, and nobody had asked for it"))
            }
            DeliveryState::Pending | DeliveryState::Retrying { .. }
                if before.is_ending && !after.is_ending && !is_to_go_on =>
            {
                Some((Property::CancellationsHold, "was to end and is not, and nobody had asked for it"))
            }
            _ => None,
        }
    }
}
