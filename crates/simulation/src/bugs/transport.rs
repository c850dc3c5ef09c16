//! Mistakes of a transport.

use std::sync::Arc;

use async_trait::async_trait;
use neo_events_domain::{delivery::ReceivedResponse, retry::FailureCode};
use neo_events_engine::{Transport, TransportReport, TransportRequest};

use super::Bug;

/// A transport with a mistake.
pub(crate) struct PlantedTransport {
    pub(crate) bug: Bug,
    pub(crate) inner: Arc<dyn Transport>,
}

#[async_trait]
impl Transport for PlantedTransport {
    async fn send(&self, request: TransportRequest<'_>) -> TransportReport {
        let report = self.inner.send(request.clone()).await;
        match (self.bug, &report.result) {
            (Bug::HiddenRetry, Err(FailureCode::ConnectionReset)) => self.inner.send(request).await,
            (Bug::TimeoutAsSuccess, Err(FailureCode::TimeoutTotal)) => {
                let (headers, body) = (Vec::new(), Vec::new());
                let result = Ok(ReceivedResponse { status: 200, headers, body, body_truncated: true });
                TransportReport { result, ..report }
            }
            (Bug::ResetAsRefusal, Err(FailureCode::ConnectionReset)) => {
                TransportReport { result: Err(FailureCode::TargetRefused), ..report }
            }
            _ => report,
        }
    }
}
