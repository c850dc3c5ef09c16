//! Domain events: immutable facts about an aggregate.
//!
//! [`EventDraft`] is what a publisher wrote, [`NewEvent`] the same with every rule checked, [`DomainEvent`] what was
//! stored. The bytes of `event_data` and `event_metadata` are kept as they were sent.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::time::to_micros;
use crate::{
    event_type::EventType,
    id::{EventId, IdEntropy},
    json::{self, Json, Kind},
    violation::{Faults, Rule, Violations},
};

/// Largest `event_data`, in bytes.
pub const EVENT_DATA_BYTES_MAX: usize = 100 * 1024;
/// Largest `event_metadata`, in bytes.
pub const EVENT_METADATA_BYTES_MAX: usize = 50 * 1024;
/// Deepest nesting of `event_data` and `event_metadata`, in levels.
pub const EVENT_DEPTH_MAX: usize = 10;
/// Longest `aggregate_type`, in characters.
pub const AGGREGATE_TYPE_CHARS_MAX: usize = 100;
/// Largest `aggregate_version`.
pub const AGGREGATE_VERSION_MAX: u32 = 999_999;
/// Longest `event_name`, in characters.
pub const EVENT_NAME_CHARS_MAX: usize = 255;
/// The earliest `occurred_at`, 0001-01-01T00:00:00Z: every store's calendar reaches back to there.
pub const OCCURRED_AT_MIN: Timestamp = Timestamp::constant(-62_135_596_800, 0);
/// How far ahead of our clock the time of a given id may be.
pub const ID_AHEAD_MAX: SignedDuration = SignedDuration::from_mins(5);
/// How old a given id may be: hot retention.
pub const ID_AGE_MAX: SignedDuration = SignedDuration::from_hours(24 * 90);

/// A JSON object, kept byte for byte as it was written. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonObject(Arc<str>);

impl JsonObject {
    /// Checks text that must be a JSON object of at most `bytes_max` bytes and [`EVENT_DEPTH_MAX`] levels.
    pub fn try_new(text: &str, bytes_max: usize) -> Result<Self, Rule> {
        if text.len() > bytes_max {
            return Err(Rule::TooLong { actual: text.len(), max: bytes_max, unit: "bytes" });
        }
        match json::check(text, EVENT_DEPTH_MAX).map_err(Rule::Json)? {
            Kind::Object => Ok(Self(text.into())),
            _ => Err(Rule::Malformed { expected: "a JSON object" }),
        }
    }

    /// Text that was checked before it was stored.
    pub fn from_stored(text: &str) -> Self {
        debug_assert!(json::check(text, EVENT_DEPTH_MAX) == Ok(Kind::Object));
        Self(text.into())
    }

    /// `{}`
    pub fn empty() -> Self {
        Self("{}".into())
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The JSON text of a top-level field; of duplicate keys the last.
    pub fn get(&self, key: &str) -> Option<String> {
        let parsed = json::parse(&self.0, EVENT_DEPTH_MAX).ok()?;
        parsed.get(key).map(Json::to_string)
    }

    /// The object with one more field at its end. `value` is JSON text.
    pub fn with(&self, key: &str, value: &str, bytes_max: usize) -> Result<Self, Rule> {
        let text = self.0.trim_end();
        let body = text.strip_suffix('}').unwrap_or(text).trim_end();
        let comma = if body.ends_with('{') { "" } else { "," };
        let mut longer = format!("{body}{comma}");
        // Writing into a String cannot fail.
        let _ = json::write_string(&mut longer, key);
        longer.push(':');
        longer.push_str(value);
        longer.push('}');
        Self::try_new(&longer, bytes_max)
    }
}

impl std::fmt::Debug for JsonObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event as a publisher wrote it. Only `event_type` and `event_data` must be given.
#[derive(Debug, Clone, Default)]
pub struct EventDraft {
    /// A UUIDv7; makes publishing again harmless.
    pub id: Option<Uuid>,
    /// `category.action`.
    pub event_type: String,
    /// A name for people.
    pub event_name: Option<String>,
    /// Which aggregate the event is about; the event's own id if absent.
    pub aggregate_id: Option<Uuid>,
    /// The aggregate's type; the category if absent.
    pub aggregate_type: Option<String>,
    /// The aggregate's version after this event; 1 if absent.
    pub aggregate_version: Option<i64>,
    /// JSON object text, at most [`EVENT_DATA_BYTES_MAX`] long and [`EVENT_DEPTH_MAX`] levels deep.
    pub event_data: String,
    /// JSON object text, at most [`EVENT_METADATA_BYTES_MAX`] long and as deep as `event_data`; `{}` if absent.
    pub event_metadata: Option<String>,
    /// Groups what belongs to one flow.
    pub correlation_id: Option<Uuid>,
    /// What caused this event.
    pub causation_id: Option<Uuid>,
    /// Who did it.
    pub triggered_by_user_id: Option<Uuid>,
    /// Organization, team … inside the tenant.
    pub context_id: Option<Uuid>,
    /// When it happened; now if absent.
    pub occurred_at: Option<Timestamp>,
    /// The newest version of the aggregate that the publisher knows, 0 if none. The event gets the next one, or is
    /// refused as stale.
    pub expected_version: Option<i64>,
}

impl EventDraft {
    /// A draft with the two fields that must be given.
    pub fn new(event_type: impl Into<String>, event_data: impl Into<String>) -> Self {
        Self { event_type: event_type.into(), event_data: event_data.into(), ..Self::default() }
    }

    /// An event about an organization: aggregate and context are the organization.
    pub fn organization(action: &str, organization_id: Uuid, event_data: impl Into<String>) -> Self {
        Self {
            aggregate_id: Some(organization_id),
            context_id: Some(organization_id),
            ..Self::new(format!("organization.{action}"), event_data)
        }
    }

    /// An event about a user, who is also the aggregate.
    pub fn user(action: &str, user_id: Uuid, event_data: impl Into<String>) -> Self {
        Self { aggregate_id: Some(user_id), ..Self::new(format!("user.{action}"), event_data) }
    }

    /// Checks every rule. `now` judges a given id, and with `random` makes one where none is given.
    pub fn validate(self, now: Timestamp, random: IdEntropy) -> Result<NewEvent, Violations> {
        self.validate_by_either(now, now, random)
    }

    /// The same where the clock may read `wall` while it is taken to be `now`, which never goes back: a given id that
    /// is timely by either is accepted. One wrong reading, which `now` goes on from, then keeps nobody's ids out.
    pub fn validate_by_either(
        self,
        now: Timestamp,
        wall: Timestamp,
        random: IdEntropy,
    ) -> Result<NewEvent, Violations> {
        let mut faults = Faults::new();
        let event_type =
            faults.take("/event_type", EventType::try_new(&self.event_type).map_err(Rule::EventType));
        let event_data =
            faults.take("/event_data", JsonObject::try_new(&self.event_data, EVENT_DATA_BYTES_MAX));
        let event_metadata = self.event_metadata.as_deref().and_then(|text| {
            faults.take("/event_metadata", JsonObject::try_new(text, EVENT_METADATA_BYTES_MAX))
        });
        let event_name = self.event_name.map(|name| faults.text("/event_name", &name, EVENT_NAME_CHARS_MAX));
        let aggregate_type = self
            .aggregate_type
            .as_deref()
            .and_then(|name| faults.take("/aggregate_type", normalise_aggregate_type(name)));
        let version = faults.version("/aggregate_version", self.aggregate_version, 1, AGGREGATE_VERSION_MAX);
        let expected =
            faults.version("/expected_version", self.expected_version, 0, AGGREGATE_VERSION_MAX - 1);
        faults.require(expected.is_none() || version.is_none(), "/aggregate_version", || {
            Rule::Conflict("must be absent where expected_version is given: the event gets the next version")
        });
        faults.require(expected.is_none() || self.aggregate_id.is_some(), "/aggregate_id", || Rule::Required);
        faults.require(self.occurred_at.is_none_or(|at| at >= OCCURRED_AT_MIN), "/occurred_at", || {
            Rule::Malformed { expected: "a time from the year 1 on" }
        });
        let given_id = self.id.map(EventId::from_uuid);
        if let Some(id) = given_id {
            faults.require(id_is_timely(id, now) || id_is_timely(id, wall), "/id", || Rule::Malformed {
                expected: "a UUIDv7 at most 5 minutes ahead and not older than 90 days",
            });
        }
        faults.found()?;
        let (Some(event_type), Some(event_data)) = (event_type, event_data) else {
            unreachable!("a missing part would have been found")
        };
        Ok(NewEvent {
            id: given_id.unwrap_or_else(|| EventId::new(now, random)),
            id_is_given: given_id.is_some(),
            event_type,
            event_name,
            aggregate_id: self.aggregate_id,
            aggregate_type,
            version: match (expected, version) {
                (Some(expected), _) => VersionRule::Expect(expected),
                (None, Some(version)) => VersionRule::Given(version),
                (None, None) => VersionRule::Default,
            },
            event_data,
            event_metadata,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            triggered_by_user_id: self.triggered_by_user_id,
            context_id: self.context_id,
            occurred_at: self.occurred_at.map(to_micros),
        })
    }
}

impl Faults {
    fn version(&mut self, pointer: &'static str, value: Option<i64>, min: u32, max: u32) -> Option<u32> {
        let value = value?;
        let fitting = u32::try_from(value).ok().filter(|v| (min..=max).contains(v));
        self.require(fitting.is_some(), pointer, || Rule::OutOfRange { min: min.into(), max: max.into() });
        fitting
    }
}

/// An aggregate type in its one spelling: lower-cased, then `[a-z][a-z0-9_]*`.
pub fn normalise_aggregate_type(name: &str) -> Result<String, Rule> {
    let lower = name.to_lowercase();
    if lower.len() > AGGREGATE_TYPE_CHARS_MAX {
        let actual = lower.chars().count();
        return Err(Rule::TooLong { actual, max: AGGREGATE_TYPE_CHARS_MAX, unit: "characters" });
    }
    let mut bytes = lower.bytes();
    let fits = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if fits {
        Ok(lower)
    } else {
        Err(Rule::Malformed { expected: "a letter, then letters, digits or underscores" })
    }
}

fn id_is_timely(id: EventId, now: Timestamp) -> bool {
    let oldest = now.as_millisecond().saturating_sub(ID_AGE_MAX.as_millis().try_into().unwrap_or(i64::MAX));
    let newest = now.as_millisecond().saturating_add(ID_AHEAD_MAX.as_millis().try_into().unwrap_or(0));
    id.unix_millis().is_some_and(|millis| (oldest..=newest).contains(&millis))
}

/// How an event gets its `aggregate_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionRule {
    /// The publisher said nothing: 1.
    Default,
    /// The publisher's number, unguarded.
    Given(u32),
    /// One more than this, if this is still the newest; else the publish is refused as stale.
    Expect(u32),
}

/// An event that may be appended: every rule that needs no storage holds.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Given by the publisher, or made.
    pub id: EventId,
    /// Whether the publisher chose the id, so that it may be there already.
    pub id_is_given: bool,
    /// `category.action`.
    pub event_type: EventType,
    /// A name for people.
    pub event_name: Option<String>,
    /// As given.
    pub aggregate_id: Option<Uuid>,
    /// As given, in its one spelling.
    pub aggregate_type: Option<String>,
    /// How the version is found.
    pub version: VersionRule,
    /// The publisher's bytes.
    pub event_data: JsonObject,
    /// The publisher's bytes, if any were given.
    pub event_metadata: Option<JsonObject>,
    /// As given.
    pub correlation_id: Option<Uuid>,
    /// As given.
    pub causation_id: Option<Uuid>,
    /// As given.
    pub triggered_by_user_id: Option<Uuid>,
    /// As given.
    pub context_id: Option<Uuid>,
    /// As given, to the microsecond.
    pub occurred_at: Option<Timestamp>,
}

impl NewEvent {
    /// The aggregate the event is about.
    pub fn aggregate_id_or_default(&self) -> Uuid {
        self.aggregate_id.unwrap_or(self.id.uuid())
    }

    /// The aggregate's type.
    pub fn aggregate_type_or_default(&self) -> &str {
        self.aggregate_type.as_deref().unwrap_or(self.event_type.category())
    }

    /// The event as it is stored at `created_at` with this version; it occurred `now` if its publisher does not say.
    pub fn stored(&self, created_at: Timestamp, aggregate_version: u32, now: Timestamp) -> DomainEvent {
        DomainEvent {
            id: self.id,
            event_type: self.event_type.clone(),
            event_name: self.event_name.clone(),
            aggregate_id: self.aggregate_id_or_default(),
            aggregate_type: self.aggregate_type_or_default().to_owned(),
            aggregate_version,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            triggered_by_user_id: self.triggered_by_user_id,
            context_id: self.context_id,
            occurred_at: self.occurred_at.unwrap_or_else(|| to_micros(now)),
            created_at,
            event_metadata: self.event_metadata.clone().unwrap_or_else(JsonObject::empty),
            event_data: self.event_data.clone(),
        }
    }

    /// Whether publishing this again, after `stored`, is the same publish: every field that was given is equal.
    pub fn repeats(&self, stored: &DomainEvent) -> bool {
        fn agrees<T: PartialEq + ?Sized>(given: Option<&T>, stored: Option<&T>) -> bool {
            given.is_none() || given == stored
        }
        let version_agrees = match self.version {
            VersionRule::Default => true,
            VersionRule::Given(version) => version == stored.aggregate_version,
            VersionRule::Expect(expected) => expected + 1 == stored.aggregate_version,
        };
        version_agrees
            && self.event_type == stored.event_type
            && self.event_data == stored.event_data
            && agrees(self.event_metadata.as_ref(), Some(&stored.event_metadata))
            && agrees(self.event_name.as_ref(), stored.event_name.as_ref())
            && agrees(self.aggregate_id.as_ref(), Some(&stored.aggregate_id))
            && agrees(self.aggregate_type.as_ref(), Some(&stored.aggregate_type))
            && agrees(self.correlation_id.as_ref(), stored.correlation_id.as_ref())
            && agrees(self.causation_id.as_ref(), stored.causation_id.as_ref())
            && agrees(self.triggered_by_user_id.as_ref(), stored.triggered_by_user_id.as_ref())
            && agrees(self.context_id.as_ref(), stored.context_id.as_ref())
            && agrees(self.occurred_at.as_ref(), Some(&stored.occurred_at))
    }
}

/// An event as it was stored.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainEvent {
    /// UUIDv7.
    pub id: EventId,
    /// `category.action`.
    pub event_type: EventType,
    /// A name for people.
    pub event_name: Option<String>,
    /// The aggregate.
    pub aggregate_id: Uuid,
    /// Its type.
    pub aggregate_type: String,
    /// Its version after this event, 1…999 999.
    pub aggregate_version: u32,
    /// The publisher's bytes.
    pub event_data: JsonObject,
    /// The publisher's bytes, or `{}`.
    pub event_metadata: JsonObject,
    /// Groups what belongs to one flow.
    pub correlation_id: Option<Uuid>,
    /// What caused it.
    pub causation_id: Option<Uuid>,
    /// Who did it.
    pub triggered_by_user_id: Option<Uuid>,
    /// Organization, team … inside the tenant.
    pub context_id: Option<Uuid>,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// When it was stored. Never decreases within a schema.
    pub created_at: Timestamp,
}

impl DomainEvent {
    /// The part of the type before the dot.
    pub fn category(&self) -> &str {
        self.event_type.category()
    }

    /// The part of the type after the dot.
    pub fn action(&self) -> &str {
        self.event_type.action()
    }

    /// The JSON text of a metadata field.
    pub fn metadata(&self, key: &str) -> Option<String> {
        self.event_metadata.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn refusals(draft: EventDraft) -> Vec<String> {
        match draft.validate(now(), [7; 10]) {
            Ok(_) => vec![],
            Err(violations) => violations.iter().map(|v| format!("{} {}", v.pointer, v.rule)).collect(),
        }
    }

    #[test]
    fn two_fields_are_enough() {
        let event = EventDraft::new("user.created", r#"{"a":1}"#).validate(now(), [7; 10]).unwrap();
        assert_eq!(event.aggregate_type_or_default(), "user");
        assert_eq!(event.aggregate_id_or_default(), event.id.uuid());
        assert_eq!(event.version, VersionRule::Default);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let draft = EventDraft {
            aggregate_version: Some(0),
            aggregate_type: Some("9lives".into()),
            ..EventDraft::new("User.Created", "[1]")
        };
        let found = refusals(draft);
        assert_eq!(found.len(), 4, "{found:?}");
        for pointer in ["/event_type", "/event_data", "/aggregate_version", "/aggregate_type"] {
            assert!(found.iter().any(|fault| fault.starts_with(pointer)), "{pointer} in {found:?}");
        }
    }

    #[test]
    fn sizes_are_limited() {
        let data = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        assert!(refusals(EventDraft::new("a.b", data(EVENT_DATA_BYTES_MAX))).is_empty());
        assert_eq!(
            refusals(EventDraft::new("a.b", data(EVENT_DATA_BYTES_MAX + 1))),
            ["/event_data is 102401 bytes long, the limit is 102400"]
        );
        let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(refusals(EventDraft::new("a.b", deep(10))).is_empty());
        assert_eq!(refusals(EventDraft::new("a.b", deep(11))).len(), 1);
    }

    #[test]
    fn given_ids_must_be_timely_uuid_v7() {
        let with = |id| refusals(EventDraft { id: Some(id), ..EventDraft::new("a.b", "{}") });
        let at = |shift: SignedDuration| EventId::new(now() + shift, [1; 10]).uuid();
        assert!(with(at(SignedDuration::ZERO)).is_empty());
        assert!(with(at(SignedDuration::from_mins(5))).is_empty());
        assert_eq!(with(at(SignedDuration::from_mins(6))).len(), 1);
        assert!(with(at(-ID_AGE_MAX)).is_empty());
        assert_eq!(with(at(-ID_AGE_MAX - SignedDuration::from_mins(1))).len(), 1);
        assert_eq!(with(Uuid::nil()).len(), 1);
    }

    #[test]
    fn an_id_that_is_timely_by_either_clock_is_accepted() {
        let at = |hours| now() + SignedDuration::from_hours(hours);
        let is_accepted = |of: Timestamp, now, wall| {
            let draft =
                EventDraft { id: Some(EventId::new(of, [1; 10]).uuid()), ..EventDraft::new("a.b", "{}") };
            draft.validate_by_either(now, wall, [7; 10]).is_ok()
        };
        let ahead = at(24 * 365);
        assert!(is_accepted(at(0), ahead, at(0)) && is_accepted(ahead, ahead, at(0)));
        assert!(!is_accepted(at(24 * 180), ahead, at(0)), "between them it is timely by neither");
    }

    #[test]
    fn what_happened_before_every_calendar_is_refused() {
        let at = |at| refusals(EventDraft { occurred_at: Some(at), ..EventDraft::new("a.b", "{}") });
        assert!(at(OCCURRED_AT_MIN).is_empty() && at(Timestamp::MAX).is_empty());
        assert_eq!(
            at(OCCURRED_AT_MIN - SignedDuration::from_nanos(1)),
            ["/occurred_at must be a time from the year 1 on"]
        );
    }

    #[test]
    fn metadata_grows_without_touching_what_is_there() {
        let text = "{ \"b\" : 1.0 }";
        let object = JsonObject::try_new(text, 100).unwrap();
        assert_eq!(object.with("a\"", "[2]", 100).unwrap().as_str(), "{ \"b\" : 1.0,\"a\\\"\":[2]}");
        assert_eq!(JsonObject::empty().with("a", "1", 100).unwrap().as_str(), "{\"a\":1}");
        assert_eq!(object.get("b").as_deref(), Some("1.0"));
    }
}
