//! `/v1/deliveries`: look and repair.

use axum::Extension;
use neo_events::{
    DeliveryHistory, DeliveryQuery, Scope, Tenant,
    domain::id::{Id, kind},
};

use super::{
    Answer,
    body::{Nothing, OptionalInput},
    ok,
    path::PathId,
    query::{CursorTag, NoQuery, Query},
    routes::{Needs, Routes},
};
use crate::wire::{Attempt, CancelIn, Delivery};

/// Why, if nobody says.
const CANCEL_REASON_DEFAULT: &str = "cancelled by an operator";

type DeliveryId = PathId<kind::Delivery>;

const READ: Needs = Needs::Scope(Scope::DeliveriesRead);
const WRITE: Needs = Needs::Scope(Scope::DeliveriesWrite);

pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/v1/deliveries", READ, list)
        .get("/v1/deliveries/{id}", READ, show)
        .get("/v1/deliveries/{id}/attempts", READ, attempts)
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
    ok(&with_attempts(&tenant, tenant.delivery_history(id).await?))
}

async fn attempts(Extension(tenant): Extension<Tenant>, PathId(id): DeliveryId, query: Query) -> Answer {
    let (page, bound) = query.of_list(attempts_of(&tenant, id)).end_with_page()?;
    ok(&bound.list::<Attempt, _>(tenant.attempts(id, page).await?))
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

/// A delivery with its newest attempts, and with a cursor of the list of all of them.
pub(super) fn with_attempts(tenant: &Tenant, history: DeliveryHistory) -> Delivery {
    let list = attempts_of(tenant, history.delivery.id);
    Delivery::with_attempts(history, |cursor| list.hand_out(cursor))
}

/// The list of a delivery's attempts, by whatever spelling of its id it was asked for.
fn attempts_of(tenant: &Tenant, id: Id<kind::Delivery>) -> CursorTag {
    CursorTag::of(&format!("/v1/deliveries/{id}/attempts"), tenant)
}
