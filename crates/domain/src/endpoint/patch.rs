//! Changes to an endpoint, and what it is after them.

use std::fmt;

use jiff::Timestamp;

use super::{DESCRIPTION_CHARS_MAX, Endpoint, EndpointLimits, HttpMethod, NAME_CHARS_MAX};
use crate::violation::{Faults, Rule, Violations};

/// Changes to an endpoint. Absent fields stay; `Some(None)` clears a field that may be empty.
#[derive(Clone, Default)]
pub struct EndpointPatch {
    /// 1…255 characters after trimming.
    pub name: Option<String>,
    /// ≤ 1000 characters.
    pub description: Option<Option<String>>,
    /// As the address policy judged it; drops verification if it differs. If it leads to another server, headers that carry
    /// credentials must be given anew, or removed: nobody who may not see them is to have them sent elsewhere.
    pub endpoint_url: Option<Result<String, Rule>>,
    /// The request's method.
    pub http_method: Option<HttpMethod>,
    /// Which header carries the body's signature.
    pub signature_header: Option<String>,
    /// Merged into the present ones; `None` removes one.
    pub custom_headers: Vec<(String, Option<String>)>,
    /// 5…300.
    pub timeout_seconds: Option<u32>,
    /// Whether the redirects 307 and 308 are followed. 301, 302 and 303 never are: they may change the method.
    pub follow_redirects: Option<bool>,
    /// Whether certificates are verified.
    pub verify_ssl: Option<bool>,
    /// 0…10.
    pub max_retry_attempts: Option<u32>,
    /// 1…3600.
    pub retry_backoff_seconds: Option<u32>,
    /// 1.0…5.0.
    pub retry_backoff_multiplier: Option<f64>,
    /// As by activate and deactivate.
    pub is_active: Option<bool>,
}

impl fmt::Debug for EndpointPatch {
    /// Without headers: their values can be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointPatch").field("name", &self.name).finish_non_exhaustive()
    }
}

impl EndpointPatch {
    /// Of the settings that the profile has a say in, those that it leaves as they are stored.
    fn settings_left(&self) -> Vec<&'static str> {
        let changes_headers = self.signature_header.is_some() || !self.custom_headers.is_empty();
        let settings = [
            ("/signature_header", self.signature_header.is_some()),
            ("/custom_headers", changes_headers),
            ("/timeout_seconds", self.timeout_seconds.is_some()),
            ("/verify_ssl", self.verify_ssl.is_some()),
            ("/max_retry_attempts", self.max_retry_attempts.is_some()),
            ("/retry_backoff_seconds", self.retry_backoff_seconds.is_some()),
            ("/retry_backoff_multiplier", self.retry_backoff_multiplier.is_some()),
        ];
        settings.into_iter().filter_map(|(pointer, is_changed)| (!is_changed).then_some(pointer)).collect()
    }
}

impl Endpoint {
    /// Applies changes and checks every rule, also of what stays: one written in a laxer profile is put right by its next
    /// change. A fault of what nobody sent is told as such.
    pub fn patched(
        mut self,
        patch: EndpointPatch,
        now: Timestamp,
        limits: EndpointLimits,
    ) -> Result<Self, Violations> {
        let mut faults = Faults::new();
        let left = patch.settings_left();
        if let Some(name) = patch.name {
            self.name = faults.name("/name", &name, NAME_CHARS_MAX);
        }
        if let Some(description) = patch.description {
            self.description =
                description.map(|text| faults.text("/description", &text, DESCRIPTION_CHARS_MAX));
        }
        if let Some(url) = patch.endpoint_url.and_then(|judged| faults.take("/endpoint_url", judged)) {
            if server_of(&url) != server_of(&self.endpoint_url) {
                self.custom_headers.keep_no_credentials(&patch.custom_headers, &mut faults);
            }
            self.change_url(url);
        }
        if !patch.custom_headers.is_empty() {
            self.custom_headers = self.custom_headers.merged(&patch.custom_headers, &mut faults);
        }
        set(&mut self.http_method, patch.http_method);
        set(&mut self.signature_header, patch.signature_header);
        set(&mut self.timeout_seconds, patch.timeout_seconds);
        set(&mut self.follow_redirects, patch.follow_redirects);
        set(&mut self.verify_ssl, patch.verify_ssl);
        set(&mut self.retry.max_retry_attempts, patch.max_retry_attempts);
        set(&mut self.retry.backoff_seconds, patch.retry_backoff_seconds);
        set(&mut self.retry.backoff_multiplier, patch.retry_backoff_multiplier);
        let mut of_settings = Faults::new();
        self.check_settings(limits, &mut of_settings);
        faults.take_over(of_settings, |pointer, rule| {
            if left.contains(&pointer) {
                Rule::Stored { profile: limits.profile.as_str(), rule: Box::new(rule) }
            } else {
                rule
            }
        });
        faults.found()?;
        Ok(match patch.is_active {
            Some(true) => self.activated(now),
            Some(false) => self.deactivated(now),
            None => self.touched(now),
        })
    }
}

/// Scheme, host and port of a URL that the address policy has written.
fn server_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    url.get(..scheme.len() + "://".len() + authority)
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
