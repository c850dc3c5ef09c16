//! Endpoints: where webhooks go, how they are sent, and when they are tried again.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

mod templates;

pub use templates::{Clamped, RetryPreset};

use crate::{
    headers::{self, CustomHeaders, SIGNATURE_HEADER_DEFAULT},
    id::EndpointId,
    retry::RetryPolicy,
    signing::SECRET_BYTES_MIN,
    time::later,
    violation::{Faults, Rule, Violations},
};

/// Longest name, in characters.
pub const NAME_CHARS_MAX: usize = 255;
/// Longest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 1000;
/// Seconds a delivery may take in all.
pub const TIMEOUT_SECONDS_DEFAULT: u32 = 30;
/// How long a rotated secret keeps signing.
pub const ROTATION_OVERLAP_DEFAULT: SignedDuration = SignedDuration::from_hours(24);
/// Most secrets that sign at once; rotating further ends the oldest at once.
pub const VALID_SECRETS_MAX: usize = 5;

/// What the owner of an endpoint reads that answered 410.
pub const DISABLED_REASON_GONE: &str = "the receiver answered 410 Gone";

const TIMEOUT_SECONDS_MIN: u32 = 5;
const TIMEOUT_SECONDS_MAX: u32 = 300;
const RETRIES_MAX: u32 = 10;
const BACKOFF_SECONDS_MAX: u32 = 3600;
const MULTIPLIER_MAX: f64 = 5.0;

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

/// The method of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpMethod {
    /// `POST`
    #[default]
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
}

impl HttpMethod {
    /// As it stands in the request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

impl std::str::FromStr for HttpMethod {
    type Err = Rule;
    fn from_str(name: &str) -> Result<Self, Rule> {
        [Self::Post, Self::Put, Self::Patch]
            .into_iter()
            .find(|method| method.as_str() == name)
            .ok_or(Rule::Malformed { expected: "POST, PUT or PATCH" })
    }
}

/// An endpoint's secret, encrypted. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The encrypted bytes.
    pub sealed: Vec<u8>,
    /// Until when it signs; `None` for the current one.
    pub expires_at: Option<Timestamp>,
}

/// Where webhooks go.
#[expect(clippy::struct_excessive_bools, reason = "four independent switches, each with its name")]
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// UUIDv7.
    pub id: EndpointId,
    /// Counts changes; a write names the revision it read, so that no change is lost.
    pub revision: u32,
    /// For people.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Normalised; judged by the address policy when written and when connected to.
    pub endpoint_url: String,
    /// The request's method.
    pub http_method: HttpMethod,
    /// Which header carries the body's signature.
    pub signature_header: String,
    /// Sent with each delivery.
    pub custom_headers: CustomHeaders,
    /// From DNS to the last byte of the answer, 5…300 s.
    pub timeout_seconds: u32,
    /// Whether 307 and 308 are followed.
    pub follow_redirects: bool,
    /// Whether certificates are verified.
    pub verify_ssl: bool,
    /// Copied to each delivery when it is created.
    pub retry: RetryPolicy,
    /// Whether it gets new deliveries and its pending ones are attempted.
    pub is_active: bool,
    /// Whether somebody showed that they own the URL.
    pub is_verified: bool,
    /// Why it is inactive, if we did it.
    pub disabled_reason: Option<String>,
    /// Who registered it.
    pub created_by_user_id: Option<Uuid>,
    /// If set, only this context's events are for it.
    pub context_id: Option<Uuid>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was last sent to, accurate to 10 s.
    pub last_used_at: Option<Timestamp>,
    /// When it was verified.
    pub verified_at: Option<Timestamp>,
    /// Newest first.
    pub secrets: Vec<SealedSecret>,
}

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
    /// `false` if absent.
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

/// Changes to an endpoint. Absent fields stay; `Some(None)` clears a field that may be empty.
#[derive(Clone, Default)]
pub struct EndpointPatch {
    /// 1…255 characters after trimming.
    pub name: Option<String>,
    /// ≤ 1000 characters.
    pub description: Option<Option<String>>,
    /// As the address policy judged it; drops verification if it differs.
    pub endpoint_url: Option<Result<String, Rule>>,
    /// The request's method.
    pub http_method: Option<HttpMethod>,
    /// Which header carries the body's signature.
    pub signature_header: Option<String>,
    /// Merged into the present ones; `None` removes one.
    pub custom_headers: Vec<(String, Option<String>)>,
    /// 5…300.
    pub timeout_seconds: Option<u32>,
    /// Whether 307 and 308 are followed.
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

impl Endpoint {
    /// Applies changes and checks every rule.
    pub fn patched(
        mut self,
        patch: EndpointPatch,
        now: Timestamp,
        limits: EndpointLimits,
    ) -> Result<Self, Violations> {
        let mut faults = Faults::new();
        if let Some(name) = patch.name {
            self.name = faults.name("/name", &name, NAME_CHARS_MAX);
        }
        if let Some(description) = patch.description {
            self.description =
                description.map(|text| faults.text("/description", &text, DESCRIPTION_CHARS_MAX));
        }
        if let Some(url) = patch.endpoint_url.and_then(|judged| faults.take("/endpoint_url", judged)) {
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
        self.check_settings(limits, &mut faults);
        faults.found()?;
        Ok(match patch.is_active {
            Some(true) => self.activated(now),
            Some(false) => self.deactivated(now),
            None => self.touched(now),
        })
    }

    /// Takes new deliveries, and its held ones go on.
    #[must_use]
    pub fn activated(self, now: Timestamp) -> Self {
        Self { is_active: true, disabled_reason: None, ..self }.touched(now)
    }

    /// Takes no new deliveries, and its pending ones are held.
    #[must_use]
    pub fn deactivated(self, now: Timestamp) -> Self {
        Self { is_active: false, ..self }.touched(now)
    }

    /// Inactive by our own decision, with the reason that its owner will read.
    #[must_use]
    pub fn disabled(self, reason: &str, now: Timestamp) -> Self {
        Self { is_active: false, disabled_reason: Some(reason.to_owned()), ..self }.touched(now)
    }

    /// Somebody showed that they own the URL.
    #[must_use]
    pub fn verified(self, now: Timestamp) -> Self {
        Self { is_verified: true, verified_at: Some(now), ..self }.touched(now)
    }

    /// The URL must be verified again.
    #[must_use]
    pub fn unverified(self, now: Timestamp) -> Self {
        Self { is_verified: false, verified_at: None, ..self }.touched(now)
    }

    /// Signs with a new secret; the one before goes on signing for `overlap`.
    #[must_use]
    pub fn with_rotated_secret(mut self, sealed: Vec<u8>, overlap: SignedDuration, now: Timestamp) -> Self {
        let ends = later(now, overlap);
        for secret in &mut self.secrets {
            secret.expires_at = Some(secret.expires_at.map_or(ends, |earlier| earlier.min(ends)));
        }
        self.secrets.retain(|secret| secret.expires_at.is_some_and(|at| at > now));
        self.secrets.insert(0, SealedSecret { sealed, expires_at: None });
        self.secrets.truncate(VALID_SECRETS_MAX);
        self.touched(now)
    }

    /// The secrets that sign at this time, newest first.
    pub fn valid_secrets(&self, now: Timestamp) -> impl Iterator<Item = &SealedSecret> {
        self.secrets.iter().filter(move |secret| secret.expires_at.is_none_or(|at| at > now))
    }

    /// Whether it may subscribe to types for verified endpoints only.
    pub fn may_subscribe_to_verified_only(&self) -> bool {
        self.is_active && self.is_verified
    }

    fn change_url(&mut self, url: String) {
        if url != self.endpoint_url {
            self.endpoint_url = url;
            self.is_verified = false;
            self.verified_at = None;
        }
    }

    fn touched(self, now: Timestamp) -> Self {
        Self { revision: self.revision + 1, updated_at: now.max(self.updated_at), ..self }
    }

    fn check_settings(&self, limits: EndpointLimits, faults: &mut Faults) {
        let RetryPolicy { max_retry_attempts, backoff_seconds, backoff_multiplier } = self.retry;
        let header = headers::judge_signature_header(&self.signature_header);
        faults.take("/signature_header", header);
        faults.require(self.verify_ssl || !limits.tls_is_verified, "/verify_ssl", || {
            Rule::Conflict("must be true in profile production")
        });
        let collides = |name: &str| {
            name.eq_ignore_ascii_case(&self.signature_header)
                || name.eq_ignore_ascii_case(&previous_signature_header(&self.signature_header))
        };
        faults.require(
            !self.custom_headers.iter().any(|(name, _)| collides(name)),
            "/custom_headers",
            || Rule::Conflict("must not set the signature header"),
        );
        let mut within = |pointer, value: u32, (min, max): (u32, u32), max_of_profile: u32| {
            if max_of_profile >= max {
                return faults.range(pointer, value.into(), min.into(), max.into());
            }
            let profile = limits.profile.as_str();
            faults.require((min..=max_of_profile).contains(&value), pointer, || Rule::OutOfProfile {
                min,
                max: max_of_profile,
                profile,
            });
        };
        let (timeouts, retries) = ((TIMEOUT_SECONDS_MIN, TIMEOUT_SECONDS_MAX), (0, RETRIES_MAX));
        within("/timeout_seconds", self.timeout_seconds, timeouts, limits.timeout_seconds_max);
        within("/max_retry_attempts", max_retry_attempts, retries, limits.retries_max);
        within("/retry_backoff_seconds", backoff_seconds, (1, BACKOFF_SECONDS_MAX), BACKOFF_SECONDS_MAX);
        faults.range("/retry_backoff_multiplier", backoff_multiplier, 1.0, MULTIPLIER_MAX);
    }
}

/// Where the previous secret's signature of the body goes during rotation.
pub fn previous_signature_header(signature_header: &str) -> String {
    format!("{signature_header}-Previous")
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: EndpointLimits = Profile::Production.endpoint_limits();

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn validated(draft: EndpointDraft, limits: EndpointLimits) -> Result<Endpoint, Violations> {
        let url = Ok(draft.endpoint_url.clone());
        draft.validate(EndpointId::new(at(0), [0; 10]), at(0), limits, url)
    }

    fn endpoint() -> Endpoint {
        validated(EndpointDraft::standard("a", "https://example.com/"), LIMITS).unwrap()
    }

    fn check(draft: EndpointDraft, pointer: Option<&str>) {
        let found = validated(draft, LIMITS).err().map(|v| v.iter().next().unwrap().pointer.to_string());
        assert_eq!(found.as_deref(), pointer);
    }

    #[test]
    fn limits_are_kept() {
        let base = || EndpointDraft::standard(" a ", "https://example.com/");
        check(base(), None);
        check(EndpointDraft { name: "  ".into(), ..base() }, Some("/name"));
        check(EndpointDraft { name: "n".repeat(256), ..base() }, Some("/name"));
        check(EndpointDraft { description: Some("d".repeat(1001)), ..base() }, Some("/description"));
        check(EndpointDraft { timeout_seconds: Some(4), ..base() }, Some("/timeout_seconds"));
        check(EndpointDraft { timeout_seconds: Some(300), ..base() }, None);
        check(EndpointDraft { timeout_seconds: Some(301), ..base() }, Some("/timeout_seconds"));
        check(EndpointDraft { max_retry_attempts: Some(11), ..base() }, Some("/max_retry_attempts"));
        check(EndpointDraft { retry_backoff_seconds: Some(0), ..base() }, Some("/retry_backoff_seconds"));
        check(
            EndpointDraft { retry_backoff_multiplier: Some(5.1), ..base() },
            Some("/retry_backoff_multiplier"),
        );
        check(
            EndpointDraft { retry_backoff_multiplier: Some(f64::NAN), ..base() },
            Some("/retry_backoff_multiplier"),
        );
        check(EndpointDraft { signature_header: Some("Host".into()), ..base() }, Some("/signature_header"));
        check(EndpointDraft { verify_ssl: Some(false), ..base() }, Some("/verify_ssl"));
        check(EndpointDraft { name: "a\nb".into(), ..base() }, Some("/name"));
        let headers = |name: &str| vec![(name.to_owned(), "v".to_owned())];
        check(
            EndpointDraft {
                signature_header: Some("X-Sig".into()),
                custom_headers: headers("x-sig"),
                ..base()
            },
            Some("/custom_headers"),
        );
    }

    #[test]
    fn a_profile_refuses_and_a_template_is_clamped() {
        let limits = Profile::Development.endpoint_limits();
        let mut draft = EndpointDraft::enterprise("a", "http://example.com/");
        assert!(validated(draft.clone(), limits).is_err());
        assert_eq!(draft.clamp(limits), [Clamped { field: "max_retry_attempts", from: 5, to: 3 }]);
        assert_eq!(validated(draft, limits).unwrap().retry.max_retry_attempts, 3);
    }

    #[test]
    fn a_limit_of_the_profile_is_told_as_such() {
        let refused = |profile: Profile, timeout, retries| {
            let draft = EndpointDraft {
                timeout_seconds: Some(timeout),
                max_retry_attempts: Some(retries),
                ..EndpointDraft::standard("a", "https://example.com/")
            };
            validated(draft, profile.endpoint_limits()).unwrap_err().to_string()
        };
        assert_eq!(
            refused(Profile::Development, 61, 4),
            "/timeout_seconds must be between 5 and 60 in profile development; \
             /max_retry_attempts must be between 0 and 3 in profile development"
        );
        assert!(refused(Profile::Staging, 300, 0).ends_with("between 5 and 120 in profile staging"));
        assert_eq!(refused(Profile::Production, 301, 0), "/timeout_seconds must be between 5 and 300");
    }

    #[test]
    fn changing_the_url_drops_verification_and_the_same_url_does_not() {
        let verified = endpoint().verified(at(1));
        let with_url =
            |url: &str| EndpointPatch { endpoint_url: Some(Ok(url.to_owned())), ..EndpointPatch::default() };
        let same = verified.clone().patched(with_url("https://example.com/"), at(2), LIMITS).unwrap();
        assert!(same.is_verified);
        let moved = verified.patched(with_url("https://example.com/b"), at(2), LIMITS).unwrap();
        assert!(!moved.is_verified && moved.verified_at.is_none());
        assert!(same.may_subscribe_to_verified_only() && !moved.may_subscribe_to_verified_only());
        assert!(!same.deactivated(at(3)).may_subscribe_to_verified_only());
        assert_eq!(moved.revision, 3);
    }

    #[test]
    fn rotated_secrets_overlap_then_end() {
        let hour = SignedDuration::from_hours(1);
        let once = endpoint().with_rotated_secret(vec![1], hour, at(0));
        let twice = once.with_rotated_secret(vec![2], hour, at(10));
        let valid = |endpoint: &Endpoint, second| {
            endpoint.valid_secrets(at(second)).map(|s| s.sealed[0]).collect::<Vec<_>>()
        };
        assert_eq!(valid(&twice, 20), [2, 1]);
        assert_eq!(valid(&twice, 10 + 3600), [2]);
        let thrice = twice.with_rotated_secret(vec![3], SignedDuration::ZERO, at(20));
        assert_eq!(valid(&thrice, 20), [3]);
    }

    #[test]
    fn headers_are_merged() {
        let patch = EndpointPatch {
            custom_headers: vec![("A".into(), Some("1".into())), ("x-b".into(), Some("2".into()))],
            ..EndpointPatch::default()
        };
        let more = endpoint().patched(patch, at(1), LIMITS).unwrap();
        let patch = EndpointPatch { custom_headers: vec![("a".into(), None)], ..EndpointPatch::default() };
        let fewer = more.patched(patch, at(2), LIMITS).unwrap();
        assert_eq!(fewer.custom_headers.iter().collect::<Vec<_>>(), [("x-b", "2")]);
    }
}
