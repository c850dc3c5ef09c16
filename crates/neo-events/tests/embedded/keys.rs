//! Tenants and API keys, as an embedding program handles them.

use neo_events::{
    ApiKeyDraft, ApiKeyQuery, Conflict, DeliveryStatus, Error, EventDraft, MasterKey, NeoEvents, PageRequest,
    Passes, Schema, Sources, StartError, TenantDraft, Uuid, maintenance,
};
use neo_events_test_postgres::database;

use crate::{
    receiver::{PATIENCE, Receiver},
    world::World,
};

/// How many nodes refuse to start before one must have had the time to end its session.
const STARTS_MAX: usize = 5;

fn acme() -> TenantDraft {
    TenantDraft { slug: Some("acme".into()), ..TenantDraft::default() }
}

fn named(name: &str) -> ApiKeyDraft {
    ApiKeyDraft { name: name.into(), ..ApiKeyDraft::default() }
}

#[tokio::test]
async fn a_key_opens_its_tenant_and_context_until_it_is_deleted() {
    let world = World::new().await;
    let directory = world.neo.directory();
    let tenant = directory.create_tenant(acme()).await.unwrap();
    assert!(matches!(directory.create_tenant(acme()).await, Err(Error::Conflict(Conflict::Exists))));
    assert!(directory.has_tenant(&tenant.schema).await.unwrap());
    assert!(!directory.has_tenant(&Schema::tenant("nobody").unwrap()).await.unwrap());

    let context_id = Some(Uuid::from_u128(1));
    let draft = ApiKeyDraft { context_id, ..named("ci") };
    let created = directory.create_api_key(tenant.schema.clone(), draft).await.unwrap();
    assert!(!format!("{created:?}").contains(created.text.reveal()));
    let found = directory.authenticate(created.text.reveal()).await.unwrap().unwrap();
    assert_eq!(*found, created.api_key);
    let handle = directory.handle_for(&found);
    assert_eq!((handle.schema(), handle.context_id()), (&tenant.schema, context_id));
    handle.publish(EventDraft::new("a.b", "{}")).await.unwrap();

    directory.delete_api_key(found.id).await.unwrap();
    assert_eq!(directory.authenticate(created.text.reveal()).await.unwrap(), None);
    assert!(matches!(directory.delete_api_key(found.id).await, Err(Error::NotFound("API key"))));
    let nowhere = directory.create_api_key(Schema::tenant("nobody").unwrap(), named("x")).await;
    assert!(matches!(nowhere, Err(Error::Invalid(_))), "{nowhere:?}");
}

#[tokio::test]
async fn last_used_times_outlive_a_shutdown() {
    let world = World::new().await;
    let directory = world.neo.directory();
    let created = directory.create_api_key(Schema::admin(), named("ci")).await.unwrap();
    directory.authenticate(created.text.reveal()).await.unwrap().unwrap();
    drop(directory);
    let world = world.restarted().await;
    let keys = world.neo.directory().api_keys(&ApiKeyQuery::default(), PageRequest::first(10)).await.unwrap();
    assert!(keys.items[0].last_used_at.is_some());
    let found = world.neo.directory().authenticate(created.text.reveal()).await.unwrap();
    assert_eq!(found.map(|key| key.id), Some(created.api_key.id));
}

/// A node that refuses to start is gone at once: nobody has to wait until it was silent for long enough. It does not take
/// long over it, so that on a machine that has other things to do its session may be left, but not each time.
#[tokio::test]
async fn a_node_that_does_not_start_leaves_no_session() {
    for _ in 0..STARTS_MAX {
        if sessions_after_a_start_in_vain().await == 0 {
            return;
        }
    }
    panic!("of {STARTS_MAX} nodes none ended its session");
}

async fn sessions_after_a_start_in_vain() -> usize {
    let database = database().await;
    let node = || {
        NeoEvents::postgres(database.url()).master_keys(vec![MasterKey::generate(&Sources::system())]).start()
    };
    let world = World { neo: node().await.unwrap(), folder: tempfile::tempdir().unwrap() };
    world.endpoint("http://127.0.0.1:9/").await;
    world.shutdown(PATIENCE).await;
    let refused = node().await.map(drop).unwrap_err();
    assert!(matches!(refused, StartError::Keyring(_)), "{refused:?}");
    let facts = maintenance::inspect_postgres(&database.url()).await.unwrap();
    facts.nodes.len()
}

/// While a new master key is being given to one node after the other, whoever does not have it yet leaves deliveries to be
/// tried again.
#[tokio::test]
async fn a_secret_under_a_key_that_is_missing_here_is_no_reason_to_give_up() {
    let database = database().await;
    let [old, new] = [(); 2].map(|()| MasterKey::generate(&Sources::system()));
    let node = |keys: &[&MasterKey], passes| {
        let keys = keys.iter().map(|key| (*key).clone()).collect();
        NeoEvents::postgres(database.url()).master_keys(keys).passes(passes).start()
    };
    let before = node(&[&old], Passes::ALL).await.unwrap();
    let restarted = node(&[&new, &old], Passes::NONE).await.unwrap();
    let world = World { neo: restarted, folder: tempfile::tempdir().unwrap() };
    let receiver = Receiver::start().await;
    world.endpoint(&receiver.url).await;
    world.publish("{}").await;
    let history = world.only_delivery(DeliveryStatus::Retrying).await;
    assert_eq!(history.newest_attempts[0].error_code.as_deref(), Some("secret_unreadable"));
    assert!(receiver.received().is_empty());
    before.shutdown(PATIENCE).await;
    let last = node(&[&new, &old], Passes::ALL).await.unwrap();
    receiver.wait_for(1).await;
    drop(last);
}
