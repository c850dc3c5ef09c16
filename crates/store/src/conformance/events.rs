//! The event log.

use std::collections::HashSet;

use neo_events_domain::{
    Uuid,
    catalogue::EventTypePatch,
    event::{AGGREGATE_VERSION_MAX, DomainEvent, EventDraft},
    id::EventId,
    tenant::Schema,
};

use super::world::{HOSTILE, World, all_pages, at, done};
use crate::{
    AggregateQuery, Appended, Cursor, DeliveryQuery, Dispatched, EndpointQuery, EventQuery, EventTypeQuery,
    PageRequest, Store, StoreError, StoredEvent, SubscriptionQuery, TimeRange,
};

fn draft() -> EventDraft {
    EventDraft::new("user.created", "{}")
}

async fn stored(world: &World<'_>, id: EventId) -> StoredEvent {
    done(world.store.event(&world.schema, id).await).expect("the event is there")
}

fn ids(events: &[StoredEvent]) -> Vec<EventId> {
    events.iter().map(|stored| stored.event.id).collect()
}

/// What was published comes back byte for byte, however odd.
pub async fn payload_bytes_survive(store: &dyn Store) {
    let world = World::new(store);
    let payloads = [
        "{}",
        " \t\r\n{ \"b\" : 1.0 , \"a\":1e400,\"a\":-0 }\n ",
        r#"{"\u0000":"\u0000","é":"\u00e9","\/":"\/"}"#,
        "{\"emoji\":\"\u{1f600}\u{200d}\",\"pair\":\"\\ud83d\\ude00\"}",
        r#"{"n":123456789012345678901234567890.000000000000000000001e-999999999}"#,
        r#"{"sql":"'; drop table events; --","percent":"%s%n","quote":"\""}"#,
    ];
    for payload in payloads {
        let draft =
            EventDraft { event_metadata: Some(payload.into()), ..EventDraft::new("user.created", payload) };
        let id = world.publish(draft, 0).await;
        let event = stored(&world, id).await.event;
        assert_eq!(event.event_data.as_str(), payload);
        assert_eq!(event.event_metadata.as_str(), payload);
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(100 * 1024 - 8));
    let id = world.publish(EventDraft::new("user.created", large.clone()), 0).await;
    assert_eq!(stored(&world, id).await.event.event_data.as_str(), large);
}

/// Every field of an event is kept, and absent ones get what is documented.
pub async fn every_field_reads_back(store: &dyn Store) {
    let world = World::new(store);
    let full = EventDraft {
        id: Some(world.id::<()>(0).uuid()),
        event_name: Some("a name".into()),
        aggregate_id: Some(Uuid::from_u128(1)),
        aggregate_type: Some("Account".into()),
        aggregate_version: Some(7),
        event_metadata: Some(r#"{"ip":"::1"}"#.into()),
        correlation_id: Some(Uuid::from_u128(2)),
        causation_id: Some(Uuid::from_u128(3)),
        triggered_by_user_id: Some(Uuid::from_u128(4)),
        context_id: Some(Uuid::from_u128(5)),
        occurred_at: Some(at(-1000)),
        ..EventDraft::new("user.created", r#"{"a":1}"#)
    };
    let new = world.event(full, 10);
    assert!(matches!(world.append_one(new.clone(), 10).await, Appended::Stored { aggregate_version: 7, .. }));
    let event = stored(&world, new.id).await.event;
    let expected = DomainEvent {
        id: new.id,
        event_type: new.event_type.clone(),
        event_name: Some("a name".into()),
        aggregate_id: Uuid::from_u128(1),
        aggregate_type: "account".into(),
        aggregate_version: 7,
        event_data: new.event_data.clone(),
        event_metadata: new.event_metadata.clone().expect("given"),
        correlation_id: Some(Uuid::from_u128(2)),
        causation_id: Some(Uuid::from_u128(3)),
        triggered_by_user_id: Some(Uuid::from_u128(4)),
        context_id: Some(Uuid::from_u128(5)),
        occurred_at: at(-1000),
        created_at: at(10),
    };
    assert_eq!(event, expected);

    let bare = stored(&world, world.publish(draft(), 20).await).await.event;
    assert_eq!((bare.aggregate_id, bare.aggregate_type.as_str()), (bare.id.uuid(), "user"));
    assert_eq!((bare.aggregate_version, bare.event_metadata.as_str()), (1, "{}"));
    assert_eq!((bare.occurred_at, bare.created_at), (at(20), at(20)));
    assert!(done(store.event(&world.schema, world.id(0)).await).is_none());
}

/// A given id makes publishing again harmless, and with other content a conflict.
pub async fn publishing_twice_is_one_event(store: &dyn Store) {
    let world = World::new(store);
    let id = Some(world.id::<()>(0).uuid());
    let with = |data: &str| EventDraft { id, ..EventDraft::new("user.created", data) };
    let first = world.event(with("{\"a\":1}"), 0);
    let event_id = first.id;
    assert!(matches!(world.append_one(first, 0).await, Appended::Stored { .. }));
    let again = world.append_one(world.event(with("{\"a\":1}"), 50), 50).await;
    assert_eq!(again, Appended::Duplicate { created_at: at(0), aggregate_version: 1 });
    let other = world.append_one(world.event(with("{\"a\": 1}"), 50), 50).await;
    assert_eq!(other, Appended::IdConflict);
    assert_eq!(done(store.count_events(&world.schema, &EventQuery::default()).await), 1);
    assert_eq!(stored(&world, event_id).await.event.event_data.as_str(), "{\"a\":1}");

    // Within one batch too, and a disabled type does not make a duplicate an error.
    let twin = Some(world.id::<()>(0).uuid());
    let twins = || world.event(EventDraft { id: twin, ..draft() }, 60);
    let appended = world.append(vec![twins(), twins()], 60).await;
    assert!(matches!(appended[..], [Appended::Stored { .. }, Appended::Duplicate { .. }]), "{appended:?}");
    assert_eq!(world.claim_dispatches(61, 10, 62).await.len(), 2, "one dispatch per event");
}

/// An aggregate is others' if it has events, and none in the context that is asked about.
pub async fn aggregates_belong_to_the_contexts_of_their_events(store: &dyn Store) {
    let world = World::new(store);
    let [ours, theirs] = [1, 2].map(Uuid::from_u128);
    let of = |n: u128, context_id: Option<Uuid>| EventDraft {
        aggregate_id: Some(Uuid::from_u128(n)),
        context_id,
        ..draft()
    };
    for draft in
        [of(10, Some(ours)), of(11, Some(theirs)), of(11, None), of(12, Some(theirs)), of(12, Some(ours))]
    {
        world.append_one(world.event(draft, 0), 0).await;
    }
    world.append_one(world.event(of(13, None), 0), 0).await;
    let user = |n| ("user".to_owned(), Uuid::from_u128(n));
    let asked =
        [user(13), user(10), user(14), user(11), user(12), ("account".to_owned(), Uuid::from_u128(11))];
    let belong = done(store.belong_to_others(&world.schema, &asked, ours).await);
    assert_eq!(belong, [true, false, false, true, false, false]);
    assert_eq!(done(store.belong_to_others(&world.schema, &[], ours).await), []);
}

/// A publish that names the newest version gets the next one; a stale one is refused.
pub async fn versions_are_guarded(store: &dyn Store) {
    let world = World::new(store);
    let aggregate = Uuid::from_u128(9);
    let guarded =
        |expected| EventDraft { aggregate_id: Some(aggregate), expected_version: Some(expected), ..draft() };
    let given =
        |version| EventDraft { aggregate_id: Some(aggregate), aggregate_version: Some(version), ..draft() };
    let newest = async || done(store.newest_version(&world.schema, ("user", aggregate)).await);
    let append = async |draft| world.append_one(world.event(draft, 0), 0).await;

    assert_eq!(newest().await, 0);
    assert_eq!(append(guarded(1)).await, Appended::StaleVersion { newest: 0 });
    for expected in 0..3 {
        let appended = append(guarded(expected)).await;
        let version = u32::try_from(expected + 1).expect("small");
        assert_eq!(appended, Appended::Stored { created_at: at(0), aggregate_version: version });
    }
    assert_eq!(append(guarded(0)).await, Appended::StaleVersion { newest: 3 });
    append(given(10)).await;
    assert_eq!(newest().await, 10, "an unguarded publish counts too");
    assert_eq!(append(guarded(3)).await, Appended::StaleVersion { newest: 10 });
    append(given(2)).await;
    assert_eq!(newest().await, 10);

    let after = async |after_version| {
        let query = AggregateQuery { after_version, ..AggregateQuery::of("user", aggregate) };
        let events = store.aggregate_events(&world.schema, &query, PageRequest::first(100)).await;
        done(events).items.iter().map(|stored| stored.event.aggregate_version).collect::<Vec<_>>()
    };
    assert_eq!(after(0).await, [1, 2, 2, 3, 10]);
    assert_eq!(after(2).await, [3, 10]);
    assert_eq!(done(store.newest_version(&world.schema, ("account", aggregate)).await), 0, "another type");

    append(given(i64::from(AGGREGATE_VERSION_MAX))).await;
    assert_eq!(append(guarded(i64::from(AGGREGATE_VERSION_MAX) - 1)).await, Appended::VersionsExhausted);
}

/// `created_at` follows the clock forwards only.
pub async fn created_at_never_decreases(store: &dyn Store) {
    let world = World::new(store);
    let mut created = Vec::new();
    for second in [100, 50, 120, -10_000, 121] {
        let id = world.publish(draft(), second).await;
        created.push(stored(&world, id).await.event.created_at);
    }
    assert_eq!(created, [at(100), at(100), at(120), at(120), at(121)]);
}

/// Each event of a batch has an answer of its own, and sees those before it.
pub async fn a_batch_is_judged_event_by_event(store: &dyn Store) {
    let world = World::new(store);
    let aggregate = Uuid::from_u128(9);
    let guarded =
        |expected| EventDraft { aggregate_id: Some(aggregate), expected_version: Some(expected), ..draft() };
    let drafts = [draft(), guarded(0), guarded(0), guarded(1), draft()];
    let events = drafts.map(|draft| world.event(draft, 0)).to_vec();
    let appended = world.append(events, 0).await;
    assert!(
        matches!(
            appended[..],
            [
                Appended::Stored { .. },
                Appended::Stored { aggregate_version: 1, .. },
                Appended::StaleVersion { newest: 1 },
                Appended::Stored { aggregate_version: 2, .. },
                Appended::Stored { .. },
            ]
        ),
        "{appended:?}"
    );
    assert_eq!(done(store.count_events(&world.schema, &EventQuery::default()).await), 4);
    assert!(world.append(Vec::new(), 0).await.is_empty());
}

/// A disabled type refuses new events; an unknown one does not.
pub async fn disabled_types_refuse_events(store: &dyn Store) {
    let world = World::new(store);
    let entry = world.entry("user.created");
    done(store.insert_event_type(&world.schema, &entry).await);
    world.publish(draft(), 0).await;
    let patch = |is_enabled| EventTypePatch { is_enabled: Some(is_enabled), ..EventTypePatch::default() };
    let disabled = entry.patched(patch(false), at(1)).expect("valid");
    done(store.update_event_type(&world.schema, &disabled).await);
    assert_eq!(world.append_one(world.event(draft(), 2), 2).await, Appended::TypeDisabled);
    world.publish(EventDraft::new("user.deleted", "{}"), 2).await;
    let enabled = disabled.patched(patch(true), at(3)).expect("valid");
    done(store.update_event_type(&world.schema, &enabled).await);
    world.publish(draft(), 4).await;
}

/// Text that looks like code is kept and found as text, in every entity.
pub async fn hostile_text_is_only_text(store: &dyn Store) {
    let world = World::new(store);
    for (index, text) in HOSTILE.into_iter().enumerate() {
        let event = EventDraft { event_name: Some(text.into()), ..draft() };
        let id = world.publish(event, 0).await;
        assert_eq!(stored(&world, id).await.event.event_name.as_deref(), Some(text));

        let mut entry = world.entry(&format!("hostile.text_{index}"));
        (entry.display_name, entry.description) = (text.into(), Some(text.into()));
        done(store.insert_event_type(&world.schema, &entry).await);
        assert_eq!(done(store.event_type(&world.schema, &entry.event_type).await), Some(entry));

        let mut endpoint = world.new_endpoint();
        (endpoint.name, endpoint.description) = (text.into(), Some(text.into()));
        (endpoint.endpoint_url, endpoint.disabled_reason) =
            (format!("https://example.com/{text}"), Some(text.into()));
        let endpoint = world.insert_endpoint(endpoint).await;
        assert_eq!(world.endpoint_now(endpoint.id).await.as_ref(), Some(&endpoint));

        let mut subscription = world.new_subscription(&endpoint, "*");
        (subscription.subscription_name, subscription.description) = (Some(text.into()), Some(text.into()));
        done(store.insert_subscription(&world.schema, &subscription).await);
        let read = done(store.subscription(&world.schema, subscription.id).await).expect("it is there");
        assert_eq!(
            (read.subscription_name.as_deref(), read.description.as_deref()),
            (Some(text), Some(text))
        );

        world.dispatch(&[], 0).await;
        let delivery = world.delivery_to(&endpoint, 0).await;
        done(store.cancel_delivery(&world.schema, delivery, text, at(1)).await);
        let state = world.delivery_now(delivery).await.state;
        assert_eq!(state, neo_events_domain::delivery::DeliveryState::Cancelled { reason: text.into() });
        let query = EventQuery { aggregate_type: Some(text.into()), ..EventQuery::default() };
        assert_eq!(done(store.count_events(&world.schema, &query).await), 0);
    }
}

/// Every combination of conditions finds exactly what a look at each event finds.
pub async fn events_are_filtered_and_counted(store: &dyn Store) {
    let world = World::new(store);
    let some = |n: u128, of: u128| (!n.is_multiple_of(of)).then(|| Uuid::from_u128(n % of));
    for n in 0..60_u128 {
        let event_type = if n.is_multiple_of(3) { "user.created" } else { "order.placed" };
        let draft = EventDraft {
            aggregate_id: Some(Uuid::from_u128(n % 5)),
            aggregate_type: n.is_multiple_of(4).then(|| "account".into()),
            correlation_id: some(n, 4),
            context_id: some(n, 3),
            ..EventDraft::new(event_type, "{}")
        };
        world.publish(draft, i64::try_from(n / 2).expect("small")).await;
        if n == 29 {
            world.dispatch(&[], 15).await;
        }
    }
    let list = async |query: &EventQuery| {
        all_pages(7, async |page| store.events(&world.schema, query, page).await).await
    };
    let all = list(&EventQuery::default()).await;
    assert_eq!(all.len(), 60);
    assert!(all.is_sorted_by_key(|stored| std::cmp::Reverse(stored.event.created_at)), "newest first");
    for choice in 0..128_u32 {
        let chosen = |bit: u32| choice & (1 << bit) != 0;
        let query = EventQuery {
            event_type: chosen(0).then(|| "user.created".parse().expect("a type")),
            aggregate_type: chosen(1).then(|| "account".into()),
            aggregate_id: chosen(2).then(|| Uuid::from_u128(2)),
            correlation_id: chosen(3).then(|| Uuid::from_u128(1)),
            context_id: chosen(4).then(|| Uuid::from_u128(2)),
            created: TimeRange { from: chosen(5).then(|| at(5)), to: chosen(5).then(|| at(25)) },
            processed: chosen(6).then_some(choice.is_multiple_of(3)),
        };
        let expected: Vec<_> = all.iter().filter(|stored| meets(stored, &query)).cloned().collect();
        assert_eq!(ids(&list(&query).await), ids(&expected), "{query:?}");
        assert_eq!(done(store.count_events(&world.schema, &query).await), expected.len() as u64, "{query:?}");
    }
}

fn meets(stored: &StoredEvent, query: &EventQuery) -> bool {
    fn agrees<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
        wanted.is_none() || wanted == found
    }
    let event = &stored.event;
    agrees(query.event_type.as_ref(), Some(&event.event_type))
        && agrees(query.aggregate_type.as_ref(), Some(&event.aggregate_type))
        && agrees(query.aggregate_id.as_ref(), Some(&event.aggregate_id))
        && agrees(query.correlation_id.as_ref(), event.correlation_id.as_ref())
        && agrees(query.context_id.as_ref(), event.context_id.as_ref())
        && agrees(query.processed.as_ref(), Some(&stored.processed_at.is_some()))
        && query.created.from.is_none_or(|from| from <= event.created_at)
        && query.created.to.is_none_or(|to| event.created_at < to)
}

/// While events are added, paging shows each that was there exactly once.
pub async fn event_pages_have_no_gaps_or_repeats(store: &dyn Store) {
    let world = World::new(store);
    let mut expected = Vec::new();
    for second in 0..25 {
        expected.insert(0, world.publish(draft(), second).await);
    }
    for limit in [1, 4, 25, 26] {
        let list = async |page| {
            world.publish(draft(), 100).await;
            let query =
                EventQuery { created: TimeRange { from: None, to: Some(at(50)) }, ..EventQuery::default() };
            store.events(&world.schema, &query, page).await
        };
        assert_eq!(ids(&all_pages(limit, list).await), expected, "{limit}");
        let list = async |page| store.events(&world.schema, &EventQuery::default(), page).await;
        let everything = ids(&all_pages(limit, list).await);
        assert_eq!(everything.iter().collect::<HashSet<_>>().len(), everything.len(), "no repeats");
    }
}

/// An aggregate is read from version to version, and among equal ones as they were stored, in pages of any size.
pub async fn aggregates_are_read_in_pages(store: &dyn Store) {
    let world = World::new(store);
    let (aggregate, context) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let mut stored = Vec::new();
    for second in 0..24_i64 {
        let context_id = (second % 3 == 0).then_some(context);
        let version = [5, 1, 5, 5, 2][usize::try_from(second % 5).expect("small")];
        for aggregate_id in [aggregate, Uuid::from_u128(9)] {
            let draft = EventDraft {
                aggregate_id: Some(aggregate_id),
                aggregate_version: Some(version),
                context_id,
                ..draft()
            };
            let id = world.publish(draft, second / 4).await;
            if aggregate_id == aggregate {
                stored.push((version, context_id, id));
            }
        }
    }
    stored.sort_by_key(|(version, ..)| *version);
    for (after_version, context_id) in
        [(0, None), (1, None), (5, None), (0, Some(context)), (2, Some(context))]
    {
        let query = AggregateQuery { after_version, context_id, ..AggregateQuery::of("user", aggregate) };
        let expected = stored.iter().filter(|(version, of, _)| {
            *version > i64::from(after_version) && (context_id.is_none() || context_id == *of)
        });
        let expected: Vec<_> = expected.map(|(.., id)| *id).collect();
        for limit in [1, 2, 5, 100] {
            let list = async |page| store.aggregate_events(&world.schema, &query, page).await;
            assert_eq!(ids(&all_pages(limit, list).await), expected, "{query:?}, {limit}");
        }
    }
}

/// A cursor that the store did not make is refused, in every list.
pub async fn foreign_cursors_are_refused(store: &dyn Store) {
    let world = World::new(store);
    for text in ["", "x", "-1", "1;drop", "\u{0}", "99999999999999999999"] {
        let page = || PageRequest { limit: 10, cursor: Some(Cursor::new(text)) };
        let schema = &world.schema;
        let refused = |result: Result<(), StoreError>| matches!(result, Err(StoreError::BadCursor));
        assert!(refused(store.events(schema, &EventQuery::default(), page()).await.map(drop)), "{text}");
        let of_aggregate = AggregateQuery::of("user", Uuid::nil());
        assert!(refused(store.aggregate_events(schema, &of_aggregate, page()).await.map(drop)), "{text}");
        assert!(
            refused(store.endpoints(schema, &EndpointQuery::default(), page()).await.map(drop)),
            "{text}"
        );
        assert!(
            refused(store.subscriptions(schema, &SubscriptionQuery::default(), page()).await.map(drop)),
            "{text}"
        );
        assert!(
            refused(store.event_types(schema, &EventTypeQuery::default(), page()).await.map(drop)),
            "{text}"
        );
        assert!(
            refused(store.deliveries(schema, &DeliveryQuery::default(), page()).await.map(drop)),
            "{text}"
        );
    }
}

/// `processed_at` is each event's own, whatever was settled together and in whatever order.
pub async fn processed_at_is_known_across_gaps(store: &dyn Store) {
    let world = World::new(store);
    let mut published = Vec::new();
    for second in 0..12 {
        published.push(world.publish(draft(), second).await);
    }
    let claimed = world.claim_dispatches(20, 12, 100).await;
    let mut expected = vec![None; 12];
    let mut rounds: [Vec<Dispatched>; 4] = Default::default();
    for (index, lease) in claimed.into_iter().enumerate() {
        assert_eq!(lease.work().event.id, published[index], "oldest first");
        // Two rounds settle interleaved events, one none of the last, one is never settled.
        let round = [0, 0, 1, 0, 1, 1, 0, 2, 3, 2, 3, 2][index];
        expected[index] = (round < 3).then(|| at(30 + i64::try_from(round).expect("small")));
        rounds[round].push(Dispatched { lease, deliveries: Vec::new() });
    }
    for (second, round) in (30..).zip(rounds).take(3) {
        world.settle_dispatches(round, second).await;
    }
    for (id, expected) in published.iter().zip(expected) {
        assert_eq!(stored(&world, *id).await.processed_at, expected);
    }
}

/// An operator can mark events processed, and they are never dispatched.
pub async fn marking_processed_ends_what_is_owed(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let (first, second, third) =
        (world.publish(draft(), 0).await, world.publish(draft(), 0).await, world.publish(draft(), 0).await);
    let leased = world.claim_dispatches(1, 1, 100).await.remove(0);
    let marked = [first, second, world.id(0)];
    assert_eq!(done(store.mark_processed(&world.schema, &marked, at(2)).await), 2);
    assert_eq!(done(store.mark_processed(&world.schema, &marked, at(3)).await), 0, "once");
    assert_eq!(stored(&world, second).await.processed_at, Some(at(2)));
    assert_eq!(stored(&world, third).await.processed_at, None);
    let deliveries = vec![world.new_delivery(&endpoint, 4)];
    let written = world.settle_dispatches(vec![Dispatched { lease: leased, deliveries }], 4).await;
    assert_eq!(written, 0, "the one in hand was marked meanwhile");
    assert_eq!(stored(&world, first).await.processed_at, Some(at(2)));
    let owed = world.claim_dispatches(200, 10, 300).await;
    assert_eq!(owed.iter().map(|lease| lease.work().event.id).collect::<Vec<_>>(), [third]);
}

/// No call works on a tenant that is not there.
pub async fn unknown_schemas_are_refused(store: &dyn Store) {
    let world = World::new(store);
    let nobody = Schema::tenant("nobody_knows_this_one").expect("a slug");
    let appended = store.append(&nobody, vec![world.event(draft(), 0)], at(0)).await;
    assert!(matches!(appended, Err(StoreError::UnknownSchema(schema)) if schema == nobody));
    let listed = store.events(&nobody, &EventQuery::default(), PageRequest::first(1)).await;
    assert!(matches!(listed, Err(StoreError::UnknownSchema(_))));
    assert!(matches!(store.event(&nobody, world.id(0)).await, Err(StoreError::UnknownSchema(_))));
}
