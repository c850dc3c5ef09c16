//! How long a receiver keeps an idle connection, where it says so: `Keep-Alive: timeout=5, max=100`.
//!
//! A request that is sent at the very moment at which the receiver closes may be lost, and nobody knows whether it was.
//! So the connection is let go a second before that: the answer took time to come, and the request takes time to go.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const MARGIN: Duration = Duration::from_secs(1);

/// The longest that the connection may be kept for another request; zero for not at all. `None` if nothing is said.
pub(crate) fn idle_max(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| seconds.trim().parse().ok()).flatten()
    })?;
    Some(Duration::from_secs(seconds).saturating_sub(MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_is_found_and_a_second_kept_back() {
        let cases = [
            ("timeout=5", Some(4)),
            ("timeout=5, max=100", Some(4)),
            ("max=100,Timeout = 61 ", Some(60)),
            ("timeout=1", Some(0)),
            ("timeout=0", Some(0)),
            ("max=100", None),
            ("timeout", None),
            ("timeout=", None),
            ("timeout=-5", None),
            ("timeout=soon", None),
            ("timeout=99999999999999999999", None),
            ("", None),
        ];
        for (value, seconds) in cases {
            let headers = HeaderMap::from_iter([(KEEP_ALIVE, value.parse().unwrap())]);
            assert_eq!(idle_max(&headers), seconds.map(Duration::from_secs), "{value:?}");
        }
        assert_eq!(idle_max(&HeaderMap::new()), None);
    }
}
