//! Events, one and many, and aggregates.

use std::fmt;

use neo_events::{BATCH_EVENTS_MAX, EventDraft, StoredEvent, Timestamp};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Problem, into_text, raw};

/// An event as a publisher writes it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct EventIn {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Uuid>,
    pub(crate) event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aggregate_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aggregate_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aggregate_version: Option<i64>,
    pub(crate) event_data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) correlation_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) causation_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) triggered_by_user_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_id: Option<Uuid>,
    #[serde(default, deserialize_with = "super::input_time", skip_serializing_if = "Option::is_none")]
    pub(crate) occurred_at: Option<Timestamp>,
    /// The newest version that the publisher knows, 0 if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected_version: Option<i64>,
}

impl From<EventIn> for EventDraft {
    fn from(event: EventIn) -> Self {
        Self {
            id: event.id,
            event_type: event.event_type,
            event_name: event.event_name,
            aggregate_id: event.aggregate_id,
            aggregate_type: event.aggregate_type,
            aggregate_version: event.aggregate_version,
            event_data: into_text(event.event_data),
            event_metadata: event.event_metadata.map(into_text),
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            triggered_by_user_id: event.triggered_by_user_id,
            context_id: event.context_id,
            occurred_at: event.occurred_at,
            expected_version: event.expected_version,
        }
    }
}

/// The answer to a publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) id: Uuid,
    pub(crate) event_type: String,
    pub(crate) created_at: Timestamp,
    pub(crate) duplicate: bool,
}

impl From<neo_events::Published> for Published {
    fn from(published: neo_events::Published) -> Self {
        Self {
            id: published.id.uuid(),
            event_type: published.event_type.to_string(),
            created_at: published.created_at,
            duplicate: published.duplicate,
        }
    }
}

/// Many events. Each is read for itself, so that a faulty one does not hold up the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct BatchIn {
    #[serde(deserialize_with = "few")]
    pub(crate) events: Vec<Box<RawValue>>,
}

/// No more items than a batch may have, so that a body of nothing but commas costs no memory.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    struct FewVisitor;
    impl<'de> Visitor<'de> for FewVisitor {
        type Value = Vec<Box<RawValue>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut events = Vec::new();
            while let Some(event) = items.next_element()? {
                if events.len() == BATCH_EVENTS_MAX {
                    return Err(A::Error::custom(format_args!("has more than {BATCH_EVENTS_MAX} events")));
                }
                events.push(event);
            }
            Ok(events)
        }
    }
    deserializer.deserialize_seq(FewVisitor)
}

/// What became of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BatchAnswer {
    /// New events.
    pub(crate) accepted: usize,
    pub(crate) duplicates: usize,
    pub(crate) rejected: usize,
    /// In the order of the events.
    pub(crate) results: Vec<BatchResult>,
}

/// What became of one event of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum BatchResult {
    Published { index: usize, id: Uuid, duplicate: bool },
    Refused { index: usize, error: Problem },
}

/// An event as it was stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: Uuid,
    pub(crate) event_type: String,
    pub(crate) event_name: Option<String>,
    pub(crate) aggregate_id: Uuid,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_version: u32,
    pub(crate) event_data: Box<RawValue>,
    pub(crate) event_metadata: Box<RawValue>,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) triggered_by_user_id: Option<Uuid>,
    pub(crate) context_id: Option<Uuid>,
    pub(crate) occurred_at: Timestamp,
    /// `null` while its dispatch is owed.
    pub(crate) processed_at: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
}

impl From<StoredEvent> for Event {
    fn from(StoredEvent { event, processed_at }: StoredEvent) -> Self {
        Self {
            id: event.id.uuid(),
            event_type: event.event_type.to_string(),
            event_name: event.event_name,
            aggregate_id: event.aggregate_id,
            aggregate_type: event.aggregate_type,
            aggregate_version: event.aggregate_version,
            event_data: raw(event.event_data.as_str()),
            event_metadata: raw(event.event_metadata.as_str()),
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            triggered_by_user_id: event.triggered_by_user_id,
            context_id: event.context_id,
            occurred_at: event.occurred_at,
            processed_at,
            created_at: event.created_at,
        }
    }
}

/// An aggregate's stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Aggregate {
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: Uuid,
    /// The version that its next event gets.
    pub(crate) next_version: u32,
    /// By version, ascending, and those of equal versions as they were stored.
    pub(crate) events: Vec<Event>,
    /// `cursor` of the next page; `null` after the last.
    pub(crate) next_cursor: Option<String>,
}
