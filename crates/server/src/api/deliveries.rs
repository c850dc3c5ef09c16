//! `/v1/deliveries`: look and repair.

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use neo_events::{
    DeliveryQuery, Tenant,
    domain::id::{Id, kind},
};

use super::{
    Answer,
    body::{Nothing, OptionalInput},
    ok,
    path::PathId,
    query::{NoQuery, Query},
};
use crate::wire::{CancelIn, Delivery, List};

/// Why, if nobody says.
const CANCEL_REASON_DEFAULT: &str = "cancelled by an operator";

type DeliveryId = PathId<kind::Delivery>;

pub(super) fn routes() -> Router<Tenant> {
    Router::new()
        .route("/v1/deliveries", get(list))
        .route("/v1/deliveries/{id}", get(show))
        .route("/v1/deliveries/{id}/retry", post(retry))
        .route("/v1/deliveries/{id}/cancel", post(cancel))
}

async fn list(State(tenant): State<Tenant>, mut query: Query) -> Answer {
    let conditions = DeliveryQuery {
        event_id: query.take_uuid("event_id")?.map(Id::from_uuid),
        endpoint_id: query.take_uuid("endpoint_id")?.map(Id::from_uuid),
        status: query.take("status", "pending, retrying, success, failed or cancelled")?,
        created: query.take_range()?,
    };
    let page = query.take_page()?;
    query.end()?;
    ok(&List::<Delivery>::of(tenant.deliveries(&conditions, page).await?))
}

async fn show(State(tenant): State<Tenant>, PathId(id): DeliveryId, _: NoQuery) -> Answer {
    ok(&Delivery::from(tenant.delivery(id).await?))
}

async fn retry(State(tenant): State<Tenant>, PathId(id): DeliveryId, _: OptionalInput<Nothing>) -> Answer {
    ok(&Delivery::from(tenant.retry_delivery(id).await?))
}

async fn cancel(
    State(tenant): State<Tenant>,
    PathId(id): DeliveryId,
    OptionalInput(cancellation): OptionalInput<CancelIn>,
) -> Answer {
    let reason = cancellation.reason.as_deref().unwrap_or(CANCEL_REASON_DEFAULT);
    ok(&Delivery::from(tenant.cancel_delivery(id, reason).await?))
}
