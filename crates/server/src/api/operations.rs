//! Reachability, connection statistics, and whether the process lives and serves.

use axum::{Extension, extract::State};
use neo_events::{Directory, Scope, Tenant};

use super::{
    Answer,
    body::Input,
    ok,
    query::NoQuery,
    routes::{Needs, Routes},
};
use crate::wire::{ConnectionStats, Connectivity, ConnectivityIn, Readiness};

const LIVEZ: &str = "/livez";
const READYZ: &str = "/readyz";
/// What every node answers, whatever its roles and however many call it.
pub(super) const PROBES: [&str; 2] = [LIVEZ, READYZ];

pub(super) fn probes() -> Routes {
    Routes::new().get(LIVEZ, Needs::Nothing, live).get(READYZ, Needs::Nothing, ready)
}

pub(super) fn routes() -> Routes {
    probes().post("/v1/connectivity-test", Needs::Scope(Scope::EndpointsWrite), test_connectivity).get(
        "/v1/connections/stats",
        Needs::AdminKey,
        connection_stats,
    )
}

async fn live(_: NoQuery) -> Answer {
    ok(&Readiness { status: "alive".to_owned() })
}

async fn ready(State(directory): State<Directory>, _: NoQuery) -> Answer {
    directory.ping().await?;
    ok(&Readiness { status: "ready".to_owned() })
}

async fn test_connectivity(
    Extension(tenant): Extension<Tenant>,
    Input(target): Input<ConnectivityIn>,
) -> Answer {
    let report = tenant.test_connectivity(&target.url, target.timeout_seconds).await?;
    ok(&Connectivity::from(report))
}

async fn connection_stats(Extension(tenant): Extension<Tenant>, _: NoQuery) -> Answer {
    ok(&ConnectionStats::from(tenant.connection_stats()))
}
