//! Connections that are cut, statements that are cancelled, and pools that are full.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use neo_events_domain::{endpoint::Endpoint, event::EventDraft, retry::Verdict, tenant::Schema};
use neo_events_store::{
    Appended, Catalogue, DeliveryLog, EndpointQuery, EventLog, EventQuery, Health, PageRequest, StoreError,
    WorkQueue,
};
use neo_events_store_postgres::PostgresStore;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    invariants,
    random::Random,
    scene::{
        Beside, PATIENCE, Scene, at, claim, claim_dispatches, dispatch, draft, event, id, settle_all,
        settlement, to_all, until_blocked,
    },
};

/// How long a connection is waited for.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);
/// What the machine may add to it.
const SLACK: Duration = Duration::from_secs(4);
/// Shorter than any limit of the server's: an open transaction's, a statement's, a lock's.
const OTHERS_TIME: Duration = Duration::from_millis(1500);
/// A machine that has other things to do may take longer once, but not each time.
const TRIES_MAX: usize = 8;

/// How often connections are cut, at the least.
const ROUNDS_MIN: u32 = 60;

/// Answers within a time, and says nothing worse than that the database is not available.
async fn answered<T>(call: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    match timeout(PATIENCE, call).await.expect("every call answers") {
        Ok(answer) => Some(answer),
        Err(StoreError::Unavailable(_)) => None,
        Err(other) => panic!("{other:?}"),
    }
}

/// One thing that a node does.
async fn work(store: &PostgresStore, endpoint: &Endpoint, random: &mut Random) -> bool {
    let schema = Schema::admin();
    match random.below(6) {
        0 | 1 => {
            // A third of them guarded, so that transactions are cut too.
            let guarded = random.once_in(3);
            let aggregate_id = guarded.then(|| id::<()>(0).uuid());
            let expected_version = guarded.then_some(0);
            let new = event(EventDraft { aggregate_id, expected_version, ..draft() });
            answered(store.append(&schema, vec![new, event(draft())], at(0))).await.is_some()
        }
        2 | 3 => answered(dispatch(store, 1, 20, std::slice::from_ref(endpoint))).await.is_some(),
        4 => {
            let Some(leases) = answered(claim(store, (&schema, endpoint), 1, 10)).await else { return false };
            for lease in leases {
                if random.once_in(4) {
                    answered(store.cancel_delivery(&schema, lease.work().delivery_id, "cut", at(1))).await;
                }
                if random.once_in(4) {
                    answered(async { store.release(lease).await.map_err(|kept| kept.error) }).await;
                    continue;
                }
                let progress = lease.work().progress;
                let again = if progress.attempt < progress.max_attempts {
                    Verdict::Retry(at(1))
                } else {
                    Verdict::Exhausted
                };
                let verdict = *random.pick(&[Verdict::Succeeded, again, Verdict::Rejected]);
                answered(async {
                    store.settle(settlement(lease, verdict, 1)).await.map_err(|lost| lost.error)
                })
                .await;
            }
            true
        }
        _ => answered(store.tend(at(1))).await.is_some(),
    }
}

/// Statements are cancelled and connections cut at any moment, the session's too: every call answers, and what was half
/// done is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_half_done_where_connections_are_cut() {
    let scene = Scene::of(2).await;
    let endpoint = scene.endpoint().await;
    let done = Arc::new(AtomicBool::new(false));
    let (succeeded, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut working = JoinSet::new();
    for task in 0..8 {
        let (store, endpoint) = (scene.stores[task % 2].clone(), endpoint.clone());
        let (done, succeeded, failed) = (Arc::clone(&done), Arc::clone(&succeeded), Arc::clone(&failed));
        let mut random = Random::seeded(u64::try_from(task).unwrap());
        working.spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let went_well = work(&store, &endpoint, &mut random).await;
                if went_well { &succeeded } else { &failed }.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let beside = scene.beside().await;
    let others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    let (mut round, mut pause) = (0, Duration::from_millis(25));
    let deadline = Instant::now() + PATIENCE;
    let has_hit = || [&succeeded, &failed].iter().all(|calls| calls.load(Ordering::SeqCst) > 0);
    while round < ROUNDS_MIN || !has_hit() {
        assert!(
            Instant::now() < deadline,
            "{} calls were hit, and {} got through",
            failed.load(Ordering::SeqCst),
            succeeded.load(Ordering::SeqCst)
        );
        sleep(pause).await;
        if round >= ROUNDS_MIN {
            // Whoever is slow needs more time to get through.
            pause += Duration::from_millis(25);
        }
        round += 1;
        let end = if round % 2 == 0 { "pg_cancel_backend" } else { "pg_terminate_backend" };
        beside.batch_execute(&format!("select {end}(pid) {others}")).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    while let Some(ended) = working.join_next().await {
        ended.unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    for store in &scene.stores {
        while store.ping().await.is_err() {
            assert!(Instant::now() < deadline, "the store never works again");
        }
    }
    invariants::check(&beside).await;
    drain(&scene, &endpoint, &beside).await;
}

/// Everything that is left goes its way.
async fn drain(scene: &Scene, endpoint: &Endpoint, beside: &Beside) {
    let deadline = Instant::now() + PATIENCE;
    let left =
        "select (select count(*) from admin.owed_dispatches) + (select count(*) from admin.delivery_queue)";
    while beside.number(left).await > 0 {
        assert!(Instant::now() < deadline, "work is left that nobody can claim");
        for store in &scene.stores {
            answered(dispatch(store, 1000, 1000, std::slice::from_ref(endpoint))).await;
            let leases =
                answered(claim(store, (&scene.schema, endpoint), 1000, 1000)).await.unwrap_or_default();
            let all = leases.into_iter().map(|lease| settlement(lease, Verdict::Succeeded, 1000)).collect();
            settle_all(store, all).await;
            answered(store.tend(at(1000))).await;
        }
    }
    invariants::check(beside).await;
}

/// Where every connection stands before a lock, calls are answered within the time for which a connection is waited
/// for, however many there are; and the lock itself is not waited for longer than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_is_unavailable_in_time() {
    let scene = Scene::of(1).await;
    let endpoint = scene.endpoint().await;
    scene.publish(20).await;
    dispatch(scene.store(), 0, 20, std::slice::from_ref(&endpoint)).await.unwrap();
    let held = claim(scene.store(), (&scene.schema, &endpoint), 0, 5).await.unwrap();
    let beside = scene.beside().await;
    beside.batch_execute("begin; lock table admin.owed_dispatches in access exclusive mode").await.unwrap();
    // Each waits for the lock for a while, and again until all do so at the same time.
    let all_are_stuck = Arc::new(AtomicBool::new(false));
    let mut stuck = JoinSet::new();
    for _ in 0..8 {
        let (store, all_are_stuck) = (scene.store().clone(), Arc::clone(&all_are_stuck));
        stuck.spawn(async move {
            loop {
                let claimed = claim_dispatches(&store, 1, 10).await.map(|owed| owed.len());
                assert!(matches!(claimed, Err(StoreError::Unavailable(_))), "the lock was never free");
                if all_are_stuck.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
    }
    until_blocked(&scene.beside().await, 8).await;
    all_are_stuck.store(true, Ordering::SeqCst);

    let mut calls: JoinSet<(&str, Duration, Result<(), StoreError>)> = JoinSet::new();
    let began = Instant::now();
    for n in 0..6 {
        let (store, schema) = (scene.store().clone(), scene.schema.clone());
        let guarded =
            EventDraft { aggregate_id: Some(id::<()>(0).uuid()), expected_version: Some(0), ..draft() };
        let new = event(if n % 2 == 0 { guarded } else { draft() });
        calls.spawn(async move {
            // Not all of them come at once.
            sleep(Duration::from_millis(n * 300)).await;
            let began = Instant::now();
            let answer = store.append(&schema, vec![new], at(1)).await.map(drop);
            ("append", began.elapsed(), answer)
        });
    }
    for (n, lease) in held.into_iter().enumerate() {
        let store = scene.store().clone();
        calls.spawn(async move {
            sleep(Duration::from_millis(300) * u32::try_from(n).unwrap()).await;
            let began = Instant::now();
            let answer = store.settle(settlement(lease, Verdict::Succeeded, 1)).await;
            ("settle", began.elapsed(), answer.map(drop).map_err(|unsettled| unsettled.error))
        });
    }
    let store = scene.store().clone();
    calls.spawn(async move { ("tend", began.elapsed(), store.tend(at(1)).await.map(drop)) });
    while let Some(call) = calls.join_next().await {
        let (what, took, answer) = call.unwrap();
        // Connections come free when their waiting for the lock is over, so that some calls get one.
        assert!(matches!(answer, Ok(()) | Err(StoreError::Unavailable(_))), "{what}: {answer:?}");
        assert!(took < CONNECTION_WAIT + SLACK, "{what} took {took:?}");
    }

    // Reads by users have connections of their own.
    answered(scene.store().endpoint(&scene.schema, endpoint.id)).await.unwrap();
    while let Some(ended) = stuck.join_next().await {
        ended.unwrap();
    }
    beside.batch_execute("rollback").await.unwrap();
    invariants::check(&beside).await;
}

/// However many lists of users stand still, and on whatever, the passes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reads_of_users_do_not_hold_up_the_passes() {
    let scene = Scene::of(1).await;
    let endpoint = scene.endpoint().await;
    scene.publish(1).await;
    dispatch(scene.store(), 0, 1, std::slice::from_ref(&endpoint)).await.unwrap();
    let lease = claim(scene.store(), (&scene.schema, &endpoint), 0, 1).await.unwrap().remove(0);
    let delivery_id = lease.work().delivery_id;
    let delivery = scene.store().delivery(&scene.schema, delivery_id).await.unwrap().unwrap().delivery;
    let beside = scene.beside().await;
    beside.batch_execute("begin; lock table admin.attempts in access exclusive mode").await.unwrap();
    let mut reads = JoinSet::new();
    for _ in 0..30 {
        let (store, schema) = (scene.store().clone(), scene.schema.clone());
        let delivery = delivery.clone();
        reads.spawn(async move {
            store.attempts(&schema, &delivery, PageRequest::first(1)).await.map(|page| page.items.len())
        });
    }
    // Others of the connections are for other tenants.
    until_blocked(&scene.beside().await, 3).await;
    let passes = async {
        for second in 1..6 {
            scene.publish(1).await;
            let leases = claim_dispatches(scene.store(), second, 10).await.unwrap();
            assert_eq!(leases.len(), 1);
            let dispatched = to_all(leases, std::slice::from_ref(&endpoint));
            scene.store().settle_dispatches(dispatched, at(second)).await.unwrap();
            assert_eq!(claim(scene.store(), (&scene.schema, &endpoint), second, 10).await.unwrap().len(), 1);
        }
    };
    timeout(Duration::from_secs(4), passes).await.expect("nobody waits for users");
    beside.batch_execute("rollback").await.unwrap();
    while let Some(read) = reads.join_next().await {
        // Some had to wait for a connection longer than one is waited for.
        assert!(matches!(read.unwrap(), Ok(0) | Err(StoreError::Unavailable(_) | StoreError::TooSlow(_))));
    }
    let settled = scene.store().settle(settlement(lease, Verdict::Succeeded, 30)).await;
    assert!(settled.is_ok());
}

/// The statements that stand before a lock, those that were left there too, for as long as they may wait.
async fn blocked(beside: &Beside) -> HashSet<String> {
    let blocked = "select pid || ' since ' || query_start from pg_stat_activity \
                   where wait_event_type = 'Lock' and datname = current_database()";
    beside.query(blocked, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// What is begun and left when it stands before a lock.
async fn leave_at_a_lock<T>(call: impl Future<Output = Result<T, StoreError>>, beside: &Beside) {
    let (before, deadline) = (blocked(beside).await, Instant::now() + PATIENCE);
    let stands_there = async {
        while blocked(beside).await.is_subset(&before) {
            assert!(Instant::now() < deadline, "it never gets to the lock");
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = call => panic!("there is no lock in the way"),
        () = stands_there => {}
    }
}

/// A read that nobody waits for any more is in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_does_not_wait_for_a_read_that_was_left() {
    let scene = Scene::of(1).await;
    let (store, schema) = (scene.store(), &scene.schema);
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    let (all_events, all_endpoints) = (EventQuery::default(), EndpointQuery::default());
    holding.batch_execute("begin; lock table admin.events in access exclusive mode").await.unwrap();
    for _ in 0..3 {
        let mut tries = 0..TRIES_MAX;
        loop {
            tries.next().expect("it goes before others");
            leave_at_a_lock(store.events(schema, &all_events, PageRequest::first(1)), &beside).await;
            let read = store.endpoints(schema, &all_endpoints, PageRequest::first(1));
            if let Ok(read) = timeout(OTHERS_TIME, read).await {
                read.unwrap();
                break;
            }
        }
    }
    holding.batch_execute("rollback").await.unwrap();
}

/// A transaction that was left is over when its statement is, though nobody asks for its connection, and its locks are
/// free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_publishes_does_not_wait_for_a_publish_that_was_left() {
    let scene = Scene::of(1).await;
    let (store, schema) = (scene.store(), &scene.schema);
    let (holding, beside) = (scene.beside().await, scene.beside().await);
    let open = "select count(*) from pg_stat_activity \
                where xact_start is not null and datname = current_database() and pid <> pg_backend_pid()";
    let mut tries = 0..TRIES_MAX;
    loop {
        tries.next().expect("its transaction ends, and the lock is free");
        let aggregate_id = Some(id::<()>(0).uuid());
        let left = vec![event(EventDraft { aggregate_id, expected_version: Some(0), ..draft() })];
        holding.batch_execute("begin; lock table admin.events in share mode").await.unwrap();
        leave_at_a_lock(store.append(schema, left.clone(), at(0)), &beside).await;
        holding.batch_execute("rollback").await.unwrap();
        let is_over = timeout(OTHERS_TIME, async {
            while beside.number(open).await > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        });
        if is_over.await.is_ok()
            && let Ok(again) = timeout(OTHERS_TIME, store.append(schema, left, at(1))).await
        {
            assert!(matches!(again.as_deref(), Ok([Appended::Stored { .. }])), "{again:?}");
            break;
        }
    }
    invariants::check(&beside).await;
}

/// A primary that somebody has made read-only is no standby: it is read as ever, who publishes is told what is the matter,
/// and once it takes writes again nobody has to do anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_made_read_only_can_be_read() {
    let scene = Scene::of(1).await;
    let stored = event(draft());
    scene.store().append(&scene.schema, vec![stored.clone()], at(0)).await.unwrap();
    let beside = scene.beside().await;
    let name = scene.database.name();
    let read_only = format!("alter database {name} set default_transaction_read_only = on");
    beside.batch_execute(&read_only).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity \
               where datname = current_database() and pid <> pg_backend_pid()";
    beside.batch_execute(cut).await.unwrap();

    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "who publishes is not told that it is read-only");
        let refused = scene.store().append(&scene.schema, vec![event(draft())], at(1)).await.unwrap_err();
        if matches!(refused, StoreError::ReadOnly(_)) {
            break;
        }
        assert!(refused.is_transient(), "{refused:?}");
    }
    for _ in 0..8 {
        let reads = (0..8).map(|_| scene.store().event(&scene.schema, stored.id));
        join_all(reads).await.into_iter().for_each(|read| assert!(read.unwrap().is_some()));
    }

    let writable = format!(
        "set default_transaction_read_only = off; alter database {name} reset default_transaction_read_only"
    );
    beside.batch_execute(&writable).await.unwrap();
    let later = event(draft());
    while scene.store().append(&scene.schema, vec![later.clone()], at(2)).await.is_err() {
        assert!(Instant::now() < deadline, "it never takes writes again");
        sleep(Duration::from_millis(20)).await;
    }
}
