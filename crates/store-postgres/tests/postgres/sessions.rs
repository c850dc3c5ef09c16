//! A node that others think dead: what it held is theirs, and it begins anew. And a tenant that is damaged.

use std::{collections::BTreeSet, time::Duration};

use neo_events_domain::{retry::Verdict, tenant::Tenant};
use neo_events_store::{EventLog, Inserted, Settled, Tenants, WorkQueue};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    invariants,
    scene::{
        PATIENCE, Scene, at, claim, claim_dispatches, dispatch, draft, event, settlement, to_all,
        until_blocked,
    },
};

/// What burying a node does, all nodes at once; none can begin a new session until the trigger is dropped.
const BURY_ALL: &str = "
    create function pg_temp.refuse() returns trigger language plpgsql as 'begin raise exception ''not now''; end';
    create trigger refuse before insert on admin.sessions execute function pg_temp.refuse();
    delete from admin.sessions;
    update admin.owed_dispatches set lease_token = null, leased_by = null, leased_until = null;
    update admin.delivery_queue set lease_token = null, leased_by = null, leased_until = null;";

/// How many nodes end before one must have had the time for it.
const ENDS_MAX: usize = 5;

/// Without a session nothing is claimed and nothing of before can be settled; with a new one work goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buried_node_claims_and_settles_nothing_until_it_begins_anew() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    let of = (&scene.schema, &endpoint);
    scene.publish(3).await;
    assert_eq!(dispatch(store, 0, 2, std::slice::from_ref(&endpoint)).await.unwrap(), 2);
    let mut held = claim(store, of, 1, 1).await.unwrap();
    let owed = claim_dispatches(store, 1, 10).await.unwrap();
    assert_eq!((held.len(), owed.len()), (1, 1));

    beside.batch_execute(BURY_ALL).await.unwrap();
    let settled = store.settle(settlement(held.remove(0), Verdict::Succeeded, 2)).await.unwrap();
    assert_eq!(settled, Settled::LeaseLost);
    let written = store.settle_dispatches(to_all(owed, std::slice::from_ref(&endpoint)), at(2)).await;
    assert_eq!(written.unwrap(), 0);
    assert!(claim(store, of, 3, 10).await.unwrap().is_empty());
    assert!(claim_dispatches(store, 3, 10).await.unwrap().is_empty());
    invariants::check(&beside).await;

    beside.batch_execute("drop trigger refuse on admin.sessions").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let (mut deliveries, mut dispatches) = (Vec::new(), Vec::new());
    while deliveries.len() < 2 || dispatches.is_empty() {
        assert!(Instant::now() < deadline, "it never claims again");
        deliveries.extend(claim(store, of, 4, 10).await.unwrap());
        dispatches.extend(claim_dispatches(store, 4, 10).await.unwrap());
        sleep(Duration::from_millis(10)).await;
    }
    for lease in deliveries {
        let settled = store.settle(settlement(lease, Verdict::Succeeded, 5)).await.unwrap();
        assert!(matches!(settled, Settled::Recorded(_)));
    }
    store.settle_dispatches(to_all(dispatches, &[]), at(5)).await.unwrap();
    invariants::check(&beside).await;
}

/// Whoever buries waits for what works in the name of the dead. If that one beats meanwhile, it is not dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_beats_while_its_burial_waits_is_not_buried() {
    let scene = Scene::of(1).await;
    let (store, beside, mut working) = (scene.store(), scene.beside().await, scene.beside().await);
    beside.batch_execute("insert into admin.sessions (name) values ('asleep')").await.unwrap();
    let lock = working.transaction().await;
    lock.batch_execute("select from admin.sessions where name = 'asleep' for key share").await.unwrap();
    let (store, mut burying) = (store.clone(), JoinSet::new());
    burying.spawn(async move {
        loop {
            store.tend(at(1)).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    });
    until_blocked(&beside, 1).await;
    let beat = "insert into admin.session_beats (session_no, beat_no)
        select no, 1 from admin.sessions where name = 'asleep'";
    beside.batch_execute(beat).await.unwrap();
    lock.commit().await.unwrap();
    let blocked = "select count(*) from pg_stat_activity
        where wait_event_type = 'Lock' and datname = current_database()";
    let deadline = Instant::now() + PATIENCE;
    while beside.number(blocked).await > 0 {
        assert!(Instant::now() < deadline, "the burial waits for ever");
        sleep(Duration::from_millis(5)).await;
    }
    let asleep = "select count(*) from admin.sessions where name = 'asleep'";
    // It is silent again, and buried for that a while later.
    assert_eq!(beside.number(asleep).await, 1);
    while beside.number(asleep).await > 0 {
        assert!(Instant::now() < deadline, "it is never buried");
        sleep(Duration::from_millis(20)).await;
    }
    burying.shutdown().await;
}

/// A node that ends properly gives everything back at once. It does not wait for its end for long, so that on a machine
/// that has other things to do its session may be left to fall silent, but not each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_gives_back_what_it_held() {
    for _ in 0..ENDS_MAX {
        if is_everything_given_back_by_the_end().await {
            return;
        }
    }
    panic!("of {ENDS_MAX} nodes none ended its session");
}

/// Either everything, or nothing with the session.
async fn is_everything_given_back_by_the_end() -> bool {
    let mut scene = Scene::of(2).await;
    let endpoint = scene.endpoint().await;
    scene.publish(4).await;
    let leaving = scene.stores.pop().unwrap();
    assert_eq!(dispatch(&leaving, 0, 2, std::slice::from_ref(&endpoint)).await.unwrap(), 2);
    assert_eq!(claim(&leaving, (&scene.schema, &endpoint), 1, 10).await.unwrap().len(), 2);
    assert_eq!(claim_dispatches(&leaving, 1, 10).await.unwrap().len(), 2);
    leaving.close().await;
    let beside = scene.beside().await;
    let given_back = match beside.number("select count(*) from admin.sessions").await {
        1 => 2,
        _ => 0,
    };
    let claimed = claim(scene.store(), (&scene.schema, &endpoint), 1, 10).await.unwrap().len();
    let owed = claim_dispatches(scene.store(), 1, 10).await.unwrap().len();
    assert_eq!((claimed, owed), (given_back, given_back));
    given_back > 0
}

/// A tenant whose data cannot be read is left out; the others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_cannot_be_read_holds_up_nobody() {
    let scene = Scene::of(2).await;
    let damaged = Tenant { schema: "tenant_damaged".parse().unwrap(), name: None, created_at: at(0) };
    assert_eq!(scene.store().create_tenant(&damaged).await.unwrap(), Inserted::New);
    // By another node, so that this one does not know the event by heart.
    scene.stores[1].append(&damaged.schema, vec![event(draft())], at(0)).await.unwrap();
    scene.publish(1).await;
    let beside = scene.beside().await;
    beside.batch_execute("alter table tenant_damaged.events rename to lost").await.unwrap();
    let claimed = scene.store().claim_dispatches(at(1), 10, at(60)).await.unwrap();
    assert_eq!(
        claimed.iter().map(|claim| (&claim.schema, claim.owed.len())).collect::<Vec<_>>(),
        [(&scene.schema, 1)]
    );
    beside.batch_execute("alter table tenant_damaged.lost rename to events").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut schemas = BTreeSet::new();
    // It is left alone for a moment.
    while schemas.len() < 2 {
        assert!(Instant::now() < deadline, "nothing of it is lost");
        let claimed = scene.store().claim_dispatches(at(61), 10, at(120)).await.unwrap();
        schemas.extend(claimed.into_iter().map(|claim| claim.schema));
        sleep(Duration::from_millis(20)).await;
    }
}
