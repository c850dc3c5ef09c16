//! Profiles: how strict a deployment is with its endpoints.

use crate::{
    endpoint::{RETRIES_MAX, TIMEOUT_SECONDS_MAX},
    signing::SECRET_BYTES_MIN,
    violation::Rule,
};

/// How strict a deployment is. A profile sets limits and the address policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Loopback and private targets allowed, ≤ 3 retries, timeout ≤ 60 s, short secrets allowed.
    #[default]
    Development,
    /// Both blocked, plain http allowed, ≤ 5 retries, ≤ 120 s.
    Staging,
    /// https required with verified certificates, loopback and private blocked.
    Production,
}

/// What a profile allows an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointLimits {
    /// Whose they are.
    pub profile: Profile,
    /// Most retries.
    pub retries_max: u32,
    /// Longest timeout, in seconds.
    pub timeout_seconds_max: u32,
    /// Shortest secret, in bytes.
    pub secret_bytes_min: usize,
    /// Whether certificates must be verified.
    pub tls_is_verified: bool,
}

impl Profile {
    /// The profile's limits.
    pub const fn endpoint_limits(self) -> EndpointLimits {
        match self {
            Self::Development => EndpointLimits {
                profile: self,
                retries_max: 3,
                timeout_seconds_max: 60,
                secret_bytes_min: 1,
                tls_is_verified: false,
            },
            Self::Staging => EndpointLimits {
                profile: self,
                retries_max: 5,
                timeout_seconds_max: 120,
                secret_bytes_min: SECRET_BYTES_MIN,
                tls_is_verified: false,
            },
            Self::Production => EndpointLimits {
                profile: self,
                retries_max: RETRIES_MAX,
                timeout_seconds_max: TIMEOUT_SECONDS_MAX,
                secret_bytes_min: SECRET_BYTES_MIN,
                tls_is_verified: true,
            },
        }
    }

    /// `development`, `staging` or `production`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl std::str::FromStr for Profile {
    type Err = Rule;
    fn from_str(name: &str) -> Result<Self, Rule> {
        [Self::Development, Self::Staging, Self::Production]
            .into_iter()
            .find(|profile| profile.as_str() == name)
            .ok_or(Rule::Malformed { expected: "development, staging or production" })
    }
}
