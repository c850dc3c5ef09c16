//! Leases that nobody knows of, since the answer to their claim was lost, and what looking for them may cost: one
//! search now and then, only if there may be something, and never anybody's turn.

use std::{pin::pin, time::Duration};

use neo_events_domain::{id::DeliveryId, tenant::Schema};
use neo_events_store::{Changed, DeliveryLog, EndpointQuota, StoreError, WorkQueue};
use tokio::time::{Instant, sleep};

use crate::{
    invariants,
    scene::{Beside, PATIENCE, Scene, at, claim, claim_dispatches, dispatch},
};

/// The statements that look for lost leases, by what they say of themselves.
const LOOKS: &str = "whose answers were lost";

/// Counts, from now on, how often statements that say this change a table; and refuses them, if wanted. A sequence
/// counts also what is rolled back.
async fn watch(beside: &Beside, (table, verb): (&str, &str), says: &str, refuses: bool) {
    let end = if refuses { "raise exception ''not now''" } else { "return null" };
    beside
        .batch_execute(&format!(
            "drop sequence if exists admin.counted;
             create sequence admin.counted minvalue 0;
             select nextval('admin.counted');
             create or replace function admin.count() returns trigger language plpgsql as '
             begin
                if current_query() like ''%{says}%'' then
                    perform nextval(''admin.counted'');
                    {end};
                end if;
                return null;
             end';
             create trigger count before {verb} on {table} for each statement execute function admin.count();"
        ))
        .await
        .unwrap();
}

async fn counted(beside: &Beside) -> i64 {
    beside.number("select last_value from admin.counted").await
}

/// A claim that was refused, or never reached the server, leased nothing: nothing is searched for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_not_looked_for() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    let of = (&scene.schema, &endpoint);
    scene.publish(2).await;
    dispatch(store, 0, 1, std::slice::from_ref(&endpoint)).await.unwrap();

    for table in ["admin.delivery_queue", "admin.owed_dispatches"] {
        let claim = async || match table {
            "admin.delivery_queue" => claim(store, of, 1, 10).await.map(|leases| leases.len()),
            _ => claim_dispatches(store, 1, 10).await.map(|leases| leases.len()),
        };
        watch(&beside, (table, "update"), "with me as", true).await;
        let refused = claim().await;
        assert!(matches!(refused, Err(StoreError::Broken(_))), "{refused:?}");
        beside.batch_execute(&format!("drop trigger count on {table}")).await.unwrap();
        watch(&beside, (table, "update"), LOOKS, false).await;
        assert_eq!(claim().await.unwrap(), 1);
        assert_eq!(counted(&beside).await, 0, "nothing was lost");
    }
}

/// Where looking for lost leases fails, claims go on, and it is tried again in a while; then what was lost is claimed,
/// long before its leases would have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_in_vain_takes_nobodys_turn() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    let of = (&scene.schema, &endpoint);
    scene.publish(10).await;
    dispatch(store, 0, 10, std::slice::from_ref(&endpoint)).await.unwrap();
    lose_a_claim(&scene, EndpointQuota { schema: Schema::admin(), endpoint_id: endpoint.id, max: 2 }).await;
    assert_eq!(leased(&beside).await, 2);

    watch(&beside, ("admin.delivery_queue", "update"), LOOKS, true).await;
    let began = Instant::now();
    for _ in 0..8 {
        assert_eq!(claim(store, of, 1, 1).await.unwrap().len(), 1, "claims go on");
    }
    let looks = u128::try_from(counted(&beside).await).unwrap();
    let seconds = began.elapsed().as_millis() / 1000;
    assert!((1..=seconds + 1).contains(&looks), "{looks} times in {seconds} s");

    beside.batch_execute("drop trigger count on admin.delivery_queue").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut found = 0;
    while found < 2 {
        assert!(Instant::now() < deadline, "what was lost is never given back");
        found += claim(store, of, 1, 10).await.unwrap().len();
        sleep(Duration::from_millis(20)).await;
    }
    invariants::check(&beside).await;
}

/// A claim that happens, and whose connection breaks before it has read what it leased. It waits for a lock for a moment
/// only: where it is missed there, it is tried again, as soon as the tenant is not left alone any more.
async fn lose_a_claim(scene: &Scene, quota: EndpointQuota) {
    let mut locking = scene.beside().await;
    let (quotas, deadline) = ([quota], Instant::now() + PATIENCE);
    loop {
        assert!(Instant::now() < deadline, "no claim is lost");
        let lock = locking.transaction().await;
        lock.batch_execute("lock table admin.deliveries in access exclusive mode").await.unwrap();
        let claimed = {
            let beside = scene.beside().await;
            let mut claiming = pin!(scene.store().claim_deliveries(at(1), &quotas, at(361)));
            tokio::select! {
                missed = &mut claiming => missed,
                () = cut_who_is_blocked(&beside) => claiming.await,
            }
        };
        lock.rollback().await.unwrap();
        match claimed {
            Err(StoreError::Unavailable(_)) if leased(&scene.beside().await).await > 0 => return,
            Err(StoreError::Unavailable(_)) => {}
            Ok(claims) => assert!(claims.iter().all(|claim| claim.work.is_empty()), "its table is locked"),
            Err(other) => panic!("{other:?}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn cut_who_is_blocked(beside: &Beside) {
    let blocked = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                   where wait_event_type = 'Lock' and datname = current_database()";
    while beside.number(blocked).await == 0 {
        sleep(Duration::from_millis(2)).await;
    }
}

async fn leased(beside: &Beside) -> i64 {
    beside.number("select count(*) from admin.delivery_queue where leased_by is not null").await
}

/// Dispatches that could not be given back are given back by the next claims, long before their leases would have
/// ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_given_back_is_found_again() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    scene.publish(3).await;
    let owed = claim_dispatches(store, 1, 10).await.unwrap();
    assert_eq!(owed.len(), 3);
    watch(&beside, ("admin.owed_dispatches", "update"), "as given", true).await;
    store.release_dispatches(owed).await.unwrap_err();
    assert_eq!(counted(&beside).await, 1);
    beside.batch_execute("drop trigger count on admin.owed_dispatches").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut found = 0;
    while found < 3 {
        assert!(Instant::now() < deadline, "they are never given back");
        found += claim_dispatches(store, 1, 10).await.unwrap().len();
        sleep(Duration::from_millis(20)).await;
    }
    invariants::check(&beside).await;
}

/// Where the dead cannot be buried, the rest of what tending does is done all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_funeral_that_fails_holds_up_nothing() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    scene.publish(1).await;
    dispatch(store, 0, 1, std::slice::from_ref(&endpoint)).await.unwrap();
    let held = claim(store, (&scene.schema, &endpoint), 1, 1).await.unwrap();
    let delivery_id: DeliveryId = held[0].work().delivery_id;
    let cancelled = store.cancel_delivery(&scene.schema, delivery_id, "no longer", at(1)).await.unwrap();
    assert!(matches!(cancelled, Changed::Done(_)));

    beside.batch_execute("insert into admin.sessions (name) values ('dead')").await.unwrap();
    watch(&beside, ("admin.sessions", "delete"), "", true).await;
    let deadline = Instant::now() + PATIENCE;
    while counted(&beside).await == 0 {
        assert!(Instant::now() < deadline, "the dead are never found");
        // The lease of the attempt in flight is not over.
        store.tend(at(2)).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    let waiting = "select count(*) from admin.cancel_requests";
    assert_eq!(beside.number(waiting).await, 1);
    store.tend(at(62)).await.unwrap();
    assert_eq!(beside.number(waiting).await, 0, "the cancellation is finished");
    beside.batch_execute("drop trigger count on admin.sessions").await.unwrap();
    store.tend(at(62)).await.unwrap();
    assert_eq!(beside.number("select count(*) from admin.sessions where name = 'dead'").await, 0);
    invariants::check(&beside).await;
}
