//! Mistakes of a transport.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use neo_events_domain::{delivery::ReceivedResponse, retry::FailureCode};
use neo_events_engine::{Transport, TransportReport, TransportRequest};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use super::Bug;

/// After this time a leaking transport gives up: before any timeout, and after the answers of those that are only slow.
const LEAKS_AFTER: Duration = Duration::from_millis(4700);
/// The bytes of a body that one which cuts them lets through.
const BODY_BYTES_MAX: usize = 200;

/// A transport with a mistake.
pub(crate) struct PlantedTransport {
    bug: Bug,
    inner: Arc<dyn Transport>,
    /// Requests that go on by themselves.
    leaked: Mutex<JoinSet<()>>,
}

impl PlantedTransport {
    pub(crate) fn new(bug: Bug, inner: Arc<dyn Transport>) -> Self {
        Self { bug, inner, leaked: Mutex::default() }
    }

    async fn send_leaking(&self, request: TransportRequest<'_>) -> TransportReport {
        let (inner, request) = (Arc::clone(&self.inner), owned(request));
        let (answer, answered) = oneshot::channel();
        let going_on = async move { drop(answer.send(inner.send(request).await)) };
        self.leaked.lock().unwrap_or_else(PoisonError::into_inner).spawn(going_on);
        match timeout(LEAKS_AFTER, answered).await {
            Ok(Ok(report)) => report,
            _ => TransportReport {
                result: Err(FailureCode::TimeoutTotal),
                error_message: None,
                connection_reused: false,
                elapsed: LEAKS_AFTER,
            },
        }
    }
}

#[async_trait]
impl Transport for PlantedTransport {
    async fn send(&self, mut request: TransportRequest<'_>) -> TransportReport {
        match self.bug {
            Bug::BodyCut => request.body.truncate(BODY_BYTES_MAX),
            Bug::RequestLeaked => return self.send_leaking(request).await,
            _ => {}
        }
        let mut report = self.inner.send(request.clone()).await;
        match (self.bug, &mut report.result) {
            (Bug::HiddenRetry, Err(FailureCode::ConnectionReset)) => self.inner.send(request).await,
            (Bug::TimeoutAsSuccess, Err(FailureCode::TimeoutTotal)) => {
                let (headers, body) = (Vec::new(), Vec::new());
                let result = Ok(ReceivedResponse { status: 200, headers, body, body_truncated: true });
                TransportReport { result, ..report }
            }
            (Bug::ResetAsRefusal, Err(FailureCode::ConnectionReset)) => {
                TransportReport { result: Err(FailureCode::TargetRefused), ..report }
            }
            (Bug::ClientPanics, Ok(ReceivedResponse { status: 410, .. })) => panic!("a client that panics"),
            (Bug::RetryAfterLost, Ok(response)) => {
                response.headers.clear();
                report
            }
            _ => report,
        }
    }
}

fn owned(request: TransportRequest<'_>) -> TransportRequest<'static> {
    let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
    TransportRequest {
        url: own(request.url),
        method: request.method,
        headers: request.headers.into_iter().map(|(name, value)| (own(name), own(value))).collect(),
        own_headers: request.own_headers,
        body: request.body,
        timeout: request.timeout,
        follow_redirects: request.follow_redirects,
        verify_tls: request.verify_tls,
    }
}
