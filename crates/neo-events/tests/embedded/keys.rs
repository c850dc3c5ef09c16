//! Tenants and API keys, as an embedding program handles them.

use std::{ops::Deref, time::Duration};

use neo_events::{
    ApiKeyDraft, ApiKeyQuery, Conflict, DeliveryStatus, Error, EventDraft, MasterKey, NeoEvents, PageRequest,
    Passes, Schema, Sources, StartError, TenantDraft, Uuid, maintenance,
    tokio_postgres::{self, NoTls},
};
use neo_events_test_postgres::{Database, database};
use tokio::task::JoinSet;

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

/// Anybody can bring a key that nobody has: however many do, the database is asked two such questions at once, and whoever
/// is known does not stand behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_nobody_has_are_looked_up_two_at_a_time() {
    let (database, folder) = (database().await, tempfile::tempdir().unwrap());
    let neo = NeoEvents::postgres(database.url()).key_file(folder.path().join("key")).start().await.unwrap();
    let directory = neo.directory();
    let known = directory.create_api_key(Schema::admin(), named("known")).await.unwrap();
    let known = known.text.reveal().to_owned();
    assert!(directory.authenticate(&known).await.unwrap().is_some());
    // Then it is looked up again.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (locking, beside) = (connect(&database).await, connect(&database).await);
    locking.batch_execute("begin; lock table admin.api_keys in access exclusive mode").await.unwrap();
    let blocked = async || -> i64 {
        let blocked = "select count(*) from pg_stat_activity
                       where wait_event_type = 'Lock' and datname = current_database()";
        beside.query_one(blocked, &[]).await.unwrap().get(0)
    };
    let ask = |text: String| {
        let directory = directory.clone();
        async move {
            loop {
                // A lock is not waited for for ever.
                match directory.authenticate(&text).await {
                    Ok(found) => return found.is_some(),
                    Err(Error::Store(error)) if error.is_transient() => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    };
    let mut asking = JoinSet::new();
    for number in 10..40 {
        asking.spawn(ask(format!("{}{number}", &known[..known.len() - 2])));
    }
    let until = async |count: i64| {
        let waiting = async {
            while blocked().await < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("they get to the lock");
    };
    until(2).await;
    for _ in 0..20 {
        assert!(blocked().await <= 2);
        neo.directory().has_tenant(&Schema::admin()).await.unwrap();
    }
    let mut known = Box::pin(ask(known));
    assert!(futures_util::poll!(&mut known).is_pending());
    until(3).await;
    locking.batch_execute("rollback").await.unwrap();
    assert!(known.await);
    while let Some(found) = asking.join_next().await {
        assert!(!found.unwrap());
    }
    neo.shutdown(PATIENCE).await;
}

async fn connect(database: &Database) -> Client {
    let (client, connection) = tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
    Client { client, _connection: JoinSet::from_iter([async move { drop(connection.await) }]) }
}

/// A connection of the test's own, closed when dropped.
struct Client {
    client: tokio_postgres::Client,
    _connection: JoinSet<()>,
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
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
