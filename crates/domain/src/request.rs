//! The headers of a delivery's request: the one place that knows them, both when a request is sent and when an
//! attempt is shown again later.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::{
    endpoint::previous_signature_header,
    id::{EventId, RequestId},
    signing::Signatures,
    tenant::Schema,
};

/// The value of `User-Agent`.
pub const USER_AGENT: &str = concat!("neo-events/", env!("CARGO_PKG_VERSION"));

/// What the headers of one attempt say.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Whose.
    pub schema: &'a Schema,
    /// `webhook-id`: the same for every attempt and every endpoint.
    pub event_id: EventId,
    /// `X-Neo-Event-Type`.
    pub event_type: &'a str,
    /// `X-Neo-Attempt`; the first is 1.
    pub attempt_number: u32,
    /// `X-Neo-Request-ID`: new for every attempt.
    pub request_id: RequestId,
    /// `webhook-timestamp`, in Unix seconds.
    pub sent_at: Timestamp,
    /// As signed.
    pub signatures: Option<&'a Signatures>,
    /// Where the body's signature goes.
    pub signature_header: &'a str,
}

/// A header; names are lower-case unless a user chose them.
pub type Header<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Our headers, then the endpoint's own.
pub fn headers<'a>(
    facts: &RequestFacts<'a>,
    custom: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<Header<'a>> {
    let mut headers: Vec<Header<'a>> = Vec::with_capacity(16);
    let mut add = |name: &'static str, value: Cow<'a, str>| headers.push((Cow::Borrowed(name), value));
    add("content-type", "application/json".into());
    add("user-agent", USER_AGENT.into());
    add("webhook-id", facts.event_id.to_string().into());
    add("webhook-timestamp", facts.sent_at.as_second().to_string().into());
    add("x-neo-tenant-id", facts.schema.tenant_header().into());
    add("x-neo-request-id", facts.request_id.to_string().into());
    add("x-neo-event-type", facts.event_type.into());
    add("x-neo-attempt", facts.attempt_number.to_string().into());
    add("traceparent", traceparent(facts.event_id, facts.request_id).into());
    if let Some(signatures) = facts.signatures {
        add("webhook-signature", signatures.standard.as_str().into());
        headers.push((facts.signature_header.into(), signatures.body.as_str().into()));
        if let Some(previous) = &signatures.body_previous {
            headers
                .push((previous_signature_header(facts.signature_header).into(), previous.as_str().into()));
        }
    }
    headers.extend(custom.into_iter().map(|(name, value)| (name.into(), value.into())));
    headers
}

/// The same as an attempt shows them again, for which `custom` are the endpoint's own without secrets.
pub fn shown(facts: &RequestFacts<'_>, custom: &[(String, String)]) -> Vec<(String, String)> {
    let custom = custom.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers(facts, custom).into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// W3C Trace Context, level 1: the trace is the event, the span is the request.
fn traceparent(event_id: EventId, request_id: RequestId) -> String {
    let (_, span) = request_id.uuid().as_u64_pair();
    format!("00-{}-{span:016x}-01", event_id.uuid().simple())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn facts<'a>(
        schema: &'a Schema,
        signatures: Option<&'a Signatures>,
        signature_header: &'a str,
    ) -> RequestFacts<'a> {
        RequestFacts {
            schema,
            event_id: EventId::from_uuid(Uuid::from_u128(0x1234)),
            event_type: "user.created",
            attempt_number: 2,
            request_id: RequestId::from_uuid(Uuid::from_u128(0xabcd)),
            sent_at: Timestamp::from_second(1_700_000_000).unwrap(),
            signatures,
            signature_header,
        }
    }

    #[test]
    fn headers_say_what_the_specification_lists() {
        let signatures = Signatures {
            standard: "v1,a v1,b".into(),
            body: "sha256=a".into(),
            body_previous: Some("sha256=b".into()),
        };
        let schema = Schema::tenant("acme").unwrap();
        let facts = facts(&schema, Some(&signatures), "X-Sig");
        let text: Vec<_> = headers(&facts, [("X-Priority", "high")])
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let expected = [
            "content-type: application/json",
            concat!("user-agent: neo-events/", env!("CARGO_PKG_VERSION")),
            "webhook-id: 00000000-0000-0000-0000-000000001234",
            "webhook-timestamp: 1700000000",
            "x-neo-tenant-id: acme",
            "x-neo-request-id: 00000000-0000-0000-0000-00000000abcd",
            "x-neo-event-type: user.created",
            "x-neo-attempt: 2",
            "traceparent: 00-00000000000000000000000000001234-000000000000abcd-01",
            "webhook-signature: v1,a v1,b",
            "X-Sig: sha256=a",
            "X-Sig-Previous: sha256=b",
            "X-Priority: high",
        ];
        assert_eq!(text, expected);
    }
}
