//! Publishing in transactions of the caller's own on PostgreSQL, with each driver.

use neo_events::{
    Conflict, EndpointDraft, Error, EventDraft, EventQuery, EventTypeDraft, NeoEvents, PageRequest,
    Published, StoreError, SubscriptionDraft, Tenant, TenantDraft, Timestamp, Uuid, rusqlite,
    tokio_postgres::{self, NoTls},
};
use neo_events_test_postgres::{Database, database, execute};
use sqlx_core::{connection::Connection, executor::Executor};
use sqlx_postgres::PgConnection;
use tokio::task::JoinSet;

use crate::{receiver::Receiver, world::World};

const DRIVERS: [Driver; 2] = [Driver::TokioPostgres, Driver::Sqlx];

#[derive(Debug, Clone, Copy)]
enum Driver {
    TokioPostgres,
    Sqlx,
}

/// A connection of the embedding program's own.
enum Session {
    TokioPostgres { client: tokio_postgres::Client, _connection: JoinSet<()> },
    Sqlx(PgConnection),
}

impl Session {
    async fn open(driver: Driver, url: &str) -> Self {
        match driver {
            Driver::TokioPostgres => {
                let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
                let mut driving = JoinSet::new();
                driving.spawn(async move { drop(connection.await) });
                Self::TokioPostgres { client, _connection: driving }
            }
            Driver::Sqlx => Self::Sqlx(PgConnection::connect(url).await.unwrap()),
        }
    }

    async fn run(&mut self, statement: &'static str) -> Result<(), String> {
        match self {
            Self::TokioPostgres { client, .. } => {
                client.batch_execute(statement).await.map_err(|error| format!("{error:?}"))
            }
            Self::Sqlx(connection) => {
                connection.execute(statement).await.map(drop).map_err(|error| format!("{error:?}"))
            }
        }
    }

    async fn publish(&mut self, tenant: &Tenant, drafts: Vec<EventDraft>) -> Result<Vec<Published>, Error> {
        match self {
            Self::TokioPostgres { client, .. } => tenant.publish_in_postgres(client, drafts).await,
            Self::Sqlx(connection) => tenant.publish_in_sqlx(connection, drafts).await,
        }
    }
}

async fn start(database: &Database) -> World {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("master.key");
    let neo = NeoEvents::postgres(database.url()).key_file(key_file).start().await.unwrap();
    World { neo, folder }
}

fn numbered(number: u32) -> Vec<EventDraft> {
    vec![EventDraft::new("invoice.issued", format!("{{\"number\":{number}}}"))]
}

fn guarded(expected: i64) -> EventDraft {
    EventDraft {
        aggregate_id: Some(Uuid::from_u128(5)),
        expected_version: Some(expected),
        ..EventDraft::new("order.paid", "{}")
    }
}

#[tokio::test]
async fn a_commit_delivers_and_a_rollback_does_not() {
    let database = database().await;
    let (world, receiver) = (start(&database).await, Receiver::start().await);
    world.endpoint(&receiver.url).await;
    let tenant = world.tenant();
    execute(&database.url(), "create table invoices (number integer)").await;
    let mut committed = Vec::new();
    for driver in DRIVERS {
        let mut session = Session::open(driver, &database.url()).await;
        for (number, end) in [(1, "rollback"), (2, "commit")] {
            session.run("begin; insert into invoices values (1)").await.unwrap();
            let published = session.publish(&tenant, numbered(number)).await.unwrap().remove(0);
            assert!(
                matches!(tenant.event(published.id).await, Err(Error::NotFound(_))),
                "{driver:?}: unseen"
            );
            session.run(end).await.unwrap();
            tenant.announce();
            if end == "commit" {
                let stored = tenant.event(published.id).await.unwrap();
                assert_eq!(stored.event.created_at, published.created_at);
                committed.push(published.id.to_string());
            }
        }
    }
    let requests = receiver.wait_for(committed.len()).await;
    let mut delivered: Vec<_> = requests.iter().map(|request| request.id().to_owned()).collect();
    delivered.sort();
    committed.sort();
    assert_eq!(delivered, committed);
    assert_eq!(tenant.count_events(&EventQuery::default()).await.unwrap(), 2);
}

/// Somebody has locked a tenant's deliveries, to make an index perhaps: what others owe is dispatched meanwhile, and what
/// the tenant owes as soon as that is over.
#[tokio::test]
async fn a_tenant_whose_tables_are_locked_does_not_hold_up_the_others() {
    let database = database().await;
    let world = start(&database).await;
    let (directory, mut receivers, mut tenants) = (world.neo.directory(), Vec::new(), Vec::new());
    for slug in ["locked", "free"] {
        let draft = TenantDraft { slug: Some(slug.into()), ..TenantDraft::default() };
        let tenant = world.neo.tenant(directory.create_tenant(draft).await.unwrap().schema);
        let receiver = Receiver::start().await;
        let endpoint =
            tenant.create_endpoint(EndpointDraft::standard("r", receiver.url.clone()), None).await.unwrap();
        let all = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
        tenant.create_subscription(endpoint.endpoint.id, all).await.unwrap();
        tenants.push(tenant);
        receivers.push(receiver);
    }
    let mut locking = Session::open(Driver::TokioPostgres, &database.url()).await;
    locking.run("begin; lock table tenant_locked.deliveries in share mode").await.unwrap();
    let mut publishing = Session::open(Driver::TokioPostgres, &database.url()).await;
    for tenant in &tenants {
        for number in 0..3 {
            publishing.publish(tenant, numbered(number)).await.unwrap();
            tenant.announce();
        }
    }
    receivers[1].wait_for(3).await;
    // Also what comes while the other one is being tried again and again.
    publishing.publish(&tenants[1], numbered(4)).await.unwrap();
    tenants[1].announce();
    receivers[1].wait_for(4).await;
    assert!(receivers[0].received().is_empty());
    locking.run("commit").await.unwrap();
    receivers[0].wait_for(3).await;
}

#[tokio::test]
async fn transactions_of_either_driver_are_taken_as_they_are() {
    let database = database().await;
    let world = start(&database).await;
    let tenant = world.tenant();
    let (mut client, connection) = tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(async move { drop(connection.await) });
    let transaction = client.transaction().await.unwrap();
    tenant.publish_in_postgres(&transaction, numbered(1)).await.unwrap();
    transaction.commit().await.unwrap();

    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    tenant.publish_in_sqlx(&mut transaction, numbered(2)).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(tenant.count_events(&EventQuery::default()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_transaction_that_stays_open_delays_only_its_own_events() {
    let database = database().await;
    let (world, receiver) = (start(&database).await, Receiver::start().await);
    world.endpoint(&receiver.url).await;
    let tenant = world.tenant();
    for driver in DRIVERS {
        let before = receiver.received().len();
        let mut patient = Session::open(driver, &database.url()).await;
        patient.run("begin").await.unwrap();
        let late = patient.publish(&tenant, numbered(1)).await.unwrap().remove(0);
        let mut quick = Session::open(driver, &database.url()).await;
        for number in 2..5 {
            quick.publish(&tenant, numbered(number)).await.unwrap();
            world.publish("{}").await;
        }
        let others = receiver.wait_for(before + 6).await;
        assert!(others.iter().all(|request| request.id() != late.id.to_string()));
        patient.run("commit").await.unwrap();
        let all = receiver.wait_for(before + 7).await;
        assert_eq!(all[before + 6].id(), late.id.to_string());
    }
}

#[tokio::test]
async fn a_publisher_needs_two_rights() {
    let database = database().await;
    let world = start(&database).await;
    let tenant = world.tenant();
    let role = database.create_role("publisher", "").await;
    for driver in DRIVERS {
        let mut session = Session::open(driver, &role.url).await;
        let refused = session.publish(&tenant, numbered(1)).await;
        assert!(matches!(refused, Err(Error::Store(StoreError::Broken(_)))), "{driver:?}: {refused:?}");
        let grants = format!(
            "grant usage on schema admin to {0}; grant execute on function admin.record_event to {0}",
            role.name
        );
        execute(&database.url(), &grants).await;
        session.publish(&tenant, numbered(1)).await.unwrap();
        session.run("select from admin.events").await.unwrap_err();
        execute(&database.url(), &grants.replace("grant", "revoke").replace(" to ", " from ")).await;
    }
    assert_eq!(tenant.count_events(&EventQuery::default()).await.unwrap(), 2);
}

#[tokio::test]
async fn refusals_are_those_of_publish_and_savepoints_help() {
    let database = database().await;
    let world = start(&database).await;
    let tenant = world.tenant();
    let disabled = EventTypeDraft {
        event_type: "order.lost".into(),
        display_name: "n".into(),
        is_enabled: Some(false),
        ..EventTypeDraft::default()
    };
    tenant.create_event_type(disabled).await.unwrap();
    let id = tenant.publish(EventDraft::new("order.placed", "{}")).await.unwrap().id.uuid();
    tenant.publish(guarded(0)).await.unwrap();
    let last = EventDraft {
        aggregate_id: Some(Uuid::from_u128(6)),
        aggregate_version: Some(999_999),
        ..EventDraft::new("order.paid", "{}")
    };
    tenant.publish(last).await.unwrap();
    let refused = [
        EventDraft { id: Some(id), ..EventDraft::new("order.placed", "{ }") },
        guarded(0),
        EventDraft { aggregate_id: Some(Uuid::from_u128(6)), ..guarded(7) },
        EventDraft::new("order.lost", "{}"),
    ];
    for driver in DRIVERS {
        let mut session = Session::open(driver, &database.url()).await;
        session.run("begin").await.unwrap();
        for draft in &refused {
            let expected = tenant.publish(draft.clone()).await.unwrap_err().to_string();
            session.run("savepoint here").await.unwrap();
            let error = session.publish(&tenant, vec![draft.clone()]).await.unwrap_err();
            assert_eq!(error.to_string(), expected, "{driver:?}");
            session.run("select").await.unwrap_err();
            session.run("rollback to here").await.unwrap();
        }
        let both = vec![EventDraft::new("a.b", "{}"), EventDraft::new("Bad", "{}")];
        let error = session.publish(&tenant, both).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        let many = vec![EventDraft::new("a.b", "{}"); neo_events::BATCH_EVENTS_MAX + 1];
        assert!(matches!(session.publish(&tenant, many).await, Err(Error::Invalid(_))));
        session.run("select").await.expect("what was never sent aborts nothing");
        session.run("commit").await.unwrap();
    }
    assert_eq!(tenant.count_events(&EventQuery::default()).await.unwrap(), 3);
}

#[tokio::test]
async fn events_of_one_call_follow_each_other_and_stay_as_they_were_given() {
    let database = database().await;
    let world = start(&database).await;
    let tenant = world.tenant();
    let whole = EventDraft {
        event_name: Some("Käufer ✓".into()),
        aggregate_type: Some("Account".into()),
        aggregate_id: Some(Uuid::from_u128(9)),
        aggregate_version: Some(3),
        event_metadata: Some("{ \"ip\" : \"::1\"}".into()),
        correlation_id: Some(Uuid::from_u128(1)),
        causation_id: Some(Uuid::from_u128(2)),
        triggered_by_user_id: Some(Uuid::from_u128(3)),
        context_id: Some(Uuid::from_u128(4)),
        occurred_at: Some("0001-01-01T12:00:00.000001Z".parse::<Timestamp>().unwrap()),
        ..EventDraft::new("user.created", "{\"b\": 1.50, \"a\\u00e9\" : \"\\\\ \\\"ä\"}")
    };
    for (number, driver) in DRIVERS.into_iter().enumerate() {
        let aggregate = Uuid::from_u128(100 + number as u128);
        let in_turn = |expected| EventDraft { aggregate_id: Some(aggregate), ..guarded(expected) };
        let mut session = Session::open(driver, &database.url()).await;
        let drafts = vec![in_turn(0), whole.clone(), in_turn(1), in_turn(2)];
        let published = session.publish(&tenant, drafts).await.unwrap();
        assert_eq!(published.iter().map(|event| event.aggregate_version).collect::<Vec<_>>(), [1, 3, 2, 3]);
        let stored = tenant.event(published[1].id).await.unwrap().event;
        let draft = EventDraft { id: Some(published[1].id.uuid()), ..whole.clone() };
        let again = session.publish(&tenant, vec![draft.clone(), draft]).await.unwrap();
        for again in again {
            assert!(again.duplicate);
            assert_eq!((again.id, again.created_at), (stored.id, stored.created_at));
        }
        assert_eq!(stored.event_data.as_str(), whole.event_data);
        assert_eq!(Some(stored.event_metadata.as_str()), whole.event_metadata.as_deref());
        assert_eq!(stored.event_name, whole.event_name);
        assert_eq!(Some(stored.occurred_at), whole.occurred_at);
        let references = [stored.correlation_id, stored.causation_id, stored.triggered_by_user_id];
        assert_eq!(references, [1, 2, 3].map(|n| Some(Uuid::from_u128(n))));
        assert_eq!((stored.aggregate_type.as_str(), stored.context_id), ("account", whole.context_id));
    }
}

#[tokio::test]
async fn handles_of_a_context_publish_in_it_alone() {
    let database = database().await;
    let world = start(&database).await;
    let ours = world.tenant().in_context(Uuid::from_u128(1));
    for driver in DRIVERS {
        let mut session = Session::open(driver, &database.url()).await;
        let published = session.publish(&ours, numbered(1)).await.unwrap().remove(0);
        assert_eq!(ours.event(published.id).await.unwrap().event.context_id, ours.context_id());
        let elsewhere = EventDraft { context_id: Some(Uuid::from_u128(2)), ..EventDraft::new("a.b", "{}") };
        let Err(Error::Invalid(violations)) = session.publish(&ours, vec![elsewhere]).await else { panic!() };
        assert_eq!(violations.iter().next().unwrap().pointer, "/context_id");
    }
    let all = world.tenant().events(&EventQuery::default(), PageRequest::first(10)).await.unwrap().items;
    assert_eq!(all.len(), 2);
}

#[tokio::test]
async fn a_connection_to_elsewhere_is_refused() {
    let (database, elsewhere) = (database().await, neo_events_test_postgres::database().await);
    let (world, on_a_file) = (start(&database).await, World::new().await);
    for driver in DRIVERS {
        let mut session = Session::open(driver, &elsewhere.url()).await;
        let refused = session.publish(&world.tenant(), numbered(1)).await;
        assert!(
            matches!(refused, Err(Error::Store(StoreError::UnknownSchema(_)))),
            "{driver:?}: {refused:?}"
        );
        session.run("create schema admin").await.unwrap();
        let refused = session.publish(&world.tenant(), numbered(1)).await;
        assert!(
            matches!(refused, Err(Error::Store(StoreError::ForeignTransaction))),
            "{driver:?}: {refused:?}"
        );
        session.run("drop schema admin").await.unwrap();

        let mut session = Session::open(driver, &database.url()).await;
        let refused = session.publish(&on_a_file.tenant(), numbered(1)).await;
        assert!(
            matches!(refused, Err(Error::Store(StoreError::ForeignTransaction))),
            "{driver:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn how_far_an_aggregate_of_another_context_is_stays_unknown() {
    let database = database().await;
    let world = start(&database).await;
    let [ours, theirs] = [1, 2].map(|context| world.tenant().in_context(Uuid::from_u128(context)));
    for expected in 0..3 {
        theirs.publish(guarded(expected)).await.unwrap();
    }
    for driver in DRIVERS {
        let mut session = Session::open(driver, &database.url()).await;
        let hidden = session.publish(&ours, vec![guarded(1)]).await;
        assert!(matches!(hidden, Err(Error::Invalid(_))), "{driver:?}: {hidden:?}");
        let stale = session.publish(&theirs, vec![guarded(1)]).await;
        let is_told = matches!(stale, Err(Error::Conflict(Conflict::StaleVersion { newest: 3 })));
        assert!(is_told, "{driver:?}: {stale:?}");
        let numbered_by_another = session.publish(&ours, vec![versioned(41)]).await;
        assert!(matches!(numbered_by_another, Err(Error::Invalid(_))), "{driver:?}: {numbered_by_another:?}");
    }
    keeps_streams_to_their_contexts([ours, theirs], 3).await;
}

#[tokio::test]
async fn how_far_an_aggregate_is_another_context_does_not_change() {
    let world = World::new().await;
    let tenants = [1, 2].map(|context| world.tenant().in_context(Uuid::from_u128(context)));
    for expected in 0..3 {
        tenants[1].publish(guarded(expected)).await.unwrap();
    }
    let (ours, database) = (tenants[0].clone(), world.database());
    let in_a_transaction = tokio::task::spawn_blocking(move || {
        let mut connection = rusqlite::Connection::open(database).unwrap();
        let transaction = connection.transaction().unwrap();
        ours.publish_in(&transaction, vec![versioned(41)])
    });
    let refused = in_a_transaction.await.unwrap();
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    keeps_streams_to_their_contexts(tenants, 3).await;
}

fn versioned(version: i64) -> EventDraft {
    EventDraft { expected_version: None, aggregate_version: Some(version), ..guarded(0) }
}

/// Whoever may not see a stream must not say which version is its newest.
async fn keeps_streams_to_their_contexts([ours, theirs]: [Tenant; 2], newest: i64) {
    // Not even the first version: whoever has an event there would count as one of the stream's own.
    let unversioned = EventDraft { aggregate_version: None, ..versioned(1) };
    for draft in [unversioned, versioned(1), versioned(41), guarded(newest)] {
        let refused = ours.publish(draft).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    // Nor by an id of its own choice, after which an event without an aggregate is named.
    let owned = theirs.publish(EventDraft::new("order.paid", "{}")).await.unwrap().id.uuid();
    theirs.publish(EventDraft { aggregate_id: Some(owned), ..versioned(1) }).await.unwrap();
    let named_after = EventDraft {
        id: Some(owned),
        aggregate_id: None,
        aggregate_type: Some("order".into()),
        ..versioned(41)
    };
    let refused = ours.publish(named_after).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let elsewhere = |version| EventDraft { aggregate_id: Some(Uuid::from_u128(6)), ..versioned(version) };
    let answers = ours.publish_batch(vec![versioned(999_999), elsewhere(7), elsewhere(8)]).await.unwrap();
    assert!(matches!(&answers[..], [Err(Error::Invalid(_)), Ok(_), Ok(_)]), "{answers:?}");
    ours.publish(elsewhere(9)).await.expect("its own");
    theirs.publish(versioned(newest + 5)).await.expect("its own");
    let next = theirs.publish(guarded(newest + 5)).await.unwrap();
    assert_eq!(i64::from(next.aggregate_version), newest + 6);
}
