//! Subscriptions, and why they match an event or do not.

use neo_events_domain::{
    event::{EVENT_DATA_BYTES_MAX, EVENT_DEPTH_MAX, JsonObject},
    event_type::EventType,
    filter::{Clause, Filter},
    id::{EndpointId, EventId, SubscriptionId},
    json,
    subscription::{Subscription, SubscriptionDraft, SubscriptionPatch, effective_context, parse_filter},
    violation::{Faults, Violations},
};
use neo_events_store::{Inserted, Page, PageRequest, StoreError, SubscriptionQuery, Updated};
use uuid::Uuid;

use crate::{Conflict, Error, Tenant, context::no_rows, endpoints::UPDATE_TRIES_MAX, long_calls::Place};

/// What is explained.
#[derive(Debug, Clone)]
pub enum FilterSource {
    /// A subscription: its pattern, its context and its filter.
    Subscription(SubscriptionId),
    /// A filter alone, as JSON text.
    Filter(String),
}

/// For which event.
#[derive(Debug, Clone)]
pub enum EventSource {
    /// A stored one.
    Stored(EventId),
    /// One that need not exist.
    Given {
        /// Judged only if given.
        event_type: Option<String>,
        /// Judged only against a subscription.
        context_id: Option<Uuid>,
        /// JSON object text.
        event_data: String,
    },
}

/// Whether a subscription matches an event, and which clause saw what.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Whether all clauses hold.
    pub matches: bool,
    /// Each with the value it saw; those of the envelope have the paths `$event_type`, `$context_id` and
    /// `$is_active`.
    pub clauses: Vec<Clause>,
}

struct ExplainedEvent {
    event_type: Option<EventType>,
    context_id: Option<Uuid>,
    event_data: JsonObject,
}

impl Tenant {
    /// Subscribes an endpoint.
    pub async fn create_subscription(
        &self,
        endpoint_id: EndpointId,
        draft: SubscriptionDraft,
    ) -> Result<Subscription, Error> {
        let endpoint = match self.endpoint(endpoint_id).await {
            Err(Error::NotFound(_)) => return Err(no_such_endpoint()),
            found => found?,
        };
        let draft = SubscriptionDraft { context_id: self.written_context(draft.context_id)?, ..draft };
        let subscription = draft.validate(self.sources().new_id(), &endpoint, self.sources().now())?;
        match self.store().insert_subscription(&self.schema, &subscription).await? {
            Inserted::New | Inserted::Exists => self.written(subscription.id).await,
            Inserted::EndpointMissing => Err(no_such_endpoint()),
            Inserted::TypeDisabled => Err(Error::type_disabled()),
        }
    }

    /// One subscription.
    pub async fn subscription(&self, id: SubscriptionId) -> Result<Subscription, Error> {
        let subscription = self.store().subscription(&self.schema, id).await?;
        let seen = subscription.filter(|subscription| self.sees(subscription.context_id));
        seen.ok_or(Error::NotFound("subscription"))
    }

    /// What was just written, with what the store adds to it. If reading takes too long it is there all the same.
    async fn written(&self, id: SubscriptionId) -> Result<Subscription, Error> {
        self.subscription(id).await.map_err(|error| match error {
            Error::Store(StoreError::TooSlow(cause)) => StoreError::Unavailable(cause).into(),
            other => other,
        })
    }

    /// Subscriptions, newest first.
    pub async fn subscriptions(
        &self,
        query: &SubscriptionQuery,
        page: PageRequest,
    ) -> Result<Page<Subscription>, Error> {
        let Ok(context_id) = self.listed_context(query.context_id) else { return Ok(no_rows()) };
        let query = SubscriptionQuery { context_id, ..query.clone() };
        Ok(self.store().subscriptions(&self.schema, &query, page).await?)
    }

    /// Changes a subscription.
    pub async fn update_subscription(
        &self,
        id: SubscriptionId,
        patch: SubscriptionPatch,
    ) -> Result<Subscription, Error> {
        for _ in 0..UPDATE_TRIES_MAX {
            let subscription = self.subscription(id).await?.patched(patch.clone(), self.sources().now())?;
            match self.store().update_subscription(&self.schema, &subscription).await? {
                Updated::Written => return self.written(id).await,
                Updated::Stale => {}
                Updated::Missing => return Err(Error::NotFound("subscription")),
                Updated::TypeDisabled => return Err(Error::type_disabled()),
            }
        }
        Err(Conflict::Contended.into())
    }

    /// Removes a subscription. Deliveries that it caused go on.
    pub async fn delete_subscription(&self, id: SubscriptionId) -> Result<(), Error> {
        self.subscription(id).await?;
        let was_there = self.store().delete_subscription(&self.schema, id).await?;
        if was_there { Ok(()) } else { Err(Error::NotFound("subscription")) }
    }

    /// Why a subscription, or a filter that is not one yet, matches an event or does not. Refused as
    /// [`Busy`](crate::Busy) while too many explanations are under way.
    pub async fn explain(&self, filter: FilterSource, event: EventSource) -> Result<Explanation, Error> {
        let place = self.shared.explaining.begin(&self.schema)?;
        let event = self.explained_event(event).await?;
        let mut clauses = Vec::new();
        let filter = match filter {
            FilterSource::Filter(text) => {
                let mut faults = Faults::new();
                let filter = parse_filter(Some(&text), &mut faults);
                faults.found()?;
                filter
            }
            FilterSource::Subscription(id) => {
                let subscription = self.subscription(id).await?;
                // Not by what the caller sees: a context's subscription may be to an endpoint of the whole tenant.
                let endpoint = self.store().endpoint(&self.schema, subscription.endpoint_id).await?;
                let endpoint = endpoint.ok_or(Error::NotFound("endpoint"))?;
                let context = effective_context(subscription.context_id, endpoint.context_id);
                clauses.extend(envelope_clauses(&subscription, endpoint.is_active, context, &event));
                subscription.filter
            }
        };
        clauses.extend(filter_clauses_in_turn(place, filter, event.event_data).await);
        Ok(Explanation { matches: clauses.iter().all(|clause| clause.holds), clauses })
    }

    async fn explained_event(&self, source: EventSource) -> Result<ExplainedEvent, Error> {
        let (event_type, context_id, event_data) = match source {
            EventSource::Stored(id) => {
                let event = self.event(id).await?.event;
                return Ok(ExplainedEvent {
                    event_type: Some(event.event_type),
                    context_id: event.context_id,
                    event_data: event.event_data,
                });
            }
            EventSource::Given { event_type, context_id, event_data } => (event_type, context_id, event_data),
        };
        let mut faults = Faults::new();
        let data = JsonObject::try_new(&event_data, EVENT_DATA_BYTES_MAX);
        let event_data = faults.take("/event/event_data", data);
        let event_type = event_type.and_then(|text| {
            let parsed = EventType::try_new(&text).map_err(neo_events_domain::violation::Rule::EventType);
            faults.take("/event/event_type", parsed)
        });
        faults.found()?;
        let event_data = event_data.unwrap_or_else(JsonObject::empty);
        Ok(ExplainedEvent { event_type, context_id, event_data })
    }
}

fn no_such_endpoint() -> Error {
    use neo_events_domain::violation::Rule;
    Violations::one("/endpoint_id", Rule::NoSuch("endpoint")).into()
}

/// One at a time and beside the threads that serve: the costliest filter takes tenths of a second. It goes on when its
/// caller has gone away, and so do its turn and its place.
async fn filter_clauses_in_turn(place: Place, filter: Filter, data: JsonObject) -> Vec<Clause> {
    let turn = place.turn().await;
    let explained = tokio::task::spawn_blocking(move || {
        let clauses = filter_clauses(&filter, &data);
        drop(turn);
        clauses
    });
    explained.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn filter_clauses(filter: &Filter, data: &JsonObject) -> Vec<Clause> {
    json::parse(data.as_str(), EVENT_DEPTH_MAX).map(|data| filter.explain(&data)).unwrap_or_default()
}

fn envelope_clauses(
    subscription: &Subscription,
    endpoint_is_active: bool,
    context: Option<Uuid>,
    event: &ExplainedEvent,
) -> Vec<Clause> {
    let quoted = |text: String| format!("\"{text}\"");
    let mut clauses = vec![];
    if let Some(event_type) = &event.event_type {
        clauses.push(Clause {
            path: "$event_type".into(),
            operator: "pattern".into(),
            expected: quoted(subscription.pattern.to_string()),
            actual: Some(quoted(event_type.to_string())),
            holds: subscription.pattern.matches(event_type),
        });
    }
    if let Some(context) = context {
        clauses.push(Clause {
            path: "$context_id".into(),
            operator: "$eq".into(),
            expected: quoted(context.to_string()),
            actual: event.context_id.map(|id| quoted(id.to_string())),
            holds: event.context_id == Some(context),
        });
    }
    for (path, is_active) in
        [("$is_active", subscription.is_active), ("$endpoint.is_active", endpoint_is_active)]
    {
        clauses.push(Clause {
            path: path.into(),
            operator: "$eq".into(),
            expected: "true".into(),
            actual: Some(is_active.to_string()),
            holds: is_active,
        });
    }
    clauses
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::mpsc, task::Poll, time::Duration};

    use super::*;
    use crate::{NeoEvents, Schema};

    /// It occupies a thread, and whoever calls and goes away again would occupy all of them.
    #[test]
    fn an_explanation_keeps_its_turn_though_its_caller_is_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let neo = NeoEvents::builder(folder.path().join("admin.db")).start().await.unwrap();
            let (free, busy) = mpsc::channel::<()>();
            // The only thread.
            let occupied = tokio::task::spawn_blocking(move || busy.recv().is_ok());
            let event =
                EventSource::Given { event_type: None, context_id: None, event_data: r#"{"a":1}"#.into() };
            let tenant = neo.platform();
            {
                let mut explaining = pin!(tenant.explain(FilterSource::Filter(r#"{"a":1}"#.into()), event));
                let first = poll_fn(|context| Poll::Ready(explaining.as_mut().poll(context))).await;
                assert!(first.is_pending());
            }
            // Another tenant's, which nothing but the node's only turn holds up.
            let place = tenant.shared.explaining.begin(&Schema::tenant("other").unwrap()).unwrap();
            let mut next = pin!(place.turn());
            let is_free = poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_ready())).await;
            assert!(!is_free, "the thread is still occupied");
            drop(free);
            occupied.await.unwrap();
            let turn = tokio::time::timeout(Duration::from_secs(20), next).await;
            assert!(turn.is_ok(), "it is over, and the turn is not given back");
        });
    }
}
