//! What tenants put into requests: headers of their own, secrets; and what receivers of signatures compare.

use neo_events_domain::headers::{CustomHeaders, REDACTED, judge_signature_header};
use neo_events_domain::signing::SigningSecret;
use neo_events_domain::violation::Faults;

use crate::campaign::{Corpus, campaign};

const HEADERS: &str = include_str!("../corpus/headers.txt");
const SECRETS: &str = include_str!("../corpus/secrets.txt");

/// Nothing that begins so is a tenant's to set.
const RESERVED: [&str; 22] = [
    "host",
    "content-",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "proxy-",
    "user-agent",
    "cookie",
    "forwarded",
    "x-forwarded-",
    "webhook-",
    "x-neo-",
    "ce-",
    "signature",
    "traceparent",
    "metadata-flavor",
    "x-aws-ec2-metadata-token",
    "x-goog-",
    "x-amz-",
];

fn is_reserved(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    RESERVED.iter().any(|reserved| {
        // A whole name, or a family of them.
        lower == *reserved
            || ["-", "signature", "token"].iter().any(|end| reserved.ends_with(end))
                && lower.starts_with(reserved)
    })
}

/// Fit for a request line by line: RFC 9110 §5.5 and §5.6.2, written down once more.
fn is_sendable(name: &str, value: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_text = |b: u8| b == b'\t' || (0x20..0x7f).contains(&b);
    !name.is_empty() && name.bytes().all(is_token) && value.bytes().all(is_text) && value.trim() == value
}

#[test]
fn headers_are_sendable_and_never_anybody_elses() {
    let lines = Corpus::of(HEADERS);
    campaign("headers", 10_000, |random| {
        let line = lines.draw(random);
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        let mut faults = Faults::new();
        let headers = CustomHeaders::try_new(vec![(name.to_owned(), value.to_owned())], &mut faults);
        let is_accepted = faults.found().is_ok();
        assert!(!is_accepted || is_sendable(name, value) && !is_reserved(name), "{line:?}");
        // Nothing of a tenant's may pass for ours.
        assert!(!is_accepted || !is_ours(name), "{line:?}");
        assert!(!is_accepted || name.len() <= 100 && value.len() <= 1000, "{line:?}");
        let is_credential = ["authorization", "secret", "token", "password", "api-key"]
            .iter()
            .any(|word| name.to_ascii_lowercase().contains(word));
        let shown = headers.redacted();
        assert!(!is_credential || shown[0].1 == REDACTED, "{shown:?}");
        assert!(format!("{headers:?}").contains(&format!("{:?}", shown[0].1)), "{headers:?}");
        if judge_signature_header(name).is_ok() {
            assert!(
                is_sendable(name, "") && (!is_reserved(name) || name.eq_ignore_ascii_case("x-neo-signature"))
            );
        }
        is_accepted
    });
}

#[test]
fn a_secret_is_refused_or_signs_as_what_is_shown_of_it_does() {
    let secrets = Corpus::of(SECRETS);
    campaign("secrets", 10_000, |random| {
        let token = secrets.draw(random);
        let Ok(secret) = SigningSecret::try_new(&token, 16) else { return false };
        assert!((16..=512).contains(&token.len()) && !token.contains(char::is_control), "{token:?}");
        assert_eq!(secret.reveal_token(), token);
        assert!(!format!("{secret:?}").contains(&token));
        // In base64 a long secret is longer than a secret may be.
        if let Ok(shown) = SigningSecret::try_new(&secret.reveal_signing_secret(), 16) {
            assert_eq!(
                shown.sign_message("id", 1, b"body"),
                secret.sign_message("id", 1, b"body"),
                "{token:?}"
            );
        } else {
            assert!(token.len() > (512 - "whsec_".len()) / 4 * 3, "{token:?}");
        }
        true
    });
}

#[test]
fn only_the_signature_itself_verifies() {
    let secret = SigningSecret::generate([7; 32]);
    let (of_body, of_message) = (secret.sign_body(b"body"), secret.sign_message("id", 1, b"body"));
    let text = format!("{of_body}\n{of_message}\nv1,AAAA {of_message} v1a,BBBB\n{of_message} {of_message}");
    let signatures = Corpus::of(text.leak());
    campaign("signatures", 10_000, |random| {
        let drawn = signatures.draw(random);
        assert_eq!(secret.verifies_body(&drawn, b"body"), drawn == of_body, "{drawn:?}");
        let is_there = drawn.split(' ').any(|one| one == of_message);
        assert_eq!(secret.verifies_message(&drawn, "id", 1, b"body"), is_there, "{drawn:?}");
        assert!(!secret.verifies_message(&drawn, "id", 2, b"body") && !secret.verifies_body(&drawn, b"Body"));
        is_there
    });
}

/// Whether a header is one that every request has, or is kept for those.
fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["content-type", "user-agent", "traceparent"].contains(&&*name)
        || name.starts_with("webhook-")
        || name.starts_with("x-neo-")
}
