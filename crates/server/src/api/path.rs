//! Ids in paths. What is not an id names no row, so it is answered like one that is not there.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use neo_events::{
    Schema,
    domain::{
        event_type::EventType,
        id::{Id, kind},
    },
};

use crate::problem::Refusal;

/// The id at the end of `/v1/<rows>/{id}`, or before what is done with the row.
pub(super) struct PathId<Kind>(pub(super) Id<Kind>);

/// The type of `/v1/event-types/{event_type}`.
pub(super) struct PathEventType(pub(super) EventType);

/// The tenant of `/v1/tenants/{tenant}`, named as in `X-Neo-Tenant-ID`.
pub(super) struct PathTenant(pub(super) Schema);

/// The type and id of `/v1/aggregates/{type}/{id}`.
pub(super) struct PathAggregate {
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: uuid::Uuid,
}

/// A kind of row that has a path.
pub(super) trait Row {
    /// As the library calls it.
    const NAME: &'static str;
}

impl Row for kind::Event {
    const NAME: &'static str = "event";
}
impl Row for kind::Endpoint {
    const NAME: &'static str = "endpoint";
}
impl Row for kind::Subscription {
    const NAME: &'static str = "subscription";
}
impl Row for kind::Delivery {
    const NAME: &'static str = "delivery";
}
impl Row for kind::ApiKey {
    const NAME: &'static str = "API key";
}

impl<S: Send + Sync, Kind: Row> FromRequestParts<S> for PathId<Kind> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let [id] = parameters(parts).await.ok_or_else(|| Refusal::not_found(Kind::NAME))?;
        id.parse().map(Self).map_err(|_| Refusal::not_found(Kind::NAME))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathEventType {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let [name] = parameters(parts).await.ok_or_else(|| Refusal::not_found("event type"))?;
        name.parse().map(Self).map_err(|_| Refusal::not_found("event type"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathTenant {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let [name] = parameters(parts).await.ok_or_else(|| Refusal::not_found("tenant"))?;
        Schema::from_tenant_header(&name).map(Self).map_err(|_| Refusal::not_found("tenant"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathAggregate {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let [aggregate_type, id] = parameters(parts).await.ok_or_else(|| Refusal::not_found("aggregate"))?;
        let aggregate_id = id.parse().map_err(|_| Refusal::not_found("aggregate"))?;
        Ok(Self { aggregate_type, aggregate_id })
    }
}

/// The path's parameters in their order; `None` if one is not text.
async fn parameters<const N: usize>(parts: &mut Parts) -> Option<[String; N]> {
    let parameters = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let values: Vec<_> = parameters.iter().map(|(_, value)| value.to_owned()).collect();
    values.try_into().ok()
}
