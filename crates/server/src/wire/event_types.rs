//! Entries of the event-type catalogue.

use neo_events::{EventTypeDraft, EventTypeEntry, EventTypePatch, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{clearable, given, into_text, raw};

/// An entry as somebody writes it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct EventTypeIn {
    pub(crate) event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) category: Option<String>,
    pub(crate) display_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) example_payload: Option<Box<RawValue>>,
}

impl From<EventTypeIn> for EventTypeDraft {
    fn from(entry: EventTypeIn) -> Self {
        Self {
            event_type: entry.event_type,
            category: entry.category,
            display_name: entry.display_name,
            description: entry.description,
            is_enabled: entry.is_enabled,
            example_payload: entry.example_payload.map(into_text),
        }
    }
}

/// Changes to an entry.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[expect(clippy::option_option, reason = "absent, cleared and set are three cases")]
pub(crate) struct EventTypeChanges {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    #[serde(default, deserialize_with = "clearable", skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) is_enabled: Option<bool>,
    #[serde(default, deserialize_with = "clearable", skip_serializing_if = "Option::is_none")]
    pub(crate) example_payload: Option<Option<Box<RawValue>>>,
}

impl From<EventTypeChanges> for EventTypePatch {
    fn from(changes: EventTypeChanges) -> Self {
        Self {
            display_name: changes.display_name,
            description: changes.description,
            is_enabled: changes.is_enabled,
            example_payload: changes.example_payload.map(|payload| payload.map(into_text)),
        }
    }
}

/// An entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EventType {
    pub(crate) id: Uuid,
    pub(crate) event_type: String,
    pub(crate) category: String,
    pub(crate) display_name: String,
    pub(crate) description: Option<String>,
    pub(crate) is_enabled: bool,
    pub(crate) example_payload: Option<Box<RawValue>>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl From<EventTypeEntry> for EventType {
    fn from(entry: EventTypeEntry) -> Self {
        Self {
            id: entry.id.uuid(),
            category: entry.event_type.category().to_owned(),
            event_type: entry.event_type.to_string(),
            display_name: entry.display_name,
            description: entry.description,
            is_enabled: entry.is_enabled,
            example_payload: entry.example_payload.map(|payload| raw(payload.as_str())),
            created_at: entry.created_at,
            updated_at: entry.updated_at,
        }
    }
}
