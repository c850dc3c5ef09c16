//! Whether a target can be reached, and verifying endpoints by it (level `basic`: URL and reachability).

use std::time::Duration;

use neo_events_domain::{
    endpoint::Endpoint,
    id::EndpointId,
    retry::FailureCode,
    violation::{Rule, Violations},
};
use neo_events_egress::{ProbeOutcome, ProbeReport, Timings};

use crate::{Conflict, Error, Tenant, transport::failure_code};

/// Seconds a connectivity test may take unless the caller says otherwise.
const TIMEOUT_SECONDS_DEFAULT: u32 = 10;
const TIMEOUT_SECONDS_MAX: u32 = 60;

/// What a HEAD request found out.
#[derive(Debug, Clone)]
pub struct ConnectivityReport {
    /// Whether a whole answer came, with a status below 500.
    pub reachable: bool,
    /// The answer's status; without an answer, if it came so far.
    pub status: Option<u16>,
    /// Why no answer came: what an attempt's `error_code` would be.
    pub error_code: Option<FailureCode>,
    /// In words.
    pub error_message: Option<String>,
    /// How long each step took.
    pub timings: Timings,
    /// All steps together.
    pub elapsed: Duration,
}

/// What verifying an endpoint found out.
#[derive(Debug, Clone)]
pub struct VerificationReport {
    /// The endpoint afterwards.
    pub endpoint: Endpoint,
    /// The probe.
    pub connectivity: ConnectivityReport,
}

impl Tenant {
    /// Sends HEAD to a URL that the address policy allows. `timeout_seconds` is 1…60, 10 if absent. Refused as
    /// [`Busy`](crate::Busy) while too many calls wait for receivers.
    pub async fn test_connectivity(
        &self,
        url: &str,
        timeout_seconds: Option<u32>,
    ) -> Result<ConnectivityReport, Error> {
        let _place = self.shared.reaching.begin(&self.schema)?;
        let seconds = timeout_seconds.unwrap_or(TIMEOUT_SECONDS_DEFAULT);
        if !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds) {
            let rule = Rule::OutOfRange { min: 1.0, max: TIMEOUT_SECONDS_MAX.into() };
            return Err(Violations::one("/timeout_seconds", rule).into());
        }
        self.probe(url, true, seconds).await
    }

    async fn probe(&self, url: &str, verify_tls: bool, seconds: u32) -> Result<ConnectivityReport, Error> {
        // The endpoint may have been written under another profile.
        let verify_tls = verify_tls || self.shared.limits.tls_is_verified;
        let target = self.shared.egress.policy().judge_url(url);
        let target = target.map_err(|refused| Violations::one("/url", Rule::Target(refused.to_string())))?;
        let report = self.shared.egress.probe(&target, verify_tls, Duration::from_secs(seconds.into())).await;
        Ok(report.into())
    }

    /// Verifies an endpoint at level `basic`: it counts as verified if its URL answers HEAD with less than 500, and
    /// as unverified otherwise. Refused as [`Busy`](crate::Busy) while too many calls wait for receivers.
    pub async fn verify_endpoint(&self, id: EndpointId) -> Result<VerificationReport, Error> {
        let _place = self.shared.reaching.begin(&self.schema)?;
        let Endpoint { endpoint_url: url, verify_ssl, .. } = self.endpoint(id).await?;
        let connectivity = self.probe(&url, verify_ssl, TIMEOUT_SECONDS_DEFAULT).await?;
        let endpoint = self
            .change_endpoint(id, |endpoint, now| match connectivity.reachable {
                // What was probed must still be what is verified.
                _ if endpoint.endpoint_url != url => Err(Conflict::Contended.into()),
                true => Ok(endpoint.verified(now)),
                false => Ok(endpoint.unverified(now)),
            })
            .await?;
        Ok(VerificationReport { endpoint, connectivity })
    }
}

impl From<ProbeReport> for ConnectivityReport {
    fn from(report: ProbeReport) -> Self {
        let reachable = report.is_success();
        let status = report.status().map(|status| status.as_u16());
        let (error_code, error_message) = match report.outcome {
            ProbeOutcome::Answered(_) => (None, None),
            ProbeOutcome::Failed(failure) => (Some(failure_code(failure.kind)), Some(failure.detail)),
        };
        Self {
            reachable,
            status,
            error_code,
            error_message,
            timings: report.timings,
            elapsed: report.elapsed,
        }
    }
}
