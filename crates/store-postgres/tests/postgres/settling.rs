//! What settling changes stays where it is: a row that finds no room beside its old one is written into every index again.

use neo_events_domain::retry::Verdict;

use crate::scene::{Scene, claim, dispatch, settle_all, settlement};

/// Several pages of them.
const DELIVERIES: u32 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_deliveries_of_a_page_are_settled_on_it() {
    let scene = Scene::of(1).await;
    let (store, beside) = (scene.store(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    scene.publish(DELIVERIES as usize).await;
    dispatch(store, 0, DELIVERIES, std::slice::from_ref(&endpoint)).await.unwrap();
    let leases = claim(store, (&scene.schema, &endpoint), 1, DELIVERIES).await.unwrap();
    assert_eq!(leases.len(), DELIVERIES as usize);
    let pages = "select string_agg(distinct (ctid::text::point)[0]::text, ' ') from admin.deliveries";
    let before: String = beside.query_one(pages, &[]).await.unwrap().get(0);
    assert!(before.split(' ').count() > 3, "{before}");

    settle_all(store, leases.into_iter().map(|lease| settlement(lease, Verdict::Succeeded, 2)).collect())
        .await;
    let settled = "select count(*) from admin.deliveries where status = 'success'";
    assert_eq!(beside.number(settled).await, i64::from(DELIVERIES));
    assert_eq!(beside.query_one(pages, &[]).await.unwrap().get::<_, String>(0), before);
}
