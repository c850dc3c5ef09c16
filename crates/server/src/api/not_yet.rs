//! What the product is to have and this version has not: refused by name, so that nobody takes it for a path that they
//! misspelt, or for a row that is not there.

use axum::{Router, routing::any};

use crate::problem::Refusal;

/// Paths, and what there will be. Sorted as a reader would look for them.
const NOT_YET: [(&str, &str); 26] = [
    ("/metrics", "metrics are"),
    ("/openapi.json", "a description of the API for programs is"),
    ("/docs", "a description of the API for browsers is"),
    ("/v1/actions", "actions are"),
    ("/v1/actions/{*rest}", "actions are"),
    ("/v1/alerts", "alerts are"),
    ("/v1/alerts/{*rest}", "alerts are"),
    ("/v1/archival", "archives are"),
    ("/v1/archival/{*rest}", "archives are"),
    ("/v1/config", "settings that change at run time are"),
    ("/v1/config/{*rest}", "settings that change at run time are"),
    ("/v1/dead-letters", "dead letters are"),
    ("/v1/dead-letters/{*rest}", "dead letters are"),
    ("/v1/deliveries/cancel", "repairs of many deliveries at once are"),
    ("/v1/deliveries/retry", "repairs of many deliveries at once are"),
    ("/v1/dispatch", "dispatch by hand is"),
    ("/v1/dispatch/{*rest}", "dispatch by hand is"),
    ("/v1/endpoints/verify", "verification of many endpoints at once is"),
    ("/v1/endpoints/{id}/circuit-breaker", "circuit breakers are"),
    ("/v1/endpoints/{id}/circuit-breaker/open", "circuit breakers are"),
    ("/v1/endpoints/{id}/circuit-breaker/reset", "circuit breakers are"),
    ("/v1/endpoints/{id}/health", "the health of endpoints is"),
    ("/v1/executions", "actions are"),
    ("/v1/executions/{*rest}", "actions are"),
    ("/v1/metrics", "metrics are"),
    ("/v1/metrics/{*rest}", "metrics are"),
];

/// Fields and values of inputs, each with one that the same input has: elsewhere the same word is a mistake.
const WORDS_NOT_YET: [(&str, &str); 11] = [
    ("payload_format", "endpoint_url"),
    ("signature_schemes", "endpoint_url"),
    ("rate_limit_per_second", "endpoint_url"),
    ("max_in_flight", "endpoint_url"),
    ("ordering", "endpoint_url"),
    ("template", "endpoint_url"),
    ("payload_schema", "display_name"),
    ("requires_verification", "display_name"),
    ("payload", "level"),
    ("standard", "basic"),
    ("comprehensive", "basic"),
];

/// Whether a field or value that an input does not have will be in a later version; `expected` names what it has, each
/// between backquotes.
pub(super) fn is_later(word: &str, expected: &str) -> bool {
    WORDS_NOT_YET.iter().any(|(later, beside)| word == *later && expected.contains(&format!("`{beside}`")))
}

/// Answers for all of them, whatever the method.
pub(super) fn router() -> Router {
    NOT_YET.into_iter().fold(Router::new(), |router, (path, what)| {
        router.route(path, any(async move || Refusal::not_here_yet(what)))
    })
}
