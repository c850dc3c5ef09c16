//! How many deliveries of which endpoint may be taken in hand now, and which of those may be attempted.
//!
//! A delivery is *in hand* from its claim until its attempt is recorded or it is given back, and *in flight* while it
//! is attempted. It holds a *place* at its endpoint until it has been answered, and one on the node for as long as it
//! is in hand. There is a limited number of both.
//!
//! Each endpoint has a *bound*: the most attempts that may be in flight to it. It starts small, doubles when the
//! receiver answers well and fast, and halves when it fails or is slow. So a dead endpoint holds a few places and not
//! all of them, and its backlog stays in the database. All endpoints share the node's places and take turns: tenants
//! first, then the endpoints of each. Those that do not answer well have limited shares of the places: one for endpoints
//! that are new or whose last attempt failed, another for those that were slow or are silent. So many dead endpoints
//! delay neither those that work nor those that are new.
//!
//! For an endpoint that answers well, more is taken in hand than may be in flight. The rest waits in the endpoint's
//! queue here, so that the next attempt begins as soon as another has been answered, without asking the database first.
//! If the endpoint fails until its bound is the least, what is queued is given back. If it still fails, it rests
//! between two turns, longer each time: otherwise a receiver that refuses at once would have deliveries claimed for it
//! as often as the database can do it.
//!
//! A delivery that has been answered keeps its place on the node until its attempt is recorded. It may be that a
//! tenant's attempts cannot be recorded, because of a lock or a damaged table. Once such attempts hold three quarters of
//! the places that the other tenants leave, nothing new is begun for that tenant; if this lasts, what it has queued is
//! given back.
//!
//! What is known here about which endpoint has deliveries due is a hint: the store's own answer, read regularly, is the
//! truth.

mod state;
#[cfg(test)]
mod tests;
mod turns;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use neo_events_domain::{
    Timestamp,
    id::{DeliveryId, EndpointId},
    tenant::Schema,
};
use neo_events_store::EndpointQuota;
use tokio::sync::{Notify, oneshot};

use state::{IN_HAND_MAX, State};

/// Which endpoint.
pub(crate) type Key = (Schema, EndpointId);

/// How an endpoint took an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptHealth {
    /// It answered well and fast.
    Good,
    /// It answered fast, with an error: there is somebody, who may like what comes next.
    Erred,
    /// It failed fast, without an answer, or asked to be spared.
    Failed,
    /// It took long, with whatever result.
    Slow,
}

/// Shared by the passes.
#[derive(Default)]
pub(crate) struct Admission {
    state: Mutex<State>,
    changed: Notify,
}

impl Admission {
    /// An endpoint owes a delivery that is due at this time.
    pub(crate) fn owe(&self, key: Key, due_at: Timestamp) {
        self.state().owe(key, due_at);
        self.changed.notify_one();
    }

    /// Resolves when something changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What to claim: each due endpoint's share of the free places. They count as taken until it is known what was
    /// claimed.
    pub(crate) fn reserve(&self, now: Timestamp) -> Reservation<'_> {
        Reservation { admission: self, quotas: self.state().reserve(now).into(), at: now }
    }

    fn claimed(&self, key: &Key, reserved: u32, Claimed { deliveries, next_due_at }: Claimed) {
        assert!(deliveries <= reserved, "{deliveries} were claimed where {reserved} had been reserved");
        let mut state = self.state();
        state.claimed(key, reserved);
        state.give_back(key, reserved - deliveries);
        if let Some(at) = next_due_at {
            state.owe(key.clone(), at);
        }
    }

    /// The place of one claimed delivery. It comes back however the delivery ends, also by a panic.
    pub(crate) const fn place(self: Arc<Self>, key: Key) -> Place {
        Place { admission: self, key, stage: Stage::InHand, retry_at: None }
    }

    /// A place for a delivery that is only being written, if there is one that no older delivery waits for.
    pub(crate) fn place_ahead(self: &Arc<Self>, key: Key, now: Timestamp) -> Option<Place> {
        let admission = Arc::clone(self);
        let is_free = self.state().take_ahead(&key, now);
        is_free.then(|| Place { admission, key, stage: Stage::InHand, retry_at: None })
    }

    /// What is queued for this endpoint is to be given back.
    pub(crate) fn return_queued(&self, key: &Key) {
        if let Some(load) = self.state().endpoints.get_mut(key) {
            load.queue.clear();
        }
    }

    /// If this delivery is queued, it is to be given back.
    pub(crate) fn return_one(&self, key: &Key, id: DeliveryId) {
        if let Some(load) = self.state().endpoints.get_mut(key) {
            load.queue.retain(|waiting| waiting.delivery_id != id);
        }
    }

    /// To be called regularly, at intervals no shorter than the time after which an answer counts as slow.
    ///
    /// Endpoints that have had attempts in flight since the last call, and have answered none of them, count as slow
    /// from now on, whatever these attempts come to. Otherwise they would keep all places that they got when they
    /// answered well until their attempts time out. What is queued of a tenant that was blocked at the last call and
    /// still is, because its attempts are not recorded, is to be given back.
    pub(crate) fn notice_silence(&self) {
        self.state().notice_silence();
        self.changed.notify_one();
    }

    /// What is queued for any endpoint of this tenant is to be given back.
    pub(crate) fn return_queued_of(&self, schema: &Schema) {
        self.state().return_queued_of(schema);
    }

    /// How many attempts of this tenant have been answered and are not recorded yet.
    pub(crate) fn unrecorded_of(&self, schema: &Schema) -> u32 {
        self.state().unrecorded.of(schema)
    }

    /// When there is something to claim: now, later, or as far as is known never.
    pub(crate) fn next_claim_at(&self, now: Timestamp) -> Option<Timestamp> {
        let state = self.state();
        let now = (!state.ready.is_empty() && state.in_hand < IN_HAND_MAX).then_some(now);
        now.or_else(|| state.later.first().map(|(at, _)| *at))
    }

    fn answered(&self, key: &Key, health: AttemptHealth) {
        let mut state = self.state();
        state.learn(key, health);
        state.end_attempt(key);
        state.begin_record(&key.0);
        let is_more_due = state.leave_endpoint(key, 1);
        drop(state);
        self.wake_claims_if(is_more_due);
    }

    fn not_needed(&self, key: &Key) {
        let is_more_due = self.state().give_back(key, 1);
        self.wake_claims_if(is_more_due);
    }

    fn finished(&self, key: &Key, retry_at: Option<Timestamp>) {
        let mut state = self.state();
        state.leave_node(1);
        state.end_record(&key.0);
        if let Some(at) = retry_at {
            state.owe(key.clone(), at);
        }
        let is_more_due = retry_at.is_some() || !state.ready.is_empty();
        drop(state);
        self.wake_claims_if(is_more_due);
    }

    /// Most answers leave nothing new to claim, and each wake-up costs as much as an answer.
    fn wake_claims_if(&self, is_more_due: bool) {
        if is_more_due {
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places that are taken while deliveries are being claimed for them. If it is dropped before [`Self::end`] has said
/// what was claimed, also by a panic, the places that are left are free again and their endpoints stay due.
pub(crate) struct Reservation<'a> {
    admission: &'a Admission,
    quotas: VecDeque<EndpointQuota>,
    at: Timestamp,
}

/// What a claim brought of one endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Claimed {
    /// How many.
    pub(crate) deliveries: u32,
    /// When the next delivery that was not claimed is due.
    pub(crate) next_due_at: Option<Timestamp>,
}

impl Reservation<'_> {
    /// The most to claim for each endpoint; empty if none has anything due, or there is no room.
    pub(crate) fn quotas(&mut self) -> &[EndpointQuota] {
        self.quotas.make_contiguous()
    }

    /// Says what was claimed for each endpoint.
    pub(crate) fn end(mut self, mut claimed: impl FnMut(&Key) -> Claimed) {
        while let Some(EndpointQuota { schema, endpoint_id, max }) = self.quotas.front() {
            let key = (schema.clone(), *endpoint_id);
            self.admission.claimed(&key, *max, claimed(&key));
            self.quotas.pop_front();
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        for EndpointQuota { schema, endpoint_id, max } in self.quotas.drain(..) {
            let nothing = Claimed { deliveries: 0, next_due_at: Some(self.at) };
            self.admission.claimed(&(schema, endpoint_id), max, nothing);
        }
    }
}

/// The places that a delivery in hand holds: one at its endpoint until that has answered, and one on the node until the
/// attempt is recorded.
pub(crate) struct Place {
    admission: Arc<Admission>,
    key: Key,
    stage: Stage,
    /// When the delivery is to be tried again, if it is.
    pub(crate) retry_at: Option<Timestamp>,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is not attempted yet, and perhaps never will be.
    InHand,
    /// It is being attempted.
    AtEndpoint,
    /// It has been attempted; the result is being recorded.
    Answered,
}

/// How the wait in the queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The attempt may begin.
    Come,
    /// It is to be given back: the endpoint fails or was changed, its tenant's attempts are not recorded, or the
    /// delivery was cancelled.
    Gone,
}

impl Place {
    /// Whose delivery it is.
    pub(crate) const fn schema(&self) -> &Schema {
        &self.key.0
    }

    /// Which endpoint it is for.
    pub(crate) const fn endpoint_id(&self) -> EndpointId {
        self.key.1
    }

    /// Waits until this delivery's attempt may begin, in the order of calls, or it is to be given back.
    pub(crate) async fn turn(&mut self, id: DeliveryId) -> Turn {
        let joined = self.admission.state().join_queue(&self.key, id);
        if let Some(called) = joined {
            let mut waiting = Queued { admission: &self.admission, key: &self.key, called };
            // Whoever calls has counted the attempt as in flight.
            if (&mut waiting.called).await.is_err() {
                return Turn::Gone;
            }
        }
        self.stage = Stage::AtEndpoint;
        Turn::Come
    }

    /// Does not use the turn, if it has come: nothing was attempted, so nothing is learned, and the next may begin.
    pub(crate) fn decline_turn(&mut self) {
        if self.stage == Stage::AtEndpoint {
            self.stage = Stage::InHand;
            self.admission.state().end_attempt(&self.key);
        }
    }

    /// The endpoint wants no more: what is queued for it is to be given back.
    pub(crate) fn return_queued(&self) {
        self.admission.return_queued(&self.key);
    }

    /// The attempt is over, and this is how it went: another one may begin.
    pub(crate) fn answered(&mut self, health: AttemptHealth) {
        self.stage = Stage::Answered;
        self.admission.answered(&self.key, health);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.stage {
            // Nothing was attempted, so nothing was learned.
            Stage::InHand => return self.admission.not_needed(&self.key),
            Stage::AtEndpoint => self.answered(AttemptHealth::Failed),
            Stage::Answered => {}
        }
        self.admission.finished(&self.key, self.retry_at);
    }
}

/// A wait in the queue. If it is dropped after the call was sent and before it was received, the next may begin
/// instead.
struct Queued<'a> {
    admission: &'a Admission,
    key: &'a Key,
    called: oneshot::Receiver<()>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.called.close();
        if self.called.try_recv().is_ok() {
            self.admission.state().end_attempt(self.key);
        }
    }
}
