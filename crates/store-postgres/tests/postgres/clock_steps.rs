//! Clocks that are wrong. The database's is set: whoever lives is not taken for dead, and whoever is dead not for alive. A
//! node's is behind: what waits is not taken for what a clock put off.

use std::time::Duration;

use neo_events_domain::{Timestamp, retry::Verdict};
use neo_events_store::{Settled, WorkQueue};
use tokio::time::{Instant, sleep};

use crate::{
    invariants,
    scene::{PATIENCE, Scene, at, claim, dispatch, settlement},
};

/// The clock goes ahead by an hour, and one of the nodes beats first; and then it stays first, so that the moment in
/// which the other one's beat looks an hour old is not missed.
const STEP: &str = "
    create function admin.step() returns trigger language plpgsql
    as 'begin new.beat_at := new.beat_at + interval ''1 hour''; return new; end';
    create trigger step before insert on admin.session_beats for each row
    when (new.session_no = FIRST) execute function admin.step();";

/// One node that died as the clock was right, and one that died before it was set back by an hour.
const DEAD: &str = "
    insert into admin.sessions (name, beat_at)
    values ('dead', clock_timestamp()), ('dead ahead', clock_timestamp() + interval '1 hour')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_the_databases_clock_buries_the_dead_alone() {
    let scene = Scene::of(2).await;
    let (first, second, beside) = (&scene.stores[0], &scene.stores[1], scene.beside().await);
    let endpoint = scene.endpoint().await;
    scene.publish(2).await;
    dispatch(first, 0, 2, std::slice::from_ref(&endpoint)).await.unwrap();
    let held = claim(second, (&scene.schema, &endpoint), 1, 2).await.unwrap();
    assert_eq!(held.len(), 2);
    let no_of_first = beside.number("select min(no) from admin.sessions").await;
    let no_of_second = beside.number("select max(no) from admin.sessions").await;
    beside.batch_execute(&STEP.replace("FIRST", &no_of_first.to_string())).await.unwrap();
    beside.batch_execute(DEAD).await.unwrap();

    let dead = "select count(*) from admin.sessions where name like 'dead%'";
    let lives = format!("select count(*) from admin.sessions where no = {no_of_second}");
    let deadline = Instant::now() + PATIENCE;
    while beside.number(dead).await > 0 {
        assert!(Instant::now() < deadline, "the dead are never found");
        first.tend(at(2)).await.unwrap();
        assert_eq!(beside.number(&lives).await, 1, "it beats every half second");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(claim(first, (&scene.schema, &endpoint), 2, 2).await.unwrap().is_empty());
    for lease in held {
        let settled = second.settle(settlement(lease, Verdict::Succeeded, 3)).await.unwrap();
        assert!(matches!(settled, Settled::Recorded(_)), "it still holds what it held");
    }
    invariants::check(&beside).await;
}

/// A retry in ten minutes, and one that no policy asks for.
const WAITING: &str = "
    with due as (
        select id, clock_timestamp() + case row_number() over () when 1 then '10 minutes' else '2 hours' end::interval as at
        from SCHEMA.deliveries
    ),
    queued as (
        update admin.delivery_queue q set due_at = due.at from due where q.delivery_id = due.id
    )
    update SCHEMA.deliveries d set due_at = due.at from due where d.id = due.id";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_an_hour_behind_brings_back_only_what_a_clock_put_off() {
    let scene = Scene::of(1).await;
    let beside = scene.beside().await;
    let endpoint = scene.endpoint().await;
    scene.publish(2).await;
    dispatch(scene.store(), 0, 2, std::slice::from_ref(&endpoint)).await.unwrap();
    beside.batch_execute(&WAITING.replace("SCHEMA", scene.schema.as_str())).await.unwrap();

    let hour_ago = "select extract(epoch from clock_timestamp() - interval '1 hour')::bigint";
    let behind = Timestamp::from_second(beside.number(hour_ago).await).unwrap();
    scene.store().tend(behind).await.unwrap();
    let waiting =
        "select count(*) from admin.delivery_queue where due_at > clock_timestamp() + interval '9 minutes'";
    assert_eq!(beside.number(waiting).await, 1, "the retry waits, by the database's clock");
    let due = "select count(*) from admin.delivery_queue where due_at <= clock_timestamp()";
    assert_eq!(beside.number(due).await, 1, "what waits longer than any policy says is due");
    invariants::check(&beside).await;
}
