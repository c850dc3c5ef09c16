//! An endpoint before it is one: what somebody wrote, checked.

use std::fmt;

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    DESCRIPTION_CHARS_MAX, Endpoint, EndpointLimits, HttpMethod, NAME_CHARS_MAX, TIMEOUT_SECONDS_DEFAULT,
};
use crate::{
    headers::{CustomHeaders, SIGNATURE_HEADER_DEFAULT},
    id::EndpointId,
    retry::RetryPolicy,
    violation::{Faults, Rule, Violations},
};

/// An endpoint as somebody wrote it. Only `name` and `endpoint_url` must be given.
#[derive(Clone, Default)]
pub struct EndpointDraft {
    /// 1…255 characters after trimming.
    pub name: String,
    /// ≤ 1000 characters.
    pub description: Option<String>,
    /// Absolute http(s) URL.
    pub endpoint_url: String,
    /// `POST` if absent.
    pub http_method: Option<HttpMethod>,
    /// `X-Neo-Signature` if absent.
    pub signature_header: Option<String>,
    /// ≤ 20.
    pub custom_headers: Vec<(String, String)>,
    /// 5…300, 30 if absent.
    pub timeout_seconds: Option<u32>,
    /// Whether the redirects 307 and 308 are followed; `false` if absent. 301, 302 and 303 never are: they may change the
    /// method.
    pub follow_redirects: Option<bool>,
    /// `true` if absent.
    pub verify_ssl: Option<bool>,
    /// 0…10, 3 if absent.
    pub max_retry_attempts: Option<u32>,
    /// 1…3600, 5 if absent.
    pub retry_backoff_seconds: Option<u32>,
    /// 1.0…5.0, 2.0 if absent.
    pub retry_backoff_multiplier: Option<f64>,
    /// `true` if absent.
    pub is_active: Option<bool>,
    /// Who registers it.
    pub created_by_user_id: Option<Uuid>,
    /// If set, only this context's events are for it.
    pub context_id: Option<Uuid>,
}

impl fmt::Debug for EndpointDraft {
    /// Without headers: their values can be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, endpoint_url, .. } = self;
        f.debug_struct("EndpointDraft")
            .field("name", name)
            .field("endpoint_url", endpoint_url)
            .finish_non_exhaustive()
    }
}

impl EndpointDraft {
    /// Checks every rule but the target policy, which the caller applied: `judged_url` is its normalised answer.
    pub fn validate(
        self,
        id: EndpointId,
        now: Timestamp,
        limits: EndpointLimits,
        judged_url: Result<String, Rule>,
    ) -> Result<Endpoint, Violations> {
        let mut faults = Faults::new();
        let endpoint = Endpoint {
            id,
            revision: 1,
            name: faults.name("/name", &self.name, NAME_CHARS_MAX),
            description: self
                .description
                .map(|text| faults.text("/description", &text, DESCRIPTION_CHARS_MAX)),
            endpoint_url: faults.take("/endpoint_url", judged_url).unwrap_or_default(),
            http_method: self.http_method.unwrap_or_default(),
            signature_header: self.signature_header.unwrap_or_else(|| SIGNATURE_HEADER_DEFAULT.into()),
            custom_headers: CustomHeaders::try_new(self.custom_headers, &mut faults),
            timeout_seconds: self.timeout_seconds.unwrap_or(TIMEOUT_SECONDS_DEFAULT),
            follow_redirects: self.follow_redirects.unwrap_or(false),
            verify_ssl: self.verify_ssl.unwrap_or(true),
            retry: RetryPolicy {
                max_retry_attempts: self
                    .max_retry_attempts
                    .unwrap_or(RetryPolicy::STANDARD.max_retry_attempts),
                backoff_seconds: self.retry_backoff_seconds.unwrap_or(RetryPolicy::STANDARD.backoff_seconds),
                backoff_multiplier: self
                    .retry_backoff_multiplier
                    .unwrap_or(RetryPolicy::STANDARD.backoff_multiplier),
            },
            is_active: self.is_active.unwrap_or(true),
            is_verified: false,
            disabled_reason: None,
            created_by_user_id: self.created_by_user_id,
            context_id: self.context_id,
            created_at: now,
            updated_at: now,
            last_used_at: None,
            verified_at: None,
            secrets: Vec::new(),
        };
        endpoint.check_settings(limits, &mut faults);
        faults.found()?;
        Ok(endpoint)
    }
}
