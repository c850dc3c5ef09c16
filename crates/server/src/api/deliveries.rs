//! `/v1/deliveries`: look and repair.

use axum::Extension;
use neo_events::{
    DeliveryQuery, Scope, Tenant,
    domain::id::{Id, kind},
};

use super::{
    Answer,
    body::{Nothing, OptionalInput},
    ok,
    path::PathId,
    query::{NoQuery, Query},
    routes::{Needs, Routes},
};
use crate::wire::{CancelIn, Delivery};

/// Why, if nobody says.
const CANCEL_REASON_DEFAULT: &str = "cancelled by an operator";

/// Why a delivery waits that is due.
const HELD_REASON: &str = "the endpoint is inactive";

type DeliveryId = PathId<kind::Delivery>;

const READ: Needs = Needs::Scope(Scope::DeliveriesRead);
const WRITE: Needs = Needs::Scope(Scope::DeliveriesWrite);

pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/v1/deliveries", READ, list)
        .get("/v1/deliveries/{id}", READ, show)
        .post("/v1/deliveries/{id}/retry", WRITE, retry)
        .post("/v1/deliveries/{id}/cancel", WRITE, cancel)
}

async fn list(Extension(tenant): Extension<Tenant>, mut query: Query) -> Answer {
    let conditions = DeliveryQuery {
        event_id: query.take_uuid("event_id")?.map(Id::from_uuid),
        endpoint_id: query.take_uuid("endpoint_id")?.map(Id::from_uuid),
        status: query.take("status", "pending, retrying, success, failed or cancelled")?,
        created: query.take_range()?,
        ..DeliveryQuery::default()
    };
    let (page, bound) = query.end_with_page()?;
    ok(&bound.list::<Delivery, _>(tenant.deliveries(&conditions, page).await?))
}

async fn show(Extension(tenant): Extension<Tenant>, PathId(id): DeliveryId, _: NoQuery) -> Answer {
    let history = tenant.delivery(id).await?;
    let is_held = tenant.is_held(&history.delivery).await?;
    ok(&Delivery { held_reason: is_held.then(|| HELD_REASON.to_owned()), ..history.into() })
}

async fn retry(
    Extension(tenant): Extension<Tenant>,
    PathId(id): DeliveryId,
    _: OptionalInput<Nothing>,
) -> Answer {
    ok(&Delivery::from(tenant.retry_delivery(id).await?))
}

async fn cancel(
    Extension(tenant): Extension<Tenant>,
    PathId(id): DeliveryId,
    OptionalInput(cancellation): OptionalInput<CancelIn>,
) -> Answer {
    let reason = cancellation.reason.as_deref().unwrap_or(CANCEL_REASON_DEFAULT);
    ok(&Delivery::from(tenant.cancel_delivery(id, reason).await?))
}
