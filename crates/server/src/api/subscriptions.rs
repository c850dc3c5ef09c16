//! `/v1/subscriptions`: which events an endpoint wants, and why it gets them.

use axum::Extension;
use neo_events::{
    EventSource, FilterSource, Scope, SubscriptionQuery, Tenant,
    domain::{
        id::{Id, kind},
        violation::{Faults, Rule},
    },
};

use super::{
    Answer, OnlyAsked,
    access::Caller,
    body::Input,
    created, no_content, ok,
    path::PathId,
    query::{NoQuery, Query},
    routes::{Needs, Routes},
};
use crate::{
    problem::Refusal,
    wire::{
        ExplainEvent, ExplainIn, Explanation, Subscription, SubscriptionChanges, SubscriptionIn, into_text,
        is_no_change,
    },
};

type SubscriptionId = PathId<kind::Subscription>;

const READ: Needs = Needs::Scope(Scope::EndpointsRead);
const WRITE: Needs = Needs::Scope(Scope::EndpointsWrite);

pub(super) fn routes() -> Routes {
    Routes::new()
        .post("/v1/subscriptions", WRITE, create)
        .get("/v1/subscriptions", READ, list)
        .post("/v1/subscriptions/explain", READ, explain)
        .get("/v1/subscriptions/{id}", READ, show)
        .patch("/v1/subscriptions/{id}", WRITE, update)
        .delete("/v1/subscriptions/{id}", WRITE, delete)
}

async fn create(Extension(tenant): Extension<Tenant>, Input(subscription): Input<SubscriptionIn>) -> Answer {
    let endpoint_id = Id::from_uuid(subscription.endpoint_id);
    let subscription =
        Subscription::from(tenant.create_subscription(endpoint_id, subscription.into()).await?);
    created(&format!("/v1/subscriptions/{}", subscription.id), &subscription)
}

async fn list(Extension(tenant): Extension<Tenant>, mut query: Query) -> Answer {
    let conditions = SubscriptionQuery {
        endpoint_id: query.take_uuid("endpoint_id")?.map(Id::from_uuid),
        context_id: query.take_uuid("context_id")?,
        is_active: query.take_bool("is_active")?,
    };
    let (page, bound) = query.end_with_page()?;
    ok(&bound.list::<Subscription, _>(tenant.subscriptions(&conditions, page).await?))
}

async fn show(Extension(tenant): Extension<Tenant>, PathId(id): SubscriptionId, _: NoQuery) -> Answer {
    ok(&Subscription::from(tenant.subscription(id).await?))
}

async fn update(
    Extension(tenant): Extension<Tenant>,
    PathId(id): SubscriptionId,
    Input(changes): Input<SubscriptionChanges>,
) -> Answer {
    if is_no_change(&changes) {
        return ok(&Subscription::from(tenant.subscription(id).await?));
    }
    ok(&Subscription::from(tenant.update_subscription(id, changes.into()).await?))
}

async fn delete(Extension(tenant): Extension<Tenant>, PathId(id): SubscriptionId, _: NoQuery) -> Answer {
    tenant.delete_subscription(id).await?;
    Ok(no_content())
}

/// It says what is in an event, so a stored one is for those who may read it.
async fn explain(
    Extension(caller): Extension<Caller>,
    Extension(tenant): Extension<Tenant>,
    Input(question): Input<ExplainIn>,
) -> Answer {
    if question.event_id.is_some() && !caller.may(Scope::EventsRead) {
        return Err(Refusal::insufficient_scope(Scope::EventsRead));
    }
    let (filter, event) = sources(question)?;
    let mut answer = ok(&Explanation::from(tenant.explain(filter, event).await?))?;
    answer.extensions_mut().insert(OnlyAsked);
    Ok(answer)
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
