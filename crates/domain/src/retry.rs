//! What an attempt's outcome means: the one place that decides between success, another try and the end.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::time::later;

/// Longest wait between two attempts, in seconds, whether by backoff or by `Retry-After`.
pub const RETRY_DELAY_SECONDS_MAX: f64 = 3600.0;
/// The random part of a delay: up to this share of it is added.
pub const JITTER_SHARE: f64 = 0.1;

/// The farthest ahead that a delivery is rightly due: the longest delay with its jitter, and a minute for settling.
/// What is due later was put off by a clock that ran ahead.
pub const DUE_AHEAD_MAX: SignedDuration = SignedDuration::from_mins(67);

/// The same for what was never attempted, which was due at once when it was written: less is how far clocks of nodes
/// may be apart.
pub const FIRST_DUE_AHEAD_MAX: SignedDuration = SignedDuration::from_secs(10);

/// When and how often to try again. Copied to each delivery when it is created.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Retries after the first attempt, 0…10.
    pub max_retry_attempts: u32,
    /// Wait before the first retry, 1…3600 s.
    pub backoff_seconds: u32,
    /// Growth of the wait from retry to retry, 1.0…5.0.
    pub backoff_multiplier: f64,
}

impl RetryPolicy {
    /// 3 retries, 5 s, doubling.
    pub const STANDARD: Self = Self { max_retry_attempts: 3, backoff_seconds: 5, backoff_multiplier: 2.0 };

    /// The wait after attempt `n`: 0 for n = 0, else `min(backoff × multiplier^(n-1), 3600)` s.
    pub fn delay_after(&self, attempt: u32) -> Duration {
        if attempt == 0 {
            return Duration::ZERO;
        }
        let exponent = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
        let seconds = f64::from(self.backoff_seconds) * self.backoff_multiplier.powi(exponent);
        Duration::from_secs_f64(seconds.min(RETRY_DELAY_SECONDS_MAX))
    }
}

/// What happened when a delivery was attempted. Never an error: the world is allowed to do all of this.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The receiver answered.
    Answered {
        /// HTTP status, 100…599.
        status: u16,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// No (whole) answer came.
    Failed(FailureCode),
}

impl Outcome {
    /// An attempt's error code: `HTTP_<status>`, or a [`FailureCode`].
    pub fn error_code(&self) -> Option<String> {
        match self {
            Self::Answered { status: 200..=299, .. } => None,
            Self::Answered { status, .. } => Some(format!("HTTP_{status}")),
            Self::Failed(code) => Some(code.as_str().to_owned()),
        }
    }
}

/// Why no answer came; the attempt's `error_code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// No connection within the connect timeout.
    TimeoutConnect,
    /// No whole answer within the endpoint's timeout.
    TimeoutTotal,
    /// Nobody listens there.
    ConnectionRefused,
    /// The connection broke.
    ConnectionReset,
    /// The connection was closed before an answer.
    ConnectionClosed,
    /// Another failure of the connection.
    ConnectionError,
    /// The name did not resolve.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// The address policy forbids the target.
    TargetRefused,
    /// More redirects than allowed, or in a circle.
    TooManyRedirects,
    /// What came was not HTTP.
    ProtocolError,
    /// The answer's headers were too large.
    ResponseTooLarge,
    /// The endpoint's settings make no request.
    Configuration,
    /// None of the endpoint's secrets can be used: one is damaged, or sealed under a master key that the node does not
    /// have.
    SecretUnreadable,
}

impl FailureCode {
    /// Every code.
    pub const ALL: [Self; 14] = [
        Self::TimeoutConnect,
        Self::TimeoutTotal,
        Self::ConnectionRefused,
        Self::ConnectionReset,
        Self::ConnectionClosed,
        Self::ConnectionError,
        Self::Dns,
        Self::Tls,
        Self::TargetRefused,
        Self::TooManyRedirects,
        Self::ProtocolError,
        Self::ResponseTooLarge,
        Self::Configuration,
        Self::SecretUnreadable,
    ];

    /// The code as users see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TimeoutConnect => "timeout_connect",
            Self::TimeoutTotal => "timeout_total",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionReset => "connection_reset",
            Self::ConnectionClosed => "connection_closed",
            Self::ConnectionError => "connection_error",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::TargetRefused => "target_refused",
            Self::TooManyRedirects => "too_many_redirects",
            Self::ProtocolError => "protocol_error",
            Self::ResponseTooLarge => "response_too_large",
            Self::Configuration => "configuration",
            Self::SecretUnreadable => "secret_unreadable",
        }
    }

    /// In words, where the transport gave none.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::TimeoutConnect => "no connection within the connect timeout",
            Self::TimeoutTotal => "no complete answer within the endpoint's timeout",
            Self::ConnectionRefused => "nobody accepts connections at that address",
            Self::ConnectionReset => "the connection broke",
            Self::ConnectionClosed => "the connection was closed before an answer",
            Self::ConnectionError => "the connection failed",
            Self::Dns => "the name did not resolve",
            Self::Tls => "the TLS handshake failed",
            Self::TargetRefused => "target_not_allowed",
            Self::TooManyRedirects => "too many redirects",
            Self::ProtocolError => "the answer is not valid HTTP",
            Self::ResponseTooLarge => "the answer's headers are too large",
            Self::Configuration => "the endpoint's settings cannot be used",
            Self::SecretUnreadable => {
                "the endpoint's secret cannot be read: the node that tried lacks its master key, or it is damaged"
            }
        }
    }

    /// Whether it was a timeout.
    pub const fn is_timeout(self) -> bool {
        matches!(self, Self::TimeoutConnect | Self::TimeoutTotal)
    }

    const fn is_retryable(self) -> bool {
        !matches!(self, Self::TargetRefused | Self::TooManyRedirects | Self::Configuration)
    }
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Delivered.
    Succeeded,
    /// Try again at this time.
    Retry(Timestamp),
    /// Over, without success: no attempt is left.
    Exhausted,
    /// Over, without success: trying again would not help.
    Rejected,
    /// Over, and the receiver asked for no more (410): the endpoint is to be disabled.
    Gone,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The attempt just made; the first is 1.
    pub attempt: u32,
    /// Attempts allowed in all.
    pub max_attempts: u32,
}

/// Decides. `now` is when the attempt ended; `jitter` is a random number in 0…1.
pub fn judge(
    outcome: &Outcome,
    progress: Progress,
    policy: &RetryPolicy,
    now: Timestamp,
    jitter: f64,
) -> Verdict {
    let (retryable, retry_after) = match *outcome {
        Outcome::Answered { status: 200..=299, .. } => return Verdict::Succeeded,
        Outcome::Answered { status: 410, .. } => return Verdict::Gone,
        Outcome::Answered { status: 429 | 503, retry_after } => (true, retry_after),
        Outcome::Answered { status, .. } => (matches!(status, 408 | 425 | 500..=599), None),
        Outcome::Failed(code) => (code.is_retryable(), None),
    };
    if !retryable {
        return Verdict::Rejected;
    }
    if progress.attempt >= progress.max_attempts {
        return Verdict::Exhausted;
    }
    let backoff = policy.delay_after(progress.attempt).mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0));
    let asked = retry_after.unwrap_or_default().min(Duration::from_secs_f64(RETRY_DELAY_SECONDS_MAX));
    let delay = SignedDuration::try_from(backoff.max(asked)).unwrap_or(SignedDuration::MAX);
    Verdict::Retry(later(now, delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy::STANDARD;
    const FIRST: Progress = Progress { attempt: 1, max_attempts: 4 };

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    fn judged(outcome: &Outcome, progress: Progress) -> Verdict {
        judge(outcome, progress, &POLICY, Timestamp::UNIX_EPOCH, 0.0)
    }

    fn seconds(verdict: Verdict) -> i64 {
        match verdict {
            Verdict::Retry(at) => at.as_second(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn statuses_are_judged_as_documented() {
        for status in [200, 201, 204, 299] {
            assert_eq!(judged(&answered(status), FIRST), Verdict::Succeeded, "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(seconds(judged(&answered(status), FIRST)), 5, "{status}");
        }
        for status in [301, 302, 307, 400, 401, 404, 409, 422] {
            assert_eq!(judged(&answered(status), FIRST), Verdict::Rejected, "{status}");
        }
        assert_eq!(judged(&answered(410), FIRST), Verdict::Gone);
    }

    #[test]
    fn failures_to_reach_are_retried_and_refusals_are_not() {
        for code in FailureCode::ALL {
            let permanent = matches!(
                code,
                FailureCode::TargetRefused | FailureCode::TooManyRedirects | FailureCode::Configuration
            );
            assert_eq!(judged(&Outcome::Failed(code), FIRST) == Verdict::Rejected, permanent, "{code:?}");
        }
    }

    #[test]
    fn the_last_attempt_exhausts() {
        let last = Progress { attempt: 4, max_attempts: 4 };
        assert_eq!(judged(&answered(500), last), Verdict::Exhausted);
        assert_eq!(judged(&answered(200), last), Verdict::Succeeded);
    }

    #[test]
    fn retry_after_lengthens_but_never_shortens_and_is_capped() {
        let asked = |s| Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(s)) };
        assert_eq!(seconds(judged(&asked(1), FIRST)), 5);
        assert_eq!(seconds(judged(&asked(90), FIRST)), 90);
        assert_eq!(seconds(judged(&asked(1_000_000), FIRST)), 3600);
        let ignored = Outcome::Answered { status: 500, retry_after: Some(Duration::from_secs(90)) };
        assert_eq!(seconds(judged(&ignored, FIRST)), 5);
    }

    #[test]
    fn delays_grow_are_capped_and_jitter_adds_at_most_a_tenth() {
        assert_eq!(POLICY.delay_after(0), Duration::ZERO);
        assert_eq!(POLICY.delay_after(1), Duration::from_secs(5));
        assert_eq!(POLICY.delay_after(3), Duration::from_secs(20));
        assert_eq!(POLICY.delay_after(u32::MAX), Duration::from_hours(1));
        let verdict = judge(&answered(500), FIRST, &POLICY, Timestamp::UNIX_EPOCH, 1.0);
        assert_eq!(verdict, Verdict::Retry(Timestamp::from_millisecond(5500).unwrap()));
    }
}
