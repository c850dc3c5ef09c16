//! The judge: an account of its own of what happened, kept from effects, requests and verdicts as they come, and the
//! properties that are judged by it.
//!
//! It does not look into the store: what the store did it learns from [`Effect`]s, in their order, and compares with
//! what receivers saw and with what the engine said it would do. The first violation stays.

mod attempts;
mod catalogue;
mod deliveries;
mod end;
mod receivers;
mod signatures;
mod stops;
mod trace;
mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use neo_events_domain::{
    Timestamp,
    delivery::DeliveryState,
    endpoint::Endpoint,
    event::DomainEvent,
    id::{DeliveryId, EndpointId, EventId, RequestId, SubscriptionId},
    retry::{RetryPolicy, Verdict},
    subscription::Subscription,
    tenant::Schema,
};
use neo_events_engine::Clock;

use crate::{
    clock::SimulatedClock,
    effect::{Effect, Grant},
    happening::Tally,
    memory::Holder,
    property::{Property, Violation},
};
pub(crate) use receivers::Sent;
use signatures::{Form, KnownSecret};
pub(crate) use trace::Trace;
pub(crate) use trace::short;
pub(crate) use wishes::Wish;

/// Keeps account and judges. Its clones are one.
#[derive(Clone)]
pub(crate) struct Judge(Arc<Mutex<Account>>);

/// What happened so far.
pub(crate) struct Account {
    clock: SimulatedClock,
    trace: Trace,
    step: u32,
    violation: Option<Violation>,
    /// From when on nothing goes wrong any more, and clocks are right.
    calm_since: Option<Timestamp>,
    tally: Tally,
    endpoints: BTreeMap<EndpointId, KnownEndpoint>,
    /// What each endpoint is to be sent, first form first.
    forms: BTreeMap<EndpointId, Vec<Form>>,
    /// What each endpoint's requests are signed with, newest first.
    secrets: BTreeMap<EndpointId, Vec<KnownSecret>>,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    events: BTreeMap<EventId, KnownEvent>,
    deliveries: BTreeMap<DeliveryId, KnownDelivery>,
    by_pair: BTreeMap<(EventId, EndpointId), DeliveryId>,
    requests: BTreeMap<RequestId, KnownRequest>,
    in_flight: BTreeMap<(Holder, EndpointId), InFlight>,
    /// Leases that were ended by something else than what was made under them.
    taken: BTreeSet<u64>,
    over: BTreeSet<Holder>,
    /// Lives that have begun to stop.
    stopping: BTreeSet<Holder>,
    /// Leases that whoever holds them need not give back: they have not heard of them, or leave them to the store.
    adrift: BTreeSet<u64>,
    /// Lives that may have let go of a tenant's dispatches without giving them back.
    let_go: BTreeSet<(Holder, Schema)>,
    /// What people ask for just now.
    wishes: BTreeSet<Wish>,
}

struct KnownEndpoint {
    schema: Schema,
    endpoint: Endpoint,
    /// When it was activated last.
    active_since: Timestamp,
    is_deleted: bool,
}

struct KnownEvent {
    schema: Schema,
    event: Arc<DomainEvent>,
    /// Who has wanted it all the time since it was stored, up to its dispatch.
    wanted_always: BTreeSet<EndpointId>,
    /// Who wanted it at any time since, and each one's policies meanwhile.
    wanted_ever: BTreeMap<EndpointId, Vec<RetryPolicy>>,
    lease: Option<Grant>,
    is_dispatched: bool,
}

struct KnownDelivery {
    schema: Schema,
    endpoint_id: EndpointId,
    state: DeliveryState,
    is_ending: bool,
    recorded: u32,
    max_attempts: u32,
    retry: RetryPolicy,
    /// Since when it is due, as long as it was not claimed since.
    due_at: Option<Timestamp>,
    lease: Option<Grant>,
    /// Who was granted which attempt, and when first.
    granted_at: BTreeMap<(Holder, u32), Duration>,
    /// Who lost it, and may not know yet.
    losers: BTreeSet<Holder>,
}

#[derive(Default)]
struct KnownRequest {
    holder: Holder,
    arrivals: u32,
    /// What the receiver answered, if it did.
    answered: Option<u16>,
    /// How long it asked to be left alone.
    asked: Duration,
    /// The lease under which the engine wanted to record it, and what it made of it.
    settling: Option<(u64, Verdict)>,
    record: Record,
}

/// What has become of recording an attempt.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// Nothing yet.
    #[default]
    Open,
    /// The store said at last that it cannot be made, and that trying again would not help.
    Refused,
    /// It is there.
    Made,
    /// The lease was lost before.
    Lost,
    /// It was refused until the lease was over, and the delivery was given back.
    GivenUp,
}

impl KnownRequest {
    /// Whether nothing more is to be recorded of it.
    const fn is_settled(&self) -> bool {
        matches!(self.record, Record::Made | Record::Lost | Record::GivenUp)
    }
}

struct InFlight {
    now: u32,
    bound_max: u32,
    bound: u32,
}

impl Judge {
    /// A judge of a run that has just begun.
    pub(crate) fn new(clock: SimulatedClock, trace: Trace, tally: Tally) -> Self {
        Self(Arc::new(Mutex::new(Account::new(clock, trace, tally))))
    }

    pub(crate) fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an effect.
    pub(crate) fn effect(&self, schema: &Schema, effect: Effect) {
        let mut account = self.account();
        account.trace_effect(schema, &effect);
        account.take(schema, effect);
    }

    /// Takes note of what is not an effect: a line of the log.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        self.account().note(what);
    }

    /// The next step begins.
    pub(crate) fn begin_step(&self, step: u32) {
        self.account().step = step;
    }

    /// The first property that did not hold.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.account().violation.clone()
    }

    /// Something did not hold that others found out.
    pub(crate) fn violated(&self, property: Property, what: impl Into<String>) {
        self.account().violated(property, what.into());
    }

    /// A life is over: what it had in flight may never be recorded.
    pub(crate) fn over(&self, holder: Holder) {
        self.account().over.insert(holder);
    }

    /// From this time on nothing goes wrong.
    pub(crate) fn calm(&self, since: Timestamp) {
        self.account().calm_since = Some(since);
    }
}

impl Account {
    fn new(clock: SimulatedClock, trace: Trace, tally: Tally) -> Self {
        Self {
            clock,
            trace,
            step: 0,
            violation: None,
            calm_since: None,
            tally,
            endpoints: BTreeMap::new(),
            forms: BTreeMap::new(),
            secrets: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            events: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            by_pair: BTreeMap::new(),
            requests: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            taken: BTreeSet::new(),
            over: BTreeSet::new(),
            stopping: BTreeSet::new(),
            adrift: BTreeSet::new(),
            let_go: BTreeSet::new(),
            wishes: BTreeSet::new(),
        }
    }

    fn violated(&mut self, property: Property, what: String) {
        let (at, step) = (self.elapsed(), self.step);
        self.note(|| format!("VIOLATED {property}: {what}"));
        self.violation.get_or_insert(Violation { property, what, at, step });
    }

    fn require(&mut self, holds: bool, property: Property, what: impl FnOnce() -> String) {
        if !holds {
            self.violated(property, what());
        }
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    fn take(&mut self, schema: &Schema, effect: Effect) {
        match effect {
            Effect::Stored(event) => self.stored(schema, &event),
            Effect::Endpoint(endpoint) => self.endpoint_is(schema, *endpoint),
            Effect::EndpointDeleted(id) => self.endpoint_deleted(id),
            Effect::Subscription(subscription) => self.subscription_is(*subscription),
            Effect::SubscriptionDeleted(id) => self.subscription_deleted(id),
            Effect::DispatchClaimed(id, grant) => self.dispatch_claimed(id, grant),
            Effect::Dispatched(id) => self.dispatched(id),
            Effect::Written(id, delivery) => self.written(schema, id, &delivery),
            Effect::Claimed(id, attempt, grant) => self.claimed(id, attempt, grant),
            Effect::Recorded(id, recorded) => self.recorded(id, recorded),
            Effect::Freed(token) => self.freed(token),
            Effect::Moved(id, moved) => self.moved(id, moved),
        }
    }
}
