//! The HTTP API, from a request to its answer.
//!
//! [`Api::answer`] is the frame around every request: it gives it an id, asks for the key, lets the router find the
//! handler, catches a handler that panics and writes refusals as problems. Handlers only translate between the wire
//! and the library. Nothing is logged for a request that succeeds.

mod body;
mod deliveries;
mod endpoints;
mod event_types;
mod events;
mod operations;
mod path;
mod query;
mod subscriptions;

use std::panic::AssertUnwindSafe;

use axum::{
    BoxError, Router,
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Body as HttpBody;
use neo_events::{
    Schema, Sources, Tenant,
    domain::id::{Id, RequestId},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower_service::Service;
use uuid::Uuid;

use crate::problem::{self, Refusal};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TENANT_ID: HeaderName = HeaderName::from_static("x-neo-tenant-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The API over one running neo-events.
pub(crate) struct Api {
    router: Router,
    admin_key: KeyDigest,
    sources: Sources,
}

/// What a request brings: hyper's own in the server.
pub(crate) trait RequestBody: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static> RequestBody for B {}

/// SHA-256 of a key: digests of equal length can be compared in constant time.
struct KeyDigest([u8; 32]);

impl KeyDigest {
    fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn is_of(&self, key: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(key).0).into()
    }
}

impl Api {
    pub(crate) fn new(platform: Tenant, admin_key: &str, sources: Sources) -> Self {
        let router = Router::new()
            .merge(events::routes())
            .merge(event_types::routes())
            .merge(endpoints::routes())
            .merge(subscriptions::routes())
            .merge(deliveries::routes())
            .merge(operations::routes())
            .with_state(platform);
        Self { router, admin_key: KeyDigest::of(admin_key.as_bytes()), sources }
    }

    /// Answers one request. Never fails: every failure is an answer.
    pub(crate) async fn answer<B: RequestBody>(&self, request: Request<B>) -> Response {
        let request_id: RequestId = Id::new(self.sources.now(), self.sources.bytes());
        let routed = AssertUnwindSafe(self.route(request)).catch_unwind().await;
        let mut response = routed.unwrap_or_else(|_| Refusal::panicked().into_response());
        problem::render(&mut response, request_id.uuid());
        response.headers_mut().insert(REQUEST_ID, header_value(request_id.uuid()));
        response
    }

    async fn route<B: RequestBody>(&self, request: Request<B>) -> Response {
        if let Err(refusal) = self.admit(&request) {
            return refusal.into_response();
        }
        let Ok(response) = self.router.clone().call(request).await;
        response
    }

    /// What every request under `/v1` has to bring.
    fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let is_public = !request.uri().path().starts_with("/v1/");
        if is_public {
            return Ok(());
        }
        let headers = request.headers();
        if !bearer_key(headers).is_some_and(|key| self.admin_key.is_of(key)) {
            return Err(Refusal::unauthorized());
        }
        judge_tenant(headers)?;
        if request.method() == Method::POST && headers.contains_key(IDEMPOTENCY_KEY) {
            return Err(Refusal::idempotency_key());
        }
        Ok(())
    }
}

/// The key of `Authorization: Bearer KEY` (RFC 6750 §2.1); the scheme's case does not matter.
fn bearer_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key.trim_ascii())
}

/// The admin key acts in `admin`, the only tenant there is so far.
fn judge_tenant(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(TENANT_ID).iter();
    let Some(value) = values.next() else { return Ok(()) };
    if value == "admin" && values.next().is_none() {
        return Ok(());
    }
    let named = value.to_str().ok().filter(|_| headers.get_all(TENANT_ID).iter().count() == 1);
    let named = named.ok_or_else(Refusal::invalid_tenant_id)?;
    let schema = match named.strip_prefix("region:") {
        Some(region) => Schema::shared(region),
        None => Schema::tenant(named),
    };
    let schema = schema.map_err(|_| Refusal::invalid_tenant_id())?;
    Err(Refusal::tenant_not_found(&schema.tenant_header()))
}

fn header_value(id: Uuid) -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What a handler answers.
type Answer = Result<Response, Refusal>;

/// 200 with a body.
fn ok(body: &impl Serialize) -> Answer {
    json(StatusCode::OK, body)
}

/// 201 with a body, and where the new row is.
fn created(location: &str, body: &impl Serialize) -> Answer {
    let mut response = json(StatusCode::CREATED, body)?;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// 204, without a body.
fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).map_err(|error| Refusal::unwritable(&error))?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use http_body_util::BodyExt;

    use super::*;

    async fn boom() -> Answer {
        panic!("a bug");
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_for() {
        let api = Api {
            router: Router::new().route("/boom", get(boom)),
            admin_key: KeyDigest::of(b"key"),
            sources: Sources::system(),
        };
        let response = api.answer(Request::get("/boom").body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let request_id = response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["code"], "internal_error");
        assert_eq!(problem["request_id"], request_id.as_str());
        assert!(!problem["detail"].as_str().unwrap().contains("bug"));
    }

    #[test]
    fn keys_are_compared_whole() {
        let digest = KeyDigest::of(b"0123456789abcdef");
        assert!(digest.is_of(b"0123456789abcdef"));
        for other in [&b""[..], b"0123456789abcde", b"0123456789abcdef0", b"0123456789abcdeF"] {
            assert!(!digest.is_of(other));
        }
    }
}
