//! The JSON of the HTTP API: the only place that knows its shapes. The server reads inputs and writes outputs, the
//! command line's client the other way round.
//!
//! These are neither domain types nor rows: they hold what was written, unjudged, and refuse only what has no place
//! in them (an unknown field, a number where text belongs). JSON that users bring (`event_data`, filters, examples) is
//! kept as raw text, so that its bytes survive.
//!
//! In inputs a field that is `null` counts as absent, but in changes (PATCH): there `null` clears a field that may be
//! empty and is refused for the others. In outputs an absent value is `null`, so that every field is always there.

#![expect(clippy::struct_field_names, reason = "names are the contract's")]

mod access;
mod deliveries;
mod endpoints;
mod event_types;
mod events;
mod operations;
mod subscriptions;

use std::{borrow::Cow, fmt, marker::PhantomData};

use neo_events::{Cursor, Page, Timestamp, domain::time};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

pub(crate) use access::{ApiKey, ApiKeyIn, Tenant, TenantIn};
pub(crate) use deliveries::{Attempt, CancelIn, Delivery};
pub(crate) use endpoints::{
    Endpoint, EndpointChanges, EndpointIn, EndpointStats, Method, ResponseTimes, RotateSecretIn, TestIn,
};
pub(crate) use event_types::{EventType, EventTypeChanges, EventTypeIn};
pub(crate) use events::{Aggregate, BatchAnswer, BatchIn, BatchResult, Event, EventIn, Published};
pub(crate) use operations::{
    ConnectionStats, Connectivity, ConnectivityIn, Readiness, Verification, VerifyIn,
};
pub(crate) use subscriptions::{
    Clause, ExplainEvent, ExplainIn, Explanation, Subscription, SubscriptionChanges, SubscriptionIn,
};

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct List<T> {
    pub(crate) data: Vec<T>,
    /// `cursor` of the next page; `null` after the last.
    pub(crate) next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A page of the library, item by item; `hand_out` makes of its cursor what the caller gets.
    pub(crate) fn of<D>(page: Page<D>, hand_out: impl FnOnce(Cursor) -> String) -> Self
    where
        T: From<D>,
    {
        Self { data: page.items.into_iter().map(T::from).collect(), next_cursor: page.next.map(hand_out) }
    }
}

/// `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    pub(crate) kind: Cow<'static, str>,
    pub(crate) title: Cow<'static, str>,
    pub(crate) status: u16,
    pub(crate) detail: String,
    /// Stable, for programs.
    pub(crate) code: Cow<'static, str>,
    /// Each fault with its place; empty where the problem is none of the input's.
    #[serde(default)]
    pub(crate) errors: Vec<Fault>,
    /// Absent in the problems of a batch's items: the request has one id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<Uuid>,
    /// With `stale_version`: the aggregate's newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) newest_version: Option<u32>,
    /// With `batch_rejected`: what became of each item.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) batch: Option<Box<BatchAnswer>>,
}

impl Problem {
    /// How much of an answer it takes up, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(0, |text| text.len())
    }

    /// The same without what it says of the input.
    pub(crate) fn in_brief(self) -> Self {
        let detail =
            "left out, because the refusals of this batch are long already; publish it alone to see why"
                .to_owned();
        Self { detail, errors: Vec::new(), ..self }
    }
}

/// One fault of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// JSON pointer (RFC 6901); empty for the whole input.
    pub(crate) pointer: String,
    pub(crate) detail: String,
}

/// An object of free names in the order they were written. A name that is written twice is kept twice, for the domain
/// to refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pairs<V>(pub(crate) Vec<(String, V)>);

impl<V> Default for Pairs<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl Pairs<String> {
    /// Headers of a message; values of a repeated name are joined (RFC 9110 §5.3).
    pub(crate) fn of_message(headers: Vec<(String, String)>) -> Self {
        let mut joined: Vec<(String, String)> = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            match joined.iter_mut().find(|(seen, _)| seen.eq_ignore_ascii_case(&name)) {
                Some((_, values)) => {
                    values.push_str(", ");
                    values.push_str(&value);
                }
                None => joined.push((name, value)),
            }
        }
        Self(joined)
    }
}

impl<V: Serialize> Serialize for Pairs<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

/// Whether changes name no field: then there is nothing to write.
pub(crate) fn is_no_change(changes: &impl Serialize) -> bool {
    serde_json::to_string(changes).is_ok_and(|text| text == "{}")
}

/// The text of raw JSON, without copying it.
pub(crate) fn into_text(raw: Box<RawValue>) -> String {
    Box::<str>::from(raw).into_string()
}

/// Raw JSON of text that was checked before it was stored.
fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON that was checked before it was stored")
}

/// For a time in an input: RFC 3339 alone.
fn input_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| time::parse(&text)).transpose().map_err(D::Error::custom)
}

/// For a field that a change may set: `null` is not a value of it.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// For a field that a change may set or clear: `null` clears.
#[expect(
    clippy::option_option,
    reason = "absent, cleared and set are three cases, as in the domain's patches"
)]
fn clearable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
