//! Publishing: duplicates, conflicts, versions, batches, and the caller's own transaction.

use std::{
    pin::pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use neo_events::{
    Clock, Conflict, EndpointDraft, Error, EventDraft, EventQuery, MasterKey, NeoEvents, PageRequest, Schema,
    SignedDuration, Sources, StoreError, SubscriptionDraft, Tenant, TenantDraft, Uuid, domain::id::EventId,
    rusqlite,
};
use neo_events_test_postgres::database;

use crate::{
    receiver::{PATIENCE, Receiver},
    world::{JumpingClock, World},
};

fn given(id: Uuid, data: &str) -> EventDraft {
    EventDraft { id: Some(id), ..EventDraft::new("user.created", data) }
}

fn fresh_id() -> Uuid {
    let sources = Sources::system();
    EventId::new(sources.now(), sources.bytes()).uuid()
}

#[tokio::test]
async fn publishing_twice_is_one_event() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver.url).await;
    let id = fresh_id();
    let first = world.tenant().publish(given(id, r#"{"a":1}"#)).await.unwrap();
    let again = world.tenant().publish(given(id, r#"{"a":1}"#)).await.unwrap();
    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!(first.created_at, again.created_at);
    let other = world.tenant().publish(given(id, r#"{"a": 1}"#)).await;
    assert!(matches!(other, Err(Error::Conflict(Conflict::IdReused))), "other bytes are other content");
    receiver.wait_for(1).await;
    assert_eq!(world.tenant().count_events(&EventQuery::default()).await.unwrap(), 1);
    assert_eq!(world.deliveries().await.len(), 1);
}

#[tokio::test]
async fn one_of_many_concurrent_publishers_wins_a_version() {
    let world = World::new().await;
    let order = Uuid::from_u128(1);
    let draft = move |expected| EventDraft {
        aggregate_id: Some(order),
        expected_version: Some(expected),
        ..EventDraft::new("order.paid", "{}")
    };
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let tenant = world.tenant();
        publishers.spawn(async move { tenant.publish(draft(0)).await });
    }
    let answers = publishers.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let stale = |answer: &Result<_, Error>| {
        matches!(answer, Err(Error::Conflict(Conflict::StaleVersion { newest: 1 })))
    };
    assert_eq!(answers.iter().filter(|answer| stale(answer)).count(), 15);
    assert_eq!(world.tenant().next_version("Order", order).await.unwrap(), 2);
    assert_eq!(world.tenant().publish(draft(1)).await.unwrap().aggregate_version, 2);
    let stream = world.tenant().aggregate_events("order", order, 0, PageRequest::first(10)).await.unwrap();
    assert_eq!(stream.items.iter().map(|stored| stored.event.aggregate_version).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_batch_answers_for_each_item() {
    let world = World::new().await;
    let id = fresh_id();
    let drafts =
        vec![given(id, "{}"), EventDraft::new("Bad", "{}"), given(id, "{}"), given(id, r#"{"b":1}"#)];
    let answers = world.tenant().publish_batch(drafts).await.unwrap();
    assert!(matches!(&answers[0], Ok(published) if !published.duplicate));
    assert!(matches!(&answers[1], Err(Error::Invalid(_))));
    assert!(matches!(&answers[2], Ok(published) if published.duplicate));
    assert!(matches!(&answers[3], Err(Error::Conflict(Conflict::IdReused))));
    let many = vec![EventDraft::new("a.b", "{}"); neo_events::BATCH_EVENTS_MAX + 1];
    assert!(matches!(world.tenant().publish_batch(many).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn pages_of_large_events_are_short_and_complete() {
    let world = World::new().await;
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(100_000));
    for _ in 0..2 {
        let answers =
            world.tenant().publish_batch(vec![EventDraft::new("a.b", large.clone()); 100]).await.unwrap();
        assert!(answers.iter().all(Result::is_ok));
    }
    let mut pages = world.tenant().event_pages(EventQuery::default(), 1000);
    let mut sizes = vec![];
    while let Some(page) = pages.next().await.unwrap() {
        sizes.push(page.len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), 200);
    assert!(sizes.iter().all(|size| *size <= 84), "{sizes:?}: eight MiB a page");
}

/// An export that met a slow database once must not look complete.
#[tokio::test]
async fn a_page_that_nobody_waited_for_is_asked_for_again() {
    let world = World::new().await;
    world.publish("{}").await;
    let tenant = world.tenant();
    // The file's thread may answer before the first look at it: then nothing was left.
    let left_waiting = |_| {
        let mut pages = tenant.event_pages(EventQuery::default(), 10);
        let first_look = pin!(pages.next()).poll(&mut Context::from_waker(Waker::noop()));
        first_look.is_pending().then_some(pages)
    };
    let mut pages = (0..10_000).find_map(left_waiting).expect("one of many is not there at once");
    assert_eq!(pages.next().await.unwrap().map(|page| page.len()), Some(1));
    assert_eq!(pages.next().await.unwrap(), None);
}

/// Nothing guards a version unless the publisher asks: a whole backlog may have the same one.
async fn reads_a_large_aggregate_in_short_pages(whole: &Tenant) {
    const AGGREGATE: Uuid = Uuid::from_u128(7);
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(100_000));
    let bound = whole.in_context(Uuid::from_u128(1));
    let draft = EventDraft { aggregate_id: Some(AGGREGATE), ..EventDraft::new("order.placed", large) };
    let mut published = vec![];
    for _ in 0..4 {
        let answers = bound.publish_batch(vec![draft.clone(); 50]).await.unwrap();
        published.extend(answers.into_iter().map(|answer| answer.unwrap().id));
    }
    for reader in [whole, &bound] {
        let (mut found, mut next) = (vec![], Some(PageRequest::first(1000)));
        while let Some(request) = next {
            let page = reader.aggregate_events("order", AGGREGATE, 0, request).await.unwrap();
            let bytes: usize = page.items.iter().map(|stored| stored.event.event_data.as_str().len()).sum();
            assert!(bytes < 9 << 20, "{bytes} bytes in one answer");
            found.extend(page.items.into_iter().map(|stored| stored.event.id));
            next = page.next.map(|cursor| PageRequest { limit: 1000, cursor: Some(cursor) });
        }
        found.sort();
        published.sort();
        assert_eq!(found, published);
    }
}

#[tokio::test]
async fn the_pages_of_a_large_aggregate_are_short_and_complete() {
    reads_a_large_aggregate_in_short_pages(&World::new().await.tenant()).await;
    let database = database().await;
    let key = MasterKey::generate(&Sources::system());
    let neo = NeoEvents::postgres(database.url()).master_keys(vec![key]).start().await.unwrap();
    reads_a_large_aggregate_in_short_pages(&neo.platform()).await;
    neo.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn the_callers_transaction_decides() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver.url).await;
    let tenant = world.tenant();
    let database = world.database();
    let committed = tokio::task::spawn_blocking(move || {
        let mut connection = rusqlite::Connection::open(database).unwrap();
        connection.execute("create table invoices (number integer)", []).unwrap();
        let mut publish = |number: i64, commit: bool| {
            let transaction = connection.transaction().unwrap();
            transaction.execute("insert into invoices values (?1)", [number]).unwrap();
            let draft = EventDraft::new("invoice.issued", format!("{{\"number\":{number}}}"));
            let published = tenant.publish_in(&transaction, vec![draft]).unwrap().remove(0);
            if commit {
                transaction.commit().unwrap();
            } else {
                transaction.rollback().unwrap();
            }
            published.id
        };
        publish(1, false);
        publish(2, true)
    })
    .await
    .unwrap();
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].id(), committed.to_string());
    assert_eq!(world.tenant().count_events(&EventQuery::default()).await.unwrap(), 1);
}

/// Whoever passes a refusal on, as `?` does, must not have published half of what belongs together; and whoever goes on
/// has a transaction that is as it was.
#[tokio::test]
async fn of_a_batch_in_the_callers_transaction_all_are_published_or_none() {
    let world = World::new().await;
    let tenant = world.tenant();
    tenant.create_and_publish("order.placed", "{}").await.unwrap();
    let mut connection = rusqlite::Connection::open(world.database()).unwrap();
    let transaction = connection.transaction().unwrap();
    transaction.execute_batch("create table invoices (number integer)").unwrap();
    let id = fresh_id();
    for (bad, expected) in [
        (EventDraft::new("no type", "{}"), "/event_type"),
        (given(id, r#"{"other":1}"#), "an event with this id"),
    ] {
        let drafts = vec![given(id, "{}"), EventDraft::new("order.placed", "{}"), bad];
        let refused = tenant.publish_in(&transaction, drafts).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
    transaction.execute("insert into invoices values (1)", []).unwrap();
    let published = tenant.publish_in(&transaction, vec![given(id, "{}")]).unwrap();
    assert!(!published[0].duplicate, "nothing was left of the refused ones");
    transaction.commit().unwrap();
    assert_eq!(tenant.count_events(&EventQuery::default()).await.unwrap(), 2);
    let invoices = connection.query_row("select count(*) from invoices", [], |row| row.get::<_, i64>(0));
    assert_eq!(invoices, Ok(1), "the caller's own rows go on");
}

/// A tenant with an endpoint that gets everything, and a connection of the embedding program's own to its file.
async fn embedding(world: &World, slug: &str) -> (Tenant, Receiver, rusqlite::Connection) {
    let draft = TenantDraft { slug: Some(slug.into()), ..TenantDraft::default() };
    let tenant = world.neo.tenant(world.neo.directory().create_tenant(draft).await.unwrap().schema);
    let receiver = Receiver::start().await;
    let draft = EndpointDraft::standard("receiver", receiver.url.clone());
    let endpoint = tenant.create_endpoint(draft, None).await.unwrap().endpoint;
    let all = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    tenant.create_subscription(endpoint.id, all).await.unwrap();
    let file = world.folder.path().join(format!("admin.db.d/tenant_{slug}.db"));
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    (tenant, receiver, connection)
}

fn commit_event(tenant: &Tenant, connection: &rusqlite::Connection) {
    let immediate = rusqlite::TransactionBehavior::Immediate;
    let transaction = rusqlite::Transaction::new_unchecked(connection, immediate).unwrap();
    tenant.publish_in(&transaction, vec![EventDraft::new("user.created", "{}")]).unwrap();
    transaction.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_on_one_tenants_file_does_not_hold_up_what_others_are_owed() {
    let world = World::new().await;
    let (locked, its_receiver, lock) = embedding(&world, "locked").await;
    let (free, receiver, connection) = embedding(&world, "free").await;
    let is_owed = "select exists (select 1 from owed_dispatches)";
    let mut committed = 0;
    // Until something is owed that the lock keeps from being dispatched.
    let begun = loop {
        commit_event(&locked, &lock);
        committed += 1;
        lock.execute_batch("begin immediate").unwrap();
        if lock.query_row(is_owed, [], |row| row.get(0)).unwrap() {
            break Instant::now();
        }
        lock.execute_batch("commit").unwrap();
    };
    let mut count = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let committed_at = Instant::now();
        commit_event(&free, &connection);
        free.announce();
        count += 1;
        receiver.wait_for(count).await;
        assert!(committed_at.elapsed() < Duration::from_secs(5), "it waits for the other tenant");
    }
    lock.execute_batch("commit").unwrap();
    its_receiver.wait_for(committed).await;
}

#[tokio::test]
async fn a_transaction_on_another_file_is_refused() {
    let (world, other) = (World::new().await, World::new().await);
    let mut connection = rusqlite::Connection::open(other.database()).unwrap();
    let transaction = connection.transaction().unwrap();
    let refused = world.tenant().publish_in(&transaction, vec![EventDraft::new("a.b", "{}")]);
    assert!(matches!(refused, Err(Error::Store(StoreError::ForeignTransaction))));
}

#[tokio::test]
async fn other_tenants_are_not_there() {
    let world = World::new().await;
    let nobody = world.neo.tenant(Schema::tenant("nobody").unwrap());
    let refused = nobody.create_and_publish("a.b", "{}").await;
    assert!(matches!(refused, Err(Error::Store(StoreError::UnknownSchema(_)))));
}

/// The time that decides what is due goes on from a wrong reading, also after a restart; who publishes need not.
#[tokio::test]
async fn a_clock_that_was_wrong_once_keeps_no_given_id_out() {
    const YEAR: i64 = 365 * 86_400;
    let clock = JumpingClock::start();
    let right = given(EventId::new(clock.wall(), [1; 10]).uuid(), "{}");
    let World { neo, folder } = World::with(|builder| builder.sources(clock.sources())).await;
    clock.jump(YEAR);
    neo.platform().create_and_publish("a.b", "{}").await.unwrap();
    clock.jump(-YEAR);
    assert!(neo.platform().publish(right.clone()).await.is_ok());
    neo.shutdown(PATIENCE).await;
    let builder = NeoEvents::builder(folder.path().join("admin.db")).sources(clock.sources());
    let neo = builder.start().await.unwrap();
    assert!(neo.platform().publish(right).await.unwrap().duplicate);
    let right = given(EventId::new(clock.wall(), [2; 10]).uuid(), "{}");
    assert!(neo.platform().publish(right).await.is_ok());
    let late = given(EventId::new(clock.wall() - SignedDuration::from_hours(24 * 91), [3; 10]).uuid(), "{}");
    assert!(matches!(neo.platform().publish(late).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_clock_that_jumps_back_loses_and_reorders_nothing() {
    let clock = JumpingClock::start();
    let sources = clock.sources();
    let (world, receiver) = (World::with(|builder| builder.sources(sources)).await, Receiver::start().await);
    world.endpoint(&receiver.url).await;
    let mut created = vec![];
    for (n, back) in [0, 3600, 86_400].into_iter().enumerate() {
        clock.jump(-back);
        created.push(world.publish(&format!("{{\"n\":{n}}}")).await.created_at);
    }
    assert!(created.is_sorted(), "{created:?}");
    receiver.wait_for(3).await;
}
