//! The list of tenants, the keys to them, and which master key is in use: all live in `admin`.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    api_key::ApiKey,
    id::ApiKeyId,
    tenant::{Schema, Tenant},
};

use crate::{Inserted, Page, PageRequest, StoreError};

/// SHA-256 of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

/// Tells master keys apart, and nothing else about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MasterKeyFingerprint(pub [u8; 16]);

/// Which keys; every condition that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct ApiKeyQuery {
    /// Valid in this tenant.
    pub schema: Option<Schema>,
}

/// Tenants and API keys. Lists are newest first.
#[async_trait]
pub trait Tenants {
    /// Makes a tenant, durably, with everything that its events, endpoints and deliveries need; [`Inserted::Exists`] if
    /// it is there, as `admin` always is. Any number of callers may make the same one at once: one of them is answered
    /// [`Inserted::New`], and all can use it then.
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Inserted, StoreError>;
    /// One tenant. `admin` is one, made with the database.
    async fn tenant(&self, schema: &Schema) -> Result<Option<Tenant>, StoreError>;
    /// All of them, `admin` included.
    async fn tenants(&self, page: PageRequest) -> Result<Page<Tenant>, StoreError>;

    /// Adds a key; [`Inserted::Exists`] if one with this id or digest is there. [`StoreError::UnknownSchema`] if its
    /// tenant is not.
    async fn insert_api_key(&self, key: &ApiKey, digest: KeyDigest) -> Result<Inserted, StoreError>;
    /// The key with this digest, expired or not, exactly as it was inserted but for [`ApiKey::last_used_at`].
    async fn api_key(&self, digest: KeyDigest) -> Result<Option<ApiKey>, StoreError>;
    /// Keys.
    async fn api_keys(&self, query: &ApiKeyQuery, page: PageRequest) -> Result<Page<ApiKey>, StoreError>;
    /// Removes a key; `false` if it was not there.
    async fn delete_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError>;
    /// Notes when keys were last used; an older time never replaces a newer one. Keys that are gone are
    /// passed over.
    async fn note_key_usage(&self, used: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreError>;

    /// The fingerprint of the master key that secrets are sealed under, if one was noted.
    async fn master_key(&self) -> Result<Option<MasterKeyFingerprint>, StoreError>;
    /// Notes a fingerprint in place of the one that the caller knows. `false`, and nothing is changed, if another one
    /// is there: of several callers who know the same, one succeeds.
    async fn note_master_key(
        &self,
        known: Option<MasterKeyFingerprint>,
        fingerprint: MasterKeyFingerprint,
    ) -> Result<bool, StoreError>;
}
