//! Handles bound to a context: each sees and writes its own rows, whatever else its tenant has.

use neo_events::{
    Conflict, EndpointDraft, EndpointQuery, Error, EventDraft, EventQuery, EventTypeDraft, EventTypePatch,
    EventTypeQuery, PageRequest, SubscriptionDraft, SubscriptionQuery, Tenant, Uuid, rusqlite,
};

use crate::world::World;

const ORDER: Uuid = Uuid::from_u128(7);

fn event(aggregate_version: i64) -> EventDraft {
    EventDraft {
        aggregate_id: Some(ORDER),
        aggregate_version: Some(aggregate_version),
        ..EventDraft::new("order.placed", "{}")
    }
}

async fn versions(tenant: &Tenant, after: u32, limit: u32) -> Vec<u32> {
    let events = tenant.aggregate_events("order", ORDER, after, PageRequest::first(limit)).await.unwrap();
    events.items.iter().map(|stored| stored.event.aggregate_version).collect()
}

fn contexts(tenant: &Tenant) -> [Tenant; 2] {
    [1, 2].map(|context| tenant.in_context(Uuid::from_u128(context)))
}

#[tokio::test]
async fn events_are_read_counted_and_marked_by_context() {
    let world = World::new().await;
    let whole = world.tenant();
    let [ours, theirs] = contexts(&whole);
    let mine = ours.publish(event(2)).await.unwrap().id;
    let of_theirs = EventDraft { context_id: theirs.context_id(), ..event(1) };
    let other = whole.publish(of_theirs).await.unwrap().id;
    let nobodys = whole.publish(event(3)).await.unwrap().id;
    ours.publish(event(1)).await.unwrap();
    ours.publish(event(2)).await.unwrap();

    let query = EventQuery::default();
    let count = async |tenant: &Tenant| tenant.count_events(&query).await.unwrap();
    assert_eq!([count(&whole).await, count(&ours).await, count(&theirs).await], [5, 3, 1]);
    let asked = EventQuery { context_id: theirs.context_id(), ..EventQuery::default() };
    assert_eq!(ours.count_events(&asked).await.unwrap(), 0);
    assert!(ours.events(&asked, PageRequest::first(10)).await.unwrap().items.is_empty());
    let mut pages = ours.event_pages(EventQuery::default(), 2);
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        assert!(page.iter().all(|stored| stored.event.context_id == ours.context_id()));
        sizes.push(page.len());
    }
    assert_eq!(sizes, [2, 1]);
    for hidden in [other, nobodys] {
        assert!(matches!(ours.event(hidden).await, Err(Error::NotFound("event"))));
        assert_eq!(ours.mark_processed(&[hidden]).await.unwrap(), 0);
    }
    ours.event(mine).await.unwrap();

    assert_eq!(versions(&whole, 0, 10).await, [1, 1, 2, 2, 3]);
    assert_eq!(versions(&ours, 0, 10).await, [1, 2, 2]);
    assert_eq!(versions(&ours, 0, 2).await, [1, 2]);
    assert_eq!(versions(&ours, 1, 10).await, [2, 2]);
    let first_of_two = ours.aggregate_events("order", ORDER, 1, PageRequest::first(1)).await.unwrap();
    assert_eq!(first_of_two.items[0].event.id, mine, "equal versions stay as they were stored");
    assert_eq!(versions(&theirs, 0, 10).await, [1]);
    let third = whole.in_context(Uuid::from_u128(3));
    assert_eq!(third.next_version("order", ORDER).await.unwrap(), 1);
    assert_eq!(ours.next_version("order", ORDER).await.unwrap(), 4);
}

#[tokio::test]
async fn publishing_in_the_callers_transaction_is_bound_too() {
    let world = World::new().await;
    let [ours, _] = contexts(&world.tenant());
    let elsewhere = EventDraft { context_id: Some(Uuid::from_u128(2)), ..EventDraft::new("a.b", "{}") };
    let mut connection = rusqlite::Connection::open(world.database()).unwrap();
    let (published, refused) = {
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        let published = ours.publish_in(&transaction, vec![EventDraft::new("a.b", "{}")]).unwrap();
        let refused = ours.publish_in(&transaction, vec![elsewhere]);
        transaction.commit().unwrap();
        (published, refused)
    };
    let stored = ours.event(published[0].id).await.unwrap();
    assert_eq!(stored.event.context_id, ours.context_id());
    let Err(Error::Invalid(violations)) = &refused else { panic!("{refused:?}") };
    assert_eq!(violations.iter().next().unwrap().pointer, "/context_id");
}

#[tokio::test]
async fn endpoints_and_subscriptions_of_others_are_missing() {
    let world = World::new().await;
    let whole = world.tenant();
    let [ours, theirs] = contexts(&whole);
    let create = async |tenant: &Tenant| {
        let draft = EndpointDraft::standard("n", "http://127.0.0.1:1/");
        let endpoint = tenant.create_endpoint(draft, None).await.unwrap().endpoint;
        let draft = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
        (endpoint.id, tenant.create_subscription(endpoint.id, draft).await.unwrap().id)
    };
    let (mine, my_subscription) = create(&ours).await;
    for tenant in [&theirs, &whole] {
        let (endpoint, subscription) = create(tenant).await;
        assert!(matches!(ours.endpoint(endpoint).await, Err(Error::NotFound("endpoint"))));
        assert!(matches!(ours.delete_endpoint(endpoint).await, Err(Error::NotFound("endpoint"))));
        assert!(matches!(ours.mark_endpoint_used(endpoint).await, Err(Error::NotFound("endpoint"))));
        assert!(matches!(ours.mark_endpoint_verified(endpoint).await, Err(Error::NotFound("endpoint"))));
        assert!(matches!(ours.subscription(subscription).await, Err(Error::NotFound("subscription"))));
        let deleted = ours.delete_subscription(subscription).await;
        assert!(matches!(deleted, Err(Error::NotFound("subscription"))));
        tenant.endpoint(endpoint).await.unwrap();
        tenant.subscription(subscription).await.unwrap();
    }
    let endpoints = ours.endpoints(&EndpointQuery::default(), PageRequest::first(10)).await.unwrap().items;
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>(), [mine]);
    let found =
        ours.subscriptions(&SubscriptionQuery::default(), PageRequest::first(10)).await.unwrap().items;
    assert_eq!(found.iter().map(|subscription| subscription.id).collect::<Vec<_>>(), [my_subscription]);
    ours.delete_endpoint(mine).await.unwrap();
}

#[tokio::test]
async fn the_catalogue_is_the_whole_tenants() {
    let world = World::new().await;
    let [ours, _] = contexts(&world.tenant());
    let entries = ours.event_types(&EventTypeQuery::default(), PageRequest::first(100)).await.unwrap().items;
    assert!(!entries.is_empty() && !ours.categories().await.unwrap().is_empty());
    let known = &entries[0].event_type;
    ours.event_type(known).await.unwrap();
    let draft =
        EventTypeDraft { event_type: "a.b".into(), display_name: "n".into(), ..EventTypeDraft::default() };
    for refused in [
        ours.create_event_type(draft).await.map(drop),
        ours.update_event_type(known, EventTypePatch::default()).await.map(drop),
        ours.delete_event_type(known).await,
    ] {
        assert!(matches!(refused, Err(Error::BeyondContext(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn how_far_an_aggregate_of_others_is_stays_theirs() {
    let world = World::new().await;
    let [ours, theirs] = contexts(&world.tenant());
    let guarded = |expected| EventDraft {
        aggregate_id: Some(ORDER),
        expected_version: Some(expected),
        ..EventDraft::new("order.placed", "{}")
    };
    for expected in 0..3 {
        theirs.publish(guarded(expected)).await.unwrap();
    }
    assert!(matches!(ours.publish(guarded(1)).await, Err(Error::Invalid(_))));
    let batch = ours.publish_batch(vec![guarded(1)]).await.unwrap();
    assert!(matches!(batch[0], Err(Error::Invalid(_))));
    let mut connection = rusqlite::Connection::open(world.database()).unwrap();
    let transaction = connection.transaction().unwrap();
    let told = |tenant: &Tenant| tenant.publish_in(&transaction, vec![guarded(1)]);
    assert!(matches!(told(&ours), Err(Error::Invalid(_))), "{:?}", told(&ours));
    let stale = told(&theirs);
    assert!(matches!(stale, Err(Error::Conflict(Conflict::StaleVersion { newest: 3 }))), "{stale:?}");
    drop(transaction);
    let stale = theirs.publish(guarded(1)).await;
    assert!(matches!(stale, Err(Error::Conflict(Conflict::StaleVersion { newest: 3 }))), "{stale:?}");
}
