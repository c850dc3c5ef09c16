//! A whole store: the decorated work queue, and everything else as the model has it, but for what the engine and
//! publishers use besides, which may fail too.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    api_key::ApiKey,
    catalogue::EventTypeEntry,
    delivery::{Attempt, Delivery},
    endpoint::Endpoint,
    event::NewEvent,
    event_type::EventType,
    id::{ApiKeyId, DeliveryId, EndpointId, EventId, SubscriptionId},
    stats::EndpointStats,
    subscription::Subscription,
    tenant::{Schema, Tenant},
};
use neo_events_store::{
    AggregateQuery, ApiKeyQuery, Appended, Arrival, Catalogue, CatalogueChanges, CatalogueVersion, Changed,
    DeliveryLog, DeliveryQuery, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim,
    EndpointQuery, EndpointQuota, EventLog, EventQuery, EventTypeQuery, Health, Inserted, KeyDigest, Lease,
    MasterKeyFingerprint, NewDelivery, OwedEvent, Page, PageRequest, Settled, Settlement, StoreError,
    StoredDelivery, StoredEvent, SubscriptionQuery, Tenants, Unsettled, Updated, Usage, WorkQueue,
};

use super::{Queue, abandoned::Server, faults::error_of};
use crate::{
    judge::Judge,
    life::Life,
    memory::MemoryStore,
    weather::{Moment, Rows, Weather},
};

/// The whole.
pub(super) struct Joined {
    pub(super) memory: MemoryStore,
    pub(super) queue: Queue,
    pub(super) server: Server,
    pub(super) life: Life,
    pub(super) weather: Weather,
    pub(super) judge: Judge,
}

impl Joined {
    async fn pass(&self, moment: Moment<'_>) -> Result<(), StoreError> {
        self.life.go_on().await;
        let passed = self.weather.pass(self.life.node, moment).await;
        self.life.go_on().await;
        passed.map_err(error_of)
    }
}

/// Delegates methods of a role to a field.
macro_rules! as_is {
    ($role:ident of $field:ident {
        $(fn $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*
    } $($special:item)*) => {
        #[async_trait]
        impl $role for Joined {
            $(
                async fn $name(&self, $($argument: $type),*) -> $answer {
                    self.$field.$name($($argument),*).await
                }
            )*
            $($special)*
        }
    };
}

as_is! {
    Health of memory {
        fn ping() -> Result<(), StoreError>;
    }
}

as_is! {
    EventLog of memory {
        fn event(schema: &Schema, id: EventId) -> Result<Option<StoredEvent>, StoreError>;
        fn events(schema: &Schema, query: &EventQuery, page: PageRequest)
            -> Result<Page<StoredEvent>, StoreError>;
        fn count_events(schema: &Schema, query: &EventQuery) -> Result<u64, StoreError>;
        fn aggregate_events(schema: &Schema, query: &AggregateQuery, page: PageRequest)
            -> Result<Page<StoredEvent>, StoreError>;
        fn newest_version(schema: &Schema, aggregate: (&str, Uuid)) -> Result<u32, StoreError>;
        fn belong_to_others(schema: &Schema, aggregates: &[(String, Uuid)], context_id: Uuid)
            -> Result<Vec<bool>, StoreError>;
        fn mark_processed(schema: &Schema, ids: &[EventId], now: Timestamp) -> Result<u64, StoreError>;
    }

    async fn append(
        &self,
        schema: &Schema,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        if let Some(error) = self.server.append_late(schema, &events, now).await {
            return Err(error);
        }
        self.pass(Moment::Before(Rows::Written(schema))).await?;
        let appended = self.memory.append(schema, events, now).await?;
        self.pass(Moment::After).await?;
        Ok(appended)
    }
}

as_is! {
    Catalogue of memory {
        fn insert_event_type(schema: &Schema, entry: &EventTypeEntry) -> Result<Inserted, StoreError>;
        fn seed_event_types(schema: &Schema, entries: &[EventTypeEntry]) -> Result<(), StoreError>;
        fn event_type(schema: &Schema, of: &EventType) -> Result<Option<EventTypeEntry>, StoreError>;
        fn event_types(schema: &Schema, query: &EventTypeQuery, page: PageRequest)
            -> Result<Page<EventTypeEntry>, StoreError>;
        fn categories(schema: &Schema) -> Result<Vec<String>, StoreError>;
        fn update_event_type(schema: &Schema, entry: &EventTypeEntry) -> Result<Updated, StoreError>;
        fn delete_event_type(schema: &Schema, of: &EventType) -> Result<bool, StoreError>;
        fn insert_endpoint(schema: &Schema, endpoint: &Endpoint) -> Result<Inserted, StoreError>;
        fn endpoint(schema: &Schema, id: EndpointId) -> Result<Option<Endpoint>, StoreError>;
        fn endpoints(schema: &Schema, query: &EndpointQuery, page: PageRequest)
            -> Result<Page<Endpoint>, StoreError>;
        fn update_endpoint(schema: &Schema, endpoint: &Endpoint) -> Result<Updated, StoreError>;
        fn delete_endpoint(schema: &Schema, id: EndpointId, now: Timestamp) -> Result<bool, StoreError>;
        fn insert_subscription(schema: &Schema, subscription: &Subscription) -> Result<Inserted, StoreError>;
        fn subscription(schema: &Schema, id: SubscriptionId) -> Result<Option<Subscription>, StoreError>;
        fn subscriptions(schema: &Schema, query: &SubscriptionQuery, page: PageRequest)
            -> Result<Page<Subscription>, StoreError>;
        fn update_subscription(schema: &Schema, subscription: &Subscription) -> Result<Updated, StoreError>;
        fn delete_subscription(schema: &Schema, id: SubscriptionId) -> Result<bool, StoreError>;
        fn any_sealed_secret(schema: &Schema) -> Result<Option<(EndpointId, Vec<u8>)>, StoreError>;
    }

    async fn catalogue_changes(
        &self,
        schema: &Schema,
        since: CatalogueVersion,
        limit: u32,
    ) -> Result<CatalogueChanges, StoreError> {
        let passed = self.pass(Moment::Before(Rows::Read(schema))).await;
        let cannot = |error: &StoreError| {
            self.judge.cannot_dispatch(self.life.holder, schema, error);
        };
        passed.inspect_err(cannot)?;
        let changes = self.memory.catalogue_changes(schema, since, limit).await?;
        self.pass(Moment::After).await.inspect_err(cannot)?;
        Ok(changes)
    }
}

as_is! {
    WorkQueue of queue {
        fn dispatch_hinted() -> ();
        fn deliveries_hinted() -> ();
        fn claim_dispatches(now: Timestamp, limit: u32, lease_until: Timestamp)
            -> Result<Vec<DispatchClaim>, StoreError>;
        fn settle_dispatches(dispatched: Vec<Dispatched>, now: Timestamp)
            -> Result<u64, Unsettled<Vec<Dispatched>>>;
        fn append_directed(schema: &Schema, event: NewEvent, delivery: NewDelivery, now: Timestamp)
            -> Result<Appended, StoreError>;
        fn append_arrivals(schema: &Schema, arrivals: Vec<Arrival>, now: Timestamp)
            -> Result<Vec<Appended>, StoreError>;
        fn due_endpoints(now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError>;
        fn claim_deliveries(now: Timestamp, quotas: &[EndpointQuota], lease_until: Timestamp)
            -> Result<Vec<EndpointClaim>, StoreError>;
        fn settle(settlement: Settlement) -> Result<Settled, Unsettled<Settlement>>;
        fn release(lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>>;
        fn release_dispatches(leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError>;
        fn tend(now: Timestamp) -> Result<bool, StoreError>;
    }
}

as_is! {
    DeliveryLog of memory {
        fn delivery(schema: &Schema, id: DeliveryId) -> Result<Option<StoredDelivery>, StoreError>;
        fn attempts(schema: &Schema, delivery: &Delivery, page: PageRequest) -> Result<Page<Attempt>, StoreError>;
        fn deliveries(schema: &Schema, query: &DeliveryQuery, page: PageRequest)
            -> Result<Page<Delivery>, StoreError>;
        fn cancel_delivery(schema: &Schema, id: DeliveryId, reason: &str, now: Timestamp)
            -> Result<Changed, StoreError>;
        fn retry_delivery(schema: &Schema, id: DeliveryId, now: Timestamp) -> Result<Changed, StoreError>;
        fn endpoint_stats(schema: &Schema, id: EndpointId, since: Timestamp)
            -> Result<EndpointStats, StoreError>;
    }

    async fn note_usage(&self, schema: &Schema, usage: Usage) -> Result<(), StoreError> {
        // Of no tenant in particular: the engine writes those of several in no order, and a seed must make one run.
        self.pass(Moment::Before(Rows::OfAll)).await?;
        self.memory.note_usage(schema, usage).await?;
        self.pass(Moment::After).await
    }
}

as_is! {
    Tenants of memory {
        fn create_tenant(tenant: &Tenant) -> Result<Inserted, StoreError>;
        fn tenant(schema: &Schema) -> Result<Option<Tenant>, StoreError>;
        fn tenants(page: PageRequest) -> Result<Page<Tenant>, StoreError>;
        fn insert_api_key(key: &ApiKey, digest: KeyDigest) -> Result<Inserted, StoreError>;
        fn api_key(digest: KeyDigest) -> Result<Option<ApiKey>, StoreError>;
        fn api_keys(query: &ApiKeyQuery, page: PageRequest) -> Result<Page<ApiKey>, StoreError>;
        fn delete_api_key(id: ApiKeyId) -> Result<bool, StoreError>;
        fn note_key_usage(used: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreError>;
        fn master_key() -> Result<Option<MasterKeyFingerprint>, StoreError>;
        fn note_master_key(known: Option<MasterKeyFingerprint>, fingerprint: MasterKeyFingerprint)
            -> Result<bool, StoreError>;
    }
}
