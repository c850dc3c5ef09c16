//! `/v1/tenants`: who there is.

use axum::extract::State;
use neo_events::Directory;

use super::{
    Answer,
    body::Input,
    created, ok,
    path::PathTenant,
    query::{NoQuery, Query},
    routes::{Needs, Routes},
};
use crate::wire::{Tenant, TenantIn};

pub(super) fn routes() -> Routes {
    Routes::new().post("/v1/tenants", Needs::AdminKey, create).get("/v1/tenants", Needs::AdminKey, list).get(
        "/v1/tenants/{tenant}",
        Needs::AdminKey,
        show,
    )
}

async fn create(State(directory): State<Directory>, Input(tenant): Input<TenantIn>) -> Answer {
    let tenant = Tenant::from(directory.create_tenant(tenant.into()).await?);
    created(&format!("/v1/tenants/{}", tenant.tenant_id), &tenant)
}

async fn list(State(directory): State<Directory>, query: Query) -> Answer {
    let (page, bound) = query.end_with_page()?;
    ok(&bound.list::<Tenant, _>(directory.tenants(page).await?))
}

async fn show(State(directory): State<Directory>, PathTenant(schema): PathTenant, _: NoQuery) -> Answer {
    ok(&Tenant::from(directory.tenant(&schema).await?))
}
