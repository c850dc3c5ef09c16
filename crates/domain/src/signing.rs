//! Signatures of deliveries, in two forms that receivers already know how to verify.
//!
//! - `X-Neo-Signature: sha256=<lower-case hex of HMAC-SHA256(secret's literal bytes, body)>`, the form GitHub uses.
//! - Standard Webhooks `v1` (<https://www.standardwebhooks.com>): `v1,<base64 of HMAC-SHA256(key, id.timestamp.body)>`,
//!   where the key is what `whsec_…` decodes to; for a secret in another form, the secret's bytes.
//!
//! While a rotated secret is still valid, `webhook-signature` carries one signature per valid secret, newest first,
//! separated by exactly one space.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use crate::{id::EventId, violation::Rule};

/// Longest secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 512;
/// Shortest secret outside profile `development`, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// Random bytes in a secret that we generate.
pub const GENERATED_SECRET_BYTES: usize = 32;

const PREFIX: &str = "whsec_";
const STANDARD_KEY_BYTES_MIN: usize = 16;

/// A secret that signs deliveries. Never printed: `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret {
    token: String,
    standard_key: Vec<u8>,
}

impl SigningSecret {
    /// Checks a user's secret; `bytes_min` is the profile's least length.
    pub fn try_new(token: &str, bytes_min: usize) -> Result<Self, Rule> {
        if token.len() > SECRET_BYTES_MAX {
            return Err(Rule::TooLong { actual: token.len(), max: SECRET_BYTES_MAX, unit: "bytes" });
        }
        if token.len() < bytes_min.max(1) {
            return Err(Rule::TooShort { min: bytes_min.max(1), unit: "bytes" });
        }
        if token.contains(char::is_control) {
            return Err(Rule::Malformed { expected: "text without control characters" });
        }
        let Some(encoded) = token.strip_prefix(PREFIX) else {
            return Ok(Self { token: token.to_owned(), standard_key: token.as_bytes().to_vec() });
        };
        match BASE64.decode(encoded) {
            Ok(key) if key.len() >= STANDARD_KEY_BYTES_MIN => {
                Ok(Self { token: token.to_owned(), standard_key: key })
            }
            _ => {
                Err(Rule::Malformed { expected: "whsec_ followed by the padded base64 of at least 16 bytes" })
            }
        }
    }

    /// A new secret from random bytes.
    pub fn generate(random: [u8; GENERATED_SECRET_BYTES]) -> Self {
        Self { token: format!("{PREFIX}{}", BASE64.encode(random)), standard_key: random.to_vec() }
    }

    /// The secret as the user gave it or was given it. Shown once.
    pub fn reveal_token(&self) -> &str {
        &self.token
    }

    /// The form that Standard Webhooks libraries take: `whsec_<base64 of the key>`. Shown once.
    pub fn reveal_signing_secret(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.standard_key))
    }

    /// `sha256=<hex>` over the body.
    pub fn sign_body(&self, body: &[u8]) -> String {
        let mut signature = String::with_capacity(7 + 64);
        signature.push_str("sha256=");
        for byte in mac(self.token.as_bytes(), &[body]).finalize().into_bytes() {
            for nibble in [byte >> 4, byte & 15] {
                signature.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        signature
    }

    /// `v1,<base64>` over id, timestamp (Unix seconds) and body.
    pub fn sign_message(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut signature = String::with_capacity(3 + 44);
        signature.push_str("v1,");
        let tag =
            mac(&self.standard_key, &[id.as_bytes(), b".", timestamp.to_string().as_bytes(), b".", body]);
        BASE64.encode_string(tag.finalize().into_bytes(), &mut signature);
        signature
    }

    /// Whether `signature` is [`Self::sign_body`]'s for this body; constant time in the signature's content.
    pub fn verifies_body(&self, signature: &str, body: &[u8]) -> bool {
        constant_time_eq(signature, &self.sign_body(body))
    }

    /// Whether one of the space-separated signatures is [`Self::sign_message`]'s; constant time in their content.
    pub fn verifies_message(&self, signatures: &str, id: &str, timestamp: i64, body: &[u8]) -> bool {
        let expected = self.sign_message(id, timestamp, body);
        signatures.split(' ').fold(false, |found, signature| found | constant_time_eq(signature, &expected))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret([redacted])")
    }
}

/// The signatures of one delivery attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatures {
    /// `webhook-signature`: one token per valid secret, newest first.
    pub standard: String,
    /// The endpoint's signature header, by the newest secret.
    pub body: String,
    /// `<signature header>-Previous`, by the secret before it while that is valid.
    pub body_previous: Option<String>,
}

impl Signatures {
    /// Signs with every valid secret, newest first; `None` if there is none.
    pub fn sign(secrets: &[SigningSecret], id: EventId, at: Timestamp, body: &[u8]) -> Option<Self> {
        let newest = secrets.first()?;
        let id = id.to_string();
        let tokens: Vec<_> = secrets.iter().map(|s| s.sign_message(&id, at.as_second(), body)).collect();
        Some(Self {
            standard: tokens.join(" "),
            body: newest.sign_body(body),
            body_previous: secrets.get(1).map(|previous| previous.sign_body(body)),
        })
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104 §2)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    for part in parts {
        mac.update(part);
    }
    mac
}

fn constant_time_eq(a: &str, b: &str) -> bool {
    subtle::ConstantTimeEq::ct_eq(a.as_bytes(), b.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_webhooks_vector() {
        let secret = SigningSecret::try_new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", 16).unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let id = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
        let signature = secret.sign_message(id, 1_649_367_553, body);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
        assert!(secret.verifies_message(&format!("v1,AAAA {signature}"), id, 1_649_367_553, body));
        assert!(!secret.verifies_message(&signature, id, 1_649_367_554, body));
    }

    #[test]
    fn github_vector() {
        let secret = SigningSecret::try_new("It's a Secret to Everybody", 16).unwrap();
        let signature = secret.sign_body(b"Hello, World!");
        assert_eq!(signature, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
        assert!(secret.verifies_body(&signature, b"Hello, World!"));
        assert!(!secret.verifies_body(&signature, b"Hello, World"));
    }

    #[test]
    fn rotation_signs_with_each_valid_secret_and_single_spaces() {
        let secrets = [SigningSecret::generate([1; 32]), SigningSecret::generate([2; 32])];
        let id = EventId::from_uuid(uuid::Uuid::nil());
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let signed = Signatures::sign(&secrets, id, at, b"{}").unwrap();
        assert_eq!(signed.standard.split(' ').count(), 2);
        assert_eq!(signed.standard.trim(), signed.standard);
        for secret in &secrets {
            assert!(secret.verifies_message(&signed.standard, &id.to_string(), at.as_second(), b"{}"));
        }
        assert!(secrets[0].verifies_body(&signed.body, b"{}"));
        assert!(secrets[1].verifies_body(signed.body_previous.as_ref().unwrap(), b"{}"));
        assert_eq!(Signatures::sign(&[], id, at, b"{}"), None);
    }

    #[test]
    fn secrets_are_judged_and_never_printed() {
        for (token, accepted) in [
            ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", true),
            ("sixteen bytes ok", true),
            ("fifteen bytes..", false),
            ("whsec_not base64 at all!", false),
            ("whsec_AAAA", false),
            ("sixteen bytes\nok", false),
            ("", false),
        ] {
            assert_eq!(SigningSecret::try_new(token, SECRET_BYTES_MIN).is_ok(), accepted, "{token}");
        }
        assert!(SigningSecret::try_new("short", 1).is_ok());
        assert!(SigningSecret::try_new(&"x".repeat(513), 1).is_err());
        assert_eq!(format!("{:?}", SigningSecret::generate([1; 32])), "SigningSecret([redacted])");
        let other = SigningSecret::try_new("It's a Secret to Everybody", 16).unwrap();
        let shown = SigningSecret::try_new(&other.reveal_signing_secret(), 16).unwrap();
        assert_eq!(shown.sign_message("a", 1, b"b"), other.sign_message("a", 1, b"b"));
    }
}
