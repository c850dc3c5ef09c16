//! Tenants whose tables cannot be reached for a moment, or not at all: nobody else suffers for it, and once they can be
//! reached again their work goes on.

use std::{pin::pin, time::Duration};

use neo_events_domain::{
    endpoint::Endpoint,
    tenant::{Schema, Tenant},
};
use neo_events_store::{
    Catalogue, DeliveryWork, EndpointQuota, EventLog, Inserted, Lease, Tenants, WorkQueue,
};
use neo_events_store_postgres::PostgresStore;
use tokio::time::{Instant, sleep};

use crate::{
    invariants,
    scene::{
        PATIENCE, Scene, at, claim, claim_dispatches, dispatch, draft, event, new_endpoint, until_blocked,
    },
};

/// How long a tenant that could not be read is left alone, at the least.
const LEFT_ALONE: Duration = Duration::from_secs(4);

/// A tenant beside `admin`, with an endpoint.
async fn tenant(scene: &Scene, name: &str) -> (Schema, Endpoint) {
    let tenant = Tenant { schema: name.parse().unwrap(), name: None, created_at: at(0) };
    assert_eq!(scene.store().create_tenant(&tenant).await.unwrap(), Inserted::New);
    let endpoint = new_endpoint();
    let inserted = scene.store().insert_endpoint(&tenant.schema, &endpoint).await.unwrap();
    assert_eq!(inserted, Inserted::New);
    (tenant.schema, endpoint)
}

/// Claims of two endpoints at once, of different tenants, for a minute.
async fn claim_of_both(
    store: &PostgresStore,
    endpoints: [(&Schema, &Endpoint); 2],
    second: i64,
) -> Vec<Lease<DeliveryWork>> {
    let quotas = endpoints.map(|(schema, endpoint)| EndpointQuota {
        schema: schema.clone(),
        endpoint_id: endpoint.id,
        max: 2,
    });
    let claims = store.claim_deliveries(at(second), &quotas, at(second + 60)).await.unwrap();
    claims.into_iter().flat_map(|claim| claim.work).collect()
}

/// A lock that somebody takes on one tenant's table for a moment, to change it, delays that tenant's deliveries by a
/// moment too: what was claimed of it is free at once, and the tenant is left alone for a while, but not until leases
/// end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_one_tenants_table_parks_nothing() {
    let scene = Scene::of(1).await;
    let (schema, endpoint) = tenant(&scene, "tenant_locked").await;
    let other = scene.endpoint().await;
    for (schema, endpoint) in [(&schema, &endpoint), (&scene.schema, &other)] {
        let events = (0..4).map(|_| event(draft())).collect();
        scene.store().append(schema, events, at(0)).await.unwrap();
        dispatch(scene.store(), 0, 4, std::slice::from_ref(endpoint)).await.unwrap();
    }
    let both = [(&schema, &endpoint), (&scene.schema, &other)];
    let (mut locking, beside) = (scene.beside().await, scene.beside().await);
    let lock = locking.transaction().await;
    lock.batch_execute("lock table tenant_locked.deliveries in access exclusive mode").await.unwrap();

    let began = Instant::now();
    let of_other = claim_of_both(scene.store(), both, 1).await;
    assert!(of_other.iter().all(|lease| lease.work().schema == scene.schema));
    assert_eq!(of_other.len(), 2, "others have nothing to do with it");
    let leased = "select count(*) from admin.delivery_queue where leased_by is not null";
    assert_eq!(beside.number(leased).await, 2, "what was claimed of it is free again");
    let mut claiming = pin!(claim_of_both(scene.store(), both, 2));
    let claimed = tokio::select! {
        () = until_blocked(&beside, 1) => {
            assert!(began.elapsed() >= LEFT_ALONE, "it is left alone for a while");
            claiming.await
        }
        claimed = &mut claiming => claimed,
    };
    assert_eq!(claimed.len(), 2);
    assert_eq!(beside.number(leased).await, 4);

    lock.rollback().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut claimed = Vec::new();
    while claimed.len() < 4 {
        assert!(Instant::now() < deadline, "what was claimed beside the lock is never claimed again");
        // No lease has ended by then.
        claimed.extend(claim(scene.store(), both[0], 3, 10).await.unwrap());
        sleep(Duration::from_millis(20)).await;
    }
    invariants::check(&beside).await;
}

/// What a clock put off is brought back for everybody whose tables can be reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_one_tenants_table_keeps_nobodys_deliveries_put_off() {
    let scene = Scene::of(1).await;
    let beside = scene.beside().await;
    for name in ["tenant_first", "tenant_locked", "tenant_last"] {
        let (schema, endpoint) = tenant(&scene, name).await;
        scene.store().append(&schema, vec![event(draft())], at(0)).await.unwrap();
        dispatch(scene.store(), 0, 1, &[endpoint]).await.unwrap();
        let late = format!("update {name}.deliveries set due_at = '2100-01-01'");
        beside.batch_execute(&late).await.unwrap();
    }
    beside.batch_execute("update admin.delivery_queue set due_at = '2100-01-01'").await.unwrap();
    let mut locking = scene.beside().await;
    let lock = locking.transaction().await;
    lock.batch_execute("lock table tenant_locked.deliveries in access exclusive mode").await.unwrap();

    let late = "select count(*) from admin.delivery_queue where due_at >= '2100-01-01'";
    scene.store().tend(at(1)).await.unwrap();
    assert_eq!(beside.number(late).await, 1, "others have nothing to do with it");

    lock.rollback().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while beside.number(late).await > 0 {
        assert!(Instant::now() < deadline, "it is never brought back");
        scene.store().tend(at(1)).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    invariants::check(&beside).await;
}

/// An operator's hand, or a damaged page: what cannot be decoded is the tenant's own trouble, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_cannot_be_decoded_keeps_no_others_waiting() {
    let scene = Scene::of(2).await;
    let (schema, _) = tenant(&scene, "tenant_damaged").await;
    // By another node, so that this one does not know the events by heart.
    scene.stores[1].append(&schema, vec![event(draft())], at(0)).await.unwrap();
    scene.publish(1).await;
    let beside = scene.beside().await;
    beside.batch_execute("update tenant_damaged.events set occurred_at = 'infinity'").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the other tenant's event is never claimed");
        let claimed = claim_dispatches(scene.store(), 1, 100).await.unwrap();
        if let [of_other] = claimed.as_slice() {
            assert_eq!(of_other.work().schema, scene.schema);
            break;
        }
        assert!(claimed.is_empty(), "{claimed:?}");
    }
}

/// Nor does it keep those of its own tenant, whether they are to be dispatched or delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_cannot_be_decoded_keeps_none_of_its_neighbours_waiting() {
    const EVENTS: usize = 20;
    let scene = Scene::of(2).await;
    let (here, there, beside) = (&scene.stores[0], &scene.stores[1], scene.beside().await);
    let (schema, endpoint) = tenant(&scene, "tenant_damaged").await;
    // By another node, so that this one does not know the events by heart.
    let publish = async || {
        let events = (0..EVENTS).map(|_| event(draft())).collect();
        there.append(&schema, events, at(0)).await.unwrap();
    };
    publish().await;
    assert_eq!(dispatch(there, 0, 100, std::slice::from_ref(&endpoint)).await.unwrap(), EVENTS);
    publish().await;
    let damage = "update tenant_damaged.events set occurred_at = 'infinity' where id in (
        (select event_id from tenant_damaged.deliveries limit 1),
        (select event_id from admin.owed_dispatches limit 1)
    )";
    beside.batch_execute(damage).await.unwrap();
    assert_eq!(claim_dispatches(here, 1, 100).await.unwrap().len(), EVENTS - 1);
    assert_eq!(claim(here, (&schema, &endpoint), 1, 100).await.unwrap().len(), EVENTS - 1);

    // Once it is mended, and the lease that nobody used has ended.
    let mend = "update tenant_damaged.events set occurred_at = created_at where occurred_at = 'infinity'";
    beside.batch_execute(mend).await.unwrap();
    let mut dispatched = claim_dispatches(here, 100, 100).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while dispatched.len() < EVENTS {
        assert!(Instant::now() < deadline, "the mended one is never dispatched");
        sleep(Duration::from_millis(20)).await;
        dispatched.extend(claim_dispatches(here, 100, 100).await.unwrap());
    }
    assert_eq!(claim(here, (&schema, &endpoint), 100, 100).await.unwrap().len(), EVENTS);
}

/// A tenant that a node of the version before has made is migrated by who meets it. As long as it cannot be, that is not
/// tried with every look at what is due, which everybody waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_cannot_be_migrated_now_holds_up_few_looks() {
    let scene = Scene::of(2).await;
    let (here, there) = (&scene.stores[0], &scene.stores[1]);
    let (schema, endpoint) = tenant(&scene, "tenant_old").await;
    here.append(&schema, vec![event(draft())], at(0)).await.unwrap();
    dispatch(here, 0, 1, &[endpoint]).await.unwrap();
    let mut locking = scene.beside().await;
    let back = "delete from admin.migrations where scope = 'tenant_old' and name >= '0005'";
    locking.batch_execute(back).await.unwrap();
    let lock = locking.transaction().await;
    lock.batch_execute("lock table admin.migrations in share row exclusive mode").await.unwrap();

    let sweep = async || {
        let began = Instant::now();
        (there.due_endpoints(at(1)).await.unwrap().len(), began.elapsed())
    };
    let (due, first) = sweep().await;
    assert_eq!(due, 0, "it is not met yet");
    let mut others = Duration::ZERO;
    for _ in 0..10 {
        others += sweep().await.1;
    }
    assert!(others < first, "ten more took {others:?}, the first {first:?}");
    lock.rollback().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while sweep().await.0 == 0 {
        assert!(Instant::now() < deadline, "it is never met");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody has locked a tenant's deliveries. What is in hand of it is given back all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_of_a_locked_tenant_is_given_back_at_once() {
    let scene = Scene::of(1).await;
    let (schema, endpoint) = tenant(&scene, "tenant_locked").await;
    let events = (0..4).map(|_| event(draft())).collect();
    scene.store().append(&schema, events, at(0)).await.unwrap();
    dispatch(scene.store(), 0, 4, std::slice::from_ref(&endpoint)).await.unwrap();
    let claimed = claim(scene.store(), (&schema, &endpoint), 1, 10).await.unwrap();
    assert_eq!(claimed.len(), 4);
    let (mut locking, beside) = (scene.beside().await, scene.beside().await);
    let lock = locking.transaction().await;
    lock.batch_execute("lock table tenant_locked.deliveries in access exclusive mode").await.unwrap();
    for lease in claimed {
        scene.store().release(lease).await.expect("it does not ask for the locked table");
    }
    let leased = "select count(*) from admin.delivery_queue where leased_by is not null";
    assert_eq!(beside.number(leased).await, 0);
    lock.rollback().await.unwrap();
}

/// A tenant whose events cannot be read, however many they are, takes one turn of the others' every few seconds; and
/// once they can be read, they are dispatched long before their leases would have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_cannot_be_read_keep_no_others_waiting() {
    const MANY: usize = 300;
    let scene = Scene::of(2).await;
    let (schema, _) = tenant(&scene, "tenant_damaged").await;
    // By another node, so that this one does not know the events by heart.
    let events = (0..MANY).map(|_| event(draft())).collect();
    scene.stores[1].append(&schema, events, at(0)).await.unwrap();
    scene.publish(1).await;
    let beside = scene.beside().await;
    beside.batch_execute("alter table tenant_damaged.events rename to lost").await.unwrap();
    assert!(claim_dispatches(scene.store(), 1, 100).await.unwrap().is_empty(), "its events come first");
    let of_other = claim_dispatches(scene.store(), 1, 100).await.unwrap();
    assert_eq!(of_other.len(), 1, "but no second time");
    assert_eq!(of_other[0].work().schema, scene.schema);

    beside.batch_execute("alter table tenant_damaged.lost rename to events").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut claimed = 0;
    while claimed < MANY {
        assert!(Instant::now() < deadline, "they are never dispatched: {claimed}");
        claimed += claim_dispatches(scene.store(), 1, 100).await.unwrap().len();
        sleep(Duration::from_millis(20)).await;
    }
    invariants::check(&beside).await;
}
