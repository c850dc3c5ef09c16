//! Publishing while the store is closed.

use std::collections::HashSet;

use neo_events_domain::Uuid;
use neo_events_store::{EventLog, StoreError};
use tokio::task::JoinSet;

use crate::scene::{Scene, at, draft, event, open};

/// An event is stored and its publisher told so, or the publisher is told that the store is closed and it is not
/// stored: who publishes it again, somewhere else, does so rightly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_that_the_store_is_closed_has_stored_nothing() {
    const ROUNDS: usize = 10;
    const PUBLISHERS: usize = 50;
    let scene = Scene::of(0).await;
    let (mut told_stored, mut told_closed) = (HashSet::new(), HashSet::new());
    for _ in 0..ROUNDS {
        let store = open(&scene.database).await;
        let mut publishers = JoinSet::new();
        for _ in 0..PUBLISHERS {
            let (store, schema) = (store.clone(), scene.schema.clone());
            publishers.spawn(async move {
                let mut stored = Vec::new();
                loop {
                    let event = event(draft());
                    let id = event.id.uuid();
                    match store.append(&schema, vec![event], at(0)).await {
                        Ok(_) => stored.push(id),
                        Err(error) => return (stored, id, error),
                    }
                }
            });
        }
        // In the middle of it.
        let beside = scene.beside().await;
        while beside.number("select count(*) from admin.events").await
            < i64::try_from(told_stored.len()).unwrap() + 100
        {}
        store.close().await;
        for (stored, refused, error) in publishers.join_all().await {
            told_stored.extend(stored);
            let StoreError::Unavailable(cause) = error else { panic!("{error:?}") };
            assert_eq!(cause.to_string(), "the store is closed");
            told_closed.insert(refused);
        }
    }
    assert_eq!(told_closed.len(), ROUNDS * PUBLISHERS);
    let rows = scene.beside().await.query("select id from admin.events", &[]).await.unwrap();
    let there: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(there, told_stored);
}
