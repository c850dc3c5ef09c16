//! Every way in which a request can be refused or fail, and its `application/problem+json` (RFC 9457): the only place
//! that maps errors to HTTP.
//!
//! A [`Refusal`] travels in the extensions of an otherwise empty response to [`render`], which knows the request's id.
//! What a caller cannot mend (status 500 and above) is logged there with its causes, which are not shown.

use std::{borrow::Cow, error::Error as _, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use neo_events::{
    Busy, Conflict, Error, Scope, StoreError,
    domain::violation::{Rule, Violations},
};
use uuid::Uuid;

use crate::wire::{BatchAnswer, BatchResult, Fault, Problem};

/// How a tenant is named.
pub(crate) const TENANT_FORM: &str = "`admin`, a tenant's slug (lower-case letters, digits and underscores, a letter first), or `region:` and a region";

/// Seconds after which trying again may help: a database that is busy or restarting, others that have every place.
const RETRY_SECONDS_BUSY: u32 = 1;
/// The same where somebody must act first, or what holds it up is not over in a moment.
const RETRY_SECONDS_REPAIR: u32 = 30;

/// A kind of problem: what is the same each time.
struct Kind {
    status: StatusCode,
    code: &'static str,
    /// `type`: the code as a URN.
    urn: &'static str,
    title: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $status:ident $code:literal $title:literal)*) => {
        $(const $name: Kind = Kind {
            status: StatusCode::$status,
            code: $code,
            urn: concat!("urn:neo-events:problem:", $code),
            title: $title,
        };)*
    };
}

kinds! {
    MALFORMED_JSON = BAD_REQUEST "malformed_json" "The body is not JSON"
    EMPTY_BODY = BAD_REQUEST "empty_body" "The body is empty"
    INCOMPLETE_BODY = BAD_REQUEST "incomplete_body" "The body ended too early"
    UNKNOWN_PARAMETER = BAD_REQUEST "unknown_parameter" "A query parameter is unknown"
    INVALID_PARAMETER = BAD_REQUEST "invalid_parameter" "A query parameter has no valid value"
    INVALID_CURSOR = BAD_REQUEST "invalid_cursor" "The cursor is not one of this list"
    INVALID_TENANT_ID = BAD_REQUEST "invalid_tenant_id" "X-Neo-Tenant-ID is malformed"
    IDEMPOTENCY_KEY_UNSUPPORTED =
        BAD_REQUEST "idempotency_key_unsupported" "Idempotency-Key is not supported"
    UNAUTHORIZED = UNAUTHORIZED "unauthorized" "The request needs a valid key"
    INSUFFICIENT_SCOPE = FORBIDDEN "insufficient_scope" "The key may not do this"
    CONTEXT_BOUND = FORBIDDEN "context_bound" "The key is bound to a context"
    UNKNOWN_PATH = NOT_FOUND "unknown_path" "There is no such path"
    NOT_HERE_YET = NOT_FOUND "not_here_yet" "This version does not have it"
    TENANT_NOT_FOUND = NOT_FOUND "tenant_not_found" "There is no such tenant"
    EVENT_NOT_FOUND = NOT_FOUND "event_not_found" "There is no such event"
    EVENT_TYPE_NOT_FOUND = NOT_FOUND "event_type_not_found" "There is no such event type"
    ENDPOINT_NOT_FOUND = NOT_FOUND "endpoint_not_found" "There is no such endpoint"
    SUBSCRIPTION_NOT_FOUND = NOT_FOUND "subscription_not_found" "There is no such subscription"
    DELIVERY_NOT_FOUND = NOT_FOUND "delivery_not_found" "There is no such delivery"
    API_KEY_NOT_FOUND = NOT_FOUND "api_key_not_found" "There is no such API key"
    AGGREGATE_NOT_FOUND = NOT_FOUND "aggregate_not_found" "There is no such aggregate"
    NOT_FOUND = NOT_FOUND "not_found" "It is not there"
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED "method_not_allowed" "The path has no such method"
    BODY_TIMEOUT = REQUEST_TIMEOUT "body_timeout" "The body took too long"
    ID_REUSED = CONFLICT "id_reused" "The id belongs to another event"
    STALE_VERSION = CONFLICT "stale_version" "The expected version is stale"
    VERSIONS_EXHAUSTED = CONFLICT "versions_exhausted" "The aggregate has reached its last version"
    ALREADY_EXISTS = CONFLICT "already_exists" "There is one already"
    ILLEGAL_STATE = CONFLICT "illegal_state" "The state does not allow it"
    ENDPOINT_INACTIVE = CONFLICT "endpoint_inactive" "The endpoint is inactive"
    ENDPOINT_DELETED = CONFLICT "endpoint_deleted" "The endpoint is deleted"
    CONTENDED = CONFLICT "contended" "The row kept changing"
    BODY_TOO_LARGE = PAYLOAD_TOO_LARGE "body_too_large" "The body is too large"
    UNSUPPORTED_MEDIA_TYPE = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The content type is not supported"
    VALIDATION_FAILED = UNPROCESSABLE_ENTITY "validation_failed" "The input breaks rules"
    TARGET_NOT_ALLOWED = UNPROCESSABLE_ENTITY "target_not_allowed" "The target is not allowed"
    BATCH_REJECTED = UNPROCESSABLE_ENTITY "batch_rejected" "Every event of the batch was rejected"
    TOO_MANY_REQUESTS = TOO_MANY_REQUESTS "too_many_requests" "The tenant has too many such calls at once"
    INTERNAL = INTERNAL_SERVER_ERROR "internal_error" "The server failed"
    ANSWERS_BUSY = SERVICE_UNAVAILABLE "answers_busy" "Too many large answers that are not read"
    BODIES_BUSY = SERVICE_UNAVAILABLE "bodies_busy" "Too many large bodies at once"
    CALLS_BUSY = SERVICE_UNAVAILABLE "calls_busy" "Too many such calls at once"
    CONNECTIONS_BUSY = SERVICE_UNAVAILABLE "connections_busy" "Too many connections at once"
    DATABASE_UNAVAILABLE = SERVICE_UNAVAILABLE "database_unavailable" "The database cannot serve now"
    READ_TOO_LONG = SERVICE_UNAVAILABLE "read_too_long" "Reading it took too long"
    STORAGE_FULL = SERVICE_UNAVAILABLE "storage_full" "The database has no room left"
    DATABASE_READ_ONLY = SERVICE_UNAVAILABLE "database_read_only" "The database cannot be written"
}

/// A request that was refused or failed.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(Box<Details>);

#[derive(Debug, Clone)]
struct Details {
    problem: Problem,
    retry_after_seconds: Option<u32>,
    /// For the log alone.
    cause: Option<String>,
}

impl Refusal {
    fn new(kind: &Kind, detail: impl Into<String>) -> Self {
        let problem = Problem {
            kind: Cow::Borrowed(kind.urn),
            title: Cow::Borrowed(kind.title),
            status: kind.status.as_u16(),
            detail: detail.into(),
            code: Cow::Borrowed(kind.code),
            errors: Vec::new(),
            request_id: None,
            newest_version: None,
            batch: None,
        };
        Self(Box::new(Details { problem, retry_after_seconds: None, cause: None }))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(&UNAUTHORIZED, "send the header `Authorization: Bearer KEY` with a valid key")
    }

    pub(crate) fn insufficient_scope(needed: Scope) -> Self {
        Self::new(&INSUFFICIENT_SCOPE, format!("this call needs a key with the scope `{needed}`"))
    }

    pub(crate) fn admin_key_needed() -> Self {
        Self::new(
            &INSUFFICIENT_SCOPE,
            "this call needs an admin key: the configured one, or a key of tenant `admin` with the scope `admin`",
        )
    }

    pub(crate) fn unknown_path() -> Self {
        Self::new(&UNKNOWN_PATH, "the API has no such path")
    }

    /// What a later version will have: `dead letters are`.
    pub(crate) fn not_here_yet(what: &'static str) -> Self {
        Self::new(&NOT_HERE_YET, format!("{what} not here yet"))
    }

    /// A node without the role `api`.
    pub(crate) fn api_elsewhere() -> Self {
        Self::new(
            &UNKNOWN_PATH,
            "this node does not serve the API, only /livez and /readyz; ask one that has the role `api`",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(&METHOD_NOT_ALLOWED, "the header `Allow` names the methods of this path")
    }

    pub(crate) fn invalid_tenant_id() -> Self {
        Self::new(&INVALID_TENANT_ID, format!("X-Neo-Tenant-ID must be {TENANT_FORM}"))
    }

    pub(crate) fn tenant_not_found(tenant: &str) -> Self {
        Self::new(&TENANT_NOT_FOUND, format!("there is no tenant `{tenant}`"))
    }

    /// A cursor that is not of this list, or not with these filters, or another caller's.
    pub(crate) fn foreign_cursor() -> Self {
        StoreError::BadCursor.into()
    }

    pub(crate) fn idempotency_key() -> Self {
        let detail = "Idempotency-Key is not supported by this version; an event may have an `id` (a UUIDv7) instead: \
                      publishing the same id again is harmless";
        Self::new(&IDEMPOTENCY_KEY_UNSUPPORTED, detail)
    }

    pub(crate) fn unknown_parameter(name: &str) -> Self {
        Self::new(&UNKNOWN_PARAMETER, format!("the query parameter `{name}` is unknown here"))
    }

    pub(crate) fn invalid_parameter(name: &str, expected: &str) -> Self {
        Self::new(&INVALID_PARAMETER, format!("the query parameter `{name}` must be {expected}"))
    }

    pub(crate) fn repeated_parameter(name: &str) -> Self {
        Self::new(&INVALID_PARAMETER, format!("the query parameter `{name}` is given twice"))
    }

    pub(crate) fn unsupported_media_type(expected: &str) -> Self {
        Self::new(&UNSUPPORTED_MEDIA_TYPE, format!("the body must be sent with `Content-Type: {expected}`"))
    }

    pub(crate) fn unsupported_content_encoding() -> Self {
        Self::new(&UNSUPPORTED_MEDIA_TYPE, "the body must be sent without `Content-Encoding`")
    }

    pub(crate) fn empty_body() -> Self {
        Self::new(&EMPTY_BODY, "the request needs a body")
    }

    pub(crate) fn incomplete_body() -> Self {
        Self::new(&INCOMPLETE_BODY, "the connection ended before the body did, or the body is not valid HTTP")
    }

    pub(crate) fn body_timeout(limit: Duration) -> Self {
        Self::new(&BODY_TIMEOUT, format!("the body did not arrive within {} s", limit.as_secs()))
    }

    /// Others take all the room that there is for large bodies.
    pub(crate) fn bodies_busy() -> Self {
        Self::new(
            &BODIES_BUSY,
            "too many large bodies are being read at once; send it again, or smaller batches",
        )
        .retry_after(RETRY_SECONDS_BUSY)
    }

    /// Others take all the room that there is for large answers.
    pub(crate) fn answers_busy() -> Self {
        Self::new(
            &ANSWERS_BUSY,
            "too many large answers are on their way to clients that have not read them; ask again, or for fewer rows \
             with `limit`",
        )
        .retry_after(RETRY_SECONDS_BUSY)
    }

    /// Others have all the connections that there are for calls.
    pub(crate) fn connections_busy() -> Self {
        Self::new(
            &CONNECTIONS_BUSY,
            "every connection is in use, and this one may only ask for /livez and /readyz; try again",
        )
        .retry_after(RETRY_SECONDS_BUSY)
    }

    pub(crate) fn body_too_large(bytes_max: usize) -> Self {
        Self::new(&BODY_TOO_LARGE, format!("the body is larger than {bytes_max} bytes"))
    }

    pub(crate) fn malformed_json(detail: impl Into<String>) -> Self {
        Self::new(&MALFORMED_JSON, detail)
    }

    pub(crate) fn panicked() -> Self {
        Self::internal("a handler panicked".to_owned())
    }

    /// A whole answer that cannot be written as JSON.
    pub(crate) fn unwritable(error: &serde_json::Error) -> Self {
        Self::internal(error.to_string())
    }

    fn internal(cause: String) -> Self {
        let mut refusal = Self::new(&INTERNAL, "the server failed; its log says why under this request_id");
        refusal.0.cause = Some(cause);
        refusal
    }

    /// A row that is not there, by what the library calls its kind.
    pub(crate) fn not_found(what: &'static str) -> Self {
        let kind = match what {
            "event" => &EVENT_NOT_FOUND,
            "event type" => &EVENT_TYPE_NOT_FOUND,
            "endpoint" => &ENDPOINT_NOT_FOUND,
            "subscription" => &SUBSCRIPTION_NOT_FOUND,
            "delivery" => &DELIVERY_NOT_FOUND,
            "API key" => &API_KEY_NOT_FOUND,
            "tenant" => &TENANT_NOT_FOUND,
            "aggregate" => &AGGREGATE_NOT_FOUND,
            _ => &NOT_FOUND,
        };
        Self::new(kind, format!("there is no such {what}"))
    }

    /// Faults of the body, each with its place.
    pub(crate) fn invalid(errors: Vec<Fault>) -> Self {
        Self::with_faults(&VALIDATION_FAILED, errors)
    }

    fn with_faults(kind: &Kind, errors: Vec<Fault>) -> Self {
        let subject =
            |fault: &Fault| if fault.pointer.is_empty() { "the body" } else { &fault.pointer }.to_owned();
        let detail: Vec<_> =
            errors.iter().map(|fault| format!("{}: {}", subject(fault), fault.detail)).collect();
        let mut refusal = Self::new(kind, detail.join("; "));
        refusal.0.problem.errors = errors;
        refusal
    }

    /// One fault of the body.
    pub(crate) fn invalid_at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::invalid(vec![Fault { pointer: pointer.into(), detail: detail.into() }])
    }

    /// One fault of the body, by one of the domain's rules.
    pub(crate) fn breaks(pointer: &'static str, rule: Rule) -> Self {
        Violations::one(pointer, rule).into()
    }

    /// A batch of which nothing was stored.
    pub(crate) fn batch(answer: BatchAnswer) -> Self {
        let errors = answer.results.iter().flat_map(faults_in_batch).collect();
        let mut refusal = Self::new(&BATCH_REJECTED, "no event was stored; `results` says why for each");
        refusal.0.problem.errors = errors;
        refusal.0.problem.batch = Some(Box::new(answer));
        refusal
    }

    /// The problem, for an item of a batch.
    pub(crate) fn into_problem(self) -> Problem {
        self.0.log(None);
        self.0.problem
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_seconds = Some(seconds);
        self
    }

    fn caused_by(mut self, error: &StoreError) -> Self {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            cause = format!("{cause}: {error}");
            source = error.source();
        }
        self.0.cause = Some(cause);
        self
    }
}

impl Details {
    fn log(&self, request_id: Option<Uuid>) {
        if let Some(cause) = &self.cause {
            let request_id = request_id.map(tracing::field::display);
            tracing::error!(request_id, code = %self.problem.code, cause, "a request failed");
        }
    }
}

fn faults_in_batch(result: &BatchResult) -> Vec<Fault> {
    let BatchResult::Refused { index, error } = result else { return Vec::new() };
    let placed = |fault: &Fault| Fault {
        pointer: format!("/events/{index}{}", fault.pointer),
        detail: fault.detail.clone(),
    };
    if error.errors.is_empty() {
        return vec![Fault { pointer: format!("/events/{index}"), detail: error.detail.clone() }];
    }
    error.errors.iter().map(placed).collect()
}

impl From<Violations> for Refusal {
    fn from(violations: Violations) -> Self {
        let fault = |violation: &neo_events::domain::violation::Violation| Fault {
            pointer: violation.pointer.to_string(),
            detail: violation.rule.to_string(),
        };
        let only_target = violations.iter().all(|violation| matches!(violation.rule, Rule::Target(_)));
        let kind = if only_target { &TARGET_NOT_ALLOWED } else { &VALIDATION_FAILED };
        Self::with_faults(kind, violations.iter().map(fault).collect())
    }
}

impl From<Conflict> for Refusal {
    fn from(conflict: Conflict) -> Self {
        let kind = match conflict {
            Conflict::IdReused => &ID_REUSED,
            Conflict::StaleVersion { .. } => &STALE_VERSION,
            Conflict::VersionsExhausted => &VERSIONS_EXHAUSTED,
            Conflict::Exists => &ALREADY_EXISTS,
            Conflict::Illegal(_) => &ILLEGAL_STATE,
            Conflict::EndpointInactive => &ENDPOINT_INACTIVE,
            Conflict::EndpointDeleted => &ENDPOINT_DELETED,
            Conflict::Contended => &CONTENDED,
        };
        let mut refusal = Self::new(kind, conflict.to_string());
        if let Conflict::StaleVersion { newest } = conflict {
            refusal.0.problem.newest_version = Some(newest);
        }
        refusal
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        let kind = match busy {
            Busy::Tenant(_) => &TOO_MANY_REQUESTS,
            Busy::Node(_) => &CALLS_BUSY,
        };
        Self::new(kind, busy.to_string()).retry_after(RETRY_SECONDS_BUSY)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::UnknownSchema(schema) => Self::tenant_not_found(&schema.tenant_header()),
            StoreError::BadCursor => Self::new(
                &INVALID_CURSOR,
                "`cursor` must be the `next_cursor` of the same list, with the same filters",
            ),
            StoreError::Unavailable(_) => {
                Self::new(&DATABASE_UNAVAILABLE, "the database is busy, restarting or unreachable; try again")
                    .retry_after(RETRY_SECONDS_BUSY)
                    .caused_by(&error)
            }
            // Nobody knows which of the two it was; whoever asks for the same again burdens the database with the same.
            StoreError::TooSlow(_) => Self::new(
                &READ_TOO_LONG,
                "it took longer than a read may take, and was ended; ask for less: a shorter span of time (`from` and \
                 `to`, or `days`), a filter, or a smaller `limit`; or something holds the rows up: try again later",
            )
            .retry_after(RETRY_SECONDS_REPAIR)
            .caused_by(&error),
            StoreError::Full(_) => {
                Self::new(&STORAGE_FULL, "nothing can be stored until the operator makes room")
                    .retry_after(RETRY_SECONDS_REPAIR)
                    .caused_by(&error)
            }
            StoreError::ReadOnly(_) => Self::new(
                &DATABASE_READ_ONLY,
                "nothing can be stored until the operator makes the database writable",
            )
            .retry_after(RETRY_SECONDS_REPAIR)
            .caused_by(&error),
            StoreError::Broken(_) | StoreError::ForeignTransaction => {
                Self::internal(String::new()).caused_by(&error)
            }
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(violations) => violations.into(),
            Error::NotFound(what) => Self::not_found(what),
            Error::Conflict(conflict) => conflict.into(),
            Error::BeyondContext(_) => Self::new(&CONTEXT_BOUND, error.to_string()),
            Error::Busy(busy) => busy.into(),
            Error::Store(error) => error.into(),
        }
    }
}

/// Empty, to be filled by [`render`].
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(self);
        response
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// The response as it leaves, if it is a refusal: of a handler, or of the router, which knows of none.
pub(crate) fn render(response: &mut Response, request_id: Uuid) {
    let refusal = response.extensions_mut().remove::<Refusal>().or_else(|| match response.status() {
        StatusCode::NOT_FOUND => Some(Refusal::unknown_path()),
        StatusCode::METHOD_NOT_ALLOWED => Some(Refusal::method_not_allowed()),
        _ => None,
    });
    let Some(Refusal(mut details)) = refusal else { return };
    details.log(Some(request_id));
    details.problem.request_id = Some(request_id);
    let body = serde_json::to_vec(&details.problem).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    if let Some(seconds) = details.retry_after_seconds {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if details.problem.status == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.body_mut() = Body::from(body);
}

#[cfg(test)]
mod tests {
    use neo_events::LongCall;

    use super::*;

    #[test]
    fn what_is_stored_forbids_a_call_by_a_code_of_its_own() {
        for (conflict, code, newest) in [
            (Conflict::IdReused, "id_reused", None),
            (Conflict::StaleVersion { newest: 7 }, "stale_version", Some(7)),
            (Conflict::VersionsExhausted, "versions_exhausted", None),
            (Conflict::Exists, "already_exists", None),
            (Conflict::EndpointInactive, "endpoint_inactive", None),
            (Conflict::EndpointDeleted, "endpoint_deleted", None),
            (Conflict::Contended, "contended", None),
        ] {
            let problem = Refusal::from(Error::from(conflict)).into_problem();
            assert_eq!((&*problem.code, problem.status, problem.newest_version), (code, 409, newest));
            assert_eq!(problem.detail, conflict.to_string());
        }
    }

    #[test]
    fn who_comes_while_all_places_are_taken_is_told_whose_they_are_and_when_to_try_again() {
        let call = LongCall::Reach;
        for (busy, status, code) in
            [(Busy::Tenant(call), 429, "too_many_requests"), (Busy::Node(call), 503, "calls_busy")]
        {
            let refusal = Refusal::from(Error::from(busy));
            assert_eq!(refusal.0.problem.code, code);
            let mut response = refusal.into_response();
            render(&mut response, Uuid::nil());
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1", "{code}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_database_is_told_by_status_and_retry_after() {
        let cause = || "SQLITE_SECRET_PATH".into();
        for (error, status, code, retry_after) in [
            (StoreError::UnknownSchema(neo_events::Schema::admin()), 404, "tenant_not_found", None),
            (StoreError::BadCursor, 400, "invalid_cursor", None),
            (StoreError::Unavailable(cause()), 503, "database_unavailable", Some("1")),
            (StoreError::TooSlow(cause()), 503, "read_too_long", Some("30")),
            (StoreError::Full(cause()), 503, "storage_full", Some("30")),
            (StoreError::ReadOnly(cause()), 503, "database_read_only", Some("30")),
            (StoreError::Broken(cause()), 500, "internal_error", None),
        ] {
            let refusal = Refusal::from(Error::Store(error));
            assert_eq!(refusal.0.problem.code, code);
            assert!(
                !serde_json::to_string(&refusal.0.problem).unwrap().contains("SECRET"),
                "causes are for the log"
            );
            let mut response = refusal.into_response();
            render(&mut response, Uuid::nil());
            assert_eq!(response.status().as_u16(), status);
            let found = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(found, retry_after, "{code}");
        }
    }
}
