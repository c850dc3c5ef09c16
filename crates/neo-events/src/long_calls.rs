//! Calls that take long: those that wait for a receiver, and explanations of filters.
//!
//! Each keeps its caller's connection, and a socket, a processor or some memory of this node, for seconds or minutes.
//! So only so many of a kind may be under way at once, of one tenant and of all: who comes beyond that is refused at
//! once and may try again. Otherwise the calls of one tenant would fill the server, and nobody could reach it.
//!
//! Where such calls take turns, so do the tenants: each has at most one call in the line for the node's only turn, so a
//! call is preceded by its own tenant's older ones, and between any two of those by one of each other tenant.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use neo_events_domain::tenant::Schema;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A kind of call that takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LongCall {
    /// Waits for a receiver to answer: tests of endpoints, verifications, connectivity tests.
    Reach,
    /// Explains a filter.
    Explain,
}

impl LongCall {
    /// Of one tenant. Attempts beyond these would wait for their turn at the endpoint; people try out a few at once.
    const fn tenant_max(self) -> usize {
        match self {
            Self::Reach => 16,
            Self::Explain => 8,
        }
    }

    /// Of all tenants: sixteen that do all they may. Waiting for receivers takes the sixteenth part of a server's
    /// connections then, and explaining some 100 MB: for each an event and a filter with heavy regular expressions.
    const fn node_max(self) -> usize {
        16 * self.tenant_max()
    }
}

impl fmt::Display for LongCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reach => "tests and verifications of endpoints, and connectivity tests",
            Self::Explain => "explanations",
        })
    }
}

/// As many calls of a kind are under way as may be; when one has ended, another may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Of this tenant.
    #[error(
        "this tenant has {} {} under way, and may have no more at once; try again when one has ended",
        .0.tenant_max(), .0
    )]
    Tenant(LongCall),
    /// Of all tenants.
    #[error(
        "this node has {} {} under way, and takes no more at once; try again when one has ended",
        .0.node_max(), .0
    )]
    Node(LongCall),
}

/// The calls of one kind that are under way on this node.
pub(crate) struct LongCalls {
    kind: LongCall,
    counts: Mutex<Counts>,
    turn: Arc<Semaphore>,
}

#[derive(Default)]
struct Counts {
    calls: usize,
    /// Those that have any.
    tenants: HashMap<Schema, Share>,
}

struct Share {
    calls: usize,
    turn: Arc<Semaphore>,
}

impl LongCalls {
    pub(crate) fn new(kind: LongCall) -> Arc<Self> {
        Arc::new(Self { kind, counts: Mutex::default(), turn: Arc::new(Semaphore::new(1)) })
    }

    /// A place for one more call of this tenant.
    pub(crate) fn begin(self: &Arc<Self>, schema: &Schema) -> Result<Place, Busy> {
        let mut counts = self.counts();
        let of_tenant = counts.tenants.get(schema).map_or(0, |share| share.calls);
        if of_tenant >= self.kind.tenant_max() {
            return Err(Busy::Tenant(self.kind));
        }
        if counts.calls >= self.kind.node_max() {
            return Err(Busy::Node(self.kind));
        }
        counts.calls += 1;
        let none = || Share { calls: 0, turn: Arc::new(Semaphore::new(1)) };
        let share = counts.tenants.entry(schema.clone()).or_insert_with(none);
        share.calls += 1;
        let tenants_turn = Arc::clone(&share.turn);
        Ok(Place { calls: Arc::clone(self), schema: schema.clone(), tenants_turn })
    }

    fn end(&self, schema: &Schema) {
        let mut counts = self.counts();
        counts.calls -= 1;
        if let Some(share) = counts.tenants.get_mut(schema) {
            share.calls -= 1;
            if share.calls == 0 {
                counts.tenants.remove(schema);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a call that is under way. It is free again when this is dropped.
pub(crate) struct Place {
    calls: Arc<LongCalls>,
    schema: Schema,
    tenants_turn: Arc<Semaphore>,
}

impl Place {
    /// Waits for this call's turn, which lasts until it is dropped: there is one on the node, and tenants alternate.
    pub(crate) async fn turn(self) -> Turn {
        // Both are fair: who asks first is first.
        let of_tenant = turn(&self.tenants_turn).await;
        let of_node = turn(&self.calls.turn).await;
        Turn { _of_node: of_node, _of_tenant: of_tenant, _place: self }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.calls.end(&self.schema);
    }
}

/// The turn of a call, and its place.
pub(crate) struct Turn {
    _of_node: OwnedSemaphorePermit,
    _of_tenant: OwnedSemaphorePermit,
    _place: Place,
}

async fn turn(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Turn>>>;

    const KIND: LongCall = LongCall::Explain;

    fn tenant(n: usize) -> Schema {
        Schema::tenant(&format!("t{n}")).unwrap()
    }

    #[test]
    fn a_tenant_has_its_part_and_all_together_have_an_end() {
        let calls = LongCalls::new(KIND);
        let mut places = Vec::new();
        for n in 0..KIND.node_max() / KIND.tenant_max() {
            places.extend((0..KIND.tenant_max()).map(|_| calls.begin(&tenant(n)).unwrap()));
            assert_eq!(calls.begin(&tenant(n)).err(), Some(Busy::Tenant(KIND)));
        }
        let newcomer = tenant(1000);
        assert_eq!(calls.begin(&newcomer).err(), Some(Busy::Node(KIND)));
        drop(places.pop());
        places.push(calls.begin(&newcomer).unwrap());
        drop(places);
        let counts = calls.counts();
        assert_eq!((counts.calls, counts.tenants.len()), (0, 0), "who has no call is forgotten");
    }

    #[tokio::test]
    async fn tenants_alternate_however_many_calls_one_has() {
        let calls = LongCalls::new(KIND);
        let [crowd, other] = [tenant(1), tenant(2)];
        let mut waiting: Vec<(&Schema, Waiting)> = Vec::new();
        for schema in [[&crowd; 4].as_slice(), &[&other; 2]].concat() {
            waiting.push((schema, Box::pin(calls.begin(schema).unwrap().turn())));
        }
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let mut turns = Vec::new();
            for (at, (_, call)) in waiting.iter_mut().enumerate() {
                if let Poll::Ready(turn) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    turns.push((at, turn));
                }
            }
            let [(at, _)] = turns.as_slice() else { panic!("{} turns at once", turns.len()) };
            order.push(waiting.remove(*at).0);
        }
        assert_eq!(order, [&crowd, &other, &crowd, &other, &crowd, &crowd]);
    }
}
