//! Subscriptions, and why they match.

use neo_events::{SubscriptionDraft, SubscriptionPatch, Timestamp, domain::id::Id};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{clearable, given, into_text, raw};

/// A subscription as somebody writes it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct SubscriptionIn {
    pub(crate) endpoint_id: Uuid,
    /// Exact, `category.*` or `*`.
    pub(crate) event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_filters: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscription_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_active: Option<bool>,
}

impl From<SubscriptionIn> for SubscriptionDraft {
    fn from(subscription: SubscriptionIn) -> Self {
        Self {
            event_type: subscription.event_type,
            event_filters: subscription.event_filters.map(into_text),
            context_id: subscription.context_id,
            subscription_name: subscription.subscription_name,
            description: subscription.description,
            is_active: subscription.is_active,
        }
    }
}

/// Changes to a subscription.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[expect(clippy::option_option, reason = "absent, cleared and set are three cases")]
pub(crate) struct SubscriptionChanges {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) event_type: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) event_filters: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) is_active: Option<bool>,
    #[serde(default, deserialize_with = "clearable", skip_serializing_if = "Option::is_none")]
    pub(crate) subscription_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "clearable", skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Option<String>>,
}

impl From<SubscriptionChanges> for SubscriptionPatch {
    fn from(changes: SubscriptionChanges) -> Self {
        Self {
            event_type: changes.event_type,
            event_filters: changes.event_filters.map(into_text),
            is_active: changes.is_active,
            subscription_name: changes.subscription_name,
            description: changes.description,
        }
    }
}

/// A subscription.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Subscription {
    pub(crate) id: Uuid,
    pub(crate) endpoint_id: Uuid,
    /// The catalogue entry of an exact type, where there is one.
    pub(crate) event_type_id: Option<Uuid>,
    pub(crate) event_type: String,
    pub(crate) event_filters: Box<RawValue>,
    pub(crate) is_active: bool,
    pub(crate) context_id: Option<Uuid>,
    pub(crate) subscription_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) last_triggered_at: Option<Timestamp>,
}

impl From<neo_events::Subscription> for Subscription {
    fn from(subscription: neo_events::Subscription) -> Self {
        Self {
            id: subscription.id.uuid(),
            endpoint_id: subscription.endpoint_id.uuid(),
            event_type_id: subscription.event_type_id.map(Id::uuid),
            event_type: subscription.pattern.to_string(),
            event_filters: raw(subscription.filter.as_json()),
            is_active: subscription.is_active,
            context_id: subscription.context_id,
            subscription_name: subscription.subscription_name,
            description: subscription.description,
            created_at: subscription.created_at,
            updated_at: subscription.updated_at,
            last_triggered_at: subscription.last_triggered_at,
        }
    }
}

/// What is explained: one of the first two, for one of the last two.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct ExplainIn {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscription_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_filters: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<ExplainEvent>,
}

/// An event that need not exist. Fields that matching does not look at may be there, so that a whole event can be
/// pasted, as it is published or as it is answered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[expect(
    dead_code,
    reason = "the other fields are known so that they are not refused, and then not looked at"
)]
pub(crate) struct ExplainEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_id: Option<Uuid>,
    pub(crate) event_data: Box<RawValue>,
    #[serde(skip_serializing)]
    id: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    event_name: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    aggregate_id: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    aggregate_type: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    aggregate_version: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    event_metadata: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    correlation_id: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    causation_id: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    triggered_by_user_id: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    occurred_at: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    expected_version: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    processed_at: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    created_at: Option<IgnoredAny>,
}

/// Whether it matches, and which clause saw what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) matches: bool,
    pub(crate) clauses: Vec<Clause>,
}

/// One clause of a filter, or of the envelope (`$event_type`, `$context_id`, `$is_active`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Clause {
    pub(crate) path: String,
    pub(crate) operator: String,
    pub(crate) expected: Box<RawValue>,
    /// `null` also where the field is missing.
    pub(crate) actual: Option<Box<RawValue>>,
    pub(crate) holds: bool,
}

impl From<neo_events::Explanation> for Explanation {
    fn from(explanation: neo_events::Explanation) -> Self {
        let clauses = explanation.clauses.into_iter().map(Clause::from).collect();
        Self { matches: explanation.matches, clauses }
    }
}

impl From<neo_events::Clause> for Clause {
    fn from(clause: neo_events::Clause) -> Self {
        Self {
            path: clause.path,
            operator: clause.operator,
            expected: raw(&clause.expected),
            actual: clause.actual.as_deref().map(raw),
            holds: clause.holds,
        }
    }
}
