//! Event types, endpoints and subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use neo_events_domain::{
    SignedDuration, Uuid,
    catalogue::EventTypePatch,
    endpoint::{EndpointDraft, EndpointPatch, Profile},
    event::JsonObject,
    event_type::{EventPattern, EventType},
    filter::Filter,
    id::{EndpointId, SubscriptionId},
    subscription::{Subscription, SubscriptionPatch},
};

use super::{
    random::Random,
    world::{World, all_pages, at, done},
};
use crate::{
    CatalogueVersion, EndpointQuery, EventTypeQuery, Inserted, PageRequest, Store, SubscriptionQuery,
    Updated, Usage,
};

fn event_type(name: &str) -> EventType {
    name.parse().expect("a type")
}

/// Subscriptions are compared by everything they show.
fn shown(subscription: &Subscription) -> String {
    format!("{subscription:?}")
}

/// Entries are inserted once, listed, updated and deleted.
pub async fn event_types_are_kept(store: &dyn Store) {
    let world = World::new(store);
    let schema = &world.schema;
    let mut entries = Vec::new();
    for name in ["user.created", "user.deleted", "order.placed"] {
        let mut entry = world.entry(name);
        entry.example_payload = Some(JsonObject::try_new("{ \"a\": 1.0 }", 100).expect("an object"));
        assert_eq!(done(store.insert_event_type(schema, &entry).await), Inserted::New);
        entries.insert(0, entry);
    }
    assert_eq!(done(store.insert_event_type(schema, &world.entry("user.created")).await), Inserted::Exists);
    let list = async |query: EventTypeQuery| {
        all_pages(2, async |page| store.event_types(schema, &query, page).await).await
    };
    assert_eq!(list(EventTypeQuery::default()).await, entries, "newest first");
    assert_eq!(done(store.categories(schema).await), ["order", "user"]);

    let patch = EventTypePatch { is_enabled: Some(false), ..EventTypePatch::default() };
    let disabled = entries[1].clone().patched(patch, at(9)).expect("valid");
    assert_eq!(done(store.update_event_type(schema, &disabled).await), Updated::Written);
    assert_eq!(done(store.update_event_type(schema, &disabled).await), Updated::Stale);
    assert_eq!(done(store.event_type(schema, &disabled.event_type).await).as_ref(), Some(&disabled));
    let of_user = EventTypeQuery { category: Some("user".into()), is_enabled: Some(true) };
    assert_eq!(list(of_user).await, [entries[2].clone()]);

    assert!(done(store.delete_event_type(schema, &disabled.event_type).await));
    assert!(!done(store.delete_event_type(schema, &disabled.event_type).await));
    assert_eq!(done(store.update_event_type(schema, &disabled).await), Updated::Missing);
    assert_eq!(done(store.event_type(schema, &disabled.event_type).await), None);
}

/// Seeds are planted once in a schema's life: what was deleted does not come back.
pub async fn seeds_come_once(store: &dyn Store) {
    let world = World::new(store);
    let seeds = ["user.created", "user.deleted"].map(|name| world.entry(name));
    done(store.seed_event_types(&world.schema, &seeds).await);
    assert!(done(store.delete_event_type(&world.schema, &event_type("user.created")).await));
    done(store.seed_event_types(&world.schema, &seeds).await);
    let page =
        done(store.event_types(&world.schema, &EventTypeQuery::default(), PageRequest::first(10)).await);
    assert_eq!(page.items, [seeds[1].clone()]);
}

/// Everything about an endpoint reads back, its secrets in order, after each change.
pub async fn endpoints_read_back(store: &dyn Store) {
    let world = World::new(store);
    let mut endpoint = world.endpoint_draft(EndpointDraft {
        description: Some("d".into()),
        custom_headers: vec![("X-B".into(), "2".into()), ("Authorization".into(), "\"secret\"".into())],
        retry_backoff_multiplier: Some(1.1),
        created_by_user_id: Some(Uuid::from_u128(1)),
        context_id: Some(Uuid::from_u128(2)),
        ..EndpointDraft::standard("n", "https://example.com/")
    });
    assert_eq!(done(store.insert_endpoint(&world.schema, &endpoint).await), Inserted::New);
    assert_eq!(done(store.insert_endpoint(&world.schema, &endpoint).await), Inserted::Exists);
    assert_eq!(world.endpoint_now(endpoint.id).await.as_ref(), Some(&endpoint));

    let hour = SignedDuration::from_hours(1);
    let changes: [&dyn Fn(_) -> _; 5] = [
        &|e: neo_events_domain::endpoint::Endpoint| e.with_rotated_secret(vec![7; 40], hour, at(10), at(10)),
        &|e| e.with_rotated_secret(Vec::new(), hour, at(20), at(20)),
        &|e| e.verified(at(30)),
        &|e| e.disabled("because", at(40)),
        &|e| {
            let patch = EndpointPatch {
                endpoint_url: Some(Ok("https://example.com/moved".into())),
                custom_headers: vec![("x-b".into(), None)],
                description: Some(None),
                ..EndpointPatch::default()
            };
            e.patched(patch, at(50), Profile::Production.endpoint_limits()).expect("valid")
        },
    ];
    for change in changes {
        endpoint = change(endpoint);
        assert_eq!(done(store.update_endpoint(&world.schema, &endpoint).await), Updated::Written);
        assert_eq!(world.endpoint_now(endpoint.id).await.as_ref(), Some(&endpoint));
    }
    assert_eq!(endpoint.secrets.len(), 3);
    assert_eq!(world.endpoint_now(world.id(0)).await, None);
}

/// Of two who read the same revision, the second to write is told.
pub async fn stale_updates_are_refused(store: &dyn Store) {
    let world = World::new(store);
    let read = world.endpoint().await;
    let (mine, yours) = (read.clone().deactivated(at(1)), read.verified(at(1)));
    assert_eq!(done(store.update_endpoint(&world.schema, &mine).await), Updated::Written);
    assert_eq!(done(store.update_endpoint(&world.schema, &yours).await), Updated::Stale);
    assert_eq!(world.endpoint_now(mine.id).await.as_ref(), Some(&mine));
    let unknown = world.new_endpoint().activated(at(1));
    assert_eq!(done(store.update_endpoint(&world.schema, &unknown).await), Updated::Missing);

    let subscription = world.subscription(&mine, "*").await;
    let patch = |name: &str| SubscriptionPatch {
        subscription_name: Some(Some(name.into())),
        ..SubscriptionPatch::default()
    };
    let change = |name| subscription.clone().patched(patch(name), at(2)).expect("valid");
    assert_eq!(done(store.update_subscription(&world.schema, &change("a")).await), Updated::Written);
    assert_eq!(done(store.update_subscription(&world.schema, &change("b")).await), Updated::Stale);
}

/// Endpoints are found by context, activity and what they listen to.
pub async fn endpoints_are_filtered(store: &dyn Store) {
    let world = World::new(store);
    let patterns =
        [None, Some("user.created"), Some("user.*"), Some("*"), Some("order.*"), Some("user.deleted")];
    let mut all = Vec::new();
    for n in 0..12_u128 {
        let draft = EndpointDraft {
            context_id: n.is_multiple_of(2).then(|| Uuid::from_u128(1)),
            is_active: Some(!n.is_multiple_of(3)),
            ..EndpointDraft::standard("n", "https://example.com/")
        };
        let endpoint = world.insert_endpoint(world.endpoint_draft(draft)).await;
        let pattern = patterns[usize::try_from(n % 6).expect("small")];
        if let Some(pattern) = pattern {
            world.subscription(&endpoint, pattern).await;
        }
        all.insert(0, (endpoint, pattern));
    }
    for choice in 0..8_u32 {
        let query = EndpointQuery {
            context_id: (choice & 1 > 0).then(|| Uuid::from_u128(1)),
            is_active: (choice & 2 > 0).then_some(true),
            event_type: (choice & 4 > 0).then(|| event_type("user.created")),
        };
        let listens = |pattern: Option<&str>| {
            pattern.is_some_and(|text| {
                EventPattern::try_new(text).expect("valid").matches(&event_type("user.created"))
            })
        };
        let expected = all.iter().filter(|(endpoint, pattern)| {
            (query.context_id.is_none() || query.context_id == endpoint.context_id)
                && query.is_active.is_none_or(|active| active == endpoint.is_active)
                && (query.event_type.is_none() || listens(*pattern))
        });
        let expected: Vec<_> = expected.map(|(endpoint, _)| endpoint.clone()).collect();
        let found = all_pages(3, async |page| store.endpoints(&world.schema, &query, page).await).await;
        assert_eq!(found, expected, "{query:?}");
    }
}

/// Subscriptions need their endpoint and a type that is not disabled; they know the entry of their type.
pub async fn subscriptions_are_kept(store: &dyn Store) {
    let world = World::new(store);
    let schema = &world.schema;
    let endpoint = world.endpoint().await;
    let mut subscription = world.new_subscription(&endpoint, "user.created");
    subscription.filter =
        Filter::parse(r#"{ "plan": ["pro", "x'y"], "n": {"$gte": 1e400} }"#).expect("a filter");
    subscription.context_id = Some(Uuid::from_u128(1));
    assert_eq!(done(store.insert_subscription(schema, &subscription).await), Inserted::New);
    assert_eq!(done(store.insert_subscription(schema, &subscription).await), Inserted::Exists);
    let read = async |id| done(store.subscription(schema, id).await);
    assert_eq!(read(subscription.id).await.as_ref().map(shown), Some(shown(&subscription)));

    let entry = world.entry("user.created");
    done(store.insert_event_type(schema, &entry).await);
    assert_eq!(read(subscription.id).await.expect("there").event_type_id, Some(entry.id));

    let patch = EventTypePatch { is_enabled: Some(false), ..EventTypePatch::default() };
    done(store.update_event_type(schema, &entry.patched(patch, at(1)).expect("valid")).await);
    let refused = world.new_subscription(&endpoint, "user.created");
    assert_eq!(done(store.insert_subscription(schema, &refused).await), Inserted::TypeDisabled);
    let broad = world.subscription(&endpoint, "user.*").await;
    let patch = SubscriptionPatch { event_type: Some("user.created".into()), ..SubscriptionPatch::default() };
    let narrowed = broad.clone().patched(patch, at(2)).expect("valid");
    assert_eq!(done(store.update_subscription(schema, &narrowed).await), Updated::TypeDisabled);
    let patch = SubscriptionPatch { is_active: Some(false), ..SubscriptionPatch::default() };
    let silenced = read(subscription.id).await.expect("there").patched(patch, at(2)).expect("valid");
    assert_eq!(
        done(store.update_subscription(schema, &silenced).await),
        Updated::Written,
        "it named it before"
    );

    let orphan = world.new_subscription(&world.new_endpoint(), "*");
    assert_eq!(done(store.insert_subscription(schema, &orphan).await), Inserted::EndpointMissing);
    let list = async |query: SubscriptionQuery| {
        let found = all_pages(1, async |page| store.subscriptions(schema, &query, page).await).await;
        found.iter().map(|subscription| subscription.id).collect::<Vec<_>>()
    };
    assert_eq!(list(SubscriptionQuery::default()).await, [broad.id, subscription.id]);
    let active = SubscriptionQuery { is_active: Some(true), ..SubscriptionQuery::default() };
    assert_eq!(list(active).await, [broad.id]);
    let of_context =
        SubscriptionQuery { context_id: Some(Uuid::from_u128(1)), ..SubscriptionQuery::default() };
    assert_eq!(list(of_context).await, [subscription.id]);
    let of_another = SubscriptionQuery { endpoint_id: Some(world.id(0)), ..SubscriptionQuery::default() };
    assert!(list(of_another).await.is_empty());

    assert!(done(store.delete_subscription(schema, broad.id).await));
    assert!(!done(store.delete_subscription(schema, broad.id).await));
    assert!(read(broad.id).await.is_none());
    assert_eq!(done(store.update_subscription(schema, &narrowed).await), Updated::Missing);
}

/// A deleted endpoint is gone with its subscriptions, and nothing can be hung on it.
pub async fn deleting_an_endpoint_takes_its_subscriptions(store: &dyn Store) {
    let world = World::new(store);
    let schema = &world.schema;
    let (doomed, other) = (world.endpoint().await, world.endpoint().await);
    let (its, others) = (world.subscription(&doomed, "*").await, world.subscription(&other, "*").await);
    assert!(done(store.delete_endpoint(schema, doomed.id, at(5)).await));
    assert!(!done(store.delete_endpoint(schema, doomed.id, at(6)).await));
    assert_eq!(world.endpoint_now(doomed.id).await, None);
    assert!(done(store.subscription(schema, its.id).await).is_none());
    let listed =
        done(store.subscriptions(schema, &SubscriptionQuery::default(), PageRequest::first(9)).await);
    assert_eq!(listed.items.iter().map(|s| s.id).collect::<Vec<_>>(), [others.id]);
    let listed = done(store.endpoints(schema, &EndpointQuery::default(), PageRequest::first(9)).await);
    assert_eq!(listed.items, [other]);
    let late = world.new_subscription(&doomed, "*");
    assert_eq!(done(store.insert_subscription(schema, &late).await), Inserted::EndpointMissing);
    assert_eq!(done(store.update_endpoint(schema, &doomed.verified(at(7))).await), Updated::Missing);
}

/// Last-used times only grow, and neither revision nor catalogue version move with them.
pub async fn usage_never_goes_back_and_is_no_change(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let subscription = world.subscription(&endpoint, "*").await;
    let version =
        async || done(store.catalogue_changes(&world.schema, CatalogueVersion::default(), 100).await).version;
    let before = version().await;
    for (noted, expected) in [(10, 10), (5, 10), (20, 20)] {
        let usage = Usage {
            endpoints: vec![(endpoint.id, at(noted)), (world.id(0), at(noted))],
            subscriptions: vec![(subscription.id, at(noted))],
        };
        done(store.note_usage(&world.schema, usage).await);
        let now = world.endpoint_now(endpoint.id).await.expect("there");
        assert_eq!((now.last_used_at, now.revision), (Some(at(expected)), endpoint.revision));
        let now = done(store.subscription(&world.schema, subscription.id).await).expect("there");
        assert_eq!((now.last_triggered_at, now.revision), (Some(at(expected)), subscription.revision));
    }
    assert_eq!(version().await, before);
    // An update by somebody who read it before does not take the time back.
    assert_eq!(
        done(store.update_endpoint(&world.schema, &endpoint.clone().verified(at(30))).await),
        Updated::Written
    );
    assert_eq!(world.endpoint_now(endpoint.id).await.expect("there").last_used_at, Some(at(20)));
}

/// Whoever follows the changes, at any pace and in pages of any size, knows what the lists show.
pub async fn catalogue_changes_are_complete(store: &dyn Store) {
    let world = World::new(store);
    let mut random = Random::seeded(7);
    let mut followers: Vec<Follower> = [1, 2, 5, 1000].map(Follower::new).into();
    for second in 0..150 {
        change_something(&world, &mut random, second).await;
        for follower in &mut followers {
            if random.below(3) == 0 {
                follower.take_a_page(&world).await;
            }
        }
        if second % 30 == 29 {
            for follower in &mut followers {
                follower.catch_up(&world).await;
            }
        }
    }
}

/// Knows what a sequence of changes told.
struct Follower {
    limit: u32,
    version: CatalogueVersion,
    endpoints: BTreeMap<EndpointId, u32>,
    subscriptions: BTreeMap<SubscriptionId, (u32, EndpointId)>,
}

impl Follower {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            version: CatalogueVersion(0),
            endpoints: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
        }
    }

    async fn take_a_page(&mut self, world: &World<'_>) -> bool {
        let changes = done(world.store.catalogue_changes(&world.schema, self.version, self.limit).await);
        let rows = changes.endpoints.len()
            + changes.subscriptions.len()
            + changes.deleted_endpoints.len()
            + changes.deleted_subscriptions.len();
        assert!(rows <= self.limit as usize, "a page is within its limit");
        assert!(
            changes.version >= self.version && (!changes.more || changes.version > self.version),
            "it goes on"
        );
        self.version = changes.version;
        self.endpoints.extend(changes.endpoints.iter().map(|endpoint| (endpoint.id, endpoint.revision)));
        let known = |s: &Subscription| (s.id, (s.revision, s.endpoint_id));
        self.subscriptions.extend(changes.subscriptions.iter().map(known));
        for id in &changes.deleted_endpoints {
            self.endpoints.remove(id);
            self.subscriptions.retain(|_, (_, endpoint)| endpoint != id);
        }
        for id in &changes.deleted_subscriptions {
            self.subscriptions.remove(id);
        }
        changes.more
    }

    async fn catch_up(&mut self, world: &World<'_>) {
        while self.take_a_page(world).await {}
        let (store, schema) = (world.store, &world.schema);
        let endpoints =
            all_pages(100, async |page| store.endpoints(schema, &EndpointQuery::default(), page).await).await;
        let listed: BTreeMap<_, _> =
            endpoints.iter().map(|endpoint| (endpoint.id, endpoint.revision)).collect();
        assert_eq!(self.endpoints, listed);
        let subscriptions = all_pages(100, async |page| {
            store.subscriptions(schema, &SubscriptionQuery::default(), page).await
        })
        .await;
        let listed: BTreeMap<_, _> =
            subscriptions.iter().map(|s| (s.id, (s.revision, s.endpoint_id))).collect();
        assert_eq!(self.subscriptions, listed);
        let of_endpoints: BTreeSet<_> = listed.values().map(|(_, endpoint)| *endpoint).collect();
        assert!(
            of_endpoints.iter().all(|id| self.endpoints.contains_key(id)),
            "no subscription without endpoint"
        );
    }
}

async fn change_something(world: &World<'_>, random: &mut Random, second: i64) {
    let (store, schema) = (world.store, &world.schema);
    let endpoints =
        done(store.endpoints(schema, &EndpointQuery::default(), PageRequest::first(1000)).await).items;
    let subscriptions =
        done(store.subscriptions(schema, &SubscriptionQuery::default(), PageRequest::first(1000)).await)
            .items;
    let choice = random.below(10);
    match choice {
        _ if endpoints.is_empty() => drop(world.endpoint().await),
        0 => drop(world.endpoint().await),
        1 => drop(done(store.delete_endpoint(schema, random.pick(&endpoints).id, at(second)).await)),
        2 | 3 => {
            let changed = random.pick(&endpoints).clone().verified(at(second));
            assert_eq!(done(store.update_endpoint(schema, &changed).await), Updated::Written);
        }
        4..=6 => drop(world.subscription(random.pick(&endpoints), "user.*").await),
        _ if subscriptions.is_empty() => {}
        7 => assert!(done(store.delete_subscription(schema, random.pick(&subscriptions).id).await)),
        _ => {
            let patch = SubscriptionPatch { is_active: Some(choice == 8), ..SubscriptionPatch::default() };
            let changed = random.pick(&subscriptions).clone().patched(patch, at(second)).expect("valid");
            assert_eq!(done(store.update_subscription(schema, &changed).await), Updated::Written);
        }
    }
}
