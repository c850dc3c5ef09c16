//! The HTTP API, from a request to its answer.
//!
//! [`Api::answer`] is the frame around every request: it gives it an id, asks for the key, lets the router find the
//! handler, catches a handler that panics and writes refusals as problems. Handlers only translate between the wire
//! and the library. Nothing is logged for a request that succeeds.

mod access;
mod api_keys;
mod body;
mod deliveries;
mod endpoints;
mod event_types;
mod events;
mod leftover;
mod not_yet;
mod operations;
mod path;
mod query;
mod routes;
mod subscriptions;
mod tenants;

use std::panic::AssertUnwindSafe;

use axum::{
    BoxError, Router,
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Body as HttpBody;
use neo_events::{
    Directory, Sources,
    domain::id::{Id, RequestId},
};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;
use uuid::Uuid;

pub use self::routes::{Needs, Route};
use self::{
    access::{AdminKeyDigest, Gate},
    body::Rooms,
    leftover::Leftover,
    routes::Routes,
};
use crate::problem::{self, Refusal};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The API over one running neo-events.
pub(crate) struct Api {
    router: Router,
    /// None where there is nothing to guard.
    gate: Option<Gate>,
    rooms: Rooms,
    sources: Sources,
}

/// What a request brings: hyper's own in the server.
pub(crate) trait RequestBody: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static> RequestBody for B {}

fn routes() -> Routes {
    Routes::new()
        .and(events::routes())
        .and(event_types::routes())
        .and(endpoints::routes())
        .and(subscriptions::routes())
        .and(deliveries::routes())
        .and(tenants::routes())
        .and(api_keys::routes())
        .and(operations::routes())
}

/// Every route of the API, and what it needs of its caller.
pub fn route_table() -> Vec<Route> {
    routes().into_table()
}

impl Api {
    pub(crate) fn new(directory: Directory, admin_key: &str, sources: Sources) -> Self {
        let router = routes().into_router(directory.clone()).merge(not_yet::router());
        let gate = Some(Gate { directory, admin_key: AdminKeyDigest::of(admin_key.as_bytes()) });
        Self { router, gate, rooms: Rooms::default(), sources }
    }

    /// For a node without the role `api`: says whether it lives and serves, and nothing else.
    pub(crate) fn probes_alone(directory: Directory, sources: Sources) -> Self {
        let router = operations::probes().into_router(directory).fallback(async || Refusal::api_elsewhere());
        Self { router, gate: None, rooms: Rooms::default(), sources }
    }

    /// Answers one request. Never fails: every failure is an answer.
    pub(crate) async fn answer<B: RequestBody>(&self, request: Request<B>) -> Response {
        self.framed(self.route(request)).await
    }

    /// Answers one request of a connection that has no place among those for calls: it may ask whether the server lives
    /// and serves, and nothing else. A body is refused, and what is still owed of it then is not waited for.
    pub(crate) async fn answer_probe<B: RequestBody>(
        &self,
        request: Request<B>,
        arrives_until: Instant,
    ) -> Response {
        let brings_body = !request.body().is_end_stream();
        if operations::PROBES.contains(&request.uri().path()) && !brings_body {
            return self.answer(request).await;
        }
        self.framed(async {
            // Whether all of it came or not, the answer is the same.
            let _ = timeout_at(arrives_until, leftover::discard_all(request)).await;
            Refusal::connections_busy().into_response()
        })
        .await
    }

    async fn framed(&self, routing: impl Future<Output = Response>) -> Response {
        let request_id: RequestId = Id::new(self.sources.now(), self.sources.bytes());
        let routed = AssertUnwindSafe(routing).catch_unwind().await;
        let mut response = routed.unwrap_or_else(|_| Refusal::panicked().into_response());
        problem::render(&mut response, request_id.uuid());
        response.headers_mut().insert(REQUEST_ID, header_value(request_id.uuid()));
        response
    }

    async fn route<B: RequestBody>(&self, mut request: Request<B>) -> Response {
        if let Err(refusal) = self.admit(&mut request).await {
            leftover::discard_all(request).await;
            return refusal.into_response();
        }
        // Until the answer is made: what was parsed of a large body takes as much room as the body.
        let room = self.rooms.room();
        request.extensions_mut().insert(room.clone());
        let (request, leftover) = Leftover::of(request);
        let Ok(response) = self.router.clone().call(request).await;
        drop(room);
        leftover.discard_if_refused(response.status()).await;
        response
    }

    /// What every request under `/v1` has to bring. Leaves its caller and the tenant's handle with it.
    async fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        let is_public = !request.uri().path().starts_with("/v1/");
        let Some(gate) = self.gate.as_ref().filter(|_| !is_public) else { return Ok(()) };
        let (caller, tenant) = gate.admit(request.headers()).await?;
        if !request.method().is_safe() && request.headers().contains_key(IDEMPOTENCY_KEY) {
            return Err(Refusal::idempotency_key());
        }
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(tenant);
        Ok(())
    }
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
        let folder = tempfile::tempdir().unwrap();
        let neo = neo_events::NeoEvents::builder(folder.path().join("admin.db")).start().await.unwrap();
        let router = Router::new().route("/boom", get(boom));
        let api = Api { router, ..Api::new(neo.directory(), "key", Sources::system()) };
        let response = api.answer(Request::get("/boom").body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let request_id = response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["code"], "internal_error");
        assert_eq!(problem["request_id"], request_id.as_str());
        assert!(!problem["detail"].as_str().unwrap().contains("bug"));
    }
}
