//! How many deliveries of which endpoint may be taken in hand now, and which of those may be attempted.
//!
//! Each endpoint has a bound on its attempts in flight. It starts small, doubles while the receiver answers well and
//! fast, and halves when it fails or is slow; so a dead endpoint holds a handful of places and not all of them, and
//! its backlog stays in the database. All endpoints share the node's places and take turns; those that are new or failed at
//! last share a part of them, and those that were slow or are silent another, so that many dead endpoints hold up neither
//! those that work nor those that are new.
//!
//! Of an endpoint that answers well more is taken in hand than may be attempted: the rest stands in line, so that the
//! next attempt begins the moment another has been answered and not a round trip to the database later. If the endpoint
//! fails until its bound is at its least, what stands in line is given back. If it goes on failing, it rests between two
//! turns, longer each time: a receiver that refuses at once would else be claimed for as often as the database bears.
//!
//! What has been answered keeps its place on the node until it is recorded. A tenant whose attempts are not, for a lock or a
//! damaged table, gets nothing new once those hold three quarters of what the other tenants leave of the node; if that lasts,
//! what it has in line is given back.
//!
//! What is known here about who is due is a hint: the store's own answer, read every now and then, is the truth.

mod state;
#[cfg(test)]
mod tests;

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

/// How an endpoint bore a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bearing {
    /// It answered well and fast.
    Well,
    /// It failed, and at once.
    Badly,
    /// It took long, whatever came of it.
    Slowly,
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

    /// What to claim: each due endpoint's share of the free places, taken until it is known what was claimed.
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

    /// A place for a delivery that is only being written, if there is one that nobody who waits is to have.
    pub(crate) fn place_ahead(self: &Arc<Self>, key: Key, now: Timestamp) -> Option<Place> {
        let admission = Arc::clone(self);
        let is_free = self.state().take_ahead(&key, now);
        is_free.then(|| Place { admission, key, stage: Stage::InHand, retry_at: None })
    }

    /// Whoever stands in line for this endpoint gives back what it has in hand.
    pub(crate) fn send_line_away(&self, key: &Key) {
        if let Some(flow) = self.state().flows.get_mut(key) {
            flow.line.clear();
        }
    }

    /// This delivery gives back what it has in hand, if it stands in line.
    pub(crate) fn send_away(&self, key: &Key, id: DeliveryId) {
        if let Some(flow) = self.state().flows.get_mut(key) {
            flow.line.retain(|waiting| waiting.delivery_id != id);
        }
    }

    /// To be called every now and then, not before an answer counts as slow: endpoints that have had attempts in flight since
    /// the last call, and have answered none, are slow, whatever comes of them. Until their timeouts they would else hold
    /// what they were given when they answered well. Lines of tenants whose attempts were not recorded all the time are sent
    /// away.
    pub(crate) fn notice_silence(&self) {
        self.state().notice_silence();
        self.changed.notify_one();
    }

    /// Whoever stands in line for an endpoint of this tenant gives back what it has in hand.
    pub(crate) fn send_lines_away_of(&self, schema: &Schema) {
        self.state().send_lines_away_of(schema);
    }

    /// When there is something to claim: now, later, or as far as is known never.
    pub(crate) fn next_claim_at(&self, now: Timestamp) -> Option<Timestamp> {
        let state = self.state();
        let now = (!state.ready.is_empty() && state.in_hand < IN_HAND_MAX).then_some(now);
        now.or_else(|| state.later.first().map(|(at, _)| *at))
    }

    fn answered(&self, key: &Key, bearing: Bearing) {
        let mut state = self.state();
        state.learn(key, bearing);
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

    /// Most answers change nothing for whoever claims, and each wake-up costs as much as an answer.
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

/// Places that are taken while deliveries for them are being claimed. Those of which nothing is said come back when it is
/// dropped, also by a panic, and their endpoints stay due.
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
    /// When its next one is due, of those that were not claimed.
    pub(crate) next_due_at: Option<Timestamp>,
}

impl Reservation<'_> {
    /// At most how many of whom; empty if there is nobody, or no room.
    pub(crate) fn quotas(&mut self) -> &[EndpointQuota] {
        self.quotas.make_contiguous()
    }

    /// Says of each endpoint what was claimed.
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

/// A place that a delivery in hand holds: one at its endpoint until that has answered, and one on the node until what it
/// answered is recorded.
pub(crate) struct Place {
    admission: Arc<Admission>,
    key: Key,
    stage: Stage,
    /// When the endpoint's next try of it is due.
    pub(crate) retry_at: Option<Timestamp>,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is not attempted yet, and perhaps never will be.
    InHand,
    /// It is being attempted.
    AtEndpoint,
    /// It has been; what came of it is being recorded.
    Answered,
}

/// What standing in line came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The attempt may begin.
    Come,
    /// The endpoint bears no more, or its tenant's attempts are not recorded: give it back.
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

    /// Resolves when the endpoint may have one attempt more, for this delivery, in the order of calls.
    pub(crate) async fn turn(&mut self, id: DeliveryId) -> Turn {
        let joined = self.admission.state().join_line(&self.key, id);
        if let Some(called) = joined {
            let mut waiting = InLine { admission: &self.admission, key: &self.key, called };
            // The one who calls counts the attempt.
            if (&mut waiting.called).await.is_err() {
                return Turn::Gone;
            }
        }
        self.stage = Stage::AtEndpoint;
        Turn::Come
    }

    /// The turn has come and is not used: nothing was attempted, so nothing is learned.
    pub(crate) fn forgo(&mut self) {
        if self.stage == Stage::AtEndpoint {
            self.stage = Stage::InHand;
            self.admission.state().end_attempt(&self.key);
        }
    }

    /// The endpoint wants no more: whoever stands in line for it gives back what it has in hand.
    pub(crate) fn send_line_away(&self) {
        self.admission.send_line_away(&self.key);
    }

    /// The attempt is over, and the endpoint bore it like this: another one may go there.
    pub(crate) fn answered(&mut self, bearing: Bearing) {
        self.stage = Stage::Answered;
        self.admission.answered(&self.key, bearing);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.stage {
            // Nothing was attempted, so nothing was learned.
            Stage::InHand => return self.admission.not_needed(&self.key),
            Stage::AtEndpoint => self.answered(Bearing::Badly),
            Stage::Answered => {}
        }
        self.admission.finished(&self.key, self.retry_at);
    }
}

/// Somebody who stands in line. Who leaves it after having been called, but before having heard of it, lets the next go.
struct InLine<'a> {
    admission: &'a Admission,
    key: &'a Key,
    called: oneshot::Receiver<()>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.called.close();
        if self.called.try_recv().is_ok() {
            self.admission.state().end_attempt(self.key);
        }
    }
}
