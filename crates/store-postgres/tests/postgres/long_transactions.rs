//! A transaction that stays open somewhere: nothing that was deleted since can be removed, and claims must not come to
//! walk over all of it.

use std::time::Duration;

use neo_events_domain::retry::Verdict;
use neo_events_store::WorkQueue;
use tokio::time::{Instant, sleep};

use crate::{
    invariants,
    scene::{Beside, PATIENCE, Scene, at, claim, dispatch, settle_all, settlement},
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
/// How often claims look at everything, all that is dead too, on a machine however slow.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Events come and go, a hundred at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_dispatches_do_not_walk_over_what_is_dead() {
    let scene = Scene::of(1).await;
    let (holding, began) = (hold_open(&scene).await, Instant::now());
    for _ in 0..EVENTS / AT_ONCE {
        scene.publish(AT_ONCE).await;
        let limit = u32::try_from(AT_ONCE * 2).unwrap();
        assert_eq!(dispatch(scene.store(), 1, limit, &[]).await.unwrap(), AT_ONCE);
    }
    read_little(scene, holding, began.elapsed(), "owed_dispatches_pkey").await;
}

/// All of them are there before the first is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_dispatches_is_walked_over_once() {
    let scene = Scene::of(1).await;
    let holding = hold_open(&scene).await;
    for _ in 0..EVENTS / 1000 {
        scene.publish(1000).await;
    }
    let began = Instant::now();
    for _ in 0..EVENTS / AT_ONCE {
        let limit = u32::try_from(AT_ONCE).unwrap();
        assert_eq!(dispatch(scene.store(), 1, limit, &[]).await.unwrap(), AT_ONCE);
    }
    read_little(scene, holding, began.elapsed(), "owed_dispatches_pkey").await;
}

/// Deliveries come and go, a hundred at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_deliveries_do_not_walk_over_what_is_dead() {
    let scene = Scene::of(1).await;
    let endpoint = scene.endpoint().await;
    let (holding, began) = (hold_open(&scene).await, Instant::now());
    let mut second = 0;
    for _ in 0..EVENTS / AT_ONCE {
        second += 1;
        scene.publish(AT_ONCE).await;
        let limit = u32::try_from(AT_ONCE).unwrap();
        let to = std::slice::from_ref(&endpoint);
        assert_eq!(dispatch(scene.store(), second, limit, to).await.unwrap(), AT_ONCE);
        let leases = claim(scene.store(), (&scene.schema, &endpoint), second, limit).await.unwrap();
        assert_eq!(leases.len(), AT_ONCE);
        let settled = leases.into_iter().map(|lease| settlement(lease, Verdict::Succeeded, second));
        settle_all(scene.store(), settled.collect()).await;
    }
    read_little(scene, holding, began.elapsed(), "delivery_queue_pkey").await;
}

/// What comes before all that was claimed is found: a lease that was given back at once, the rest by the next look at
/// everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_before_all_that_was_claimed_is_found() {
    let scene = Scene::of(2).await;
    let endpoint = scene.endpoint().await;
    let (here, there, of) = (&scene.stores[0], &scene.stores[1], (&scene.schema, &endpoint));
    let to = std::slice::from_ref(&endpoint);
    scene.publish(3).await;
    assert_eq!(dispatch(here, 1, 1, to).await.unwrap(), 1);
    let released = claim(there, of, 1, 1).await.unwrap().remove(0);
    assert_eq!(dispatch(here, 50, 1, to).await.unwrap(), 1);
    assert_eq!(claim(here, of, 50, 10).await.unwrap().len(), 1);
    // Another node gives back what is older, and yet another's clock is behind.
    there.release(released).await.unwrap();
    assert_eq!(dispatch(there, 30, 1, to).await.unwrap(), 1);
    assert!(claim(here, of, 51, 10).await.unwrap().is_empty(), "it lies below the floor");
    let due = here.due_endpoints(at(51)).await.unwrap();
    assert_eq!(due.iter().map(|due| due.due_at).collect::<Vec<_>>(), [at(1)]);
    let found = claim(here, of, 51, 10).await.unwrap();
    assert_eq!(found.len(), 2);
    for lease in found {
        here.release(lease).await.unwrap();
    }
    assert_eq!(claim(here, of, 51, 10).await.unwrap().len(), 2, "what was given back here is known here");
}

/// Claims and publishes lock the session's row. If beats changed it, they would walk over all of them since the oldest
/// transaction that is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_leave_the_row_alone_that_claims_lock() {
    let scene = Scene::of(2).await;
    let beside = scene.beside().await;
    let newest = "select coalesce(min(beat_no), 0) from (
        select (select max(b.beat_no) from admin.session_beats b where b.session_no = s.no) as beat_no
        from admin.sessions s
    ) as of_each";
    let reaches = async |beat_no: i64| {
        let deadline = Instant::now() + PATIENCE;
        while beside.number(newest).await < beat_no {
            assert!(Instant::now() < deadline, "they do not beat");
            sleep(Duration::from_millis(20)).await;
        }
    };
    reaches(2).await;
    let rows = "select string_agg(ctid::text || xmin::text, ' ' order by no) from admin.sessions";
    let row = async || -> String { beside.query_one(rows, &[]).await.unwrap().get(0) };
    let before = row().await;
    reaches(6).await;
    assert_eq!(row().await, before);
    assert!(beside.number("select count(*) from admin.session_beats").await <= 4, "the older ones are gone");

    // A node of a version before listens for beats in the row, as long as it is there.
    beside.batch_execute("insert into admin.sessions (name) values ('of before')").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while row().await.starts_with(&before) {
        assert!(Instant::now() < deadline, "it hears nothing");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Beats come and go, one row of each session, which the planner knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_do_not_walk_over_those_before_them() {
    const DEAD: i64 = 3_000;
    const BEATS: i64 = 6;
    let scene = Scene::of(2).await;
    let (beside, holding) = (scene.beside().await, hold_open(&scene).await);
    let before = format!(
        "insert into admin.session_beats (session_no, beat_no)
            select no, -n from admin.sessions, generate_series(1, {DEAD}) n;
        delete from admin.session_beats where beat_no < 0;
        analyze admin.session_beats"
    );
    beside.batch_execute(&before).await.unwrap();
    let newest = "select coalesce(max(beat_no), 0) from admin.session_beats";
    let (began, deadline) = (beside.number(newest).await, Instant::now() + PATIENCE);
    while beside.number(newest).await < began + BEATS {
        assert!(Instant::now() < deadline, "they do not beat");
        sleep(Duration::from_millis(20)).await;
    }
    drop(beside);
    let (beside, _scene) = closed(scene).await;
    let read = entries_read(&beside, "session_beats_pkey").await;
    // The end of each session takes its beats along, and the test deleted them.
    assert!(read < DEAD * 8, "{read} entries read by some {BEATS} beats of two nodes");
    holding.batch_execute("rollback").await.unwrap();
}

async fn read_little(scene: Scene, holding: Beside, took: Duration, index: &str) {
    let (beside, _scene) = closed(scene).await;
    let read = entries_read(&beside, index).await;
    let events = i64::try_from(EVENTS).unwrap();
    // Where it takes long, everything is looked at more often.
    let looks = i64::try_from(took.as_millis() / LOOK_INTERVAL.as_millis()).unwrap();
    assert!(read < events * (ENTRIES_MAX + looks), "{read} entries read for {events} events in {took:.1?}");
    assert!(read >= events, "the statistics are there");
    holding.batch_execute("rollback").await.unwrap();
    invariants::check(&beside).await;
}
