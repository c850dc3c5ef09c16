//! Text that would break out of whatever is not bound as a parameter, in every place where a caller can put text.

use std::time::Duration;

use neo_events_domain::{
    Uuid,
    api_key::{ApiKey, Scopes},
    catalogue::EventTypeDraft,
    delivery::{DeliveryState, ReceivedResponse, Trigger},
    endpoint::SealedSecret,
    event::{EVENT_DATA_BYTES_MAX, EVENT_METADATA_BYTES_MAX, EventDraft, JsonObject},
    headers::CustomHeaders,
    id::SubscriptionId,
    retry::{Outcome, Verdict},
    signing::Signatures,
    tenant::Tenant,
};
use neo_events_store::{
    AggregateQuery, ApiKeyQuery, Appended, Catalogue, Changed, Cursor, DeliveryLog, DeliveryQuery,
    EndpointQuery, EventLog, EventQuery, EventTypeQuery, Inserted, KeyDigest, NewDelivery, PageRequest,
    Settled, StoreError, SubscriptionQuery, Tenants, Updated, WorkQueue,
};
use neo_events_store_postgres::{PostgresOptions, PostgresStore};

use crate::{
    invariants,
    scene::{
        Beside, Scene, at, claim, draft, event, id, new_delivery, new_endpoint, new_subscription, settlement,
    },
};

fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "'); drop table admin.events; --",
        "\"; drop schema admin cascade; --",
        "\\'; select pg_sleep(9); --",
        "{\"a\",NULL}",
        "}}{{,,\"\\\"",
        "NULL",
        "null",
        "\\N",
        "\\x00",
        "\\000'::bytea",
        "$1 $$ $body$ :name ?1 @x %s %n {0}",
        "E'\\u0000' U&'\\0041' N'x' B'1'",
        "%_\\%\\_[a-z]*",
        "tenant.events admin.events pg_temp.x",
        "infinity",
        "-infinity",
        "epoch",
        "(1,2)",
        "[1,2)",
        "\u{202e}\u{feff}\u{200d}\u{1f4a9}\u{1f1e6} a\u{308} \u{10ffff} \u{e000}",
        "a\r\nb\tc\u{7f}\u{1b}[31m\u{1}\u{85}\u{2028}",
        "' or '1'='1",
        " ",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("'\"\\{}\u{1f4a9}".repeat(20_000));
    texts
}

/// The tables and functions that are there, so that it shows if one goes or comes.
async fn everything(beside: &Beside) -> String {
    let statement = "select string_agg(name, ' ' order by name) from (
        select schemaname || '.' || tablename as name from pg_tables
            where schemaname not in ('pg_catalog', 'information_schema')
        union all select proname from pg_proc where pronamespace = 'admin'::regnamespace
    ) things";
    beside.query_one(statement, &[]).await.unwrap().get(0)
}

/// What is written with the text reads back with it, in every column of every entity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_only_text_wherever_it_is_written() {
    let scene = Scene::of(1).await;
    let beside = scene.beside().await;
    let before = everything(&beside).await;
    for (n, text) in texts().iter().enumerate() {
        let n = i64::try_from(n).unwrap();
        events(&scene, text).await;
        catalogue(&scene, text, n).await;
        deliveries(&scene, text, n).await;
        keys(&scene, text, n).await;
        assert_eq!(everything(&beside).await, before, "{text:?}");
    }
    invariants::check(&beside).await;
}

/// A JSON object that says the text.
fn object(text: &str, bytes_max: usize) -> String {
    let text: String = text.chars().filter(|c| !c.is_control() && !['"', '\\'].contains(c)).collect();
    let short: String = text.chars().take(bytes_max / 8).collect();
    format!("{{\"{short}\":\"{short}\"}}")
}

async fn events(scene: &Scene, text: &str) {
    let (store, schema) = (scene.store(), &scene.schema);
    let mut new = event(EventDraft {
        event_data: object(text, EVENT_DATA_BYTES_MAX),
        event_metadata: Some(object(text, EVENT_METADATA_BYTES_MAX)),
        ..draft()
    });
    (new.event_name, new.aggregate_type) = (Some(text.into()), Some(text.into()));
    new.aggregate_id = (text.len() < 1000).then(|| id::<()>(0).uuid());
    // An index has no entries of a hundred kilobytes, and the domain no such types.
    if text.len() > 1000 {
        new.aggregate_type = None;
    }
    let aggregate = (new.aggregate_type.clone(), new.aggregate_id_or_default());
    let appended = store.append(schema, vec![new.clone()], at(0)).await.unwrap();
    assert!(matches!(appended[0], Appended::Stored { .. }));
    let read = store.event(schema, new.id).await.unwrap().unwrap().event;
    assert_eq!((&read.event_name, &read.event_data), (&new.event_name, &new.event_data));
    assert_eq!(Some(read.event_metadata), new.event_metadata);
    if let (Some(of), of_id) = aggregate {
        assert_eq!(read.aggregate_type, of);
        assert_eq!(store.newest_version(schema, (&of, of_id)).await.unwrap(), 1);
        let query = AggregateQuery::of(&*of, of_id);
        let found = store.aggregate_events(schema, &query, PageRequest::first(9)).await.unwrap();
        assert_eq!(found.items.len(), 1);
        let query = EventQuery { aggregate_type: Some(of), ..EventQuery::default() };
        assert_eq!(store.count_events(schema, &query).await.unwrap(), 1);
    }
}

async fn catalogue(scene: &Scene, text: &str, n: i64) {
    let (store, schema) = (scene.store(), &scene.schema);
    let name = format!("hostile.text_{n}");
    let draft = EventTypeDraft { event_type: name, display_name: "x".into(), ..EventTypeDraft::default() };
    let mut entry = draft.validate(id(0), at(0)).unwrap();
    (entry.display_name, entry.description) = (text.into(), Some(text.into()));
    entry.example_payload = Some(JsonObject::from_stored(&object(text, EVENT_DATA_BYTES_MAX)));
    assert_eq!(store.insert_event_type(schema, &entry).await.unwrap(), Inserted::New);
    entry.revision = 2;
    assert_eq!(store.update_event_type(schema, &entry).await.unwrap(), Updated::Written);
    assert_eq!(store.event_type(schema, &entry.event_type).await.unwrap().as_ref(), Some(&entry));

    let mut endpoint = new_endpoint();
    (endpoint.name, endpoint.description) = (text.into(), Some(text.into()));
    (endpoint.endpoint_url, endpoint.signature_header) = (text.into(), text.into());
    endpoint.disabled_reason = Some(text.into());
    endpoint.custom_headers = CustomHeaders::from_stored(vec![(text.into(), text.into())]);
    endpoint.secrets = vec![SealedSecret { sealed: text.into(), expires_at: Some(at(n)) }];
    assert_eq!(store.insert_endpoint(schema, &endpoint).await.unwrap(), Inserted::New);
    endpoint.revision = 2;
    assert_eq!(store.update_endpoint(schema, &endpoint).await.unwrap(), Updated::Written);
    assert_eq!(store.endpoint(schema, endpoint.id).await.unwrap().as_ref(), Some(&endpoint));

    let mut subscription = new_subscription(&endpoint);
    (subscription.subscription_name, subscription.description) = (Some(text.into()), Some(text.into()));
    assert_eq!(store.insert_subscription(schema, &subscription).await.unwrap(), Inserted::New);
    subscription.revision = 2;
    assert_eq!(store.update_subscription(schema, &subscription).await.unwrap(), Updated::Written);
    let read = store.subscription(schema, subscription.id).await.unwrap().unwrap();
    assert_eq!((read.subscription_name, read.description), (Some(text.into()), Some(text.into())));
}

/// Among them the ids of subscriptions, which travel as text.
async fn deliveries(scene: &Scene, text: &str, n: i64) {
    let (store, schema) = (scene.store(), &scene.schema);
    let endpoint = scene.endpoint().await;
    let ids: Vec<SubscriptionId> =
        [Uuid::nil(), Uuid::max(), id::<()>(n).uuid()].map(SubscriptionId::from_uuid).to_vec();
    for subscription_ids in [ids, Vec::new()] {
        let delivery = NewDelivery { subscription_ids, trigger: Trigger::Test, ..new_delivery(&endpoint) };
        let id = delivery.id;
        let wanted = delivery.subscription_ids.clone();
        store.append_directed(schema, event(draft()), delivery, at(n)).await.unwrap();
        let lease = claim(store, (schema, &endpoint), n, 1).await.unwrap().remove(0);
        let mut settled = settlement(lease, Verdict::Retry(at(n)), n);
        settled.attempt.outcome = Outcome::Answered { status: 503, retry_after: None };
        settled.attempt.error_message = Some(text.into());
        settled.attempt.response_time = Duration::MAX;
        let again = || text.to_owned();
        settled.attempt.signatures =
            Some(Signatures { standard: again(), body: again(), body_previous: Some(again()) });
        settled.attempt.response = Some(ReceivedResponse {
            status: 503,
            headers: vec![(text.into(), text.into())],
            body: text.into(),
            body_truncated: true,
        });
        let wanted_response = settled.attempt.response.clone();
        assert!(matches!(store.settle(settled).await.unwrap(), Settled::Recorded(_)));
        let cancelled = store.cancel_delivery(schema, id, text, at(n)).await.unwrap();
        assert!(matches!(cancelled, Changed::Done(_)));
        let delivery = store.delivery(schema, id).await.unwrap().unwrap().delivery;
        assert_eq!(delivery.state, DeliveryState::Cancelled { reason: text.into() });
        assert_eq!(delivery.subscription_ids, wanted);
        let attempts = store.attempts(schema, &delivery, PageRequest::first(10)).await.unwrap().items;
        let attempt = &attempts[0];
        assert_eq!(attempt.error_message.as_deref(), Some(text));
        assert_eq!(attempt.response, wanted_response);
    }
}

async fn keys(scene: &Scene, text: &str, n: i64) {
    let (store, schema) = (scene.store(), &scene.schema);
    let (context_id, expires_at, last_used_at) = (None, None, None);
    let (name, created_at, scopes) = (text.to_owned(), at(n), Scopes::ordinary());
    let key = ApiKey {
        id: id(n),
        name,
        schema: schema.clone(),
        context_id,
        scopes,
        created_at,
        expires_at,
        last_used_at,
    };
    let digest = KeyDigest([u8::try_from(n).unwrap(); 32]);
    assert_eq!(store.insert_api_key(&key, digest).await.unwrap(), Inserted::New);
    assert_eq!(store.api_key(digest).await.unwrap(), Some(key));
}

/// Names of tenants and of nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_only_names() {
    let scene = Scene::of(1).await;
    let beside = scene.beside().await;
    for (n, text) in texts().iter().enumerate() {
        if n % 6 == 0 {
            let schema = format!("tenant_t{n}").parse().unwrap();
            let tenant = Tenant { schema, name: Some(text.clone()), created_at: at(0) };
            assert_eq!(scene.store().create_tenant(&tenant).await.unwrap(), Inserted::New);
            assert_eq!(scene.store().tenant(&tenant.schema).await.unwrap(), Some(tenant));
        }
        let options =
            PostgresOptions { node_name: text.clone(), ..PostgresOptions::new(scene.database.url()) };
        let node = PostgresStore::open(options).await.unwrap();
        let named = beside.query_one("select name from admin.sessions order by no desc limit 1", &[]).await;
        assert_eq!(named.unwrap().get::<_, &str>(0), text);
        node.close().await;
    }
}

/// What is asked with the text finds nothing or is no cursor of ours, also where no row could have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_for_is_answered() {
    let scene = Scene::of(1).await;
    let (store, schema) = (scene.store(), &scene.schema);
    scene.endpoint().await;
    scene.publish(3).await;
    let nul = ["\0", "a\0b"].map(str::to_owned);
    for text in texts().iter().chain(&nul) {
        let query = EventQuery { aggregate_type: Some(text.clone()), ..EventQuery::default() };
        assert!(store.events(schema, &query, PageRequest::first(9)).await.unwrap().items.is_empty());
        assert_eq!(store.count_events(schema, &query).await.unwrap(), 0);
        assert_eq!(store.newest_version(schema, (text, Uuid::nil())).await.unwrap(), 0);
        let query = AggregateQuery::of(text, Uuid::nil());
        let found = store.aggregate_events(schema, &query, PageRequest::first(9)).await.unwrap();
        assert!(found.items.is_empty());
        let query = EventTypeQuery { category: Some(text.clone()), is_enabled: None };
        assert!(store.event_types(schema, &query, PageRequest::first(9)).await.unwrap().items.is_empty());
        for cursor in [text.clone(), format!("0{text}"), format!("{text}-{}", Uuid::nil().simple())] {
            is_no_cursor(&scene, &cursor).await;
        }
    }
}

async fn is_no_cursor(scene: &Scene, text: &str) {
    let (store, schema) = (scene.store(), &scene.schema);
    let page = || PageRequest { limit: u32::MAX, cursor: Some(Cursor::new(text)) };
    let answers: [Result<(), StoreError>; 7] = [
        store.events(schema, &EventQuery::default(), page()).await.map(drop),
        store.deliveries(schema, &DeliveryQuery::default(), page()).await.map(drop),
        store.endpoints(schema, &EndpointQuery::default(), page()).await.map(drop),
        store.subscriptions(schema, &SubscriptionQuery::default(), page()).await.map(drop),
        store.event_types(schema, &EventTypeQuery::default(), page()).await.map(drop),
        store.tenants(page()).await.map(drop),
        store.api_keys(&ApiKeyQuery::default(), page()).await.map(drop),
    ];
    for answer in answers {
        assert!(matches!(answer, Err(StoreError::BadCursor)), "{text:?}: {answer:?}");
    }
}
