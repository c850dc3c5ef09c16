//! The effect of a delivery: build, sign and send one request. It never fails; every failure is an outcome.

use std::{borrow::Cow, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use neo_events_domain::{
    Timestamp,
    delivery::{AttemptRecord, ReceivedResponse},
    endpoint::Endpoint,
    payload,
    request::{self, RequestFacts},
    retry::{FailureCode, Outcome},
    signing::{Signatures, SigningSecret},
    tenant::Schema,
};
use neo_events_store::DeliveryWork;

use crate::{Keyring, Sources, Transport, TransportReport, TransportRequest};

/// What the effect needs of the world.
pub(crate) struct Webhook {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) sources: Sources,
}

impl Webhook {
    /// Makes one attempt.
    pub(crate) async fn perform(&self, endpoint: &Endpoint, work: &DeliveryWork) -> AttemptRecord {
        // What receivers compare with their own clocks.
        let attempted_at = self.sources.wall();
        let body = payload::standard(&work.event);
        let signatures = self
            .secrets(&work.schema, endpoint, attempted_at)
            .and_then(|secrets| Signatures::sign(&secrets, work.event.id, attempted_at, body.as_bytes()));
        let facts = RequestFacts {
            schema: &work.schema,
            event_id: work.event.id,
            event_type: work.event.event_type.as_str(),
            attempt_number: work.progress.attempt,
            request_id: self.sources.new_id(),
            sent_at: attempted_at,
            signatures: signatures.as_ref(),
            signature_header: &endpoint.signature_header,
        };
        let report = match facts.signatures {
            None => unsignable(),
            Some(_) => self.send(build(&facts, endpoint, Bytes::from(body)), endpoint).await,
        };
        let request_id = facts.request_id;
        let completed_at = self.sources.wall().max(attempted_at);
        let (outcome, response, error_message) = match report.result {
            Ok(response) => {
                let retry_after = retry_after(&response, completed_at);
                let message = complaint(response.status, endpoint.follow_redirects);
                (Outcome::Answered { status: response.status, retry_after }, Some(response), message)
            }
            Err(code) => {
                let message = report.error_message.unwrap_or_else(|| code.in_words().to_owned());
                (Outcome::Failed(code), None, Some(message))
            }
        };
        AttemptRecord {
            request_id,
            attempt_number: work.progress.attempt,
            endpoint_revision: endpoint.revision,
            signatures,
            outcome,
            response,
            error_message,
            connection_reused: report.connection_reused,
            attempted_at,
            completed_at,
            response_time: report.elapsed,
        }
    }

    /// A transport may be the embedding program's, in part. If it panics the attempt has failed: it is recorded, and
    /// there is an end to trying again.
    async fn send(&self, request: TransportRequest<'_>, endpoint: &Endpoint) -> TransportReport {
        let sent = AssertUnwindSafe(self.transport.send(request)).catch_unwind().await;
        sent.unwrap_or_else(|_| {
            tracing::error!(endpoint_id = %endpoint.id, "a request panicked");
            TransportReport {
                result: Err(FailureCode::ConnectionError),
                error_message: Some(
                    "the request could not be made for a fault of this node; its log says more".into(),
                ),
                connection_reused: false,
                elapsed: Duration::ZERO,
            }
        })
    }

    /// Every secret that is valid at this time of the wall and can be read, newest first; `None` if the newest cannot. Those
    /// before it sign beside it, for receivers who have not changed yet: without one of them, the others still verify.
    fn secrets(&self, schema: &Schema, endpoint: &Endpoint, wall: Timestamp) -> Option<Vec<SigningSecret>> {
        let open = |sealed: &[u8]| {
            let token = self.keyring.open(schema, endpoint.id, sealed);
            let token = token
                .inspect_err(|error| tracing::error!(endpoint_id = %endpoint.id, %error, "secret"))
                .ok()?;
            SigningSecret::try_new(&token, 1).ok()
        };
        let mut valid = endpoint.valid_secrets(wall).map(|secret| open(&secret.sealed));
        let newest = valid.next()??;
        Some(std::iter::once(newest).chain(valid.flatten()).collect())
    }
}

fn build<'a>(facts: &RequestFacts<'a>, endpoint: &'a Endpoint, body: Bytes) -> TransportRequest<'a> {
    TransportRequest {
        url: Cow::Borrowed(&endpoint.endpoint_url),
        method: endpoint.http_method,
        headers: request::headers(facts, endpoint.custom_headers.iter()),
        own_headers: endpoint.custom_headers.iter().count(),
        body,
        timeout: Duration::from_secs(endpoint.timeout_seconds.into()),
        follow_redirects: endpoint.follow_redirects,
        verify_tls: endpoint.verify_ssl,
    }
}

fn unsignable() -> TransportReport {
    TransportReport {
        result: Err(FailureCode::SecretUnreadable),
        error_message: None,
        connection_reused: false,
        elapsed: Duration::ZERO,
    }
}

/// What is wrong with an answer, in words for the endpoint's owner; `None` if nothing is.
fn complaint(status: u16, follows_redirects: bool) -> Option<String> {
    let why = match status {
        200..=299 => return None,
        301..=303 if follows_redirects => {
            "; only the redirects 307 and 308 are followed, because others may turn the request into a GET without its \
             body: let the receiver answer 308 instead, or change the endpoint's URL to where this one leads"
        }
        _ => "",
    };
    Some(format!("the receiver answered {status}{why}"))
}

/// `Retry-After` as seconds or as an HTTP date in any of its three forms (RFC 9110 §10.2.3 and §5.6.7). What cannot be read
/// asks for nothing.
fn retry_after(response: &ReceivedResponse, now: Timestamp) -> Option<Duration> {
    let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("retry-after");
    let value = response.headers.iter().find(named)?.1.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than any number we know is as long as any.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    // Many write the offset as mail does, `+0000`.
    let as_mail_does = || Some(jiff::fmt::rfc2822::parse(value).ok()?.timestamp());
    let at = httpdate::parse_http_date(value).ok().and_then(|at| Timestamp::try_from(at).ok());
    let at = at.or_else(as_mail_does)?;
    Duration::try_from(at.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: Option<u64>) {
        let response = ReceivedResponse {
            status: 503,
            headers: vec![("Retry-After".into(), value.into())],
            body: vec![],
            body_truncated: false,
        };
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        assert_eq!(retry_after(&response, now), expected.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("Sat, 21 Nov 2026 12:01:30 GMT", Some(90));
        check("Sat, 21 Nov 2026 11:59:00 GMT", None);
        check("Sat, 21 Nov 2026 12:01:30 +0000", Some(90));
        check("Saturday, 21-Nov-26 12:01:30 GMT", Some(90));
        check("Sat Nov 21 12:01:30 2026", Some(90));
        check("-1", None);
        check("soon", None);
        check("99999999999999999999999", Some(u64::MAX));
        check("", None);
    }

    #[test]
    fn a_redirect_that_is_not_followed_although_redirects_are_says_why() {
        for status in 200..=599 {
            let plain = (status >= 300).then(|| format!("the receiver answered {status}"));
            assert_eq!(complaint(status, false), plain);
            let following = complaint(status, true);
            if (301..=303).contains(&status) {
                let words = following.unwrap();
                assert!(
                    words.starts_with(&plain.unwrap()) && words.contains("only the redirects 307 and 308")
                );
            } else {
                assert_eq!(following, plain);
            }
        }
    }

    /// A number that the last one leads to (`xorshift64*`).
    fn next(state: &mut u64) -> usize {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40).unwrap()
    }

    #[test]
    fn retry_after_in_any_words_is_a_number_a_date_ahead_or_nothing() {
        let words = [
            "0",
            "120",
            "99999999999999999999",
            "-",
            "+",
            "1.5",
            "1e9",
            "0x10",
            "Sat,",
            "Sun,",
            "21",
            "31",
            "Nov",
            "nov",
            "2026",
            "9999",
            "10000",
            "12:01:30",
            "24:00:00",
            "23:59:60",
            "GMT",
            "+0000",
            "-9959",
            "Z",
            "(x)",
            "\t",
            "\0",
            "é",
            "\u{661}",
            ",",
            ";",
        ];
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let mut state = 0x6e65_6f00 + u64::from(std::process::id());
        for _ in 0..20_000 {
            let seed = state;
            let separator = ["", " ", " "][next(&mut state) % 3];
            let count = 1 + next(&mut state) % 7;
            let drawn: Vec<_> = (0..count).map(|_| words[next(&mut state) % words.len()]).collect();
            let value = drawn.join(separator);
            let headers = vec![("retry-after".to_owned(), value.clone())];
            let response = ReceivedResponse { status: 503, headers, body: vec![], body_truncated: false };
            let wait = retry_after(&response, now);
            let digits = value.trim();
            if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                let expected = Duration::from_secs(digits.parse().unwrap_or(u64::MAX));
                assert_eq!(wait, Some(expected), "{value:?}, seed {seed}");
            } else {
                let is_dated = value.contains(':');
                assert!(wait.is_none() || is_dated, "{value:?} asks for {wait:?}, seed {seed}");
            }
        }
    }
}
