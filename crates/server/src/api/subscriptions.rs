//! `/v1/subscriptions`: which events an endpoint wants, and why it gets them.

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use neo_events::{
    EventSource, FilterSource, SubscriptionQuery, Tenant,
    domain::{
        id::{Id, kind},
        violation::{Faults, Rule},
    },
};

use super::{
    Answer,
    body::Input,
    created, no_content, ok,
    path::PathId,
    query::{NoQuery, Query},
};
use crate::{
    problem::Refusal,
    wire::{
        ExplainEvent, ExplainIn, Explanation, List, Subscription, SubscriptionChanges, SubscriptionIn,
        into_text,
    },
};

type SubscriptionId = PathId<kind::Subscription>;

pub(super) fn routes() -> Router<Tenant> {
    Router::new()
        .route("/v1/subscriptions", post(create).get(list))
        .route("/v1/subscriptions/explain", post(explain))
        .route("/v1/subscriptions/{id}", get(show).patch(update).delete(delete))
}

async fn create(State(tenant): State<Tenant>, Input(subscription): Input<SubscriptionIn>) -> Answer {
    let endpoint_id = Id::from_uuid(subscription.endpoint_id);
    let subscription =
        Subscription::from(tenant.create_subscription(endpoint_id, subscription.into()).await?);
    created(&format!("/v1/subscriptions/{}", subscription.id), &subscription)
}

async fn list(State(tenant): State<Tenant>, mut query: Query) -> Answer {
    let conditions = SubscriptionQuery {
        endpoint_id: query.take_uuid("endpoint_id")?.map(Id::from_uuid),
        context_id: query.take_uuid("context_id")?,
        is_active: query.take_bool("is_active")?,
    };
    let page = query.take_page()?;
    query.end()?;
    ok(&List::<Subscription>::of(tenant.subscriptions(&conditions, page).await?))
}

async fn show(State(tenant): State<Tenant>, PathId(id): SubscriptionId, _: NoQuery) -> Answer {
    ok(&Subscription::from(tenant.subscription(id).await?))
}

async fn update(
    State(tenant): State<Tenant>,
    PathId(id): SubscriptionId,
    Input(changes): Input<SubscriptionChanges>,
) -> Answer {
    ok(&Subscription::from(tenant.update_subscription(id, changes.into()).await?))
}

async fn delete(State(tenant): State<Tenant>, PathId(id): SubscriptionId, _: NoQuery) -> Answer {
    tenant.delete_subscription(id).await?;
    Ok(no_content())
}

async fn explain(State(tenant): State<Tenant>, Input(question): Input<ExplainIn>) -> Answer {
    let (filter, event) = sources(question)?;
    ok(&Explanation::from(tenant.explain(filter, event).await?))
}

/// Each source must be named once, in one of its two ways.
fn sources(question: ExplainIn) -> Result<(FilterSource, EventSource), Refusal> {
    let mut faults = Faults::new();
    let filter = match (question.subscription_id, question.event_filters) {
        (Some(id), None) => Some(FilterSource::Subscription(Id::from_uuid(id))),
        (None, Some(filter)) => Some(FilterSource::Filter(into_text(filter))),
        (None, None) => {
            faults.add(
                "/subscription_id",
                Rule::Conflict("either subscription_id or event_filters is required"),
            );
            None
        }
        (Some(_), Some(_)) => {
            faults.add("/event_filters", Rule::Conflict("must be absent where subscription_id is given"));
            None
        }
    };
    let event = match (question.event_id, question.event) {
        (Some(id), None) => Some(EventSource::Stored(Id::from_uuid(id))),
        (None, Some(event)) => Some(given(event)),
        (None, None) => {
            faults.add("/event_id", Rule::Conflict("either event_id or event is required"));
            None
        }
        (Some(_), Some(_)) => {
            faults.add("/event", Rule::Conflict("must be absent where event_id is given"));
            None
        }
    };
    faults.found()?;
    let (Some(filter), Some(event)) = (filter, event) else {
        unreachable!("a missing source would have been found")
    };
    Ok((filter, event))
}

fn given(event: ExplainEvent) -> EventSource {
    EventSource::Given {
        event_type: event.event_type,
        context_id: event.context_id,
        event_data: into_text(event.event_data),
    }
}
