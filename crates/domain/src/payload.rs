//! The body of a delivery, format `standard`: one JSON object with the event's envelope and the publisher's own bytes.
//!
//! `id`, `type`, `timestamp` (when it happened), `data`, `aggregate` `{type,id,version}`, `context_id`,
//! `correlation_id`, `causation_id`; absent ones are omitted and metadata is never sent.

use std::fmt::Write;

use crate::event::DomainEvent;

const ENVELOPE_BYTES: usize = 512;

/// The body that receivers get for this event.
pub fn standard(event: &DomainEvent) -> String {
    let mut body = String::with_capacity(ENVELOPE_BYTES + event.event_data.as_str().len());
    // Nothing below needs escaping: ids, a checked type name, RFC 3339 digits, an aggregate type of [a-z0-9_].
    // Writing into a String cannot fail.
    let _ = write!(
        body,
        r#"{{"id":"{}","type":"{}","timestamp":"{}","data":{},"aggregate":{{"type":"{}","id":"{}","version":{}}}"#,
        event.id,
        event.event_type,
        event.occurred_at,
        event.event_data.as_str(),
        event.aggregate_type,
        event.aggregate_id,
        event.aggregate_version,
    );
    let references = [
        ("context_id", event.context_id),
        ("correlation_id", event.correlation_id),
        ("causation_id", event.causation_id),
    ];
    for (name, id) in references {
        if let Some(id) = id {
            let _ = write!(body, r#","{name}":"{id}""#);
        }
    }
    body.push('}');
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::JsonObject, event_type::EventType, id::EventId, json, time::to_micros};
    use jiff::Timestamp;
    use uuid::Uuid;

    #[test]
    fn the_publishers_bytes_survive_and_absent_fields_are_omitted() {
        let data = r#"{ "z": 1.50, "a": "\u00e9", "z": 1e400 }"#;
        let event = DomainEvent {
            id: EventId::from_uuid(Uuid::nil()),
            event_type: EventType::try_new("user.created").unwrap(),
            event_name: None,
            aggregate_id: Uuid::nil(),
            aggregate_type: "user".into(),
            aggregate_version: 7,
            event_data: JsonObject::from_stored(data),
            event_metadata: JsonObject::from_stored(r#"{"ip":"10.0.0.1"}"#),
            correlation_id: None,
            causation_id: None,
            triggered_by_user_id: None,
            context_id: Some(Uuid::max()),
            occurred_at: to_micros("2026-11-21T12:00:00.123456789Z".parse::<Timestamp>().unwrap()),
            created_at: Timestamp::UNIX_EPOCH,
        };
        let body = standard(&event);
        let nil = "00000000-0000-0000-0000-000000000000";
        let expected = format!(
            r#"{{"id":"{nil}","type":"user.created","timestamp":"2026-11-21T12:00:00.123456Z","data":{data},"aggregate":{{"type":"user","id":"{nil}","version":7}},"context_id":"ffffffff-ffff-ffff-ffff-ffffffffffff"}}"#
        );
        assert_eq!(body, expected);
        json::check(&body, 12).unwrap();
    }
}
