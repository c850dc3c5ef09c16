//! A transaction that stays open somewhere: nothing that was deleted since can be removed, and claims must not come to
//! walk over all of it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    invariants,
    scene::{Beside, PATIENCE, Scene, dispatch},
};

const EVENTS: usize = 20_000;
const AT_ONCE: usize = 100;

/// How many entries of an index were read, live and dead, by connections that are closed.
async fn entries_read(beside: &Beside, index: &str) -> i64 {
    beside
        .number(&format!("select idx_tup_read from pg_stat_user_indexes where indexrelname = '{index}'"))
        .await
}

/// Opens a transaction that has a number of its own and a snapshot.
async fn hold_open(scene: &Scene) -> Beside {
    let holding = scene.beside().await;
    let begin = "begin isolation level repeatable read; select pg_current_xact_id(); select count(*) from admin.events";
    holding.batch_execute(begin).await.unwrap();
    holding
}

/// Closes the store, whose connections say then what they read.
async fn closed(mut scene: Scene) -> (Beside, Scene) {
    for store in scene.stores.drain(..) {
        store.close().await;
    }
    let beside = scene.beside().await;
    let others = "select count(*) from pg_stat_activity \
                  where datname = current_database() and application_name = 'neo-events'";
    let deadline = Instant::now() + PATIENCE;
    while beside.number(others).await > 0 {
        assert!(Instant::now() < deadline, "connections stay open");
        sleep(Duration::from_millis(20)).await;
    }
    (beside, scene)
}

/// How much may be read for one event, with what is looked at again every few seconds: without remembering anything it
/// would be 200 times as much where events trickle in, 60 times with a backlog.
const ENTRIES_MAX: i64 = 12;

/// Events come and go, a hundred at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_dispatches_do_not_walk_over_what_is_dead() {
    let scene = Scene::of(1).await;
    let holding = hold_open(&scene).await;
    for _ in 0..EVENTS / AT_ONCE {
        scene.publish(AT_ONCE).await;
        let limit = u32::try_from(AT_ONCE * 2).unwrap();
        assert_eq!(dispatch(scene.store(), 1, limit, &[]).await.unwrap(), AT_ONCE);
    }
    read_little(scene, holding).await;
}

/// All of them are there before the first is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_dispatches_is_walked_over_once() {
    let scene = Scene::of(1).await;
    let holding = hold_open(&scene).await;
    for _ in 0..EVENTS / 1000 {
        scene.publish(1000).await;
    }
    for _ in 0..EVENTS / AT_ONCE {
        let limit = u32::try_from(AT_ONCE).unwrap();
        assert_eq!(dispatch(scene.store(), 1, limit, &[]).await.unwrap(), AT_ONCE);
    }
    read_little(scene, holding).await;
}

async fn read_little(scene: Scene, holding: Beside) {
    let (beside, _scene) = closed(scene).await;
    let read = entries_read(&beside, "owed_dispatches_pkey").await;
    let events = i64::try_from(EVENTS).unwrap();
    assert!(read < events * ENTRIES_MAX, "{read} entries read for {events} events");
    assert!(read >= events, "the statistics are there");
    holding.batch_execute("rollback").await.unwrap();
    invariants::check(&beside).await;
}
