//! Pages of rows that can be large: what a call answers has a limit in bytes, whatever was asked for.

use neo_events_domain::{
    delivery::{Attempt, Delivery, DeliveryStatus, ReceivedResponse},
    endpoint::{Endpoint, EndpointDraft},
    event::EventDraft,
    id::{DeliveryId, SubscriptionId},
    retry::{Outcome, Verdict},
};

use super::world::{World, all_pages, at, done};
use crate::{
    Cursor, DeliveryQuery, Dispatched, EndpointQuery, PAGE_BYTES_MAX, Page, PageRequest,
    SUBSCRIPTION_ID_WEIGHT, Settlement, Store, StoreError,
};

/// More than a page's rows in any test.
const LIMIT: u32 = 1000;

/// All items of a list of heavy ones. Each page but the last ends with the item that fills it.
async fn heavy_pages<T>(
    weight: impl Fn(&T) -> usize,
    list: impl AsyncFn(PageRequest) -> Result<Page<T>, StoreError>,
) -> Vec<T> {
    let (mut items, mut request) = (Vec::new(), PageRequest::first(LIMIT));
    loop {
        let page = done(list(request).await);
        let filling = page.items.last().map_or(0, &weight);
        let bytes = page.items.iter().map(&weight).sum::<usize>();
        assert!(bytes - filling < PAGE_BYTES_MAX, "{bytes} bytes and more behind them");
        items.extend(page.items);
        let Some(cursor) = page.next else { return items };
        // What stores weigh besides is little.
        assert!(bytes > PAGE_BYTES_MAX * 9 / 10, "{bytes} bytes, and the list goes on");
        request = PageRequest { limit: LIMIT, cursor: Some(cursor) };
    }
}

/// Attempts a delivery until it has had so many attempts, each with this answer.
async fn attempt_often(world: &World<'_>, endpoint: &Endpoint, count: u32, response: &ReceivedResponse) {
    for number in 1..=count {
        let second = i64::from(number) * 10;
        let lease = world.claim_one(endpoint, second).await;
        let outcome = Outcome::Answered { status: response.status, retry_after: None };
        let mut attempt = world.attempt(number, outcome, second);
        attempt.response = Some(response.clone());
        let verdict = Verdict::Retry(at(second + 5));
        world.record(Settlement { lease, attempt, verdict }).await;
    }
}

fn broken(headers: Vec<(String, String)>, body: Vec<u8>) -> ReceivedResponse {
    ReceivedResponse { status: 503, headers, body, body_truncated: false }
}

fn numbers(attempts: &[Attempt]) -> Vec<u32> {
    attempts.iter().map(|attempt| attempt.attempt_number).collect()
}

/// Attempts are read from the newest in pages of any size: those that the delivery counted when it was read, however
/// many there are by now, and nobody else's.
pub async fn attempts_are_read_in_pages(store: &dyn Store) {
    let world = World::new(store);
    let (endpoint, other) = (world.endpoint().await, world.endpoint().await);
    let id = world.delivery_to(&endpoint, 0).await;
    world.delivery_to(&other, 0).await;
    attempt_often(&world, &other, 3, &broken(vec![], vec![])).await;
    assert!(world.attempts(id).await.is_empty());
    attempt_often(&world, &endpoint, 9, &broken(vec![], vec![])).await;
    let delivery = world.delivery_now(id).await;
    let of_before = Delivery { current_attempt: 7, ..delivery.clone() };
    for (delivery, newest) in [(&delivery, 9), (&of_before, 7)] {
        for limit in [1, 2, 7, 9, 100] {
            let list = async |page| store.attempts(&world.schema, delivery, page).await;
            let expected: Vec<u32> = (1..=newest).rev().collect();
            assert_eq!(numbers(&all_pages(limit, list).await), expected, "{limit}");
        }
    }
    let nobodys = Delivery { id: world.id(0), ..delivery.clone() };
    assert!(done(store.attempts(&world.schema, &nobodys, PageRequest::first(9)).await).items.is_empty());
    for text in ["", "x", "-1", "1;drop", "\u{0}", "99999999999999999999"] {
        let page = PageRequest { limit: 9, cursor: Some(Cursor::new(text)) };
        let refused = store.attempts(&world.schema, &delivery, page).await;
        assert!(matches!(refused, Err(StoreError::BadCursor)), "{text}");
    }
}

/// Each attempt carries what was sent and what was answered: a page ends when that is much, and the next goes on.
pub async fn pages_of_large_attempts_end_early(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let data = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    world.publish(EventDraft::new("user.created", data), 0).await;
    let ids: Vec<DeliveryId> = world.dispatch(&[&endpoint], 0).await;
    let headers = vec![("x-long".to_owned(), "y".repeat(40_000))];
    attempt_often(&world, &endpoint, 130, &broken(headers, vec![0; 1000])).await;
    let delivery = world.delivery_now(ids[0]).await;
    let weight = |attempt: &Attempt| {
        let response = attempt.response.as_ref().expect("an answer");
        attempt.request_body.len() + response.headers[0].1.len() + response.body.len()
    };
    let list = async |page| store.attempts(&world.schema, &delivery, page).await;
    let expected: Vec<u32> = (1..=130).rev().collect();
    assert_eq!(numbers(&heavy_pages(weight, list).await), expected);
}

/// A delivery names every subscription that matched, and an endpoint may have thousands.
pub async fn pages_of_deliveries_with_many_subscriptions_end_early(store: &dyn Store) {
    let world = World::new(store);
    let endpoint = world.endpoint().await;
    let many: Vec<_> = (0..5000).map(|_| SubscriptionId::from_uuid(world.id::<()>(0).uuid())).collect();
    let mut expected = Vec::new();
    for second in 0..50 {
        world.publish(EventDraft::new("user.created", "{}"), second).await;
        let lease = world.claim_dispatches(second, 1, second + 60).await.remove(0);
        let mut delivery = world.new_delivery(&endpoint, second);
        delivery.subscription_ids.clone_from(&many);
        expected.insert(0, delivery.id);
        world.settle_dispatches(vec![Dispatched { lease, deliveries: vec![delivery] }], second).await;
    }
    let queries = [
        DeliveryQuery::default(),
        DeliveryQuery { endpoint_id: Some(endpoint.id), ..DeliveryQuery::default() },
        DeliveryQuery { status: Some(DeliveryStatus::Pending), ..DeliveryQuery::default() },
    ];
    for query in queries {
        let weight = |delivery: &Delivery| delivery.subscription_ids.len() * SUBSCRIPTION_ID_WEIGHT;
        let list = async |page| store.deliveries(&world.schema, &query, page).await;
        let found = heavy_pages(weight, list).await;
        assert!(found.iter().all(|delivery| delivery.subscription_ids == many));
        assert_eq!(found.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), expected, "{query:?}");
    }
}

/// Headers that endpoints are given are large together, where there are many endpoints.
pub async fn pages_of_endpoints_with_many_headers_end_early(store: &dyn Store) {
    let world = World::new(store);
    let headers: Vec<_> = (0..20).map(|n| (format!("X-Long-{n}"), "v".repeat(1000))).collect();
    let mut expected = Vec::new();
    for _ in 0..450 {
        let draft = EndpointDraft {
            custom_headers: headers.clone(),
            ..EndpointDraft::standard("receiver", "https://example.com/hook")
        };
        expected.insert(0, world.insert_endpoint(world.endpoint_draft(draft)).await.id);
    }
    let weight = |endpoint: &Endpoint| endpoint.custom_headers.iter().map(|(_, value)| value.len()).sum();
    let list = async |page| store.endpoints(&world.schema, &EndpointQuery::default(), page).await;
    let found = heavy_pages(weight, list).await;
    assert_eq!(found.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>(), expected);
}
