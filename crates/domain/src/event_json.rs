//! Events as JSON: the same names as everywhere, data and metadata byte for byte.

use std::{borrow::Cow, fmt::Write, str::FromStr};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    event::{
        AGGREGATE_VERSION_MAX, DomainEvent, EVENT_DATA_BYTES_MAX, EVENT_DEPTH_MAX, EVENT_METADATA_BYTES_MAX,
        EventDraft, JsonObject, normalise_aggregate_type,
    },
    event_type::EventType,
    id::EventId,
    json::{self, Member},
    time,
    violation::{Faults, Rule, Violations, pointer_token},
};

impl EventDraft {
    /// Reads a JSON object with the fields of a draft. Unknown, repeated and mistyped fields are refused by name; the
    /// rules of their values are judged by [`EventDraft::validate`].
    pub fn from_json(text: &str) -> Result<Self, Violations> {
        let mut fields = Fields::read(text)?;
        let draft = Self {
            id: fields.parse("id", UUID),
            event_type: fields.text("event_type").unwrap_or_default(),
            event_name: fields.text("event_name"),
            aggregate_id: fields.parse("aggregate_id", UUID),
            aggregate_type: fields.text("aggregate_type"),
            aggregate_version: fields.number("aggregate_version"),
            event_data: fields.raw("event_data").unwrap_or_default().to_owned(),
            event_metadata: fields.raw("event_metadata").map(str::to_owned),
            correlation_id: fields.parse("correlation_id", UUID),
            causation_id: fields.parse("causation_id", UUID),
            triggered_by_user_id: fields.parse("triggered_by_user_id", UUID),
            context_id: fields.parse("context_id", UUID),
            occurred_at: fields.time("occurred_at"),
            expected_version: fields.number("expected_version"),
        };
        fields.end()?;
        Ok(draft)
    }
}

impl DomainEvent {
    /// The event as a JSON object; absent fields are null.
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(1024 + self.event_data.as_str().len());
        let quoted = |text: &dyn std::fmt::Display| format!("\"{text}\"");
        let optional = |id: Option<Uuid>| id.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\""));
        let event_name = self.event_name.as_deref().map_or_else(
            || "null".to_owned(),
            |name| {
                let mut text = String::new();
                // Writing into a String cannot fail.
                let _ = json::write_string(&mut text, name);
                text
            },
        );
        for (name, value) in [
            ("id", Cow::from(quoted(&self.id))),
            ("event_type", quoted(&self.event_type).into()),
            ("event_name", event_name.into()),
            ("aggregate_id", quoted(&self.aggregate_id).into()),
            ("aggregate_type", quoted(&self.aggregate_type).into()),
            ("aggregate_version", self.aggregate_version.to_string().into()),
            ("event_data", self.event_data.as_str().into()),
            ("event_metadata", self.event_metadata.as_str().into()),
            ("correlation_id", optional(self.correlation_id).into()),
            ("causation_id", optional(self.causation_id).into()),
            ("triggered_by_user_id", optional(self.triggered_by_user_id).into()),
            ("context_id", optional(self.context_id).into()),
            ("occurred_at", quoted(&self.occurred_at).into()),
            ("created_at", quoted(&self.created_at).into()),
        ] {
            let separator = if json.is_empty() { '{' } else { ',' };
            let _ = write!(json, "{separator}\"{name}\":{value}");
        }
        json.push('}');
        json
    }

    /// Reads what [`DomainEvent::to_json`] wrote, or the API answered; `processed_at`, which is no part of the event,
    /// is passed over.
    pub fn from_json(text: &str) -> Result<Self, Violations> {
        let mut fields = Fields::read(text)?;
        fields.take("processed_at");
        let event_type = |text: String| EventType::try_new(&text).map_err(Rule::EventType);
        let aggregate_type = |text: String| normalise_aggregate_type(&text);
        let data = |text| JsonObject::try_new(text, EVENT_DATA_BYTES_MAX);
        let metadata = |text| JsonObject::try_new(text, EVENT_METADATA_BYTES_MAX);
        let parts = (
            fields.require("id", |fields| fields.parse("id", UUID).map(EventId::from_uuid)),
            fields.judge("event_type", Fields::text, event_type),
            fields.require("aggregate_id", |fields| fields.parse("aggregate_id", UUID)),
            fields.judge("aggregate_type", Fields::text, aggregate_type),
            fields.judge("aggregate_version", Fields::number, version),
            fields.judge("event_data", Fields::raw, data),
            fields.judge("event_metadata", Fields::raw, metadata),
            fields.require("occurred_at", |fields| fields.time("occurred_at")),
            fields.require("created_at", |fields| fields.time("created_at")),
        );
        let (event_name, correlation_id, causation_id, triggered_by_user_id, context_id) = (
            fields.text("event_name"),
            fields.parse("correlation_id", UUID),
            fields.parse("causation_id", UUID),
            fields.parse("triggered_by_user_id", UUID),
            fields.parse("context_id", UUID),
        );
        fields.end()?;
        let (
            Some(id),
            Some(event_type),
            Some(aggregate_id),
            Some(aggregate_type),
            Some(aggregate_version),
            Some(event_data),
            Some(event_metadata),
            Some(occurred_at),
            Some(created_at),
        ) = parts
        else {
            unreachable!("a missing part would have been found")
        };
        Ok(Self {
            id,
            event_type,
            event_name,
            aggregate_id,
            aggregate_type,
            aggregate_version,
            event_data,
            event_metadata,
            correlation_id,
            causation_id,
            triggered_by_user_id,
            context_id,
            occurred_at,
            created_at,
        })
    }
}

const UUID: &str = "a UUID";

fn version(number: i64) -> Result<u32, Rule> {
    let fitting = u32::try_from(number).ok().filter(|version| (1..=AGGREGATE_VERSION_MAX).contains(version));
    fitting.ok_or(Rule::OutOfRange { min: 1.0, max: AGGREGATE_VERSION_MAX.into() })
}

/// More than an event has. Each is compared with those before it.
const MEMBERS_MAX: usize = 100;

/// The fields of an object that are not taken yet, with the faults of those that were.
struct Fields<'a> {
    left: Vec<Member<'a>>,
    faults: Faults,
}

impl<'a> Fields<'a> {
    /// One level deeper than data and metadata may be.
    fn read(text: &'a str) -> Result<Self, Violations> {
        let members = json::members(text, EVENT_DEPTH_MAX + 1);
        let members = members.map_err(|error| Violations::one("", Rule::Json(error)))?;
        let members =
            members.ok_or_else(|| Violations::one("", Rule::Malformed { expected: "a JSON object" }))?;
        if members.len() > MEMBERS_MAX {
            let rule = Rule::TooMany { actual: members.len(), max: MEMBERS_MAX, unit: "fields" };
            return Err(Violations::one("", rule));
        }
        let (mut left, mut faults) = (Vec::<Member<'a>>::with_capacity(members.len()), Faults::new());
        for (name, raw) in members {
            if left.iter().any(|(earlier, _)| *earlier == name) {
                faults.add(format!("/{}", pointer_token(&name)), Rule::Repeated);
            } else {
                left.push((name, raw));
            }
        }
        Ok(Self { left, faults })
    }

    /// A field's text, unless it is absent or null.
    fn take(&mut self, name: &'static str) -> Option<&'a str> {
        let index = self.left.iter().position(|(found, _)| found == name)?;
        let (_, raw) = self.left.swap_remove(index);
        (raw != "null").then_some(raw)
    }

    fn raw(&mut self, name: &'static str) -> Option<&'a str> {
        self.take(name)
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        let raw = self.take(name)?;
        let text = json::parse(raw, 0).ok().and_then(|value| value.as_str().map(str::to_owned));
        self.malformed_unless(text, name, "a string")
    }

    fn parse<T: FromStr>(&mut self, name: &'static str, expected: &'static str) -> Option<T> {
        let text = self.text(name)?;
        self.malformed_unless(text.parse().ok(), name, expected)
    }

    fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        time::parse(&text).map_err(|rule| self.faults.add(format!("/{name}"), rule)).ok()
    }

    fn number(&mut self, name: &'static str) -> Option<i64> {
        let raw = self.take(name)?;
        self.malformed_unless(raw.parse().ok(), name, "a whole number")
    }

    /// What must be there.
    fn require<T>(&mut self, name: &'static str, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let is_there = self.left.iter().any(|(found, raw)| found == name && *raw != "null");
        let taken = take(self);
        if !is_there {
            self.faults.add(format!("/{name}"), Rule::Required);
        }
        taken
    }

    /// What must be there and keep its rule.
    fn judge<V, T>(
        &mut self,
        name: &'static str,
        take: impl FnOnce(&mut Self, &'static str) -> Option<V>,
        judge: impl FnOnce(V) -> Result<T, Rule>,
    ) -> Option<T> {
        let value = self.require(name, |fields| take(fields, name))?;
        judge(value).map_err(|rule| self.faults.add(format!("/{name}"), rule)).ok()
    }

    fn malformed_unless<T>(&mut self, value: Option<T>, name: &str, expected: &'static str) -> Option<T> {
        if value.is_none() {
            self.faults.add(format!("/{name}"), Rule::Malformed { expected });
        }
        value
    }

    fn end(mut self) -> Result<(), Violations> {
        for (name, _) in &self.left {
            self.faults.add(format!("/{}", pointer_token(name)), Rule::Unknown);
        }
        self.faults.found()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = concat!(
        r#"{"id":"01932b7c-0000-7000-8000-000000000001","event_type":"user.created","event_name":"a \"name\"","#,
        r#""aggregate_id":"01932b7c-0000-7000-8000-000000000002","aggregate_type":"user","aggregate_version":3,"#,
        r#""event_data":{ "z": 1.50, "a": "\u00e9" },"event_metadata":{},"correlation_id":null,"causation_id":null,"#,
        r#""triggered_by_user_id":null,"context_id":"01932b7c-0000-7000-8000-000000000003","#,
        r#""occurred_at":"2026-11-21T12:00:00.123456Z","created_at":"2026-11-21T12:00:01Z"}"#
    );

    #[test]
    fn an_event_survives_its_json_byte_for_byte() {
        let event = DomainEvent::from_json(EVENT).unwrap();
        assert_eq!(event.to_json(), EVENT);
        assert_eq!(event.event_data.as_str(), r#"{ "z": 1.50, "a": "\u00e9" }"#);
    }

    #[test]
    fn a_draft_is_read_with_its_bytes() {
        let draft =
            EventDraft::from_json(r#"{"event_type":"a.b","event_data":{ "n": 1.0 },"aggregate_version":2}"#);
        let draft = draft.unwrap();
        assert_eq!((draft.event_data.as_str(), draft.aggregate_version), (r#"{ "n": 1.0 }"#, Some(2)));
        assert_eq!(draft.id, None);
    }

    fn faults(text: &str) -> String {
        EventDraft::from_json(text).unwrap_err().to_string()
    }

    #[test]
    fn faulty_fields_are_refused_by_name() {
        assert_eq!(
            faults(r#"{"event_type":1,"colour":"red","id":"x","id":null}"#),
            "/id is given twice; /id must be a UUID; /event_type must be a string; /colour is not a known field"
        );
        assert_eq!(faults("[]"), "the input must be a JSON object");
        assert!(faults("{").contains("not acceptable JSON"));
        assert!(
            faults(r#"{"occurred_at":"2026-11-21T12Z"}"#)
                .starts_with("/occurred_at must be an RFC 3339 time")
        );
        let missing = DomainEvent::from_json("{}").unwrap_err();
        assert_eq!(missing.iter().count(), 9);
    }

    #[test]
    fn a_field_that_is_there_is_not_said_to_be_missing() {
        let refused = |from: &str, to: &str| {
            assert!(EVENT.contains(from));
            DomainEvent::from_json(&EVENT.replace(from, to)).unwrap_err().to_string()
        };
        for version in ["0", "-1", "1000000", "99999999999"] {
            assert_eq!(
                refused(r#""aggregate_version":3"#, &format!(r#""aggregate_version":{version}"#)),
                "/aggregate_version must be between 1 and 999999"
            );
        }
        let version = refused(r#""aggregate_version":3"#, r#""aggregate_version":"3""#);
        assert_eq!(version, "/aggregate_version must be a whole number");
        assert_eq!(refused(r#""user.created""#, "7"), "/event_type must be a string");
        assert_eq!(
            refused(r#""aggregate_version":3"#, r#""aggregate_version":null"#),
            "/aggregate_version is required"
        );
    }
}
