//! Leases that are granted as their events are stored, between the commit and its answer. If the connection breaks there,
//! nobody hears of them: the rows stay leased to a node that lives and does not work on them, until they are looked for.

use std::sync::{Arc, Mutex, PoisonError};

use neo_events_store::{DeliveryWork, DirectDispatch, HandOver, Lease};

use crate::{judge::Judge, life::Life};

/// Leases, and who is to take them.
type Parcel = (HandOver, Vec<Lease<DeliveryWork>>);

/// What one call granted, until its answer has come. Whoever published may have gone away by then and has dropped this:
/// it arrives all the same, for it is the store that waits for the answer.
pub(super) struct InTransit {
    parcels: Arc<Mutex<Vec<Parcel>>>,
    life: Life,
    judge: Judge,
}

impl InTransit {
    /// Nothing yet, to this life of a node.
    pub(super) fn of(life: &Life, judge: &Judge) -> Self {
        Self { parcels: Arc::default(), life: life.clone(), judge: judge.clone() }
    }

    /// What is granted of an event waits here.
    pub(super) fn hold_back(&self, dispatch: &mut DirectDispatch) {
        let (waiting, judge) = (Arc::clone(&self.parcels), self.judge.clone());
        let hand_over = std::mem::replace(&mut dispatch.hand_over, Box::new(|_| {}));
        dispatch.hand_over = Box::new(move |leases| {
            judge.are_adrift(&tokens_of(&leases));
            waiting.lock().unwrap_or_else(PoisonError::into_inner).push((hand_over, leases));
        });
    }

    /// The answer does not come. Answers the tokens that nobody hears of.
    pub(super) fn lose(&self) -> Vec<u64> {
        self.take().iter().flat_map(|(_, leases)| tokens_of(leases)).collect()
    }

    fn take(&self) -> Vec<Parcel> {
        std::mem::take(&mut *self.parcels.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for InTransit {
    fn drop(&mut self) {
        for (hand_over, leases) in self.take() {
            self.judge.have_arrived(self.life.holder, &tokens_of(&leases));
            hand_over(leases);
        }
    }
}

fn tokens_of(leases: &[Lease<DeliveryWork>]) -> Vec<u64> {
    leases.iter().map(Lease::token).collect()
}
