//! `/v1/api-keys`: who may do what. A key's text is in the answer to its creation and nowhere else.

use axum::extract::State;
use http::StatusCode;
use neo_events::{
    ApiKeyQuery, Directory, Schema,
    domain::{id::kind, violation::Rule},
};

use super::{
    Answer,
    body::Input,
    json, no_content, ok,
    path::PathId,
    query::{NoQuery, Query},
    routes::{Needs, Routes},
};
use crate::{
    problem::{Refusal, TENANT_FORM},
    wire::{ApiKey, ApiKeyIn},
};

pub(super) fn routes() -> Routes {
    Routes::new()
        .post("/v1/api-keys", Needs::AdminKey, create)
        .get("/v1/api-keys", Needs::AdminKey, list)
        .delete("/v1/api-keys/{id}", Needs::AdminKey, delete)
}

async fn create(State(directory): State<Directory>, Input(key): Input<ApiKeyIn>) -> Answer {
    let malformed = |_| Refusal::breaks("/tenant", Rule::Malformed { expected: TENANT_FORM });
    let schema = Schema::from_tenant_header(&key.tenant).map_err(malformed)?;
    let created = directory.create_api_key(schema, key.into()).await?;
    json(StatusCode::CREATED, &ApiKey::from(created))
}

async fn list(State(directory): State<Directory>, mut query: Query) -> Answer {
    let conditions = ApiKeyQuery { schema: query.take_tenant("tenant")? };
    let (page, bound) = query.end_with_page()?;
    ok(&bound.list::<ApiKey, _>(directory.api_keys(&conditions, page).await?))
}

async fn delete(State(directory): State<Directory>, PathId(id): PathId<kind::ApiKey>, _: NoQuery) -> Answer {
    directory.delete_api_key(id).await?;
    Ok(no_content())
}
