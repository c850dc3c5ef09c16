//! The event log: append and read.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    event::{DomainEvent, NewEvent},
    event_type::EventType,
    id::EventId,
    tenant::Schema,
};

use crate::{Page, PageRequest, StoreError, TimeRange};

/// What became of one event of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored, together with the row that owes its dispatch, or with its deliveries.
    Stored {
        /// When; never before an earlier event's.
        created_at: Timestamp,
        /// Its aggregate's version after it.
        aggregate_version: u32,
    },
    /// An event with this id and the same content was there already. Nothing was stored.
    Duplicate {
        /// When the first one was stored.
        created_at: Timestamp,
        /// The first one's.
        aggregate_version: u32,
    },
    /// An event with this id and other content was there already. Nothing was stored.
    IdConflict,
    /// The aggregate's newest version is not the expected one. Nothing was stored.
    StaleVersion {
        /// The newest version, 0 if none.
        newest: u32,
    },
    /// The aggregate has reached its last version. Nothing was stored.
    VersionsExhausted,
    /// The catalogue has the type disabled. Nothing was stored.
    TypeDisabled,
}

/// An event with what is kept beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// The event.
    pub event: DomainEvent,
    /// When its dispatch was settled; `None` while it is owed.
    pub processed_at: Option<Timestamp>,
}

/// Which events; every condition that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Of this type.
    pub event_type: Option<EventType>,
    /// Of aggregates of this type.
    pub aggregate_type: Option<String>,
    /// Of this aggregate.
    pub aggregate_id: Option<Uuid>,
    /// Of this flow.
    pub correlation_id: Option<Uuid>,
    /// Of this context.
    pub context_id: Option<Uuid>,
    /// Stored in this span.
    pub created: TimeRange,
    /// Whose dispatch is settled, or still owed.
    pub processed: Option<bool>,
}

/// Which events of an aggregate.
#[derive(Debug, Clone)]
pub struct AggregateQuery {
    /// Its type.
    pub aggregate_type: String,
    /// The aggregate.
    pub aggregate_id: Uuid,
    /// Of versions beyond this one.
    pub after_version: u32,
    /// Of this context.
    pub context_id: Option<Uuid>,
}

impl AggregateQuery {
    /// All of its events.
    pub fn of(aggregate_type: impl Into<String>, aggregate_id: Uuid) -> Self {
        Self { aggregate_type: aggregate_type.into(), aggregate_id, after_version: 0, context_id: None }
    }
}

/// Append and read events.
#[async_trait]
pub trait EventLog {
    /// Stores the events, each with the row that owes its dispatch, in one durable transaction. Answers for each in
    /// order; events before it in the same call count as stored.
    async fn append(
        &self,
        schema: &Schema,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError>;

    /// One event.
    async fn event(&self, schema: &Schema, id: EventId) -> Result<Option<StoredEvent>, StoreError>;

    /// Events, newest first.
    async fn events(
        &self,
        schema: &Schema,
        query: &EventQuery,
        page: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError>;

    /// How many events a query has.
    async fn count_events(&self, schema: &Schema, query: &EventQuery) -> Result<u64, StoreError>;

    /// An aggregate's events by version ascending, then as stored.
    async fn aggregate_events(
        &self,
        schema: &Schema,
        query: &AggregateQuery,
        page: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError>;

    /// An aggregate's newest version, 0 if it has none.
    async fn newest_version(&self, schema: &Schema, aggregate: (&str, Uuid)) -> Result<u32, StoreError>;

    /// Of each of these aggregates, whether it has events and none of them in this context. No list of a user's is waited
    /// for.
    async fn belong_to_others(
        &self,
        schema: &Schema,
        aggregates: &[(String, Uuid)],
        context_id: Uuid,
    ) -> Result<Vec<bool>, StoreError>;

    /// Ends the owed dispatch of these events without delivering them. Answers how many were owed.
    async fn mark_processed(
        &self,
        schema: &Schema,
        ids: &[EventId],
        now: Timestamp,
    ) -> Result<u64, StoreError>;
}
