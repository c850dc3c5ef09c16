//! Endpoint secrets, encrypted at rest.
//!
//! AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce. The additional data binds a ciphertext to its tenant, its
//! row and its key, so that moving it elsewhere makes it unreadable. Layout: version `1`, 8 bytes of key id, 12 bytes
//! of nonce, ciphertext, 16 bytes of tag.
//!
//! A keyring has one key that seals and any number of older ones that still open: to rotate the master key, put the
//! new one in front. Secrets sealed under an older key are sealed anew when the endpoint's secret is rotated.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use neo_events_domain::{id::EndpointId, tenant::Schema};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
};

use crate::Sources;

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;

/// Why a master key or a sealed secret cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// A master key that is not 32 bytes.
    #[error("a master key is 32 bytes, written as 44 characters of base64 or 64 of hex")]
    MalformedKey,
    /// No key at all.
    #[error("there is no master key")]
    NoKey,
    /// Sealed under a key that the keyring does not have.
    #[error(
        "another master key sealed secrets of this data, or would have since the last start: give that key too, after the \
         one that is to seal (NEO_EVENTS_MASTER_KEY=KEY,OTHER)"
    )]
    UnknownKey,
    /// Damaged, or moved from another tenant or row.
    #[error("the sealed secret is damaged or belongs to another row")]
    Unreadable,
}

/// A key that encrypts secrets: 32 random bytes. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey([u8; KEY_BYTES]);

impl MasterKey {
    /// A new key.
    pub fn generate(sources: &Sources) -> Self {
        Self(sources.bytes())
    }

    /// Reads base64 or hex.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let text = text.trim();
        let bytes = if text.len() == 2 * KEY_BYTES { from_hex(text) } else { BASE64.decode(text).ok() };
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(KeyringError::MalformedKey)
    }

    /// The key as base64, to be stored where only its owner can read it.
    pub fn reveal(&self) -> String {
        BASE64.encode(self.0)
    }

    fn id(&self) -> [u8; KEY_ID_BYTES] {
        let digest = digest::digest(&digest::SHA256, &self.0);
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest.as_ref()[..KEY_ID_BYTES]);
        id
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The master keys of a deployment.
pub struct Keyring {
    keys: Vec<([u8; KEY_ID_BYTES], LessSafeKey)>,
    sources: Sources,
}

impl Keyring {
    /// The first key seals; all open.
    pub fn new(keys: &[MasterKey], sources: Sources) -> Result<Self, KeyringError> {
        if keys.is_empty() {
            return Err(KeyringError::NoKey);
        }
        let load = |key: &MasterKey| match UnboundKey::new(&AES_256_GCM, &key.0) {
            Ok(unbound) => Ok((key.id(), LessSafeKey::new(unbound))),
            Err(_) => Err(KeyringError::MalformedKey),
        };
        Ok(Self { keys: keys.iter().map(load).collect::<Result<_, _>>()?, sources })
    }

    /// Encrypts an endpoint's secret.
    #[expect(clippy::missing_panics_doc, clippy::expect_used, reason = "a secret is far below GCM's 64 GiB")]
    pub fn seal(&self, schema: &Schema, endpoint: EndpointId, secret: &str) -> Vec<u8> {
        let (key_id, key) = &self.keys[0];
        let nonce = self.sources.bytes::<NONCE_LEN>();
        let mut sealed = Vec::with_capacity(HEADER_BYTES + secret.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(key_id);
        sealed.extend_from_slice(&nonce);
        let mut text = secret.as_bytes().to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(binding(schema, endpoint, *key_id)),
            &mut text,
        )
        .expect("a secret is short enough to seal");
        sealed.extend_from_slice(&text);
        sealed
    }

    /// Decrypts an endpoint's secret.
    pub fn open(&self, schema: &Schema, endpoint: EndpointId, sealed: &[u8]) -> Result<String, KeyringError> {
        let header = sealed.get(..HEADER_BYTES).filter(|header| header[0] == VERSION);
        let header = header.ok_or(KeyringError::Unreadable)?;
        let (key_id, nonce) = header[1..].split_at(KEY_ID_BYTES);
        let known = self.keys.iter().find(|(id, _)| id == key_id);
        let (key_id, key) = known.ok_or(KeyringError::UnknownKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyringError::Unreadable)?;
        let mut text = sealed[HEADER_BYTES..].to_vec();
        let opened = key
            .open_in_place(nonce, Aad::from(binding(schema, endpoint, *key_id)), &mut text)
            .map_err(|_| KeyringError::Unreadable)?;
        String::from_utf8(opened.to_vec()).map_err(|_| KeyringError::Unreadable)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

fn binding(schema: &Schema, endpoint: EndpointId, key_id: [u8; KEY_ID_BYTES]) -> Vec<u8> {
    let mut binding = Vec::with_capacity(80);
    binding.extend_from_slice(schema.as_str().as_bytes());
    binding.push(0);
    binding.extend_from_slice(endpoint.uuid().as_bytes());
    binding.extend_from_slice(&key_id);
    binding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(keys: &[&MasterKey]) -> Keyring {
        let keys: Vec<_> = keys.iter().map(|key| (*key).clone()).collect();
        Keyring::new(&keys, Sources::system()).unwrap()
    }

    #[test]
    fn a_secret_opens_only_for_its_tenant_row_and_key() {
        let sources = Sources::system();
        let (old, new) = (MasterKey::generate(&sources), MasterKey::generate(&sources));
        let (here, there) = (Schema::tenant("a").unwrap(), Schema::tenant("b").unwrap());
        let (mine, other) = (sources.new_id(), sources.new_id());
        let ring = keyring(&[&old]);
        let sealed = ring.seal(&here, mine, "s3cret");
        assert!(!sealed.windows(6).any(|window| window == b"s3cret"));
        assert_eq!(ring.open(&here, mine, &sealed).as_deref(), Ok("s3cret"));
        assert_eq!(ring.open(&there, mine, &sealed), Err(KeyringError::Unreadable));
        assert_eq!(ring.open(&here, other, &sealed), Err(KeyringError::Unreadable));
        assert_eq!(keyring(&[&new]).open(&here, mine, &sealed), Err(KeyringError::UnknownKey));
        assert_eq!(keyring(&[&new, &old]).open(&here, mine, &sealed).as_deref(), Ok("s3cret"));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(ring.open(&here, mine, &damaged).is_err(), "byte {at}");
            assert!(ring.open(&here, mine, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn keys_are_base64_or_hex_and_never_printed() {
        let key = MasterKey::generate(&Sources::system());
        assert_eq!(MasterKey::parse(&key.reveal()).as_ref(), Ok(&key));
        assert!(MasterKey::parse(&"0f".repeat(32)).is_ok());
        for bad in ["", "short", &"zz".repeat(32), &"0f".repeat(31)] {
            assert_eq!(MasterKey::parse(bad), Err(KeyringError::MalformedKey), "{bad}");
        }
        assert_eq!(format!("{key:?}"), "MasterKey([redacted])");
    }
}
