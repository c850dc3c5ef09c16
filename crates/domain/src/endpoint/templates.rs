//! Ready-made settings: templates of endpoints and presets of retries.
//!
//! A profile refuses what is written over its limits; what a template brings over them is clamped and named instead.

use super::{EndpointDraft, EndpointLimits};

/// Ready-made retry settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryPreset {
    /// 5 × 10 s × 2.0, 60 s.
    Conservative,
    /// 10 × 2 s × 1.5, 30 s.
    Aggressive,
    /// 1 × 5 s × 1.0, 15 s.
    QuickFail,
}

/// A value of a template that the profile does not allow, and what it became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clamped {
    /// The field.
    pub field: &'static str,
    /// The template's value.
    pub from: u32,
    /// The profile's limit.
    pub to: u32,
}

impl EndpointDraft {
    /// Template `standard`: 30 s, 3 retries from 5 s, doubling.
    pub fn standard(name: impl Into<String>, endpoint_url: impl Into<String>) -> Self {
        Self { name: name.into(), endpoint_url: endpoint_url.into(), ..Self::default() }
    }

    /// Template `enterprise`: 60 s, 5 retries, `X-Priority: high`.
    pub fn enterprise(name: impl Into<String>, endpoint_url: impl Into<String>) -> Self {
        Self {
            timeout_seconds: Some(60),
            max_retry_attempts: Some(5),
            custom_headers: vec![("X-Priority".into(), "high".into())],
            ..Self::standard(name, endpoint_url)
        }
    }

    /// With the settings of a preset.
    #[must_use]
    pub fn with_preset(self, preset: RetryPreset) -> Self {
        let (retries, backoff, multiplier, timeout) = match preset {
            RetryPreset::Conservative => (5, 10, 2.0, 60),
            RetryPreset::Aggressive => (10, 2, 1.5, 30),
            RetryPreset::QuickFail => (1, 5, 1.0, 15),
        };
        Self {
            max_retry_attempts: Some(retries),
            retry_backoff_seconds: Some(backoff),
            retry_backoff_multiplier: Some(multiplier),
            timeout_seconds: Some(timeout),
            ..self
        }
    }

    /// For templates and presets: what the profile does not allow becomes what it allows, and is named.
    pub fn clamp(&mut self, limits: EndpointLimits) -> Vec<Clamped> {
        let mut clamped = Vec::new();
        let mut clamp = |field, value: &mut Option<u32>, to: u32| {
            if let Some(from) = value.filter(|v| *v > to) {
                *value = Some(to);
                clamped.push(Clamped { field, from, to });
            }
        };
        clamp("max_retry_attempts", &mut self.max_retry_attempts, limits.retries_max);
        clamp("timeout_seconds", &mut self.timeout_seconds, limits.timeout_seconds_max);
        clamped
    }
}
