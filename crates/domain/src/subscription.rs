//! Subscriptions: which events an endpoint wants.

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    endpoint::{DESCRIPTION_CHARS_MAX, Endpoint, NAME_CHARS_MAX},
    event_type::EventPattern,
    filter::Filter,
    id::{EndpointId, EventTypeEntryId, SubscriptionId},
    violation::{Faults, Rule, Violations},
};

/// Endpoint × event type (or pattern) × filter.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// UUIDv7.
    pub id: SubscriptionId,
    /// Counts changes; a write names the revision it read.
    pub revision: u32,
    /// Where matching events go.
    pub endpoint_id: EndpointId,
    /// The catalogue entry of an exact type, where there is one.
    pub event_type_id: Option<EventTypeEntryId>,
    /// Exact, `category.*` or `*`.
    pub pattern: EventPattern,
    /// Over `event_data`; an empty filter holds for every event.
    pub filter: Filter,
    /// Whether it matches at all.
    pub is_active: bool,
    /// If set, only this context's events match.
    pub context_id: Option<Uuid>,
    /// For people.
    pub subscription_name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it last matched an event, accurate to 10 s.
    pub last_triggered_at: Option<Timestamp>,
}

/// A subscription as somebody wrote it.
#[derive(Debug, Clone, Default)]
pub struct SubscriptionDraft {
    /// Exact, `category.*` or `*`.
    pub event_type: String,
    /// JSON text of the filter; absent or `{}` matches every event.
    pub event_filters: Option<String>,
    /// If set, only this context's events match.
    pub context_id: Option<Uuid>,
    /// 1…255 characters.
    pub subscription_name: Option<String>,
    /// ≤ 1000 characters.
    pub description: Option<String>,
    /// `true` if absent.
    pub is_active: Option<bool>,
}

impl SubscriptionDraft {
    /// Checks every rule, among them that the contexts of endpoint and subscription agree.
    pub fn validate(
        self,
        id: SubscriptionId,
        endpoint: &Endpoint,
        now: Timestamp,
    ) -> Result<Subscription, Violations> {
        let mut faults = Faults::new();
        let pattern = faults.take("/event_type", self.event_type.parse().map_err(Rule::EventType));
        let filter = parse_filter(self.event_filters.as_deref(), &mut faults);
        let texts = (
            self.subscription_name.map(|name| faults.name("/subscription_name", &name, NAME_CHARS_MAX)),
            self.description.map(|text| faults.text("/description", &text, DESCRIPTION_CHARS_MAX)),
        );
        faults.require(contexts_agree(self.context_id, endpoint.context_id), "/context_id", || {
            Rule::Conflict("differs from the endpoint's context_id")
        });
        faults.found()?;
        let Some(pattern) = pattern else { unreachable!("a missing pattern would have been found") };
        Ok(Subscription {
            id,
            revision: 1,
            endpoint_id: endpoint.id,
            event_type_id: None,
            pattern,
            filter,
            is_active: self.is_active.unwrap_or(true),
            context_id: self.context_id,
            subscription_name: texts.0,
            description: texts.1,
            created_at: now,
            updated_at: now,
            last_triggered_at: None,
        })
    }
}

/// Changes to a subscription. Absent fields stay; `Some(None)` clears a field that may be empty.
#[derive(Debug, Clone, Default)]
pub struct SubscriptionPatch {
    /// Exact, `category.*` or `*`.
    pub event_type: Option<String>,
    /// JSON text of the filter.
    pub event_filters: Option<String>,
    /// Whether it matches at all.
    pub is_active: Option<bool>,
    /// 1…255 characters.
    pub subscription_name: Option<Option<String>>,
    /// ≤ 1000 characters.
    pub description: Option<Option<String>>,
}

impl Subscription {
    /// Applies changes and checks every rule.
    pub fn patched(mut self, patch: SubscriptionPatch, now: Timestamp) -> Result<Self, Violations> {
        let mut faults = Faults::new();
        if let Some(event_type) = patch.event_type {
            let parsed = faults.take("/event_type", event_type.parse().map_err(Rule::EventType));
            self.pattern = parsed.unwrap_or(self.pattern);
        }
        if let Some(filter) = patch.event_filters {
            self.filter = parse_filter(Some(&filter), &mut faults);
        }
        if let Some(name) = patch.subscription_name {
            self.subscription_name =
                name.map(|name| faults.name("/subscription_name", &name, NAME_CHARS_MAX));
        }
        if let Some(description) = patch.description {
            self.description =
                description.map(|text| faults.text("/description", &text, DESCRIPTION_CHARS_MAX));
        }
        self.is_active = patch.is_active.unwrap_or(self.is_active);
        faults.found()?;
        Ok(Self { revision: self.revision + 1, updated_at: now.max(self.updated_at), ..self })
    }
}

/// Parses a filter; absent means one that holds for every event.
pub fn parse_filter(text: Option<&str>, faults: &mut Faults) -> Filter {
    match text.map(Filter::parse) {
        None => Filter::default(),
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            faults.add(format!("/event_filters{}", error.pointer()), Rule::Filter(error.reason().clone()));
            Filter::default()
        }
    }
}

/// The context whose events a subscription sees, if it is bound to one.
pub fn effective_context(subscription: Option<Uuid>, endpoint: Option<Uuid>) -> Option<Uuid> {
    subscription.or(endpoint)
}

fn contexts_agree(subscription: Option<Uuid>, endpoint: Option<Uuid>) -> bool {
    match (subscription, endpoint) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => true,
    }
}
