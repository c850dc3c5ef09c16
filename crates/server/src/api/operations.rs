//! Reachability, connection statistics, and whether the process lives and serves.

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use neo_events::Tenant;

use super::{Answer, body::Input, ok, query::NoQuery};
use crate::wire::{ConnectionStats, Connectivity, ConnectivityIn, Readiness};

pub(super) fn routes() -> Router<Tenant> {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/v1/connectivity-test", post(test_connectivity))
        .route("/v1/connections/stats", get(connection_stats))
}

async fn live(_: NoQuery) -> Answer {
    ok(&Readiness { status: "alive".to_owned() })
}

async fn ready(State(tenant): State<Tenant>, _: NoQuery) -> Answer {
    tenant.ping().await?;
    ok(&Readiness { status: "ready".to_owned() })
}

async fn test_connectivity(State(tenant): State<Tenant>, Input(target): Input<ConnectivityIn>) -> Answer {
    let report = tenant.test_connectivity(&target.url, target.timeout_seconds).await?;
    ok(&Connectivity::from(report))
}

async fn connection_stats(State(tenant): State<Tenant>, _: NoQuery) -> Answer {
    ok(&ConnectionStats::from(tenant.connection_stats()))
}
