//! The catalogue of event types. A type needs no entry to be published or subscribed to; a disabled entry refuses both.

use jiff::Timestamp;

use crate::{
    endpoint::{DESCRIPTION_CHARS_MAX, NAME_CHARS_MAX},
    event::{EVENT_DATA_BYTES_MAX, JsonObject},
    event_type::EventType,
    id::EventTypeEntryId,
    violation::{Faults, Rule, Violations},
};

/// What every platform starts with, in its `admin` schema: type and display name.
pub const SEEDED_TYPES: [(&str, &str); 11] = [
    ("organization.created", "Organization created"),
    ("organization.updated", "Organization updated"),
    ("organization.verified", "Organization verified"),
    ("organization.deactivated", "Organization deactivated"),
    ("tenant.created", "Tenant created"),
    ("tenant.subscription_changed", "Tenant subscription changed"),
    ("tenant.suspended", "Tenant suspended"),
    ("user.created", "User created"),
    ("user.role_changed", "User role changed"),
    ("system.maintenance_scheduled", "System maintenance scheduled"),
    ("system.backup_completed", "System backup completed"),
];

/// An entry of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct EventTypeEntry {
    /// UUIDv7.
    pub id: EventTypeEntryId,
    /// Counts changes; a write names the revision it read.
    pub revision: u32,
    /// `category.action`, unique.
    pub event_type: EventType,
    /// For people.
    pub display_name: String,
    /// For people.
    pub description: Option<String>,
    /// If not, publishing and subscribing are refused.
    pub is_enabled: bool,
    /// What such an event's data looks like.
    pub example_payload: Option<JsonObject>,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// An entry as somebody wrote it.
#[derive(Debug, Clone, Default)]
pub struct EventTypeDraft {
    /// `category.action`.
    pub event_type: String,
    /// Must equal the prefix of `event_type`, if given.
    pub category: Option<String>,
    /// 1…255 characters.
    pub display_name: String,
    /// ≤ 1000 characters.
    pub description: Option<String>,
    /// `true` if absent.
    pub is_enabled: Option<bool>,
    /// JSON object text.
    pub example_payload: Option<String>,
}

impl EventTypeDraft {
    /// Checks every rule.
    pub fn validate(self, id: EventTypeEntryId, now: Timestamp) -> Result<EventTypeEntry, Violations> {
        let mut faults = Faults::new();
        let event_type =
            faults.take("/event_type", EventType::try_new(&self.event_type).map_err(Rule::EventType));
        let category_fits = match (&self.category, &event_type) {
            (Some(category), Some(event_type)) => category == event_type.category(),
            _ => true,
        };
        faults
            .require(category_fits, "/category", || Rule::Conflict("differs from the prefix of event_type"));
        let display_name = faults.name("/display_name", &self.display_name, NAME_CHARS_MAX);
        let description =
            self.description.map(|text| faults.text("/description", &text, DESCRIPTION_CHARS_MAX));
        let example_payload = self.example_payload.and_then(|text| example(&text, &mut faults));
        faults.found()?;
        let Some(event_type) = event_type else { unreachable!("a missing type would have been found") };
        Ok(EventTypeEntry {
            id,
            revision: 1,
            event_type,
            display_name,
            description,
            is_enabled: self.is_enabled.unwrap_or(true),
            example_payload,
            created_at: now,
            updated_at: now,
        })
    }
}

/// Changes to an entry. Absent fields stay; `Some(None)` clears a field that may be empty.
#[derive(Debug, Clone, Default)]
pub struct EventTypePatch {
    /// 1…255 characters.
    pub display_name: Option<String>,
    /// ≤ 1000 characters.
    pub description: Option<Option<String>>,
    /// If not, publishing and subscribing are refused.
    pub is_enabled: Option<bool>,
    /// JSON object text.
    pub example_payload: Option<Option<String>>,
}

impl EventTypeEntry {
    /// Applies changes and checks every rule.
    pub fn patched(mut self, patch: EventTypePatch, now: Timestamp) -> Result<Self, Violations> {
        let mut faults = Faults::new();
        if let Some(name) = patch.display_name {
            self.display_name = faults.name("/display_name", &name, NAME_CHARS_MAX);
        }
        if let Some(description) = patch.description {
            self.description =
                description.map(|text| faults.text("/description", &text, DESCRIPTION_CHARS_MAX));
        }
        if let Some(payload) = patch.example_payload {
            self.example_payload = payload.and_then(|text| example(&text, &mut faults));
        }
        self.is_enabled = patch.is_enabled.unwrap_or(self.is_enabled);
        faults.found()?;
        Ok(Self { revision: self.revision + 1, updated_at: now.max(self.updated_at), ..self })
    }
}

fn example(text: &str, faults: &mut Faults) -> Option<JsonObject> {
    faults.take("/example_payload", JsonObject::try_new(text, EVENT_DATA_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_types_are_valid() {
        for (event_type, display_name) in SEEDED_TYPES {
            let draft = EventTypeDraft {
                event_type: event_type.into(),
                display_name: display_name.into(),
                ..EventTypeDraft::default()
            };
            draft
                .validate(EventTypeEntryId::new(Timestamp::UNIX_EPOCH, [0; 10]), Timestamp::UNIX_EPOCH)
                .unwrap();
        }
    }

    #[test]
    fn the_category_must_be_the_prefix() {
        let draft = |category: &str| EventTypeDraft {
            event_type: "user.created".into(),
            category: Some(category.into()),
            display_name: "x".into(),
            ..EventTypeDraft::default()
        };
        let id = EventTypeEntryId::new(Timestamp::UNIX_EPOCH, [0; 10]);
        assert!(draft("user").validate(id, Timestamp::UNIX_EPOCH).is_ok());
        let refused = draft("users").validate(id, Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(refused.iter().next().unwrap().pointer, "/category");
    }
}
