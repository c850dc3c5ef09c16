//! Somebody holds a lock in one tenant: whoever publishes and settles in others notices nothing, and what waited for it
//! is stored once when it is gone.

use std::time::Duration;

use neo_events_domain::{
    endpoint::Endpoint,
    event::{EventDraft, NewEvent},
    id::EventId,
    retry::Verdict,
    tenant::{Schema, Tenant},
};
use neo_events_store::{
    Appended, Catalogue, DeliveryLog, EndpointQuota, EventLog, EventQuery, Inserted, PageRequest, Settled,
    Settlement, Tenants, WorkQueue,
};
use neo_events_store_postgres::PostgresStore;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    invariants,
    scene::{
        PATIENCE, Scene, at, claim, claim_dispatches, draft, event, id, new_delivery, new_endpoint,
        settle_at_last, settlement, to_all, until_blocked,
    },
};

/// How many wait for the lock.
const WAITING: usize = 30;
/// How often somebody else comes meanwhile, one call after the other.
const OTHERS: usize = 20;
/// In which all of these are answered. A lock is waited for for two seconds, so that each of them used to take as long.
const OTHERS_TIME: Duration = Duration::from_secs(20);

/// A node with a tenant beside `admin`.
async fn scene() -> (Scene, Schema) {
    let scene = Scene::of(1).await;
    let tenant = Tenant { schema: "tenant_locked".parse().unwrap(), name: None, created_at: at(0) };
    assert_eq!(scene.store().create_tenant(&tenant).await.unwrap(), Inserted::New);
    (scene, tenant.schema)
}

/// Publishes as clients do: what was refused for now is published again with the same id.
async fn publish_at_last(store: PostgresStore, schema: Schema, new: NewEvent) -> Appended {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.append(&schema, vec![new.clone()], at(1)).await {
            Ok(appended) => return appended[0],
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                assert!(Instant::now() < deadline, "it is never stored: {error:?}");
            }
        }
    }
}

fn all_publish(scene: &Scene, schema: &Schema, events: Vec<NewEvent>) -> JoinSet<Appended> {
    let publish = |new| publish_at_last(scene.store().clone(), schema.clone(), new);
    events.into_iter().map(publish).collect()
}

async fn all_stored(mut publishing: JoinSet<Appended>) {
    while let Some(appended) = publishing.join_next().await {
        let appended = appended.unwrap();
        assert!(matches!(appended, Appended::Stored { .. }), "{appended:?}");
    }
}

fn guarded() -> NewEvent {
    event(EventDraft { aggregate_id: Some(id::<()>(0).uuid()), expected_version: Some(0), ..draft() })
}

/// Deliveries that are due at once, leased: of an endpoint of the tenant's.
async fn leased(scene: &Scene, schema: &Schema, count: usize) -> Vec<Settlement> {
    let (store, endpoint) = (scene.store(), new_endpoint());
    store.insert_endpoint(schema, &endpoint).await.unwrap();
    let events = (0..count).map(|_| event(draft())).collect();
    store.append(schema, events, at(0)).await.unwrap();
    let owed = claim_dispatches(store, 0, 1000).await.unwrap();
    store.settle_dispatches(to_all(owed, std::slice::from_ref(&endpoint)), at(0)).await.unwrap();
    let leases = claim(store, (schema, &endpoint), 0, 1000).await.unwrap();
    assert_eq!(leases.len(), count);
    leases.into_iter().map(|lease| settlement(lease, Verdict::Succeeded, 1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_holds_up_no_other_tenants_publishes() {
    let (scene, locked) = scene().await;
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    holding.batch_execute(&format!("begin; lock table {locked}.events in share mode")).await.unwrap();
    let events = (0..WAITING).map(|_| event(draft())).collect();
    let publishing = all_publish(&scene, &locked, events);
    until_blocked(&beside, 1).await;
    let others = async {
        for _ in 0..OTHERS {
            scene.publish(1).await;
        }
    };
    timeout(OTHERS_TIME, others).await.expect("nobody else waits for the lock");
    assert_eq!(beside.number(&format!("select count(*) from {locked}.events")).await, 0);
    holding.batch_execute("rollback").await.unwrap();
    all_stored(publishing).await;
    let stored = beside.number(&format!("select count(*) from {locked}.events")).await;
    assert_eq!(stored, i64::try_from(WAITING).unwrap());
    invariants::check(&beside).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_holds_up_no_other_tenants_guarded_publishes() {
    let (scene, locked) = scene().await;
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    holding.batch_execute(&format!("begin; lock table {locked}.events in share mode")).await.unwrap();
    let publishing = all_publish(&scene, &locked, (0..WAITING).map(|_| guarded()).collect());
    until_blocked(&beside, 1).await;
    let others = async {
        for _ in 0..OTHERS {
            scene.store().append(&scene.schema, vec![guarded()], at(1)).await.unwrap();
        }
    };
    timeout(OTHERS_TIME, others).await.expect("nobody else waits for the lock");
    holding.batch_execute("rollback").await.unwrap();
    all_stored(publishing).await;
    invariants::check(&beside).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_holds_up_no_other_tenants_settlements() {
    let (scene, locked) = scene().await;
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    let (of_it, of_others) =
        (leased(&scene, &locked, WAITING).await, leased(&scene, &scene.schema, OTHERS).await);
    holding.batch_execute(&format!("begin; lock table {locked}.deliveries in share mode")).await.unwrap();
    let mut settling = JoinSet::new();
    for settlement in of_it {
        let store = scene.store().clone();
        settling.spawn(async move { settle_at_last(&store, settlement).await });
    }
    until_blocked(&beside, 1).await;
    let others = async {
        for settlement in of_others {
            let settled = scene.store().settle(settlement).await;
            assert!(matches!(settled, Ok(Settled::Recorded(_))));
        }
    };
    timeout(OTHERS_TIME, others).await.expect("nobody else waits for the lock");
    holding.batch_execute("rollback").await.unwrap();
    while let Some(settled) = settling.join_next().await {
        assert!(matches!(settled.unwrap(), Settled::Recorded(_)));
    }
    let attempts = beside.number(&format!("select count(*) from {locked}.attempts")).await;
    assert_eq!(attempts, i64::try_from(WAITING).unwrap());
    invariants::check(&beside).await;
}

/// An id that an open transaction has inserted is waited for by who brings it again, and neither by the tenant's other
/// publishers nor by other tenants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_not_committed_holds_up_nobody_else() {
    let (scene, schema) = scene().await;
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    let taken: EventId = id(0);
    scene.store().append(&schema, vec![event(draft())], at(0)).await.unwrap();
    let insert = format!(
        "begin; create temporary table copied as select * from {schema}.events; update copied set id = '{taken}'; \
         insert into {schema}.events select * from copied"
    );
    holding.batch_execute(&insert).await.unwrap();
    let again = event(EventDraft { id: Some(taken.uuid()), ..draft() });
    let repeating = all_publish(&scene, &schema, vec![again; 5]);
    until_blocked(&beside, 1).await;
    let events = (0..WAITING).map(|_| event(draft())).collect();
    let of_the_same = async {
        all_stored(all_publish(&scene, &schema, events)).await;
    };
    let of_another = async {
        for _ in 0..OTHERS {
            scene.publish(1).await;
        }
    };
    timeout(OTHERS_TIME, of_another).await.expect("another tenant does not wait");
    timeout(PATIENCE, of_the_same).await.expect("other publishers are served");
    holding.batch_execute("rollback").await.unwrap();
    let answers = repeating.join_all().await;
    let stored = answers.iter().filter(|answer| matches!(answer, Appended::Stored { .. })).count();
    assert_eq!(stored, 1, "{answers:?}");
    let count = beside.number(&format!("select count(*) from {schema}.events")).await;
    assert_eq!(count, 2 + i64::try_from(WAITING).unwrap());
    invariants::check(&beside).await;
}

/// Of so many tenants beside `admin`, locked in the same way.
async fn locked_tenants(scene: &Scene, count: usize) -> Vec<Schema> {
    let mut schemas = Vec::new();
    for number in 0..count {
        let schema: Schema = format!("tenant_locked{number}").parse().unwrap();
        let tenant = Tenant { schema: schema.clone(), name: None, created_at: at(0) };
        assert_eq!(scene.store().create_tenant(&tenant).await.unwrap(), Inserted::New);
        schemas.push(schema);
    }
    schemas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_a_tenant_that_is_locked_leaves_connections_to_others() {
    leave_connections_to_others("endpoints", |store, schema, endpoint| async move {
        store.update_endpoint(&schema, &endpoint).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_tests_endpoints_of_a_tenant_that_is_locked_leaves_connections_to_others() {
    leave_connections_to_others("deliveries", |store, schema, endpoint| async move {
        let delivery = new_delivery(&endpoint);
        store.append_directed(&schema, event(draft()), delivery, at(1)).await.is_ok()
    })
    .await;
}

/// Many make calls that a lock on this table of a tenant's holds up.
async fn leave_connections_to_others<F>(
    table: &str,
    call: impl Fn(PostgresStore, Schema, Endpoint) -> F + Clone + Send + 'static,
) where
    F: Future<Output = bool> + Send,
{
    let (scene, locked) = scene().await;
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    let endpoint = new_endpoint();
    scene.store().insert_endpoint(&locked, &endpoint).await.unwrap();
    holding.batch_execute(&format!("begin; lock table {locked}.{table} in share mode")).await.unwrap();
    let mut changing = JoinSet::new();
    for _ in 0..WAITING {
        let (store, schema, endpoint) = (scene.store().clone(), locked.clone(), endpoint.clone());
        let call = call.clone();
        changing.spawn(async move {
            // Refused for now, again and again.
            while !call(store.clone(), schema.clone(), endpoint.clone()).await {}
        });
    }
    until_blocked(&beside, 1).await;
    let others = async {
        for _ in 0..OTHERS {
            scene.publish(1).await;
        }
    };
    timeout(OTHERS_TIME, others).await.expect("nobody else waits for the lock");
    holding.batch_execute("rollback").await.unwrap();
    timeout(PATIENCE, changing.join_all()).await.expect("they go through when it is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_a_tenant_that_is_locked_leaves_connections_to_others() {
    let (scene, locked) = scene().await;
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    scene.publish(1).await;
    holding.batch_execute(&format!("begin; lock table {locked}.events")).await.unwrap();
    let list = async |store: PostgresStore, schema: Schema| {
        store.events(&schema, &EventQuery::default(), PageRequest::first(10)).await
    };
    let mut reading = JoinSet::new();
    for _ in 0..WAITING {
        let (store, schema) = (scene.store().clone(), locked.clone());
        reading.spawn(async move { while list(store.clone(), schema.clone()).await.is_err() {} });
    }
    until_blocked(&beside, 1).await;
    let others = async {
        for _ in 0..OTHERS {
            let events = list(scene.store().clone(), scene.schema.clone()).await.unwrap();
            assert_eq!(events.items.len(), 1);
        }
    };
    timeout(OTHERS_TIME, others).await.expect("nobody else waits for the lock");
    holding.batch_execute("rollback").await.unwrap();
    timeout(PATIENCE, reading.join_all()).await.expect("they go through when it is gone");
}

/// A round of it frees what dead nodes held, and the next one must not be far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tending_stands_before_a_tenants_lock_once_and_not_for_each_of_its_endpoints() {
    const ENDPOINTS: usize = 60;
    /// For each of them it would stand there for 100 ms.
    const TENDING_MAX: Duration = Duration::from_secs(3);
    let (scene, locked) = scene().await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|_| new_endpoint()).collect();
    for schema in [&scene.schema, &locked] {
        let of_it = if *schema == locked { &endpoints[..] } else { &[new_endpoint()] };
        for endpoint in of_it {
            store.insert_endpoint(schema, endpoint).await.unwrap();
        }
        store.append(schema, vec![event(draft())], at(0)).await.unwrap();
        let owed = claim_dispatches(store, 0, 10).await.unwrap();
        store.settle_dispatches(to_all(owed, of_it), at(0)).await.unwrap();
        for endpoint in of_it {
            store.delete_endpoint(schema, endpoint.id, at(1)).await.unwrap();
        }
    }
    let removals = "select count(*) from admin.endpoint_removals";
    let all = i64::try_from(ENDPOINTS).unwrap();
    assert_eq!(beside.number(removals).await, all + 1, "each is owed something yet");
    let holding = scene.beside().await;
    holding.batch_execute(&format!("begin; lock table {locked}.deliveries")).await.unwrap();
    // Of each endpoint twice: what it is owed ends, and then there is nothing left.
    for _ in 0..2 {
        timeout(TENDING_MAX, store.tend(at(2))).await.expect("it stands there for each endpoint").unwrap();
    }
    assert_eq!(beside.number(removals).await, all, "others have nothing to do with it");
    holding.batch_execute("rollback").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while beside.number(removals).await > 0 {
        assert!(Instant::now() < deadline, "it is left alone for ever");
        store.tend(at(2)).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    invariants::check(&beside).await;
}

/// However many cancellations of one tenant wait for attempts that are in flight, another one's is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellations_have_their_turns() {
    /// More than one round looks at.
    const WAITING: usize = 501;
    let (scene, other) = scene().await;
    let (store, beside) = (scene.store(), scene.beside().await);
    for (schema, count, second) in [(&scene.schema, WAITING, 100), (&other, 1, 0)] {
        let endpoint = new_endpoint();
        store.insert_endpoint(schema, &endpoint).await.unwrap();
        let events = (0..count).map(|_| event(draft())).collect();
        store.append(schema, events, at(0)).await.unwrap();
        let owed = claim_dispatches(store, second, 1000).await.unwrap();
        store.settle_dispatches(to_all(owed, std::slice::from_ref(&endpoint)), at(0)).await.unwrap();
        let leases = claim(store, (schema, &endpoint), second, 1000).await.unwrap();
        assert_eq!(leases.len(), count);
        for lease in leases {
            let id = lease.work().delivery_id;
            store.cancel_delivery(schema, id, "no longer", at(second)).await.unwrap();
        }
    }
    let waiting = "select count(*) from admin.cancel_requests";
    assert_eq!(beside.number(waiting).await, i64::try_from(WAITING).unwrap() + 1);
    // The other one's lease is over.
    for _ in 0..2 {
        store.tend(at(120)).await.unwrap();
    }
    assert_eq!(beside.number(waiting).await, i64::try_from(WAITING).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_are_locked_hold_up_nobody_elses_claims() {
    const LOCKED: usize = 10;
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let schemas: Vec<_> =
        locked_tenants(&scene, LOCKED).await.into_iter().chain([scene.schema.clone()]).collect();
    let mut quotas = Vec::new();
    for schema in &schemas {
        let endpoint = new_endpoint();
        store.insert_endpoint(schema, &endpoint).await.unwrap();
        store.append(schema, vec![event(draft())], at(0)).await.unwrap();
        let owed = claim_dispatches(store, 0, 10).await.unwrap();
        store.settle_dispatches(to_all(owed, std::slice::from_ref(&endpoint)), at(0)).await.unwrap();
        quotas.push(EndpointQuota { schema: schema.clone(), endpoint_id: endpoint.id, max: 1 });
    }
    let tables: Vec<_> = schemas[..LOCKED].iter().map(|schema| format!("{schema}.deliveries")).collect();
    beside.batch_execute(&format!("begin; lock table {}", tables.join(", "))).await.unwrap();
    let claiming = store.claim_deliveries(at(1), &quotas, at(60));
    let claims = timeout(OTHERS_TIME, claiming).await.expect("it does not wait for the locks").unwrap();
    let of_whom: Vec<_> = claims.iter().map(|claim| (&claim.schema, claim.work.len())).collect();
    assert_eq!(of_whom, [(&scene.schema, 1)]);
    beside.batch_execute("rollback").await.unwrap();
}
