//! Which request headers a user may set on deliveries.
//!
//! Names that would break the request's framing, forge ours, or unlock a cloud's metadata service are refused.

use std::fmt;

use crate::violation::{Faults, Rule, pointer_token};

/// Most custom headers on one endpoint.
pub const CUSTOM_HEADERS_MAX: usize = 20;
/// In a change: all that there may be removed, and as many others set. Each is looked for among the others.
const CHANGES_MAX: usize = 2 * CUSTOM_HEADERS_MAX;
/// Longest header name, in characters.
pub const HEADER_NAME_CHARS_MAX: usize = 100;
/// Longest header value, in characters.
pub const HEADER_VALUE_CHARS_MAX: usize = 1000;
/// Where the signature of the whole body goes unless the endpoint says otherwise.
pub const SIGNATURE_HEADER_DEFAULT: &str = "X-Neo-Signature";

const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];
const FRAMING: [&str; 6] = ["host", "user-agent", "cookie", "forwarded", "expect", "accept-encoding"];
const FRAMING_PREFIXES: [&str; 2] = ["content-", "x-forwarded-"];
const OURS: [&str; 2] = ["traceparent", "tracestate"];
const OUR_PREFIXES: [&str; 4] = ["webhook-", "x-neo-", "ce-", "signature"];
const METADATA: [&str; 2] = ["metadata-flavor", "metadata"];
const METADATA_PREFIXES: [&str; 4] = ["x-aws-ec2-metadata-token", "x-goog-", "x-amz-", "x-azure-"];
const SECRET_WORDS: [&str; 7] =
    ["authorization", "token", "secret", "password", "api-key", "apikey", "credential"];

/// Custom headers in the order they were given; names keep their spelling and are unique without regard to case.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CustomHeaders(Vec<(String, String)>);

impl CustomHeaders {
    /// Checks names and values.
    pub fn try_new(headers: Vec<(String, String)>, faults: &mut Faults) -> Self {
        let added: Vec<_> = headers.into_iter().map(|(name, value)| (name, Some(value))).collect();
        Self::default().merged(&added, faults)
    }

    /// Headers that were checked before they were stored.
    pub fn from_stored(headers: Vec<(String, String)>) -> Self {
        Self(headers)
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// These, with others added or replaced, and removed where the new value is `None`; checks what is new. A
    /// credential whose new value is what is shown of it stays: an endpoint may be written back as it was read.
    #[must_use]
    pub fn merged(&self, changes: &[(String, Option<String>)], faults: &mut Faults) -> Self {
        let mut merged = self.clone();
        if changes.len() > CHANGES_MAX {
            let (actual, max) = (changes.len(), CUSTOM_HEADERS_MAX);
            faults.add("/custom_headers", Rule::TooMany { actual, max, unit: "headers" });
            return merged;
        }
        for (index, (name, value)) in changes.iter().enumerate() {
            let twice = changes[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
            let judged = if twice { Err(Rule::Repeated) } else { merged.change(name, value.as_deref()) };
            if let Err(rule) = judged {
                faults.add(format!("/custom_headers/{}", pointer_token(name)), rule);
            }
        }
        let actual = merged.0.len();
        faults.require(actual <= CUSTOM_HEADERS_MAX, "/custom_headers", || Rule::TooMany {
            actual,
            max: CUSTOM_HEADERS_MAX,
            unit: "headers",
        });
        merged
    }

    fn change(&mut self, name: &str, value: Option<&str>) -> Result<(), Rule> {
        let present = self.0.iter().position(|(kept, _)| kept.eq_ignore_ascii_case(name));
        if present.is_some() && value.is_some_and(|value| is_placeholder(name, value)) {
            return Ok(());
        }
        if let Some(index) = present {
            self.0.remove(index);
        }
        let Some(value) = value else { return Ok(()) };
        self.0.push((name.to_owned(), value.to_owned()));
        judge(name, value)
    }

    /// A fault for each credential that these changes neither replace nor remove.
    pub(crate) fn keep_no_credentials(&self, changes: &[(String, Option<String>)], faults: &mut Faults) {
        let is_changed = |name: &str| {
            changes.iter().any(|(changed, value)| {
                let stays = value.as_deref().is_some_and(|value| is_placeholder(name, value));
                changed.eq_ignore_ascii_case(name) && !stays
            })
        };
        for (name, _) in self.0.iter().filter(|(name, _)| is_secret(name) && !is_changed(name)) {
            let rule = "must be given anew, or removed with null, when the URL leads to another server";
            faults.add(format!("/custom_headers/{}", pointer_token(name)), Rule::Conflict(rule));
        }
    }

    /// These, with values that could be credentials replaced: what may be shown and stored with an attempt.
    pub fn redacted(&self) -> Vec<(String, String)> {
        let show = |(name, value): &(String, String)| {
            let shown = if is_secret(name) { REDACTED } else { value };
            (name.clone(), shown.to_owned())
        };
        self.0.iter().map(show).collect()
    }
}

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.redacted()).finish()
    }
}

/// What stands where a secret would.
pub const REDACTED: &str = "[redacted]";

/// Whether a header of this name carries a credential.
pub fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| lower.contains(word))
}

/// Whether a value is what is shown in place of this header's own.
fn is_placeholder(name: &str, value: &str) -> bool {
    value == REDACTED && is_secret(name)
}

/// Checks the name that an endpoint chose for the signature of its bodies.
pub fn judge_signature_header(name: &str) -> Result<(), Rule> {
    judge_syntax(name)?;
    let lower = name.to_ascii_lowercase();
    match forbidden(&lower) {
        Some(_) if lower == SIGNATURE_HEADER_DEFAULT.to_ascii_lowercase() => Ok(()),
        Some(reason) => Err(refused(name, reason)),
        None if lower == "authorization" => Err(refused(name, "it carries credentials")),
        None => Ok(()),
    }
}

fn judge(name: &str, value: &str) -> Result<(), Rule> {
    judge_syntax(name)?;
    let lower = name.to_ascii_lowercase();
    if let Some(reason) = forbidden(&lower) {
        return Err(Rule::Header { name: lower, reason });
    }
    if is_placeholder(name, value) {
        return Err(Rule::Malformed { expected: "the credential itself, not what is shown in its place" });
    }
    let chars = value.chars().count();
    if chars > HEADER_VALUE_CHARS_MAX {
        return Err(Rule::TooLong { actual: chars, max: HEADER_VALUE_CHARS_MAX, unit: "characters" });
    }
    if value.chars().any(|c| c != '\t' && (c.is_control() || !c.is_ascii())) {
        return Err(Rule::Malformed { expected: "a value of printable ASCII characters" });
    }
    if value.trim() != value {
        return Err(Rule::Malformed { expected: "a value without white space at either end" });
    }
    Ok(())
}

fn judge_syntax(name: &str) -> Result<(), Rule> {
    let chars = name.chars().count();
    if chars > HEADER_NAME_CHARS_MAX {
        return Err(Rule::TooLong { actual: chars, max: HEADER_NAME_CHARS_MAX, unit: "characters" });
    }
    // RFC 9110 §5.6.2, token
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Rule::Malformed { expected: "a header name: letters, digits and !#$%&'*+-.^_`|~" });
    }
    Ok(())
}

fn forbidden(lower: &str) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| lower.starts_with(prefix));
    if HOP_BY_HOP.contains(&lower) {
        Some("it belongs to one connection")
    } else if FRAMING.contains(&lower) || starts(&FRAMING_PREFIXES) {
        Some("it belongs to the request itself")
    } else if OURS.contains(&lower) || starts(&OUR_PREFIXES) {
        Some("it is one of ours")
    } else if METADATA.contains(&lower) || starts(&METADATA_PREFIXES) {
        Some("it opens cloud metadata services")
    } else {
        None
    }
}

fn refused(name: &str, reason: &'static str) -> Rule {
    Rule::Header { name: name.to_ascii_lowercase(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, accepted: bool) {
        assert_eq!(judge(name, value).is_ok(), accepted, "{name}: {value:?}");
    }

    #[test]
    fn custom_headers_cannot_replace_ours_or_break_the_request() {
        for name in ["X-Priority", "Authorization", "X-Api-Key", "x-tenant"] {
            check(name, "v", true);
        }
        for name in [
            "Host",
            "Content-Type",
            "content-length",
            "Transfer-Encoding",
            "Connection",
            "User-Agent",
            "Cookie",
            "Forwarded",
            "X-Forwarded-For",
            "webhook-id",
            "X-Neo-Attempt",
            "ce-id",
            "Signature-Input",
            "traceparent",
            "Metadata-Flavor",
            "X-aws-ec2-metadata-token-ttl-seconds",
            "X-Goog-Api",
            "x-amz-date",
            "X-Azure-Ref",
            "",
            "a b",
            "a:b",
            "a\r\nb",
            "ä",
        ] {
            check(name, "v", false);
        }
        for value in ["a\r\nX: y", "a\nb", "a\0b", " a", "ä", "\u{7f}"] {
            check("X-A", value, false);
        }
        check("X-A", &"v".repeat(1000), true);
        check("X-A", &"v".repeat(1001), false);
        check(&"n".repeat(100), "v", true);
        check(&"n".repeat(101), "v", false);
    }

    #[test]
    fn names_are_unique_without_regard_to_case() {
        let mut faults = Faults::new();
        CustomHeaders::try_new(vec![("A".into(), "1".into()), ("a".into(), "2".into())], &mut faults);
        assert!(faults.found().is_err());
    }

    #[test]
    fn a_long_name_is_not_repeated_by_its_refusal() {
        let mut faults = Faults::new();
        CustomHeaders::try_new(vec![("n/".repeat(5000), "1".into())], &mut faults);
        let refused = faults.found().unwrap_err().to_string();
        let expected =
            format!("/custom_headers/{}… is 10000 characters long, the limit is 100", "n~1".repeat(50));
        assert_eq!(refused, expected);
    }

    #[test]
    fn a_change_names_each_header_once() {
        let change = |changes: &[(&str, Option<&str>)]| {
            let owned = changes.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
            let mut faults = Faults::new();
            let present = CustomHeaders::from_stored(vec![("X-A".into(), "0".into())]);
            let _ = present.merged(&owned.collect::<Vec<_>>(), &mut faults);
            faults.found().err().map(|found| found.to_string())
        };
        let twice = "/custom_headers/x-a is given twice";
        assert_eq!(change(&[("X-A", Some("1")), ("x-a", Some("2"))]).as_deref(), Some(twice));
        assert_eq!(change(&[("X-A", None), ("x-a", Some("2"))]).as_deref(), Some(twice));
        assert_eq!(change(&[("x-a", Some("2")), ("X-B", None)]), None);
    }

    #[test]
    fn credentials_are_redacted() {
        let headers = CustomHeaders::from_stored(vec![
            ("Authorization".into(), "Bearer x".into()),
            ("X-Priority".into(), "high".into()),
        ]);
        assert_eq!(headers.redacted()[0].1, REDACTED);
        assert_eq!(headers.redacted()[1].1, "high");
        assert_eq!(format!("{headers:?}"), r#"{"Authorization": "[redacted]", "X-Priority": "high"}"#);
    }

    #[test]
    fn what_is_shown_of_a_credential_is_not_stored_in_its_place() {
        let present = CustomHeaders::from_stored(vec![
            ("Authorization".into(), "Bearer x".into()),
            ("X-Priority".into(), "high".into()),
        ]);
        let changed = |headers: Vec<(String, String)>| {
            let mut faults = Faults::new();
            let changes: Vec<_> = headers.into_iter().map(|(name, value)| (name, Some(value))).collect();
            let merged = present.merged(&changes, &mut faults);
            (merged, faults.found().err().map(|found| found.to_string()))
        };
        let header = |name: &str| vec![(name.to_owned(), REDACTED.to_owned())];
        assert_eq!(changed(present.redacted()), (present.clone(), None));
        assert_eq!(changed(header("authorization")), (present.clone(), None));
        let (_, found) = changed(header("X-Token"));
        assert!(
            found.is_some_and(|found| found.starts_with("/custom_headers/X-Token must be the credential"))
        );
        // A name that is shown with its value may have this one.
        let (merged, found) = changed(header("X-Priority"));
        assert_eq!((merged.0[1].1.as_str(), found), (REDACTED, None));
        check("X-Api-Key", REDACTED, false);
    }

    #[test]
    fn a_signature_header_may_be_ours_or_another_platforms() {
        for (name, accepted) in [
            ("X-Neo-Signature", true),
            ("X-Hub-Signature-256", true),
            ("X-Neo-Attempt", false),
            ("X-Neo-Signature-Previous", false),
            ("webhook-signature", false),
            ("Authorization", false),
            ("Content-Type", false),
        ] {
            assert_eq!(judge_signature_header(name).is_ok(), accepted, "{name}");
        }
    }
}
