//! Tenants and API keys. A tenant is named as in `X-Neo-Tenant-ID`: `admin`, a slug, or `region:` and a region.

use neo_events::{ApiKeyDraft, CreatedApiKey, TenantDraft, TenantRecord, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A tenant to be made: a slug or a region.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct TenantIn {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slug: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

impl From<TenantIn> for TenantDraft {
    fn from(tenant: TenantIn) -> Self {
        Self { slug: tenant.slug, region: tenant.region, name: tenant.name }
    }
}

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tenant {
    pub(crate) schema: String,
    /// What to send as `X-Neo-Tenant-ID`.
    pub(crate) tenant_id: String,
    pub(crate) name: Option<String>,
    pub(crate) created_at: Timestamp,
}

impl From<TenantRecord> for Tenant {
    fn from(tenant: TenantRecord) -> Self {
        Self {
            schema: tenant.schema.to_string(),
            tenant_id: tenant.schema.tenant_header(),
            name: tenant.name,
            created_at: tenant.created_at,
        }
    }
}

/// An API key to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct ApiKeyIn {
    pub(crate) name: String,
    pub(crate) tenant: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_id: Option<Uuid>,
    /// Absent: all but `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "super::input_time", skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<Timestamp>,
}

impl From<ApiKeyIn> for ApiKeyDraft {
    fn from(key: ApiKeyIn) -> Self {
        Self { name: key.name, context_id: key.context_id, scopes: key.scopes, expires_at: key.expires_at }
    }
}

/// An API key. Never printed by `Debug`, since it may hold the key itself.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ApiKey {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) tenant: String,
    pub(crate) context_id: Option<Uuid>,
    pub(crate) scopes: Vec<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) last_used_at: Option<Timestamp>,
    /// In the answer to creation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl From<neo_events::ApiKey> for ApiKey {
    fn from(key: neo_events::ApiKey) -> Self {
        Self {
            id: key.id.uuid(),
            name: key.name,
            tenant: key.schema.tenant_header(),
            context_id: key.context_id,
            scopes: key.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            key: None,
        }
    }
}

impl From<CreatedApiKey> for ApiKey {
    fn from(CreatedApiKey { api_key, text }: CreatedApiKey) -> Self {
        Self { key: Some(text.reveal().to_owned()), ..api_key.into() }
    }
}
