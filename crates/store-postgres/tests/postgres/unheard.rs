//! A node that the others cannot hear, and may take for dead: what the database grants it meanwhile may be another's by the
//! time it learns of it.

use std::{sync::mpsc, time::Duration};

use neo_events_store::{Arrival, CatalogueVersion, DirectDelivery, DirectDispatch, StoreError, WorkQueue};
use tokio::time::{Instant, sleep};

use crate::{
    invariants,
    scene::{Beside, PATIENCE, Scene, at, claim, dispatch, draft, event, new_delivery},
};

/// Beats wait for as long as there is a row in this table.
const HUSH: &str = "
    create table admin.hushed (is_so boolean);
    create function admin.hush() returns trigger language plpgsql as '
    begin
        while exists (select from admin.hushed) loop
            perform pg_sleep(0.02);
        end loop;
        return new;
    end';
    create trigger hush before insert on admin.session_beats for each row execute function admin.hush();
    insert into admin.hushed values (true)";

/// What each of a few publishes was handed at once.
async fn publish_directly(scene: &Scene, beside: &Beside) -> usize {
    let endpoint = scene.endpoint().await;
    let version = beside.number("select catalogue_version from admin.tenants where no = 1").await;
    let (handed, leases) = mpsc::channel();
    let dispatch = DirectDispatch {
        catalogue_version: CatalogueVersion(version.unsigned_abs()),
        deliveries: vec![DirectDelivery { delivery: new_delivery(&endpoint), is_taken: true }],
        lease_until: at(1000),
        hand_over: Box::new(move |leases| handed.send(leases.len()).unwrap()),
    };
    let arrival = Arrival { event: event(draft()), dispatch: Some(dispatch) };
    scene.store().append_arrivals(&scene.schema, vec![arrival], at(5)).await.unwrap();
    leases.recv().expect("who is handed nothing is told so")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_granted_to_a_node_that_cannot_be_heard_is_not_attempted_by_it() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    let of = (&scene.schema, &endpoint);
    scene.publish(3).await;
    dispatch(store, 0, 3, std::slice::from_ref(&endpoint)).await.unwrap();
    assert_eq!(publish_directly(&scene, &beside).await, 1, "it is heard");
    beside.batch_execute(HUSH).await.unwrap();

    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        match claim(store, of, 1, 3).await {
            Ok(leases) => {
                for lease in leases {
                    store.release(lease).await.unwrap();
                }
            }
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "it goes on though nobody hears it");
        sleep(Duration::from_millis(20)).await;
    };
    let StoreError::Unavailable(cause) = refused else { panic!("{refused:?}") };
    assert!(cause.to_string().starts_with("this node could not be heard meanwhile"), "{cause}");
    assert_eq!(publish_directly(&scene, &beside).await, 0, "what is stored is stored, and is owed");

    beside.batch_execute("delete from admin.hushed").await.unwrap();
    let (mut held, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while held.len() < 3 {
        held.extend(claim(store, of, 1, 3).await.unwrap_or_default());
        assert!(Instant::now() < deadline, "what was granted in vain is not given back");
        sleep(Duration::from_millis(20)).await;
    }
    for lease in held {
        store.release(lease).await.unwrap();
    }
    invariants::check(&beside).await;
}
