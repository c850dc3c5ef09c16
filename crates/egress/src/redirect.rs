//! Where a redirect leads, for endpoints that follow them.
//!
//! Only 307 and 308 are followed: they promise that method and body stay as they are. What clients make of 301, 302
//! and 303 is a GET without a body, which is no delivery, so those are returned as the responses they are. Every hop
//! is judged like a target that was just written, never leads from https down to http, and loses its credentials when
//! it leaves the origin.

use http::header::{AUTHORIZATION, COOKIE, LOCATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::failure::{FailureKind, Fault};
use crate::policy::TargetPolicy;
use crate::target::{Scheme, Target};

/// Redirects that are followed for one request.
pub(crate) const REDIRECTS_MAX: usize = 5;

pub(crate) fn is_followed(status: StatusCode) -> bool {
    matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
}

/// The target of the next hop.
pub(crate) fn next_target(
    policy: &TargetPolicy,
    current: &Target,
    response_headers: &HeaderMap,
) -> Result<Target, Fault> {
    let invalid = || Fault::new(FailureKind::RedirectInvalid, "the redirect has no usable location");
    let location = response_headers.get(LOCATION).ok_or_else(invalid)?;
    let location = location.to_str().map_err(|_| invalid())?;
    let target = policy.judge_url(&absolute(current, location).ok_or_else(invalid)?)?;
    if current.scheme() == Scheme::Https && target.scheme() == Scheme::Http {
        return Err(Fault::new(FailureKind::RedirectInvalid, "the redirect leads from https to http"));
    }
    Ok(target)
}

/// Removes from `headers` what another origin must not learn: credentials by name, and whatever the caller marked as
/// sensitive.
pub(crate) fn strip_credentials(headers: &mut HeaderMap, from: &Target, to: &Target) {
    if from.origin() != to.origin() {
        for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
            headers.remove(name);
        }
        let sensitive =
            headers.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.clone());
        for name in sensitive.collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
}

/// The location as an absolute URL. One that names a host keeps its spelling, so that the policy judges what the
/// receiver wrote and not what a parser made of it.
fn absolute(current: &Target, location: &str) -> Option<String> {
    if location.contains('\\') {
        return None;
    }
    if location.starts_with("//") {
        let scheme = current.as_str().split_once("//")?.0;
        return Some(format!("{scheme}{location}"));
    }
    // What stands before a path, if it is one.
    let (before, _) = location.split_once(['/', '?', '#']).unwrap_or((location, ""));
    if Url::parse(location).is_ok() || before.ends_with(':') {
        return Some(location.to_owned());
    }
    let base = Url::parse(current.as_str()).ok()?;
    base.join(location).ok().map(String::from)
}
