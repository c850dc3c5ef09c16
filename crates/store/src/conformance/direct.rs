//! Dispatch at the moment of publishing.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use neo_events_domain::{
    catalogue::EventTypePatch, delivery::DeliveryState, endpoint::Endpoint, event::EventDraft, retry::Verdict,
};

use super::world::{World, at, done};
use crate::{
    Appended, Arrival, CatalogueVersion, DeliveryQuery, DeliveryWork, DirectDelivery, DirectDispatch, Lease,
    NewDelivery, PageRequest, Settled, Store,
};

fn draft() -> EventDraft {
    EventDraft::new("user.created", r#"{"n":1}"#)
}

/// What was handed over: one entry for each call.
#[derive(Clone, Default)]
struct Hands(Arc<Mutex<Vec<Vec<Lease<DeliveryWork>>>>>);

impl Hands {
    /// Of one call, the only one.
    fn the_only(&self) -> Vec<Lease<DeliveryWork>> {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "handed over once");
        calls.remove(0)
    }

    fn calls(&self) -> Vec<Vec<Lease<DeliveryWork>>> {
        std::mem::take(&mut *self.0.lock().expect("nobody panicked"))
    }
}

async fn version(world: &World<'_>) -> CatalogueVersion {
    let mut version = CatalogueVersion(0);
    loop {
        let changes = done(world.store.catalogue_changes(&world.schema, version, 100).await);
        version = changes.version;
        if !changes.more {
            return version;
        }
    }
}

/// Leased for a minute where taken.
fn dispatch(
    catalogue_version: CatalogueVersion,
    deliveries: &[(&NewDelivery, bool)],
    second: i64,
    hands: &Hands,
) -> DirectDispatch {
    let hands = hands.clone();
    let direct = |(delivery, is_taken): &(&NewDelivery, bool)| DirectDelivery {
        delivery: (*delivery).clone(),
        is_taken: *is_taken,
    };
    DirectDispatch {
        catalogue_version,
        deliveries: deliveries.iter().map(direct).collect(),
        lease_until: at(second + 60),
        hand_over: Box::new(move |leases| hands.0.lock().expect("nobody panicked").push(leases)),
    }
}

async fn arrive(world: &World<'_>, arrivals: Vec<Arrival>, second: i64) -> Vec<Appended> {
    done(world.store.append_arrivals(&world.schema, arrivals, at(second)).await)
}

/// The event, its deliveries and the leases on those that are taken come together, and mean what they always mean.
pub async fn deliveries_come_with_their_event(store: &dyn Store) {
    let world = World::new(store);
    let (near, far) = (world.endpoint().await, world.endpoint().await);
    let (taken, left) = (world.new_delivery(&near, 1), world.new_delivery(&far, 1));
    let (hands, event) = (Hands::default(), world.event(draft(), 1));
    let id = event.id;
    let version = version(&world).await;
    let dispatch = dispatch(version, &[(&taken, true), (&left, false)], 1, &hands);
    let appended = arrive(&world, vec![Arrival { event, dispatch: Some(dispatch) }], 1).await;
    assert!(matches!(appended[..], [Appended::Stored { .. }]));

    assert!(world.claim_dispatches(2, 10, 60).await.is_empty(), "nothing is owed");
    let stored = done(store.event(&world.schema, id).await).expect("there");
    assert_eq!(stored.processed_at, Some(at(1)));
    for delivery in [&taken, &left] {
        let there = world.delivery_now(delivery.id).await;
        assert_eq!((there.state, there.current_attempt), (DeliveryState::Pending, 0));
        assert_eq!((there.webhook_event_id, there.webhook_endpoint_id), (id, delivery.endpoint_id));
        assert_eq!((there.max_attempts, there.retry), (delivery.max_attempts, delivery.retry));
        assert_eq!((there.subscription_ids, there.created_at), (delivery.subscription_ids.clone(), at(1)));
    }
    let lease = hands.the_only().remove(0);
    assert_eq!(lease.work().delivery_id, taken.id);
    assert_eq!((lease.work().progress.attempt, lease.work().progress.max_attempts), (1, taken.max_attempts));
    assert_eq!(*lease.work().event, stored.event, "as it would be read");
    assert!(world.claim(&near, 10, 2).await.is_empty(), "somebody has it");
    assert_eq!(world.claim_one(&far, 2).await.work().delivery_id, left.id);
    let due: Vec<_> = done(store.due_endpoints(at(3)).await).into_iter().map(|due| due.endpoint_id).collect();
    assert!(due.is_empty(), "{due:?}");
    assert_eq!(world.settle(lease, Verdict::Succeeded, 3).await, Settled::Recorded(DeliveryState::Success));
    assert_eq!(world.delivery_now(taken.id).await.current_attempt, 1);
}

/// Whoever lets the lease run out has lost it to the next one, and can give it back before.
pub async fn leases_that_come_with_an_event_end_like_others(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let (hands, version) = (Hands::default(), version(&world).await);
    for second in [1, 2] {
        let delivery = world.new_delivery(&endpoint, second);
        let dispatch = dispatch(version, &[(&delivery, true)], second, &hands);
        arrive(
            &world,
            vec![Arrival { event: world.event(draft(), second), dispatch: Some(dispatch) }],
            second,
        )
        .await;
    }
    let mut leases: Vec<_> = hands.calls().into_iter().flatten().collect();
    let (kept, given_back) = (leases.remove(0), leases.remove(0));
    let id = given_back.work().delivery_id;
    world.release(given_back).await;
    assert_eq!(world.claim_one(&endpoint, 3).await.work().delivery_id, id);
    let again = world.claim(&endpoint, 1, 62).await.remove(0);
    assert_eq!(again.work().delivery_id, kept.work().delivery_id);
    assert_eq!(world.settle(kept, Verdict::Succeeded, 62).await, Settled::LeaseLost);
    assert!(matches!(world.settle(again, Verdict::Rejected, 63).await, Settled::Recorded(_)));
}

/// Of an event that nobody wants, nothing is left to do.
pub async fn events_that_nobody_wants_are_processed_as_they_come(store: &dyn Store) {
    let world = World::new(store);
    let (hands, event) = (Hands::default(), world.event(draft(), 1));
    let (id, version) = (event.id, version(&world).await);
    arrive(&world, vec![Arrival { event, dispatch: Some(dispatch(version, &[], 1, &hands)) }], 1).await;
    assert!(hands.the_only().is_empty());
    assert!(world.claim_dispatches(2, 10, 60).await.is_empty());
    assert_eq!(done(store.event(&world.schema, id).await).expect("there").processed_at, Some(at(1)));
}

/// What was matched with a catalogue that has changed meanwhile owes its dispatch, like what was not matched at all.
pub async fn an_old_catalogue_dispatches_nothing(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let (hands, old) = (Hands::default(), version(&world).await);
    world.subscription(&endpoint, "user.created").await;
    let now = version(&world).await;
    assert_ne!(old, now);
    let deliveries: Vec<_> = (0..2).map(|_| world.new_delivery(&endpoint, 1)).collect();
    let arrival = |version, delivery| {
        let dispatch = Some(dispatch(version, &[(delivery, true)], 1, &hands));
        Arrival { event: world.event(draft(), 1), dispatch }
    };
    let arrivals = vec![
        arrival(old, &deliveries[0]),
        arrival(now, &deliveries[1]),
        world.event(draft(), 1).into(),
        arrival(CatalogueVersion(now.0 + 1), &deliveries[0]),
    ];
    let ids: Vec<_> = arrivals.iter().map(|arrival| arrival.event.id).collect();
    arrive(&world, arrivals, 1).await;
    let mut owed: Vec<_> =
        world.claim_dispatches(2, 10, 60).await.iter().map(|lease| lease.work().event.id).collect();
    owed.sort_unstable();
    assert_eq!(owed, [ids[0], ids[2], ids[3]]);
    let lease = hands.the_only().remove(0);
    assert_eq!((lease.work().delivery_id, lease.work().event.id), (deliveries[1].id, ids[1]));
    let listed =
        done(store.deliveries(&world.schema, &DeliveryQuery::default(), PageRequest::first(9)).await);
    assert_eq!(listed.items.len(), 1);
}

/// An event that is not stored has no deliveries, and another of the same id none in its name.
pub async fn what_is_not_stored_is_not_dispatched(store: &dyn Store) {
    let world = World::new(store);
    let (one, two) = (world.endpoint().await, world.endpoint().await);
    let entry = world.entry("user.gone");
    done(store.insert_event_type(&world.schema, &entry).await);
    let disabled = EventTypePatch { is_enabled: Some(false), ..EventTypePatch::default() };
    let disabled = entry.patched(disabled, at(0)).expect("a valid patch");
    done(store.update_event_type(&world.schema, &disabled).await);
    let (hands, version) = (Hands::default(), version(&world).await);
    let arrival = |endpoint: &Endpoint, draft: EventDraft| {
        let delivery = world.new_delivery(endpoint, 1);
        let dispatch = Some(dispatch(version, &[(&delivery, true)], 1, &hands));
        Arrival { event: world.event(draft, 1), dispatch }
    };
    let id = Some(world.id::<()>(0).uuid());
    let with_id = |event_type: &str| EventDraft { id, ..EventDraft::new(event_type, "{}") };
    let aggregate_id = Some(world.id::<()>(0).uuid());
    let stale = EventDraft { expected_version: Some(7), aggregate_id, ..draft() };
    let arrivals = vec![
        arrival(&one, with_id("user.created")),
        arrival(&two, with_id("user.renamed")),
        arrival(&two, EventDraft::new("user.gone", "{}")),
        arrival(&two, stale),
    ];
    let appended = arrive(&world, arrivals, 1).await;
    assert!(
        matches!(
            appended[..],
            [
                Appended::Stored { .. },
                Appended::IdConflict,
                Appended::TypeDisabled,
                Appended::StaleVersion { newest: 0 }
            ]
        ),
        "{appended:?}"
    );
    let listed =
        done(store.deliveries(&world.schema, &DeliveryQuery::default(), PageRequest::first(9)).await);
    assert!(listed.items.iter().all(|delivery| delivery.webhook_endpoint_id == one.id));
    let owed = world.claim_dispatches(2, 10, 60).await.len();
    assert_eq!(listed.items.len() + owed, 1, "the first, in one way or the other");

    let repeated = arrive(&world, vec![arrival(&two, with_id("user.created"))], 2).await;
    assert!(matches!(repeated[..], [Appended::Duplicate { .. }]));
    assert!(world.claim(&two, 10, 3).await.is_empty());
}

/// Three events that come together, matched with the same catalogue, and their deliveries.
struct Three<'a> {
    world: &'a World<'a>,
    endpoint: &'a Endpoint,
    hands: Hands,
    catalogue: CatalogueVersion,
}

impl Three<'_> {
    /// What is answered for each, after they came: one like any, this one, one like any.
    async fn come(&self, middle: EventDraft) -> Vec<Appended> {
        let arrival = |draft| {
            let delivery = self.world.new_delivery(self.endpoint, 2);
            let dispatch = dispatch(self.catalogue, &[(&delivery, true)], 2, &self.hands);
            Arrival { event: self.world.event(draft, 2), dispatch: Some(dispatch) }
        };
        arrive(self.world, [draft(), middle, draft()].map(arrival).into(), 2).await
    }

    /// Two of them are dispatched, and nothing is owed.
    async fn outer_two_are_dispatched(&self) {
        assert!(self.world.claim_dispatches(3, 10, 60).await.is_empty(), "nothing is owed");
        let calls = self.hands.calls();
        assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1], "of the first and of the last");
        for lease in calls.into_iter().flatten() {
            let settled = self.world.settle(lease, Verdict::Succeeded, 4).await;
            assert_eq!(settled, Settled::Recorded(DeliveryState::Success));
        }
        assert!(self.world.claim(self.endpoint, 10, 100).await.is_empty(), "no third delivery");
    }
}

/// Where all of them were matched with a catalogue that has changed, all of them owe their dispatch.
pub async fn an_old_catalogue_dispatches_none_of_several(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let catalogue = version(&world).await;
    world.subscription(&endpoint, "user.created").await;
    let three = Three { world: &world, endpoint: &endpoint, hands: Hands::default(), catalogue };
    let appended = three.come(draft()).await;
    assert!(appended.iter().all(|one| matches!(one, Appended::Stored { .. })), "{appended:?}");
    assert_eq!(world.claim_dispatches(3, 10, 60).await.len(), 3);
    assert!(three.hands.calls().is_empty(), "nothing was leased");
    let query = DeliveryQuery::default();
    assert!(done(store.deliveries(&world.schema, &query, PageRequest::first(9)).await).items.is_empty());
}

/// An event of a disabled type is refused, and those beside it are as if it had not come.
pub async fn a_disabled_type_keeps_nobody_else(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let entry = world.entry("user.gone");
    done(store.insert_event_type(&world.schema, &entry).await);
    let disabled = EventTypePatch { is_enabled: Some(false), ..EventTypePatch::default() };
    let disabled = entry.patched(disabled, at(0)).expect("a valid patch");
    done(store.update_event_type(&world.schema, &disabled).await);
    let catalogue = version(&world).await;
    let three = Three { world: &world, endpoint: &endpoint, hands: Hands::default(), catalogue };
    let appended = three.come(EventDraft::new("user.gone", "{}")).await;
    assert!(
        matches!(appended[..], [Appended::Stored { .. }, Appended::TypeDisabled, Appended::Stored { .. }]),
        "{appended:?}"
    );
    three.outer_two_are_dispatched().await;
}

/// The same for an event that is there already.
pub async fn an_id_that_is_there_keeps_nobody_else(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let given = EventDraft { id: Some(world.id::<()>(0).uuid()), ..draft() };
    assert!(matches!(
        arrive(&world, vec![world.event(given.clone(), 1).into()], 1).await[..],
        [Appended::Stored { .. }]
    ));
    assert_eq!(world.claim_dispatches(1, 10, 600).await.len(), 1, "of the one that is there");
    let catalogue = version(&world).await;
    let three = Three { world: &world, endpoint: &endpoint, hands: Hands::default(), catalogue };
    let appended = three.come(given).await;
    assert!(
        matches!(
            appended[..],
            [Appended::Stored { .. }, Appended::Duplicate { .. }, Appended::Stored { .. }]
        ),
        "{appended:?}"
    );
    three.outer_two_are_dispatched().await;
}

/// A publisher that goes away before it is answered leaves no lease behind that nobody knows of.
pub async fn leases_reach_their_holder_though_the_publisher_is_gone(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let (hands, version) = (Hands::default(), version(&world).await);
    let waiting = AtomicUsize::new(0);
    for second in 1..=20 {
        let delivery = world.new_delivery(&endpoint, second);
        let dispatch = Some(dispatch(version, &[(&delivery, true)], second, &hands));
        let arrival = Arrival { event: world.event(draft(), second), dispatch };
        let mut publishing = pin!(store.append_arrivals(&world.schema, vec![arrival], at(second)));
        poll_fn(|context| {
            waiting.fetch_add(usize::from(publishing.as_mut().poll(context).is_pending()), Ordering::Relaxed);
            Poll::Ready(())
        })
        .await;
    }
    // Whoever comes after them finds everything written, or nothing at all of one that had not been taken in.
    let mut claimed = 0;
    for _ in 0..80 {
        world.publish(draft(), 21).await;
        claimed += world.claim(&endpoint, 10, 21).await.len();
    }
    let held: usize = hands.calls().iter().map(Vec::len).sum();
    let listed =
        done(store.deliveries(&world.schema, &DeliveryQuery::default(), PageRequest::first(50)).await);
    assert_eq!((held + claimed, waiting.into_inner()), (listed.items.len(), 20));
}
