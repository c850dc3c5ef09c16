//! Reachability, verification, connection statistics, readiness.

use std::time::Duration;

use neo_events::{ConnectivityReport, VerificationReport};
use serde::{Deserialize, Serialize};

use super::Endpoint;

/// A target to reach.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct ConnectivityIn {
    pub(crate) url: String,
    /// 1…60, 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_seconds: Option<u32>,
}

/// What a HEAD request found out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Connectivity {
    /// Whether an answer below 500 came.
    pub(crate) reachable: bool,
    pub(crate) status: Option<u16>,
    pub(crate) error_code: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) timings: Timings,
}

/// Milliseconds of each step; `null` for a step that was not taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Timings {
    pub(crate) dns_ms: Option<f64>,
    pub(crate) connect_ms: Option<f64>,
    pub(crate) tls_ms: Option<f64>,
    pub(crate) response_ms: Option<f64>,
    pub(crate) total_ms: f64,
}

impl From<ConnectivityReport> for Connectivity {
    fn from(report: ConnectivityReport) -> Self {
        let timings = &report.timings;
        Self {
            reachable: report.reachable,
            status: report.status,
            error_code: report.error_code.map(|code| code.as_str().to_owned()),
            error_message: report.error_message,
            timings: Timings {
                dns_ms: timings.dns.map(millis),
                connect_ms: timings.connect.map(millis),
                tls_ms: timings.tls.map(millis),
                response_ms: timings.response.map(millis),
                total_ms: millis(report.elapsed),
            },
        }
    }
}

/// To the microsecond: a step on loopback takes less than one millisecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// How an endpoint is verified.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct VerifyIn {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) level: Option<VerifyLevel>,
}

/// What verifying looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VerifyLevel {
    /// URL and reachability.
    #[default]
    Basic,
}

/// What verifying found out.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Verification {
    pub(crate) verified: bool,
    pub(crate) level: VerifyLevel,
    pub(crate) status: Option<u16>,
    pub(crate) error_code: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) timings: Timings,
    pub(crate) endpoint: Endpoint,
}

impl From<VerificationReport> for Verification {
    fn from(report: VerificationReport) -> Self {
        let connectivity = Connectivity::from(report.connectivity);
        Self {
            verified: report.endpoint.is_verified,
            level: VerifyLevel::Basic,
            status: connectivity.status,
            error_code: connectivity.error_code,
            error_message: connectivity.error_message,
            timings: connectivity.timings,
            endpoint: report.endpoint.into(),
        }
    }
}

/// What the outgoing connections did since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConnectionStats {
    pub(crate) total_requests: u64,
    pub(crate) connection_reuses: u64,
    pub(crate) connections_opened: u64,
    pub(crate) dns_cache_hits: u64,
    pub(crate) connection_errors: u64,
    pub(crate) pool_exhausted_count: u64,
    pub(crate) connection_reuse_rate: f64,
    pub(crate) error_rate: f64,
}

impl From<neo_events::ConnectionStats> for ConnectionStats {
    fn from(stats: neo_events::ConnectionStats) -> Self {
        Self {
            total_requests: stats.total_requests,
            connection_reuses: stats.connection_reuses,
            connections_opened: stats.connections_opened,
            dns_cache_hits: stats.dns_cache_hits,
            connection_errors: stats.connection_errors,
            pool_exhausted_count: stats.pool_exhausted_count,
            connection_reuse_rate: stats.connection_reuse_rate,
            error_rate: stats.error_rate,
        }
    }
}

/// `{"status":"ready"}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Readiness {
    pub(crate) status: String,
}
