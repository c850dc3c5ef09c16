//! Endpoints: where webhooks go, how they are sent, and when they are tried again.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

mod draft;
mod patch;
mod templates;

pub use draft::EndpointDraft;
pub use patch::EndpointPatch;
pub use templates::{Clamped, RetryPreset};

pub use crate::profile::{EndpointLimits, Profile};
use crate::{
    headers::{self, CustomHeaders},
    id::EndpointId,
    retry::RetryPolicy,
    time::later,
    violation::{Faults, Rule},
};

/// Longest name, in characters.
pub const NAME_CHARS_MAX: usize = 255;
/// Longest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 1000;
/// Seconds a delivery may take in all.
pub const TIMEOUT_SECONDS_DEFAULT: u32 = 30;
/// The most of them that an endpoint may have.
pub const TIMEOUT_SECONDS_MAX: u32 = 300;
/// How long a rotated secret keeps signing.
pub const ROTATION_OVERLAP_DEFAULT: SignedDuration = SignedDuration::from_hours(24);
/// Most secrets that sign at once; rotating further ends the oldest at once.
pub const VALID_SECRETS_MAX: usize = 5;

/// What the owner of an endpoint reads that answered 410.
pub const DISABLED_REASON_GONE: &str = "the receiver answered 410 Gone";

const TIMEOUT_SECONDS_MIN: u32 = 5;
pub(crate) const RETRIES_MAX: u32 = 10;
const BACKOFF_SECONDS_MAX: u32 = 3600;
const MULTIPLIER_MAX: f64 = 5.0;

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
    /// Whether the redirects 307 and 308 are followed. 301, 302 and 303 never are: they may change the method.
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

impl Endpoint {
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

    /// Signs with a new secret; the one before goes on signing for `overlap`, by the wall, as receivers see it and as
    /// [`Self::valid_secrets`] is asked.
    #[must_use]
    pub fn with_rotated_secret(
        mut self,
        sealed: Vec<u8>,
        overlap: SignedDuration,
        wall: Timestamp,
        now: Timestamp,
    ) -> Self {
        let ends = later(wall, overlap);
        for secret in &mut self.secrets {
            secret.expires_at = Some(secret.expires_at.map_or(ends, |earlier| earlier.min(ends)));
        }
        self.secrets.retain(|secret| secret.expires_at.is_some_and(|at| at > wall));
        self.secrets.insert(0, SealedSecret { sealed, expires_at: None });
        self.secrets.truncate(VALID_SECRETS_MAX);
        self.touched(now)
    }

    /// The secrets that sign at this time of the wall, newest first.
    pub fn valid_secrets(&self, wall: Timestamp) -> impl Iterator<Item = &SealedSecret> {
        self.secrets.iter().filter(move |secret| secret.expires_at.is_none_or(|at| at > wall))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::violation::Violations;

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

        // A program's own, which takes longer than ours.
        let mut slow = EndpointDraft {
            timeout_seconds: Some(90),
            ..EndpointDraft::enterprise("a", "http://example.com/")
        };
        let clamped = slow.clamp(limits);
        assert_eq!(clamped[1], Clamped { field: "timeout_seconds", from: 90, to: 60 });
        assert_eq!(validated(slow, limits).unwrap().timeout_seconds, 60);
    }

    #[test]
    fn presets_have_the_retries_and_the_timeout_that_they_promise() {
        for (preset, retries, backoff, multiplier, timeout) in [
            (RetryPreset::Conservative, 5, 10, 2.0, 60),
            (RetryPreset::Aggressive, 10, 2, 1.5, 30),
            (RetryPreset::QuickFail, 1, 5, 1.0, 15),
        ] {
            let draft = EndpointDraft::standard("a", "https://example.com/").with_preset(preset);
            let endpoint = validated(draft, LIMITS).unwrap();
            let retry = RetryPolicy {
                max_retry_attempts: retries,
                backoff_seconds: backoff,
                backoff_multiplier: multiplier,
            };
            assert_eq!((endpoint.retry, endpoint.timeout_seconds), (retry, timeout), "{preset:?}");
            let of_development = Profile::Development.endpoint_limits();
            let mut draft = EndpointDraft::standard("a", "https://example.com/").with_preset(preset);
            let clamped = draft.clamp(of_development);
            assert_eq!(!clamped.is_empty(), retries > 3, "{preset:?}");
            assert_eq!(validated(draft, of_development).unwrap().retry.max_retry_attempts, retries.min(3));
        }
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
    fn what_was_stored_in_a_laxer_profile_is_told_from_what_is_sent() {
        let draft =
            EndpointDraft { verify_ssl: Some(false), ..EndpointDraft::standard("a", "https://example.com/") };
        let lax = validated(draft, Profile::Staging.endpoint_limits()).unwrap();
        let refused =
            |patch: EndpointPatch| lax.clone().patched(patch, at(1), LIMITS).unwrap_err().to_string();
        assert_eq!(
            refused(EndpointPatch { timeout_seconds: Some(301), ..EndpointPatch::default() }),
            "/verify_ssl is stored from before and refused in profile production: it must be true in profile \
             production; change it too; /timeout_seconds must be between 5 and 300"
        );
        assert_eq!(
            refused(EndpointPatch { verify_ssl: Some(false), ..EndpointPatch::default() }),
            "/verify_ssl must be true in profile production"
        );
        let mended = EndpointPatch { verify_ssl: Some(true), ..EndpointPatch::default() };
        assert!(lax.patched(mended, at(1), LIMITS).is_ok());
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
    fn credentials_are_not_taken_along_to_another_server() {
        let header = |value: Option<&str>| vec![("Authorization".to_owned(), value.map(str::to_owned))];
        let patch = |url: &str, custom_headers| EndpointPatch {
            endpoint_url: Some(Ok(url.to_owned())),
            custom_headers,
            ..EndpointPatch::default()
        };
        let with = patch("https://example.com/", header(Some("secret")));
        let known = endpoint().patched(with, at(1), LIMITS).unwrap();
        let moved = |url, custom_headers| known.clone().patched(patch(url, custom_headers), at(2), LIMITS);
        let left = |patched: Result<Endpoint, _>| -> Vec<_> {
            patched.unwrap().custom_headers.iter().map(|(_, value)| value.to_owned()).collect()
        };
        for url in [
            "https://example.net/",
            "https://example.com:444/",
            "http://example.com/",
            "https://example.com.net/",
        ] {
            for headers in [vec![], header(Some("[redacted]"))] {
                assert_eq!(
                    moved(url, headers).unwrap_err().to_string(),
                    "/custom_headers/Authorization must be given anew, or removed with null, when the URL leads to \
                     another server"
                );
            }
            assert_eq!(left(moved(url, header(Some("other")))), ["other"]);
            assert_eq!(left(moved(url, header(None))), [""; 0]);
        }
        for url in ["https://example.com/", "https://example.com/elsewhere", "https://example.com?q"] {
            assert_eq!(left(moved(url, vec![])), ["secret"], "{url}");
        }
    }

    #[test]
    fn rotated_secrets_overlap_then_end() {
        let hour = SignedDuration::from_hours(1);
        let once = endpoint().with_rotated_secret(vec![1], hour, at(0), at(0));
        let twice = once.with_rotated_secret(vec![2], hour, at(10), at(10));
        let valid = |endpoint: &Endpoint, second| {
            endpoint.valid_secrets(at(second)).map(|s| s.sealed[0]).collect::<Vec<_>>()
        };
        assert_eq!(valid(&twice, 20), [2, 1]);
        assert_eq!(valid(&twice, 10 + 3600), [2]);
        let thrice = twice.with_rotated_secret(vec![3], SignedDuration::ZERO, at(20), at(20));
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
