//! Endpoints and what is done with them.

use neo_events::{CreatedEndpoint, EndpointDraft, EndpointPatch, Timestamp, domain::endpoint::HttpMethod};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Pairs, clearable, given};

/// An endpoint as somebody writes it.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct EndpointIn {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    pub(crate) endpoint_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http_method: Option<Method>,
    /// Absent or empty: one is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signature_header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) custom_headers: Option<Pairs<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) follow_redirects: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verify_ssl: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_retry_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_backoff_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_backoff_multiplier: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created_by_user_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_id: Option<Uuid>,
}

impl EndpointIn {
    /// The draft, and the secret if one was given.
    pub(crate) fn into_parts(self) -> (EndpointDraft, Option<String>) {
        let draft = EndpointDraft {
            name: self.name,
            description: self.description,
            endpoint_url: self.endpoint_url,
            http_method: self.http_method.map(|method| method.0),
            signature_header: self.signature_header,
            custom_headers: self.custom_headers.unwrap_or_default().0,
            timeout_seconds: self.timeout_seconds,
            follow_redirects: self.follow_redirects,
            verify_ssl: self.verify_ssl,
            max_retry_attempts: self.max_retry_attempts,
            retry_backoff_seconds: self.retry_backoff_seconds,
            retry_backoff_multiplier: self.retry_backoff_multiplier,
            is_active: self.is_active,
            created_by_user_id: self.created_by_user_id,
            context_id: self.context_id,
        };
        (draft, self.secret_token)
    }
}

/// Changes to an endpoint.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[expect(clippy::option_option, reason = "absent, cleared and set are three cases")]
pub(crate) struct EndpointChanges {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "clearable", skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint_url: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) http_method: Option<Method>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) signature_header: Option<String>,
    /// Merged into the present ones; `null` removes one.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) custom_headers: Option<Pairs<Option<String>>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_seconds: Option<u32>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) follow_redirects: Option<bool>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) verify_ssl: Option<bool>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) max_retry_attempts: Option<u32>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) retry_backoff_seconds: Option<u32>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) retry_backoff_multiplier: Option<f64>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) is_active: Option<bool>,
}

impl EndpointChanges {
    /// The patch, and the URL if it is to change, still to be judged.
    pub(crate) fn into_parts(self) -> (EndpointPatch, Option<String>) {
        let patch = EndpointPatch {
            name: self.name,
            description: self.description,
            endpoint_url: None,
            http_method: self.http_method.map(|method| method.0),
            signature_header: self.signature_header,
            custom_headers: self.custom_headers.unwrap_or_default().0,
            timeout_seconds: self.timeout_seconds,
            follow_redirects: self.follow_redirects,
            verify_ssl: self.verify_ssl,
            max_retry_attempts: self.max_retry_attempts,
            retry_backoff_seconds: self.retry_backoff_seconds,
            retry_backoff_multiplier: self.retry_backoff_multiplier,
            is_active: self.is_active,
        };
        (patch, self.endpoint_url)
    }
}

/// `POST`, `PUT` or `PATCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method(pub(crate) HttpMethod);

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map(Self).map_err(de::Error::custom)
    }
}

/// A secret to rotate to.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct RotateSecretIn {
    /// Absent or empty: one is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_token: Option<String>,
    /// How long the secret before goes on signing: 0…604800, 86400 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overlap_seconds: Option<u32>,
}

/// What a test sends.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct TestIn {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<Box<RawValue>>,
}

/// An endpoint.
#[derive(Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "fields are the contract's")]
pub(crate) struct Endpoint {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) endpoint_url: String,
    pub(crate) http_method: Method,
    pub(crate) signature_header: String,
    /// Values that could be credentials are `[redacted]`.
    pub(crate) custom_headers: Pairs<String>,
    pub(crate) timeout_seconds: u32,
    pub(crate) follow_redirects: bool,
    pub(crate) verify_ssl: bool,
    pub(crate) max_retry_attempts: u32,
    pub(crate) retry_backoff_seconds: u32,
    pub(crate) retry_backoff_multiplier: f64,
    pub(crate) is_active: bool,
    pub(crate) is_verified: bool,
    pub(crate) disabled_reason: Option<String>,
    pub(crate) created_by_user_id: Option<Uuid>,
    pub(crate) context_id: Option<Uuid>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) verified_at: Option<Timestamp>,
    /// In the answers to creation and rotation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret_token: Option<String>,
    /// The same secret as `whsec_…`, for Standard Webhooks libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signing_secret: Option<String>,
}

impl From<neo_events::Endpoint> for Endpoint {
    fn from(endpoint: neo_events::Endpoint) -> Self {
        Self {
            id: endpoint.id.uuid(),
            name: endpoint.name,
            description: endpoint.description,
            endpoint_url: endpoint.endpoint_url,
            http_method: Method(endpoint.http_method),
            signature_header: endpoint.signature_header,
            custom_headers: Pairs(endpoint.custom_headers.redacted()),
            timeout_seconds: endpoint.timeout_seconds,
            follow_redirects: endpoint.follow_redirects,
            verify_ssl: endpoint.verify_ssl,
            max_retry_attempts: endpoint.retry.max_retry_attempts,
            retry_backoff_seconds: endpoint.retry.backoff_seconds,
            retry_backoff_multiplier: endpoint.retry.backoff_multiplier,
            is_active: endpoint.is_active,
            is_verified: endpoint.is_verified,
            disabled_reason: endpoint.disabled_reason,
            created_by_user_id: endpoint.created_by_user_id,
            context_id: endpoint.context_id,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            last_used_at: endpoint.last_used_at,
            verified_at: endpoint.verified_at,
            secret_token: None,
            signing_secret: None,
        }
    }
}

impl From<CreatedEndpoint> for Endpoint {
    fn from(CreatedEndpoint { endpoint, secret }: CreatedEndpoint) -> Self {
        Self {
            secret_token: Some(secret.reveal_token().to_owned()),
            signing_secret: Some(secret.reveal_signing_secret()),
            ..endpoint.into()
        }
    }
}

/// Statistics of one endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EndpointStats {
    pub(crate) endpoint_id: Uuid,
    pub(crate) days: u32,
    pub(crate) deliveries: u64,
    pub(crate) pending: u64,
    pub(crate) retrying: u64,
    pub(crate) success: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) attempts: u64,
    /// Share of ended deliveries that arrived, 0…1; `null` if none ended.
    pub(crate) success_rate: Option<f64>,
    pub(crate) response_times: ResponseTimes,
    pub(crate) most_common_error: Option<CommonError>,
}

/// Response times of the attempts that were answered; `null` if none was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ResponseTimes {
    pub(crate) mean_ms: Option<f64>,
    pub(crate) p50_ms: Option<u64>,
    pub(crate) p95_ms: Option<u64>,
    pub(crate) p99_ms: Option<u64>,
}

/// The error seen most often.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CommonError {
    pub(crate) error_code: String,
    pub(crate) count: u64,
}

impl EndpointStats {
    pub(crate) fn new(endpoint_id: Uuid, days: u32, stats: neo_events::EndpointStats) -> Self {
        let times = stats.response_times;
        Self {
            endpoint_id,
            days,
            deliveries: stats.pending + stats.retrying + stats.success + stats.failed + stats.cancelled,
            pending: stats.pending,
            retrying: stats.retrying,
            success: stats.success,
            failed: stats.failed,
            cancelled: stats.cancelled,
            attempts: stats.attempts,
            success_rate: stats.success_rate(),
            response_times: ResponseTimes {
                mean_ms: times.map(|times| times.mean_ms),
                p50_ms: times.map(|times| times.p50_ms),
                p95_ms: times.map(|times| times.p95_ms),
                p99_ms: times.map(|times| times.p99_ms),
            },
            most_common_error: stats
                .most_common_error
                .map(|(error_code, count)| CommonError { error_code, count }),
        }
    }
}
