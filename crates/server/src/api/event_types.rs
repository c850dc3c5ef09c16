//! `/v1/event-types`: the catalogue.

use axum::{
    Router,
    extract::State,
    response::Response,
    routing::{get, post},
};
use neo_events::{EventTypeQuery, Tenant};

use super::{
    Answer,
    body::Input,
    created, no_content, ok,
    path::PathEventType,
    query::{NoQuery, Query},
};
use crate::{
    problem::Refusal,
    wire::{EventType, EventTypeChanges, EventTypeIn, List},
};

pub(super) fn routes() -> Router<Tenant> {
    Router::new()
        .route("/v1/event-types", post(create).get(list))
        .route("/v1/event-types/{event_type}", get(show).patch(update).delete(delete))
}

async fn create(State(tenant): State<Tenant>, Input(entry): Input<EventTypeIn>) -> Answer {
    let entry = EventType::from(tenant.create_event_type(entry.into()).await?);
    created(&format!("/v1/event-types/{}", entry.event_type), &entry)
}

async fn list(State(tenant): State<Tenant>, mut query: Query) -> Answer {
    let conditions =
        EventTypeQuery { category: query.take_text("category")?, is_enabled: query.take_bool("is_enabled")? };
    let page = query.take_page()?;
    query.end()?;
    ok(&List::<EventType>::of(tenant.event_types(&conditions, page).await?))
}

async fn show(State(tenant): State<Tenant>, PathEventType(of): PathEventType, _: NoQuery) -> Answer {
    ok(&EventType::from(tenant.event_type(&of).await?))
}

async fn update(
    State(tenant): State<Tenant>,
    PathEventType(of): PathEventType,
    Input(changes): Input<EventTypeChanges>,
) -> Answer {
    ok(&EventType::from(tenant.update_event_type(&of, changes.into()).await?))
}

async fn delete(
    State(tenant): State<Tenant>,
    PathEventType(of): PathEventType,
    _: NoQuery,
) -> Result<Response, Refusal> {
    tenant.delete_event_type(&of).await?;
    Ok(no_content())
}
