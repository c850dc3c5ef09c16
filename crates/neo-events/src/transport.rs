//! The engine's `Transport`, made of `egress`: the few lines where deciding meets connecting.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use neo_events_domain::{
    delivery::{RESPONSE_BODY_BYTES_KEPT, ReceivedResponse},
    endpoint::{EndpointLimits, HttpMethod},
    request::Header,
    retry::FailureCode,
};
use neo_events_egress::{Egress, Failure, FailureKind, Request, Response, Target, TargetRefused};
use neo_events_engine::{Transport, TransportReport, TransportRequest};

/// What the egress adds to the headers of a request: `host` and `content-length`.
const FRAMING_HEADERS: usize = 2;
/// URLs whose judgement is remembered.
const TARGETS_MAX: usize = 4096;

/// Sends deliveries through the egress.
pub(crate) struct HttpTransport {
    egress: Egress,
    /// Whether certificates are verified whatever an endpoint says: it may have been written under another profile.
    tls_is_verified: bool,
    /// The policy never changes, and says the same of the same text each time; parsing it costs as much as signing.
    /// Where a name leads is judged anew with each connection.
    targets: RwLock<HashMap<String, Target>>,
}

impl HttpTransport {
    pub(crate) fn new(egress: Egress, limits: EndpointLimits) -> Self {
        Self { egress, tls_is_verified: limits.tls_is_verified, targets: RwLock::default() }
    }

    fn target(&self, url: &str) -> Result<Target, TargetRefused> {
        let known = self.targets.read().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        if let Some(target) = known {
            return Ok(target);
        }
        let target = self.egress.policy().judge_url(url)?;
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        if targets.len() >= TARGETS_MAX {
            targets.clear();
        }
        targets.insert(url.to_owned(), target.clone());
        Ok(target)
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: TransportRequest<'_>) -> TransportReport {
        let target = match self.target(&request.url) {
            Ok(target) => target,
            Err(refused) => return unsent(FailureCode::TargetRefused, refused.to_string()),
        };
        let Some(headers) = header_map(&request.headers, request.own_headers) else {
            return unsent(FailureCode::Configuration, "a header cannot be sent".to_owned());
        };
        let sent = self.egress.send(Request {
            method: method(request.method),
            target,
            headers,
            body: request.body,
            total_timeout: request.timeout,
            follow_redirects: request.follow_redirects,
            verify_tls: request.verify_tls || self.tls_is_verified,
        });
        match sent.await {
            Ok(response) => answered(&response),
            Err(failure) => failed(failure),
        }
    }
}

fn method(method: HttpMethod) -> Method {
    match method {
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Patch => Method::PATCH,
    }
}

fn header_map(headers: &[Header<'_>], own: usize) -> Option<HeaderMap> {
    // Room for those that frame the message, too: a map that grows is made twice.
    let mut map = HeaderMap::with_capacity(headers.len() + FRAMING_HEADERS);
    let ours = headers.len().saturating_sub(own);
    for (index, (name, value)) in headers.iter().enumerate() {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let mut value = HeaderValue::from_str(value).ok()?;
        // An endpoint's own headers may be credentials for its own origin: a redirect to another must not carry them.
        value.set_sensitive(index >= ours);
        map.append(name, value);
    }
    Some(map)
}

fn answered(response: &Response) -> TransportReport {
    let kept = response.body.len().min(RESPONSE_BODY_BYTES_KEPT);
    let shown = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    TransportReport {
        result: Ok(ReceivedResponse {
            status: response.status.as_u16(),
            headers: response.headers.iter().map(|(name, value)| (name.to_string(), shown(value))).collect(),
            body: response.body[..kept].to_vec(),
            body_truncated: response.body_truncated || kept < response.body.len(),
        }),
        error_message: None,
        connection_reused: response.connection_reused,
        elapsed: response.elapsed,
    }
}

fn failed(failure: Failure) -> TransportReport {
    TransportReport {
        result: Err(failure_code(failure.kind)),
        error_message: Some(failure.detail),
        connection_reused: failure.connection_reused,
        elapsed: failure.elapsed,
    }
}

fn unsent(code: FailureCode, message: String) -> TransportReport {
    TransportReport {
        result: Err(code),
        error_message: Some(message),
        connection_reused: false,
        elapsed: std::time::Duration::ZERO,
    }
}

/// What users call a failure, be it of an attempt or of a probe.
pub(crate) fn failure_code(kind: FailureKind) -> FailureCode {
    match kind {
        FailureKind::TimeoutConnect => FailureCode::TimeoutConnect,
        FailureKind::TimeoutTotal => FailureCode::TimeoutTotal,
        FailureKind::ConnectionRefused => FailureCode::ConnectionRefused,
        FailureKind::ConnectionReset => FailureCode::ConnectionReset,
        FailureKind::ConnectionClosed => FailureCode::ConnectionClosed,
        FailureKind::Unreachable => FailureCode::ConnectionError,
        FailureKind::Dns => FailureCode::Dns,
        FailureKind::Tls => FailureCode::Tls,
        FailureKind::TargetRefused => FailureCode::TargetRefused,
        FailureKind::TooManyRedirects | FailureKind::RedirectInvalid => FailureCode::TooManyRedirects,
        FailureKind::ResponseHeadersTooLarge => FailureCode::ResponseTooLarge,
        FailureKind::ProtocolError | FailureKind::UpgradeRefused => FailureCode::ProtocolError,
        FailureKind::RequestInvalid => FailureCode::Configuration,
    }
}

#[cfg(test)]
mod tests {
    use neo_events_domain::endpoint::Profile;
    use neo_events_egress::{EgressConfig, TargetPolicy};

    use super::*;

    #[test]
    fn what_is_accepted_is_remembered_up_to_a_limit_and_what_is_refused_is_not() {
        let egress = Egress::new(EgressConfig::new(TargetPolicy::production())).unwrap();
        let transport = HttpTransport::new(egress, Profile::Production.endpoint_limits());
        let known = || transport.targets.read().unwrap().len();
        for n in 0..=TARGETS_MAX {
            let url = format!("https://example.com/{n}");
            assert_eq!(
                transport.target(&url).unwrap().to_string(),
                transport.target(&url).unwrap().to_string()
            );
            assert!(known() <= TARGETS_MAX);
        }
        let before = known();
        assert!(transport.target("https://169.254.169.254/").is_err());
        assert_eq!(known(), before);
    }

    /// A receiver that is led to verifies the signature, and learns nothing else of the endpoint.
    #[test]
    fn a_redirect_elsewhere_takes_the_signature_along_and_not_what_an_endpoint_added() {
        let ours = ["webhook-id", "traceparent", "webhook-signature", "X-Hub-Signature-256"];
        let custom = ["X-Hub-Token", "Authorization"];
        let headers: Vec<Header<'_>> =
            ours.iter().chain(&custom).map(|name| ((*name).into(), "x".into())).collect();
        let map = header_map(&headers, custom.len()).unwrap();
        let told = |names: &[&str]| names.iter().map(|name| map[*name].is_sensitive()).collect::<Vec<_>>();
        assert_eq!(told(&ours), [false; 4]);
        assert_eq!(told(&custom), [true; 2]);
    }
}
