//! `/v1/endpoints`: where webhooks go, and what is done with them.

use axum::Extension;
use neo_events::{
    CreatedEndpoint, EndpointQuery, RotatedSecret, Scope, SignedDuration, Tenant,
    domain::{
        endpoint::ROTATION_OVERLAP_DEFAULT,
        id::kind,
        stats::{STATS_DAYS_DEFAULT, STATS_DAYS_MAX},
    },
};

use super::{
    Answer,
    body::{Input, Nothing, OptionalInput},
    created,
    deliveries::with_attempts,
    no_content, ok,
    path::PathId,
    query::{NoQuery, Query},
    routes::{Needs, Routes},
};
use crate::{
    problem::Refusal,
    wire::{
        Endpoint, EndpointChanges, EndpointIn, EndpointStats, RotateSecretIn, TestIn, Verification, VerifyIn,
        into_text, is_no_change,
    },
};

type Id = PathId<kind::Endpoint>;

const READ: Needs = Needs::Scope(Scope::EndpointsRead);
const WRITE: Needs = Needs::Scope(Scope::EndpointsWrite);

pub(super) fn routes() -> Routes {
    Routes::new()
        .post("/v1/endpoints", WRITE, create)
        .get("/v1/endpoints", READ, list)
        .get("/v1/endpoints/{id}", READ, show)
        .patch("/v1/endpoints/{id}", WRITE, update)
        .delete("/v1/endpoints/{id}", WRITE, delete)
        .post("/v1/endpoints/{id}/activate", WRITE, activate)
        .post("/v1/endpoints/{id}/deactivate", WRITE, deactivate)
        .post("/v1/endpoints/{id}/verify", WRITE, verify)
        .post("/v1/endpoints/{id}/unverify", WRITE, unverify)
        .post("/v1/endpoints/{id}/rotate-secret", WRITE, rotate_secret)
        .post("/v1/endpoints/{id}/test", WRITE, test)
        .get("/v1/endpoints/{id}/stats", Needs::Scope(Scope::DeliveriesRead), stats)
}

async fn create(Extension(tenant): Extension<Tenant>, Input(endpoint): Input<EndpointIn>) -> Answer {
    let (draft, secret_token) = endpoint.into_parts();
    let endpoint = Endpoint::from(tenant.create_endpoint(draft, secret_token.as_deref()).await?);
    created(&format!("/v1/endpoints/{}", endpoint.id), &endpoint)
}

async fn list(Extension(tenant): Extension<Tenant>, mut query: Query) -> Answer {
    let conditions = EndpointQuery {
        context_id: query.take_uuid("context_id")?,
        is_active: query.take_bool("is_active")?,
        event_type: query.take("event_type", "category.action")?,
    };
    let (page, bound) = query.end_with_page()?;
    ok(&bound.list::<Endpoint, _>(tenant.endpoints(&conditions, page).await?))
}

async fn show(Extension(tenant): Extension<Tenant>, PathId(id): Id, _: NoQuery) -> Answer {
    ok(&Endpoint::from(tenant.endpoint(id).await?))
}

async fn update(
    Extension(tenant): Extension<Tenant>,
    PathId(id): Id,
    Input(changes): Input<EndpointChanges>,
) -> Answer {
    if is_no_change(&changes) {
        return ok(&Endpoint::from(tenant.endpoint(id).await?));
    }
    let (patch, url) = changes.into_parts();
    ok(&Endpoint::from(tenant.update_endpoint(id, patch, url.as_deref()).await?))
}

async fn delete(Extension(tenant): Extension<Tenant>, PathId(id): Id, _: NoQuery) -> Answer {
    tenant.delete_endpoint(id).await?;
    Ok(no_content())
}

async fn activate(Extension(tenant): Extension<Tenant>, PathId(id): Id, _: OptionalInput<Nothing>) -> Answer {
    ok(&Endpoint::from(tenant.activate_endpoint(id).await?))
}

async fn deactivate(
    Extension(tenant): Extension<Tenant>,
    PathId(id): Id,
    _: OptionalInput<Nothing>,
) -> Answer {
    ok(&Endpoint::from(tenant.deactivate_endpoint(id).await?))
}

/// There is one level so far, which the shape of the input has judged.
async fn verify(Extension(tenant): Extension<Tenant>, PathId(id): Id, _: OptionalInput<VerifyIn>) -> Answer {
    ok(&Verification::from(tenant.verify_endpoint(id).await?))
}

async fn unverify(Extension(tenant): Extension<Tenant>, PathId(id): Id, _: OptionalInput<Nothing>) -> Answer {
    ok(&Endpoint::from(tenant.unverify_endpoint(id).await?))
}

async fn rotate_secret(
    Extension(tenant): Extension<Tenant>,
    PathId(id): Id,
    OptionalInput(rotation): OptionalInput<RotateSecretIn>,
) -> Answer {
    let RotatedSecret { endpoint, secret, .. } =
        tenant.rotate_secret(id, rotation.secret_token.as_deref(), overlap(&rotation)).await?;
    ok(&Endpoint::from(CreatedEndpoint { endpoint, secret }))
}

/// How long the secret before goes on signing.
fn overlap(rotation: &RotateSecretIn) -> SignedDuration {
    let given = rotation.overlap_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
    given.unwrap_or(ROTATION_OVERLAP_DEFAULT)
}

async fn test(
    Extension(tenant): Extension<Tenant>,
    PathId(id): Id,
    OptionalInput(test): OptionalInput<TestIn>,
) -> Answer {
    let payload = test.payload.map(into_text);
    let delivery = with_attempts(&tenant, tenant.test_endpoint(id, payload.as_deref()).await?);
    created(&format!("/v1/deliveries/{}", delivery.id), &delivery)
}

async fn stats(Extension(tenant): Extension<Tenant>, PathId(id): Id, mut query: Query) -> Answer {
    let expected = "between 1 and 90";
    let days = query.take("days", expected)?.unwrap_or(STATS_DAYS_DEFAULT);
    query.end()?;
    if !(1..=STATS_DAYS_MAX).contains(&days) {
        return Err(Refusal::invalid_parameter("days", expected));
    }
    ok(&EndpointStats::new(id.uuid(), days, tenant.endpoint_stats(id, days).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_overlap_for_a_day_unless_the_caller_says_otherwise() {
        for (body, hours) in
            [("{}", 24), (r#"{"overlap_seconds":0}"#, 0), (r#"{"overlap_seconds":604800}"#, 168)]
        {
            let rotation: RotateSecretIn = serde_json::from_str(body).unwrap();
            assert_eq!(overlap(&rotation), SignedDuration::from_hours(hours), "{body}");
        }
    }
}
