//! Publishing the same thing from several nodes, and from SQL, at the same time.

use neo_events_domain::{Uuid, event::EventDraft, tenant::Tenant};
use neo_events_store::{
    AggregateQuery, Appended, Arrival, CatalogueVersion, DirectDelivery, DirectDispatch, EventLog, Inserted,
    PageRequest, Tenants, WorkQueue,
};
use neo_events_store_postgres::{
    PostgresStore,
    tokio_postgres::{error::SqlState, types::ToSql},
};
use tokio::task::JoinSet;

use crate::{
    invariants,
    scene::{Beside, Scene, at, draft, entropy, event, id, new_delivery},
};

/// What all of them are told, and how long nobody is: everybody begins together.
async fn all_at_once<T: Send + 'static>(
    of: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut running: JoinSet<T> = of.into_iter().collect();
    let mut answers = Vec::new();
    while let Some(answer) = running.join_next().await {
        answers.push(answer.unwrap());
    }
    answers
}

async fn guarded(store: PostgresStore, aggregate_id: Uuid, expected_version: i64) -> Appended {
    let guarded =
        EventDraft { aggregate_id: Some(aggregate_id), expected_version: Some(expected_version), ..draft() };
    store.append(&"admin".parse().unwrap(), vec![event(guarded)], at(0)).await.unwrap()[0]
}

/// The same from SQL.
async fn guarded_in_sql(url: String, aggregate_id: Uuid, expected_version: i64) -> Appended {
    let statement =
        "select admin.publish_event('user.created', '{}', aggregate_id => $1, expected_version => $2)";
    match Beside::connect(&url).await.query_one(statement, &[&aggregate_id, &expected_version]).await {
        Ok(_) => Appended::Stored { created_at: at(0), aggregate_version: 0 },
        Err(stale) => {
            let said = stale.as_db_error().unwrap();
            assert_eq!(*said.code(), SqlState::T_R_SERIALIZATION_FAILURE, "{said:?}");
            let newest = said.detail().unwrap().strip_prefix("newest_version=").unwrap();
            Appended::StaleVersion { newest: newest.parse().unwrap() }
        }
    }
}

/// However many nodes publish with the version that they all read: one of them wins, and versions have no gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_guarded_publish_wins_each_version() {
    const ROUNDS: u32 = 12;
    let scene = Scene::of(2).await;
    let aggregate_id = id::<()>(0).uuid();
    for round in 0..ROUNDS {
        let expected = i64::from(round);
        let mut contenders = JoinSet::new();
        for n in 0..8 {
            contenders.spawn(guarded(scene.stores[n % 2].clone(), aggregate_id, expected));
        }
        for _ in 0..2 {
            contenders.spawn(guarded_in_sql(scene.database.url(), aggregate_id, expected));
        }
        let mut winners = 0;
        while let Some(appended) = contenders.join_next().await {
            match appended.unwrap() {
                Appended::Stored { .. } => winners += 1,
                Appended::StaleVersion { newest } => assert_eq!(newest, round + 1),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(winners, 1, "version {}", round + 1);
    }
    let query = AggregateQuery::of("user", aggregate_id);
    let events =
        scene.store().aggregate_events(&scene.schema, &query, PageRequest::first(100)).await.unwrap();
    let versions: Vec<_> = events.items.iter().map(|stored| stored.event.aggregate_version).collect();
    assert_eq!(versions, (1..=ROUNDS).collect::<Vec<_>>());
    invariants::check(&scene.beside().await).await;
}

/// A given id is published once, whoever else publishes it at the same moment, in the same call too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_stored_once_whoever_publishes_it() {
    let scene = Scene::of(2).await;
    for round in 0..10 {
        let given = id::<()>(0).uuid();
        let of = |text: &str| event(EventDraft { id: Some(given), ..EventDraft::new("user.created", text) });
        let calls = (0..8).map(|n| {
            let (store, schema) = (scene.stores[n % 2].clone(), scene.schema.clone());
            // Every other call says something else under the same id; each says its own thing twice.
            let text = if n % 4 < 2 { "{\"a\":1}" } else { "{\"a\":2}" };
            let events = vec![event(draft()), of(text), of(text), event(draft())];
            async move { (text, store.append(&schema, events, at(0)).await.unwrap()) }
        });
        let mut stored = Vec::new();
        let (mut duplicates, mut conflicts) = (Vec::new(), Vec::new());
        for (text, appended) in all_at_once(calls).await {
            assert!(matches!(appended[0], Appended::Stored { .. }), "{appended:?}");
            assert!(matches!(appended[3], Appended::Stored { .. }), "{appended:?}");
            for of_id in &appended[1..3] {
                match of_id {
                    Appended::Stored { .. } => stored.push(text),
                    Appended::Duplicate { .. } => duplicates.push(text),
                    Appended::IdConflict => conflicts.push(text),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(stored.len(), 1, "round {round}");
        assert!(duplicates.iter().all(|text| *text == stored[0]) && duplicates.len() == 7);
        assert!(conflicts.iter().all(|text| *text != stored[0]) && conflicts.len() == 8);
        let event = scene.store().event(&scene.schema, id_of(given)).await.unwrap().unwrap().event;
        assert_eq!(event.event_data.as_str(), stored[0]);
    }
    let beside = scene.beside().await;
    assert_eq!(beside.number("select count(*) from admin.events").await, 10 * (8 * 2 + 1));
    invariants::check(&beside).await;
}

/// Somebody publishes again what is there, with its dispatch, while another session is about to write its deliveries:
/// no lock of that session is waited for, and nothing was written before it was found out that the event is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_event_is_found_out_before_anything_else_is_written() {
    let scene = Scene::of(1).await;
    let (store, endpoint) = (scene.store(), scene.endpoint().await);
    let given = event(EventDraft { id: Some(id::<()>(0).uuid()), ..draft() });
    store.append(&scene.schema, vec![given.clone()], at(0)).await.unwrap();
    let mut beside = scene.beside().await;
    let version =
        beside.number("select catalogue_version from admin.tenants where schema_name = 'admin'").await;

    let elsewhere = beside.transaction().await;
    let delivery = new_delivery(&endpoint);
    let written = "insert into admin.deliveries (
            id, event_id, endpoint_id, trigger, status, due_at, current_attempt, max_attempts, max_attempts_reached,
            max_retry_attempts, base_backoff_seconds, backoff_multiplier, subscription_ids, created_at
        )
        values ($1, $2, $3, 'event', 'pending', now(), 0, 1, false, 0, 1, 1, '{}', now())";
    let ids: [&(dyn ToSql + Sync); 3] = [&id::<()>(0).uuid(), &given.id.uuid(), &endpoint.id.uuid()];
    elsewhere.execute(written, &ids).await.unwrap();

    let dispatch = DirectDispatch {
        catalogue_version: CatalogueVersion(version.unsigned_abs()),
        deliveries: vec![DirectDelivery { delivery, is_taken: true }],
        lease_until: at(60),
        hand_over: Box::new(|leases| assert!(leases.is_empty())),
    };
    let arrivals = vec![Arrival { event: given, dispatch: Some(dispatch) }];
    let appended = store.append_arrivals(&scene.schema, arrivals, at(1)).await.unwrap();
    assert!(matches!(appended[..], [Appended::Duplicate { .. }]), "{appended:?}");
    elsewhere.rollback().await.unwrap();
    assert_eq!(
        beside.number("select pg_relation_size('admin.delivery_queue')").await,
        0,
        "not even a dead row"
    );
}

fn id_of<Kind>(uuid: Uuid) -> neo_events_domain::id::Id<Kind> {
    neo_events_domain::id::Id::from_uuid(uuid)
}

/// Of many nodes that make a tenant, one makes it; all of them can publish in it at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_makes_a_tenant_and_all_can_use_it() {
    let scene = Scene::of(4).await;
    for slug in ["one", "two", "three"] {
        let tenant =
            Tenant { schema: format!("tenant_{slug}").parse().unwrap(), name: None, created_at: at(0) };
        let makers = (0..8).map(|n| {
            let (store, tenant) = (scene.stores[n % 4].clone(), tenant.clone());
            async move {
                let inserted = store.create_tenant(&tenant).await.unwrap();
                let event = draft().validate(at(0), entropy()).unwrap();
                let appended = store.append(&tenant.schema, vec![event], at(0)).await.unwrap();
                assert!(matches!(appended[0], Appended::Stored { .. }));
                inserted
            }
        });
        let inserted = all_at_once(makers).await;
        assert_eq!(inserted.iter().filter(|one| **one == Inserted::New).count(), 1, "{inserted:?}");
    }
    let beside = scene.beside().await;
    assert_eq!(beside.number("select count(*) from tenant_two.events").await, 8);
    assert_eq!(beside.number("select count(*) from admin.owed_dispatches").await, 24);
    invariants::check(&beside).await;
}
