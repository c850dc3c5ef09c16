//! A node that the others cannot hear. As long as nobody has taken it for dead, it goes on; once somebody has, what the
//! database had granted it, and of which it learns only then, is others'.

use std::time::Duration;

use neo_events_store::{StoreError, WorkQueue};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    invariants,
    scene::{Beside, PATIENCE, Scene, at_last, claim, dispatch},
};

/// Longer ago than a beat may be if nobody is to have taken over.
const UNHEARD: Duration = Duration::from_millis(2500);

/// No node can beat any more.
const HUSH: &str = "alter table admin.session_beats rename to session_beats_kept";

/// As others do who take a node for dead.
const TAKE_OVER: &str = "
    delete from admin.session_beats_kept where session_no = NO;
    delete from admin.sessions where no = NO;
    update admin.delivery_queue
    set lease_token = null, leased_by = null, leased_until = null
    where leased_by = NO";

/// Whoever reads an endpoint's secrets waits for as long as there is a row in this table.
const HOLD_UP: &str = "
    create table admin.held_up (is_so boolean);
    insert into admin.held_up values (true);
    create function admin.hold_up() returns boolean language plpgsql as '
    begin
        while exists (select from admin.held_up) loop
            perform pg_sleep(0.02);
        end loop;
        return true;
    end';
    alter table admin.endpoint_secrets rename to endpoint_secrets_kept;
    create view admin.endpoint_secrets as select * from admin.endpoint_secrets_kept where admin.hold_up()";

async fn until(beside: &Beside, what: &str, statement: &str, wanted: i64) {
    let deadline = Instant::now() + PATIENCE;
    while beside.number(statement).await != wanted {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_be_heard_goes_on_as_long_as_nobody_takes_over() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    scene.publish(1).await;
    dispatch(store, 0, 1, std::slice::from_ref(&endpoint)).await.unwrap();
    beside.batch_execute(HUSH).await.unwrap();
    let began = Instant::now();
    let mut is_over = false;
    while !is_over {
        is_over = began.elapsed() >= UNHEARD;
        let leases = at_last(|| claim(store, (&scene.schema, &endpoint), 1, 1)).await;
        assert_eq!(leases.len(), 1, "after {:?}", began.elapsed());
        for lease in leases {
            store.release(lease).await.unwrap();
        }
        sleep(Duration::from_millis(50)).await;
    }
    invariants::check(&beside).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_granted_to_a_node_before_others_took_over_is_theirs() {
    let scene = Scene::of(2).await;
    let (here, there, beside) = (scene.stores[0].clone(), &scene.stores[1], scene.beside().await);
    let endpoint = scene.endpoint().await;
    scene.publish(3).await;
    dispatch(there, 0, 3, std::slice::from_ref(&endpoint)).await.unwrap();
    beside.batch_execute(HOLD_UP).await.unwrap();

    let mut claiming = JoinSet::new();
    let (schema, of) = (scene.schema.clone(), endpoint.clone());
    claiming.spawn(async move { claim(&here, (&schema, &of), 1, 3).await });
    let leased = "select count(*) from admin.delivery_queue where leased_by is not null";
    until(&beside, "they are never granted", leased, 3).await;
    let session_no = beside.number("select min(no) from admin.sessions").await;
    beside.batch_execute(HUSH).await.unwrap();
    beside.batch_execute(&TAKE_OVER.replace("NO", &session_no.to_string())).await.unwrap();
    sleep(UNHEARD).await;

    beside.batch_execute("delete from admin.held_up").await.unwrap();
    let refused = claiming.join_next().await.unwrap().unwrap().unwrap_err();
    let StoreError::Unavailable(cause) = refused else { panic!("{refused:?}") };
    assert!(cause.to_string().starts_with("this node could not be heard meanwhile"), "{cause}");
    let theirs = at_last(|| claim(there, (&scene.schema, &endpoint), 2, 3)).await;
    assert_eq!(theirs.len(), 3);
}
