//! What scenarios are told with: short words for making entities and moving them through a store.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use neo_events_domain::{
    Timestamp,
    catalogue::{EventTypeDraft, EventTypeEntry},
    delivery::{Attempt, AttemptRecord, Delivery, Trigger},
    endpoint::{Endpoint, EndpointDraft, Profile, SealedSecret},
    event::{EventDraft, NewEvent},
    id::{DeliveryId, EndpointId, EventId, Id, IdEntropy, SubscriptionId},
    retry::{Outcome, Verdict},
    subscription::{Subscription, SubscriptionDraft},
    tenant::{Schema, Tenant},
};

use crate::{
    Appended, DeliveryWork, Dispatched, EndpointClaim, EndpointQuota, Inserted, Lease, NewDelivery,
    OwedEvent, Page, PageRequest, Settled, Settlement, Store, StoreError, StoredDelivery,
};

/// A point of time, in seconds after an arbitrary beginning.
pub(super) fn at(second: i64) -> Timestamp {
    at_micros(second * 1_000_000)
}

/// A point of time, in microseconds after the same beginning. It lies ahead of the clock of any server that a store has
/// behind it: what a node takes for too far away by its own clock must be so by that one, too.
pub(super) fn at_micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(4_000_000_000_000_000 + micros).expect("a time in the calendar")
}

/// Text that breaks out of whatever is not bound as a parameter.
pub(super) const HOSTILE: [&str; 8] = [
    "'); drop table events; --",
    "\" or \"\"=\"",
    "%_\\*?[a]",
    "$1 ?1 :name @x {{}} ${jndi:ldap://x}",
    "\u{202e}\u{feff}\u{1f4a9} ä\u{308} \u{10ffff}",
    "a\r\nb\tc\u{7f}\u{1b}[31m",
    "null",
    "0",
];

pub(super) fn tenant(slug: &str, second: i64) -> Tenant {
    Tenant { schema: Schema::tenant(slug).expect("a slug"), name: None, created_at: at(second) }
}

pub(super) struct World<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) schema: Schema,
    made: AtomicU64,
}

impl<'a> World<'a> {
    pub(super) fn new(store: &'a dyn Store) -> Self {
        Self::of(store, Schema::admin())
    }

    /// In a schema that is there. The worlds of two schemas make the same ids in the same order.
    pub(super) fn of(store: &'a dyn Store, schema: Schema) -> Self {
        Self { store, schema, made: AtomicU64::new(1) }
    }

    /// In a tenant that is made for it.
    pub(super) async fn tenant(store: &'a dyn Store, slug: &str) -> Self {
        let tenant = tenant(slug, 0);
        assert_eq!(done(store.create_tenant(&tenant).await), Inserted::New);
        Self::of(store, tenant.schema)
    }

    pub(super) fn entropy(&self) -> IdEntropy {
        let mut bytes = [0x5a; 10];
        bytes[2..].copy_from_slice(&self.made.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        bytes
    }

    pub(super) fn id<Kind>(&self, second: i64) -> Id<Kind> {
        Id::new(at(second), self.entropy())
    }

    // Events

    pub(super) fn event(&self, draft: EventDraft, second: i64) -> NewEvent {
        draft.validate(at(second), self.entropy()).expect("a valid draft")
    }

    pub(super) async fn append(&self, events: Vec<NewEvent>, second: i64) -> Vec<Appended> {
        done(self.store.append(&self.schema, events, at(second)).await)
    }

    pub(super) async fn append_one(&self, event: NewEvent, second: i64) -> Appended {
        let appended = self.append(vec![event], second).await;
        assert_eq!(appended.len(), 1, "one answer for one event");
        appended[0]
    }

    /// Publishes an event that must be stored.
    pub(super) async fn publish(&self, draft: EventDraft, second: i64) -> EventId {
        let event = self.event(draft, second);
        let id = event.id;
        let appended = self.append_one(event, second).await;
        assert!(matches!(appended, Appended::Stored { .. }), "{appended:?}");
        id
    }

    // Catalogue

    pub(super) fn entry(&self, event_type: &str) -> EventTypeEntry {
        let draft = EventTypeDraft {
            event_type: event_type.into(),
            display_name: event_type.into(),
            ..EventTypeDraft::default()
        };
        draft.validate(self.id(0), at(0)).expect("a valid entry")
    }

    pub(super) fn endpoint_draft(&self, draft: EndpointDraft) -> Endpoint {
        let limits = Profile::Production.endpoint_limits();
        let url = Ok(draft.endpoint_url.clone());
        let mut endpoint = draft.validate(self.id(0), at(0), limits, url).expect("a valid endpoint");
        endpoint.secrets = vec![SealedSecret { sealed: vec![0, 1, 0xff], expires_at: None }];
        endpoint
    }

    pub(super) fn new_endpoint(&self) -> Endpoint {
        self.endpoint_draft(EndpointDraft::standard("receiver", "https://example.com/hook"))
    }

    pub(super) async fn endpoint(&self) -> Endpoint {
        self.insert_endpoint(self.new_endpoint()).await
    }

    pub(super) async fn insert_endpoint(&self, endpoint: Endpoint) -> Endpoint {
        assert_eq!(done(self.store.insert_endpoint(&self.schema, &endpoint).await), Inserted::New);
        endpoint
    }

    pub(super) async fn endpoint_now(&self, id: EndpointId) -> Option<Endpoint> {
        done(self.store.endpoint(&self.schema, id).await)
    }

    pub(super) fn new_subscription(&self, endpoint: &Endpoint, event_type: &str) -> Subscription {
        let draft = SubscriptionDraft { event_type: event_type.into(), ..SubscriptionDraft::default() };
        draft.validate(self.id(0), endpoint, at(0)).expect("a valid subscription")
    }

    pub(super) async fn subscription(&self, endpoint: &Endpoint, event_type: &str) -> Subscription {
        let subscription = self.new_subscription(endpoint, event_type);
        assert_eq!(done(self.store.insert_subscription(&self.schema, &subscription).await), Inserted::New);
        subscription
    }

    // Dispatch

    pub(super) async fn claim_dispatches(
        &self,
        second: i64,
        limit: u32,
        until: i64,
    ) -> Vec<Lease<OwedEvent>> {
        let claims = done(self.store.claim_dispatches(at(second), limit, at(until)).await);
        let of_ours = claims.into_iter().filter(|claim| claim.schema == self.schema);
        of_ours.flat_map(|claim| claim.owed).collect()
    }

    pub(super) fn new_delivery(&self, endpoint: &Endpoint, second: i64) -> NewDelivery {
        NewDelivery {
            id: self.id(second),
            endpoint_id: endpoint.id,
            trigger: Trigger::Event,
            subscription_ids: vec![SubscriptionId::from_uuid(self.id::<()>(second).uuid())],
            max_attempts: 1 + endpoint.retry.max_retry_attempts,
            retry: endpoint.retry,
        }
    }

    pub(super) async fn settle_dispatches(&self, dispatched: Vec<Dispatched>, second: i64) -> u64 {
        done(self.store.settle_dispatches(dispatched, at(second)).await.map_err(|unsettled| unsettled.error))
    }

    /// Dispatches everything that is owed, to these endpoints.
    pub(super) async fn dispatch(&self, endpoints: &[&Endpoint], second: i64) -> Vec<DeliveryId> {
        let mut ids = Vec::new();
        let mut dispatched = Vec::new();
        for lease in self.claim_dispatches(second, 10_000, second + 60).await {
            let deliveries: Vec<_> = endpoints.iter().map(|to| self.new_delivery(to, second)).collect();
            ids.extend(deliveries.iter().map(|delivery| delivery.id));
            dispatched.push(Dispatched { lease, deliveries });
        }
        let written = self.settle_dispatches(dispatched, second).await;
        assert_eq!(written, ids.len() as u64);
        ids
    }

    /// One event, dispatched to one endpoint.
    pub(super) async fn delivery_to(&self, endpoint: &Endpoint, second: i64) -> DeliveryId {
        self.publish(EventDraft::new("user.created", "{}"), second).await;
        let ids = self.dispatch(&[endpoint], second).await;
        assert_eq!(ids.len(), 1);
        ids[0]
    }

    // Deliveries

    pub(super) async fn claims(
        &self,
        of: &[(&Endpoint, u32)],
        second: i64,
        until: i64,
    ) -> Vec<EndpointClaim> {
        let quota = |(endpoint, max): &(&Endpoint, u32)| EndpointQuota {
            schema: self.schema.clone(),
            endpoint_id: endpoint.id,
            max: *max,
        };
        let quotas: Vec<_> = of.iter().map(quota).collect();
        done(self.store.claim_deliveries(at(second), &quotas, at(until)).await)
    }

    /// Claims up to `max` deliveries of an endpoint, for a minute.
    pub(super) async fn claim(&self, endpoint: &Endpoint, max: u32, second: i64) -> Vec<Lease<DeliveryWork>> {
        self.claims(&[(endpoint, max)], second, second + 60)
            .await
            .into_iter()
            .flat_map(|claim| claim.work)
            .collect()
    }

    /// Claims the one delivery that is due.
    pub(super) async fn claim_one(&self, endpoint: &Endpoint, second: i64) -> Lease<DeliveryWork> {
        let mut claimed = self.claim(endpoint, 10, second).await;
        assert_eq!(claimed.len(), 1, "deliveries due");
        claimed.remove(0)
    }

    /// The delivery that is next, left unclaimed.
    pub(super) async fn next_due(&self, endpoint: &Endpoint, second: i64) -> DeliveryId {
        let lease = self.claim(endpoint, 1, second).await.remove(0);
        let id = lease.work().delivery_id;
        self.release(lease).await;
        id
    }

    pub(super) async fn release(&self, lease: Lease<DeliveryWork>) {
        self.store.release(lease).await.expect("the database works");
    }

    pub(super) fn attempt(&self, attempt_number: u32, outcome: Outcome, second: i64) -> AttemptRecord {
        AttemptRecord {
            request_id: self.id(second),
            attempt_number,
            endpoint_revision: 1,
            signatures: None,
            outcome,
            response: None,
            error_message: None,
            connection_reused: false,
            attempted_at: at(second),
            completed_at: at_micros(second * 1_000_000 + 7_000),
            response_time: Duration::from_millis(7),
        }
    }

    pub(super) async fn settle(&self, lease: Lease<DeliveryWork>, verdict: Verdict, second: i64) -> Settled {
        let status = if verdict == Verdict::Succeeded { 200 } else { 503 };
        let outcome = Outcome::Answered { status, retry_after: None };
        let attempt = self.attempt(lease.work().progress.attempt, outcome, second);
        self.record(Settlement { lease, attempt, verdict }).await
    }

    pub(super) async fn record(&self, settlement: Settlement) -> Settled {
        done(self.store.settle(settlement).await.map_err(|unsettled| unsettled.error))
    }

    pub(super) async fn stored_delivery(&self, id: DeliveryId) -> StoredDelivery {
        done(self.store.delivery(&self.schema, id).await).expect("the delivery is there")
    }

    pub(super) async fn delivery_now(&self, id: DeliveryId) -> Delivery {
        self.stored_delivery(id).await.delivery
    }

    /// All attempts of a delivery as it stands, oldest first.
    pub(super) async fn attempts(&self, id: DeliveryId) -> Vec<Attempt> {
        let delivery = self.delivery_now(id).await;
        let page = PageRequest::first(1000);
        let mut attempts = done(self.store.attempts(&self.schema, &delivery, page).await).items;
        attempts.reverse();
        attempts
    }

    /// Tends until nothing is left to do.
    pub(super) async fn tend(&self, second: i64) {
        for _ in 0..1000 {
            if !done(self.store.tend(at(second)).await) {
                return;
            }
        }
        panic!("tending never ends");
    }
}

/// The database did what it was asked.
#[track_caller]
pub(super) fn done<T>(result: Result<T, StoreError>) -> T {
    result.expect("the database works")
}

/// What futures answer that run at the same time.
pub(super) async fn together<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        for (future, answer) in &mut running {
            if answer.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        if running.iter().all(|(_, answer)| answer.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// Every item of a list, page by page.
pub(super) async fn all_pages<T>(
    limit: u32,
    list: impl AsyncFn(PageRequest) -> Result<Page<T>, StoreError>,
) -> Vec<T> {
    let mut items = Vec::new();
    let mut request = PageRequest::first(limit);
    loop {
        let page = done(list(request).await);
        assert!(page.items.len() <= limit as usize, "a page is within its limit");
        items.extend(page.items);
        match page.next {
            Some(cursor) => request = PageRequest { limit, cursor: Some(cursor) },
            None => return items,
        }
    }
}
