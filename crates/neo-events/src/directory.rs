//! Who there is: tenants, and the API keys to them. For operators and for whoever checks keys; a tenant's own rows are
//! behind its handle.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use neo_events_domain::{
    Timestamp,
    api_key::{ApiKey, ApiKeyDraft, KEY_PREFIX},
    id::ApiKeyId,
    tenant::{Schema, Tenant as TenantRecord, TenantDraft},
    time::to_micros,
    violation::{Rule, Violations},
};
use neo_events_store::{ApiKeyQuery, Inserted, KeyDigest, Page, PageRequest, StoreError};
use sha2::{Digest, Sha256};

use crate::{Conflict, Error, Tenant, running::Shared};

/// Random bytes of a key.
const KEY_BYTES: usize = 32;
/// What follows [`KEY_PREFIX`]: base64 without padding.
const KEY_CHARS: usize = (KEY_BYTES * 4).div_ceil(3);

/// A key itself. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(String);

impl KeyText {
    /// The text to send as a bearer token.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText([redacted])")
    }
}

/// A new key, with its text, which is shown only now.
#[derive(Debug, Clone)]
pub struct CreatedApiKey {
    /// What is kept.
    pub api_key: ApiKey,
    /// What is not.
    pub text: KeyText,
}

/// Tenants and API keys.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

impl Directory {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A tenant's handle, as [`crate::NeoEvents::tenant`].
    pub fn handle(&self, schema: Schema) -> Tenant {
        Tenant::new(Arc::clone(&self.shared), schema)
    }

    /// The handle of the tenant and context that a key is for.
    pub fn handle_for(&self, key: &ApiKey) -> Tenant {
        Tenant { context_id: key.context_id, ..self.handle(key.schema.clone()) }
    }

    /// Makes a tenant: a slug's, or a region's shared one.
    pub async fn create_tenant(&self, draft: TenantDraft) -> Result<TenantRecord, Error> {
        let tenant = draft.validate(self.shared.sources.now())?;
        match self.shared.store.create_tenant(&tenant).await? {
            Inserted::New => Ok(tenant),
            Inserted::Exists | Inserted::EndpointMissing | Inserted::TypeDisabled => {
                Err(Conflict::Exists.into())
            }
        }
    }

    /// One tenant.
    pub async fn tenant(&self, schema: &Schema) -> Result<TenantRecord, Error> {
        let tenant = self.shared.store.tenant(schema).await?;
        Ok(tenant.ok_or_else(|| StoreError::UnknownSchema(schema.clone()))?)
    }

    /// All tenants, newest first, `admin` included.
    pub async fn tenants(&self, page: PageRequest) -> Result<Page<TenantRecord>, Error> {
        Ok(self.shared.store.tenants(page).await?)
    }

    /// Whether there is such a tenant. Remembers those that are there.
    pub async fn has_tenant(&self, schema: &Schema) -> Result<bool, Error> {
        if *schema == Schema::admin() || self.shared.keys.knows_tenant(schema) {
            return Ok(true);
        }
        let is_there = self.shared.store.tenant(schema).await?.is_some();
        if is_there {
            self.shared.keys.remember_tenant(schema.clone());
        }
        Ok(is_there)
    }

    /// Makes a key to a tenant. Its text is in the answer and nowhere else.
    pub async fn create_api_key(&self, schema: Schema, draft: ApiKeyDraft) -> Result<CreatedApiKey, Error> {
        let sources = &self.shared.sources;
        let draft = ApiKeyDraft { expires_at: draft.expires_at.map(to_micros), ..draft };
        let api_key = draft.validate(sources.new_id(), schema, sources.now())?;
        let random: [u8; KEY_BYTES] = sources.bytes();
        let text = KeyText(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random)));
        match self.shared.store.insert_api_key(&api_key, digest(text.reveal())).await {
            Ok(Inserted::New) => Ok(CreatedApiKey { api_key, text }),
            Ok(_) => Err(Conflict::Exists.into()),
            Err(StoreError::UnknownSchema(_)) => {
                Err(Violations::one("/tenant", Rule::Conflict("names no tenant")).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Keys, newest first, expired ones too.
    pub async fn api_keys(&self, query: &ApiKeyQuery, page: PageRequest) -> Result<Page<ApiKey>, Error> {
        Ok(self.shared.store.api_keys(query, page).await?)
    }

    /// Removes a key. It stops working here at once, and within a second wherever else the database is used.
    pub async fn delete_api_key(&self, id: ApiKeyId) -> Result<(), Error> {
        let was_there = self.shared.store.delete_api_key(id).await?;
        self.shared.keys.forget(id);
        if was_there { Ok(()) } else { Err(Error::NotFound("API key")) }
    }

    /// The key with this text, if it is there and not over; notes its use. The answer is less than a second old.
    pub async fn authenticate(&self, text: &str) -> Result<Option<Arc<ApiKey>>, Error> {
        let random = text.strip_prefix(KEY_PREFIX);
        if random.is_none_or(|random| random.len() != KEY_CHARS) {
            return Ok(None);
        }
        let now = self.shared.sources.now();
        let key = self.looked_up(digest(text), now).await?.filter(|key| !key.is_expired(now));
        if let Some(key) = &key {
            self.shared.keys.note_use(key.id, now);
        }
        Ok(key)
    }

    async fn looked_up(&self, digest: KeyDigest, now: Timestamp) -> Result<Option<Arc<ApiKey>>, Error> {
        let look_up = match self.shared.keys.believed(digest, now) {
            Ok(key) => return Ok(Some(key)),
            Err(look_up) => look_up,
        };
        let _turn = if look_up.is_known { None } else { Some(self.shared.strangers.turn().await?) };
        let key = self.shared.store.api_key(digest).await?.map(Arc::new);
        match &key {
            Some(key) => self.shared.keys.believe(digest, Arc::clone(key), look_up),
            None => self.shared.keys.disbelieve(digest),
        }
        Ok(key)
    }

    /// Whether the database serves reads and writes.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(self.shared.strangers.ping(&*self.shared.store).await?)
    }
}

fn digest(text: &str) -> KeyDigest {
    KeyDigest(Sha256::digest(text).into())
}
