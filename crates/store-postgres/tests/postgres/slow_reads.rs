//! Reads that take longer than a read may: whoever asked is told so, and not that the database is away.

use std::time::Duration;

use neo_events_domain::tenant::Schema;
use neo_events_store::{EventLog, EventQuery, StoreError};
use neo_events_store_postgres::{PostgresOptions, PostgresStore};

use crate::scene::{Scene, at, draft, event};

#[tokio::test]
async fn a_read_that_takes_too_long_is_told_from_a_database_that_is_away() {
    let scene = Scene::of(1).await;
    let (read_timeout, work_timeout) = (Duration::from_millis(500), Duration::from_secs(1));
    let options = PostgresOptions::new(scene.database.url());
    let store = PostgresStore::open(PostgresOptions { read_timeout, work_timeout, ..options }).await.unwrap();
    let beside = scene.beside().await;
    beside.batch_execute("begin; lock table admin.events in access exclusive mode").await.unwrap();
    let admin = Schema::admin();
    let read = store.count_events(&admin, &EventQuery::default()).await;
    assert!(matches!(read, Err(StoreError::TooSlow(_))), "{read:?}");
    let written = store.append(&admin, vec![event(draft())], at(0)).await;
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "no read: {written:?}");
    beside.batch_execute("rollback").await.unwrap();
    assert_eq!(store.count_events(&admin, &EventQuery::default()).await.unwrap(), 0);
    store.close().await;
}
