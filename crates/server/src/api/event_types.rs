//! `/v1/event-types`: the catalogue.

use axum::{Extension, response::Response};
use neo_events::{EventTypeQuery, Scope, Tenant, domain::event_type::Category};

use super::{
    Answer,
    body::Input,
    created, no_content, ok,
    path::PathEventType,
    query::{NoQuery, Query},
    routes::{Needs, Routes},
};
use crate::{
    problem::Refusal,
    wire::{EventType, EventTypeChanges, EventTypeIn, is_no_change},
};

const READ: Needs = Needs::Scope(Scope::EventsRead);
const WRITE: Needs = Needs::Scope(Scope::EndpointsWrite);

pub(super) fn routes() -> Routes {
    Routes::new()
        .post("/v1/event-types", WRITE, create)
        .get("/v1/event-types", READ, list)
        .get("/v1/event-types/{event_type}", READ, show)
        .patch("/v1/event-types/{event_type}", WRITE, update)
        .delete("/v1/event-types/{event_type}", WRITE, delete)
}

async fn create(Extension(tenant): Extension<Tenant>, Input(entry): Input<EventTypeIn>) -> Answer {
    let entry = EventType::from(tenant.create_event_type(entry.into()).await?);
    created(&format!("/v1/event-types/{}", entry.event_type), &entry)
}

async fn list(Extension(tenant): Extension<Tenant>, mut query: Query) -> Answer {
    let conditions =
        EventTypeQuery { category: take_category(&mut query)?, is_enabled: query.take_bool("is_enabled")? };
    let (page, bound) = query.end_with_page()?;
    ok(&bound.list::<EventType, _>(tenant.event_types(&conditions, page).await?))
}

fn take_category(query: &mut Query) -> Result<Option<String>, Refusal> {
    let Some(name) = query.take_text("category")? else { return Ok(None) };
    let expected = "a lower-case letter, then lower-case letters, digits or underscores, at most 50";
    Category::try_new(&name).map_err(|_| Refusal::invalid_parameter("category", expected))?;
    Ok(Some(name))
}

async fn show(Extension(tenant): Extension<Tenant>, PathEventType(of): PathEventType, _: NoQuery) -> Answer {
    ok(&EventType::from(tenant.event_type(&of).await?))
}

async fn update(
    Extension(tenant): Extension<Tenant>,
    PathEventType(of): PathEventType,
    Input(changes): Input<EventTypeChanges>,
) -> Answer {
    if is_no_change(&changes) {
        return ok(&EventType::from(tenant.event_type(&of).await?));
    }
    ok(&EventType::from(tenant.update_event_type(&of, changes.into()).await?))
}

async fn delete(
    Extension(tenant): Extension<Tenant>,
    PathEventType(of): PathEventType,
    _: NoQuery,
) -> Result<Response, Refusal> {
    tenant.delete_event_type(&of).await?;
    Ok(no_content())
}
