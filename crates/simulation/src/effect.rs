//! What happens to rows, one value for each step: the truth that properties are judged by.

use std::{fmt, sync::Arc};

use neo_events_domain::{
    Timestamp,
    delivery::DeliveryState,
    endpoint::Endpoint,
    event::DomainEvent,
    id::{DeliveryId, EndpointId, EventId, RequestId, SubscriptionId},
    subscription::Subscription,
    tenant::Schema,
};
use neo_events_store::NewDelivery;

use crate::memory::Holder;

/// A change of one row, or of a lease on it.
#[derive(Debug, Clone)]
pub enum Effect {
    /// An event was stored and owes its dispatch.
    Stored(Arc<DomainEvent>),
    /// An endpoint is like this now.
    Endpoint(Box<Endpoint>),
    /// An endpoint is gone, and its subscriptions with it.
    EndpointDeleted(EndpointId),
    /// A subscription is like this now.
    Subscription(Box<Subscription>),
    /// A subscription is gone.
    SubscriptionDeleted(SubscriptionId),
    /// An event's dispatch was claimed.
    DispatchClaimed(EventId, Grant),
    /// An event owes no dispatch any more.
    Dispatched(EventId),
    /// A delivery was written.
    Written(EventId, Box<NewDelivery>),
    /// A delivery was claimed, for this attempt.
    Claimed(DeliveryId, u32, Grant),
    /// An attempt was recorded, and brought the delivery into this state.
    Recorded(DeliveryId, Recorded),
    /// The lease with this token is over and its row can be claimed again.
    Freed(u64),
    /// A delivery was ended, moved or asked to end without an attempt.
    Moved(DeliveryId, Moved),
}

/// A lease as it was granted.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// Whose.
    pub holder: Holder,
    /// The fencing token.
    pub token: u64,
    /// When it was asked for, by the holder's clock.
    pub now: Timestamp,
    /// When it ends.
    pub until: Timestamp,
}

/// What is kept of an attempt.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The lease that it was made under.
    pub token: u64,
    /// The request it made.
    pub request_id: RequestId,
    /// The first is 1.
    pub attempt_number: u32,
    /// What became of the delivery.
    pub state: DeliveryState,
}

/// Where a delivery stands without an attempt having been made.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Its state.
    pub state: DeliveryState,
    /// Whether it is to end when the attempt in flight lands.
    pub is_ending: bool,
}

type Watch = dyn Fn(&Schema, Effect) + Send + Sync;

/// Who is told of every effect, while it happens.
#[derive(Clone)]
pub struct Watcher(Arc<Watch>);

impl Watcher {
    /// Calls a function.
    pub fn new(watch: impl Fn(&Schema, Effect) + Send + Sync + 'static) -> Self {
        Self(Arc::new(watch))
    }

    /// Tells nobody.
    pub fn nobody() -> Self {
        Self::new(|_, _| {})
    }

    pub(crate) fn tell(&self, schema: &Schema, effect: Effect) {
        (self.0)(schema, effect);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}
