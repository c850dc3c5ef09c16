//! Where requests go, and what they are signed with.
//!
//! Each endpoint is remembered in all its forms. A request shows one that was in force at some time since its attempt was
//! claimed: a node may have heard of the endpoint then, and of nothing since. Which of the form's secrets sign is decided by
//! the wall as the request leaves. Signatures are made here once more, after what is written of their formats and by another
//! implementation of HMAC than the one that is judged.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use neo_events_domain::{SignedDuration, Timestamp, endpoint::Endpoint, id::EndpointId};
use ring::hmac;

use super::{Account, Judge, receivers::Sent, trace::short};
use crate::{happening::Happening, property::Property};

/// Most secrets that sign at once.
const SECRETS_MAX: usize = 5;

/// A secret that somebody chose, and until when it signs.
#[derive(Clone)]
pub(super) struct KnownSecret {
    token: String,
    ends: Option<Timestamp>,
}

/// What requests show of an endpoint, and since when.
pub(super) struct Form {
    since: Duration,
    url: String,
    signature_header: String,
    secrets: Vec<KnownSecret>,
}

impl Judge {
    /// An endpoint is about to be written with a new secret, at this time of the wall. The one before signs for `overlap`
    /// longer.
    pub(crate) fn is_to_sign_with(
        &self,
        id: EndpointId,
        token: &str,
        now: Timestamp,
        overlap: SignedDuration,
    ) {
        let mut account = self.account();
        let secrets = account.secrets.entry(id).or_default();
        let end = now + overlap;
        for secret in &mut *secrets {
            secret.ends = Some(secret.ends.map_or(end, |ends| ends.min(end)));
        }
        secrets.retain(|secret| secret.ends.is_some_and(|ends| ends > now));
        secrets.insert(0, KnownSecret { token: token.to_owned(), ends: None });
        secrets.truncate(SECRETS_MAX);
    }
}

impl Account {
    /// An endpoint has a form, perhaps a new one.
    pub(super) fn takes_form(&mut self, endpoint: &Endpoint) {
        let since = self.elapsed();
        let secrets = self.secrets.get(&endpoint.id).cloned().unwrap_or_default();
        let (url, signature_header) = (endpoint.endpoint_url.clone(), endpoint.signature_header.clone());
        let form = Form { since, url, signature_header, secrets };
        self.forms.entry(endpoint.id).or_default().push(form);
    }

    /// Whether a request that has arrived shows its endpoint as it was at some time since its attempt was claimed.
    pub(super) fn is_in_form(&mut self, sent: &Sent, claimed_at: Duration) {
        let forms = self.forms.get(&sent.to).map(Vec::as_slice).unwrap_or_default();
        let had_ended = forms.iter().skip(1).take_while(|next| next.since < claimed_at).count();
        let shown: Vec<_> = forms[had_ended..].iter().filter(|form| form.url == sent.url).collect();
        let is_there = !shown.is_empty();
        let is_signed = shown.iter().any(|form| form.has_signed(sent));
        let is_signed_twice =
            is_signed && sent.header("webhook-signature").is_some_and(|all| all.contains(' '));
        self.tally.note_all(Happening::SignedTwice, usize::from(is_signed_twice));
        self.require(is_there, Property::TargetsAreCurrent, || {
            format!("a request to {} went to {}", short(sent.to), sent.url)
        });
        self.require(!is_there || is_signed, Property::RequestsAreSigned, || {
            let signatures = sent.header("webhook-signature");
            format!("request {} to {} is signed {signatures:?}", short(sent.request_id), short(sent.to))
        });
    }
}

impl Form {
    /// Whether a request has the signatures that it would have if it showed this form.
    fn has_signed(&self, sent: &Sent) -> bool {
        let signs = |secret: &&KnownSecret| secret.ends.is_none_or(|ends| ends > sent.left_at);
        let secrets: Vec<_> = self.secrets.iter().filter(signs).collect();
        let timestamp = sent.left_at.as_second().to_string();
        let messages: Vec<_> = secrets.iter().map(|secret| secret.signs_message(sent, &timestamp)).collect();
        let mut bodies = secrets.iter().map(|secret| secret.signs_body(&sent.body));
        let previous_header = format!("{}-Previous", self.signature_header);
        !messages.is_empty()
            && sent.header("webhook-timestamp") == Some(&timestamp)
            && sent.header("webhook-signature") == Some(&messages.join(" "))
            && sent.header(&self.signature_header) == bodies.next().as_deref()
            && sent.header(&previous_header) == bodies.next().as_deref()
    }
}

impl KnownSecret {
    /// Standard Webhooks, `v1`: of the id, the time and the body, by what stands behind `whsec_`, or the secret's own bytes.
    fn signs_message(&self, sent: &Sent, timestamp: &str) -> String {
        let encoded = self.token.strip_prefix("whsec_").map(|encoded| BASE64.decode(encoded));
        let key = encoded.and_then(Result::ok).unwrap_or_else(|| self.token.clone().into_bytes());
        let id = sent.header("webhook-id").unwrap_or_default();
        let message = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &sent.body].concat();
        format!("v1,{}", BASE64.encode(tag(&key, &message)))
    }

    /// As GitHub signs: of the body, by the secret as it was chosen.
    fn signs_body(&self, body: &[u8]) -> String {
        let tag = tag(self.token.as_bytes(), body);
        let (high, low) = tag.as_ref().split_at(16);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
        format!("sha256={:032x}{:032x}", number(high), number(low))
    }
}

fn tag(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}
