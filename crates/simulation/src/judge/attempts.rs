//! Attempts: what the engine made of an outcome, and what was recorded of it.

use std::time::Duration;

use neo_events_domain::{
    SignedDuration, Timestamp,
    delivery::DeliveryState,
    id::{DeliveryId, RequestId},
    retry::{RetryPolicy, Verdict},
    time::to_micros,
};
use neo_events_store::{DeliveryWork, Lease, Settled, Settlement, StoreError};

use super::{Account, Judge, Record, trace::short};
use crate::{effect::Recorded, happening::Happening, life::Life, property::Property};

/// What a settlement says, kept while it is on its way.
pub(crate) struct Settling {
    request_id: RequestId,
    token: u64,
}

impl Judge {
    /// The engine wants to record an attempt; `now` is its steady time.
    pub(crate) fn settling(&self, life: &Life, settlement: &Settlement, now: Timestamp) -> Settling {
        let (lease, attempt) = (&settlement.lease, &settlement.attempt);
        let (request_id, token) = (attempt.request_id, lease.token());
        let mut account = self.account();
        let request = account.requests.entry(request_id).or_default();
        request.holder = life.holder;
        let asked = request.asked;
        if request.settling.is_none() {
            request.settling = Some((token, settlement.verdict));
            let retry = account.deliveries.get(&lease.work().delivery_id).map(|known| known.retry);
            let of = (lease.work().progress.attempt, retry.unwrap_or(lease.work().retry));
            account.timely(lease.work().delivery_id, of, (asked, settlement.verdict), now);
        }
        // As it was when it was wanted first, whatever comes back from the store to be tried again.
        let token = account.requests[&request_id].settling.map_or(token, |(first, _)| first);
        Settling { request_id, token }
    }

    /// It was not recorded.
    pub(crate) fn unsettled(&self, settling: &Settling, error: &StoreError) {
        if let Some(request) = self.account().requests.get_mut(&settling.request_id)
            && !request.is_settled()
        {
            request.record = if error.is_transient() { Record::Open } else { Record::Refused };
        }
    }

    /// A delivery is given back at this time of the node's. That may be tried more than once.
    pub(crate) fn gives_back(&self, lease: &Lease<DeliveryWork>, now: Timestamp) {
        let mut account = self.account();
        let is_of_it = |request: &&mut super::KnownRequest| {
            request.settling.is_some_and(|(token, _)| token == lease.token())
                && !matches!(request.record, Record::Made | Record::GivenUp)
        };
        let Some(request) = account.requests.values_mut().find(is_of_it) else { return };
        let is_hopeless = request.record == Record::Refused && lease.expires_at() <= now;
        request.record = Record::GivenUp;
        account.tally.note(Happening::AttemptGivenUp);
        account.require(is_hopeless, Property::AttemptsAreRecorded, || {
            let id = short(lease.work().delivery_id);
            format!("delivery {id} was attempted and given back though that might have been recorded")
        });
    }

    /// What the engine was told of it.
    pub(crate) fn settled(&self, settling: &Settling, settled: &Settled) {
        let mut account = self.account();
        if *settled == Settled::LeaseLost {
            account.tally.note(Happening::LeaseLost);
            account.lost(settling);
        }
    }
}

impl Account {
    fn timely(
        &mut self,
        id: DeliveryId,
        (attempt, policy): (u32, RetryPolicy),
        (asked, verdict): (Duration, Verdict),
        now: Timestamp,
    ) {
        let Verdict::Retry(at) = verdict else { return };
        let backoff = policy.delay_after(attempt);
        let (least, most) = (backoff.max(asked), backoff.mul_f64(1.1).max(asked));
        let delay = at.duration_since(now);
        let slack = SignedDuration::from_millis(1);
        let least = SignedDuration::try_from(least).unwrap_or(SignedDuration::MAX) - slack;
        let most = SignedDuration::try_from(most).unwrap_or(SignedDuration::MAX) + slack;
        self.require((least..=most).contains(&delay), Property::DelaysFollowThePolicy, || {
            format!("attempt {attempt} of {} is put off by {delay:?}", short(id))
        });
    }

    /// A settlement was refused: rightly, if its lease was taken, or if it had been recorded before.
    fn lost(&mut self, Settling { request_id, token }: &Settling) {
        let is_taken = self.taken.contains(token);
        let Some(request) = self.requests.get_mut(request_id) else { return };
        let is_recorded = request.record == Record::Made;
        if !is_recorded {
            request.record = Record::Lost;
        }
        self.require(is_taken || is_recorded, Property::AttemptsAreRecorded, || {
            format!("request {} was refused though nobody had taken lease {token}", short(*request_id))
        });
    }

    pub(super) fn recorded(&mut self, id: DeliveryId, recorded: Recorded) {
        let Recorded { request_id, attempt_number, state, .. } = recorded;
        let request = self.requests.entry(request_id).or_default();
        request.record = Record::Made;
        let (settling, answered) = (request.settling, request.answered);
        let Some(delivery) = self.deliveries.get_mut(&id) else { return };
        let lease = delivery.lease.take();
        let was_ending = std::mem::take(&mut delivery.is_ending);
        let before = std::mem::replace(&mut delivery.recorded, attempt_number);
        delivery.state = state.clone();
        delivery.due_at = match state {
            DeliveryState::Retrying { next_retry_at } => Some(next_retry_at),
            _ => None,
        };
        let max = delivery.max_attempts;
        let what = || format!("delivery {} attempt {attempt_number}", short(id));
        let is_held = lease.is_some_and(|lease| settling.is_some_and(|(token, _)| token == lease.token));
        self.require(is_held, Property::OnlyTheHolderSettles, what);
        self.require(attempt_number == before + 1, Property::AttemptsCountByOne, || {
            format!("{} was recorded after {before}", what())
        });
        if answered == Some(410) {
            self.tally.note(Happening::EndpointGone);
        }
        let says = settling.map(|(_, verdict)| verdict);
        self.require(is_kept(&state, says, (answered, was_ending)), Property::OutcomesAreKept, || {
            format!("{} was answered {answered:?}, judged {says:?} and recorded as {state:?}", what())
        });
        let goes_on = matches!(state, DeliveryState::Retrying { .. });
        self.require(!(was_ending && goes_on), Property::CancellationsHold, what);
        let gives_up = state == DeliveryState::Failed { max_attempts_reached: true };
        let is_last = attempt_number >= max;
        self.require(if is_last { !goes_on } else { !gives_up }, Property::AttemptsEnd, || {
            format!("{} of {max} was recorded as {state:?}", what())
        });
    }
}

/// What an answer, or none, means for a delivery: the rules that users are told, put down once more.
#[derive(Clone, Copy)]
enum Meaning {
    Delivered,
    /// Trying again would not help.
    Refused,
    /// And the receiver asks for no more.
    Gone,
    /// It may be another time.
    NotNow,
}

const fn meaning_of(answered: Option<u16>) -> Meaning {
    match answered {
        Some(200..=299) => Meaning::Delivered,
        Some(410) => Meaning::Gone,
        None | Some(408 | 425 | 429 | 500..=599) => Meaning::NotNow,
        Some(_) => Meaning::Refused,
    }
}

/// Whether a state is what the receiver's answer and the engine's verdict bring, and whether it was to end anyway.
fn is_kept(
    state: &DeliveryState,
    verdict: Option<Verdict>,
    (answered, was_ending): (Option<u16>, bool),
) -> bool {
    let Some(verdict) = verdict else { return false };
    match (meaning_of(answered), verdict, state) {
        (Meaning::Delivered, Verdict::Succeeded, DeliveryState::Success)
        | (Meaning::Refused, Verdict::Rejected, DeliveryState::Failed { max_attempts_reached: false })
        | (Meaning::Gone, Verdict::Gone, DeliveryState::Failed { max_attempts_reached: false })
        | (Meaning::NotNow, Verdict::Exhausted, DeliveryState::Failed { max_attempts_reached: true }) => true,
        (Meaning::NotNow, Verdict::Retry(_), DeliveryState::Cancelled { .. }) => was_ending,
        (Meaning::NotNow, Verdict::Retry(at), DeliveryState::Retrying { next_retry_at }) => {
            to_micros(at) == *next_retry_at
        }
        _ => false,
    }
}
