//! How a request leaves: the one seam between deciding and connecting.

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use neo_events_domain::{
    delivery::ReceivedResponse, endpoint::HttpMethod, request::Header, retry::FailureCode,
};

/// One HTTP request of a delivery. Not `Debug`: its headers can be credentials.
#[derive(Clone)]
pub struct TransportRequest<'a> {
    /// As the endpoint has it; to be judged again where it is connected to.
    pub url: Cow<'a, str>,
    /// How.
    pub method: HttpMethod,
    /// All of them but `host` and `content-length`; the endpoint's own come last.
    pub headers: Vec<Header<'a>>,
    /// How many are the endpoint's own. They may be credentials for its origin, and no other origin gets them.
    pub own_headers: usize,
    /// The signed bytes.
    pub body: Bytes,
    /// From DNS to the last byte of the answer.
    pub timeout: Duration,
    /// Whether 307 and 308 are followed. Other redirects are answers like any other.
    pub follow_redirects: bool,
    /// Whether certificates are verified.
    pub verify_tls: bool,
}

/// What came of it. The world may do anything: there is no error.
#[derive(Debug, Clone)]
pub struct TransportReport {
    /// The whole answer, or why there is none.
    pub result: Result<ReceivedResponse, FailureCode>,
    /// In words, safe to show to the endpoint's owner.
    pub error_message: Option<String>,
    /// Whether the connection had served a request before.
    pub connection_reused: bool,
    /// By a clock that does not jump.
    pub elapsed: Duration,
}

/// Sends requests.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one request and waits for its answer, at most the request's timeout.
    async fn send(&self, request: TransportRequest<'_>) -> TransportReport;
}
