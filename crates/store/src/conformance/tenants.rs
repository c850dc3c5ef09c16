//! Tenants, the keys to them, and that nothing crosses from one into another.

use std::collections::BTreeSet;

use neo_events_domain::{
    Uuid,
    api_key::{ApiKey, Scope, Scopes},
    delivery::{Delivery, DeliveryState, DeliveryStatus, Trigger},
    endpoint::{Endpoint, EndpointDraft},
    event::EventDraft,
    event_type::EventType,
    id::{DeliveryId, Id},
    retry::Verdict,
    subscription::Subscription,
    tenant::{Schema, Tenant},
};

use super::world::{HOSTILE, World, all_pages, at, done, tenant, together};
use crate::{
    AggregateQuery, ApiKeyQuery, Appended, CatalogueVersion, Changed, Cursor, DeliveryQuery, Dispatched,
    EndpointQuery, EndpointQuota, EventQuery, EventTypeQuery, Inserted, KeyDigest, Lease,
    MasterKeyFingerprint, NewDelivery, PageRequest, Settled, Store, StoreError, SubscriptionQuery, TimeRange,
    Updated, Usage,
};

/// Made once, read back; `admin` is one from the beginning.
pub async fn tenants_are_made_once(store: &dyn Store) {
    let admin = done(store.tenant(&Schema::admin()).await).expect("admin is a tenant");
    assert_eq!(done(store.create_tenant(&admin).await), Inserted::Exists);
    let named = Tenant { name: Some("Acme".into()), ..tenant("acme", 1) };
    let region = Tenant { schema: Schema::shared("eu_west_1").expect("a region"), ..tenant("x", 2) };
    for tenant in [&named, &region] {
        assert_eq!(done(store.tenant(&tenant.schema).await), None);
        assert_eq!(done(store.create_tenant(tenant).await), Inserted::New);
        let other = Tenant { name: Some("another".into()), created_at: at(9), ..tenant.clone() };
        assert_eq!(done(store.create_tenant(&other).await), Inserted::Exists);
        assert_eq!(
            done(store.tenant(&tenant.schema).await).as_ref(),
            Some(tenant),
            "as the first one made it"
        );
    }
    assert_eq!(done(store.tenant(&tenant("eu_west_1", 0).schema).await), None, "another kind");
    assert_eq!(done(store.tenant(&Schema::admin()).await), Some(admin));
}

/// However many make it at once, one is told that it did, and everybody may use it then.
pub async fn one_of_many_makers_makes_the_tenant(store: &dyn Store) {
    for slug in ["one", "two", "three"] {
        let tenant = tenant(slug, 1);
        let made = together((0..8).map(|_| async {
            let made = done(store.create_tenant(&tenant).await);
            let world = World::of(store, tenant.schema.clone());
            assert!(done(store.categories(&world.schema).await).is_empty());
            made
        }));
        let made = made.await;
        assert_eq!(made.iter().filter(|made| **made == Inserted::New).count(), 1, "{made:?}");
        assert!(made.iter().all(|made| matches!(made, Inserted::New | Inserted::Exists)), "{made:?}");
        assert_eq!(done(store.tenant(&tenant.schema).await), Some(tenant));
    }
}

/// Newest first, every one once, `admin` among them.
pub async fn tenants_are_listed_in_pages(store: &dyn Store) {
    let mut expected = Vec::new();
    for second in 0..7 {
        let tenant = tenant(&format!("t{second}"), second);
        assert_eq!(done(store.create_tenant(&tenant).await), Inserted::New);
        expected.insert(0, tenant);
    }
    for limit in [1, 3, 8, 100] {
        let mut listed = all_pages(limit, async |page| store.tenants(page).await).await;
        assert_eq!(listed.iter().filter(|tenant| tenant.schema == Schema::admin()).count(), 1);
        listed.retain(|tenant| tenant.schema != Schema::admin());
        assert_eq!(listed, expected);
    }
    for text in ["", "x", "-1", "1;drop", "\u{0}", "99999999999999999999"] {
        let page = || PageRequest { limit: 10, cursor: Some(Cursor::new(text)) };
        assert!(matches!(store.tenants(page()).await, Err(StoreError::BadCursor)), "{text}");
        let keys = store.api_keys(&ApiKeyQuery::default(), page()).await;
        assert!(matches!(keys, Err(StoreError::BadCursor)), "{text}");
    }
}

/// A tenant with something of every kind.
struct Populated<'a> {
    world: World<'a>,
    endpoint: Endpoint,
    subscription: Subscription,
    event: Id<neo_events_domain::id::kind::Event>,
    aggregate_id: Uuid,
    /// In flight; over; waiting.
    deliveries: [DeliveryId; 3],
    lease: Lease<crate::DeliveryWork>,
}

const CONTEXT: Uuid = Uuid::from_u128(0xc0);

/// An event that a query by anything finds.
fn draft(aggregate_id: Uuid) -> EventDraft {
    EventDraft {
        aggregate_id: Some(aggregate_id),
        aggregate_type: Some("order".into()),
        correlation_id: Some(Uuid::from_u128(0xc1)),
        context_id: Some(CONTEXT),
        ..EventDraft::new("order.placed", "{}")
    }
}

impl<'a> Populated<'a> {
    async fn new(world: World<'a>, name: &str) -> Self {
        let World { store, schema, .. } = &world;
        done(store.insert_event_type(schema, &world.entry("order.placed")).await);
        let url = format!("https://{name}.example.com/hook");
        let endpoint = Endpoint {
            context_id: Some(CONTEXT),
            ..world.endpoint_draft(EndpointDraft::standard(name, url))
        };
        let endpoint = world.insert_endpoint(endpoint).await;
        let subscription = world.subscription(&endpoint, "order.placed").await;
        let aggregate_id = world.id::<()>(0).uuid();
        let mut deliveries = Vec::new();
        let mut event = None;
        for second in 0..3 {
            event = Some(world.publish(draft(aggregate_id), second).await);
            deliveries.extend(world.dispatch(&[&endpoint], second).await);
        }
        let mut leases = world.claim(&endpoint, 2, 10).await;
        let over = leases.remove(1);
        world.settle(over, Verdict::Succeeded, 11).await;
        let lease = leases.remove(0);
        let deliveries = deliveries.try_into().expect("three");
        Self { endpoint, subscription, event: event.expect("three"), aggregate_id, deliveries, lease, world }
    }
}

/// Everything that a tenant's calls show.
async fn portrait(store: &dyn Store, schema: &Schema) -> String {
    let all = PageRequest::first(1000);
    let endpoints = done(store.endpoints(schema, &EndpointQuery::default(), all.clone()).await).items;
    let deliveries = done(store.deliveries(schema, &DeliveryQuery::default(), all.clone()).await).items;
    let mut lines = Vec::new();
    for delivery in &deliveries {
        lines.push(format!("{:?}", done(store.delivery(schema, delivery.id).await)));
        lines.push(format!("{:?}", done(store.attempts(schema, delivery, all.clone()).await)));
    }
    for endpoint in &endpoints {
        lines.push(format!("{:?}", done(store.endpoint_stats(schema, endpoint.id, at(-1)).await)));
    }
    lines.push(format!("{endpoints:?}"));
    let types = store.event_types(schema, &EventTypeQuery::default(), all.clone()).await;
    lines.push(format!("{:?} {:?}", done(types).items, done(store.categories(schema).await)));
    let subscriptions = store.subscriptions(schema, &SubscriptionQuery::default(), all.clone()).await;
    lines.push(format!("{:?}", done(subscriptions).items));
    lines.push(format!("{:?}", done(store.events(schema, &EventQuery::default(), all).await).items));
    lines.push(format!("{:?}", done(store.any_sealed_secret(schema).await)));
    lines.push(format!("{:?}", done(store.catalogue_changes(schema, CatalogueVersion(0), 1000).await)));
    lines.join("\n")
}

/// Every call, made in the wrong tenant with the ids of the right one, finds and changes nothing.
pub async fn no_call_reaches_another_tenant(store: &dyn Store) {
    let there = Populated::new(World::tenant(store, "there").await, "there").await;
    let before = portrait(store, &there.world.schema).await;
    let region = Tenant { schema: Schema::shared("there").expect("a region"), ..tenant("x", 0) };
    assert_eq!(done(store.create_tenant(&region).await), Inserted::New);
    for here in [Schema::admin(), World::tenant(store, "here").await.schema, region.schema] {
        let empty = portrait(store, &here).await;
        nothing_is_found(store, &here, &there).await;
        nothing_is_changed(store, &here, &there).await;
        no_delivery_is_changed(store, &here, &there).await;
        assert_eq!(portrait(store, &here).await, empty);
        assert_eq!(portrait(store, &there.world.schema).await, before);
    }
    let due = done(store.due_endpoints(at(20)).await);
    assert!(due.iter().all(|due| due.schema == there.world.schema) && !due.is_empty(), "{due:?}");
    assert!(matches!(there.world.settle(there.lease, Verdict::Succeeded, 12).await, Settled::Recorded(_)));
}

async fn nothing_is_found(store: &dyn Store, here: &Schema, there: &Populated<'_>) {
    let page = || PageRequest::first(10);
    assert_eq!(done(store.event(here, there.event).await), None);
    let queries = [
        EventQuery::default(),
        EventQuery { aggregate_id: Some(there.aggregate_id), ..EventQuery::default() },
        EventQuery { correlation_id: Some(Uuid::from_u128(0xc1)), ..EventQuery::default() },
        EventQuery { context_id: Some(CONTEXT), ..EventQuery::default() },
        EventQuery { event_type: Some(order_placed()), ..EventQuery::default() },
    ];
    for query in queries {
        assert!(done(store.events(here, &query, page()).await).items.is_empty());
        assert_eq!(done(store.count_events(here, &query).await), 0);
    }
    let aggregate = ("order", there.aggregate_id);
    let of_aggregate = AggregateQuery::of(aggregate.0, aggregate.1);
    assert!(done(store.aggregate_events(here, &of_aggregate, page()).await).items.is_empty());
    assert_eq!(done(store.newest_version(here, aggregate).await), 0);
    assert_eq!(done(store.event_type(here, &order_placed()).await), None);
    assert_eq!(done(store.endpoint(here, there.endpoint.id).await), None);
    let of_context = EndpointQuery { context_id: Some(CONTEXT), ..EndpointQuery::default() };
    assert!(done(store.endpoints(here, &of_context, page()).await).items.is_empty());
    assert!(done(store.subscription(here, there.subscription.id).await).is_none());
    let of_endpoint =
        SubscriptionQuery { endpoint_id: Some(there.endpoint.id), ..SubscriptionQuery::default() };
    assert!(done(store.subscriptions(here, &of_endpoint, page()).await).items.is_empty());
    for id in there.deliveries {
        assert_eq!(done(store.delivery(here, id).await), None);
        let delivery = there.world.delivery_now(id).await;
        assert!(done(store.attempts(here, &delivery, page()).await).items.is_empty());
    }
    let queries = [
        DeliveryQuery { event_id: Some(there.event), ..DeliveryQuery::default() },
        DeliveryQuery { endpoint_id: Some(there.endpoint.id), ..DeliveryQuery::default() },
        DeliveryQuery { context_id: Some(CONTEXT), ..DeliveryQuery::default() },
        DeliveryQuery { status: Some(DeliveryStatus::Pending), ..DeliveryQuery::default() },
        DeliveryQuery { created: TimeRange { from: Some(at(-1)), to: None }, ..DeliveryQuery::default() },
    ];
    for query in queries {
        assert!(done(store.deliveries(here, &query, page()).await).items.is_empty(), "{query:?}");
    }
    let stats = done(store.endpoint_stats(here, there.endpoint.id, at(-1)).await);
    assert_eq!((stats.pending, stats.success, stats.attempts), (0, 0, 0));
    let claims = claims(store, &[(here, &there.endpoint)], 20).await;
    assert!(claims.is_empty(), "{claims:?}");
}

fn order_placed() -> EventType {
    "order.placed".parse().expect("a type")
}

async fn nothing_is_changed(store: &dyn Store, here: &Schema, there: &Populated<'_>) {
    let Populated { world, endpoint, subscription, .. } = there;
    assert_eq!(done(store.mark_processed(here, &[there.event], at(20)).await), 0);
    let mut entry = world.entry("order.placed");
    entry.revision += 1;
    assert_eq!(done(store.update_event_type(here, &entry).await), Updated::Missing);
    assert!(!done(store.delete_event_type(here, &order_placed()).await));
    let disabled = endpoint.clone().disabled("by the wrong one", at(20));
    assert_eq!(done(store.update_endpoint(here, &disabled).await), Updated::Missing);
    assert!(!done(store.delete_endpoint(here, endpoint.id, at(20)).await));
    let mut renamed = subscription.clone();
    renamed.revision += 1;
    renamed.subscription_name = Some("stolen".into());
    assert_eq!(done(store.update_subscription(here, &renamed).await), Updated::Missing);
    assert!(!done(store.delete_subscription(here, subscription.id).await));
    let foreign = world.new_subscription(endpoint, "user.created");
    assert_eq!(done(store.insert_subscription(here, &foreign).await), Inserted::EndpointMissing);
    let usage =
        Usage { endpoints: vec![(endpoint.id, at(99))], subscriptions: vec![(subscription.id, at(99))] };
    done(store.note_usage(here, usage).await);
}

async fn no_delivery_is_changed(store: &dyn Store, here: &Schema, there: &Populated<'_>) {
    for id in there.deliveries {
        assert_eq!(done(store.cancel_delivery(here, id, "by the wrong one", at(20)).await), Changed::Missing);
        assert_eq!(done(store.retry_delivery(here, id, at(20)).await), Changed::Missing);
    }
    while done(store.tend(at(20)).await) {}
}

/// Claims of several tenants' endpoints in one call, for a minute.
async fn claims(store: &dyn Store, of: &[(&Schema, &Endpoint)], second: i64) -> Vec<crate::EndpointClaim> {
    let quota = |(schema, endpoint): &(&Schema, &Endpoint)| EndpointQuota {
        schema: (*schema).clone(),
        endpoint_id: endpoint.id,
        max: 10,
    };
    let quotas: Vec<_> = of.iter().map(quota).collect();
    done(store.claim_deliveries(at(second), &quotas, at(second + 60)).await)
}

/// Ids are a tenant's own: the same ones elsewhere are other rows, which go their own way.
pub async fn the_same_ids_in_two_tenants_are_two_rows(store: &dyn Store) {
    let one = Populated::new(World::tenant(store, "one").await, "one").await;
    let two = Populated::new(World::tenant(store, "two").await, "two").await;
    assert_eq!((one.endpoint.id, one.event), (two.endpoint.id, two.event), "else it shows nothing");
    assert_eq!((one.subscription.id, one.deliveries), (two.subscription.id, two.deliveries));
    assert_eq!(one.world.endpoint_now(one.endpoint.id).await, Some(one.endpoint.clone()));
    assert_eq!(two.world.endpoint_now(two.endpoint.id).await, Some(two.endpoint.clone()));

    // The newest version that one knows is not the other's.
    let guarded = EventDraft { expected_version: Some(1), ..draft(one.aggregate_id) };
    let event = one.world.event(guarded, 30);
    let first = one.world.append_one(event.clone(), 30).await;
    assert!(matches!(first, Appended::Stored { aggregate_version: 2, .. }), "{first:?}");
    let second = two.world.append_one(event, 30).await;
    assert!(matches!(second, Appended::Stored { aggregate_version: 2, .. }), "no duplicate: {second:?}");

    let (in_flight, over, waiting) = (two.deliveries[0], two.deliveries[1], two.deliveries[2]);
    let two_before = portrait(store, &two.world.schema).await;
    let cancelled = store.cancel_delivery(&one.world.schema, waiting, "no more", at(31)).await;
    assert!(matches!(
        done(cancelled),
        Changed::Done(Delivery { state: DeliveryState::Cancelled { .. }, .. })
    ));
    let retried = store.retry_delivery(&one.world.schema, over, at(31)).await;
    assert!(matches!(done(retried), Changed::Illegal(_)));
    assert!(matches!(one.world.settle(one.lease, Verdict::Rejected, 32).await, Settled::Recorded(_)));
    assert!(done(store.delete_event_type(&one.world.schema, &order_placed()).await));
    assert!(done(store.delete_endpoint(&one.world.schema, one.endpoint.id, at(33)).await));
    one.world.tend(34).await;
    assert!(one.world.endpoint_now(one.endpoint.id).await.is_none());
    assert_eq!(portrait(store, &two.world.schema).await, two_before, "nothing happened to the other");

    assert!(matches!(two.world.settle(two.lease, Verdict::Succeeded, 35).await, Settled::Recorded(_)));
    assert_eq!(two.world.delivery_now(in_flight).await.state, DeliveryState::Success);
    assert_eq!(two.world.claim_one(&two.endpoint, 36).await.work().delivery_id, waiting);
}

/// What several tenants owe is claimed in one call, says whose it is, and is settled where it belongs.
pub async fn tenants_are_served_side_by_side(store: &dyn Store) {
    let mut worlds = vec![World::new(store)];
    for slug in ["a", "b", "c"] {
        worlds.push(World::tenant(store, slug).await);
    }
    let mut endpoints = Vec::new();
    for world in &worlds {
        endpoints.push(world.endpoint().await);
        let data = format!("{{\"of\":\"{}\"}}", world.schema);
        world.publish(EventDraft::new("user.created", data), 0).await;
    }
    let wanted: BTreeSet<_> = worlds.iter().map(|world| world.schema.clone()).collect();
    let claimed = done(store.claim_dispatches(at(1), 100, at(60)).await);
    assert_eq!(claimed.iter().map(|claim| claim.schema.clone()).collect::<BTreeSet<_>>(), wanted);
    assert_eq!(claimed.len(), worlds.len());
    for claim in claimed {
        let index = worlds.iter().position(|world| world.schema == claim.schema).expect("one of them");
        assert_eq!(claim.owed.len(), 1);
        let owed = claim.owed.into_iter().map(|lease| {
            assert_eq!(lease.work().schema, claim.schema);
            assert!(lease.work().event.event_data.as_str().contains(&format!("\"{}\"", claim.schema)));
            Dispatched { lease, deliveries: vec![worlds[index].new_delivery(&endpoints[index], 2)] }
        });
        assert_eq!(worlds[index].settle_dispatches(owed.collect(), 2).await, 1);
    }
    assert!(done(store.claim_dispatches(at(100), 100, at(160)).await).is_empty());
    let due = done(store.due_endpoints(at(3)).await);
    assert_eq!(due.iter().map(|due| due.schema.clone()).collect::<BTreeSet<_>>(), wanted);
    let of: Vec<_> = worlds.iter().map(|world| &world.schema).zip(&endpoints).collect();
    settled_where_they_belong(&worlds, claims(store, &of, 3).await).await;
}

/// One succeeds, one is tried again, one is given back, one fails.
async fn settled_where_they_belong(worlds: &[World<'_>], claims: Vec<crate::EndpointClaim>) {
    assert_eq!(claims.len(), worlds.len());
    let mut ids = Vec::new();
    for (index, claim) in claims.into_iter().enumerate() {
        let world = worlds.iter().find(|world| world.schema == claim.schema).expect("one of them");
        assert_eq!(claim.work.len(), 1);
        for lease in claim.work {
            let work = lease.work();
            assert_eq!(work.schema, world.schema);
            assert!(work.event.event_data.as_str().contains(&format!("\"{}\"", world.schema)));
            ids.push((world, index, work.delivery_id));
            match index {
                0 => drop(world.settle(lease, Verdict::Succeeded, 4).await),
                1 => drop(world.settle(lease, Verdict::Retry(at(50)), 4).await),
                2 => world.release(lease).await,
                _ => drop(world.settle(lease, Verdict::Rejected, 4).await),
            }
        }
    }
    for (world, index, id) in ids {
        let delivery = world.delivery_now(id).await;
        let expected = [
            DeliveryStatus::Success,
            DeliveryStatus::Retrying,
            DeliveryStatus::Pending,
            DeliveryStatus::Failed,
        ];
        assert_eq!(delivery.state.status(), expected[index], "{}", world.schema);
        assert_eq!(world.attempts(id).await.len(), usize::from(index != 2));
    }
}

/// Every call that names a tenant which is not there says so.
pub async fn every_call_refuses_unknown_schemas(store: &dyn Store) {
    let there = Populated::new(World::tenant(store, "there").await, "there").await;
    let nobody = tenant("nobody", 0).schema;
    let Populated { world, endpoint, subscription, .. } = &there;
    let page = || PageRequest::first(1);
    let (event, id) = (world.event(draft(there.aggregate_id), 0), there.deliveries[0]);
    let delivery = world.delivery_now(id).await;
    let aggregate = ("order", there.aggregate_id);
    let of_aggregate = AggregateQuery::of(aggregate.0, aggregate.1);
    let entry = world.entry("user.created");
    macro_rules! refused {
        ($($call:ident($($argument:expr),*);)*) => {
            $(
                let refused = store.$call(&nobody, $($argument),*).await.map(drop);
                assert!(
                    matches!(&refused, Err(StoreError::UnknownSchema(schema)) if *schema == nobody),
                    "{}: {refused:?}", stringify!($call),
                );
            )*
        };
    }
    refused! {
        append(vec![event.clone()], at(0));
        event(there.event);
        events(&EventQuery::default(), page());
        count_events(&EventQuery::default());
        aggregate_events(&of_aggregate, page());
        newest_version(aggregate);
        belong_to_others(&[], Uuid::nil());
        mark_processed(&[there.event], at(0));
        insert_event_type(&entry);
        seed_event_types(std::slice::from_ref(&entry));
        event_type(&order_placed());
        event_types(&EventTypeQuery::default(), page());
        categories();
        update_event_type(&entry);
        delete_event_type(&order_placed());
        insert_endpoint(endpoint);
        endpoint(endpoint.id);
        endpoints(&EndpointQuery::default(), page());
        update_endpoint(endpoint);
        delete_endpoint(endpoint.id, at(0));
        insert_subscription(subscription);
        subscription(subscription.id);
        subscriptions(&SubscriptionQuery::default(), page());
        update_subscription(subscription);
        delete_subscription(subscription.id);
        any_sealed_secret();
        catalogue_changes(CatalogueVersion(0), 1);
        append_directed(
            event,
            NewDelivery { trigger: Trigger::Test, ..world.new_delivery(endpoint, 0) },
            at(0)
        );
        delivery(id);
        attempts(&delivery, page());
        deliveries(&DeliveryQuery::default(), page());
        cancel_delivery(id, "no", at(0));
        retry_delivery(id, at(0));
        endpoint_stats(endpoint.id, at(0));
        note_usage(Usage::default());
    }
    assert!(claims(store, &[(&nobody, endpoint)], 20).await.is_empty(), "nobody owes nothing");
    assert_eq!(done(store.tenant(&nobody).await), None, "and none was made by asking");
    there.world.release(there.lease).await;
}

fn api_key(world: &World<'_>, schema: &Schema, second: i64) -> ApiKey {
    ApiKey {
        id: world.id(second),
        name: format!("key {second}"),
        schema: schema.clone(),
        context_id: None,
        scopes: Scopes::ordinary(),
        created_at: at(second),
        expires_at: None,
        last_used_at: None,
    }
}

fn digest(n: u8) -> KeyDigest {
    let mut digest = [0xa5; 32];
    digest[31] = n;
    KeyDigest(digest)
}

/// Every field comes back as it was written, in the look-up and in the list.
pub async fn api_keys_read_back(store: &dyn Store) {
    let world = World::tenant(store, "acme").await;
    let each_scope = Scope::ALL.map(|scope| Scopes::from_iter([scope]));
    let scopes = [Scopes::ordinary(), Scope::ALL.into_iter().collect(), Scopes::default()];
    let mut expected = Vec::new();
    for (n, scopes) in (0..).zip(each_scope.into_iter().chain(scopes)) {
        let second = i64::from(n);
        let schema = if n % 2 == 0 { Schema::admin() } else { world.schema.clone() };
        let key = ApiKey {
            context_id: (n % 3 == 0).then(|| Uuid::from_u128(u128::from(n))),
            expires_at: (n % 4 == 0).then(|| at(1000 + second)),
            last_used_at: (n % 5 == 0).then(|| at(500 + second)),
            scopes,
            ..api_key(&world, &schema, second)
        };
        assert_eq!(done(store.insert_api_key(&key, digest(n)).await), Inserted::New);
        assert_eq!(done(store.api_key(digest(n)).await).as_ref(), Some(&key), "also when it is long over");
        expected.insert(0, key);
    }
    let listed = all_pages(4, async |page| store.api_keys(&ApiKeyQuery::default(), page).await).await;
    assert_eq!(listed, expected, "newest first");
}

/// Id and digest are each one key's; a tenant that is not there has none.
pub async fn api_keys_are_found_by_their_digest_alone(store: &dyn Store) {
    let world = World::tenant(store, "acme").await;
    let key = api_key(&world, &world.schema, 1);
    assert_eq!(done(store.insert_api_key(&key, digest(1)).await), Inserted::New);
    let same_id = ApiKey { name: "another".into(), ..key.clone() };
    assert_eq!(done(store.insert_api_key(&same_id, digest(2)).await), Inserted::Exists);
    let same_digest = ApiKey { schema: Schema::admin(), ..api_key(&world, &world.schema, 2) };
    assert_eq!(done(store.insert_api_key(&same_digest, digest(1)).await), Inserted::Exists);
    for other in [KeyDigest([0; 32]), KeyDigest([0xa5; 32]), digest(2), digest(0)] {
        assert_eq!(done(store.api_key(other).await), None);
    }
    assert_eq!(done(store.api_key(digest(1)).await), Some(key.clone()));

    let nobody = tenant("nobody", 0).schema;
    let refused = store.insert_api_key(&api_key(&world, &nobody, 3), digest(3)).await;
    assert!(matches!(&refused, Err(StoreError::UnknownSchema(schema)) if *schema == nobody), "{refused:?}");
    assert_eq!(done(store.api_key(digest(3)).await), None);

    assert!(!done(store.delete_api_key(world.id(0)).await));
    assert!(done(store.delete_api_key(key.id).await));
    assert!(!done(store.delete_api_key(key.id).await));
    assert_eq!(done(store.api_key(digest(1)).await), None);
    assert_eq!(done(store.insert_api_key(&key, digest(1)).await), Inserted::New, "both are free again");
}

/// A tenant's keys, in pages, newest first.
pub async fn api_keys_are_listed_by_tenant(store: &dyn Store) {
    let world = World::tenant(store, "acme").await;
    let none = World::tenant(store, "none").await.schema;
    let schemas = [Schema::admin(), world.schema.clone()];
    let mut all = Vec::new();
    for n in 0..11_u8 {
        let key = api_key(&world, &schemas[usize::from(n % 2)], n.into());
        assert_eq!(done(store.insert_api_key(&key, digest(n)).await), Inserted::New);
        all.insert(0, key);
    }
    let list = async |limit, schema: Option<Schema>| {
        let query = ApiKeyQuery { schema };
        all_pages(limit, async |page| store.api_keys(&query, page).await).await
    };
    for limit in [1, 2, 5, 100] {
        assert_eq!(list(limit, None).await, all);
        for schema in &schemas {
            let own: Vec<_> = all.iter().filter(|key| key.schema == *schema).cloned().collect();
            assert_eq!(list(limit, Some(schema.clone())).await, own);
        }
        assert!(list(limit, Some(none.clone())).await.is_empty());
    }
}

/// Notes come late and in any order; the newest stays.
pub async fn key_usage_never_goes_back(store: &dyn Store) {
    let world = World::tenant(store, "acme").await;
    let keys = [api_key(&world, &world.schema, 1), api_key(&world, &Schema::admin(), 2)];
    for (n, key) in (0..).zip(&keys) {
        done(store.insert_api_key(key, digest(n)).await);
    }
    let used = async |n| done(store.api_key(digest(n)).await).and_then(|key| key.last_used_at);
    done(store.note_key_usage(&[]).await);
    done(store.note_key_usage(&[(keys[0].id, at(5)), (world.id(0), at(6))]).await);
    assert_eq!((used(0).await, used(1).await), (Some(at(5)), None));
    done(store.note_key_usage(&[(keys[0].id, at(4)), (keys[1].id, at(7))]).await);
    assert_eq!((used(0).await, used(1).await), (Some(at(5)), Some(at(7))));
    done(store.note_key_usage(&[(keys[0].id, at(9)), (keys[0].id, at(8))]).await);
    assert_eq!(used(0).await, Some(at(9)), "also within one call");
    let noted = ApiKey { last_used_at: Some(at(9)), ..keys[0].clone() };
    assert_eq!(done(store.api_key(digest(0)).await), Some(noted), "and nothing else changes");
}

/// Names are bound, never pasted.
pub async fn hostile_names_are_only_names(store: &dyn Store) {
    let world = World::new(store);
    for (n, text) in (0..).zip(HOSTILE) {
        let named = Tenant { name: Some(text.into()), ..tenant(&format!("t{n}"), n) };
        assert_eq!(done(store.create_tenant(&named).await), Inserted::New);
        assert_eq!(done(store.tenant(&named.schema).await).as_ref(), Some(&named));
        let key = ApiKey { name: text.into(), ..api_key(&world, &named.schema, n) };
        let digest = digest(u8::try_from(n).expect("few"));
        assert_eq!(done(store.insert_api_key(&key, digest).await), Inserted::New);
        assert_eq!(done(store.api_key(digest).await), Some(key));
    }
    // Words of the query language are slugs like others.
    for slug in ["select", "table", "public", "admin_", "pg_catalog", "shared_eu", "tenant_acme", "user"] {
        let world = World::tenant(store, slug).await;
        world.publish(EventDraft::new("user.created", "{}"), 0).await;
        assert_eq!(done(store.count_events(&world.schema, &EventQuery::default()).await), 1, "{slug}");
    }
    let longest = "a".repeat(neo_events_domain::tenant::SLUG_CHARS_MAX);
    World::tenant(store, &longest).await.publish(EventDraft::new("user.created", "{}"), 0).await;
}

/// Of those who would note another master key, one succeeds, and the others can see which it is.
pub async fn one_master_key_is_noted(store: &dyn Store) {
    let [one, two, three] = [1, 2, 3].map(|n| MasterKeyFingerprint([n; 16]));
    let note = async |known, fingerprint| done(store.note_master_key(known, fingerprint).await);
    assert_eq!(done(store.master_key().await), None);
    assert!(!note(Some(one), two).await, "none was noted");
    let firsts = together([one, two].map(|fingerprint| note(None, fingerprint))).await;
    assert_eq!(firsts.iter().filter(|noted| **noted).count(), 1, "one of both");
    let noted = if firsts[0] { one } else { two };
    assert_eq!(done(store.master_key().await), Some(noted));
    assert!(!note(Some(three), one).await && !note(None, three).await);
    assert!(note(Some(noted), noted).await, "the same again is no contradiction");
    assert!(note(Some(noted), three).await);
    assert_eq!(done(store.master_key().await), Some(three));
}
