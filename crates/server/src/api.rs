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
mod room;
mod routes;
mod subscriptions;
mod tenants;
mod unread;

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
    Directory, Schema, Sources,
    domain::id::{Id, RequestId},
};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;
use uuid::Uuid;

pub use self::routes::{Needs, Route};
use self::{
    access::{AdminKeyDigest, Gate},
    body::BodyRoom,
    leftover::Leftover,
    room::Rooms,
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
    room_of_bodies: Rooms,
    room_of_answers: Rooms,
    sources: Sources,
}

/// On an answer: nothing has changed by it, whatever its method.
#[derive(Clone, Copy)]
struct OnlyAsked;

/// What a request was answered, and what has to be known of it to let the answer go.
struct Routed {
    response: Response,
    /// Whoever is of no tenant is the platform's.
    tenant: Schema,
    /// Whether nothing has changed by it, so that it may be asked again.
    is_repeatable: bool,
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
        Self::with(router, gate, sources)
    }

    /// For a node without the role `api`: says whether it lives and serves, and nothing else.
    pub(crate) fn probes_alone(directory: Directory, sources: Sources) -> Self {
        let router = operations::probes().into_router(directory).fallback(async || Refusal::api_elsewhere());
        Self::with(router, None, sources)
    }

    fn with(router: Router, gate: Option<Gate>, sources: Sources) -> Self {
        let room_of_bodies = Rooms::new(body::ROOM_KIB, body::TENANT_ROOM_KIB);
        let room_of_answers = Rooms::new(unread::ROOM_KIB, unread::TENANT_ROOM_KIB);
        Self { router, gate, room_of_bodies, room_of_answers, sources }
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
            Routed::refused(Refusal::connections_busy())
        })
        .await
    }

    async fn framed(&self, routing: impl Future<Output = Routed>) -> Response {
        let request_id: RequestId = Id::new(self.sources.now(), self.sources.bytes());
        let routed = AssertUnwindSafe(routing).catch_unwind().await;
        let routed = routed.unwrap_or_else(|_| Routed::refused(Refusal::panicked()));
        let Routed { mut response, tenant, is_repeatable } = routed;
        problem::render(&mut response, request_id.uuid());
        if is_repeatable {
            let with_room = unread::with_room(response, &self.room_of_answers, &tenant).await;
            response = with_room.unwrap_or_else(|| {
                let mut refused = Refusal::answers_busy().into_response();
                problem::render(&mut refused, request_id.uuid());
                refused
            });
        }
        response.headers_mut().insert(REQUEST_ID, header_value(request_id.uuid()));
        response
    }

    async fn route<B: RequestBody>(&self, mut request: Request<B>) -> Routed {
        let tenant = match self.admit(&mut request).await {
            Ok(tenant) => tenant,
            Err(refusal) => {
                leftover::discard_all(request).await;
                return Routed::refused(refusal);
            }
        };
        let asks = request.method().is_safe();
        // Until the answer is made: what was parsed of a large body takes as much room as the body.
        let room = BodyRoom::new(self.room_of_bodies.clone(), tenant.clone());
        request.extensions_mut().insert(room.clone());
        let (request, leftover) = Leftover::of(request);
        let Ok(response) = self.router.clone().call(request).await;
        drop(room);
        leftover.discard_if_refused(response.status()).await;
        let changed_nothing =
            asks || response.status().is_client_error() || response.extensions().get::<OnlyAsked>().is_some();
        Routed { response, tenant, is_repeatable: changed_nothing }
    }

    /// What every request under `/v1` has to bring. Leaves its caller and the tenant's handle with it, and answers whose
    /// it is.
    async fn admit<B>(&self, request: &mut Request<B>) -> Result<Schema, Refusal> {
        let is_public = !request.uri().path().starts_with("/v1/");
        let Some(gate) = self.gate.as_ref().filter(|_| !is_public) else { return Ok(Schema::admin()) };
        let (caller, tenant) = gate.admit(request.headers()).await?;
        if !request.method().is_safe() && request.headers().contains_key(IDEMPOTENCY_KEY) {
            return Err(Refusal::idempotency_key());
        }
        let schema = tenant.schema().clone();
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(tenant);
        Ok(schema)
    }
}

impl Routed {
    /// Nothing was done.
    fn refused(refusal: Refusal) -> Self {
        Self { response: refusal.into_response(), tenant: Schema::admin(), is_repeatable: true }
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
    use axum::routing::{get, post};
    use http_body_util::BodyExt;

    use super::*;

    async fn boom() -> Answer {
        panic!("a bug");
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_for() {
        let router = Router::new().route("/boom", get(boom));
        let api = Api::with(router, None, Sources::system());
        let response = api.answer(Request::get("/boom").body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let request_id = response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["code"], "internal_error");
        assert_eq!(problem["request_id"], request_id.as_str());
        assert!(!problem["detail"].as_str().unwrap().contains("bug"));
    }

    #[tokio::test]
    async fn while_large_answers_have_no_room_what_changed_nothing_is_refused_and_what_did_is_not() {
        let large = || Response::new(Body::from(vec![b' '; room::SMALL_BYTES_MAX + 1]));
        let asked = move || {
            let mut answer = large();
            answer.extensions_mut().insert(OnlyAsked);
            answer
        };
        let router = Router::new()
            .route("/read", get(async move || large()))
            .route("/ask", post(async move || asked()))
            .route("/refused", post(async move || (StatusCode::CONFLICT, large())))
            .route("/done", post(async move || large()))
            .route("/small", get(async || "small"));
        let api = Api::with(router, None, Sources::system());
        let answer = async |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            api.answer(request).await
        };
        let calls =
            [("GET", "/read"), ("POST", "/ask"), ("POST", "/refused"), ("POST", "/done"), ("GET", "/small")];
        let held = api.room_of_answers.take(usize::MAX, &Schema::admin()).unwrap();
        let mut statuses = Vec::new();
        for (method, path) in calls {
            statuses.push(answer(method, path).await.status().as_u16());
        }
        assert_eq!(statuses, [503, 503, 503, 200, 200]);
        drop(held);
        let unread = answer("GET", "/read").await;
        assert_eq!((unread.status(), api.room_of_answers.taken_of_admin_kib()), (StatusCode::OK, 65));
        drop(unread);
        assert_eq!(api.room_of_answers.taken_of_admin_kib(), 0);
    }
}
