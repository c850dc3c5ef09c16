//! Endpoints and subscriptions, changed from several nodes while others follow the changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use neo_events_domain::{
    endpoint::Endpoint,
    id::{EndpointId, SubscriptionId},
    subscription::Subscription,
    tenant::Schema,
};
use neo_events_store::{
    Catalogue, CatalogueVersion, DeliveryLog, EndpointQuery, Inserted, PageRequest, StoreError,
    SubscriptionQuery, Updated, Usage, WorkQueue,
};
use neo_events_store_postgres::PostgresStore;
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, sleep},
};

use crate::{
    invariants,
    random::Random,
    scene::{PATIENCE, Scene, at, new_endpoint, new_subscription},
};

/// A matcher's view, built of nothing but the changes.
#[derive(Default)]
struct Follower {
    since: CatalogueVersion,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    subscriptions: BTreeMap<SubscriptionId, EndpointId>,
}

impl Follower {
    async fn follow(&mut self, store: &PostgresStore, limit: u32) {
        loop {
            let changes = store.catalogue_changes(&Schema::admin(), self.since, limit).await.unwrap();
            assert!(changes.version >= self.since);
            self.since = changes.version;
            self.endpoints.extend(changes.endpoints.into_iter().map(|endpoint| (endpoint.id, endpoint)));
            self.subscriptions.extend(changes.subscriptions.into_iter().map(|one| (one.id, one.endpoint_id)));
            for id in changes.deleted_endpoints {
                self.endpoints.remove(&id);
                self.subscriptions.retain(|_, of| *of != id);
            }
            for id in changes.deleted_subscriptions {
                self.subscriptions.remove(&id);
            }
            if !changes.more {
                return;
            }
        }
    }
}

/// A failover may lose the newest changes, and a restored backup more of them: the next change must not look as if it
/// was one of those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_after_a_lost_one_is_told_to_whoever_knows_the_lost_one() {
    let scene = Scene::of(1).await;
    let (store, schema, beside) = (scene.store(), scene.schema.clone(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    let kept = store.catalogue_changes(&schema, CatalogueVersion::default(), 10).await.unwrap().version;
    let lost = new_subscription(&endpoint);
    store.insert_subscription(&schema, &lost).await.unwrap();
    let known = store.catalogue_changes(&schema, kept, 10).await.unwrap().version;
    beside
        .batch_execute(&format!(
            "delete from admin.subscriptions; update admin.tenants set catalogue_version = {}",
            kept.0
        ))
        .await
        .unwrap();
    // Whoever knows more than there is learns that.
    assert!(store.catalogue_changes(&schema, known, 10).await.unwrap().version < known);
    let next = new_subscription(&endpoint);
    store.insert_subscription(&schema, &next).await.unwrap();
    let changes = store.catalogue_changes(&schema, known, 10).await.unwrap();
    assert!(changes.version > known);
    assert_eq!(changes.subscriptions.iter().map(|one| one.id).collect::<Vec<_>>(), [next.id]);
}

/// What it was before may not be what it is: the connection may be to another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_is_read_from_the_beginning_after_the_node_was_cut_off() {
    let scene = Scene::of(1).await;
    let (store, schema, beside) = (scene.store(), scene.schema.clone(), scene.beside().await);
    let endpoint = scene.endpoint().await;
    let known = store.catalogue_changes(&schema, CatalogueVersion::default(), 10).await.unwrap().version;
    assert_eq!(store.catalogue_changes(&schema, known, 10).await.unwrap().version, known);
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where datname = current_database() and pid <> pg_backend_pid()";
    assert!(beside.number(cut).await > 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.catalogue_changes(&schema, known, 10).await {
            Ok(changes) if changes.version < known => break,
            // The connection was cut, or nobody has noticed yet.
            _ => assert!(Instant::now() < deadline, "it is never told to begin anew"),
        }
        sleep(Duration::from_millis(10)).await;
    }
    let changes = store.catalogue_changes(&schema, CatalogueVersion::default(), 10).await.unwrap();
    assert_eq!(changes.endpoints.iter().map(|one| one.id).collect::<Vec<_>>(), [endpoint.id]);
    assert_eq!(store.catalogue_changes(&schema, changes.version, 10).await.unwrap().version, known);
}

/// One change of one of these endpoints, or a new one, or notes about them.
async fn change(store: &PostgresStore, shared: &[EndpointId], random: &mut Random) {
    let (schema, target) = (Schema::admin(), *random.pick(shared));
    match random.below(6) {
        0 => {
            let endpoint = new_endpoint();
            assert_eq!(store.insert_endpoint(&schema, &endpoint).await.unwrap(), Inserted::New);
            store.insert_subscription(&schema, &new_subscription(&endpoint)).await.unwrap();
            if random.once_in(2) {
                store.delete_endpoint(&schema, endpoint.id, at(1)).await.unwrap();
            }
        }
        1 | 2 => {
            let Some(endpoint) = store.endpoint(&schema, target).await.unwrap() else { return };
            let was_active = endpoint.is_active;
            let next = if was_active { endpoint.deactivated(at(2)) } else { endpoint.activated(at(2)) };
            let updated = store.update_endpoint(&schema, &next).await.unwrap();
            assert_ne!(updated, Updated::TypeDisabled);
        }
        3 => {
            let Some(endpoint) = store.endpoint(&schema, target).await.unwrap() else { return };
            let inserted = store.insert_subscription(&schema, &new_subscription(&endpoint)).await.unwrap();
            assert!(matches!(inserted, Inserted::New | Inserted::EndpointMissing));
        }
        4 if random.once_in(12) => {
            store.delete_endpoint(&schema, target, at(3)).await.unwrap();
        }
        _ => note(store, shared, random).await,
    }
}

/// Notes in an order that is as bad as it gets.
async fn note(store: &PostgresStore, shared: &[EndpointId], random: &mut Random) {
    let schema = Schema::admin();
    let page = PageRequest::first(50);
    let listed = store.subscriptions(&schema, &SubscriptionQuery::default(), page).await.unwrap().items;
    let mut when = || at(i64::try_from(random.below(1000)).unwrap());
    let endpoints = shared.iter().rev().map(|id| (*id, when())).collect();
    let subscriptions = listed.iter().map(|one| (one.id, when())).collect();
    store.note_usage(&schema, Usage { endpoints, subscriptions }).await.unwrap();
}

async fn all_pages<T>(
    list: impl AsyncFn(PageRequest) -> Result<neo_events_store::Page<T>, StoreError>,
) -> Vec<T> {
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let page = list(PageRequest { limit: 7, cursor }).await.unwrap();
        items.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return items;
        }
    }
}

/// Whoever follows the changes, in steps of whatever size, ends up with what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_end_up_with_what_is_there() {
    let scene = Scene::of(3).await;
    let mut shared = Vec::new();
    for _ in 0..6 {
        shared.push(scene.endpoint().await.id);
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut followers = JoinSet::new();
    for (node, limit) in [1, 3, 1000].into_iter().enumerate() {
        let (store, done) = (scene.stores[node].clone(), Arc::clone(&done));
        followers.spawn(async move {
            let mut follower = Follower::default();
            loop {
                let is_last = done.load(Ordering::SeqCst);
                follower.follow(&store, limit).await;
                if is_last {
                    return follower;
                }
                yield_now().await;
            }
        });
    }
    let mut writers = JoinSet::new();
    for task in 0..9 {
        let (store, shared) = (scene.stores[task % 3].clone(), shared.clone());
        let mut random = Random::seeded(u64::try_from(task).unwrap());
        writers.spawn(async move {
            for _ in 0..60 {
                change(&store, &shared, &mut random).await;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    done.store(true, Ordering::SeqCst);

    let (store, schema) = (scene.store(), &scene.schema);
    let endpoints =
        all_pages(async |page| store.endpoints(schema, &EndpointQuery::default(), page).await).await;
    let subscriptions: Vec<Subscription> =
        all_pages(async |page| store.subscriptions(schema, &SubscriptionQuery::default(), page).await).await;
    let live: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.id).collect();
    assert!(subscriptions.iter().all(|one| live.contains(&one.endpoint_id)), "of endpoints that are there");
    while let Some(follower) = followers.join_next().await {
        let follower = follower.unwrap();
        assert_eq!(follower.endpoints.keys().copied().collect::<BTreeSet<_>>(), live);
        for endpoint in &endpoints {
            let known = &follower.endpoints[&endpoint.id];
            assert_eq!((known.revision, known.is_active), (endpoint.revision, endpoint.is_active));
        }
        let known: BTreeSet<_> = follower.subscriptions.keys().copied().collect();
        assert_eq!(known, subscriptions.iter().map(|one| one.id).collect());
    }
    let beside = scene.beside().await;
    invariants::check(&beside).await;
    while store.tend(at(10)).await.unwrap() {}
    invariants::check(&beside).await;
    assert_eq!(beside.number("select count(*) from admin.endpoint_removals").await, 0);
    let secrets = "select count(*) from admin.endpoint_secrets s join admin.endpoints e on e.id = s.endpoint_id \
                   where e.deleted_at is not null";
    assert_eq!(beside.number(secrets).await, 0, "nothing is sealed for who is gone");
}
